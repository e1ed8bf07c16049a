//! Whether an adapter could be served, told by its configuration and the headers of its files: the
//! weights are not read. What is refused here is refused by [`super::file`] too; what is not may be.

use super::base::BaseDigest;
use super::config::AdapterConfig;
use super::delta::ModuleSpec;
use super::directory::AdapterDir;
use super::error::{AdapterError, quoted};
use super::file::{
    AdapterKind, CONFIG_FILE, INITIAL_FILES, MAX_CONFIG_BYTES, PAIR_FILES, WEIGHTS_FILE, kind_of,
    recorded_base,
};
use super::lora::Initialisation;
use super::other_base::evidence;
use super::tensors::{Caps, check_header};

/// So long a header is read to tell what another model's adapter was made for.
const MAX_HEADER: u64 = 4 << 20;

/// What an adapter says of the base that it is relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedBase {
    /// Its name.
    pub name: Option<String>,
    /// The digest of its weights.
    pub digest: Option<BaseDigest>,
}

impl RecordedBase {
    /// Compares it with the digest of the weights at hand. An adapter that records none fits any.
    ///
    /// # Errors
    /// [`AdapterError::BaseMismatch`] where it is relative to others.
    pub fn check(&self, served: BaseDigest) -> Result<(), AdapterError> {
        match self.digest {
            Some(recorded) if recorded != served => {
                let name = quoted(self.name.as_deref().unwrap_or("(unnamed)"));
                Err(AdapterError::BaseMismatch { name, recorded, served })
            }
            _ => Ok(()),
        }
    }
}

/// Checks the adapter in an open directory for a base model of these `modules`.
///
/// # Errors
/// Where it cannot be read, or could not be served.
pub fn check(mut dir: AdapterDir, modules: &[ModuleSpec]) -> Result<RecordedBase, AdapterError> {
    let is_pair = !dir.has(CONFIG_FILE)? && dir.has(PAIR_FILES[0])?;
    let name = if is_pair { PAIR_FILES[0] } else { CONFIG_FILE };
    let config = AdapterConfig::parse(&dir.read(name, MAX_CONFIG_BYTES)?)?;
    let files = if is_pair { pair_files(&dir, &config)? } else { adapter_files(&dir, &config)? };
    config.refuse_unsupported()?;
    let base = RecordedBase {
        name: config.text("base_model_name_or_path")?.map(str::to_owned),
        digest: recorded_base(&config)?,
    };
    let caps = Caps::for_modules(modules.len());
    for file in files {
        let (beginning, bytes) = dir.read_header(file, caps.max_header_bytes.max(MAX_HEADER))?;
        if let Some(evidence) = evidence(&beginning, modules) {
            let name = quoted(base.name.as_deref().unwrap_or("(unnamed)"));
            return Err(AdapterError::OtherBase { name, evidence });
        }
        check_header(&beginning, bytes, caps)?;
    }
    Ok(base)
}

fn pair_files(dir: &AdapterDir, config: &AdapterConfig) -> Result<Vec<&'static str>, AdapterError> {
    let model_type = config.text("model_type")?.unwrap_or_default();
    if model_type != "sorsa" {
        return Err(AdapterError::NotAnAdapter { model_type: quoted(model_type) });
    }
    // Where it is missing, reading the whole says what there is instead.
    dir.present(&PAIR_FILES[1..])
}

fn adapter_files(
    dir: &AdapterDir,
    config: &AdapterConfig,
) -> Result<Vec<&'static str>, AdapterError> {
    let took_out = kind_of(config)? == AdapterKind::Lora
        && Initialisation::of(config)? == Initialisation::TookFactorsOut;
    let initial = dir.present(&INITIAL_FILES)?;
    if took_out && initial.is_empty() {
        let init = quoted(config.text("init_lora_weights")?.unwrap_or_default());
        return Err(AdapterError::ChangedBase { init });
    }
    Ok(std::iter::once(WEIGHTS_FILE).chain(initial.into_iter().filter(|_| took_out)).collect())
}

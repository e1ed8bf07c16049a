//! Loading: which files of a directory make an adapter, and of which kind.
//!
//! Two layouts are read. An *adapter directory* has `adapter_config.json` and
//! `adapter_model.safetensors`, and its `peft_type` says whether it is SORSA or LoRA. A *factor
//! pair* has a reference checkpoint's `config.json`, the trained factors in `model.safetensors`
//! and the initial ones in `init.safetensors`, both under the reference library's names. An adapter
//! directory whose LoRA began with a part of the base weight has the adapter as it was before
//! training in a sub-directory. What is none of these is refused with the reason; nothing is guessed and nothing in a file is ignored.

use std::path::Path;

use super::base::BaseDigest;
use super::config::AdapterConfig;
use super::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use super::directory::AdapterDir;
use super::error::{AdapterError, quoted};
use super::factors::ModuleIndex;
use super::lora::{self, Initialisation};
use super::other_base::explained;
use super::sorsa::{SorsaTable, is_factor};
use super::tensors::{self, Caps};

/// The configuration of an adapter directory.
pub(super) const CONFIG_FILE: &str = "adapter_config.json";
/// The weights of an adapter directory.
pub(super) const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The configuration, the trained and the initial factors of a factor pair.
pub(super) const PAIR_FILES: [&str; 3] = ["config.json", "model.safetensors", "init.safetensors"];

/// Where the weights from before training may be, of a LoRA that took them out of the base.
pub(super) const INITIAL_FILES: [&str; 4] = [
    "adapter_init/adapter_model.safetensors",
    "pissa_init/adapter_model.safetensors",
    "olora_init/adapter_model.safetensors",
    "corda_init/adapter_model.safetensors",
];

/// Longest configuration, in bytes.
pub(super) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Bounds on what a load may consume.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files of one adapter. In memory a delta takes four bytes a value, so at most
    /// twice this.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 4 GiB: rank 128 on every linear module of a 7B model, in float32, takes 2.6 GB.
    fn default() -> Self {
        Self { max_bytes: 4 << 30 }
    }
}

/// How an adapter was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// SORSA, with its initial factors.
    Sorsa,
    /// LoRA as PEFT saves it.
    Lora,
}

/// An adapter in memory, and what its files said about it.
#[derive(Debug)]
pub struct LoadedAdapter {
    /// Its weights relative to the base model, float32 on the CPU.
    pub delta: LowRankDelta,
    /// How it was trained.
    pub kind: AdapterKind,
    /// The largest rank as trained; a SORSA delta has twice as many directions.
    pub rank: usize,
    /// Whether its delta is the difference of two parts, most of which may cancel: SORSA's, and
    /// that of a LoRA that took its first weights out of the base.
    pub is_difference: bool,
    /// The base model by its own account.
    pub base_model_name: Option<String>,
    /// The digest of that model's weights, where the adapter records it.
    pub base_digest: Option<BaseDigest>,
}

impl LoadedAdapter {
    /// Compares what the adapter is relative to with the digest of the weights at hand. An adapter
    /// that records none fits any.
    ///
    /// # Errors
    /// [`AdapterError::BaseMismatch`] where it is relative to others.
    pub fn check_base(&self, served: BaseDigest) -> Result<(), AdapterError> {
        match self.base_digest {
            Some(recorded) if recorded != served => {
                let name = self.base_model_name.as_deref().unwrap_or("(unnamed)");
                Err(AdapterError::BaseMismatch { name: quoted(name), recorded, served })
            }
            _ => Ok(()),
        }
    }
}

/// Reads the adapter in the directory `path` for a base model of these `modules`.
///
/// # Errors
/// Where anything about it is missing, unknown, unused, out of bounds or does not fit: see
/// [`AdapterError`]. Nothing is kept then.
pub fn load(
    path: &Path,
    modules: &[ModuleSpec],
    limits: &Limits,
) -> Result<LoadedAdapter, AdapterError> {
    load_from(AdapterDir::open(path, limits.max_bytes)?, modules)
}

/// Reads the adapter in an open directory for a base model of these `modules`.
///
/// # Errors
/// As [`load`].
pub fn load_from(
    mut dir: AdapterDir,
    modules: &[ModuleSpec],
) -> Result<LoadedAdapter, AdapterError> {
    let loaded = if dir.has(CONFIG_FILE)? || !dir.has("config.json")? {
        let config = AdapterConfig::parse(&dir.read(CONFIG_FILE, MAX_CONFIG_BYTES)?)?;
        let weights = dir.read_weights(WEIGHTS_FILE)?;
        let initial = read_initial(&mut dir, &config)?;
        from_parts(&config, &weights, initial.as_deref(), modules)?
    } else {
        load_factor_pair(&mut dir, modules)?
    };
    tracing::info!(
        kind = ?loaded.kind,
        rank = loaded.rank,
        directions = loaded.delta.max_rank(),
        modules = loaded.delta.num_modules(),
        bytes = loaded.delta.size_bytes(),
        id = %loaded.delta.id(),
        "adapter loaded"
    );
    if loaded.delta.is_zero()? {
        tracing::warn!(path = %dir.path().display(), "this adapter changes nothing: its factors are zero");
    }
    Ok(loaded)
}

/// The adapter whose `adapter_config.json` and `adapter_model.safetensors` are these bytes.
///
/// # Errors
/// As [`load`], but for the file system.
pub fn from_bytes(
    config: &[u8],
    weights: &[u8],
    modules: &[ModuleSpec],
) -> Result<LoadedAdapter, AdapterError> {
    from_parts(&AdapterConfig::parse(config)?, weights, None, modules)
}

/// What kind of adapter a directory's configuration says it is.
pub(super) fn kind_of(config: &AdapterConfig) -> Result<AdapterKind, AdapterError> {
    match config.text("peft_type")?.unwrap_or_default() {
        "SORSA" => Ok(AdapterKind::Sorsa),
        "LORA" => Ok(AdapterKind::Lora),
        other => Err(AdapterError::UnsupportedType { peft_type: quoted(other) }),
    }
}

/// The weights that training began with, where they are needed and there.
fn read_initial(
    dir: &mut AdapterDir,
    config: &AdapterConfig,
) -> Result<Option<Vec<u8>>, AdapterError> {
    if kind_of(config)? != AdapterKind::Lora
        || Initialisation::of(config)? == Initialisation::KeptBase
    {
        return Ok(None);
    }
    match dir.present(&INITIAL_FILES)?[..] {
        [] => Ok(None),
        [name] => dir.read_weights(name).map(Some),
        [one, other, ..] => {
            let (dir, found) = (dir.path().to_owned(), [one, other]);
            Err(AdapterError::AmbiguousInitial { dir, found })
        }
    }
}

fn from_parts(
    config: &AdapterConfig,
    weights: &[u8],
    initial: Option<&[u8]>,
    modules: &[ModuleSpec],
) -> Result<LoadedAdapter, AdapterError> {
    let name = config.text("base_model_name_or_path")?;
    from_tensors(config, weights, initial, modules)
        .map_err(|error| explained(error, name, weights, modules))
}

fn from_tensors(
    config: &AdapterConfig,
    weights: &[u8],
    initial: Option<&[u8]>,
    modules: &[ModuleSpec],
) -> Result<LoadedAdapter, AdapterError> {
    let kind = kind_of(config)?;
    config.refuse_unsupported()?;
    let caps = Caps::for_modules(modules.len());
    let tensors = tensors::parse(weights, caps)?;
    let index = ModuleIndex::new(modules);
    let (factors, rank) = match kind {
        AdapterKind::Lora => {
            let initial = initial.map(|bytes| tensors::parse(bytes, caps)).transpose()?;
            lora::factors(config, tensors, initial, &index)?
        }
        AdapterKind::Sorsa => {
            let mut table = SorsaTable::new(&index);
            tensors.into_iter().try_for_each(|tensor| table.insert(tensor))?;
            table.into_factors(config)?
        }
    };
    let loaded = finish(kind, config, modules, factors, rank)?;
    Ok(LoadedAdapter { is_difference: loaded.is_difference || initial.is_some(), ..loaded })
}

fn load_factor_pair(
    dir: &mut AdapterDir,
    modules: &[ModuleSpec],
) -> Result<LoadedAdapter, AdapterError> {
    let config = AdapterConfig::parse(&dir.read("config.json", MAX_CONFIG_BYTES)?)?;
    let model_type = config.text("model_type")?.unwrap_or_default();
    if model_type != "sorsa" {
        return Err(AdapterError::NotAnAdapter { model_type: quoted(model_type) });
    }
    config.refuse_unsupported()?;
    let caps = Caps::for_modules(modules.len());
    // Told before the weights are read: a whole model may be larger than any adapter.
    if !dir.has("init.safetensors")? {
        return Err(without_initial(dir, caps));
    }
    let weights = dir.read_weights("model.safetensors")?;
    let name = config.text("base_model_name_or_path")?;
    let trained = tensors::parse(&weights, caps);
    let trained = trained.map_err(|error| explained(error, name, &weights, modules))?;
    if let Some(tensor) = trained.iter().find(|tensor| !is_factor(&tensor.name)) {
        let evidence = format!("it holds {}", quoted(&tensor.name));
        return Err(AdapterError::WholeModel { evidence });
    }
    let initial = tensors::parse(&dir.read_weights("init.safetensors")?, caps)?;
    let index = ModuleIndex::new(modules);
    let mut table = SorsaTable::new(&index);
    let sorted = trained.into_iter().try_for_each(|tensor| table.insert(tensor));
    let sorted = sorted
        .and_then(|()| initial.into_iter().try_for_each(|tensor| table.insert_initial(tensor)))
        .and_then(|()| table.into_factors(&config));
    let (factors, rank) = sorted.map_err(|error| explained(error, name, &weights, modules))?;
    finish(AdapterKind::Sorsa, &config, modules, factors, rank)
}

/// What a reference checkpoint's directory without `init.safetensors` is.
pub(super) fn without_initial(dir: &mut AdapterDir, caps: Caps) -> AdapterError {
    let beginning = dir.beginning("model.safetensors", caps.max_header_bytes.saturating_add(8));
    let names = beginning.ok().and_then(|bytes| tensors::names(&bytes)).unwrap_or_default();
    if !names.is_empty() && names.iter().all(|name| is_factor(name)) {
        return AdapterError::NoInitial;
    }
    AdapterError::WholeModel { evidence: "there is no init.safetensors".to_owned() }
}

/// The digest of the base's weights that the configuration records.
pub(super) fn recorded_base(config: &AdapterConfig) -> Result<Option<BaseDigest>, AdapterError> {
    let digest = config.text("base_digest")?.map(|text| {
        text.parse().map_err(|error| {
            let problem = format!("is {}: {error}", quoted(text));
            AdapterError::ConfigField { field: "base_digest", problem }
        })
    });
    digest.transpose()
}

fn finish(
    kind: AdapterKind,
    config: &AdapterConfig,
    modules: &[ModuleSpec],
    factors: Vec<Option<LowRankFactors>>,
    rank: usize,
) -> Result<LoadedAdapter, AdapterError> {
    let base_model_name = config.text("base_model_name_or_path")?.map(str::to_owned);
    let base_digest = recorded_base(config)?;
    let delta = LowRankDelta::from_content(modules, factors)?;
    let is_difference = kind == AdapterKind::Sorsa;
    Ok(LoadedAdapter { delta, kind, rank, is_difference, base_model_name, base_digest })
}

#[cfg(test)]
mod tests;

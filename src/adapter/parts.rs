//! Which files make an adapter, told by its configuration alone: what has to be at hand before
//! [`super::file`] can read it.

use super::config::AdapterConfig;
use super::error::{AdapterError, quoted};
use super::file::{
    AdapterKind, CONFIG_FILE, INITIAL_FILES, MAX_CONFIG_BYTES, PAIR_FILES, WEIGHTS_FILE, kind_of,
};
use super::lora::Initialisation;

pub use super::tensors::LFS_POINTER;

/// The configurations that an adapter may have; the first that is there is its own.
pub const CONFIGS: [&str; 2] = [CONFIG_FILE, PAIR_FILES[0]];
/// Longest configuration, in bytes.
pub const MAX_CONFIG: u64 = MAX_CONFIG_BYTES;

/// Every file that an adapter of any layout may have.
pub fn all_files() -> impl Iterator<Item = &'static str> {
    [CONFIG_FILE, WEIGHTS_FILE].into_iter().chain(PAIR_FILES).chain(INITIAL_FILES)
}

/// A file beside the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name, from the adapter's directory on.
    pub name: &'static str,
    /// Without it there is no adapter.
    pub needed: bool,
    /// Whether it holds the trained weights.
    pub trained: bool,
}

/// The files beside the configuration `name` that holds `bytes`, in the order in which they are best
/// looked for.
///
/// # Errors
/// Where no adapter has such a configuration.
pub fn parts(name: &str, bytes: &[u8]) -> Result<Vec<Part>, AdapterError> {
    let config = AdapterConfig::parse(bytes)?;
    let part = |name, trained| Part { name, needed: true, trained };
    if name == PAIR_FILES[0] {
        let model_type = config.text("model_type")?.unwrap_or_default();
        if model_type != "sorsa" {
            return Err(AdapterError::NotAnAdapter { model_type: quoted(model_type) });
        }
        // A whole model has no initial factors: told before its weights come.
        return Ok(vec![part(PAIR_FILES[2], false), part(PAIR_FILES[1], true)]);
    }
    let mut parts = vec![part(WEIGHTS_FILE, true)];
    let took = kind_of(&config)? == AdapterKind::Lora
        && Initialisation::of(&config)? != Initialisation::KeptBase;
    if took {
        let initial = |name| Part { name, needed: false, trained: false };
        parts.extend(INITIAL_FILES.map(initial));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &str, text: &str) -> Vec<&'static str> {
        parts(config, text.as_bytes()).unwrap().iter().map(|part| part.name).collect()
    }

    #[test]
    fn a_configuration_tells_what_lies_beside_it() {
        let plain = names(CONFIG_FILE, r#"{"peft_type": "LORA", "init_lora_weights": true}"#);
        assert_eq!(plain, [WEIGHTS_FILE]);
        assert_eq!(names(CONFIG_FILE, r#"{"peft_type": "SORSA"}"#), [WEIGHTS_FILE]);
        let pissa = names(CONFIG_FILE, r#"{"peft_type": "LORA", "init_lora_weights": "pissa"}"#);
        assert_eq!(pissa[0], WEIGHTS_FILE);
        assert_eq!(pissa[1..], INITIAL_FILES);
        let pair = names("config.json", r#"{"model_type": "sorsa"}"#);
        assert_eq!(pair, ["init.safetensors", "model.safetensors"]);
        for (name, wrong) in [
            ("config.json", r#"{"model_type": "llama"}"#),
            (CONFIG_FILE, r#"{"peft_type": "IA3"}"#),
            (CONFIG_FILE, "no JSON"),
        ] {
            assert!(parts(name, wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

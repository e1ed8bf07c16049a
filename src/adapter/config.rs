//! The adapter's configuration: a JSON object whose fields are read by name and by type.
//!
//! What would change the arithmetic and is not supported is refused by name; a field that nobody
//! here knows is reported in the log.

use serde_json::{Map, Value};

use super::error::{AdapterError, quoted};

/// Fields that ask for something other than a low-rank sum on the base weights, and why each
/// cannot be served.
const REFUSED: [(&str, &str); 14] = [
    ("fan_in_fan_out", "the base model stores its weights out x in"),
    ("use_dora", "DoRA rescales the base weight as well, which is no low-rank sum"),
    ("modules_to_save", "the adapter replaces whole modules of the base model"),
    ("lora_bias", "the adapter adds biases"),
    ("trainable_token_indices", "the adapter replaces rows of the embedding"),
    ("layer_replication", "the adapter is for a model with replicated layers"),
    ("use_qalora", "QA-LoRA pools the inputs of its factors"),
    ("alora_invocation_tokens", "an activated LoRA applies to some tokens only"),
    ("target_parameters", "the adapter targets parameters that are no linear module"),
    ("use_bdlora", "the factors are block-diagonal"),
    ("arrow_config", "Arrow routes tokens between several adapters"),
    ("kasa_config", "KaSA changes the base weights before training"),
    ("monteclora_config", "MonteCLoRA samples its factors"),
    ("velora_config", "VeLoRA keeps further tensors"),
];

/// Fields that are used, or that matter to training only.
const KNOWN: [&str; 36] = [
    "alpha",
    "alpha_pattern",
    "architectures",
    "auto_mapping",
    "base_digest",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "dropout",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "model_type",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank",
    "rank_pattern",
    "revision",
    "runtime_config",
    "sorsa_version",
    "target_modules",
    "task_type",
    "torch_dtype",
    "use_rslora",
];

/// A configuration's fields.
#[derive(Debug)]
pub(super) struct AdapterConfig(Map<String, Value>);

impl AdapterConfig {
    /// Parses a JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, AdapterError> {
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|error| AdapterError::ConfigSyntax { problem: quoted(&error.to_string()) })
    }

    /// Refuses what is no low-rank sum, and logs fields that nobody knows.
    pub fn refuse_unsupported(&self) -> Result<(), AdapterError> {
        for (field, reason) in REFUSED {
            if self.0.get(field).is_some_and(is_set) {
                return Err(AdapterError::UnsupportedFeature { feature: field.into(), reason });
            }
        }
        if self.text("bias")?.is_some_and(|bias| bias != "none") {
            let reason = "the adapter changes biases of the base model";
            return Err(AdapterError::UnsupportedFeature { feature: "bias".into(), reason });
        }
        for (field, value) in &self.0 {
            let known = KNOWN.contains(&field.as_str()) || REFUSED.iter().any(|(f, _)| f == field);
            if !known && is_set(value) {
                tracing::warn!(
                    field = quoted(field),
                    "unknown field in the adapter's configuration"
                );
            }
        }
        Ok(())
    }

    /// A text, where the field is present and not null.
    pub fn text(&self, field: &'static str) -> Result<Option<&str>, AdapterError> {
        self.typed(field, "must be a text", Value::as_str)
    }

    /// A flag; false where it is absent.
    pub fn flag(&self, field: &'static str) -> Result<bool, AdapterError> {
        Ok(self.typed(field, "must be true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A rank, at least 1.
    pub fn rank(&self, field: &'static str) -> Result<Option<usize>, AdapterError> {
        self.typed(field, RANK, as_rank)
    }

    /// An alpha. Zero would make the adapter the base model.
    pub fn alpha(&self, field: &'static str) -> Result<Option<f64>, AdapterError> {
        self.typed(field, ALPHA, as_alpha)
    }

    /// Ranks by pattern, in the file's order.
    pub fn rank_pattern(&self) -> Result<Vec<(&str, usize)>, AdapterError> {
        self.pattern("rank_pattern", RANK, as_rank)
    }

    /// Alphas by pattern, in the file's order.
    pub fn alpha_pattern(&self) -> Result<Vec<(&str, f64)>, AdapterError> {
        self.pattern("alpha_pattern", ALPHA, as_alpha)
    }

    /// The value of a field, null and absent alike being none.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        field: &'static str,
        demand: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, AdapterError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| invalid(field, demand, value))
    }

    fn pattern<T>(
        &self,
        field: &'static str,
        demand: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(&str, T)>, AdapterError> {
        let entries = self.typed(field, "must be an object", Value::as_object)?;
        entries
            .into_iter()
            .flatten()
            .map(|(key, value)| match read(value) {
                Some(read) => Ok((key.as_str(), read)),
                None => Err(invalid(field, &format!("for {} {demand}", quoted(key)), value)),
            })
            .collect()
    }
}

const RANK: &str = "must be a whole number above 0";
const ALPHA: &str = "must be a number other than 0";

fn as_rank(value: &Value) -> Option<usize> {
    let rank = usize::try_from(value.as_u64()?).ok()?;
    (rank > 0).then_some(rank)
}

fn as_alpha(value: &Value) -> Option<f64> {
    value.as_f64().filter(|alpha| alpha.is_finite() && *alpha != 0.0)
}

fn invalid(field: &'static str, demand: &str, value: &Value) -> AdapterError {
    let problem = format!("{demand}, not {}", quoted(&value.to_string()));
    AdapterError::ConfigField { field, problem }
}

/// False for the values by which PEFT writes that a feature is not used.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> AdapterConfig {
        AdapterConfig::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "[]", "3", "{", "{\"r\": NaN}", "\u{feff}{}", "{\"r\": 1e999}"] {
            let error = AdapterConfig::parse(json.as_bytes()).unwrap_err();
            assert!(matches!(error, AdapterError::ConfigSyntax { .. }), "{json}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_field() {
        for r in ["0", "-1", "2.5", "\"8\"", "[]", "1e30"] {
            let error = config(&format!("{{\"r\": {r}}}")).rank("r").unwrap_err();
            assert!(matches!(error, AdapterError::ConfigField { field: "r", .. }), "{error}");
        }
        for alpha in ["0", "0.0", "true", "\"8\""] {
            let config = config(&format!("{{\"alpha\": {alpha}}}"));
            assert!(config.alpha("alpha").is_err(), "{alpha}");
        }
        assert!(config("{\"use_rslora\": 1}").flag("use_rslora").is_err());
        assert!(config("{\"rank_pattern\": {\"q\": 0}}").rank_pattern().is_err());
        assert!(config("{\"alpha_pattern\": [1]}").alpha_pattern().is_err());
    }

    #[test]
    fn null_is_absent() {
        let config = config("{\"r\": null, \"rank_pattern\": null, \"bias\": null}");
        assert_eq!(config.rank("r").unwrap(), None);
        assert!(config.rank_pattern().unwrap().is_empty());
        config.refuse_unsupported().unwrap();
    }

    #[test]
    fn patterns_keep_the_order_of_the_file() {
        let config = config("{\"rank_pattern\": {\"z\": 1, \"a\": 2, \"m\": 3}}");
        assert_eq!(config.rank_pattern().unwrap(), [("z", 1), ("a", 2), ("m", 3)]);
    }

    #[test]
    fn each_unsupported_feature_is_refused_by_name() {
        for (field, _) in REFUSED {
            for value in ["true", "[1]", "{\"a\": 1}"] {
                let error =
                    config(&format!("{{\"{field}\": {value}}}")).refuse_unsupported().unwrap_err();
                assert!(error.to_string().starts_with(field), "{error}");
            }
            for value in ["null", "false", "[]", "{}"] {
                config(&format!("{{\"{field}\": {value}}}")).refuse_unsupported().unwrap();
            }
        }
        let error = config("{\"bias\": \"lora_only\"}").refuse_unsupported().unwrap_err();
        assert!(
            matches!(error, AdapterError::UnsupportedFeature { feature, .. } if feature == "bias")
        );
        config("{\"bias\": \"none\", \"my_note\": \"kept\"}").refuse_unsupported().unwrap();
    }
}

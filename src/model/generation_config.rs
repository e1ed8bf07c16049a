//! Sampling defaults a model ships in `generation_config.json`. They are hints: a request decides.

use serde_json::Value;

use super::error::ModelError;
use super::fields::Fields;

/// The fields of `generation_config.json` this server heeds, all optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a generation; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Nucleus mass.
    pub top_p: Option<f64>,
    /// Number of most likely tokens kept; 0 keeps all.
    pub top_k: Option<usize>,
    /// Factor by which repeated tokens' logits shrink.
    pub repetition_penalty: Option<f64>,
    /// False means greedy, whatever the other fields say.
    pub do_sample: Option<bool>,
}

impl GenerationConfig {
    /// Reads the parsed file.
    ///
    /// # Errors
    /// Where a field has the wrong type or is out of range.
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let fields = Fields::new(value, "generation_config.json")?;
        let positive = |number: f64| number > 0.0;
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            temperature: fields.number("temperature", "a number ≥ 0", |number| number >= 0.0)?,
            top_p: fields.number("top_p", "a number in 0..=1", |p| (0.0..=1.0).contains(&p))?,
            top_k: fields.integer("top_k", 0..=u64::from(u32::MAX))?,
            repetition_penalty: fields.number("repetition_penalty", "a number > 0", positive)?,
            do_sample: fields.boolean("do_sample")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_is_optional_and_eos_may_be_a_list() {
        let empty = GenerationConfig::from_json(&json!({})).unwrap();
        assert_eq!(empty, GenerationConfig::default());
        let config = GenerationConfig::from_json(&json!({
            "eos_token_id": [128001, 128009], "temperature": 0.6, "top_p": 0.9, "top_k": null,
            "repetition_penalty": 1.1, "do_sample": true, "transformers_version": "4.45.2",
        }))
        .unwrap();
        assert_eq!(config.eos_token_ids, [128_001, 128_009]);
        assert_eq!((config.temperature, config.top_p, config.top_k), (Some(0.6), Some(0.9), None));
        assert_eq!((config.repetition_penalty, config.do_sample), (Some(1.1), Some(true)));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (field, value) in [
            ("eos_token_id", json!("</s>")),
            ("eos_token_id", json!([-1])),
            ("temperature", json!(-0.5)),
            ("top_p", json!(1.5)),
            ("top_k", json!(1.5)),
            ("repetition_penalty", json!(0)),
            ("do_sample", json!("yes")),
        ] {
            let error = GenerationConfig::from_json(&json!({ field: value })).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}

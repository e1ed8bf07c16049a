//! Sampling defaults a model ships in `generation_config.json`. They are hints: a request decides. What a
//! request may not ask for, a model may not either: with it, logits would not stay finite.

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
    /// Number of most likely tokens kept; 0 keeps all, as does -1 in the file.
    pub top_k: Option<usize>,
    /// Least probability of a token beside the most likely one's.
    pub min_p: Option<f64>,
    /// Factor by which repeated tokens' logits shrink.
    pub repetition_penalty: Option<f64>,
    /// Tokens that an answer has at most where its request does not say.
    pub max_new_tokens: Option<usize>,
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
        let within = |low: f64, high: f64| move |number: f64| (low..=high).contains(&number);
        let keeps_all = fields.get("top_k").and_then(Value::as_i64) == Some(-1);
        let top_k = || fields.integer("top_k", 0..=u64::from(u32::MAX));
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            temperature: fields.number("temperature", "a number from 0 to 2", within(0.0, 2.0))?,
            top_p: fields.number("top_p", "a number from 0 to 1", within(0.0, 1.0))?,
            top_k: if keeps_all { Some(0) } else { top_k()? },
            min_p: fields.number("min_p", "a number from 0 to 1", within(0.0, 1.0))?,
            repetition_penalty: fields.number(
                "repetition_penalty",
                "a number from 0.01 to 100",
                within(0.01, 100.0),
            )?,
            max_new_tokens: fields.integer("max_new_tokens", 1..=u64::from(u32::MAX))?,
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
            "min_p": 0.05, "max_new_tokens": 2048,
        }))
        .unwrap();
        assert_eq!((config.min_p, config.max_new_tokens), (Some(0.05), Some(2048)));
        assert_eq!(config.eos_token_ids, [128_001, 128_009]);
        assert_eq!((config.temperature, config.top_p, config.top_k), (Some(0.6), Some(0.9), None));
        assert_eq!((config.repetition_penalty, config.do_sample), (Some(1.1), Some(true)));
    }

    #[test]
    fn what_a_request_may_ask_for_a_model_may_too() {
        for (field, value) in [
            ("temperature", json!(0)),
            ("temperature", json!(2)),
            ("top_p", json!(0)),
            ("top_p", json!(1.0)),
            ("top_k", json!(0)),
            ("top_k", json!(u32::MAX)),
            ("min_p", json!(0)),
            ("min_p", json!(1)),
            ("max_new_tokens", json!(1)),
            ("repetition_penalty", json!(0.01)),
            ("repetition_penalty", json!(100)),
        ] {
            assert!(GenerationConfig::from_json(&json!({ field: value })).is_ok(), "{field}");
        }
        let all = GenerationConfig::from_json(&json!({"top_k": -1})).unwrap();
        assert_eq!(all.top_k, Some(0));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (field, value) in [
            ("eos_token_id", json!("</s>")),
            ("eos_token_id", json!([-1])),
            ("temperature", json!(-0.5)),
            ("temperature", json!(2.5)),
            ("temperature", json!(1e9)),
            ("temperature", json!(1e300)),
            ("top_p", json!(1.5)),
            ("top_p", json!(-0.1)),
            ("top_k", json!(1.5)),
            ("top_k", json!(-5)),
            ("top_k", json!(1_u64 << 32)),
            ("min_p", json!(1.5)),
            ("max_new_tokens", json!(0)),
            ("max_new_tokens", json!("many")),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(1e-3)),
            ("repetition_penalty", json!(1e39)),
            ("do_sample", json!("yes")),
        ] {
            let error = GenerationConfig::from_json(&json!({ field: value })).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}

//! A reference checkpoint's `config.json`: the scale of its factors and what it says of itself.
//!
//! Which modules are adapted, and at which rank, is read from the tensors. `target_modules` matches
//! by parts of names and misses as silently as it matches too much, and the rank may be larger than
//! a weight has directions. Only the scale, alpha over rank, is nowhere else.

use serde_json::Value;

use super::error::SorsaError;
use crate::adapter::sorsa::SorsaConfig;
use crate::model::fields::{Fields, invalid};

/// The largest rank a configuration may ask for.
const MAX_RANK: u64 = 1 << 24;

/// Reads a parsed `config.json`.
pub(super) fn read(config: &Value) -> Result<SorsaConfig, SorsaError> {
    let model_type = config.get("model_type").unwrap_or(&Value::Null);
    if model_type != "sorsa" {
        return Err(SorsaError::ForeignConfig { model_type: model_type.to_string() });
    }
    let fields = Fields::new(config, "config.json")?;
    let alpha = fields.number("alpha", "a number other than 0, or null", |alpha| alpha != 0.0)?;
    let rank = fields.integer("rank", 1..=MAX_RANK)?;
    if alpha.is_some() && rank.is_none() {
        let expected = "an integer of at least 1, because alpha is relative to it";
        return Err(invalid("rank", &Value::Null, expected).into());
    }
    // What vanishes in float32 would leave the factors without effect.
    let vanishes = |alpha: f64| (alpha / rank.unwrap_or(1) as f64) as f32 == 0.0;
    if alpha.is_some_and(vanishes) {
        let found = config.get("alpha").unwrap_or(&Value::Null);
        return Err(invalid("alpha", found, "a number that is not 0 once divided by rank").into());
    }
    Ok(SorsaConfig {
        rank: rank.unwrap_or(0),
        alpha,
        target_modules: names(fields.get("target_modules")),
        base_model_name: fields.string("base_model_name_or_path")?.map(str::to_owned),
        base_digest: None,
    })
}

/// Alpha over the rank asked for, also where the tensors have fewer directions; 1 without an alpha.
pub(super) fn scale(config: &SorsaConfig) -> f64 {
    config.alpha.map_or(1.0, |alpha| alpha / config.rank as f64)
}

/// The texts of a list, or the values of an object.
fn names(value: Option<&Value>) -> Vec<String> {
    let texts = |values: &mut dyn Iterator<Item = &Value>| {
        values.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    match value {
        Some(Value::Array(list)) => texts(&mut list.iter()),
        Some(Value::Object(named)) => texts(&mut named.values()),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(patch: &Value) -> Result<SorsaConfig, SorsaError> {
        let mut config = json!({"model_type": "sorsa", "rank": 4, "alpha": null, "dropout": 0.5});
        for (key, value) in patch.as_object().unwrap() {
            config[key] = value.clone();
        }
        read(&config)
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_asked_for() {
        let scale_of = |patch| scale(&config(&patch).unwrap());
        assert_eq!(scale_of(json!({})), 1.0);
        assert_eq!(scale_of(json!({"rank": 16, "alpha": 8})), 0.5);
        assert_eq!(scale_of(json!({"alpha": 1.0})), 0.25);
        assert_eq!(scale_of(json!({"alpha": null, "rank": null})), 1.0);
    }

    #[test]
    fn targets_are_a_list_or_an_object_and_decide_nothing() {
        let targets = |value| config(&json!({"target_modules": value})).unwrap().target_modules;
        assert_eq!(targets(json!(["q_proj", "v_proj"])), ["q_proj", "v_proj"]);
        assert_eq!(targets(json!({"a": "q_proj", "b": "o_proj"})), ["q_proj", "o_proj"]);
        assert!(targets(json!(7)).is_empty());
        assert!(targets(json!(null)).is_empty());
    }

    #[test]
    fn an_unknown_scale_is_refused() {
        for patch in [
            json!({"alpha": 0}),
            json!({"alpha": "8"}),
            json!({"rank": 0}),
            json!({"rank": -1}),
            json!({"rank": 2.5}),
            json!({"rank": null, "alpha": 8}),
            json!({"alpha": 1e-45}),
        ] {
            let error = config(&patch).unwrap_err();
            let named = matches!(&error, SorsaError::Model(error)
                if error.to_string().contains("alpha") || error.to_string().contains("rank"));
            assert!(named, "{patch}: {error}");
        }
        let error = config(&json!({"model_type": "llama"})).unwrap_err();
        assert!(matches!(error, SorsaError::ForeignConfig { .. }), "{error}");
    }
}

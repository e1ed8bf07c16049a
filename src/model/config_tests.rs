//! What a configuration may say, and what is refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The smallest complete configuration, changed as `patch` says; null removes a field.
fn patched(patch: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320,
    });
    let fields = config.as_object_mut().unwrap();
    for (key, value) in patch.as_object().unwrap() {
        fields.insert(key.clone(), value.clone());
    }
    config
}

#[test]
fn absent_fields_take_the_defaults_of_the_format() {
    let config = ModelConfig::from_json(&patched(json!({}))).unwrap();
    assert_eq!((config.num_key_value_heads, config.head_dim), (4, 16));
    assert_eq!(config.max_position_embeddings, 2048);
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0));
    assert_eq!(config.rope_scaling, RopeScaling::None);
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    assert_eq!((config.dtype, config.bos_token_id), (None, None));
    assert!(config.eos_token_ids.is_empty());
}

#[test]
fn every_spelling_of_rope_scaling_is_read() {
    let llama3 = json!({"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let mut with_kind = llama3.clone();
    with_kind["rope_type"] = json!("llama3");
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let read = |patch| {
        let config = ModelConfig::from_json(&patched(patch)).unwrap();
        (config.rope_theta, config.rope_scaling)
    };
    let new = read(json!({"rope_theta": 500_000.0, "rope_scaling": with_kind}));
    assert_eq!(new, (500_000.0, expected));
    with_kind["rope_theta"] = json!(500_000.0);
    assert_eq!(read(json!({"rope_parameters": with_kind})), (500_000.0, expected));
    let old = read(json!({"rope_scaling": {"type": "linear", "factor": 2}}));
    assert_eq!(old, (10_000.0, RopeScaling::Linear { factor: 2.0 }));
    let plain = read(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}));
    assert_eq!(plain, (1e6, RopeScaling::None));
}

#[test]
fn ids_and_dtypes_are_read() {
    let config = ModelConfig::from_json(&patched(json!({
        "eos_token_id": [1, 2], "bos_token_id": 0, "dtype": "bfloat16", "head_dim": 32,
    })))
    .unwrap();
    assert_eq!((config.eos_token_ids.as_slice(), config.bos_token_id), (&[1, 2][..], Some(0)));
    assert_eq!((config.dtype, config.head_dim), (Some(DType::BF16), 32));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (patch, name) in [
        (json!({"model_type": "qwen2"}), "qwen2"),
        (json!({"model_type": null}), "model_type"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"sliding_window": 4096}), "sliding_window"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"logits_scaling": 8.0}), "logits_scaling"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "sliding_attention"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}), "dynamic"),
        (json!({"torch_dtype": "float8_e4m3fn"}), "float8_e4m3fn"),
    ] {
        let error = ModelConfig::from_json(&patched(patch)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_field() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(null)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!(1u64 << 60)),
        ("num_hidden_layers", json!("two")),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(15)),
        ("head_dim", json!(0)),
        ("vocab_size", json!(1.5)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rope_theta", json!(0.0)),
        ("rope_scaling", json!("llama3")),
        ("tie_word_embeddings", json!(1)),
        ("eos_token_id", json!(-1)),
    ] {
        let error = ModelConfig::from_json(&patched(json!({ field: value }))).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let error = ModelConfig::from_json(&patched(json!({"rope_scaling": scaling}))).unwrap_err();
    assert!(error.to_string().contains("high_freq_factor"), "{error}");
    assert!(ModelConfig::from_json(&json!([])).is_err());
}

proptest! {
    #[test]
    fn an_accepted_configuration_is_consistent(
        hidden in 0u64..512, heads in 0u64..20, kv_heads in 0u64..20, head_dim in 0u64..70,
        explicit in any::<bool>(),
    ) {
        let head_dim = if explicit { json!(head_dim) } else { json!(null) };
        let value = patched(json!({"hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim}));
        if let Ok(config) = ModelConfig::from_json(&value) {
            prop_assert!(config.head_dim % 2 == 0 && config.head_dim > 0);
            prop_assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
            prop_assert!(config.kv_shape().bytes_per_token(DType::F32) > 0);
        }
    }
}

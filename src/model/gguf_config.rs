//! The `config.json` and `generation_config.json` that a GGUF Llama's metadata amount to.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::error::ModelError;
use super::gguf::{GgufFile, GgufMetadata, ROPE_FREQS};
use crate::layers::rotary::{RopeScaling, inverse_frequencies};

/// The transformers version whose field names are written.
const FORMAT_VERSION: &str = "4.45.2";

/// Keys that change the forward pass of a Llama and that this server does not compute.
const REFUSED: [&str; 4] = [
    "llama.attention.sliding_window",
    "llama.attention.scale",
    "llama.logit_scale",
    "llama.rope.scale_linear",
];

/// Texts of the tokens that end a turn or a text in the models of every publisher.
const END_TEXTS: [&str; 14] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    HARMONY_MESSAGE_END,
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
];
/// What ends a turn where a turn has several messages, each of which ends with
/// [`HARMONY_MESSAGE_END`].
const HARMONY_ENDS: [&str; 2] = ["<|return|>", "<|call|>"];
const HARMONY_MESSAGE_END: &str = "<|end|>";

/// The fields of `config.json`, sorted by name.
///
/// # Errors
/// Where metadata are missing or contradict each other, or say something a Llama's `config.json`
/// cannot.
pub(super) fn config_json(metadata: &GgufMetadata, file: &GgufFile) -> Result<Value, ModelError> {
    if let Some(key) = REFUSED.iter().find(|key| metadata.contains(key)) {
        return Err(ModelError::Unsupported(format!("GGUF key {key:?}")));
    }
    if metadata.unsigned("llama.expert_count")?.unwrap_or(0) > 0 {
        return Err(ModelError::Unsupported("a mixture of experts".to_owned()));
    }
    let need = |key| metadata.unsigned(key)?.ok_or(ModelError::MissingField(key));
    let hidden_size = need("llama.embedding_length")?;
    let heads = need("llama.attention.head_count")?;
    let head_dim = head_dim(metadata, hidden_size, heads)?;
    let theta = metadata.number("llama.rope.freq_base")?.unwrap_or(10_000.0);
    let bias = |module: &str| file.shape(&format!("model.layers.0.{module}.bias")).is_some();
    let vocab_size = file.shape("model.embed_tokens.weight").and_then(|dims| dims.first().copied());
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": bias("self_attn.q_proj"),
        "attention_dropout": 0.0,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": need("llama.feed_forward_length")?,
        "max_position_embeddings": need("llama.context_length")?,
        "mlp_bias": bias("mlp.gate_proj"),
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": need("llama.block_count")?,
        "num_key_value_heads": metadata.unsigned("llama.attention.head_count_kv")?.unwrap_or(heads),
        "pretraining_tp": 1,
        "rms_norm_eps": metadata
            .number("llama.attention.layer_norm_rms_epsilon")?
            .ok_or(ModelError::MissingField("llama.attention.layer_norm_rms_epsilon"))?,
        "rope_scaling": rope_scaling(metadata, file, theta, head_dim)?,
        "rope_theta": theta,
        "tie_word_embeddings": file.shape("lm_head.weight").is_none(),
        "torch_dtype": "float32",
        "transformers_version": FORMAT_VERSION,
        "use_cache": true,
        "vocab_size": vocab_size.ok_or(ModelError::MissingTensor("token_embd.weight".to_owned()))?,
    });
    add_token_ids(&mut config, metadata)?;
    config.sort_all_objects();
    Ok(config)
}

/// The fields of `generation_config.json`: the special tokens' ids.
///
/// # Errors
/// Where an id is no unsigned integer.
pub(super) fn generation_config_json(metadata: &GgufMetadata) -> Result<Value, ModelError> {
    let mut config = json!({ "transformers_version": FORMAT_VERSION });
    add_token_ids(&mut config, metadata)?;
    let ends = end_token_ids(metadata)?;
    match ends.as_slice() {
        [] => {}
        [only] => config["eos_token_id"] = (*only).into(),
        _ => config["eos_token_id"] = ends.into(),
    }
    config.sort_all_objects();
    Ok(config)
}

/// Every token that ends a text or a turn: those that the file names, and those known by their text,
/// which many files do not name. In order of their ids.
fn end_token_ids(metadata: &GgufMetadata) -> Result<Vec<u64>, ModelError> {
    let mut ids = BTreeSet::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(metadata.unsigned(&format!("tokenizer.ggml.{key}"))?);
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let is_harmony = HARMONY_ENDS.iter().all(|end| tokens.iter().any(|token| token == end));
    let texts = END_TEXTS.iter().filter(|text| !is_harmony || **text != HARMONY_MESSAGE_END);
    let texts: Vec<&str> = texts.chain(&HARMONY_ENDS).copied().collect();
    let known = (0..).zip(&tokens).filter(|(_, token)| texts.contains(&token.as_str()));
    ids.extend(known.map(|(id, _)| id));
    Ok(ids.into_iter().collect())
}

fn add_token_ids(config: &mut Value, metadata: &GgufMetadata) -> Result<(), ModelError> {
    for (field, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = metadata.unsigned(key)? {
            config[field] = id.into();
        }
    }
    Ok(())
}

/// Head width: stated, or derived; the three places that state it must agree.
fn head_dim(metadata: &GgufMetadata, hidden: u64, heads: u64) -> Result<u64, ModelError> {
    let key_length = metadata.unsigned("llama.attention.key_length")?;
    let head_dim = match key_length {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(ModelError::InvalidField {
                field: "llama.attention.head_count".to_owned(),
                value: heads.to_string(),
                expected: format!("a divisor of the embedding length, {hidden}"),
            });
        }
    };
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        if let Some(other) = metadata.unsigned(key)?.filter(|other| *other != head_dim) {
            let text = format!("GGUF key {key:?} of {other} with heads of {head_dim}");
            return Err(ModelError::Unsupported(text));
        }
    }
    Ok(head_dim)
}

fn rope_scaling(
    metadata: &GgufMetadata,
    file: &GgufFile,
    theta: f64,
    head_dim: u64,
) -> Result<Value, ModelError> {
    if let Some(freqs) = file.rope_freqs()? {
        return llama3_scaling(&freqs, theta, head_dim as usize);
    }
    match metadata.string("llama.rope.scaling.type")? {
        None | Some("none") => Ok(Value::Null),
        Some("linear") => {
            let factor = metadata.number("llama.rope.scaling.factor")?;
            let factor = factor.ok_or(ModelError::MissingField("llama.rope.scaling.factor"))?;
            Ok(json!({ "factor": factor, "rope_type": "linear" }))
        }
        Some(other) => Err(ModelError::Unsupported(format!("GGUF rope scaling {other:?}"))),
    }
}

/// A GGUF keeps only the factors that Llama 3's scaling comes to, not its four parameters. Every
/// Llama 3 published has the same three beside `factor`, which is the last frequency's; what they
/// give is compared with the file, so a wrong guess cannot pass.
fn llama3_scaling(freqs: &[f32], theta: f64, head_dim: usize) -> Result<Value, ModelError> {
    const TOLERANCE: f64 = 1e-4;
    let factor = freqs.last().copied().map(f64::from).filter(|factor| *factor >= 1.0);
    let unknown = || ModelError::Unsupported(format!("{ROPE_FREQS:?} of an unknown scaling"));
    let factor = factor.filter(|_| freqs.len().checked_mul(2) == Some(head_dim));
    let factor = factor.ok_or_else(unknown)?;
    let scaling = RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let plain = inverse_frequencies(head_dim, theta, RopeScaling::None);
    let scaled = inverse_frequencies(head_dim, theta, scaling);
    let agree = freqs.iter().zip(plain.iter().zip(&scaled)).all(|(freq, (plain, scaled))| {
        let expected = f64::from(*plain) / f64::from(*scaled);
        (f64::from(*freq) / expected - 1.0).abs() < TOLERANCE
    });
    if !agree {
        return Err(unknown());
    }
    Ok(json!({
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }))
}

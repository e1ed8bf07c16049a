//! A model's configuration: Hugging Face's `config.json` of the Llama family, checked.
//!
//! What would change the arithmetic and is not implemented is refused here by name, so that no
//! later code meets a configuration it does not honour. It reads no file.

use candle_core::DType;
use serde_json::Value;

use super::error::ModelError;
use super::fields::{Fields, invalid};
use crate::kv_cache::storage::KvShape;
use crate::layers::rotary::RopeScaling;

/// The largest value accepted for any dimension; keeps every product of two within 64 bits.
const MAX_DIM: u64 = 1 << 24;
/// The most decoder layers accepted.
const MAX_LAYERS: u64 = 4096;
/// The widest attention head accepted.
const MAX_HEAD_DIM: u64 = 4096;

/// Fields that change the forward pass of a Llama when they are set, and what leaves it as it is.
const NEUTRAL: [(&str, Neutral); 15] = [
    ("sliding_window", Neutral::Absent),
    ("use_sliding_window", Neutral::False),
    ("quantization_config", Neutral::Absent),
    ("compression_config", Neutral::Absent),
    ("attn_logit_softcapping", Neutral::Absent),
    ("final_logit_softcapping", Neutral::Absent),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("embedding_multiplier", Neutral::One),
    ("residual_multiplier", Neutral::One),
    ("attention_multiplier", Neutral::Absent),
    ("partial_rotary_factor", Neutral::One),
    ("num_local_experts", Neutral::Absent),
    ("no_rope_layers", Neutral::Absent),
    ("use_qk_norm", Neutral::False),
];

#[derive(Debug, Clone, Copy)]
enum Neutral {
    Absent,
    False,
    One,
}

/// A Llama's shape and constants. Every combination that [`ModelConfig::from_json`] returns is
/// consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square before its root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// The output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on q, k, v and o.
    pub attention_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// The dtype the checkpoint says it was trained or saved in.
    pub dtype: Option<DType>,
    /// Token that opens a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; may be empty.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Reads a parsed `config.json`, of transformers 4 or 5.
    ///
    /// # Errors
    /// Where a field is missing, out of range or contradicts another, and where the model is not a
    /// Llama this server computes: the offending field is named.
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let fields = Fields::new(value, "config.json")?;
        refuse_unsupported(&fields)?;
        let dim = |name| fields.integer(name, 1..=MAX_DIM);
        let need = |name: &'static str| dim(name)?.ok_or(ModelError::MissingField(name));
        let hidden_size = need("hidden_size")?;
        let num_attention_heads = need("num_attention_heads")?;
        let (rope_theta, rope_scaling) = rope(&fields)?;
        let config = Self {
            hidden_size,
            intermediate_size: need("intermediate_size")?,
            num_hidden_layers: fields
                .integer("num_hidden_layers", 1..=MAX_LAYERS)?
                .ok_or(ModelError::MissingField("num_hidden_layers"))?,
            num_attention_heads,
            num_key_value_heads: dim("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim: head_dim(&fields, hidden_size, num_attention_heads)?,
            vocab_size: need("vocab_size")?,
            max_position_embeddings: dim("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: fields
                .number("rms_norm_eps", "a number in 0..1", |eps| (0.0..1.0).contains(&eps))?
                .unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: fields.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
            dtype: dtype(&fields)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
        };
        config.check()?;
        Ok(config)
    }

    /// What one token takes in the key-value cache.
    #[must_use]
    pub fn kv_shape(&self) -> KvShape {
        KvShape {
            num_layers: self.num_hidden_layers,
            num_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads % kv_heads != 0 {
            let expected = format!("a divisor of num_attention_heads, {heads}");
            return Err(invalid("num_key_value_heads", &kv_heads.into(), &expected));
        }
        let width = heads as u64 * self.head_dim as u64;
        if width > MAX_DIM {
            let expected = format!("num_attention_heads x head_dim of at most {MAX_DIM}");
            return Err(invalid("head_dim", &self.head_dim.into(), &expected));
        }
        Ok(())
    }
}

fn head_dim(fields: &Fields<'_>, hidden: usize, heads: usize) -> Result<usize, ModelError> {
    let head_dim = match fields.integer("head_dim", 1..=MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let expected = format!("a divisor of hidden_size, {hidden}, where head_dim is absent");
            return Err(invalid("num_attention_heads", &heads.into(), &expected));
        }
    };
    if head_dim % 2 != 0 || head_dim as u64 > MAX_HEAD_DIM {
        let expected = format!("an even number up to {MAX_HEAD_DIM}");
        return Err(invalid("head_dim", &head_dim.into(), &expected));
    }
    Ok(head_dim)
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ModelError> {
    let refuse = |what: String| Err(ModelError::Unsupported(what));
    match fields.string("model_type")?.ok_or(ModelError::MissingField("model_type"))? {
        "llama" => {}
        other => return refuse(format!("model_type {other:?}")),
    }
    match fields.string("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => {}
        other => return refuse(format!("hidden_act {other:?}")),
    }
    for (name, neutral) in NEUTRAL {
        let Some(value) = fields.get(name) else { continue };
        let harmless = match neutral {
            Neutral::Absent => false,
            Neutral::False => value == &Value::Bool(false),
            Neutral::One => value.as_f64() == Some(1.0),
        };
        if !harmless {
            return refuse(format!("{name} in the configuration"));
        }
    }
    if let Some(Value::Array(kinds)) = fields.get("layer_types")
        && let Some(other) = kinds.iter().find(|kind| kind.as_str() != Some("full_attention"))
    {
        return refuse(format!("layer type {other}"));
    }
    Ok(())
}

fn dtype(fields: &Fields<'_>) -> Result<Option<DType>, ModelError> {
    let name = match fields.string("torch_dtype")? {
        Some(name) => Some(name),
        None => fields.string("dtype")?,
    };
    match name.map(|name| name.trim_start_matches("torch.")) {
        None => Ok(None),
        Some("float32") => Ok(Some(DType::F32)),
        Some("float16") => Ok(Some(DType::F16)),
        Some("bfloat16") => Ok(Some(DType::BF16)),
        Some(other) => Err(ModelError::Unsupported(format!("torch_dtype {other:?}"))),
    }
}

/// The rotary base and scaling: transformers 5 holds both under `rope_parameters`, transformers 4
/// has `rope_theta` beside `rope_scaling`.
fn rope(fields: &Fields<'_>) -> Result<(f64, RopeScaling), ModelError> {
    let theta =
        |fields: &Fields<'_>| fields.number("rope_theta", "a number ≥ 1", |theta| theta >= 1.0);
    let outer = theta(fields)?;
    let parameters = fields.object("rope_parameters")?;
    let inner = parameters.as_ref().map(theta).transpose()?.flatten();
    let scaling = match (parameters, fields.object("rope_scaling")?) {
        (Some(parameters), _) => rope_scaling(&parameters)?,
        (None, Some(scaling)) => rope_scaling(&scaling)?,
        (None, None) => RopeScaling::None,
    };
    Ok((inner.or(outer).unwrap_or(10_000.0), scaling))
}

fn rope_scaling(fields: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    if fields.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
        return Err(ModelError::Unsupported(
            "partial_rotary_factor in the configuration".to_owned(),
        ));
    }
    let kind = match fields.string("rope_type")? {
        Some(kind) => kind,
        None => fields.string("type")?.ok_or(ModelError::MissingField("rope_type"))?,
    };
    let need = |name: &'static str| {
        let value = fields.number(name, "a number > 0", |number| number > 0.0)?;
        value.ok_or(ModelError::MissingField(name))
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                let expected = format!("more than low_freq_factor, {low}");
                return Err(invalid("high_freq_factor", &high.into(), &expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: need("original_max_position_embeddings")?,
            })
        }
        other => Err(ModelError::Unsupported(format!("rope_scaling type {other:?}"))),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

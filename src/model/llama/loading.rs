//! A Llama out of its checkpoint, part by part: the largest first, several at a time.

use std::collections::BTreeSet;

use super::{DecoderLayer, LlamaForCausalLm};
use crate::layers::attention::SelfAttention;
use crate::layers::embedding::Embedding;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::paged::HeadShape;
use crate::layers::rms_norm::RmsNorm;
use crate::layers::rotary::RotaryEmbedding;
use crate::model::builder::{Builder, LoadOptions, Taken};
use crate::model::config::ModelConfig;
use crate::model::error::ModelError;
use crate::model::parts;
use crate::model::weights::Weights;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head";
/// Linear modules of a decoder layer.
const LAYER_MODULES: usize = 7;

/// What one thread loads at a time.
enum Part {
    /// What lies around the layers.
    Ends(Ends),
    /// An output head of its own.
    Head(Linear),
    Layer(Box<DecoderLayer>),
}

struct Ends {
    embed_tokens: Embedding,
    tied_head: Option<Linear>,
    norm: RmsNorm,
    rotary: RotaryEmbedding,
}

pub(super) fn load(
    config: &ModelConfig,
    weights: &Weights,
    options: LoadOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<LlamaForCausalLm, ModelError> {
    // The ends are larger than a layer and come first, so that no thread is left with one alone.
    let ends = if config.tie_word_embeddings { 1 } else { 2 };
    let build = |index: usize, progress: &dyn Fn(u64)| {
        let layer = index.checked_sub(ends);
        let first_module = layer.unwrap_or(config.num_hidden_layers) * LAYER_MODULES;
        let mut builder = Builder::new(config, weights, &options, first_module, progress);
        let part = match (index, layer) {
            (_, Some(layer)) => Part::Layer(Box::new(DecoderLayer::load(&mut builder, layer)?)),
            (0, None) => Part::Ends(Ends::load(&mut builder)?),
            (_, None) => {
                let shape = (config.vocab_size, config.hidden_size);
                Part::Head(builder.linear(HEAD.to_owned(), shape, false)?)
            }
        };
        Ok((part, builder.finish()))
    };
    let count = ends + config.num_hidden_layers;
    let parts = parts::load(options.parallelism, count, build, progress)?;
    assemble(config, weights, options, parts)
}

/// Puts the parts together; every tensor of `weights` must belong to one.
fn assemble(
    config: &ModelConfig,
    weights: &Weights,
    options: LoadOptions,
    parts: Vec<(Part, Taken)>,
) -> Result<LlamaForCausalLm, ModelError> {
    let (mut ends, mut head, mut layers) = (None, None, Vec::new());
    let (mut modules, mut head_modules, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (part, taken) in parts {
        used.extend(taken.tensors);
        match part {
            Part::Ends(part) => ends = Some(part),
            Part::Head(part) => {
                head = Some(part);
                head_modules = taken.modules;
            }
            Part::Layer(layer) => {
                layers.push(*layer);
                modules.extend(taken.modules);
            }
        }
    }
    modules.extend(head_modules);
    weights.ensure_used(&used)?;
    let missing = |name: &str| ModelError::MissingTensor(name.to_owned());
    let Ends { embed_tokens, tied_head, norm, rotary } = ends.ok_or_else(|| missing(EMBEDDING))?;
    let lm_head = tied_head.or(head).ok_or_else(|| missing(HEAD))?;
    let config = config.clone();
    Ok(LlamaForCausalLm { config, modules, embed_tokens, layers, norm, lm_head, rotary, options })
}

impl Ends {
    fn load(builder: &mut Builder<'_>) -> Result<Self, ModelError> {
        let config = builder.config();
        let shape = (config.vocab_size, config.hidden_size);
        let (embed_tokens, tied_head) = builder.embedding(EMBEDDING, shape)?;
        let norm = builder.rms_norm("model.norm")?;
        Ok(Self { embed_tokens, tied_head, norm, rotary: builder.rotary()? })
    }
}

impl DecoderLayer {
    fn load(builder: &mut Builder<'_>, index: usize) -> Result<Self, ModelError> {
        let config = builder.config();
        let heads = HeadShape {
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (heads.num_heads * heads.head_dim, heads.num_kv_heads * heads.head_dim);
        let path = |name: &str| format!("model.layers.{index}.{name}");
        let (attn_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
        Ok(Self {
            input_layernorm: builder.rms_norm(&path("input_layernorm"))?,
            self_attn: SelfAttention {
                q_proj: builder.linear(path("self_attn.q_proj"), (q, hidden), attn_bias)?,
                k_proj: builder.linear(path("self_attn.k_proj"), (kv, hidden), attn_bias)?,
                v_proj: builder.linear(path("self_attn.v_proj"), (kv, hidden), attn_bias)?,
                o_proj: builder.linear(path("self_attn.o_proj"), (hidden, q), attn_bias)?,
                heads,
            },
            post_attention_layernorm: builder.rms_norm(&path("post_attention_layernorm"))?,
            mlp: Mlp {
                gate_proj: builder.linear(path("mlp.gate_proj"), (inner, hidden), mlp_bias)?,
                up_proj: builder.linear(path("mlp.up_proj"), (inner, hidden), mlp_bias)?,
                down_proj: builder.linear(path("mlp.down_proj"), (hidden, inner), mlp_bias)?,
                backend: builder.backend(),
            },
        })
    }
}

//! The Llama family (arXiv 2302.13971, 2407.21783): what it is made of and in which order.

mod loading;

use candle_core::{DType, Tensor, bail};

use super::builder::LoadOptions;
use super::config::ModelConfig;
use super::contract::{CausalLm, ForwardInput, ForwardOutput};
use super::error::ModelError;
use super::weights::Weights;
use crate::adapter::delta::{LowRankDelta, ModuleSpec};
use crate::adapter::segments::Segments;
use crate::kv_cache::storage::{KvCache, LayerKv};
use crate::layers::attention::SelfAttention;
use crate::layers::buffer::{self, recycle};
use crate::layers::embedding::Embedding;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::paged::{AttentionSpan, PagedBatch};
use crate::layers::rms_norm::RmsNorm;
use crate::layers::rotary::{RotaryEmbedding, Rotation};

/// A decoder with its output head.
#[derive(Debug)]
pub struct LlamaForCausalLm {
    config: ModelConfig,
    modules: Vec<ModuleSpec>,
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: Linear,
    rotary: RotaryEmbedding,
    options: LoadOptions,
}

#[derive(Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl LlamaForCausalLm {
    /// Loads the model that `config` describes from `weights`; `progress` is told the elements of
    /// each tensor as it arrives, [`Weights::total_elements`] in all.
    ///
    /// # Errors
    /// Where a tensor is missing, of another shape or type, or left over.
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ModelError> {
        loading::load(config, weights, options, progress)
    }

    /// What it was loaded from.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The dtypes that the key-value cache may have, the usual one first.
    #[must_use]
    pub fn kv_cache_dtypes(&self) -> Vec<DType> {
        self.options.backend.kv_cache_dtypes(self.options.dtype)
    }

    /// The dtype of activations.
    #[must_use]
    pub fn activation_dtype(&self) -> DType {
        self.options.backend.activation_dtype(self.options.dtype)
    }

    /// The modules, in the order of [`CausalLm::modules`].
    fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        let head = (!self.config.tie_word_embeddings).then_some(&mut self.lm_head);
        self.layers.iter_mut().flat_map(DecoderLayer::linears).chain(head)
    }

    fn check(&self, input: &ForwardInput<'_>, cache: &KvCache) -> candle_core::Result<()> {
        let rows = input.input_ids.len();
        if input.positions.len() != rows || input.slot_mapping.len() != rows || rows == 0 {
            let (positions, slots) = (input.positions.len(), input.slot_mapping.len());
            bail!("{rows} tokens with {positions} positions and {slots} slots")
        }
        let mut wanted = input.logit_rows.iter().chain(input.hidden_rows);
        if let Some(row) = wanted.find(|row| **row as usize >= rows) {
            bail!("what comes of row {row} of {rows}")
        }
        let (found, dtypes) = (cache.dtype(), self.kv_cache_dtypes());
        if !dtypes.contains(&found) {
            bail!("a key-value cache of {found:?} where it may be one of {dtypes:?}")
        }
        Ok(())
    }

    fn logits(&self, x: &Tensor, rows: &[u32], segments: &Segments) -> candle_core::Result<Tensor> {
        if rows.is_empty() {
            return Tensor::zeros((0, self.config.vocab_size), DType::F32, &self.options.device);
        }
        let normed = self.normed(x, rows)?;
        let logits = self.lm_head.forward(&normed, segments)?;
        recycle(normed);
        logits.to_dtype(DType::F32)
    }

    fn hidden_states(&self, x: &Tensor, rows: &[u32]) -> candle_core::Result<Tensor> {
        if rows.is_empty() {
            return Tensor::zeros((0, self.config.hidden_size), DType::F32, &self.options.device);
        }
        self.normed(x, rows)?.to_dtype(DType::F32)
    }

    /// Those rows after the final norm.
    fn normed(&self, x: &Tensor, rows: &[u32]) -> candle_core::Result<Tensor> {
        if rows.iter().copied().eq(0..x.dims()[0] as u32) {
            return self.norm.forward(x);
        }
        let index = Tensor::new(rows, &self.options.device)?;
        self.norm.forward(&x.index_select(&index, 0)?)
    }
}

impl CausalLm for LlamaForCausalLm {
    fn forward(
        &self,
        input: &ForwardInput<'_>,
        kv_cache: &mut KvCache,
    ) -> candle_core::Result<ForwardOutput> {
        self.check(input, kv_cache)?;
        let spans = input.sequences.iter().map(|sequence| AttentionSpan {
            rows: sequence.rows.clone(),
            context_len: sequence.context_len,
            block_table: sequence.block_table.iter().map(|block| block.0).collect(),
        });
        let pool = (kv_cache.num_slots(), kv_cache.block_size());
        let (device, backend) = (&self.options.device, self.options.backend);
        let batch = PagedBatch::new(input.slot_mapping, spans.collect(), pool, device, backend)?;
        let rotation = self.rotary.at(input.positions)?;
        let mut x = self.embed_tokens.forward(input.input_ids, self.activation_dtype())?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &rotation, &batch, input.segments, kv_cache.layer(index))?;
        }
        Ok(ForwardOutput {
            logits: self.logits(&x, input.logit_rows, input.logit_segments)?,
            hidden_states: self.hidden_states(&x, input.hidden_rows)?,
        })
    }

    fn take_back(&self, values: Vec<f32>) {
        buffer::keep(values);
    }

    fn modules(&self) -> &[ModuleSpec] {
        &self.modules
    }

    fn prepare(&self, delta: &LowRankDelta) -> candle_core::Result<LowRankDelta> {
        let LoadOptions { dtype, backend, factors, ref device, .. } = self.options;
        backend.prepare(delta, dtype, factors, device)
    }

    fn merge(&mut self, delta: &LowRankDelta) -> candle_core::Result<()> {
        // All shapes first: a delta that does not fit must leave every weight as it was.
        for (index, linear) in self.linears().enumerate() {
            delta.factors(index).map_or(Ok(()), |factors| linear.check(factors))?;
        }
        for (index, linear) in self.linears().enumerate() {
            delta.factors(index).map_or(Ok(()), |factors| linear.merge(factors))?;
        }
        Ok(())
    }
}

impl DecoderLayer {
    fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        let (attn, mlp) = (&mut self.self_attn, &mut self.mlp);
        let attn = [&mut attn.q_proj, &mut attn.k_proj, &mut attn.v_proj, &mut attn.o_proj];
        attn.into_iter().chain([&mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj])
    }

    fn forward(
        &self,
        x: Tensor,
        rotation: &Rotation<'_>,
        batch: &PagedBatch<'_>,
        segments: &Segments,
        cache: &LayerKv,
    ) -> candle_core::Result<Tensor> {
        let normed = self.input_layernorm.forward(&x)?;
        let mixed = self.self_attn.attend(&normed, rotation, batch, segments, cache)?;
        recycle(normed);
        let x = self.self_attn.o_proj.forward_add(&mixed, segments, x)?;
        recycle(mixed);
        let normed = self.post_attention_layernorm.forward(&x)?;
        let x = self.mlp.forward_add(&normed, segments, x)?;
        recycle(normed);
        Ok(x)
    }
}

//! What the engine may ask of a model, and what it hands over for one forward pass.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::adapter::delta::{LowRankDelta, ModuleSpec};
use crate::adapter::segments::Segments;
use crate::kv_cache::BlockId;
use crate::kv_cache::storage::KvCache;
use crate::layers::buffer::into_values;

/// One sequence's part of a batch: a chunk of its prompt, or one decode token.
#[derive(Debug, Clone)]
pub struct SequenceSpan<'a> {
    /// Its rows in the batch, half open; never empty.
    pub rows: Range<usize>,
    /// Tokens in the cache once this batch has run. Row `i` of the span sees keys
    /// `0 .. context_len - rows.len() + i + 1`.
    pub context_len: usize,
    /// Blocks of the sequence in token order, at least `ceil(context_len / block_size)` of them.
    pub block_table: &'a [BlockId],
}

/// One forward pass: prefill chunks and decodes of any adapters, rows concatenated.
#[derive(Debug)]
pub struct ForwardInput<'a> {
    /// Token of each row.
    pub input_ids: &'a [u32],
    /// Position of each row within its sequence.
    pub positions: &'a [u32],
    /// Cache slot into which each row's key and value go.
    pub slot_mapping: &'a [u32],
    /// The sequences, covering all rows in order.
    pub sequences: &'a [SequenceSpan<'a>],
    /// Which rows belong to which adapter.
    pub segments: &'a Segments,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
    /// Adapters of the logit rows, indexed by position in `logit_rows`.
    pub logit_segments: &'a Segments,
    /// Rows whose hidden states are wanted, ascending.
    pub hidden_rows: &'a [u32],
}

/// What one forward pass computed, float32, on the model's device.
#[derive(Debug)]
pub struct ForwardOutput {
    /// `logit_rows.len() x vocab_size`.
    pub logits: Tensor,
    /// What the output head reads, after the final norm: `hidden_rows.len() x hidden_size`.
    pub hidden_states: Tensor,
}

impl ForwardOutput {
    /// The elements of the logits and of the hidden states, on the host.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn into_values(self) -> Result<[Vec<f32>; 2]> {
        Ok([into_values(&self.logits)?, into_values(&self.hidden_states)?])
    }
}

/// A decoder that predicts the next token.
pub trait CausalLm: Send {
    /// Runs all rows, writes their keys and values into `kv_cache`, and returns what is wanted of
    /// them.
    ///
    /// On a CPU a row's result is bit-identical whatever else is in the batch and however its
    /// prompt was chunked.
    ///
    /// # Errors
    /// Where the device fails or shapes disagree. The cache slots of the batch are then undefined.
    fn forward(&self, input: &ForwardInput<'_>, kv_cache: &mut KvCache) -> Result<ForwardOutput>;

    /// Memory of an output that is done with, for the next one's: a row of logits is as long as the
    /// vocabulary. To be called by the thread that calls [`CausalLm::forward`].
    fn take_back(&self, _values: Vec<f32>) {}

    /// The linear modules that adapters may target; an adapter's factors are indexed alike.
    fn modules(&self) -> &[ModuleSpec];

    /// `delta` in the form in which this model's batches take it.
    ///
    /// # Errors
    /// Where the device fails, or a factor overflows the type it is held in.
    fn prepare(&self, delta: &LowRankDelta) -> Result<LowRankDelta>;

    /// Folds a delta into the weights: float32 sum, one rounding to the weight's dtype.
    ///
    /// # Errors
    /// Where the device fails or a shape disagrees.
    fn merge(&mut self, delta: &LowRankDelta) -> Result<()>;
}

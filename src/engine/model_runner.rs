//! Runs a batch on the device. The only part of the engine that sees tensors.

use candle_core::{Error, Result, bail};

use super::batch::{Batch, BatchItem};
use super::guard::guarded;
use crate::kv_cache::block_manager::BlockCopy;
use crate::kv_cache::storage::KvCache;
use crate::model::contract::{CausalLm, ForwardInput, SequenceSpan};

/// The model with its cache.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    kv_cache: KvCache,
}

/// What a step computed, on the host.
#[derive(Debug)]
pub struct Outputs {
    /// One row per [`Batch::logit_rows`].
    pub logits: Rows,
    /// One row per [`Batch::hidden_rows`].
    pub hidden_states: Rows,
}

/// Float32 rows of one length.
#[derive(Debug)]
pub struct Rows {
    values: Vec<f32>,
    len: usize,
}

impl ModelRunner {
    /// A runner over a cache of the model's shape.
    #[must_use]
    pub fn new(model: Box<dyn CausalLm>, kv_cache: KvCache) -> Self {
        Self { model, kv_cache }
    }

    /// Copies shared blocks, before anything of their batch is written.
    ///
    /// # Errors
    /// Where the device fails. Some of the copies may then have been made.
    pub fn copy(&mut self, copies: &[BlockCopy]) -> Result<()> {
        let pairs: Vec<_> = copies.iter().map(|copy| (copy.from, copy.to)).collect();
        guarded("copying blocks", || self.kv_cache.copy_blocks(&pairs)).map_err(Error::msg)?
    }

    /// Runs the rows of a batch whose copies are made, and brings what is wanted of them to the
    /// host.
    ///
    /// # Errors
    /// Where the device fails or the model panics. The slots of the rows are then undefined.
    pub fn execute(&mut self, batch: &Batch) -> Result<Outputs> {
        guarded("the model", || self.forward(batch)).map_err(Error::msg)?
    }

    fn forward(&mut self, batch: &Batch) -> Result<Outputs> {
        let sequences: Vec<_> = batch.items.iter().map(span).collect();
        let input = ForwardInput {
            input_ids: &batch.input_ids,
            positions: &batch.positions,
            slot_mapping: &batch.slot_mapping,
            sequences: &sequences,
            segments: &batch.segments,
            logit_rows: &batch.logit_rows,
            logit_segments: &batch.logit_segments,
            hidden_rows: &batch.hidden_rows,
        };
        let output = self.model.forward(&input, &mut self.kv_cache)?;
        let (logit_rows, vocab_size) = output.logits.dims2()?;
        let (hidden_rows, hidden_size) = output.hidden_states.dims2()?;
        if (logit_rows, hidden_rows) != (batch.logit_rows.len(), batch.hidden_rows.len()) {
            bail!("the model gave {logit_rows} rows of logits and {hidden_rows} of hidden states")
        }
        let [logits, hidden_states] = output.into_values()?;
        Ok(Outputs {
            logits: Rows { values: logits, len: vocab_size },
            hidden_states: Rows { values: hidden_states, len: hidden_size },
        })
    }

    /// Takes back what a step computed, once it has been read.
    pub fn take_back(&self, outputs: Outputs) {
        self.model.take_back(outputs.logits.values);
    }
}

fn span(item: &BatchItem) -> SequenceSpan<'_> {
    SequenceSpan {
        rows: item.rows.clone(),
        context_len: item.context_len,
        block_table: &item.block_table,
    }
}

impl Rows {
    /// Row `index`.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.len..(index + 1) * self.len]
    }
}

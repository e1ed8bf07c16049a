//! Runs a batch on the device. The only part of the engine that sees tensors.

use candle_core::Result;

use super::batch::{Batch, BatchItem};
use crate::kv_cache::storage::KvCache;
use crate::model::contract::{CausalLm, ForwardInput, SequenceSpan};

/// The model with its cache.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    kv_cache: KvCache,
}

/// Float32 logits on the host, one row per wanted row of the batch.
#[derive(Debug)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
}

impl ModelRunner {
    /// A runner over a cache of the model's shape.
    #[must_use]
    pub fn new(model: Box<dyn CausalLm>, kv_cache: KvCache) -> Self {
        Self { model, kv_cache }
    }

    /// Copies shared blocks, runs the rows, brings the logits to the host.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn execute(&mut self, batch: &Batch) -> Result<Logits> {
        let pairs: Vec<_> = batch.copies.iter().map(|copy| (copy.from, copy.to)).collect();
        self.kv_cache.copy_blocks(&pairs)?;
        let sequences: Vec<_> = batch.items.iter().map(span).collect();
        let input = ForwardInput {
            input_ids: &batch.input_ids,
            positions: &batch.positions,
            slot_mapping: &batch.slot_mapping,
            sequences: &sequences,
            segments: &batch.segments,
            logit_rows: &batch.logit_rows,
            logit_segments: &batch.logit_segments,
        };
        let logits = self.model.forward(&input, &mut self.kv_cache)?;
        let (_, vocab_size) = logits.dims2()?;
        Ok(Logits { values: logits.flatten_all()?.to_vec1()?, vocab_size })
    }
}

fn span(item: &BatchItem) -> SequenceSpan<'_> {
    SequenceSpan {
        rows: item.rows.clone(),
        context_len: item.context_len,
        block_table: &item.block_table,
    }
}

impl Logits {
    /// Row `index`.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab_size..(index + 1) * self.vocab_size]
    }
}

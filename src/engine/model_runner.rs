//! Runs a batch on the device. The only part of the engine that sees tensors.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::batch::{Batch, BatchItem};
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

    /// Copies shared blocks, runs the rows, brings what is wanted of them to the host.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn execute(&mut self, batch: &Batch) -> Result<Outputs> {
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
            hidden_rows: &batch.hidden_rows,
        };
        let output = self.model.forward(&input, &mut self.kv_cache)?;
        Ok(Outputs {
            logits: Rows::new(output.logits)?,
            hidden_states: Rows::new(output.hidden_states)?,
        })
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
    /// Those of a tensor that is nobody else's: on a CPU they are not copied, for a row is as long
    /// as the vocabulary.
    fn new(tensor: Tensor) -> Result<Self> {
        let (_, len) = tensor.dims2()?;
        let on_host = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        drop(tensor);
        let taken = Take(Cell::default());
        on_host.inplace_op1(&taken)?;
        Ok(Self { values: taken.0.take(), len })
    }

    /// Row `index`.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.len..(index + 1) * self.len]
    }
}

/// Takes a tensor's elements out of it.
struct Take(Cell<Vec<f32>>);

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((0, end))) if end == values.len() => {
                self.0.set(std::mem::take(values));
                Ok(())
            }
            _ => bail!("bug: a part of a tensor is taken, or one that is not float32"),
        }
    }
}

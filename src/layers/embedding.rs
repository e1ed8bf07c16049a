//! The token embedding: one row of the table per token.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

use crate::kernels::Panels;

/// A table, `vocab_size x hidden_size`.
#[derive(Debug)]
pub struct Embedding(Table);

#[derive(Debug)]
enum Table {
    Tensor(Tensor),
    /// Shared with the output head.
    Panels(Arc<Panels>),
}

impl Embedding {
    /// An embedding by this table.
    #[must_use]
    pub fn new(table: Tensor) -> Self {
        Self(Table::Tensor(table))
    }

    /// An embedding by the packed weight of the output head, on a CPU.
    #[must_use]
    pub fn packed(table: Arc<Panels>) -> Self {
        Self(Table::Panels(table))
    }

    /// The rows of `ids`, `ids.len() x hidden_size`, in `dtype`.
    ///
    /// # Errors
    /// Where a token lies beyond the table, or the device fails.
    pub fn forward(&self, ids: &[u32], dtype: DType) -> Result<Tensor> {
        let vocab_size = match &self.0 {
            Table::Tensor(table) => table.dims()[0],
            Table::Panels(panels) => panels.out_features(),
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            bail!("token {id} lies beyond the vocabulary of {vocab_size}")
        }
        match &self.0 {
            Table::Tensor(table) => {
                let ids = Tensor::new(ids, table.device())?;
                table.index_select(&ids, 0)?.to_dtype(dtype)
            }
            Table::Panels(panels) => {
                let width = panels.in_features();
                let mut rows = vec![bf16::ZERO; ids.len() * width];
                for (id, row) in ids.iter().zip(rows.chunks_mut(width)) {
                    panels.read_row(*id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), width), &Device::Cpu)?.to_dtype(dtype)
            }
        }
    }
}

//! The token embedding: one row of the table per token.

use candle_core::{DType, Result, Tensor, bail};

/// A table, `vocab_size x hidden_size`.
#[derive(Debug)]
pub struct Embedding {
    table: Tensor,
}

impl Embedding {
    /// An embedding by this table.
    #[must_use]
    pub fn new(table: Tensor) -> Self {
        Self { table }
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    /// The rows of `ids`, `ids.len() x hidden_size`, in `dtype`.
    ///
    /// # Errors
    /// Where a token lies beyond the table, or the device fails.
    pub fn forward(&self, ids: &[u32], dtype: DType) -> Result<Tensor> {
        let vocab_size = self.table.dims()[0];
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            bail!("token {id} lies beyond the vocabulary of {vocab_size}")
        }
        let ids = Tensor::new(ids, self.table.device())?;
        self.table.index_select(&ids, 0)?.to_dtype(dtype)
    }
}

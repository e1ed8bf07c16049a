//! The token embedding: one row of the table per token.

use candle_core::{DType, Result, Tensor, bail};

use super::packed_weight::PackedWeight;

/// A table, `vocab_size x hidden_size`.
#[derive(Debug)]
pub struct Embedding(Table);

#[derive(Debug)]
enum Table {
    Tensor(Tensor),
    /// It may be the output head's.
    Packed(PackedWeight),
}

impl Embedding {
    /// An embedding by this table.
    #[must_use]
    pub fn new(table: Tensor) -> Self {
        Self(Table::Tensor(table))
    }

    /// An embedding by a packed weight, which the output head may share, on a CPU.
    #[must_use]
    pub fn packed(table: PackedWeight) -> Self {
        Self(Table::Packed(table))
    }

    /// The rows of `ids`, `ids.len() x hidden_size`, in `dtype`.
    ///
    /// # Errors
    /// Where a token lies beyond the table, or the device fails.
    pub fn forward(&self, ids: &[u32], dtype: DType) -> Result<Tensor> {
        let vocab_size = match &self.0 {
            Table::Tensor(table) => table.dims()[0],
            Table::Packed(table) => table.out_features(),
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            bail!("token {id} lies beyond the vocabulary of {vocab_size}")
        }
        match &self.0 {
            Table::Tensor(table) => {
                let ids = Tensor::new(ids, table.device())?;
                table.index_select(&ids, 0)?.to_dtype(dtype)
            }
            Table::Packed(table) => table.rows(ids, dtype),
        }
    }
}

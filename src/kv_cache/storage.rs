//! The tensors behind the block pool: per layer one key and one value tensor of all slots.
//!
//! Slot `block * block_size + offset` is one token's row. Who owns which block is not known here:
//! that is [`super::block_manager`]'s.

use candle_core::{DType, Device, Result, Tensor};

use super::BlockId;

/// What fixes the size of one token's entry.
#[derive(Debug, Clone, Copy)]
pub struct KvShape {
    /// Decoder layers.
    pub num_layers: usize,
    /// Key-value heads per layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes that one token takes over all layers, keys and values.
    #[must_use]
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.size_in_bytes()
    }
}

/// One layer's keys and values, each `num_slots x (num_kv_heads * head_dim)`, contiguous.
#[derive(Debug, Clone)]
pub struct LayerKv {
    /// Keys, rotary embedding already applied.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

/// The whole pool.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerKv>,
    block_size: usize,
}

impl KvCache {
    /// Allocates `num_blocks` blocks of `block_size` tokens, once, at start.
    ///
    /// # Errors
    /// Where the device cannot hold them.
    pub fn new(
        shape: KvShape,
        num_blocks: usize,
        block_size: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let dims = (num_blocks * block_size, shape.num_kv_heads * shape.head_dim);
        let layer = |_| {
            Ok(LayerKv {
                keys: Tensor::zeros(dims, dtype, device)?,
                values: Tensor::zeros(dims, dtype, device)?,
            })
        };
        let layers = (0..shape.num_layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, block_size })
    }

    /// Tokens per block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The tensors of decoder layer `index`.
    #[must_use]
    pub fn layer(&self, index: usize) -> &LayerKv {
        &self.layers[index]
    }

    /// Copies whole blocks, `(from, to)` each, in every layer: the copy of copy-on-write.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn copy_blocks(&self, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for layer in &self.layers {
            for tensor in [&layer.keys, &layer.values] {
                for (from, to) in pairs {
                    let start = from.0 as usize * self.block_size;
                    let rows = tensor.narrow(0, start, self.block_size)?.copy()?;
                    tensor.slice_set(&rows, 0, to.0 as usize * self.block_size)?;
                }
            }
        }
        Ok(())
    }
}

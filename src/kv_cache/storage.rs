//! The tensors behind the block pool: per layer one key and one value tensor of all blocks.
//!
//! Slot `block * block_size + offset` is one token's place. Who owns which block is not known here:
//! that is [`super::block_manager`]'s; nor how the tokens of a bfloat16 block lie on a CPU: that is
//! the kernels'.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

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

/// One layer's keys and values, contiguous: each `num_slots x (num_kv_heads * head_dim)`, or for
/// bfloat16 on a CPU `num_blocks x` the elements of a block.
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
    num_blocks: usize,
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
        let KvShape { num_layers, num_kv_heads, head_dim } = shape;
        let (keys, values) = if dtype == DType::BF16 && device.is_cpu() {
            // Neighbours lie in pairs, of dimensions in keys and of tokens in values.
            let keys = num_kv_heads * head_dim.next_multiple_of(2) * block_size;
            let values = num_kv_heads * head_dim * block_size.next_multiple_of(2);
            ((num_blocks, keys), (num_blocks, values))
        } else {
            let dims = (num_blocks * block_size, num_kv_heads * head_dim);
            (dims, dims)
        };
        let layer = |_| {
            Ok(LayerKv {
                keys: Tensor::zeros(keys, dtype, device)?,
                values: Tensor::zeros(values, dtype, device)?,
            })
        };
        // Several threads: to be sure of the memory means to write all of it.
        let layers = (0..num_layers).into_par_iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, num_blocks, block_size })
    }

    /// Tokens that fit.
    #[must_use]
    pub fn num_slots(&self) -> usize {
        self.num_blocks * self.block_size
    }

    /// The type of keys and values.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.layers.first().map_or(DType::F32, |layer| layer.keys.dtype())
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
                let rows = tensor.dims()[0] / self.num_blocks.max(1);
                for (from, to) in pairs {
                    // `copy` would copy all that the block is a part of.
                    let block = tensor.narrow(0, from.0 as usize * rows, rows)?;
                    let block = block.force_contiguous()?;
                    tensor.slice_set(&block, 0, to.0 as usize * rows)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_block_is_the_whole_block_and_nothing_else() {
        let shape = KvShape { num_layers: 2, num_kv_heads: 3, head_dim: 4 };
        for dtype in [DType::F32, DType::BF16] {
            let cache = KvCache::new(shape, 3, 5, dtype, &Device::Cpu).unwrap();
            assert_eq!((cache.num_slots(), cache.dtype()), (15, dtype));
            let tensors = || (0..2).flat_map(|i| [&cache.layer(i).keys, &cache.layer(i).values]);
            let contents = || {
                let flat =
                    |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
                tensors().map(flat).collect::<Result<Vec<_>>>().unwrap()
            };
            for tensor in tensors() {
                let len = tensor.elem_count() as u32;
                let numbers = Tensor::arange(0, len, &Device::Cpu).unwrap();
                let numbers = numbers.to_dtype(dtype).unwrap().reshape(tensor.shape()).unwrap();
                tensor.slice_set(&numbers, 0, 0).unwrap();
            }
            let mut expected = contents();
            for tensor in &mut expected {
                let block = tensor.len() / 3;
                tensor.copy_within(..block, 2 * block);
            }
            cache.copy_blocks(&[(BlockId(0), BlockId(2))]).unwrap();
            assert_eq!(contents(), expected, "{dtype:?}");
        }
    }
}

//! Causal attention over the paged key-value cache, and the writing of new keys and values.
//!
//! A [`PagedBatch`] is prepared once per forward pass and used by every layer.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::backend::{Backend, CpuSlice, write_in_place};
use crate::kernels::{self, Kernels};
use crate::kv_cache::storage::LayerKv;

/// One sequence's rows of the batch, and where its keys and values lie.
#[derive(Debug, Clone)]
pub struct AttentionSpan {
    /// Its rows, half open.
    pub rows: Range<usize>,
    /// Tokens in the cache, those of this batch included; at least `rows.len()`.
    pub context_len: usize,
    /// Its blocks in token order, at least `ceil(context_len / block_size)` of them.
    pub block_table: Vec<u32>,
}

/// Widths of a layer's heads.
#[derive(Debug, Clone, Copy)]
pub struct HeadShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads; query head `i` reads number `i / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Width of each.
    pub head_dim: usize,
}

/// Where a batch's rows go in the cache, and what each may see of it.
#[derive(Debug)]
pub struct PagedBatch<'a> {
    pub(super) slots: &'a [u32],
    pub(super) spans: Vec<AttentionSpan>,
    pub(super) block_size: usize,
    gathers: Vec<Gather>,
    backend: Backend,
}

/// What candle's path needs for one span.
#[derive(Debug)]
struct Gather {
    /// The slots of the context in token order.
    slots: Tensor,
    /// `1 x 1 x rows x context_len`, 0 or minus infinity; `None` for a single row, which sees all.
    mask: Option<Tensor>,
}

impl<'a> PagedBatch<'a> {
    /// Row `i` goes to slot `slots[i]` of a cache with `num_slots`, in blocks of `block_size`.
    ///
    /// # Errors
    /// Where spans do not cover the rows in order, or a slot or block lies outside the cache.
    pub fn new(
        slots: &'a [u32],
        spans: Vec<AttentionSpan>,
        (num_slots, block_size): (usize, usize),
        device: &Device,
        backend: Backend,
    ) -> Result<Self> {
        if block_size == 0 {
            bail!("a cache in blocks of no tokens")
        }
        if let Some(slot) = slots.iter().find(|slot| **slot as usize >= num_slots) {
            bail!("slot {slot} lies outside a cache of {num_slots}")
        }
        let mut next_row = 0;
        for span in &spans {
            check_span(span, next_row, num_slots, block_size)?;
            next_row = span.rows.end;
        }
        if next_row != slots.len() {
            bail!("sequences cover {next_row} rows of {}", slots.len())
        }
        let gathers = match backend {
            Backend::Candle => spans
                .iter()
                .map(|span| Gather::new(span, block_size, device))
                .collect::<Result<_>>()?,
            Backend::Cpu(_) => Vec::new(),
        };
        Ok(Self { slots, spans, block_size, gathers, backend })
    }

    /// Writes each row of `keys` and `values`, `rows x (num_kv_heads * head_dim)`, to its slot.
    ///
    /// # Errors
    /// Where shapes or dtypes disagree or the device fails.
    pub fn write(&self, cache: &LayerKv, keys: &Tensor, values: &Tensor) -> Result<()> {
        if let Backend::Cpu(_) = self.backend {
            return self.write_on_cpu(cache, keys, values);
        }
        for run in runs(self.slots) {
            let slot = self.slots[run.start] as usize;
            for (pool, rows) in [(&cache.keys, keys), (&cache.values, values)] {
                pool.slice_set(&rows.narrow(0, run.start, run.len())?, 0, slot)?;
            }
        }
        Ok(())
    }

    /// Attention of each row of `q`, `rows x (num_heads * head_dim)`, over its context in `cache`;
    /// scores are scaled by `1 / sqrt(head_dim)`. The result has the shape of `q`.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn attend(&self, q: &Tensor, cache: &LayerKv, heads: HeadShape) -> Result<Tensor> {
        let width = heads.num_heads * heads.head_dim;
        if q.dims() != [self.slots.len(), width] {
            bail!("queries of {:?} for {} rows of {width}", q.shape(), self.slots.len())
        }
        if let Backend::Cpu(kernels) = self.backend {
            return self.attend_on_cpu(q, cache, heads, kernels);
        }
        let one = |(span, gather): (&AttentionSpan, &Gather)| {
            let rows = q.narrow(0, span.rows.start, span.rows.len())?;
            gather.attend(&rows, cache, heads)
        };
        let parts: Vec<Tensor> =
            self.spans.iter().zip(&self.gathers).map(one).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0)
    }

    fn write_on_cpu(&self, cache: &LayerKv, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (pool, rows) in [(&cache.keys, keys), (&cache.values, values)] {
            let width = pool.dims()[1];
            if rows.dims() != [self.slots.len(), width] {
                bail!("keys or values of {:?} for a cache of {:?}", rows.shape(), pool.shape())
            }
            let rows = CpuSlice::new(rows)?;
            let rows = rows.f32()?;
            write_in_place(pool, |pool| kernels::write_kv(rows, self.slots, pool, width))?;
        }
        Ok(())
    }

    fn attend_on_cpu(
        &self,
        q: &Tensor,
        cache: &LayerKv,
        heads: HeadShape,
        backend: Kernels,
    ) -> Result<Tensor> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
        let spans = self.spans.iter().map(|span| kernels::AttentionSpan {
            rows: span.rows.clone(),
            context_len: span.context_len,
            block_table: &span.block_table,
        });
        let spans: Vec<_> = spans.collect();
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = kernels::AttentionShape { num_heads, num_kv_heads, head_dim, scale };
        let mut out = vec![0.0; q.elem_count()];
        let (keys, values) = (CpuSlice::new(&cache.keys)?, CpuSlice::new(&cache.values)?);
        let (keys, values) = (keys.f32()?, values.f32()?);
        let pool = kernels::PagedKv { keys, values, block_size: self.block_size };
        backend.paged_attention(CpuSlice::new(q)?.f32()?, pool, &spans, shape, &mut out);
        Tensor::from_vec(out, q.shape(), &Device::Cpu)
    }
}

fn check_span(
    span: &AttentionSpan,
    next_row: usize,
    num_slots: usize,
    block_size: usize,
) -> Result<()> {
    let AttentionSpan { rows, context_len, block_table } = span;
    if rows.start != next_row || rows.is_empty() || rows.len() > *context_len {
        bail!("a sequence of rows {rows:?} with a context of {context_len} after row {next_row}")
    }
    let blocks = context_len.div_ceil(block_size);
    if block_table.len() < blocks {
        bail!("{} blocks of {block_size} for a context of {context_len}", block_table.len())
    }
    let outside = |block: &&u32| (**block as usize + 1) * block_size > num_slots;
    if let Some(block) = block_table[..blocks].iter().find(outside) {
        bail!("block {block} of {block_size} lies outside a cache of {num_slots} slots")
    }
    Ok(())
}

/// Maximal runs of rows whose slots are consecutive.
fn runs(slots: &[u32]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (row, slot) in slots.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if slots[row - 1].checked_add(1) == Some(*slot) => run.end = row + 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

impl Gather {
    fn new(span: &AttentionSpan, block_size: usize, device: &Device) -> Result<Self> {
        let (rows, context) = (span.rows.len(), span.context_len);
        let slot = |token| {
            span.block_table[token / block_size] * block_size as u32 + (token % block_size) as u32
        };
        let slots: Vec<u32> = (0..context).map(slot).collect();
        let mask = (rows > 1).then(|| {
            let first = context - rows;
            let seen = |row| (0..context).map(move |token| token <= first + row);
            let mask = (0..rows).flat_map(seen);
            let mask: Vec<f32> =
                mask.map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY }).collect();
            Tensor::from_vec(mask, (1, 1, rows, context), device)
        });
        Ok(Self { slots: Tensor::new(slots, device)?, mask: mask.transpose()? })
    }

    /// `q` is `rows x (num_heads * head_dim)`.
    fn attend(&self, q: &Tensor, cache: &LayerKv, heads: HeadShape) -> Result<Tensor> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
        let (rows, group) = (q.dims()[0], num_heads / num_kv_heads);
        let context = self.slots.dims()[0];
        // kv_heads x context x head_dim
        let gather = |pool: &Tensor| {
            let rows = pool.index_select(&self.slots, 0)?;
            rows.reshape((context, num_kv_heads, head_dim))?.transpose(0, 1)?.contiguous()
        };
        let (keys, values) = (gather(&cache.keys)?, gather(&cache.values)?);
        // kv_heads x (group * rows) x head_dim: a group's queries share their keys in one product.
        let q = q.reshape((rows, num_kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?;
        let q = q.contiguous()?.reshape((num_kv_heads, group * rows, head_dim))?;
        let scores = q.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
        let scores = (scores * (1.0 / (head_dim as f64).sqrt()))?;
        let mut scores = scores.reshape((num_kv_heads, group, rows, context))?;
        if let Some(mask) = &self.mask {
            scores = scores.broadcast_add(mask)?;
        }
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(values.dtype())?;
        let mixed = weights.reshape((num_kv_heads, group * rows, context))?.matmul(&values)?;
        let mixed = mixed.reshape((num_kv_heads, group, rows, head_dim))?.permute((2, 0, 1, 3))?;
        mixed.reshape((rows, num_heads * head_dim))
    }
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn runs_are_maximal_and_cover_every_row() {
        assert!(runs(&[]).is_empty());
        assert_eq!(runs(&[4, 5, 6, 9, 8, 2, 3]), [0..3, 3..4, 4..5, 5..7]);
        assert_eq!(runs(&[u32::MAX, 0]), [0..1, 1..2]);
    }
}

//! Causal attention over the paged key-value cache, and the writing of new keys and values, both
//! rotated on the way.
//!
//! A [`PagedBatch`] is prepared once per forward pass and used by every layer.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use half::bf16;

use super::backend::{Backend, CpuElement, CpuRows, CpuSlice, write_in_place};
use super::buffer::buffer;
use super::rotary::Rotation;
use crate::kernels::{self, Kernels, NewKv, PagedKv, PagedKvMut, Pool, PoolMut, Queries};
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
    slots: &'a [u32],
    spans: Vec<AttentionSpan>,
    block_size: usize,
    gathers: Vec<Gather>,
    /// For the CPU path.
    slot_mapping: kernels::SlotMapping,
    backend: Backend,
}

/// What a layer's projections give for each row.
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// Queries, `rows x (num_heads * head_dim)`.
    pub q: &'a Tensor,
    /// Keys, `rows x (num_kv_heads * head_dim)`.
    pub k: &'a Tensor,
    /// Values, shaped as the keys.
    pub v: &'a Tensor,
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
        let candle = backend.is_candle();
        let gathers = spans.iter().filter(|_| candle);
        let gathers = gathers.map(|span| Gather::new(span, block_size, device));
        let gathers = gathers.collect::<Result<_>>()?;
        let slot_mapping = kernels::SlotMapping::new(slots, block_size);
        Ok(Self { slots, spans, block_size, gathers, slot_mapping, backend })
    }

    /// Puts each row's key and value into its slot of `cache`, then lets each row's queries see
    /// their context there; scores are scaled by `1 / sqrt(head_dim)`. Queries and keys are rotated
    /// on the way. The result has the shape of the queries. On the CPU path the projections may be
    /// columns of wider rows.
    ///
    /// # Errors
    /// Where shapes or dtypes disagree or the device fails.
    pub fn attend(
        &self,
        projected: Projected<'_>,
        rotation: &Rotation<'_>,
        cache: &LayerKv,
        heads: HeadShape,
    ) -> Result<Tensor> {
        let rows = self.slots.len();
        let (width, kv_width) =
            (heads.num_heads * heads.head_dim, heads.num_kv_heads * heads.head_dim);
        let Projected { q, k, v } = projected;
        for (tensor, width) in [(q, width), (k, kv_width), (v, kv_width)] {
            if tensor.dims() != [rows, width] {
                bail!("queries, keys or values of {:?} for {rows} rows of {width}", tensor.shape())
            }
        }
        match (self.backend, cache.keys.dtype()) {
            (Backend::Candle, _) => self.attend_by_candle(projected, rotation, cache, heads),
            (Backend::Cpu(kernels), DType::BF16) => {
                self.attend_on_cpu::<bf16>(projected, rotation, cache, (heads, kernels))
            }
            (Backend::Cpu(kernels), _) => {
                self.attend_on_cpu::<f32>(projected, rotation, cache, (heads, kernels))
            }
        }
    }

    fn attend_by_candle(
        &self,
        projected: Projected<'_>,
        rotation: &Rotation<'_>,
        cache: &LayerKv,
        heads: HeadShape,
    ) -> Result<Tensor> {
        let (q, keys) = (rotation.apply(projected.q)?, rotation.apply(projected.k)?);
        for run in runs(self.slots) {
            let slot = self.slots[run.start] as usize;
            for (pool, rows) in [(&cache.keys, &keys), (&cache.values, projected.v)] {
                pool.slice_set(&rows.narrow(0, run.start, run.len())?, 0, slot)?;
            }
        }
        let one = |(span, gather): (&AttentionSpan, &Gather)| {
            let rows = q.narrow(0, span.rows.start, span.rows.len())?;
            gather.attend(&rows, cache, heads)
        };
        let parts: Vec<Tensor> =
            self.spans.iter().zip(&self.gathers).map(one).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0)
    }

    fn attend_on_cpu<E: CpuElement>(
        &self,
        Projected { q, k, v }: Projected<'_>,
        rotation: &Rotation<'_>,
        cache: &LayerKv,
        (HeadShape { num_heads, num_kv_heads, head_dim }, kernels): (HeadShape, Kernels),
    ) -> Result<Tensor>
    where
        for<'p> PagedKv<'p>: From<Pool<'p, E>>,
        for<'p> PagedKvMut<'p>: From<PoolMut<'p, E>>,
    {
        let block_size = self.block_size;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = kernels::AttentionShape { num_heads, num_kv_heads, head_dim, scale };
        let tables = rotation.tables()?;
        let rotation = Some(tables.rotation()?);
        let (q_rows, k, v) = (CpuRows::new(q)?, CpuRows::new(k)?, CpuRows::new(v)?);
        let new = NewKv { keys: k.rows()?, values: v.rows()?, rotation };
        write_in_place(&cache.keys, |keys: &mut [E]| {
            write_in_place(&cache.values, |values: &mut [E]| {
                let pool = PoolMut { keys, values, block_size };
                kernels.write_kv(new, &self.slot_mapping, pool.into(), shape);
                Ok(())
            })
        })?;
        let spans = self.spans.iter().map(|span| kernels::AttentionSpan {
            rows: span.rows.clone(),
            context_len: span.context_len,
            block_table: &span.block_table,
        });
        let spans: Vec<_> = spans.collect();
        let mut out = buffer(q.elem_count());
        let (keys, values) = (CpuSlice::new(&cache.keys)?, CpuSlice::new(&cache.values)?);
        let (keys, values) = (keys.elements::<E>()?, values.elements::<E>()?);
        let queries = Queries { rows: q_rows.rows()?, rotation };
        let pool = Pool { keys, values, block_size };
        kernels.paged_attention(queries, pool.into(), &spans, shape, &mut out);
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

//! Causal attention of a batch's rows over the paged pool of keys and values.
//!
//! Softmax runs online (Milakov and Gimelshein 2018) over blocks of keys that start at multiples of
//! their length, so what a query computes depends on its own position alone: not on its chunk, its
//! tile or the other queries. It reads `context` keys, no more. Writing the pool is
//! [`super::write_kv`]'s, rotating queries and keys [`super::rotary`]'s.

use std::ops::Range;

use super::attention_tile::Tile;
use super::level::Kernels;

/// Rows of one sequence that pass over its keys together.
const TILE_ROWS: usize = 16;

/// One layer's pool and how it is divided.
#[derive(Debug, Clone, Copy)]
pub struct PagedKv<'a> {
    /// Keys, `num_slots x (num_kv_heads * head_dim)`, rotated already.
    pub keys: &'a [f32],
    /// Values, shaped alike.
    pub values: &'a [f32],
    /// Tokens per block; token `t` lies in slot `block_table[t / block_size] * block_size + t % block_size`.
    pub block_size: usize,
}

/// One sequence's rows of a batch and the keys they see.
#[derive(Debug, Clone)]
pub struct AttentionSpan<'a> {
    /// Its rows, half open.
    pub rows: Range<usize>,
    /// Keys in the pool, these rows' own included: row `i` of the span sees keys
    /// `0 .. context_len - rows.len() + i + 1`.
    pub context_len: usize,
    /// Blocks in token order, at least `ceil(context_len / block_size)` of them.
    pub block_table: &'a [u32],
}

/// Heads, and the factor of the scores.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads, a multiple of `num_kv_heads`; query head `h` reads key head
    /// `h / (num_heads / num_kv_heads)`.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What scores are multiplied by, `1 / sqrt(head_dim)` for Llama.
    pub scale: f32,
}

impl AttentionShape {
    /// Query heads per key head.
    pub(super) fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Floats in a row of queries.
    pub(super) fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Floats in a slot.
    pub(super) fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

impl Kernels {
    /// `out = softmax(scale * q Kᵀ) V` for each row and head; `q` and `out` are
    /// `rows x (num_heads * head_dim)`, and `spans` cover the rows in order.
    ///
    /// # Panics
    /// Where lengths disagree, spans leave a gap, or a block lies outside of the pool.
    pub fn paged_attention(
        self,
        q: &[f32],
        kv: PagedKv<'_>,
        spans: &[AttentionSpan<'_>],
        shape: AttentionShape,
        out: &mut [f32],
    ) {
        check(q, kv, spans, shape, out.len());
        let keys: usize = spans.iter().map(|span| span.rows.len() * span.context_len).sum();
        let work = 2 * keys * shape.query_width();
        let tiles = tiles(q, kv, spans, shape, out);
        self.for_each(work, tiles, |tile| self.run(tile));
    }
}

fn check(
    q: &[f32],
    kv: PagedKv<'_>,
    spans: &[AttentionSpan<'_>],
    shape: AttentionShape,
    out_len: usize,
) {
    assert!(
        shape.num_kv_heads > 0 && shape.num_heads.is_multiple_of(shape.num_kv_heads),
        "bug: {} heads over {} key heads",
        shape.num_heads,
        shape.num_kv_heads
    );
    assert!(shape.query_width() > 0, "bug: no heads, or heads of no width");
    assert!(kv.block_size > 0, "bug: blocks of no tokens");
    assert_eq!(kv.keys.len(), kv.values.len(), "bug: keys and values differ in length");
    assert_eq!(q.len(), out_len, "bug: length of the output");
    let mut row = 0;
    for span in spans {
        assert_eq!(span.rows.start, row, "bug: spans do not cover the rows in order");
        assert!(
            span.context_len >= span.rows.len()
                && span.block_table.len() * kv.block_size >= span.context_len,
            "bug: {} rows in a context of {} tokens with {} blocks",
            span.rows.len(),
            span.context_len,
            span.block_table.len()
        );
        row = span.rows.end;
    }
    assert_eq!(q.len(), row * shape.query_width(), "bug: length of q");
}

/// The batch's work: up to [`TILE_ROWS`] rows of a span and one key head each.
fn tiles<'a, 'o>(
    q: &'a [f32],
    kv: PagedKv<'a>,
    spans: &[AttentionSpan<'a>],
    shape: AttentionShape,
    out: &'o mut [f32],
) -> Vec<Tile<'a, 'o>> {
    let mut tiles = Vec::new();
    let mut out_rows = out.chunks_exact_mut(shape.query_width());
    for span in spans {
        for first_row in span.rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(span.rows.end - first_row);
            let start = tiles.len();
            tiles.extend((0..shape.num_kv_heads).map(|kv_head| Tile {
                q,
                kv,
                shape,
                block_table: span.block_table,
                kv_head,
                first_row,
                first_visible: span.context_len - (span.rows.end - first_row) + 1,
                out: Vec::with_capacity(count),
            }));
            for row in out_rows.by_ref().take(count) {
                let heads = row.chunks_exact_mut(shape.group() * shape.head_dim);
                for (heads, tile) in heads.zip(&mut tiles[start..]) {
                    tile.out.push(heads);
                }
            }
        }
    }
    tiles
}

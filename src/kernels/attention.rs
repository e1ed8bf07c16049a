//! Causal attention of a batch's rows over the paged pool of keys and values.
//!
//! The keys are cut at multiples of [`RANGE`]. A query has a softmax of its own over each range,
//! and these are combined in order. So what a query computes depends on its own position alone: not
//! on its chunk, its tile, the other queries or the threads, which may share out a long context by
//! ranges. It reads `context` keys, no more. Writing the pool is [`super::paged_kv`]'s, the
//! arithmetic [`super::attention_tile`]'s.

use std::ops::Range;

use super::attention_tile::{Sink, Tile, Workspace};
use super::level::Kernels;
use super::paged_kv::{PagedKv, Pool};
use super::rotary::Rotation;
use super::rows::Rows;
use super::scratch::Scratch;
use super::simd::{Lanes, Simd, Task};
use super::softmax::{KvProducts, RANGE};

/// Queries of a key head that pass over its keys together: their running softmax and a range of
/// keys and values stay in the nearest cache.
const TILE_QUERIES: usize = 48;

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

    /// Floats in a row of keys or values.
    pub(super) fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// The batch's queries, each row `num_heads * head_dim` wide.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// One row a token.
    pub rows: Rows<'a>,
    /// Turns them before they meet keys, where given.
    pub rotation: Option<Rotation<'a>>,
}

impl Kernels {
    /// `out = softmax(scale * q Kᵀ) V` for each row and head; `out` is
    /// `rows x (num_heads * head_dim)`, and `spans` cover the rows in order.
    ///
    /// With a bfloat16 pool, scaled queries and the weights of values are rounded to bfloat16 too,
    /// and what is not finite among a chunk's values may reach earlier rows of the same chunk.
    ///
    /// # Panics
    /// Where lengths disagree, spans leave a gap, or a block lies outside of the pool.
    pub fn paged_attention(
        self,
        queries: Queries<'_>,
        kv: PagedKv<'_>,
        spans: &[AttentionSpan<'_>],
        shape: AttentionShape,
        out: &mut [f32],
    ) {
        check(queries, spans, shape, out.len());
        match kv {
            PagedKv::F32(pool) => self.attend(queries, pool, spans, shape, out),
            PagedKv::Bf16(pool) => self.attend(queries, pool, spans, shape, out),
        }
    }

    fn attend<E: KvProducts>(
        self,
        queries: Queries<'_>,
        pool: Pool<'_, E>,
        spans: &[AttentionSpan<'_>],
        shape: AttentionShape,
        out: &mut [f32],
    ) {
        check_pool(pool, spans);
        let tiles = tiles(queries, pool, spans, shape);
        let work: usize = tiles.iter().map(Tile::work).sum();
        let parts = self.parts(work);
        let share = if parts == 1 { usize::MAX } else { work.div_ceil(parts) };
        // Tiles that would hold up the others are cut, by ranges and key heads.
        let mut partials: Vec<Vec<Lanes>> =
            tiles.iter().map(|tile| tile.partials(tile.work() > share)).collect();
        let mut items = Vec::new();
        let mut whole = Vec::new();
        let mut whole_work = 0;
        let mut cut = Vec::new();
        let mut rest = out;
        for (tile, partials) in tiles.iter().zip(&mut partials) {
            let (out, behind) = rest.split_at_mut(tile.rows.len() * shape.query_width());
            rest = behind;
            if partials.is_empty() {
                whole.push((tile, out));
                whole_work += tile.work();
                if whole_work >= share {
                    items.push(Item::Whole(std::mem::take(&mut whole)));
                    whole_work = 0;
                }
            } else {
                cut.push((tile, out));
                items.extend(tile.parts(partials, share).map(|part| Item::Part(tile, part)));
            }
        }
        if !whole.is_empty() {
            items.push(Item::Whole(whole));
        }
        self.for_each(work, items, |item| self.run(item));
        let partials = partials.iter().filter(|partials| !partials.is_empty());
        let items = cut.into_iter().zip(partials).map(|((tile, out), partials)| Combine {
            tile,
            partials,
            out,
        });
        items.for_each(|item| self.run(item));
    }
}

/// What one thread takes.
enum Item<'t, 'a, 'o, E> {
    /// Tiles with all their key heads and ranges.
    Whole(Vec<(&'t Tile<'a, E>, &'o mut [f32])>),
    /// Some units of a tile.
    Part(&'t Tile<'a, E>, Part<'o>),
}

/// Consecutive units of a tile, and where their results go.
pub(super) struct Part<'o> {
    pub units: Range<usize>,
    pub partials: &'o mut [Lanes],
}

/// The units of a tile that was cut, put together.
struct Combine<'t, 'a, 'o, E> {
    tile: &'t Tile<'a, E>,
    partials: &'t [Lanes],
    out: &'o mut [f32],
}

impl<E: KvProducts> Task for &mut Item<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut workspace = Workspace::lend();
        match self {
            Item::Whole(tiles) => {
                for (tile, out) in tiles {
                    tile.run(simd, &mut workspace, out);
                }
            }
            Item::Part(tile, part) => {
                let sink = Sink::Apart(part.partials);
                tile.attend(simd, part.units.clone(), &mut workspace, sink);
            }
        }
        workspace.give_back();
    }
}

impl<E: KvProducts> Task for Combine<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.tile.combine(simd, self.partials, self.out);
    }
}

fn check(queries: Queries<'_>, spans: &[AttentionSpan<'_>], shape: AttentionShape, out_len: usize) {
    assert!(
        shape.num_kv_heads > 0 && shape.num_heads.is_multiple_of(shape.num_kv_heads),
        "bug: {} heads over {} key heads",
        shape.num_heads,
        shape.num_kv_heads
    );
    assert!(shape.query_width() > 0, "bug: no heads, or heads of no width");
    let mut row = 0;
    for span in spans {
        assert_eq!(span.rows.start, row, "bug: spans do not cover the rows in order");
        row = span.rows.end;
    }
    assert_eq!(out_len, row * shape.query_width(), "bug: length of the output");
    assert!(queries.rows.hold(row, shape.query_width()), "bug: fewer queries than {row}");
    if let Some(rotation) = queries.rotation {
        rotation.check(row, shape.head_dim);
    }
}

fn check_pool<E>(pool: Pool<'_, E>, spans: &[AttentionSpan<'_>]) {
    assert!(pool.block_size > 0, "bug: blocks of no tokens");
    for AttentionSpan { rows, context_len, block_table } in spans {
        assert!(
            *context_len >= rows.len() && block_table.len() * pool.block_size >= *context_len,
            "bug: {} rows in a context of {context_len} tokens with {} blocks",
            rows.len(),
            block_table.len()
        );
    }
}

/// The batch's rows, cut within each span.
fn tiles<'a, E: Copy>(
    queries: Queries<'a>,
    pool: Pool<'a, E>,
    spans: &[AttentionSpan<'a>],
    shape: AttentionShape,
) -> Vec<Tile<'a, E>> {
    let step = (TILE_QUERIES / shape.group()).max(1);
    let cut = |span: &AttentionSpan<'a>| {
        let AttentionSpan { rows, context_len, block_table } = span.clone();
        let hidden = context_len - rows.len();
        rows.clone().step_by(step).map(move |first| Tile {
            queries,
            pool,
            shape,
            block_table,
            rows: first..rows.end.min(first + step),
            first_visible: hidden + first - rows.start + 1,
        })
    };
    spans.iter().flat_map(cut).collect()
}

/// Ranges that a context of `len` keys is cut into.
pub(super) fn num_ranges(len: usize) -> usize {
    len.div_ceil(RANGE)
}

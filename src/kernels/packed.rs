//! The product for many rows: both factors are laid out in the order in which a register tile
//! reads them, widened and padded with zeros, in blocks that stay in the cache. There is at least
//! one input feature.

use std::ops::Range;

use super::columns::Columns;
use super::linear::Product;
use super::simd::{Element, LANES, Lanes, Simd, Task, sums};

/// From how many rows on packing pays where tiles are wide (measured), and where they are narrow.
const MIN_ROWS: (usize, usize) = (128, 16);

/// Packed weights of one panel: they stay in the second-level cache while all rows pass.
const PANEL_BYTES: usize = 1 << 18;

/// At most so many vectors along the input features lie between two visits of a tile's sums to
/// memory, so that a block
/// of its rows stays in the first-level cache while the columns pass.
const BLOCK: usize = 48;

/// Rows and columns of a register tile: their product, in vectors, is held in registers.
const WIDE_TILE: (usize, usize) = (4, 4);
const NARROW_TILE: (usize, usize) = (3, 2);

/// Whether packing pays for so many rows.
pub(super) struct Pays {
    pub rows: usize,
}

impl Task for Pays {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> bool {
        self.rows >= if S::REGISTERS >= 32 { MIN_ROWS.0 } else { MIN_ROWS.1 }
    }
}

/// Packs the rows of `x`, each `width` long, into tiles.
pub(super) struct PackRows<'a> {
    pub x: &'a [f32],
    pub width: usize,
}

impl Task for PackRows<'_> {
    type Output = Vec<Lanes>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<Lanes> {
        let tile_rows = if S::REGISTERS >= 32 { WIDE_TILE.0 } else { NARROW_TILE.0 };
        let rows = self.x.len() / self.width;
        let row = |index: usize| {
            if index < rows { &self.x[index * self.width..][..self.width] } else { &[] }
        };
        let chunks = self.width.div_ceil(LANES);
        let mut packed = Vec::with_capacity(rows.next_multiple_of(tile_rows) * chunks);
        for first in (0..rows).step_by(tile_rows) {
            pack(simd, first..first + tile_rows, row, chunks, &mut packed);
        }
        packed
    }
}

/// Appends vectors `0 .. chunks` of every line, interleaved: all lines' first vectors, then all
/// second ones. Where a line ends early, zeros follow.
#[inline(always)]
fn pack<'a, S: Simd, E: Element + 'a>(
    simd: S,
    lines: Range<usize>,
    line: impl Fn(usize) -> &'a [E],
    chunks: usize,
    packed: &mut Vec<Lanes>,
) {
    let count = lines.len();
    let start = packed.len();
    packed.resize(start + count * chunks, Lanes::ZERO);
    for (i, index) in lines.enumerate() {
        let (full, tail) = line(index).as_chunks();
        let mut places = packed[start + i..].iter_mut().step_by(count);
        for (vector, place) in full.iter().zip(&mut places) {
            simd.store(E::load(simd, vector), &mut place.0);
        }
        if let (false, Some(place)) = (tail.is_empty(), places.next()) {
            simd.store(super::simd::load_padded(simd, tail), &mut place.0);
        }
    }
}

/// A part of a product; `x` as [`PackRows`] leaves it.
pub(super) struct Packed<'a, 'o, E> {
    pub product: Product<'a, E>,
    pub x: &'a [Lanes],
    pub columns: &'a mut Columns<'o>,
}

impl<E: Element> Task for Packed<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if S::REGISTERS >= 32 {
            self.panels::<S, { WIDE_TILE.0 }, { WIDE_TILE.1 }>(simd);
        } else {
            self.panels::<S, { NARROW_TILE.0 }, { NARROW_TILE.1 }>(simd);
        }
    }
}

impl<E: Element> Packed<'_, '_, E> {
    #[inline(always)]
    fn panels<S: Simd, const R: usize, const C: usize>(mut self, simd: S) {
        let range = self.columns.range();
        let chunks = self.product.in_features.div_ceil(LANES);
        let panel_width = (PANEL_BYTES / (size_of::<Lanes>() * chunks)).max(1);
        let panel_width = panel_width.next_multiple_of(C).min(range.len().next_multiple_of(C));
        let product = self.product;
        let column = |index: usize| if index < range.end { product.column(index) } else { &[] };
        let mut panel = Vec::with_capacity(panel_width * chunks);
        for start in range.clone().step_by(panel_width) {
            let end = (start + panel_width).min(range.end);
            panel.clear();
            for first in (start..end).step_by(C) {
                pack(simd, first..first + C, column, chunks, &mut panel);
            }
            self.all_rows::<S, R, C>(simd, start..end, &panel);
        }
    }

    /// The columns of one panel, for every row.
    #[inline(always)]
    fn all_rows<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        columns: Range<usize>,
        panel: &[Lanes],
    ) {
        let chunks = self.product.in_features.div_ceil(LANES);
        // While this panel is computed, the weights of the next one come from memory.
        let next = self.product.column_address(columns.end);
        let group_bytes = C * self.product.in_features * size_of::<E>();
        let share = group_bytes.div_ceil(self.columns.rows().div_ceil(R));
        let stride = share.div_ceil(chunks);
        let groups = columns.len().div_ceil(C);
        let block_len = chunks.div_ceil(chunks.div_ceil(BLOCK));
        let mut partial = vec![[[Lanes::ZERO; C]; R]; if chunks > block_len { groups } else { 0 }];
        for tile in 0..self.columns.rows().div_ceil(R) {
            let (x, _) = self.x[tile * R * chunks..][..R * chunks].as_chunks::<R>();
            for start in (0..chunks).step_by(block_len) {
                let block = start..chunks.min(start + block_len);
                for group in 0..groups {
                    let (weights, _) = panel[group * C * chunks..][..C * chunks].as_chunks::<C>();
                    let ahead = next
                        .cast::<u8>()
                        .wrapping_add(group * group_bytes + tile * share + start * stride);
                    let weights = &weights[block.clone()];
                    let x = &x[block.clone()];
                    let first = columns.start + group * C;
                    let place = first..columns.end.min(first + C);
                    if block.len() == chunks {
                        let zero = [[simd.splat(0.0); C]; R];
                        let acc = add_products(simd, zero, x, weights, (ahead, stride));
                        self.finish(simd, acc, tile * R, place);
                        continue;
                    }
                    if start == 0 {
                        partial[group] = [[Lanes::ZERO; C]; R];
                    }
                    let acc = load_tile(simd, &partial[group]);
                    let acc = add_products(simd, acc, x, weights, (ahead, stride));
                    if block.end < chunks {
                        store_tile(simd, &acc, &mut partial[group]);
                    } else {
                        self.finish(simd, acc, tile * R, place);
                    }
                }
            }
        }
    }

    /// Writes a tile's sums; rows and columns that only pad it are left out.
    #[inline(always)]
    fn finish<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        acc: [[S::Vector; C]; R],
        row: usize,
        columns: Range<usize>,
    ) {
        // All sums before any output: an iterator over `acc` would move it out of registers.
        let mut tile = [[0.0; C]; R];
        for r in 0..R {
            tile[r] = sums(simd, acc[r]);
        }
        let offset = self.columns.range().start;
        for (row, sums) in (row..self.columns.rows()).zip(tile) {
            let out = self.columns.row(row);
            for (column, sum) in columns.clone().zip(sums) {
                self.product.epilogue.apply(column, sum, &mut out[column - offset]);
            }
        }
    }
}

/// Adds the `R x C` products of packed rows and columns. Each step asks for the line that lies
/// `stride` bytes behind the one before, from `ahead` on.
#[inline(always)]
fn add_products<S: Simd, const R: usize, const C: usize>(
    simd: S,
    mut acc: [[S::Vector; C]; R],
    x: &[[Lanes; R]],
    weights: &[[Lanes; C]],
    (mut ahead, stride): (*const u8, usize),
) -> [[S::Vector; C]; R] {
    let mut w = [simd.splat(0.0); C];
    for (x, weights) in x.iter().zip(weights) {
        simd.prefetch(ahead);
        ahead = ahead.wrapping_add(stride);
        for c in 0..C {
            w[c] = simd.load(&weights[c].0);
        }
        for r in 0..R {
            let x = simd.load(&x[r].0);
            for c in 0..C {
                acc[r][c] = simd.mul_add(x, w[c], acc[r][c]);
            }
        }
    }
    acc
}

#[inline(always)]
fn load_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    from: &[[Lanes; C]; R],
) -> [[S::Vector; C]; R] {
    let mut acc = [[simd.splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            acc[r][c] = simd.load(&from[r][c].0);
        }
    }
    acc
}

#[inline(always)]
fn store_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    acc: &[[S::Vector; C]; R],
    to: &mut [[Lanes; C]; R],
) {
    for r in 0..R {
        for c in 0..C {
            simd.store(acc[r][c], &mut to[r][c].0);
        }
    }
}

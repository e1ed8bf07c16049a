//! The product for many rows: both factors are laid out in the order in which a register tile
//! reads them, widened and padded with zeros, in blocks that stay in the cache. There is at least
//! one input feature.

use super::linear::{Columns, Product};
use super::simd::{Element, LANES, Lanes, Simd, Task, sums};

/// From how many rows on packing pays.
pub(super) const MIN_ROWS: usize = 8;

/// Packed weights of one panel: they stay in the second-level cache while all rows pass.
const PANEL_BYTES: usize = 1 << 18;

/// Rows and columns of a register tile: their product, in vectors, is held in registers.
const WIDE_TILE: (usize, usize) = (4, 4);
const NARROW_TILE: (usize, usize) = (3, 2);

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
    lines: std::ops::Range<usize>,
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
    pub columns: Columns<'o>,
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
        let range = self.columns.range.clone();
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
        columns: std::ops::Range<usize>,
        panel: &[Lanes],
    ) {
        let chunks = self.product.in_features.div_ceil(LANES);
        let epilogue = self.product.epilogue;
        let offset = self.columns.range.start;
        for (tile, rows) in self.columns.rows.chunks_mut(R).enumerate() {
            let (x, _) = self.x[tile * R * chunks..][..R * chunks].as_chunks::<R>();
            for (group, first) in columns.clone().step_by(C).enumerate() {
                let (weights, _) = panel[group * C * chunks..][..C * chunks].as_chunks::<C>();
                let sums = tile_sums(simd, x, weights);
                for (out, sums) in rows.iter_mut().zip(sums) {
                    for (column, sum) in (first..columns.end).zip(sums) {
                        epilogue.apply(column, sum, &mut out[column - offset]);
                    }
                }
            }
        }
    }
}

/// The `R x C` dot products of packed rows and columns.
#[inline(always)]
fn tile_sums<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[[Lanes; R]],
    weights: &[[Lanes; C]],
) -> [[f32; C]; R] {
    let mut acc = [[simd.splat(0.0); C]; R];
    let mut w = [simd.splat(0.0); C];
    for (x, weights) in x.iter().zip(weights) {
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
    let mut out = [[0.0; C]; R];
    for r in 0..R {
        out[r] = sums(simd, acc[r]);
    }
    out
}

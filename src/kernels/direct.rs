//! The product for few rows: weights are read in place, once, and widened in registers.

use super::columns::Columns;
use super::linear::Product;
use super::simd::{Element, LANES, Simd, Task, load_padded, sums};

/// A part of a product, reading `x` (row-major) and the weights where they lie.
pub(super) struct Direct<'a, 'o, E> {
    pub product: Product<'a, E>,
    pub x: &'a [f32],
    pub columns: &'a mut Columns<'o>,
}

impl<E: Element> Task for Direct<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let range = self.columns.range();
        let quads = range.len() / 4 * 4;
        for column in (range.start..range.start + quads).step_by(4) {
            self.all_rows::<S, 4>(simd, column);
        }
        for column in range.start + quads..range.end {
            self.all_rows::<S, 1>(simd, column);
        }
    }
}

impl<E: Element> Direct<'_, '_, E> {
    /// `C` columns of every row.
    #[inline(always)]
    fn all_rows<S: Simd, const C: usize>(&mut self, simd: S, column: usize) {
        let mut weights = [&[] as &[E]; C];
        for (c, weights) in weights.iter_mut().enumerate() {
            *weights = self.product.column(column + c);
        }
        // Sixteen sums and what feeds them fit into 32 vectors, and four into 8.
        let step = if S::REGISTERS >= 32 { 4 } else { 1 };
        let rows = self.columns.rows();
        let mut row = 0;
        while row < rows {
            match (rows - row).min(step) {
                1 => self.tile::<S, 1, C>(simd, row, column, weights),
                2 => self.tile::<S, 2, C>(simd, row, column, weights),
                3 => self.tile::<S, 3, C>(simd, row, column, weights),
                _ => self.tile::<S, 4, C>(simd, row, column, weights),
            }
            row += step;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        weights: [&[E]; C],
    ) {
        let width = self.product.in_features;
        let mut x = [&[] as &[f32]; R];
        for (r, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + r) * width..][..width];
        }
        let sums = dot_tile(simd, x, weights);
        let first = column - self.columns.range().start;
        for (row, sums) in (row..).zip(sums) {
            let out = self.columns.row(row);
            for (c, (out, sum)) in out[first..first + C].iter_mut().zip(sums).enumerate() {
                self.product.epilogue.apply(column + c, sum, out);
            }
        }
    }
}

/// The dot products of `R` with `C` vectors of one length, in the order that
/// [`super::linear`] defines.
#[inline(always)]
pub(super) fn dot_tile<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    x: [&[f32]; R],
    weights: [&[E]; C],
) -> [[f32; C]; R] {
    let width = x[0].len();
    let full = width / LANES;
    let mut x_chunks = [&[] as &[[f32; LANES]]; R];
    for (chunks, x) in x_chunks.iter_mut().zip(x) {
        *chunks = &x.as_chunks().0[..full];
    }
    let mut weight_chunks = [&[] as &[[E; LANES]]; C];
    for (chunks, weights) in weight_chunks.iter_mut().zip(weights) {
        *chunks = &weights.as_chunks().0[..full];
    }

    let mut acc = [[simd.splat(0.0); C]; R];
    let mut w = [simd.splat(0.0); C];
    for k in 0..full {
        for c in 0..C {
            w[c] = E::load(simd, &weight_chunks[c][k]);
            // The next group of columns lies behind this one.
            simd.prefetch(weight_chunks[c][k].as_ptr().wrapping_add(C * width));
        }
        for r in 0..R {
            let x = simd.load(&x_chunks[r][k]);
            for c in 0..C {
                acc[r][c] = simd.mul_add(x, w[c], acc[r][c]);
            }
        }
    }
    if full * LANES < width {
        for c in 0..C {
            w[c] = load_padded(simd, &weights[c][full * LANES..]);
        }
        for r in 0..R {
            let x = load_padded(simd, &x[r][full * LANES..]);
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

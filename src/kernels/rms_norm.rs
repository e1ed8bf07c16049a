//! Root-mean-square normalisation (Zhang and Sennrich 2019), float32 throughout.

use super::level::Kernels;
use super::simd::{LANES, Simd, Task, load_padded};

/// An element costs about so many multiplications.
const WORK: usize = 4;

impl Kernels {
    /// `out = x / sqrt(mean(x²) + eps) * weight` for each row; `x` and `out` are
    /// `rows x weight.len()`.
    ///
    /// # Panics
    /// Where `x` and `out` are not of one length, a multiple of the weight's.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "bug: length of the output");
        if x.is_empty() {
            return;
        }
        let width = weight.len();
        assert!(width > 0 && x.len().is_multiple_of(width), "bug: {} is no rows", x.len());
        let rows = x.len() / width;
        let part = rows.div_ceil(self.parts(x.len() * WORK)) * width;
        let items = x.chunks(part).zip(out.chunks_mut(part)).collect();
        self.for_each(x.len() * WORK, items, |(x, out)| {
            self.run(RmsNorm { x, weight, eps, out });
        });
    }
}

struct RmsNorm<'a, 'o> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'o mut [f32],
}

impl Task for RmsNorm<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (full, tail) = x.as_chunks::<LANES>();
            let mut squares = simd.splat(0.0);
            for x in full {
                let x = simd.load(x);
                squares = simd.mul_add(x, x, squares);
            }
            let x_tail = load_padded(simd, tail);
            squares = simd.mul_add(x_tail, x_tail, squares);
            let scale = 1.0 / (simd.sum(squares) / width as f32 + self.eps).sqrt();
            for ((x, weight), out) in x.iter().zip(self.weight).zip(out) {
                *out = x * scale * weight;
            }
        }
    }
}

//! Rotary position embedding (Su et al. 2021) in the convention of Hugging Face's Llama: lane `i`
//! of a head's first half is rotated with lane `i` of its second.

use super::level::Kernels;
use super::simd::{Simd, Task};

/// Cosines and sines, each `max_positions x (head_dim / 2)`.
#[derive(Debug, Clone, Copy)]
pub struct RotaryTables<'a> {
    /// Cosine of each position's angles.
    pub cos: &'a [f32],
    /// Sine of each position's angles.
    pub sin: &'a [f32],
    /// Width of a head, even.
    pub head_dim: usize,
}

impl Kernels {
    /// Rotates `x`, of `positions.len() x heads x head_dim`, in place; row `i` is at position
    /// `positions[i]`.
    ///
    /// # Panics
    /// Where lengths disagree or a position lies outside of the tables.
    pub fn rotary(self, x: &mut [f32], positions: &[u32], tables: RotaryTables<'_>) {
        assert!(
            tables.head_dim.is_multiple_of(2) && tables.head_dim > 0,
            "bug: head_dim {} is not even",
            tables.head_dim
        );
        assert_eq!(tables.cos.len(), tables.sin.len(), "bug: cosines and sines differ in length");
        if positions.is_empty() || x.is_empty() {
            assert!(x.is_empty(), "bug: rows without positions");
            return;
        }
        let width = x.len() / positions.len();
        assert!(
            x.len() == width * positions.len() && width.is_multiple_of(tables.head_dim),
            "bug: {} is no {} rows of heads",
            x.len(),
            positions.len()
        );
        let work = x.len() * 2;
        let rows = positions.len().div_ceil(self.parts(work));
        let items = positions.chunks(rows).zip(x.chunks_mut(rows * width)).collect();
        self.for_each(work, items, |(positions, x)| {
            self.run(Rotary { x, width, positions, tables });
        });
    }
}

struct Rotary<'a, 'o> {
    x: &'o mut [f32],
    width: usize,
    positions: &'a [u32],
    tables: RotaryTables<'a>,
}

impl Task for Rotary<'_, '_> {
    type Output = ();

    // Plain loops over independent lanes: the compiler vectorises them without changing a bit.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let head_dim = self.tables.head_dim;
        let half = head_dim / 2;
        for (row, position) in self.x.chunks_exact_mut(self.width).zip(self.positions) {
            let start = *position as usize * half;
            let cos = &self.tables.cos[start..][..half];
            let sin = &self.tables.sin[start..][..half];
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(half);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

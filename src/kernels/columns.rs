//! The part of a product's output that one thread writes: some columns of every row.
//!
//! Parts of one output are cut once, without a list of their rows: with many threads such lists would
//! take longer to write than the product.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

use super::simd::LANES;

/// Products take two panels of sixteen columns together.
const PAIR: usize = 2 * LANES;

/// A range of columns of each row; its first is a multiple of [`LANES`].
#[derive(Debug)]
pub(super) struct Columns<'o> {
    /// Where the whole output begins.
    first: *mut f32,
    rows: usize,
    /// All columns of the output, from one row to the next.
    width: usize,
    range: Range<usize>,
    borrowed: PhantomData<&'o mut [f32]>,
}

// SAFETY: it stands for mutable slices of floats that nobody else has, and these may be sent.
unsafe impl Send for Columns<'_> {}

impl<'o> Columns<'o> {
    /// All of a row-major output of `width` columns.
    pub(super) fn whole(out: &'o mut [f32], width: usize) -> Self {
        let rows = out.len().checked_div(width).unwrap_or(0);
        Self { first: out.as_mut_ptr(), rows, width, range: 0..width, borrowed: PhantomData }
    }

    /// The same in at most `parts` ranges.
    pub(super) fn split(
        out: &'o mut [f32],
        width: usize,
        parts: usize,
    ) -> impl Iterator<Item = Self> {
        let Self { first, rows, width, .. } = Self::whole(out, width);
        let step = width.div_ceil(parts.max(1)).next_multiple_of(PAIR).max(PAIR);
        // Ranges that do not overlap, so that each stands for floats of its own.
        (0..width).step_by(step).map(move |start| {
            let range = start..width.min(start + step);
            Self { first, rows, width, range, borrowed: PhantomData }
        })
    }

    /// Which columns.
    #[inline(always)]
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// How many rows there are.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// These columns of row `row`.
    ///
    /// # Panics
    /// Where there is no such row.
    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "bug: row {row} of {}", self.rows);
        // SAFETY: the output has `rows * width` floats from `first` on and is borrowed for as long as
        // this lives, the range ends at `width` at most, and no other part has a column of it.
        unsafe {
            let start = self.first.add(row * self.width + self.range.start);
            slice::from_raw_parts_mut(start, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_float_is_in_one_part(rows in 0_usize..5, width in 0_usize..300, parts in 0_usize..9) {
            let mut out = vec![0.0; rows * width];
            let mut split: Vec<Columns<'_>> = Columns::split(&mut out, width, parts).collect();
            prop_assert!(split.len() <= parts.max(1));
            for (number, columns) in split.iter_mut().enumerate() {
                prop_assert_eq!(columns.rows(), if width == 0 { 0 } else { rows });
                prop_assert!(columns.range().start.is_multiple_of(PAIR));
                for row in 0..rows {
                    for (place, float) in columns.range().zip(columns.row(row)) {
                        *float += (1 + row + 10 * place + 10_000 * number) as f32;
                    }
                }
            }
            let ranges: Vec<Range<usize>> = split.iter().map(Columns::range).collect();
            for (index, float) in out.iter().enumerate() {
                let (row, place) = (index / width, index % width);
                let number = ranges.iter().position(|range| range.contains(&place)).unwrap();
                prop_assert_eq!(*float, (1 + row + 10 * place + 10_000 * number) as f32);
            }
            let mut whole = Columns::whole(&mut out, width);
            prop_assert_eq!(whole.range(), 0..width);
            if rows > 0 && width > 0 {
                prop_assert_eq!(whole.row(rows - 1).len(), width);
            }
        }
    }

    #[test]
    #[should_panic(expected = "bug: row 2 of 2")]
    fn there_is_nothing_behind_the_last_row() {
        Columns::whole(&mut [0.0; 6], 3).row(2);
    }
}

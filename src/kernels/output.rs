//! Where the sums of a product go.

use std::ops::Range;

use super::linear::Columns;

/// Some columns of some rows.
pub(super) enum Output<'o> {
    /// All columns of rows that lie one behind the other.
    Whole { values: &'o mut [f32], width: usize },
    /// A range of columns; the first is a multiple of [`super::simd::LANES`].
    Part(Columns<'o>),
}

impl Output<'_> {
    /// The wanted columns of row `row`.
    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        match self {
            Self::Whole { values, width } => &mut values[row * *width..][..*width],
            Self::Part(columns) => columns.rows[row],
        }
    }

    /// The columns wanted.
    #[inline(always)]
    pub(super) fn range(&self) -> Range<usize> {
        match self {
            Self::Whole { width, .. } => 0..*width,
            Self::Part(columns) => columns.range.clone(),
        }
    }
}

//! Rows of activations as AMX reads them: rounded to bfloat16, one behind the other.

use super::panels::Line;
use super::simd::{LANES, Simd, Task, round};
use super::x86_64::TILE;

/// Some rows. Beyond one tile of them, rows of zeros fill the last tile.
#[derive(Debug, Default)]
pub(super) struct TileRows {
    lines: Vec<Line>,
    /// Lines of a row, 32 features each; zeros fill the last.
    stride: usize,
    rows: usize,
}

impl TileRows {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Lines from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// All from row `row` on.
    pub(super) fn from(&self, row: usize) -> &[Line] {
        &self.lines[row * self.stride..]
    }
}

/// Rounds row-major `x`, `width` features a row.
pub(super) struct PackTiles<'a> {
    pub x: &'a [f32],
    pub width: usize,
    /// What it becomes; what was there before is gone.
    pub out: &'a mut TileRows,
}

impl Task for PackTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.len().checked_div(self.width).unwrap_or(0);
        let stride = self.width.div_ceil(2 * LANES);
        let padded = if rows > TILE { rows.next_multiple_of(TILE) } else { rows };
        let TileRows { lines, .. } = self.out;
        if padded > rows || !self.width.is_multiple_of(2 * LANES) {
            // Else rows write all there is.
            lines.clear();
        }
        lines.resize(padded * stride, Line::ZERO);
        let places = lines.chunks_mut(stride.max(1));
        for (row, lines) in self.x.chunks(self.width.max(1)).zip(places) {
            let halves = lines.iter_mut().flat_map(|line| line.0.as_chunks_mut::<LANES>().0);
            for (features, half) in row.chunks(LANES).zip(halves) {
                *half = round(simd, features);
            }
        }
        (self.out.stride, self.out.rows) = (stride, rows);
    }
}

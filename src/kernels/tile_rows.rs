//! Rows of activations as AMX reads them: rounded to bfloat16, one behind the other.

use super::panels::Line;
use super::simd::{LANES, Simd, Task, round};
use super::x86_64::TILE;

/// Rows that are rounded in one go.
const PART_ROWS: usize = 2;

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

impl TileRows {
    /// The rounding of row-major `x`, `width` features a row, in parts. What was here before is gone.
    pub(super) fn parts<'p>(
        &'p mut self,
        x: &'p [f32],
        width: usize,
    ) -> impl Iterator<Item = PackTiles<'p>> {
        let rows = x.len().checked_div(width).unwrap_or(0);
        let stride = width.div_ceil(2 * LANES);
        let padded = if rows > TILE { rows.next_multiple_of(TILE) } else { rows };
        if padded > rows || !width.is_multiple_of(2 * LANES) {
            // Else rows write all there is.
            self.lines.clear();
        }
        self.lines.resize(padded * stride, Line::ZERO);
        (self.stride, self.rows) = (stride, rows);
        let lines = self.lines.chunks_mut((PART_ROWS * stride).max(1));
        let parts = x.chunks((PART_ROWS * width).max(1)).zip(lines);
        parts.map(move |(x, lines)| PackTiles { x, width, stride, lines })
    }
}

/// Rounds some rows.
pub(super) struct PackTiles<'p> {
    x: &'p [f32],
    width: usize,
    stride: usize,
    lines: &'p mut [Line],
}

impl Task for &mut PackTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.chunks_exact(self.width);
        for (row, lines) in rows.zip(self.lines.chunks_exact_mut(self.stride)) {
            let halves = lines.iter_mut().flat_map(|line| line.0.as_chunks_mut::<LANES>().0);
            for (features, half) in row.chunks(LANES).zip(halves) {
                *half = round(simd, features);
            }
        }
    }
}

//! A weight laid out for products in bfloat16.
//!
//! Sixteen outputs make a panel. A line of it holds two neighbouring input features of each of the
//! sixteen: the operand of one VDPBF16PS, a row of an AMX tile. Reading a panel from front to back
//! serves one row of activations at the memory's speed and many rows from the cache, so the weight
//! is held once, in this form only. Features and outputs beyond the weight's are zeros.

use std::fmt;

use half::bf16;

use super::huge_pages::{Buffer, Gathered};
use super::level::Kernels;
use super::reading::Places;
use super::simd::LANES;

/// About as much of a weight as is written at once: it stays in the second-level cache from its
/// reading to its writing.
const PIECE_BYTES: usize = 1 << 18;

/// Two input features of each output of a panel.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [bf16; 2 * LANES]);

impl Line {
    pub(super) const ZERO: Self = Self([bf16::ZERO; 2 * LANES]);
}

/// An `out_features x in_features` weight in panels.
pub struct Panels {
    lines: Buffer<Line>,
    in_features: usize,
    out_features: usize,
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panels({} x {})", self.out_features, self.in_features)
    }
}

impl Panels {
    /// Lays out a row-major weight of `out_features x in_features`.
    ///
    /// # Panics
    /// Where the weight has another length.
    #[must_use]
    pub fn pack(
        kernels: Kernels,
        weight: &[bf16],
        (out_features, in_features): (usize, usize),
    ) -> Self {
        assert_eq!(weight.len(), out_features * in_features, "bug: length of the weight");
        let mut panels = Self::zeros((out_features, in_features));
        let length = panels.panel_len();
        if length > 0 {
            let rows = weight.chunks(LANES * in_features);
            let items = panels.lines.as_mut_slice().chunks_mut(length).zip(rows).collect();
            kernels.for_each(weight.len(), items, |(panel, rows): &mut (&mut [Line], &[bf16])| {
                for (output, row) in rows.chunks(in_features).enumerate() {
                    write_output(panel, output, row);
                }
            });
        }
        panels
    }

    /// A weight of `out_features x in_features` zeros, to be written.
    #[must_use]
    pub fn zeros((out_features, in_features): (usize, usize)) -> Self {
        let length = in_features.div_ceil(2);
        let lines = Buffer::zeroed(out_features.div_ceil(LANES) * length);
        Self { lines, in_features, out_features }
    }

    /// How many rows are best written at once: whole panels of them.
    #[must_use]
    pub fn rows_at_once(&self) -> usize {
        let panel_bytes = LANES * self.in_features * size_of::<bf16>();
        (PIECE_BYTES / panel_bytes.max(1)).max(1) * LANES
    }

    /// Writes whole rows from `first` on.
    ///
    /// # Panics
    /// Where `first` does not begin a panel, or there are no such rows.
    pub fn write_rows(&mut self, first: usize, rows: &[bf16]) {
        assert!(first.is_multiple_of(LANES), "bug: row {first} begins no panel");
        let end = first * self.in_features + rows.len();
        assert!(end <= self.out_features * self.in_features, "bug: rows beyond {self:?}");
        let (width, length) = (self.in_features.max(1), self.panel_len().max(1));
        let lines = self.lines.as_mut_slice().get_mut(first / LANES * length..);
        let panels = lines.unwrap_or_default().chunks_mut(length);
        for (panel, rows) in panels.zip(rows.chunks(LANES * width)) {
            for (output, row) in rows.chunks(width).enumerate() {
                write_output(panel, output, row);
            }
        }
    }

    /// The memory, to be gathered with others'.
    pub(super) fn buffer(&mut self) -> &mut dyn Gathered {
        &mut self.lines
    }

    /// Bytes of a weight of this shape.
    pub(super) fn bytes_of((out_features, in_features): (usize, usize)) -> usize {
        out_features.div_ceil(LANES) * in_features.div_ceil(2) * size_of::<Line>()
    }

    /// Columns of the weight.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Rows of the weight.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// Writes row `output` of the weight to `row`, exactly.
    ///
    /// # Panics
    /// Where there is no such row, or `row` has another length.
    pub fn read_row(&self, output: usize, row: &mut [bf16]) {
        assert!(output < self.out_features, "bug: row {output} of {self:?}");
        assert_eq!(row.len(), self.in_features, "bug: length of a row");
        let place = 2 * (output % LANES);
        for (line, pair) in self.panel(output / LANES).iter().zip(row.chunks_mut(2)) {
            pair.copy_from_slice(&line.0[place..place + pair.len()]);
        }
    }

    /// The weight, row-major.
    #[must_use]
    pub fn unpack(&self) -> Vec<bf16> {
        let mut weight = vec![bf16::ZERO; self.out_features * self.in_features];
        for (output, row) in weight.chunks_mut(self.in_features.max(1)).enumerate() {
            self.read_row(output, row);
        }
        weight
    }

    /// Lines of a panel.
    pub(super) fn panel_len(&self) -> usize {
        self.in_features.div_ceil(2)
    }

    /// Where the panels lie.
    pub(super) fn places(&self) -> Places {
        Places::new(self.lines.as_slice(), self.panel_len())
    }

    /// The lines of outputs `LANES * index ..`.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> &[Line] {
        let length = self.panel_len();
        &self.lines.as_slice()[index * length..][..length]
    }
}

fn write_output(panel: &mut [Line], output: usize, row: &[bf16]) {
    let place = 2 * output;
    let (pairs, last) = row.as_chunks::<2>();
    for (line, pair) in panel.iter_mut().zip(pairs) {
        line.0[place] = pair[0];
        line.0[place + 1] = pair[1];
    }
    if let ([last], Some(line)) = (last, panel.last_mut()) {
        line.0[place] = *last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_panels_that_the_whole_makes() {
        for shape in [(1, 1), (15, 7), (16, 2), (17, 64), (50, 33), (300, 5000), (0, 4), (4, 0)] {
            let (out_features, in_features) = shape;
            let value = |i: usize| bf16::from_f32(i as f32 * 0.37 - 9.0);
            let weight: Vec<bf16> = (0..out_features * in_features).map(value).collect();
            let whole = Panels::pack(Kernels::best(), &weight, shape);
            let best = whole.rows_at_once();
            for count in [LANES, 3 * LANES, best] {
                let mut panels = Panels::zeros(shape);
                for first in (0..out_features).step_by(count) {
                    let end = out_features.min(first + count);
                    panels.write_rows(first, &weight[first * in_features..end * in_features]);
                }
                let lines =
                    |of: &Panels| of.lines.as_slice().iter().map(|l| l.0).collect::<Vec<_>>();
                assert_eq!(lines(&panels), lines(&whole), "{shape:?} by {count}");
                assert_eq!(panels.unpack(), weight);
            }
        }
    }
}

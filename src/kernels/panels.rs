//! A weight laid out for products in bfloat16.
//!
//! Sixteen outputs make a panel. A line of it holds two neighbouring input features of each of the
//! sixteen: the operand of one VDPBF16PS, a row of an AMX tile. Reading a panel from front to back
//! serves one row of activations at the memory's speed and many rows from the cache, so the weight
//! is held once, in this form only. Features and outputs beyond the weight's are zeros.

use std::fmt;

use half::bf16;

use super::huge_pages::Buffer;
use super::level::Kernels;
use super::simd::{LANES, Simd};

/// Two input features of each output of a panel.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [bf16; 2 * LANES]);

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
        let length = in_features.div_ceil(2);
        let mut lines = Buffer::zeroed(out_features.div_ceil(LANES) * length);
        if length > 0 {
            let rows = weight.chunks(LANES * in_features);
            let items = lines.as_mut_slice().chunks_mut(length).zip(rows).collect();
            kernels.for_each(weight.len(), items, |(panel, rows): (&mut [Line], &[bf16])| {
                for (output, row) in rows.chunks(in_features).enumerate() {
                    write_output(panel, output, row);
                }
            });
        }
        Self { lines, in_features, out_features }
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

    /// Asks for the first `count` lines.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, simd: S, count: usize) {
        for line in self.lines.as_slice().iter().take(count) {
            simd.prefetch(line);
        }
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

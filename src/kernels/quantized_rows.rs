//! Rows of activations as a product with quantised weights reads them: in groups of 32 features,
//! each rounded to 8 bits by the largest of its values, in tiles of rows.

use super::packed_rows::{self, Tile};
use super::quantized_blocks::{GROUP, LINES, QUAD, SHIFT};
use super::simd::{LANES, Simd, Task, load_padded};

/// Rows per tile that products are compiled for: with two panels, the largest fills 32 registers.
const WIDE_TILES: [usize; 5] = [6, 4, 3, 2, 1];
/// The same for half as many registers of half the width.
const NARROW_TILES: [usize; 2] = [2, 1];
/// The largest rounded value.
const LARGEST: f32 = 127.0;
/// A group without a larger value is taken for zeros: its scale would have no reciprocal.
const SMALLEST: f32 = 1e-30;

/// Four neighbouring features of a row.
pub(super) type Quad = [i8; QUAD];

/// A group of `R` rows.
#[derive(Clone, Copy)]
pub(super) struct GroupOf<'a, const R: usize> {
    pub lines: &'a [[Quad; R]; LINES],
    /// What a rounded value of 1 stands for.
    pub scales: &'a [f32; R],
    /// Minus [`SHIFT`] times the sum of the rounded values.
    pub shifts: &'a [i32; R],
    /// The sum of the values, rounded as they are.
    pub sums: &'a [f32; R],
}

/// Some rows, rounded.
#[derive(Debug, Default)]
pub(super) struct QuantizedRows {
    quads: Vec<Quad>,
    scales: Vec<f32>,
    shifts: Vec<i32>,
    sums: Vec<f32>,
    /// Groups in a row.
    groups: usize,
    tiles: Vec<Tile>,
}

impl QuantizedRows {
    /// The tiles, covering all rows in order.
    pub(super) fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Groups in a row.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    fn clear(&mut self) {
        self.quads.clear();
        self.scales.clear();
        self.shifts.clear();
        self.sums.clear();
    }

    /// The groups of the tile of `R` rows from `first` on.
    #[inline(always)]
    pub(super) fn tile<const R: usize>(
        &self,
        first: usize,
    ) -> impl Iterator<Item = GroupOf<'_, R>> {
        let groups = first * self.groups..(first + R) * self.groups;
        let lines = &self.quads[groups.start * LINES..groups.end * LINES];
        let lines = lines.as_chunks::<R>().0.as_chunks::<LINES>().0;
        let scales = self.scales[groups.clone()].as_chunks::<R>().0;
        let shifts = self.shifts[groups.clone()].as_chunks::<R>().0;
        let sums = self.sums[groups].as_chunks::<R>().0;
        let parts = lines.iter().zip(scales).zip(shifts).zip(sums);
        parts.map(|(((lines, scales), shifts), sums)| GroupOf { lines, scales, shifts, sums })
    }
}

/// Makes room for `rows` of `groups` groups each, of which `x` will fill `width` features:
/// [`QuantizedRows::parts`] are to be run then.
pub(super) struct MakeRoom<'a> {
    pub rows: usize,
    pub width: usize,
    pub groups: usize,
    /// What was there before is gone.
    pub out: &'a mut QuantizedRows,
}

impl Task for MakeRoom<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { rows, width, groups, out } = self;
        let sizes: &[usize] = if S::REGISTERS >= 32 { &WIDE_TILES } else { &NARROW_TILES };
        packed_rows::cut_into_tiles(rows, sizes, &mut out.tiles);
        out.groups = groups;
        if width.div_ceil(GROUP) < groups {
            // Else each row writes all groups.
            out.clear();
        }
        out.quads.resize(rows * groups * LINES, [0; QUAD]);
        out.scales.resize(rows * groups, 0.0);
        out.shifts.resize(rows * groups, 0);
        out.sums.resize(rows * groups, 0.0);
    }
}

impl QuantizedRows {
    /// The rounding of row-major `x`, `width` features a row, in parts, a tile each; zeros fill each
    /// row's last groups.
    pub(super) fn parts<'p>(
        &'p mut self,
        x: &'p [f32],
        width: usize,
    ) -> impl Iterator<Item = Quantize<'p>> {
        let Self { quads, scales, shifts, sums, groups, tiles } = self;
        let groups = *groups;
        let (mut quads, mut scales) = (quads.as_mut_slice(), scales.as_mut_slice());
        let (mut shifts, mut sums) = (shifts.as_mut_slice(), sums.as_mut_slice());
        tiles.iter().map(move |tile| {
            let own = tile.rows * groups;
            Quantize {
                x: &x[tile.row * width..(tile.row + tile.rows) * width],
                width,
                rows: tile.rows,
                quads: take_front(&mut quads, own * LINES),
                scales: take_front(&mut scales, own),
                shifts: take_front(&mut shifts, own),
                sums: take_front(&mut sums, own),
            }
        })
    }
}

/// The first `count` of what is left.
fn take_front<'p, T>(rest: &mut &'p mut [T], count: usize) -> &'p mut [T] {
    let (own, behind) = std::mem::take(rest).split_at_mut(count);
    *rest = behind;
    own
}

/// Rounds the rows of a tile.
pub(super) struct Quantize<'p> {
    x: &'p [f32],
    width: usize,
    rows: usize,
    quads: &'p mut [Quad],
    scales: &'p mut [f32],
    shifts: &'p mut [i32],
    sums: &'p mut [f32],
}

impl Task for &mut Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.rows;
        for row in 0..count {
            let values = &self.x[row * self.width..][..self.width];
            for (group, values) in values.chunks(GROUP).enumerate() {
                let rounded = round(simd, values);
                let place = group * count + row;
                self.scales[place] = rounded.scale;
                self.shifts[place] = -i32::from(SHIFT) * rounded.sum;
                self.sums[place] = rounded.scale * rounded.sum as f32;
                let quads = self.quads[group * count * LINES + row..].iter_mut().step_by(count);
                for (quad, own) in quads.zip(rounded.values.as_chunks::<QUAD>().0) {
                    *quad = *own;
                }
            }
        }
    }
}

struct Rounded {
    values: [i8; GROUP],
    scale: f32,
    sum: i32,
}

/// A group in 8 bits. Its scale is no number where a value is not finite, so that the result is
/// none either.
#[inline(always)]
fn round<S: Simd>(simd: S, values: &[f32]) -> Rounded {
    let (low, high) = values.split_at(values.len().min(LANES));
    let (low, high) = (load_padded(simd, low), load_padded(simd, high));
    let zero = simd.splat(0.0);
    let absolute = |x| simd.max(simd.sub(zero, x), x);
    let mut lanes = [0.0_f32; LANES];
    simd.store(simd.max(absolute(low), absolute(high)), &mut lanes);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i] > lanes[i + half] { lanes[i] } else { lanes[i + half] };
        }
    }
    let largest = lanes[0];
    // Zero unless one is infinite or no number.
    let fault = simd.sum(simd.mul(simd.sub(low, low), simd.sub(high, high)));
    let scale = largest / LARGEST + fault;
    let inverse = simd.splat(if largest > SMALLEST { LARGEST / largest } else { 0.0 });
    let mut out = [0; GROUP];
    let (halves, _) = out.as_chunks_mut::<LANES>();
    simd.store_i8(simd.mul(low, inverse), &mut halves[0]);
    simd.store_i8(simd.mul(high, inverse), &mut halves[1]);
    let sum = out.iter().map(|value| i32::from(*value)).sum();
    Rounded { values: out, scale, sum }
}

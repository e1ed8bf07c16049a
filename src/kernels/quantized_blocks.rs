//! The blocks that a quantised weight is held in: bytes and scales of sixteen outputs and some
//! groups of [`GROUP`] input features.
//!
//! A line holds four neighbouring features of each of the sixteen: the operand of one VPDPBUSD.
//! Values are unsigned and stand for `scale * value + minimum`, where 8-bit ones have no minimum of
//! their own but are shifted by [`SHIFT`]. Every block is a whole number of cache lines.

use half::f16;

use super::simd::{LANES, Simd};

/// Input features that share a scale.
pub(super) const GROUP: usize = 32;
/// Features of an output that lie side by side.
pub(super) const QUAD: usize = 4;
/// Lines of a group in 8 bits, of which the nibbles of half as many hold one in 4.
pub(super) const LINES: usize = GROUP / QUAD;
/// What is added to a signed 8-bit value to make it unsigned.
pub(super) const SHIFT: i16 = 128;

/// Four input features of each of sixteen outputs, or eight in nibbles.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; QUAD * LANES]);

/// The values of one output in one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group<S> {
    pub values: [u8; GROUP],
    pub scale: S,
}

/// Sixteen outputs by some groups of features.
pub(super) trait Block: bytemuck::Pod + Send + Sync {
    /// The scales of one output in the whole block, as they are stored.
    type Scales: Copy + Send + Sync;

    /// Groups in a block.
    const GROUPS: usize;
    /// Whether values are shifted by [`SHIFT`] rather than have a minimum.
    const SHIFTED: bool;

    /// Lines `index` and `index + LINES / 2` of a group.
    fn lines<S: Simd>(&self, simd: S, group: usize, index: usize) -> [S::Bytes; 2];
    /// The scales of a group.
    fn scales<S: Simd>(&self, simd: S, group: usize) -> S::Vector;
    /// The minima of a group, where values are not shifted.
    fn minima<S: Simd>(&self, simd: S, group: usize) -> S::Vector;

    fn set_scales(&mut self, output: usize, scales: Self::Scales);
    fn set_values(&mut self, group: usize, output: usize, values: &[u8; GROUP]);
    fn values(&self, group: usize, output: usize) -> [u8; GROUP];
    /// The scale and the minimum of a group, the latter 0 for shifted values.
    fn scale(&self, group: usize, output: usize) -> (f32, f32);
}

/// 8-bit values, each group with a scale: what Q8_0 of GGUF says.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Q8 {
    scales: [[f16; LANES]; 2],
    lines: [Line; 2 * LINES],
}

impl Block for Q8 {
    type Scales = [f16; 2];
    const GROUPS: usize = 2;
    const SHIFTED: bool = true;

    #[inline(always)]
    fn lines<S: Simd>(&self, simd: S, group: usize, index: usize) -> [S::Bytes; 2] {
        let line = |index: usize| simd.load_bytes(&self.lines[group * LINES + index].0);
        [line(index), line(index + LINES / 2)]
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, group: usize) -> S::Vector {
        simd.load_f16(&self.scales[group])
    }

    #[inline(always)]
    fn minima<S: Simd>(&self, simd: S, _group: usize) -> S::Vector {
        simd.splat(0.0)
    }

    fn set_scales(&mut self, output: usize, scales: [f16; 2]) {
        for (own, scale) in self.scales.iter_mut().zip(scales) {
            own[output] = scale;
        }
    }

    fn set_values(&mut self, group: usize, output: usize, values: &[u8; GROUP]) {
        let lines = &mut self.lines[group * LINES..][..LINES];
        for (line, quad) in lines.iter_mut().zip(values.as_chunks::<QUAD>().0) {
            line.0[QUAD * output..][..QUAD].copy_from_slice(quad);
        }
    }

    fn values(&self, group: usize, output: usize) -> [u8; GROUP] {
        std::array::from_fn(|i| self.lines[group * LINES + i / QUAD].0[QUAD * output + i % QUAD])
    }

    fn scale(&self, group: usize, output: usize) -> (f32, f32) {
        (self.scales[group][output].to_f32(), 0.0)
    }
}

/// 8-bit values, each group with a scale in float32: an adapter's factor, whose values may be small
/// and whose inner dimension is seldom more than one group.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Q8F {
    scales: [f32; LANES],
    lines: [Line; LINES],
}

impl Block for Q8F {
    type Scales = f32;
    const GROUPS: usize = 1;
    const SHIFTED: bool = true;

    #[inline(always)]
    fn lines<S: Simd>(&self, simd: S, _group: usize, index: usize) -> [S::Bytes; 2] {
        let line = |index: usize| simd.load_bytes(&self.lines[index].0);
        [line(index), line(index + LINES / 2)]
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, _group: usize) -> S::Vector {
        simd.load(&self.scales)
    }

    #[inline(always)]
    fn minima<S: Simd>(&self, simd: S, _group: usize) -> S::Vector {
        simd.splat(0.0)
    }

    fn set_scales(&mut self, output: usize, scale: f32) {
        self.scales[output] = scale;
    }

    fn set_values(&mut self, _group: usize, output: usize, values: &[u8; GROUP]) {
        for (line, quad) in self.lines.iter_mut().zip(values.as_chunks::<QUAD>().0) {
            line.0[QUAD * output..][..QUAD].copy_from_slice(quad);
        }
    }

    fn values(&self, _group: usize, output: usize) -> [u8; GROUP] {
        std::array::from_fn(|i| self.lines[i / QUAD].0[QUAD * output + i % QUAD])
    }

    fn scale(&self, _group: usize, output: usize) -> (f32, f32) {
        (self.scales[output], 0.0)
    }
}

/// 4-bit values, each group with a scale and a minimum: what Q4_0 and Q4_1 of GGUF say.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Q4 {
    scales: [f16; LANES],
    minima: [f16; LANES],
    lines: [Line; LINES / 2],
}

impl Block for Q4 {
    /// Scale and minimum.
    type Scales = [f16; 2];
    const GROUPS: usize = 1;
    const SHIFTED: bool = false;

    #[inline(always)]
    fn lines<S: Simd>(&self, simd: S, _group: usize, index: usize) -> [S::Bytes; 2] {
        simd.nibbles(simd.load_bytes(&self.lines[index].0))
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, _group: usize) -> S::Vector {
        simd.load_f16(&self.scales)
    }

    #[inline(always)]
    fn minima<S: Simd>(&self, simd: S, _group: usize) -> S::Vector {
        simd.load_f16(&self.minima)
    }

    fn set_scales(&mut self, output: usize, [scale, minimum]: [f16; 2]) {
        self.scales[output] = scale;
        self.minima[output] = minimum;
    }

    fn set_values(&mut self, _group: usize, output: usize, values: &[u8; GROUP]) {
        set_nibbles(&mut self.lines, output, values);
    }

    fn values(&self, _group: usize, output: usize) -> [u8; GROUP] {
        nibbles(&self.lines, output)
    }

    fn scale(&self, _group: usize, output: usize) -> (f32, f32) {
        (self.scales[output].to_f32(), self.minima[output].to_f32())
    }
}

/// Groups that share the scale of their scales.
pub(super) const SUPER: usize = 8;

/// The scales of one output in eight groups of 4-bit values. A group's scale is `scale * scales[i]`
/// and its minimum `minimum * minima[i]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SuperScales {
    pub scale: f16,
    pub minimum: f16,
    pub scales: [u8; SUPER],
    pub minima: [u8; SUPER],
}

/// 4-bit values, with scales that have a scale of their own: what Q4_K of GGUF says.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Q4K {
    scale: [f16; LANES],
    minimum: [f16; LANES],
    scales: [[u8; LANES]; SUPER],
    minima: [[u8; LANES]; SUPER],
    lines: [[Line; LINES / 2]; SUPER],
}

impl Block for Q4K {
    type Scales = SuperScales;
    const GROUPS: usize = SUPER;
    const SHIFTED: bool = false;

    #[inline(always)]
    fn lines<S: Simd>(&self, simd: S, group: usize, index: usize) -> [S::Bytes; 2] {
        simd.nibbles(simd.load_bytes(&self.lines[group][index].0))
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, group: usize) -> S::Vector {
        simd.mul(simd.load_f16(&self.scale), simd.load_u8(&self.scales[group]))
    }

    #[inline(always)]
    fn minima<S: Simd>(&self, simd: S, group: usize) -> S::Vector {
        simd.mul(simd.load_f16(&self.minimum), simd.load_u8(&self.minima[group]))
    }

    fn set_scales(&mut self, output: usize, scales: SuperScales) {
        self.scale[output] = scales.scale;
        self.minimum[output] = scales.minimum;
        for group in 0..SUPER {
            self.scales[group][output] = scales.scales[group];
            self.minima[group][output] = scales.minima[group];
        }
    }

    fn set_values(&mut self, group: usize, output: usize, values: &[u8; GROUP]) {
        set_nibbles(&mut self.lines[group], output, values);
    }

    fn values(&self, group: usize, output: usize) -> [u8; GROUP] {
        nibbles(&self.lines[group], output)
    }

    fn scale(&self, group: usize, output: usize) -> (f32, f32) {
        let times = |unit: f16, times: u8| unit.to_f32() * f32::from(times);
        let scale = times(self.scale[output], self.scales[group][output]);
        (scale, times(self.minimum[output], self.minima[group][output]))
    }
}

/// The first half of the values lies in the low nibbles, the second in the high ones.
fn set_nibbles(lines: &mut [Line; LINES / 2], output: usize, values: &[u8; GROUP]) {
    let (low, high) = values.split_at(GROUP / 2);
    for (i, (low, high)) in low.iter().zip(high).enumerate() {
        lines[i / QUAD].0[QUAD * output + i % QUAD] = low & 0xF | high << 4;
    }
}

fn nibbles(lines: &[Line; LINES / 2], output: usize) -> [u8; GROUP] {
    std::array::from_fn(|i| {
        let byte = lines[i % (GROUP / 2) / QUAD].0[QUAD * output + i % QUAD];
        if i < GROUP / 2 { byte & 0xF } else { byte >> 4 }
    })
}

//! A weight in 8 or 4 bits, laid out for products with activations in 8 bits.
//!
//! Sixteen outputs make a panel, as in [`super::panels`]; `quantized_blocks` says what a panel is
//! made of. Features and outputs beyond the weight's have scales of zero. Which values a weight of
//! floats becomes is [`super::quantize`]'s, and what GGUF's blocks hold [`super::ggml_blocks`]'s.

use std::fmt;

use super::ggml_blocks::{self, GgmlBlocks};
use super::huge_pages::{Buffer, Gathered};
use super::level::Kernels;
use super::quantize::{self, QuantizeError};
use super::quantized_blocks::{Block, GROUP, Group, Q4, Q4K, Q8, Q8F, SHIFT};
use super::reading::Places;
use super::simd::LANES;

/// How many bits a weight's values get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 8 bits and a scale per 32 values: 8.5 bits a value.
    Eight,
    /// 4 bits, a scale and a minimum per 32 values: 5 bits a value.
    Four,
}

/// An `out_features x in_features` weight in quantised panels.
pub struct QuantizedPanels {
    pub(super) blocks: Blocks,
    in_features: usize,
    out_features: usize,
}

pub(super) enum Blocks {
    Q8(Buffer<Q8>),
    Q8F(Buffer<Q8F>),
    Q4(Buffer<Q4>),
    Q4K(Buffer<Q4K>),
}

/// Runs `$body` with `$blocks` a slice of blocks of the kind that `$of` holds.
macro_rules! with_blocks {
    ($of:expr, $blocks:ident => $body:expr) => {
        match $of {
            $crate::kernels::quantized_panels::Blocks::Q8(buffer) => {
                let $blocks = buffer.as_slice();
                $body
            }
            $crate::kernels::quantized_panels::Blocks::Q8F(buffer) => {
                let $blocks = buffer.as_slice();
                $body
            }
            $crate::kernels::quantized_panels::Blocks::Q4(buffer) => {
                let $blocks = buffer.as_slice();
                $body
            }
            $crate::kernels::quantized_panels::Blocks::Q4K(buffer) => {
                let $blocks = buffer.as_slice();
                $body
            }
        }
    };
}
pub(super) use with_blocks;

impl fmt::Debug for QuantizedPanels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.blocks {
            Blocks::Q8(_) => "8 bits",
            Blocks::Q8F(_) => "8 bits with scales in float32",
            Blocks::Q4(_) => "4 bits",
            Blocks::Q4K(_) => "4 bits in super-blocks",
        };
        write!(f, "QuantizedPanels({} x {}, {kind})", self.out_features, self.in_features)
    }
}

impl QuantizedPanels {
    /// Rounds a row-major weight of `out_features x in_features`.
    ///
    /// # Errors
    /// Where a value is not finite, or beyond what a scale in float16 reaches.
    ///
    /// # Panics
    /// Where the weight has another length.
    pub fn quantize(
        kernels: Kernels,
        weight: &[f32],
        shape: (usize, usize),
        bits: Bits,
    ) -> Result<Self, QuantizeError> {
        let (out_features, in_features) = shape;
        assert_eq!(weight.len(), out_features * in_features, "bug: length of the weight");
        quantize::check(weight, bits)?;
        let row = |output: usize| &weight[output * in_features..][..in_features];
        let blocks = match bits {
            Bits::Eight => Blocks::Q8(fill(kernels, shape, |output, block: &mut Q8, at, place| {
                let groups =
                    quantize::groups::<2>(row(output), at).map(|group| quantize::q8(&group));
                block.set_scales(place, groups.map(|group| group.scale));
                for (index, group) in groups.iter().enumerate() {
                    block.set_values(index, place, &group.values);
                }
            })),
            Bits::Four => Blocks::Q4(fill(kernels, shape, |output, block: &mut Q4, at, place| {
                let [group] = quantize::groups::<1>(row(output), at);
                let Group { values, scale } = quantize::q4(&group);
                block.set_scales(place, scale);
                block.set_values(0, place, &values);
            })),
        };
        Ok(Self { blocks, in_features, out_features })
    }

    /// Rounds an adapter's row-major factor to 8 bits, with a scale in float32 per 32 values.
    ///
    /// # Errors
    /// Where a value is not finite.
    ///
    /// # Panics
    /// Where the factor has another length.
    pub fn quantize_factor(
        kernels: Kernels,
        factor: &[f32],
        shape: (usize, usize),
    ) -> Result<Self, QuantizeError> {
        let (out_features, in_features) = shape;
        assert_eq!(factor.len(), out_features * in_features, "bug: length of the factor");
        quantize::check_f32(factor)?;
        let blocks = fill(kernels, shape, |output, block: &mut Q8F, at, place| {
            let row = &factor[output * in_features..][..in_features];
            let [group] = quantize::groups::<1>(row, at);
            let Group { values, scale } = quantize::q8_f32(&group);
            block.set_scales(place, scale);
            block.set_values(0, place, &values);
        });
        Ok(Self { blocks: Blocks::Q8F(blocks), in_features, out_features })
    }

    /// Bytes that [`QuantizedPanels::quantize_factor`] takes for this shape.
    #[must_use]
    pub fn factor_bytes((out_features, in_features): (usize, usize)) -> usize {
        out_features.div_ceil(LANES) * panel_len::<Q8F>(in_features) * size_of::<Q8F>()
    }

    /// The memory, to be gathered with others'.
    pub(super) fn buffer(&mut self) -> &mut dyn Gathered {
        match &mut self.blocks {
            Blocks::Q8(buffer) => buffer,
            Blocks::Q8F(buffer) => buffer,
            Blocks::Q4(buffer) => buffer,
            Blocks::Q4K(buffer) => buffer,
        }
    }

    /// Takes over the blocks of a GGUF file, `out_features` rows of whole blocks: every value is
    /// what it is there.
    ///
    /// # Panics
    /// Where there are more or fewer of them.
    #[must_use]
    pub fn from_ggml(
        kernels: Kernels,
        kind: GgmlBlocks,
        bytes: &[u8],
        shape: (usize, usize),
    ) -> Self {
        let (out_features, in_features) = shape;
        let row_bytes = in_features / kind.values() * kind.bytes();
        assert!(in_features.is_multiple_of(kind.values()), "bug: a row of broken blocks");
        assert_eq!(bytes.len(), out_features * row_bytes, "bug: length of the weight");
        let row = |output: usize| &bytes[output * row_bytes..][..row_bytes];
        let blocks = match kind {
            GgmlBlocks::Q8_0 => Blocks::Q8(fill(kernels, shape, |output, block, at, place| {
                ggml_blocks::q8_0(row(output), at, place, block);
            })),
            GgmlBlocks::Q4_0 => Blocks::Q4(fill(kernels, shape, |output, block, at, place| {
                ggml_blocks::q4_0(row(output), at, place, block);
            })),
            GgmlBlocks::Q4_1 => Blocks::Q4(fill(kernels, shape, |output, block, at, place| {
                ggml_blocks::q4_1(row(output), at, place, block);
            })),
            GgmlBlocks::Q4K => Blocks::Q4K(fill(kernels, shape, |output, block, at, place| {
                ggml_blocks::q4_k(row(output), at, place, block);
            })),
        };
        Self { blocks, in_features, out_features }
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
        with_blocks!(&self.blocks, blocks => size_of_val(blocks))
    }

    /// Groups that a row of activations is to have.
    pub(super) fn groups(&self) -> usize {
        match &self.blocks {
            Blocks::Q8(_) => panel_len::<Q8>(self.in_features) * Q8::GROUPS,
            Blocks::Q8F(_) => panel_len::<Q8F>(self.in_features) * Q8F::GROUPS,
            Blocks::Q4(_) => panel_len::<Q4>(self.in_features) * Q4::GROUPS,
            Blocks::Q4K(_) => panel_len::<Q4K>(self.in_features) * Q4K::GROUPS,
        }
    }

    /// Where the panels lie.
    pub(super) fn places(&self) -> Places {
        let panels = self.out_features.div_ceil(LANES).max(1);
        with_blocks!(&self.blocks, blocks => Places::new(blocks, blocks.len() / panels))
    }

    /// Writes row `output` of the weight to `row`.
    ///
    /// # Panics
    /// Where there is no such row, or `row` has another length.
    pub fn read_row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.out_features, "bug: row {output} of {self:?}");
        assert_eq!(row.len(), self.in_features, "bug: length of a row");
        with_blocks!(&self.blocks, blocks => read_row(blocks, output, row));
    }

    /// The signed values of a group, its scale and its minimum, which is 0 for 8 bits.
    #[cfg(test)]
    fn group(&self, output: usize, group: usize) -> ([i16; GROUP], f32, f32) {
        fn of<B: Block>(
            blocks: &[B],
            groups: usize,
            (output, group): (usize, usize),
        ) -> ([i16; GROUP], f32, f32) {
            let block = &blocks[(output / LANES * groups + group) / B::GROUPS];
            let (group, place) = (group % B::GROUPS, output % LANES);
            let shift = if B::SHIFTED { SHIFT } else { 0 };
            let (scale, minimum) = block.scale(group, place);
            (block.values(group, place).map(|value| i16::from(value) - shift), scale, minimum)
        }
        with_blocks!(&self.blocks, blocks => of(blocks, self.groups(), (output, group)))
    }

    /// The weight, row-major.
    #[must_use]
    pub fn dequantize(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.out_features * self.in_features];
        for (output, row) in weight.chunks_mut(self.in_features.max(1)).enumerate() {
            self.read_row(output, row);
        }
        weight
    }
}

/// Blocks of a panel.
fn panel_len<B: Block>(in_features: usize) -> usize {
    in_features.div_ceil(GROUP * B::GROUPS)
}

/// Fills the panels of a weight: `write` is given an output, the block, the block's number in the
/// row, and the output's place in it.
fn fill<B: Block>(
    kernels: Kernels,
    (out_features, in_features): (usize, usize),
    write: impl Fn(usize, &mut B, usize, usize) + Sync + Send,
) -> Buffer<B> {
    let length = panel_len::<B>(in_features);
    let mut buffer = Buffer::zeroed(out_features.div_ceil(LANES) * length);
    if length > 0 {
        let panels = buffer.as_mut_slice().chunks_mut(length).enumerate().collect();
        let work = out_features * in_features;
        kernels.for_each(work, panels, |(panel, blocks): &mut (usize, &mut [B])| {
            for output in *panel * LANES..out_features.min((*panel + 1) * LANES) {
                for (index, block) in blocks.iter_mut().enumerate() {
                    write(output, block, index, output % LANES);
                }
            }
        });
    }
    buffer
}

fn read_row<B: Block>(blocks: &[B], output: usize, row: &mut [f32]) {
    let (length, place) = (panel_len::<B>(row.len()), output % LANES);
    let panel = &blocks[output / LANES * length..][..length];
    for (index, values) in row.chunks_mut(GROUP).enumerate() {
        let (block, group) = (&panel[index / B::GROUPS], index % B::GROUPS);
        let (scale, minimum) = block.scale(group, place);
        let shift = if B::SHIFTED { SHIFT } else { 0 };
        for (value, held) in values.iter_mut().zip(block.values(group, place)) {
            *value = f32::from(i16::from(held) - shift) * scale + minimum;
        }
    }
}

#[cfg(test)]
#[path = "quantized_tests.rs"]
mod tests;

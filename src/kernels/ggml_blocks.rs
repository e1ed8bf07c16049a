//! Blocks of quantised values as GGUF files hold them, taken over value by value.
//!
//! Layouts: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>. All numbers are
//! little-endian.

use half::f16;

use super::quantized_blocks::{Block, GROUP, Q4, Q4K, Q8, SUPER, SuperScales};
use super::quantized_panels::Bits;

/// A kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlBlocks {
    /// 32 signed bytes and a scale.
    Q8_0,
    /// 32 nibbles less 8, and a scale.
    Q4_0,
    /// 32 nibbles, a scale and a minimum.
    Q4_1,
    /// 256 nibbles in eight groups with scales and minima of six bits.
    Q4K,
}

impl GgmlBlocks {
    /// Values of a block.
    #[must_use]
    pub fn values(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => GROUP,
            Self::Q4K => SUPER * GROUP,
        }
    }

    /// How many bits its values have.
    #[must_use]
    pub fn bits(self) -> Bits {
        match self {
            Self::Q8_0 => Bits::Eight,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => Bits::Four,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 2 + GROUP,
            Self::Q4_0 => 2 + GROUP / 2,
            Self::Q4_1 => 4 + GROUP / 2,
            Self::Q4K => 4 + 12 + SUPER * GROUP / 2,
        }
    }
}

fn float16(bytes: &[u8]) -> f16 {
    f16::from_le_bytes([bytes[0], bytes[1]])
}

/// Block `index` of those in `row`, where there is one.
fn block(row: &[u8], kind: GgmlBlocks, index: usize) -> Option<&[u8]> {
    row.chunks_exact(kind.bytes()).nth(index)
}

/// Block `at` of a row of [`GgmlBlocks::Q8_0`], for place `place` of `to`.
pub(super) fn q8_0(row: &[u8], at: usize, place: usize, to: &mut Q8) {
    let own = [0, 1].map(|index| block(row, GgmlBlocks::Q8_0, at * Q8::GROUPS + index));
    to.set_scales(place, own.map(|block| block.map_or(f16::ZERO, float16)));
    for (group, block) in own.into_iter().enumerate() {
        let Some(block) = block else { continue };
        // Adding 128 to a signed byte flips its first bit.
        to.set_values(group, place, &std::array::from_fn(|i| block[2 + i] ^ 0x80));
    }
}

/// Block `at` of a row of [`GgmlBlocks::Q4_0`], for place `place` of `to`.
pub(super) fn q4_0(row: &[u8], at: usize, place: usize, to: &mut Q4) {
    let Some(block) = block(row, GgmlBlocks::Q4_0, at) else { return };
    let scale = float16(block);
    to.set_scales(place, [scale, f16::from_f32(-8.0 * scale.to_f32())]);
    to.set_values(0, place, &nibbles(&block[2..]));
}

/// Block `at` of a row of [`GgmlBlocks::Q4_1`], for place `place` of `to`.
pub(super) fn q4_1(row: &[u8], at: usize, place: usize, to: &mut Q4) {
    let Some(block) = block(row, GgmlBlocks::Q4_1, at) else { return };
    to.set_scales(place, [float16(block), float16(&block[2..])]);
    to.set_values(0, place, &nibbles(&block[4..]));
}

/// Block `at` of a row of [`GgmlBlocks::Q4K`], for place `place` of `to`.
pub(super) fn q4_k(row: &[u8], at: usize, place: usize, to: &mut Q4K) {
    let Some(block) = block(row, GgmlBlocks::Q4K, at) else { return };
    let (packed, values) = (&block[4..16], &block[16..]);
    // The first four are whole; of the others, four bits lie apart and two above those.
    let six = |from: usize, group: usize| match group {
        0..4 => packed[from + group] & 63,
        _ => {
            let low = packed[8 + group - 4] >> from & 0xF;
            low | packed[from + group - 4] >> 6 << 4
        }
    };
    to.set_scales(
        place,
        SuperScales {
            scale: float16(block),
            // Minima are subtracted there and added here.
            minimum: -float16(&block[2..]),
            scales: std::array::from_fn(|group| six(0, group)),
            minima: std::array::from_fn(|group| six(4, group)),
        },
    );
    for (pair, bytes) in values.as_chunks::<GROUP>().0.iter().enumerate() {
        to.set_values(2 * pair, place, &bytes.map(|byte| byte & 0xF));
        to.set_values(2 * pair + 1, place, &bytes.map(|byte| byte >> 4));
    }
}

/// The low nibbles, then the high.
fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    let half = GROUP / 2;
    std::array::from_fn(|i| if i < half { bytes[i] & 0xF } else { bytes[i - half] >> 4 })
}

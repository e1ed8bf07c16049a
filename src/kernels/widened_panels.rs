//! Panels for AMX: those of a bfloat16 weight as they lie, those of a quantised one widened to bfloat16
//! when their turn comes.
//!
//! Tiles of bytes would do without widening, but with a scale for every 32 features the sums leave the
//! tiles after each instruction, and what follows takes longer than the products.

use super::panels::{Line, Panels};
use super::quantized_blocks::{Block, GROUP, LINES, SHIFT};
use super::simd::Simd;

/// Bytes of each panel between the block in use and the one asked for.
const AHEAD: usize = 2048;
/// Lines of a group in bfloat16.
const WIDE_LINES: usize = GROUP / 2;

/// Panels that can be had in bfloat16.
pub(super) trait TilePanels: Copy {
    /// Those of two numbers, of which the last may be the first again; they may be written to `room`.
    fn pair<'r, S: Simd>(
        self,
        simd: S,
        numbers: [usize; 2],
        room: &'r mut Vec<Line>,
    ) -> [&'r [Line]; 2]
    where
        Self: 'r;
}

impl TilePanels for &Panels {
    #[inline(always)]
    fn pair<'r, S: Simd>(self, _: S, numbers: [usize; 2], _: &'r mut Vec<Line>) -> [&'r [Line]; 2]
    where
        Self: 'r,
    {
        numbers.map(|number| self.panel(number))
    }
}

/// Panels of a quantised weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widened<'a, B> {
    /// All of them, one after the other.
    pub blocks: &'a [B],
    /// Groups of a row.
    pub groups: usize,
    /// Lines of a panel in bfloat16: the last group's last ones may be too many.
    pub length: usize,
}

impl<B: Block> TilePanels for Widened<'_, B> {
    #[inline(always)]
    fn pair<'r, S: Simd>(
        self,
        simd: S,
        numbers: [usize; 2],
        room: &'r mut Vec<Line>,
    ) -> [&'r [Line]; 2]
    where
        Self: 'r,
    {
        let whole = self.groups * WIDE_LINES;
        room.resize(2 * whole, Line::ZERO);
        let (first, second) = room.split_at_mut(whole);
        self.widen(simd, numbers[0], first);
        if numbers[1] == numbers[0] {
            return [&first[..self.length]; 2];
        }
        self.widen(simd, numbers[1], second);
        [&first[..self.length], &second[..self.length]]
    }
}

impl<B: Block> Widened<'_, B> {
    /// Writes panel `number`, each value rounded once.
    #[inline(always)]
    fn widen<S: Simd>(self, simd: S, number: usize, out: &mut [Line]) {
        let count = self.groups / B::GROUPS;
        let mut groups = out.as_chunks_mut::<WIDE_LINES>().0.iter_mut();
        for block in &self.blocks[number * count..][..count] {
            let ahead = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
            for line in (0..size_of::<B>()).step_by(size_of::<Line>()) {
                simd.prefetch(ahead.wrapping_add(line));
            }
            for group in 0..B::GROUPS {
                let Some(out) = groups.next() else { return };
                let scales = block.scales(simd, group);
                let offsets = if B::SHIFTED {
                    // A power of two: what is added to it, and only that, is rounded.
                    simd.mul(scales, simd.splat(-f32::from(SHIFT)))
                } else {
                    block.minima(simd, group)
                };
                for index in 0..LINES / 2 {
                    let lines = block.lines(simd, group, index);
                    for (half, bytes) in lines.into_iter().enumerate() {
                        let place = 2 * (index + half * (LINES / 2));
                        if let [even, odd] = &mut out[place..place + 2] {
                            simd.widen(bytes, scales, offsets, [&mut even.0, &mut odd.0]);
                        }
                    }
                }
            }
        }
    }
}

//! The product of rounded rows with the panels of a quantised weight.
//!
//! Within a group, an output is a sum of integers, which is exact; the groups' sums are added in
//! float32 in their order. So an output does not depend on the tile, the other rows or the level.

// Loops over indices are what the compiler keeps in registers.
#![allow(clippy::needless_range_loop)]

use super::columns::Columns;
use super::linear::Epilogue;
use super::packed_rows::Tile;
use super::quantized_blocks::{Block, LINES};
use super::quantized_rows::{GroupOf, QuantizedRows};
use super::reading::Reading;
use super::simd::{LANES, Simd, Task};

/// Panels that pass over a tile together.
const WIDTH: usize = 2;
/// Bytes of each panel between the line in use and the one asked for.
const AHEAD: usize = 2048;
/// The same over all panels, where they are too short for that.
const SHORT_AHEAD: usize = 6144;

/// Columns `out` of a product; they start at a multiple of [`LANES`].
pub(super) struct QuantizedProduct<'a, 'o, B> {
    pub x: &'a QuantizedRows,
    /// All panels of the weight, one after the other.
    pub blocks: &'a [B],
    /// Groups of a row of the weight; those of `x` may be more.
    pub groups: usize,
    pub epilogue: Epilogue<'a>,
    /// The row of the output that the first row of `x` goes to.
    pub first_row: usize,
    /// What is read, and what after it.
    pub reading: Reading,
    pub out: &'a mut Columns<'o>,
}

impl<B: Block> Task for QuantizedProduct<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        debug_assert!(self.groups <= self.x.groups());
        let range = self.out.range();
        let mut column = range.start;
        while column + LANES < range.end {
            self.group::<S, WIDTH>(simd, column);
            column += WIDTH * LANES;
        }
        if column < range.end {
            self.group::<S, 1>(simd, column);
        }
    }
}

impl<B: Block> QuantizedProduct<'_, '_, B> {
    /// `C` panels from `column` on, for all tiles.
    #[inline(always)]
    fn group<S: Simd, const C: usize>(&mut self, simd: S, column: usize) {
        let x = self.x;
        for &Tile { row, rows } in x.tiles() {
            if S::REGISTERS >= 32 {
                match rows {
                    6 => self.tile::<S, 6, C>(simd, row, column),
                    4 => self.tile::<S, 4, C>(simd, row, column),
                    3 => self.tile::<S, 3, C>(simd, row, column),
                    2 => self.tile::<S, 2, C>(simd, row, column),
                    _ => self.tile::<S, 1, C>(simd, row, column),
                }
            } else {
                match rows {
                    2 => self.tile::<S, 2, C>(simd, row, column),
                    _ => self.tile::<S, 1, C>(simd, row, column),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let length = self.groups / B::GROUPS;
        let mut panels = [&[] as &[B]; C];
        for (c, panel) in panels.iter_mut().enumerate() {
            *panel = &self.blocks[(column / LANES + c) * length..][..length];
        }
        let behind = self.behind::<C>(column, length);
        let mut acc = [[simd.splat(0.0); C]; R];
        let mut groups = self.x.tile::<R>(row);
        for index in 0..length {
            let mut blocks = [&panels[0][index]; C];
            let mut ask = behind.start;
            for c in 0..C {
                blocks[c] = &panels[c][index];
                ask[c] = if index < behind.from {
                    std::ptr::from_ref(blocks[c]).cast::<u8>().wrapping_add(AHEAD)
                } else {
                    ask[c].wrapping_add((index - behind.from) * size_of::<B>())
                };
            }
            for group in 0..B::GROUPS {
                let Some(x) = groups.next() else { return };
                add_group(simd, blocks, Place { group, ask }, x, &mut acc);
            }
        }
        let row = self.first_row + row;
        let first = column - self.out.range().start;
        for (r, sums) in acc.iter().enumerate() {
            let mut outs = self.out.row(row + r)[first..].chunks_mut(LANES);
            for (c, sums) in sums.iter().enumerate() {
                let Some(out) = outs.next() else { return };
                self.epilogue.write(simd, column + c * LANES, *sums, out);
            }
        }
    }

    /// What to ask for when the panels from `column` on, of `length` blocks, come to their end.
    #[inline(always)]
    fn behind<const C: usize>(&self, column: usize, length: usize) -> Behind<C> {
        let bytes = length * size_of::<B>();
        let (from, groups) = if bytes > AHEAD {
            (length - AHEAD / size_of::<B>(), 1)
        } else {
            (0, SHORT_AHEAD.div_ceil(C * bytes.max(1)))
        };
        Behind { from, start: self.reading.panels(column / LANES + groups * C) }
    }
}

/// What is read after `C` panels.
#[derive(Clone, Copy)]
struct Behind<const C: usize> {
    /// Asked for from this block on.
    from: usize,
    /// Where it begins, for each panel.
    start: [*const u8; C],
}

/// A group of a block, and what to ask for while it is in use: the place of the block's beginning.
#[derive(Clone, Copy)]
struct Place<const C: usize> {
    group: usize,
    ask: [*const u8; C],
}

/// Adds the products of a group of `R` rows with that of `C` panels.
#[inline(always)]
fn add_group<S: Simd, B: Block, const R: usize, const C: usize>(
    simd: S,
    blocks: [&B; C],
    place: Place<C>,
    x: GroupOf<'_, R>,
    acc: &mut [[S::Vector; C]; R],
) {
    let Place { group, ask } = place;
    let part = size_of::<B>() / B::GROUPS;
    for start in ask {
        let start = start.wrapping_add(group * part);
        for line in 0..part.div_ceil(64) {
            simd.prefetch(start.wrapping_add(64 * line));
        }
    }
    let mut sums = [[simd.splat_integer(0); C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = simd.splat_integer(if B::SHIFTED { x.shifts[r] } else { 0 });
        }
    }
    for index in 0..LINES / 2 {
        let mut weights = [blocks[0].lines(simd, group, index); C];
        for c in 1..C {
            weights[c] = blocks[c].lines(simd, group, index);
        }
        for half in 0..2 {
            let line = &x.lines[index + half * (LINES / 2)];
            for r in 0..R {
                let x = simd.splat_quad(line[r]);
                for c in 0..C {
                    sums[r][c] = simd.dot_bytes(weights[c][half], x, sums[r][c]);
                }
            }
        }
    }
    for c in 0..C {
        let scales = blocks[c].scales(simd, group);
        for r in 0..R {
            let scale = simd.mul(scales, simd.splat(x.scales[r]));
            acc[r][c] = simd.mul_add(simd.to_float(sums[r][c]), scale, acc[r][c]);
        }
        if !B::SHIFTED {
            let minima = blocks[c].minima(simd, group);
            for r in 0..R {
                acc[r][c] = simd.mul_add(minima, simd.splat(x.sums[r]), acc[r][c]);
            }
        }
    }
}

//! The product of packed rows with the panels of a weight: `x Wᵀ`, both rounded to bfloat16,
//! summed in float32.
//!
//! An output is one sum over the input features, pair after pair in their order, whatever the
//! tile, the block or the other rows: see [`super::simd::Simd::dot_pairs`].

use std::ops::Range;

use super::columns::Columns;
use super::linear::Epilogue;
use super::packed_rows::{PackedRows, Pairs, Tile};
use super::panels::{Line, Panels};
use super::reading::Reading;
use super::scratch::Scratch;
use super::simd::{LANES, Lanes, Simd, Task};

/// Panels that pass over a tile together.
const WIDTH: usize = 2;
/// Short panels that pass together over few rows, and over some: else each sum would wait for
/// itself.
const SHORT_WIDTHS: [usize; 2] = [8, 4];
/// The most rows that are few, and some, where registers allow it.
const SHORT_ROWS: [usize; 2] = [3, 6];
/// The longest panel that is short.
const SHORT: usize = 32;
/// At most so many lines of a panel stay near the processor while all tiles pass; a multiple of
/// [`LANES`].
const BLOCK: usize = 288;
/// Where a single tile passes, lines of each panel between the one in use and the one asked for.
const AHEAD: usize = 32;
/// The same over all panels, where they are too short for that.
const SHORT_AHEAD: usize = 96;
/// Tiles that pass over a panel together.
const MAX_TILES: usize = 8;

/// Some columns of a product.
pub(super) struct PanelProduct<'a, 'o> {
    pub x: &'a PackedRows,
    pub panels: &'a Panels,
    pub epilogue: Epilogue<'a>,
    /// The row of the output that the first row of `x` goes to.
    pub first_row: usize,
    /// What is read, and what after it.
    pub reading: Reading,
    pub out: &'a mut Columns<'o>,
}

impl Task for PanelProduct<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        debug_assert!(self.x.width() == self.panels.panel_len());
        let mut partial = Vec::lend();
        let short = S::REGISTERS >= 32 && self.panels.panel_len() <= SHORT;
        for tiles in self.x.tiles().chunks(MAX_TILES) {
            let rows = tiles.iter().map(|tile| tile.rows).max().unwrap_or(0);
            let mut column = self.out.range().start;
            if short && rows <= SHORT_ROWS[0] {
                column = self.short_groups::<S, { SHORT_WIDTHS[0] }>(simd, tiles, column);
            } else if short && rows <= SHORT_ROWS[1] {
                column = self.short_groups::<S, { SHORT_WIDTHS[1] }>(simd, tiles, column);
            }
            let end = self.out.range().end;
            while column + LANES < end {
                self.group::<S, WIDTH>(simd, tiles, column, &mut partial);
                column += WIDTH * LANES;
            }
            if column < end {
                self.group::<S, 1>(simd, tiles, column, &mut partial);
            }
        }
        partial.give_back();
    }
}

impl PanelProduct<'_, '_> {
    /// As many groups of `C` short panels from `column` on as there are, for tiles of few rows.
    /// Gives the column behind them.
    #[inline(always)]
    fn short_groups<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        tiles: &[Tile],
        mut column: usize,
    ) -> usize {
        let length = self.panels.panel_len();
        while column + (C - 1) * LANES < self.out.range().end {
            let pass = Pass {
                panels: panels_from::<C>(self.panels, column),
                lines: 0..length,
                column,
                length,
                turn: (0, 1),
                behind: self.behind(column),
            };
            for &tile in tiles {
                let pass = pass.clone();
                match tile.rows {
                    6 if C == SHORT_WIDTHS[1] => self.tile::<S, 6, C>(simd, tile, pass, &mut []),
                    4 if C == SHORT_WIDTHS[1] => self.tile::<S, 4, C>(simd, tile, pass, &mut []),
                    3 => self.tile::<S, 3, C>(simd, tile, pass, &mut []),
                    2 => self.tile::<S, 2, C>(simd, tile, pass, &mut []),
                    _ => self.tile::<S, 1, C>(simd, tile, pass, &mut []),
                }
            }
            column += C * LANES;
        }
        column
    }

    /// Where what is to be asked for next begins, for each of the `C` panels from `column` on.
    #[inline(always)]
    fn behind<const C: usize>(&self, column: usize) -> [*const u8; C] {
        let length = self.panels.panel_len();
        let groups =
            if length > AHEAD { 1 } else { SHORT_AHEAD.div_ceil(C * length.max(1)).max(1) };
        self.reading.panels(column / LANES + groups * C)
    }

    /// `C` panels from `column` on, for all tiles.
    #[inline(always)]
    fn group<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        tiles: &[Tile],
        column: usize,
        partial: &mut Vec<Lanes>,
    ) {
        let (panels, behind) = (panels_from::<C>(self.panels, column), self.behind(column));
        let length = self.panels.panel_len();
        let block = if tiles.len() == 1 { length } else { block_len(length) };
        let sums: usize = tiles.iter().map(|tile| tile.rows * C).sum();
        partial.clear();
        partial.resize(if length > block { sums } else { 0 }, Lanes::ZERO);
        for start in (0..length.max(1)).step_by(block.max(1)) {
            let lines = start..length.min(start + block);
            let mut place = 0;
            for (index, &tile) in tiles.iter().enumerate() {
                let (lines, turn) = (lines.clone(), (index, tiles.len()));
                let pass = Pass { panels, lines, column, length, turn, behind };
                let sums = tile.rows * C;
                let partial = partial.get_mut(place..place + sums).unwrap_or_default();
                self.tile_of(simd, tile, pass, partial);
                place += sums;
            }
        }
    }

    #[inline(always)]
    fn tile_of<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        tile: Tile,
        pass: Pass<'_, C>,
        partial: &mut [Lanes],
    ) {
        if S::REGISTERS >= 32 {
            match tile.rows {
                12 => self.tile::<S, 12, C>(simd, tile, pass, partial),
                8 => self.tile::<S, 8, C>(simd, tile, pass, partial),
                6 => self.tile::<S, 6, C>(simd, tile, pass, partial),
                4 => self.tile::<S, 4, C>(simd, tile, pass, partial),
                3 => self.tile::<S, 3, C>(simd, tile, pass, partial),
                2 => self.tile::<S, 2, C>(simd, tile, pass, partial),
                _ => self.tile::<S, 1, C>(simd, tile, pass, partial),
            }
        } else {
            match tile.rows {
                2 => self.tile::<S, 2, C>(simd, tile, pass, partial),
                _ => self.tile::<S, 1, C>(simd, tile, pass, partial),
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        tile: Tile,
        pass: Pass<'_, C>,
        partial: &mut [Lanes],
    ) {
        let Range { start, end } = pass.lines;
        let x = self.x.pairs(tile).as_chunks::<R>().0;
        let x = &x[start / LANES..end.div_ceil(LANES)];
        let mut acc = [[simd.splat(0.0); C]; R];
        if start > 0 {
            load_tile(simd, partial, &mut acc);
        }
        let panels = pass.panels.map(|panel| &panel[start..end]);
        let acc = add_products(simd, acc, x, panels, pass.ahead());
        if end == pass.length {
            self.finish(simd, &acc, self.first_row + tile.row, pass.column);
        } else {
            store_tile(simd, &acc, partial);
        }
    }

    /// Writes a tile's sums to the output.
    // An iterator over the sums would move them out of registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn finish<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        acc: &[[S::Vector; C]; R],
        row: usize,
        column: usize,
    ) {
        let first = column - self.out.range().start;
        for r in 0..R {
            let mut outs = self.out.row(row + r)[first..].chunks_mut(LANES);
            for c in 0..C {
                let Some(out) = outs.next() else { break };
                self.epilogue.write(simd, column + c * LANES, acc[r][c], out);
            }
        }
    }
}

/// The `C` panels from `column` on.
#[inline(always)]
fn panels_from<const C: usize>(weight: &Panels, column: usize) -> [&[Line]; C] {
    let mut panels = [&[] as &[Line]; C];
    for (c, panel) in panels.iter_mut().enumerate() {
        *panel = weight.panel(column / LANES + c);
    }
    panels
}

/// Lines of blocks of one size, as few as [`BLOCK`] allows.
fn block_len(length: usize) -> usize {
    length.div_ceil(length.div_ceil(BLOCK).max(1)).next_multiple_of(LANES)
}

/// One pass of `C` panels' lines over a tile.
#[derive(Clone)]
struct Pass<'a, const C: usize> {
    panels: [&'a [Line]; C],
    /// Those lines, a block of the panels; the first is a multiple of [`LANES`].
    lines: Range<usize>,
    column: usize,
    /// Lines of a whole panel.
    length: usize,
    /// Which pass over these lines it is, and of how many.
    turn: (usize, usize),
    /// For each panel, what is read after all of these.
    behind: [*const u8; C],
}

/// The memory that is asked for during a pass.
#[derive(Clone, Copy)]
struct Ahead<const C: usize> {
    /// For each panel, what is asked for with its first line.
    from: [*const u8; C],
    /// Bytes from there on for each line.
    stride: usize,
    /// What is asked for from this chunk of lines on.
    jump: (usize, [*const u8; C]),
}

impl<const C: usize> Pass<'_, C> {
    /// A single pass asks for the lines just before it takes them, as the memory sets its pace
    /// anyway. Of several, each asks for its share of the next block: then the memory is busy all
    /// the time, not during the first one only.
    #[inline(always)]
    fn ahead(&self) -> Ahead<C> {
        let Range { start, end } = self.lines;
        let own =
            |line: usize| self.panels.map(|panel| panel.as_ptr().wrapping_add(line).cast::<u8>());
        let (turn, turns) = self.turn;
        if turns == 1 {
            let near = (end - start).saturating_sub(AHEAD).div_ceil(LANES);
            let (from, jump) = (own(start + AHEAD), (near, self.behind));
            return Ahead { from, stride: size_of::<Line>(), jump };
        }
        let (next, lines) = if end < self.length {
            (own(end), self.length - end)
        } else {
            (self.behind, self.length)
        };
        let share = (lines.min(end - start) * size_of::<Line>()).div_ceil(turns);
        let from = next.map(|address| address.wrapping_add(turn * share));
        let stride = share.div_ceil((end - start).max(1));
        Ahead { from, stride, jump: (usize::MAX, self.behind) }
    }
}

/// Adds the products of `R` rows with `C` panels.
#[inline(always)]
fn add_products<S: Simd, const R: usize, const C: usize>(
    simd: S,
    mut acc: [[S::Vector; C]; R],
    x: &[[Pairs; R]],
    panels: [&[Line]; C],
    ahead: Ahead<C>,
) -> [[S::Vector; C]; R] {
    let length = panels[0].len();
    for panel in panels {
        assert!(panel.len() == length && x.len() == length.div_ceil(LANES));
    }
    let mut ask = ahead.from;
    for (chunk, x) in x.iter().enumerate() {
        if chunk == ahead.jump.0 {
            ask = ahead.jump.1;
        }
        let first = chunk * LANES;
        let lines = panels.map(|panel| &panel[first..length.min(first + LANES)]);
        for k in 0..lines[0].len() {
            let mut w = [simd.splat_pair([half::bf16::ZERO; 2]); C];
            for c in 0..C {
                w[c] = simd.load_pairs(&lines[c][k].0);
                simd.prefetch(ask[c]);
                ask[c] = ask[c].wrapping_add(ahead.stride);
            }
            for r in 0..R {
                let x = simd.splat_pair(x[r][k]);
                for c in 0..C {
                    acc[r][c] = simd.dot_pairs(w[c], x, acc[r][c]);
                }
            }
        }
    }
    acc
}

#[inline(always)]
fn load_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    from: &[Lanes],
    acc: &mut [[S::Vector; C]; R],
) {
    let from = &from.as_chunks::<C>().0[..R];
    for r in 0..R {
        for c in 0..C {
            acc[r][c] = simd.load(&from[r][c].0);
        }
    }
}

#[inline(always)]
fn store_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    acc: &[[S::Vector; C]; R],
    to: &mut [Lanes],
) {
    let to = &mut to.as_chunks_mut::<C>().0[..R];
    for r in 0..R {
        for c in 0..C {
            simd.store(acc[r][c], &mut to[r][c].0);
        }
    }
}

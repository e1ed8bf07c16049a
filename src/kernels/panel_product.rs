//! The product of packed rows with the panels of a weight: `x Wᵀ`, both rounded to bfloat16,
//! summed in float32.
//!
//! An output is one sum over the input features, pair after pair in their order, whatever the
//! tile, the block or the other rows: see [`super::simd::Simd::dot_pairs`].

use std::ops::Range;

use super::linear::{Columns, Epilogue};
use super::packed_rows::{PackedRows, Pairs, Tile};
use super::panels::{Line, Panels};
use super::simd::{LANES, Lanes, Simd};

/// Panels that pass over a tile together.
const WIDTH: usize = 2;
/// Panels that pass over a few rows together where they are short: else each sum would wait for
/// itself.
const SHORT_WIDTH: usize = 8;
/// The longest panel that is short, and the most rows that are few, where registers allow it.
const SHORT: (usize, usize) = (32, 3);
/// At most so many lines of a panel stay near the processor while all tiles pass; a multiple of
/// [`LANES`].
const BLOCK: usize = 288;
/// Where a single tile passes, lines between the one in use and the one asked for.
const AHEAD: usize = 32;
/// Tiles that pass over a panel together.
const MAX_TILES: usize = 8;

/// Where sums go.
pub(super) trait Output {
    /// The columns of row `row`, from the first of [`Output::range`] on.
    fn row(&mut self, row: usize) -> &mut [f32];
    /// The columns wanted; the first is a multiple of [`LANES`].
    fn range(&self) -> Range<usize>;
}

impl Output for Columns<'_> {
    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [f32] {
        self.rows[row]
    }

    fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// Rows of all columns, one behind the other.
pub(super) struct Dense<'o> {
    pub values: &'o mut [f32],
    pub width: usize,
}

impl Output for Dense<'_> {
    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    fn range(&self) -> Range<usize> {
        0..self.width
    }
}

/// Some columns of a product.
pub(super) struct PanelProduct<'a, O> {
    pub x: &'a PackedRows,
    pub panels: &'a Panels,
    pub epilogue: Epilogue<'a>,
    /// The row of the output that the first row of `x` goes to.
    pub first_row: usize,
    pub out: O,
}

impl<O: Output> PanelProduct<'_, &mut O> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(mut self, simd: S) {
        debug_assert!(self.x.width() == self.panels.panel_len());
        let mut partial = Vec::new();
        for tiles in self.x.tiles().chunks(MAX_TILES) {
            let mut column = self.out.range().start;
            let end = self.out.range().end;
            let short = S::REGISTERS >= 32
                && self.panels.panel_len() <= SHORT.0
                && tiles.iter().all(|tile| tile.rows <= SHORT.1);
            while short && column + (SHORT_WIDTH - 1) * LANES < end {
                self.short_group(simd, tiles, column);
                column += SHORT_WIDTH * LANES;
            }
            while column + LANES < end {
                self.group::<S, WIDTH>(simd, tiles, column, &mut partial);
                column += WIDTH * LANES;
            }
            if column < end {
                self.group::<S, 1>(simd, tiles, column, &mut partial);
            }
        }
    }

    /// [`SHORT_WIDTH`] short panels from `column` on, for tiles of few rows.
    #[inline(always)]
    fn short_group<S: Simd>(&mut self, simd: S, tiles: &[Tile], column: usize) {
        let pass = Pass {
            panels: panels_from(self.panels, column),
            lines: 0..self.panels.panel_len(),
            column,
            length: self.panels.panel_len(),
            turn: (0, 1),
        };
        for &tile in tiles {
            let pass = pass.clone();
            match tile.rows {
                3 => self.tile::<S, 3, SHORT_WIDTH>(simd, tile, pass, &mut []),
                2 => self.tile::<S, 2, SHORT_WIDTH>(simd, tile, pass, &mut []),
                _ => self.tile::<S, 1, SHORT_WIDTH>(simd, tile, pass, &mut []),
            }
        }
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
        let panels = panels_from::<C>(self.panels, column);
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
                let pass = Pass { panels, lines, column, length, turn };
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
}

/// The memory that is asked for during a pass.
#[derive(Clone, Copy)]
struct Ahead<const C: usize> {
    /// For each panel, what is asked for with its first line.
    from: [*const u8; C],
    /// Bytes from there on for each line.
    stride: usize,
    /// From this chunk of lines on, so many more bytes.
    jump: (usize, usize),
}

impl<const C: usize> Pass<'_, C> {
    /// A single pass asks for the lines just before it takes them, as the memory sets its pace
    /// anyway. Of several, each asks for its share of the next block: then the memory is busy all
    /// the time, not during the first one only.
    #[inline(always)]
    fn ahead(&self) -> Ahead<C> {
        let Range { start, end } = self.lines;
        let own = |panel: &[Line], line: usize| panel.as_ptr().wrapping_add(line).cast::<u8>();
        let behind = C * self.length;
        let (turn, turns) = self.turn;
        if turns == 1 {
            // Towards the end of the panels, the next group's lines come behind all of these.
            let jump = (C - 1) * self.length * size_of::<Line>();
            let near = (end - start).saturating_sub(AHEAD).div_ceil(LANES);
            let from = self.panels.map(|panel| own(panel, start + AHEAD));
            return Ahead { from, stride: size_of::<Line>(), jump: (near, jump) };
        }
        let (next, lines) =
            if end < self.length { (end, self.length - end) } else { (behind, self.length) };
        let share = (lines.min(end - start) * size_of::<Line>()).div_ceil(turns);
        let from = self.panels.map(|panel| own(panel, next).wrapping_add(turn * share));
        Ahead { from, stride: share.div_ceil((end - start).max(1)), jump: (usize::MAX, 0) }
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
            ask = ask.map(|address| address.wrapping_add(ahead.jump.1));
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

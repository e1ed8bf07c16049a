//! The product of rounded rows with the panels of a quantised weight, sixteen rows by sixteen outputs
//! at once.
//!
//! Within a group the sums are integers, and groups are added in their order as in
//! [`super::quantized_product`]: so every bit is the same as there.

use super::linear::Epilogue;
use super::output::Output;
use super::packed_rows::Tile;
use super::quantized_blocks::{Block, LINES, Line};
use super::quantized_rows::{Quad, QuantizedRows};
use super::simd::{LANES, Simd, Task};

/// Rows of a tile at most.
pub(super) const ROWS: usize = 16;
/// Bytes of each panel between the block in use and the one asked for.
const AHEAD: usize = 2048;

/// Integers of some rows for the outputs of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Integers(pub [[i32; LANES]; ROWS]);

impl Integers {
    pub(super) const ZERO: Self = Self([[0; LANES]; ROWS]);
}

/// What multiplies bytes, and on the thread that has it alone.
pub(super) trait ByteTiles {
    /// Adds to `sums` the products of `rows`, [`LINES`] quads each, with the lines of two panels: row
    /// by row and output by output, that of the row's signed bytes with the output's unsigned ones.
    fn add(&self, rows: &[Quad], panels: [&[Line; LINES]; 2], sums: &mut [Integers; 2]);
}

/// Who has such tiles.
pub(super) trait HasByteTiles: Copy {
    type Tiles: ByteTiles;

    /// This thread's, of `rows` rows, 1 to [`ROWS`]; a thread has one at a time.
    fn byte_tiles(self, rows: usize) -> Self::Tiles;
}

/// Some columns of a product.
pub(super) struct ByteTileProduct<'a, 'o, B, H> {
    pub has: H,
    pub x: &'a QuantizedRows,
    /// All panels of the weight, one after the other.
    pub blocks: &'a [B],
    /// Groups of a row of the weight; those of `x` may be more.
    pub groups: usize,
    pub epilogue: Epilogue<'a>,
    /// The row of the output that the first row of `x` goes to.
    pub first_row: usize,
    pub out: &'a mut Output<'o>,
}

impl<B: Block, H: HasByteTiles> Task for ByteTileProduct<'_, '_, B, H> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        debug_assert!(self.groups <= self.x.groups() && self.x.by_rows());
        let x = self.x;
        // Full tiles first, each pair of panels for all of them while a cache holds it.
        let full = x.tiles().iter().take_while(|tile| tile.rows == ROWS).count();
        for tiles in [&x.tiles()[..full], &x.tiles()[full..]] {
            let Some(first) = tiles.first() else { continue };
            let bytes = self.has.byte_tiles(first.rows);
            for column in self.out.range().step_by(2 * LANES) {
                for &tile in tiles {
                    self.tile(simd, &bytes, tile, column);
                }
            }
        }
    }
}

impl<B: Block, H: HasByteTiles> ByteTileProduct<'_, '_, B, H> {
    /// Two panels from `column` on, or the last one twice, for a tile.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, simd: S, bytes: &H::Tiles, tile: Tile, column: usize) {
        let length = self.groups / B::GROUPS;
        let first = column / LANES;
        let second = if column + LANES < self.out.range().end { first + 1 } else { first };
        let panels = [first, second].map(|panel| &self.blocks[panel * length..][..length]);
        let mut means = [[[0.0; LANES]; ROWS]; 2];
        let mut expanded = [[Line([0; 4 * LANES]); LINES]; 2];
        for index in 0..length {
            let blocks = panels.map(|panel| &panel[index]);
            for block in blocks {
                let ahead = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
                for line in 0..size_of::<B>() / size_of::<Line>() {
                    simd.prefetch(ahead.wrapping_add(line * size_of::<Line>()));
                }
            }
            for group in 0..B::GROUPS {
                let x = self.x.rows_of(tile, index * B::GROUPS + group);
                let mut sums = [Integers::ZERO; 2];
                if B::SHIFTED {
                    for sums in &mut sums {
                        for (sums, shift) in sums.0.iter_mut().zip(x.shifts) {
                            *sums = [*shift; LANES];
                        }
                    }
                }
                for (block, expanded) in blocks.iter().zip(&mut expanded) {
                    if block.bytes(group).is_none() {
                        expand(simd, *block, group, expanded);
                    }
                }
                let [one, two] = &expanded;
                let lines =
                    [blocks[0].bytes(group).unwrap_or(one), blocks[1].bytes(group).unwrap_or(two)];
                bytes.add(x.quads, lines, &mut sums);
                for ((block, sums), means) in blocks.iter().zip(&sums).zip(&mut means) {
                    let (scales, minima) = (block.scales(simd, group), block.minima(simd, group));
                    let rows = means.iter_mut().zip(&sums.0).zip(x.scales.iter().zip(x.sums));
                    for ((mean, sums), (scale, sum)) in rows {
                        let scale = simd.mul(scales, simd.splat(*scale));
                        let sums = simd.to_float(simd.load_integers(sums));
                        let mut total = simd.mul_add(sums, scale, simd.load(mean));
                        if !B::SHIFTED {
                            total = simd.mul_add(minima, simd.splat(*sum), total);
                        }
                        simd.store(total, mean);
                    }
                }
            }
        }
        let place = column - self.out.range().start;
        let [one, two] = &means;
        for (index, means) in one.iter().zip(two).take(tile.rows).enumerate() {
            let out = &mut self.out.row(self.first_row + tile.row + index)[place..];
            for (panel, (out, mean)) in out.chunks_mut(LANES).zip([means.0, means.1]).enumerate() {
                self.epilogue.write(simd, column + panel * LANES, simd.load(mean), out);
            }
        }
    }
}

/// A group's lines as bytes.
#[inline(always)]
fn expand<S: Simd, B: Block>(simd: S, block: &B, group: usize, lines: &mut [Line; LINES]) {
    for index in 0..LINES / 2 {
        let [low, high] = block.lines(simd, group, index);
        simd.store_bytes(low, &mut lines[index].0);
        simd.store_bytes(high, &mut lines[index + LINES / 2].0);
    }
}

/// Tiles in software, one product after the other: what [`ByteTiles`] says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naive;

impl ByteTiles for Naive {
    fn add(&self, rows: &[Quad], panels: [&[Line; LINES]; 2], sums: &mut [Integers; 2]) {
        for (panel, sums) in panels.iter().zip(sums) {
            for (row, sums) in rows.as_chunks::<LINES>().0.iter().zip(&mut sums.0) {
                for (output, sum) in sums.iter_mut().enumerate() {
                    for (quad, line) in row.iter().zip(*panel) {
                        let weights = &line.0[4 * output..][..4];
                        let products = quad.iter().zip(weights);
                        *sum += products.map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>();
                    }
                }
            }
        }
    }
}

impl HasByteTiles for Naive {
    type Tiles = Self;

    fn byte_tiles(self, _rows: usize) -> Self {
        self
    }
}

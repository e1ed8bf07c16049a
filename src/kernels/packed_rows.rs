//! Rows of activations as a product in bfloat16 reads them: rounded, in tiles of rows, in each tile
//! the rows' first sixteen pairs of features, then all second sixteen.

use half::bf16;

use super::simd::{LANES, Simd, Task, round};

/// Two neighbouring features of a row, sixteen times.
pub(super) type Pairs = [[bf16; 2]; LANES];

/// Rows per tile that products are compiled for: with two panels, the largest fills 32 registers.
const WIDE_TILES: [usize; 7] = [12, 8, 6, 4, 3, 2, 1];
/// The same for half as many registers of half the width.
const NARROW_TILES: [usize; 2] = [2, 1];

/// Some rows, packed.
#[derive(Debug, Default)]
pub(super) struct PackedRows {
    pairs: Vec<Pairs>,
    /// Pairs of features in a row.
    width: usize,
    tiles: Vec<Tile>,
}

/// Rows that are computed together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// The first of them.
    pub row: usize,
    /// How many.
    pub rows: usize,
}

impl PackedRows {
    /// The tiles, covering all rows in order.
    pub(super) fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// A tile's pairs: those of all its rows' first features, and so on.
    #[inline(always)]
    pub(super) fn pairs(&self, tile: Tile) -> &[Pairs] {
        let chunks = self.width.div_ceil(LANES);
        &self.pairs[tile.row * chunks..(tile.row + tile.rows) * chunks]
    }

    /// Pairs of features in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }
}

/// Packs row-major `x`, `width` features a row; zeros fill a row's last pairs.
pub(super) struct Pack<'a> {
    pub x: &'a [f32],
    pub width: usize,
    /// What it becomes; what was there before is gone.
    pub out: &'a mut PackedRows,
}

impl Task for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.width.div_ceil(2);
        let rows = self.x.len().checked_div(self.width).unwrap_or(0);
        let sizes: &[usize] = if S::REGISTERS >= 32 { &WIDE_TILES } else { &NARROW_TILES };
        let PackedRows { pairs, width: pairs_of_row, tiles } = self.out;
        cut_into_tiles(rows, sizes, tiles);
        let chunks = width.div_ceil(LANES);
        if !self.width.is_multiple_of(2 * LANES) {
            // Else each row writes all that is its own.
            pairs.clear();
        }
        pairs.resize(rows * chunks, [[bf16::ZERO; 2]; LANES]);
        for tile in &*tiles {
            let pairs = &mut pairs[tile.row * chunks..(tile.row + tile.rows) * chunks];
            for index in 0..tile.rows {
                let row = &self.x[(tile.row + index) * self.width..][..self.width];
                pack_row(simd, row, index, tile.rows, pairs);
            }
        }
        *pairs_of_row = width;
    }
}

/// Makes `tiles` the fewest of the given sizes, descending, that hold `count` rows.
pub(super) fn cut_into_tiles(count: usize, sizes: &[usize], tiles: &mut Vec<Tile>) {
    tiles.clear();
    let mut row = 0;
    for &rows in sizes {
        while count - row >= rows {
            tiles.push(Tile { row, rows });
            row += rows;
        }
    }
}

/// Writes a row's pairs to places `index`, `index + count`, … of its tile.
#[inline(always)]
fn pack_row<S: Simd>(simd: S, row: &[f32], index: usize, count: usize, tile: &mut [Pairs]) {
    let places = tile.iter_mut().skip(index).step_by(count);
    for (features, place) in row.chunks(2 * LANES).zip(places) {
        let halves = place.as_flattened_mut().as_chunks_mut::<LANES>().0;
        for (features, half) in features.chunks(LANES).zip(halves) {
            *half = round(simd, features);
        }
    }
}

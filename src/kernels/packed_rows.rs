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
/// Vectors of pairs of a tile's rows that are packed in one go.
const CHUNKS: usize = 12;

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

/// Makes room for `rows` of `width` features: [`PackedRows::parts`] are to be run then.
pub(super) struct MakeRoom<'a> {
    pub rows: usize,
    pub width: usize,
    /// What was there before is gone.
    pub out: &'a mut PackedRows,
}

impl Task for MakeRoom<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let PackedRows { pairs, width, tiles } = self.out;
        let sizes: &[usize] = if S::REGISTERS >= 32 { &WIDE_TILES } else { &NARROW_TILES };
        cut_into_tiles(self.rows, sizes, tiles);
        *width = self.width.div_ceil(2);
        if !self.width.is_multiple_of(2 * LANES) {
            // Else each row writes all that is its own.
            pairs.clear();
        }
        pairs.resize(self.rows * width.div_ceil(LANES), [[bf16::ZERO; 2]; LANES]);
    }
}

impl PackedRows {
    /// The packing of row-major `x`, `width` features a row, in parts.
    pub(super) fn parts<'p>(
        &'p mut self,
        x: &'p [f32],
        width: usize,
    ) -> impl Iterator<Item = Pack<'p>> {
        let all = self.width.div_ceil(LANES);
        let mut rest = self.pairs.as_mut_slice();
        self.tiles.iter().flat_map(move |tile| {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(tile.rows * all);
            rest = behind;
            let x = &x[tile.row * width..(tile.row + tile.rows) * width];
            let parts = own.chunks_mut(tile.rows * CHUNKS).zip((0..).step_by(CHUNKS));
            parts.map(move |(pairs, chunk)| Pack {
                x,
                width,
                rows: tile.rows,
                first: chunk * 2 * LANES,
                pairs,
            })
        })
    }
}

/// Packs some features of a tile's rows; zeros fill the last pairs.
pub(super) struct Pack<'p> {
    x: &'p [f32],
    width: usize,
    rows: usize,
    /// The first of the features.
    first: usize,
    pairs: &'p mut [Pairs],
}

impl Task for &mut Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let end = self.width.min(self.first + self.pairs.len() / self.rows * 2 * LANES);
        for index in 0..self.rows {
            let row = &self.x[index * self.width..][self.first..end];
            pack_row(simd, row, index, self.rows, self.pairs);
        }
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

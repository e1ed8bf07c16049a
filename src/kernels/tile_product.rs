//! The product of rows with the panels of a weight on AMX: `x Wᵀ`, both in bfloat16, summed in float32.
//! A quantised weight's panels are widened first.
//!
//! An output is one sum over the input features, in thirty-twos: of each, the sum of the products of
//! its even features plus that of its odd ones is added to what was before. Other rows do not change
//! it, but it differs in its last bits from what [`super::panel_product`] computes at other levels.

use super::columns::Columns;
use super::linear::Epilogue;
use super::panels::Line;
use super::scratch::Scratch;
use super::simd::{LANES, Simd, Task};
use super::tile_rows::TileRows;
use super::widened_panels::TilePanels;
use super::x86_64::{Amx, Sums, TILE, Tiles};

/// Some columns of a product.
pub(super) struct TileProduct<'a, 'o, P> {
    pub amx: Amx,
    pub x: &'a TileRows,
    pub panels: P,
    pub epilogue: Epilogue<'a>,
    /// The row of the output that the first row of `x` goes to.
    pub first_row: usize,
    pub out: &'a mut Columns<'o>,
}

/// Two neighbouring panels; where there is no second, the first stands for it.
struct Group<'a> {
    /// The first one's first output.
    column: usize,
    panels: [&'a [Line]; 2],
    /// Lines behind the last whole tile of them, filled up with zeros.
    rest: Option<[[Line; TILE]; 2]>,
}

impl<P: TilePanels> Task for TileProduct<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.x.len();
        if rows == 0 {
            return;
        }
        let mut room = Vec::<Line>::lend();
        // No closure, which would not be compiled for this level.
        let tiles = self.amx.tiles(rows.min(TILE));
        for column in self.out.range().step_by(2 * LANES) {
            let group = self.group(simd, column, &mut room);
            let mut row = 0;
            while row + TILE < rows {
                let mut sums = [[Sums::ZERO; 2]; 2];
                self.add_two(&tiles, row, &group, &mut sums);
                for (index, sums) in sums.iter().enumerate() {
                    self.finish(simd, sums, row + index * TILE, &group);
                }
                row += 2 * TILE;
            }
            if row < rows {
                let mut sums = [Sums::ZERO; 2];
                self.add_one(&tiles, row, &group, &mut sums);
                self.finish(simd, &sums, row, &group);
            }
        }
        drop(tiles);
        room.give_back();
    }
}

impl<P: TilePanels> TileProduct<'_, '_, P> {
    #[inline(always)]
    fn group<'r, S: Simd>(&self, simd: S, column: usize, room: &'r mut Vec<Line>) -> Group<'r>
    where
        P: 'r,
    {
        let first = column / LANES;
        let last = if column + LANES < self.out.range().end { first + 1 } else { first };
        let panels = self.panels.pair(simd, [first, last], room);
        let whole = panels[0].len() / TILE * TILE;
        let rest = (whole < panels[0].len()).then(|| {
            panels.map(|panel| {
                let mut rest = [Line::ZERO; TILE];
                rest[..panel.len() - whole].copy_from_slice(&panel[whole..]);
                rest
            })
        });
        Group { column, panels, rest }
    }

    #[inline(always)]
    fn add_two(&self, tiles: &Tiles, row: usize, group: &Group<'_>, sums: &mut [[Sums; 2]; 2]) {
        let (x, stride) = (self.x.from(row), self.x.stride());
        tiles.add_two(x, stride, group.panels, sums);
        if let Some([first, second]) = &group.rest {
            tiles.add_two(&x[stride - 1..], stride, [first, second], sums);
        }
    }

    #[inline(always)]
    fn add_one(&self, tiles: &Tiles, row: usize, group: &Group<'_>, sums: &mut [Sums; 2]) {
        let (x, stride) = (self.x.from(row), self.x.stride());
        tiles.add_one(x, stride, group.panels, sums);
        if let Some([first, second]) = &group.rest {
            tiles.add_one(&x[stride - 1..], stride, [first, second], sums);
        }
    }

    /// Writes the sums of a tile's rows, from row `row` on, to the output.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, sums: &[Sums; 2], row: usize, group: &Group<'_>) {
        let first = group.column - self.out.range().start;
        for index in 0..TILE.min(self.x.len() - row) {
            let out = &mut self.out.row(self.first_row + row + index)[first..];
            for (panel, out) in out.chunks_mut(LANES).take(2).enumerate() {
                let sums = simd.load(&sums[panel].0[index]);
                self.epilogue.write(simd, group.column + panel * LANES, sums, out);
            }
        }
    }
}

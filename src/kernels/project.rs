//! Linear layers in bfloat16 that share their input, each with the adapters of its rows:
//! `out = x Wᵀ + b`, and `+ (x downᵀ) upᵀ` for the rows that an adapter serves.
//!
//! Activations are rounded to bfloat16 once, sums are float32, and so is what lies between an
//! adapter's two factors until it is rounded in turn. Each output depends on its own row alone.
//! The float32 path, whose activations are never rounded, is [`super::linear`]'s.

use std::ops::Range;

use super::level::Kernels;
use super::linear::{Epilogue, split_columns};
use super::packed_rows::{Pack, PackedRows};
use super::panel_product::PanelProduct;
use super::panels::Panels;

/// Bytes of packed activations that pass over a panel together: they stay in the second-level cache.
const BLOCK_BYTES: usize = 3 << 17;
/// Such a block is a multiple of the largest tile.
const TILE: usize = 12;
/// Rows of one adapter that are shrunk together.
const SHRINK_ROWS: usize = 4 * TILE;

/// An adapter's factors for some rows.
#[derive(Debug, Clone)]
pub struct RowsDelta<'a> {
    /// The rows, half open.
    pub rows: Range<usize>,
    /// `rank x in_features`.
    pub down: &'a Panels,
    /// `out_features x rank`.
    pub up: &'a Panels,
}

/// One layer of those that share their input.
#[derive(Debug)]
pub struct Projection<'a, 'o> {
    /// `out_features x in_features`.
    pub weight: &'a Panels,
    /// `out_features`.
    pub bias: Option<&'a [f32]>,
    /// Disjoint rows, ascending.
    pub deltas: Vec<RowsDelta<'a>>,
    /// `rows x out_features`.
    pub out: &'o mut [f32],
    /// Whether the result is added to what is in `out`; there is no bias then.
    pub accumulate: bool,
}

impl Kernels {
    /// Computes every projection of `x`, which is row-major with `in_features` columns.
    ///
    /// # Panics
    /// Where shapes disagree.
    pub fn project(self, x: &[f32], in_features: usize, projections: Vec<Projection<'_, '_>>) {
        let rows = x.len().checked_div(in_features).unwrap_or(0);
        for projection in &projections {
            projection.check(x.len(), rows, in_features);
        }
        let blocks = self.pack_blocks(x, in_features);
        let shrunk = self.shrink(x, in_features, &projections);
        let outputs: usize = projections.iter().map(|it| it.weight.out_features()).sum();
        let work = rows * in_features * outputs;
        let parts = self.parts(work);
        let mut items = Vec::with_capacity(parts + projections.len());
        for (projection, shrunk) in projections.into_iter().zip(&shrunk) {
            let Projection { weight, bias, out, accumulate, deltas } = projection;
            let width = weight.out_features();
            let own = (parts * width).div_ceil(outputs.max(1));
            let epilogue = if accumulate { Epilogue::Accumulate } else { Epilogue::Store(bias) };
            for columns in split_columns(out, width, own) {
                items.push((weight, epilogue, deltas.clone(), shrunk, columns));
            }
        }
        self.for_each(work, items, |(weight, epilogue, deltas, shrunk, mut columns)| {
            let columns = &mut columns;
            for (first_row, x) in &blocks {
                let first_row = *first_row;
                self.run(PanelProduct { x, panels: weight, epilogue, first_row, columns });
            }
            for (delta, first_row, x) in shrunk {
                let (panels, first_row) = (deltas[*delta].up, *first_row);
                let epilogue = Epilogue::Accumulate;
                self.run(PanelProduct { x, panels, epilogue, first_row, columns });
            }
        });
    }

    /// Packs all rows in blocks, each with its first row.
    fn pack_blocks(self, x: &[f32], width: usize) -> Vec<(usize, PackedRows)> {
        let block_rows = (BLOCK_BYTES / (2 * width.max(1))).max(TILE) / TILE * TILE;
        let blocks = x.chunks((block_rows * width).max(1)).enumerate();
        let mut packed: Vec<(usize, PackedRows)> =
            blocks.clone().map(|(index, _)| (index * block_rows, PackedRows::default())).collect();
        // Rounding and moving an element costs about what a product of one does.
        let items = blocks.zip(&mut packed).collect();
        self.for_each(x.len(), items, |((_, x), (_, packed))| {
            *packed = self.run(Pack { x, width });
        });
        packed
    }

    /// `x downᵀ` of every adapter of every projection: for each projection, the delta, its first
    /// row and the packed result.
    fn shrink(
        self,
        x: &[f32],
        in_features: usize,
        projections: &[Projection<'_, '_>],
    ) -> Vec<Vec<(usize, usize, PackedRows)>> {
        let mut shrunk: Vec<Vec<_>> = Vec::with_capacity(projections.len());
        let mut work = 0;
        for projection in projections {
            let mut own = Vec::new();
            for (index, delta) in projection.deltas.iter().enumerate() {
                work += delta.rows.len() * in_features * delta.down.out_features();
                let starts = delta.rows.clone().step_by(SHRINK_ROWS);
                own.extend(starts.map(|row| (index, row, PackedRows::default())));
            }
            shrunk.push(own);
        }
        let items = projections.iter().zip(&mut shrunk).flat_map(|(projection, own)| {
            own.iter_mut().map(|(index, row, packed)| {
                let delta = &projection.deltas[*index];
                let end = delta.rows.end.min(*row + SHRINK_ROWS);
                (&x[*row * in_features..end * in_features], delta.down, packed)
            })
        });
        self.for_each(work, items.collect(), |(x, down, packed): (&[f32], &Panels, &mut _)| {
            *packed = self.shrink_rows(x, down);
        });
        shrunk
    }

    fn shrink_rows(self, x: &[f32], down: &Panels) -> PackedRows {
        let rank = down.out_features();
        let x = self.run(Pack { x, width: down.in_features() });
        let mut inner = vec![0.0; x.rows() * rank];
        if let Some(columns) = split_columns(&mut inner, rank, 1).first_mut() {
            let epilogue = Epilogue::Store(None);
            self.run(PanelProduct { x: &x, panels: down, epilogue, first_row: 0, columns });
        }
        self.run(Pack { x: &inner, width: rank })
    }
}

impl Projection<'_, '_> {
    fn check(&self, x_len: usize, rows: usize, in_features: usize) {
        let out_features = self.weight.out_features();
        assert_eq!(x_len, rows * in_features, "bug: length of x");
        assert_eq!(self.weight.in_features(), in_features, "bug: width of the weight");
        assert_eq!(self.out.len(), rows * out_features, "bug: length of the output");
        if let Some(bias) = self.bias {
            assert!(!self.accumulate, "bug: a bias on top of what is there");
            assert_eq!(bias.len(), out_features, "bug: length of the bias");
        }
        let mut row = 0;
        for RowsDelta { rows: own, down, up } in &self.deltas {
            assert!(row <= own.start && own.end <= rows, "bug: an adapter's rows {own:?}");
            row = own.end;
            let fits = down.in_features() == in_features
                && up.out_features() == out_features
                && up.in_features() == down.out_features();
            assert!(fits, "bug: factors {down:?} and {up:?} for {:?}", self.weight);
        }
    }
}

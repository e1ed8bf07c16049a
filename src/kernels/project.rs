//! Linear layers in bfloat16 or quantised that share their input, each with the adapters of its
//! rows: `out = x Wᵀ + b`, and `+ (x downᵀ) upᵀ` for the rows that an adapter serves.
//!
//! Activations are rounded once, to bfloat16 or for a quantised weight to 8 bits, sums are float32,
//! and so is what lies between an adapter's two factors until it is rounded in turn. Each output depends on its own row alone.
//! The float32 path, whose activations are never rounded, is [`super::linear`]'s.

use std::ops::Range;

use super::level::Kernels;
use super::linear::{Columns, Epilogue, split_columns};
use super::packed_rows::{Pack, PackedRows};
use super::panel_product::{Dense, PanelProduct};
use super::panels::Panels;
use super::quantized_panels::{QuantizedPanels, with_blocks};
use super::quantized_product::QuantizedProduct;
use super::quantized_rows::{Quantize, QuantizedRows};
use super::simd::{Simd, Task};

/// Bytes of packed activations that pass over a panel together: they stay in the second-level cache.
const BLOCK_BYTES: usize = 3 << 17;
/// Such a block is a multiple of the largest tile.
const TILE: usize = 12;
/// Fewer rows are not divided between threads for packing.
const MIN_BLOCK_ROWS: usize = 8 * TILE;
/// Lines of an adapter's second factor that are asked for before the first is computed.
const PREFETCHED: usize = 48;
/// Rows of one adapter that are computed together.
const CHUNK_ROWS: usize = 4 * TILE;

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

/// A layer's own weight, `out_features x in_features`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// In bfloat16.
    Bf16(&'a Panels),
    /// In 8 or 4 bits.
    Quantized(&'a QuantizedPanels),
}

impl Weight<'_> {
    fn in_features(self) -> usize {
        match self {
            Self::Bf16(panels) => panels.in_features(),
            Self::Quantized(panels) => panels.in_features(),
        }
    }

    fn out_features(self) -> usize {
        match self {
            Self::Bf16(panels) => panels.out_features(),
            Self::Quantized(panels) => panels.out_features(),
        }
    }
}

/// One layer of those that share their input.
#[derive(Debug)]
pub struct Projection<'a, 'o> {
    /// What all rows share.
    pub weight: Weight<'a>,
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
    pub fn project(self, x: &[f32], in_features: usize, mut projections: Vec<Projection<'_, '_>>) {
        let rows = x.len().checked_div(in_features).unwrap_or(0);
        for projection in &projections {
            projection.check(x.len(), rows, in_features);
        }
        self.add_weights(x, in_features, &mut projections);
        self.add_deltas(x, in_features, projections);
    }

    /// The part of every row that the weights give.
    fn add_weights(self, x: &[f32], in_features: usize, projections: &mut [Projection<'_, '_>]) {
        let blocks = Blocks::new(self, x, in_features, projections);
        let outputs: usize = projections.iter().map(|it| it.weight.out_features()).sum();
        let work = x.len() * outputs;
        let parts = self.parts(work);
        let mut items = Vec::with_capacity(parts + projections.len());
        for Projection { weight, bias, out, accumulate, .. } in projections {
            let width = weight.out_features();
            let own = (parts * width).div_ceil(outputs.max(1));
            let epilogue = if *accumulate { Epilogue::Accumulate } else { Epilogue::Store(*bias) };
            for columns in split_columns(out, width, own) {
                items.push((*weight, epilogue, columns));
            }
        }
        self.for_each(work, items, |(weight, epilogue, mut columns)| {
            blocks.multiply(self, weight, epilogue, &mut columns);
        });
    }

    /// What adapters add to their own rows.
    fn add_deltas(self, x: &[f32], in_features: usize, projections: Vec<Projection<'_, '_>>) {
        let mut items = Vec::new();
        let mut work = 0;
        for Projection { weight, deltas, out, .. } in projections {
            let mut row = 0;
            let mut behind = out;
            for RowsDelta { rows, down, up } in deltas {
                let width = weight.out_features();
                let (own, rest) =
                    behind[(rows.start - row) * width..].split_at_mut(rows.len() * width);
                let x = &x[rows.start * in_features..rows.end * in_features];
                work += (x.len() + own.len()) * down.out_features();
                let xs = x.chunks((CHUNK_ROWS * in_features).max(1));
                let outs = own.chunks_mut((CHUNK_ROWS * width).max(1));
                items.extend(xs.zip(outs).map(|(x, out)| Adapted { x, down, up, out }));
                (row, behind) = (rows.end, rest);
            }
        }
        self.for_each(work, items, |item| self.run(item));
    }

    /// Packs all rows in blocks, each with its first row; `row_bytes` of a packed row.
    fn pack_blocks<P: Default + Send>(
        self,
        x: &[f32],
        width: usize,
        row_bytes: usize,
        pack: impl Fn(&[f32]) -> P + Sync + Send,
    ) -> Vec<(usize, P)> {
        let rows = x.len().checked_div(width).unwrap_or(0);
        // Every thread packs some, as long as their blocks are not too small to be worth a pass.
        let fair = rows.div_ceil(self.threads()).next_multiple_of(TILE).max(MIN_BLOCK_ROWS);
        let block_rows = (BLOCK_BYTES / row_bytes.max(1)).max(TILE) / TILE * TILE;
        let block_rows = block_rows.min(fair);
        let blocks = x.chunks((block_rows * width).max(1)).enumerate();
        let mut packed: Vec<(usize, P)> =
            blocks.clone().map(|(index, _)| (index * block_rows, P::default())).collect();
        // Rounding and moving an element costs about what a product of one does.
        let items = blocks.zip(&mut packed).collect();
        self.for_each(x.len(), items, |((_, x), (_, packed))| *packed = pack(x));
        packed
    }
}

/// The rows in the forms that the weights take, each block with its first row.
struct Blocks {
    packed: Vec<(usize, PackedRows)>,
    quantized: Vec<(usize, QuantizedRows)>,
}

impl Blocks {
    fn new(kernels: Kernels, x: &[f32], width: usize, projections: &[Projection<'_, '_>]) -> Self {
        let (mut packed, mut quantized) = (Vec::new(), Vec::new());
        if projections.iter().any(|it| matches!(it.weight, Weight::Bf16(_))) {
            packed = kernels.pack_blocks(x, width, 2 * width, |x| kernels.run(Pack { x, width }));
        }
        let groups = projections.iter().filter_map(|projection| match projection.weight {
            Weight::Bf16(_) => None,
            Weight::Quantized(panels) => Some(panels.groups()),
        });
        if let Some(groups) = groups.max() {
            quantized = kernels
                .pack_blocks(x, width, width, |x| kernels.run(Quantize { x, width, groups }));
        }
        Self { packed, quantized }
    }

    /// All rows by some columns of a weight.
    fn multiply(
        &self,
        kernels: Kernels,
        weight: Weight<'_>,
        epilogue: Epilogue<'_>,
        out: &mut Columns<'_>,
    ) {
        match weight {
            Weight::Bf16(panels) => {
                kernels.run(Weighted { blocks: &self.packed, panels, epilogue, out });
            }
            Weight::Quantized(panels) => {
                let groups = panels.groups();
                for (first_row, x) in &self.quantized {
                    let (first_row, out) = (*first_row, &mut *out);
                    with_blocks!(&panels.blocks, blocks => kernels.run(QuantizedProduct {
                        x, blocks, groups, epilogue, first_row, out
                    }));
                }
            }
        }
    }
}

/// Some columns of all rows by a weight in bfloat16.
struct Weighted<'a, 'o> {
    blocks: &'a [(usize, PackedRows)],
    panels: &'a Panels,
    epilogue: Epilogue<'a>,
    out: &'a mut Columns<'o>,
}

impl Task for Weighted<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (panels, epilogue) = (self.panels, self.epilogue);
        for (first_row, x) in self.blocks {
            let (first_row, out) = (*first_row, &mut *self.out);
            PanelProduct { x, panels, epilogue, first_row, out }.run(simd);
        }
    }
}

/// What an adapter adds to some of its rows.
struct Adapted<'a, 'o> {
    x: &'a [f32],
    down: &'a Panels,
    up: &'a Panels,
    out: &'o mut [f32],
}

impl Task for Adapted<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (width, rank) = (self.down.in_features(), self.down.out_features());
        if width == 0 || rank == 0 {
            return;
        }
        // The second factor lies elsewhere: the memory answers while the first is computed.
        self.up.prefetch(simd, PREFETCHED);
        let x = Pack { x: self.x, width }.run(simd);
        let mut inner = vec![0.0; self.x.len() / width * rank];
        let out = &mut Dense { values: &mut inner, width: rank };
        let epilogue = Epilogue::Store(None);
        PanelProduct { x: &x, panels: self.down, epilogue, first_row: 0, out }.run(simd);
        let x = Pack { x: &inner, width: rank }.run(simd);
        let out = &mut Dense { values: self.out, width: self.up.out_features() };
        let epilogue = Epilogue::Accumulate;
        PanelProduct { x: &x, panels: self.up, epilogue, first_row: 0, out }.run(simd);
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

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::Level;
    use crate::kernels::reference;

    /// A weight in both forms.
    struct Weight {
        rows: Vec<bf16>,
        shape: (usize, usize),
    }

    impl Weight {
        fn new(shape: (usize, usize), seed: usize) -> Self {
            let rows = numbers(shape.0 * shape.1, seed).into_iter().map(bf16::from_f32).collect();
            Self { rows, shape }
        }

        fn pack(&self, kernels: Kernels) -> Panels {
            Panels::pack(kernels, &self.rows, self.shape)
        }

        fn times(&self, x: &[f32]) -> Vec<f32> {
            reference::product_bf16(x, &self.rows, self.shape.1)
        }
    }

    /// Numbers between -1 and 1 that bfloat16 does not hold exactly.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        let mix = |i: usize| (i + 1).wrapping_mul(seed.wrapping_mul(7919) + 104_729) % 65_521;
        (0..len).map(|i| mix(i) as f32 / 32_760.5 - 1.0).collect()
    }

    /// Rows and the two factors.
    type Delta = (Range<usize>, Weight, Weight);

    /// Layers of one input, and for each its adapters.
    struct Case {
        rows: usize,
        in_features: usize,
        x: Vec<f32>,
        layers: Vec<(Weight, Vec<Delta>)>,
    }

    impl Case {
        fn new(
            rows: usize,
            in_features: usize,
            outs: &[usize],
            adapters: &[(usize, usize)],
        ) -> Self {
            let layer = |(index, out): (usize, &usize)| {
                let mut start = 0;
                let mut deltas = Vec::new();
                for (number, (len, rank)) in adapters.iter().enumerate() {
                    let end = rows.min(start + len);
                    // Every third adapter leaves every second layer alone.
                    if start < end && (number + index) % 3 > 0 {
                        let down = Weight::new((*rank, in_features), 31 + number);
                        deltas.push((start..end, down, Weight::new((*out, *rank), 57 + number)));
                    }
                    start = end;
                }
                (Weight::new((*out, in_features), index), deltas)
            };
            let layers = outs.iter().enumerate().map(layer).collect();
            Self { rows, in_features, x: numbers(rows * in_features, 99), layers }
        }

        fn run(
            &self,
            kernels: Kernels,
            biases: &[Option<Vec<f32>>],
            onto: Option<f32>,
        ) -> Vec<Vec<f32>> {
            let packed: Vec<_> = self
                .layers
                .iter()
                .map(|(weight, deltas)| {
                    let factors =
                        deltas.iter().map(|(_, down, up)| (down.pack(kernels), up.pack(kernels)));
                    (weight.pack(kernels), factors.collect::<Vec<_>>())
                })
                .collect();
            let mut outs: Vec<Vec<f32>> = self
                .layers
                .iter()
                .map(|(weight, _)| vec![onto.unwrap_or(f32::NAN); self.rows * weight.shape.0])
                .collect();
            let projections = outs.iter_mut().zip(&packed).zip(&self.layers).zip(biases);
            let projections = projections.map(|(((out, (weight, factors)), (_, deltas)), bias)| {
                let deltas = deltas.iter().zip(factors);
                let deltas = deltas.map(|((rows, _, _), (down, up))| RowsDelta {
                    rows: rows.clone(),
                    down,
                    up,
                });
                let accumulate = onto.is_some();
                Projection {
                    weight: super::Weight::Bf16(weight),
                    bias: bias.as_deref(),
                    deltas: deltas.collect(),
                    out,
                    accumulate,
                }
            });
            kernels.project(&self.x, self.in_features, projections.collect());
            outs
        }

        /// The same, one output after the other.
        fn expected(&self, biases: &[Option<Vec<f32>>], onto: Option<f32>) -> Vec<Vec<f32>> {
            let layers = self.layers.iter().zip(biases).map(|((weight, deltas), bias)| {
                let out_features = weight.shape.0;
                let mut out = weight.times(&self.x);
                for (index, out) in out.iter_mut().enumerate() {
                    *out = onto.map_or(*out, |onto| onto + *out);
                    *out = bias.as_ref().map_or(*out, |bias| *out + bias[index % out_features]);
                }
                for (rows, down, up) in deltas {
                    let own = &self.x[rows.start * self.in_features..rows.end * self.in_features];
                    let delta = up.times(&down.times(own));
                    for (out, delta) in out[rows.start * out_features..].iter_mut().zip(delta) {
                        *out += delta;
                    }
                }
                out
            });
            layers.collect()
        }
    }

    fn assert_bits(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
        for (layer, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(found.len(), expected.len());
            for (i, (a, b)) in found.iter().zip(expected).enumerate() {
                assert_eq!(
                    a.to_bits(),
                    b.to_bits(),
                    "{what}: layer {layer}, element {i}: {a}, not {b}"
                );
            }
        }
    }

    fn levels() -> impl Iterator<Item = Kernels> {
        Level::available().map(|level| Kernels::new(level).expect("it is available"))
    }

    #[test]
    fn every_level_gives_the_naive_result_to_the_bit() {
        // Beyond one block of lines and one of rows, and everything odd.
        for (rows, in_features, outs) in [
            (1, 1, &[1][..]),
            (1, 576, &[70, 16, 33]),
            (13, 433, &[40]),
            (30, 900, &[17, 48]),
            (130, 5, &[3, 100]),
            (101, 2048, &[35]),
            (0, 8, &[4]),
        ] {
            let case =
                Case::new(rows, in_features, outs, &[(1, 1), (2, 16), (60, 7), (1, 33), (9, 20)]);
            let none: Vec<_> = outs.iter().map(|_| None).collect();
            let biases: Vec<_> = outs.iter().map(|out| Some(numbers(*out, 5))).collect();
            for kernels in levels() {
                let what = format!("{rows} x {in_features} at {}", kernels.level());
                assert_bits(&case.run(kernels, &none, None), &case.expected(&none, None), &what);
                assert_bits(
                    &case.run(kernels, &biases, None),
                    &case.expected(&biases, None),
                    &what,
                );
                let added = case.run(kernels, &none, Some(0.3));
                assert_bits(&added, &case.expected(&none, Some(0.3)), &what);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn neither_other_rows_nor_threads_change_a_row(
            rows in 1_usize..70,
            in_features in 1_usize..700,
            outs in prop::collection::vec(1_usize..80, 1..4),
            adapters in prop::collection::vec((1_usize..20, 1_usize..40), 0..6),
            threads in 1_usize..5,
        ) {
            let case = Case::new(rows, in_features, &outs, &adapters);
            let none: Vec<_> = outs.iter().map(|_| None).collect();
            let kernels = Kernels::best().on_threads(threads.try_into().expect("some"));
            let expected = case.expected(&none, None);
            assert_bits(&case.run(kernels, &none, None), &expected, "together");
        }
    }

    #[test]
    fn packing_keeps_every_weight() {
        for shape in [(1, 1), (16, 2), (17, 3), (40, 65), (0, 5), (5, 0)] {
            let weight = Weight::new(shape, 3);
            let panels = weight.pack(Kernels::best());
            assert_eq!((panels.out_features(), panels.in_features()), shape);
            assert_eq!(panels.unpack(), weight.rows);
        }
    }

    #[test]
    fn a_weight_in_huge_pages_is_as_good() {
        let weight = Weight::new((700, 1000), 4);
        let panels = weight.pack(Kernels::best());
        assert!(panels.bytes() > 1 << 20);
        assert_eq!(panels.unpack(), weight.rows);
    }
}

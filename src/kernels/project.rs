//! Linear layers in bfloat16 or quantised that share their input, each with the adapters of its
//! rows: `out = x Wᵀ + b`, and `+ (x downᵀ) upᵀ` for the rows that an adapter serves.
//!
//! Activations are rounded once, to bfloat16 or for a quantised weight to 8 bits, sums are float32,
//! and so is what lies between an adapter's two factors until it is rounded in turn. Each output
//! depends on its own row alone. The float32 path, whose activations are never rounded, is
//! [`super::linear`]'s.
//!
//! Two jobs do it: the first has the weights and all first factors, which wait for nothing but the
//! input, the second what the other factors add.

use std::ops::Range;

use super::addition::Addition;
use super::columns::Columns;
use super::level::Kernels;
use super::linear::Epilogue;
use super::rounded_input::RoundedInput;
use super::scratch::{Place, Scratch, place};
use super::weight::{Forms, Rows, Weight, WeightProduct};

/// Pieces of the second job that a thread has, where there are enough adapters or columns.
const PIECES: usize = 8;
/// Adapters' rows whose memory is kept, some hundred bytes each.
const SPARE_ADDITIONS: usize = 512;

/// An adapter's factors for some rows.
#[derive(Debug, Clone)]
pub struct RowsDelta<'a> {
    /// The rows, half open.
    pub rows: Range<usize>,
    /// `rank x in_features`.
    pub down: Weight<'a>,
    /// `out_features x rank`.
    pub up: Weight<'a>,
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
        let mut spare = Spare::lend();
        let mut additions = Addition::all(&projections, &mut spare.additions);
        self.add_weights((x, in_features), &mut projections, &mut additions, &mut spare.blocks);
        self.add_deltas(projections, &additions);
        spare.additions.extend(additions.into_iter().map(|addition| addition.inner));
        spare.additions.truncate(SPARE_ADDITIONS);
        spare.give_back();
    }

    /// The part of every row that the weights give, and the first half of what adapters add.
    fn add_weights<'a>(
        self,
        (x, in_features): (&[f32], usize),
        projections: &mut [Projection<'a, '_>],
        additions: &mut [Addition<'a>],
        spare: &mut Vec<Rows>,
    ) {
        let forms = Forms::of(self, projections.iter().map(|projection| projection.weight));
        let input = RoundedInput::new(self, (x, in_features), forms, spare);
        let outputs: usize = projections.iter().map(|it| it.weight.out_features()).sum();
        let work = x.len() * outputs;
        let parts = self.parts(work);
        let mut weights = Vec::with_capacity(parts + projections.len());
        for Projection { weight, bias, out, accumulate, .. } in projections {
            let width = weight.out_features();
            let own = (parts * width).div_ceil(outputs.max(1));
            let epilogue = if *accumulate { Epilogue::Accumulate } else { Epilogue::Store(*bias) };
            let columns = Columns::split(out, width, own);
            weights.extend(columns.map(|columns| Part::Weight(*weight, epilogue, columns)));
        }
        let work = work + additions.iter().map(|it| it.work()[0]).sum::<usize>();
        let shrunk = additions.chunk_by_mut(|a, b| a.rows == b.rows).map(Part::Shrink).collect();
        self.for_each(work, interleave(weights, shrunk), |part| match part {
            Part::Weight(weight, epilogue, out) => {
                let (weight, epilogue) = (*weight, *epilogue);
                let mut product = WeightProduct { weight, epilogue, next: None, out };
                input.for_each_block(self, |first_row, x| product.run(self, x, first_row));
            }
            Part::Shrink(own) => {
                let rows = own.first().map_or(0..0, |addition| addition.rows.clone());
                let x = &x[rows.start * in_features..rows.end * in_features];
                Addition::shrink(self, x, own);
            }
        });
        input.end(spare);
    }

    /// The second half of what adapters add to their own rows.
    fn add_deltas(self, projections: Vec<Projection<'_, '_>>, additions: &[Addition<'_>]) {
        if additions.is_empty() {
            return;
        }
        let work = additions.iter().map(|it| it.work()[1]).sum();
        // Where there are few adapters, their columns are divided.
        let parts = self.parts(work).div_ceil(additions.len());
        let mut outs: Vec<Option<&mut [f32]>> = additions.iter().map(|_| None).collect();
        let mut widths = Vec::with_capacity(projections.len());
        for (index, Projection { weight, out, .. }) in projections.into_iter().enumerate() {
            let width = weight.out_features();
            widths.push(width);
            let (mut row, mut behind) = (0, out);
            for (Addition { rows, projection, .. }, own) in additions.iter().zip(&mut outs) {
                if *projection == index {
                    let (_, from) = behind.split_at_mut((rows.start - row) * width);
                    let (out, rest) = from.split_at_mut(rows.len() * width);
                    *own = Some(out);
                    (row, behind) = (rows.end, rest);
                }
            }
        }
        let mut pieces = Vec::with_capacity(additions.len() * parts);
        for (addition, values) in additions.iter().zip(outs) {
            let (values, width) = (values.unwrap_or_default(), widths[addition.projection]);
            if parts == 1 {
                pieces.push((addition, Columns::whole(values, width)));
            } else {
                let columns = Columns::split(values, width, parts);
                pieces.extend(columns.map(|columns| (addition, columns)));
            }
        }
        let several = pieces.len().div_ceil(PIECES * self.threads()).max(1);
        self.for_each(work, pieces.chunks_mut(several).collect(), |pieces| {
            for (addition, out) in pieces.iter_mut() {
                let next = addition.next_up.filter(|_| parts == 1);
                addition.expand(self, next, out);
            }
        });
    }
}

/// Memory of the last call for the next.
#[derive(Default)]
struct Spare {
    blocks: Vec<Rows>,
    additions: Vec<Rows>,
}

impl Scratch for Spare {
    fn place() -> &'static Place<Self> {
        place!(Spare)
    }
}

/// A part of the first job.
enum Part<'p, 'a, 'o> {
    /// Some columns of all rows by a weight.
    Weight(Weight<'a>, Epilogue<'a>, Columns<'o>),
    /// The first half of what is added to some rows.
    Shrink(&'p mut [Addition<'a>]),
}

/// Both in their order, spread evenly: while one thread waits for an adapter's memory, another
/// computes with a weight that its cache holds.
fn interleave<T>(a: Vec<T>, b: Vec<T>) -> Vec<T> {
    if b.is_empty() {
        return a;
    }
    let (len, total) = (a.len(), a.len() + b.len());
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let from_a = |i: usize| (i + 1) * len / total > i * len / total;
    (0..total).filter_map(|i| if from_a(i) { a.next() } else { b.next() }).collect()
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
    use crate::kernels::reference;
    use crate::kernels::{Level, Panels};

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

        fn times(&self, x: &[f32], level: Level) -> Vec<f32> {
            let product = match level {
                Level::Amx => reference::product_tiles,
                _ => reference::product_bf16,
            };
            product(x, &self.rows, self.shape.1)
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
                    down: super::Weight::Bf16(down),
                    up: super::Weight::Bf16(up),
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
        fn expected(
            &self,
            level: Level,
            biases: &[Option<Vec<f32>>],
            onto: Option<f32>,
        ) -> Vec<Vec<f32>> {
            let layers = self.layers.iter().zip(biases).map(|((weight, deltas), bias)| {
                let out_features = weight.shape.0;
                let mut out = weight.times(&self.x, level);
                for (index, out) in out.iter_mut().enumerate() {
                    *out = onto.map_or(*out, |onto| onto + *out);
                    *out = bias.as_ref().map_or(*out, |bias| *out + bias[index % out_features]);
                }
                for (rows, down, up) in deltas {
                    let own = &self.x[rows.start * self.in_features..rows.end * self.in_features];
                    let delta = up.times(&down.times(own, level), level);
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
            (70, 40, &[1500, 600]),
            (0, 8, &[4]),
            (16, 64, &[32]),
            (17, 96, &[48, 7]),
            (33, 2048, &[90]),
        ] {
            let case =
                Case::new(rows, in_features, outs, &[(1, 1), (2, 16), (60, 7), (1, 33), (9, 20)]);
            let none: Vec<_> = outs.iter().map(|_| None).collect();
            let biases: Vec<_> = outs.iter().map(|out| Some(numbers(*out, 5))).collect();
            for kernels in levels() {
                let level = kernels.level();
                let what = format!("{rows} x {in_features} at {level}");
                for (biases, onto) in [(&none, None), (&biases, None), (&none, Some(0.3))] {
                    let expected = case.expected(level, biases, onto);
                    assert_bits(&case.run(kernels, biases, onto), &expected, &what);
                }
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
            let expected = case.expected(kernels.level(), &none, None);
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

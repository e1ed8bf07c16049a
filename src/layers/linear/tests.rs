//! Each row of a batch gets its own adapter and no other's, on every path: held against plain sums.

use std::sync::Arc;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::adapter::delta::{AdapterId, FactorDType};

const IN: usize = 48;
const OUT: usize = 40;
const RANK: usize = 3;

/// A matrix of small numbers that bfloat16 holds exactly.
fn matrix(random: &mut ChaCha8Rng, rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|_| f32::from(random.random_range(-8_i8..=8)) / 8.0).collect()
}

fn tensor(values: &[f32], columns: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu).unwrap()
}

/// `x mᵀ` for `m` of `columns` columns, in float64.
fn product(x: &[f64], m: &[f32], columns: usize) -> Vec<f64> {
    let dot = |row: &[f32]| x.iter().zip(row).map(|(a, b)| a * f64::from(*b)).sum();
    m.chunks(columns).map(dot).collect()
}

/// A layer's numbers, with two adapters that touch it and one that touches another module.
struct Case {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    factors: [(Vec<f32>, Vec<f32>); 2],
}

impl Case {
    fn new(random: &mut ChaCha8Rng, with_bias: bool) -> Self {
        let weight = matrix(random, OUT, IN);
        let bias = with_bias.then(|| matrix(random, 1, OUT));
        let factors = [0, 1].map(|_| (matrix(random, RANK, IN), matrix(random, OUT, RANK)));
        Self { weight, bias, factors }
    }

    fn adapters(&self) -> Vec<Arc<LowRankDelta>> {
        let factors = |index: usize| {
            let (down, up) = &self.factors[index];
            LowRankFactors { down: tensor(down, IN), up: tensor(up, RANK) }
        };
        let modules = [
            vec![None, Some(factors(0))],
            vec![None, Some(factors(1))],
            vec![Some(factors(0)), None],
        ];
        let delta = |(id, modules)| Arc::new(LowRankDelta::new(AdapterId([id; 32]), modules));
        (0..).zip(modules).map(delta).collect()
    }

    fn layer(&self, path: Path) -> Linear {
        let weight = tensor(&self.weight, IN);
        let bias =
            self.bias.as_ref().map(|bias| Tensor::new(bias.as_slice(), &Device::Cpu).unwrap());
        let backend = path.backend();
        if path.packs() {
            let weight = weight.to_dtype(DType::BF16).unwrap();
            let weight = PackedWeight::bf16(&weight, backend).unwrap();
            return Linear::packed(weight, bias, Some(1), backend).unwrap();
        }
        Linear::new(weight, bias, Some(1), backend).unwrap()
    }

    /// One row's result with the factors `adapter`, as they are written down.
    fn expected(&self, x: &[f32], adapter: Option<usize>) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
        let mut y = product(&x, &self.weight, IN);
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += f64::from(*bias));
        }
        if let Some((down, up)) = adapter.and_then(|adapter| self.factors.get(adapter)) {
            let delta = product(&product(&x, down, IN), up, RANK);
            y.iter_mut().zip(delta).for_each(|(y, delta)| *y += delta);
        }
        y
    }
}

/// How a layer computes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Path {
    /// Candle's operations.
    Candle,
    /// A float32 weight on the kernels.
    Plain,
    /// A bfloat16 weight and factors packed for the kernels.
    Packed,
    /// A packed weight beside factors that are not packed.
    PackedWeight,
}

impl Path {
    const ALL: [Self; 4] = [Self::Candle, Self::Plain, Self::Packed, Self::PackedWeight];

    fn backend(self) -> Backend {
        if self == Self::Candle { Backend::Candle } else { Backend::for_device(&Device::Cpu) }
    }

    fn packs(self) -> bool {
        matches!(self, Self::Packed | Self::PackedWeight)
    }

    fn prepare(self, delta: &LowRankDelta) -> Arc<LowRankDelta> {
        let dtype = if self == Self::Packed { DType::BF16 } else { DType::F32 };
        let prepared = self.backend().prepare(delta, dtype, FactorDType::Bf16, &Device::Cpu);
        Arc::new(prepared.unwrap())
    }

    /// Packed products round the first factor's result to bfloat16.
    fn tolerance(self) -> f64 {
        if self == Self::Packed { 0.5 } else { 1e-3 }
    }
}

fn rows(y: &Tensor) -> Vec<Vec<f32>> {
    y.to_vec2::<f32>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_row_gets_its_own_adapter_and_is_the_same_alone(
        runs in prop::collection::vec((0_usize..4, prop::option::of(0_usize..3)), 1..6),
        with_bias in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let case = Case::new(random, with_bias);
        let count: usize = runs.iter().map(|(len, _)| len).sum();
        prop_assume!(count > 0);
        let x = matrix(random, count, IN);
        let owners: Vec<Option<usize>> =
            runs.iter().flat_map(|&(len, adapter)| vec![adapter; len]).collect();
        for path in Path::ALL {
            let (layer, prepare) = (case.layer(path), |delta: &Arc<_>| path.prepare(delta));
            let adapters: Vec<_> = case.adapters().iter().map(prepare).collect();
            let of = |adapter: Option<usize>| adapter.map(|adapter| &adapters[adapter]);
            let segments = Segments::from_runs(runs.iter().map(|&(len, adapter)| (len, of(adapter))));
            let all = rows(&layer.forward(&tensor(&x, IN), &segments).unwrap());
            for (row, (x, owner)) in x.chunks(IN).zip(&owners).enumerate() {
                let expected = case.expected(x, *owner);
                for (y, expected) in all[row].iter().zip(&expected) {
                    prop_assert!((f64::from(*y) - expected).abs() <= path.tolerance(), "{path:?} {y} {expected}");
                }
                if path != Path::Candle {
                    let alone = Segments::from_runs([(1, of(*owner))]);
                    let alone = rows(&layer.forward(&tensor(x, IN), &alone).unwrap());
                    prop_assert_eq!(&alone[0], &all[row], "{:?}", path);
                }
            }
        }
    }

    #[test]
    fn adding_in_place_is_adding_afterwards(
        runs in prop::collection::vec((1_usize..4, prop::option::of(0_usize..3)), 1..4),
        with_bias in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let case = Case::new(random, with_bias);
        let count: usize = runs.iter().map(|(len, _)| len).sum();
        let (x, residual) = (matrix(random, count, IN), matrix(random, count, OUT));
        for path in Path::ALL {
            let adapters: Vec<_> = case.adapters().iter().map(|delta| path.prepare(delta)).collect();
            let of = |adapter: Option<usize>| adapter.map(|adapter| &adapters[adapter]);
            let segments = Segments::from_runs(runs.iter().map(|&(len, adapter)| (len, of(adapter))));
            let (layer, x) = (case.layer(path), tensor(&x, IN));
            let product = layer.forward(&x, &segments).unwrap();
            let sum = layer.forward_add(&x, &segments, tensor(&residual, OUT)).unwrap();
            let expected = (tensor(&residual, OUT) + product).unwrap();
            for (y, expected) in rows(&sum).concat().iter().zip(rows(&expected).concat()) {
                prop_assert!((y - expected).abs() <= 1e-3, "{path:?} {y} {expected}");
            }
        }
    }

    #[test]
    fn layers_of_one_input_are_what_they_are_alone(seed in any::<u64>()) {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let cases = [0, 1].map(|_| Case::new(random, true));
        let x = tensor(&matrix(random, 5, IN), IN);
        for path in Path::ALL {
            let adapters = cases[0].adapters();
            let [a, b] = [0, 1].map(|index| path.prepare(&adapters[index]));
            let segments = Segments::from_runs([(2, Some(&a)), (1, None), (2, Some(&b))]);
            let layers = [cases[0].layer(path), cases[1].layer(path)];
            let together = Linear::forward_all([&layers[0], &layers[1]], &x, &segments).unwrap();
            for (layer, y) in layers.iter().zip(&together) {
                prop_assert_eq!(rows(&layer.forward(&x, &segments).unwrap()), rows(y));
            }
        }
    }
}

#[test]
fn rows_beyond_the_batch_and_factors_of_other_shapes_are_refused() {
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    let case = Case::new(random, false);
    let x = tensor(&matrix(random, 2, IN), IN);
    let other = LowRankFactors {
        down: tensor(&matrix(random, 2, IN), IN),
        up: tensor(&matrix(random, OUT + 1, 2), 2),
    };
    let other = LowRankDelta::new(AdapterId([9; 32]), vec![None, Some(other)]);
    for path in Path::ALL {
        let (layer, own) = (case.layer(path), path.prepare(&case.adapters()[0]));
        assert!(layer.forward(&x, &Segments::from_runs([(3, Some(&own))])).is_err(), "{path:?}");
        let other = path.prepare(&other);
        assert!(layer.forward(&x, &Segments::from_runs([(1, Some(&other))])).is_err(), "{path:?}");
        let narrow = x.narrow(1, 0, IN - 1).unwrap();
        assert!(layer.forward(&narrow, &Segments::none()).is_err(), "{path:?}");
    }
}

#[test]
fn merged_is_batched() {
    let random = &mut ChaCha8Rng::seed_from_u64(2);
    let case = Case::new(random, true);
    let x = tensor(&matrix(random, 3, IN), IN);
    for path in Path::ALL {
        let adapter = path.prepare(&case.adapters()[1]);
        let batched = case.layer(path).forward(&x, &Segments::from_runs([(3, Some(&adapter))]));
        let mut merged = case.layer(path);
        merged.merge(case.adapters()[1].factors(1).unwrap()).unwrap();
        let merged = merged.forward(&x, &Segments::none()).unwrap();
        for (merged, batched) in rows(&merged).concat().iter().zip(rows(&batched.unwrap()).concat())
        {
            let tolerance = if path.packs() { 0.5 } else { 1e-3 };
            assert!((merged - batched).abs() <= tolerance, "{path:?}: {merged} {batched}");
        }
    }
}

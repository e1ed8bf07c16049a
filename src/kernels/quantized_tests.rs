//! Quantised products against their formula, to the bit, and how close rounding comes.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::kernels::{Level, Panels, Projection, RowsDelta, Weight, reference};

/// Numbers between -1 and 1, a few of them much larger than the others.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let mix = |i: usize| (i + 1).wrapping_mul(seed.wrapping_mul(7919) + 104_729) % 65_521;
    let number = |i: usize| mix(i) as f32 / 32_760.5 - 1.0;
    (0..len).map(|i| if mix(i) % 97 == 0 { 9.0 * number(i) } else { number(i) }).collect()
}

fn levels() -> impl Iterator<Item = Kernels> {
    Level::available().map(|level| Kernels::new(level).expect("it is available"))
}

/// Blocks of a GGUF file with every bit in use and scales that are numbers.
fn ggml(kind: GgmlBlocks, (out_features, in_features): (usize, usize)) -> Vec<u8> {
    let count = out_features * in_features / kind.values();
    let block = |index: usize| {
        let mut block: Vec<u8> =
            (0..kind.bytes()).map(|i| (((index * 977 + i) * 40_503) >> 5) as u8).collect();
        // The exponents of the scale, and where there is one of the minimum.
        block[1] = 0x20 | block[1] & 0x8F;
        if matches!(kind, GgmlBlocks::Q4_1 | GgmlBlocks::Q4K) {
            block[3] = 0x24 | block[3] & 0x8B;
        }
        block
    };
    (0..count).flat_map(block).collect()
}

const KINDS: [GgmlBlocks; 4] =
    [GgmlBlocks::Q8_0, GgmlBlocks::Q4_0, GgmlBlocks::Q4_1, GgmlBlocks::Q4K];

/// Every kind of weight that the shape allows.
fn weights(kernels: Kernels, shape: (usize, usize), seed: usize) -> Vec<QuantizedPanels> {
    let floats = numbers(shape.0 * shape.1, seed);
    let rounded = [Bits::Eight, Bits::Four].map(|bits| {
        QuantizedPanels::quantize(kernels, &floats, shape, bits).expect("they are finite")
    });
    let stored = KINDS.into_iter().filter(|kind| shape.1.is_multiple_of(kind.values()));
    let stored =
        stored.map(|kind| QuantizedPanels::from_ggml(kernels, kind, &ggml(kind, shape), shape));
    let factor = QuantizedPanels::quantize_factor(kernels, &floats, shape);
    let factor = factor.expect("they are finite");
    rounded.into_iter().chain(stored).chain([factor]).collect()
}

/// `x Wᵀ` as a level computes it.
fn naive(weight: &QuantizedPanels, x: &[f32], level: Level) -> Vec<f32> {
    match level {
        Level::Amx => reference::product_tiles(x, &widened(weight), weight.in_features()),
        _ => naive_bytes(weight, x),
    }
}

/// `x Wᵀ`, group after group, as its formula reads.
fn naive_bytes(weight: &QuantizedPanels, x: &[f32]) -> Vec<f32> {
    let shifted = matches!(weight.blocks, Blocks::Q8(_) | Blocks::Q8F(_));
    let output = |row: &[f32], output: usize| {
        let mut sum = 0.0_f32;
        for (group, x) in row.chunks(GROUP).enumerate() {
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let x: Vec<i32> = x.iter().map(|x| (x * inverse).round_ties_even() as i32).collect();
            let (values, own, minimum) = weight.group(output, group);
            let products = x.iter().zip(values).map(|(x, value)| x * i32::from(value));
            sum = (products.sum::<i32>() as f32).mul_add(own * scale, sum);
            if !shifted {
                sum = minimum.mul_add(scale * x.iter().sum::<i32>() as f32, sum);
            }
        }
        sum
    };
    let rows = x.chunks(weight.in_features());
    rows.flat_map(|row| (0..weight.out_features()).map(move |index| output(row, index))).collect()
}

fn project(kernels: Kernels, weights: &[QuantizedPanels], x: &[f32]) -> Vec<Vec<f32>> {
    let in_features = weights[0].in_features();
    let rows = x.len() / in_features;
    let mut outs: Vec<Vec<f32>> =
        weights.iter().map(|weight| vec![f32::NAN; rows * weight.out_features()]).collect();
    let projections = weights.iter().zip(&mut outs).map(|(weight, out)| Projection {
        weight: Weight::Quantized(weight),
        bias: None,
        deltas: Vec::new(),
        out,
        accumulate: false,
    });
    kernels.project(x, in_features, projections.collect());
    outs
}

fn assert_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: element {i}: {a}, not {b}");
    }
}

/// Each value as tiles take it: rounded to bfloat16.
fn widened(weight: &QuantizedPanels) -> Vec<bf16> {
    let shifted = matches!(weight.blocks, Blocks::Q8(_) | Blocks::Q8F(_));
    let (width, groups) = (weight.in_features(), weight.in_features().div_ceil(GROUP));
    let row = |output: usize| {
        let values = (0..groups).flat_map(move |group| {
            let (values, scale, minimum) = weight.group(output, group);
            let minimum = if shifted { 0.0 } else { minimum };
            values.map(|value| bf16::from_f32(f32::from(value).mul_add(scale, minimum)))
        });
        values.take(width)
    };
    (0..weight.out_features()).flat_map(row).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn panels_are_widened_value_by_value() {
    use crate::kernels::panels::Line;
    use crate::kernels::simd::{Simd, Task};
    use crate::kernels::widened_panels::{TilePanels, Widened};

    /// Both panels of a pair.
    struct Pair<P>(P, [usize; 2]);

    impl<P: TilePanels> Task for Pair<P> {
        type Output = [Vec<Line>; 2];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [Vec<Line>; 2] {
            self.0.pair(simd, self.1, &mut vec![Line::ZERO; 3]).map(<[Line]>::to_vec)
        }
    }

    for (out_features, in_features) in [(1, 1), (70, 576), (33, 256), (40, 433)] {
        for kernels in levels() {
            for weight in &weights(kernels, (out_features, in_features), 3) {
                let rows = widened(weight);
                let expected = Panels::pack(kernels, &rows, (out_features, in_features));
                let last = out_features.div_ceil(LANES) - 1;
                let (groups, length) = (weight.groups(), in_features.div_ceil(2));
                for numbers in [[0, last], [last, last]] {
                    let found = with_blocks!(&weight.blocks, blocks => {
                        kernels.run(Pair(Widened { blocks, groups, length }, numbers))
                    });
                    for (number, found) in numbers.into_iter().zip(&found) {
                        let expected = expected.panel(number);
                        assert_eq!(found.len(), expected.len(), "{weight:?}");
                        for (line, (found, expected)) in found.iter().zip(expected).enumerate() {
                            let what = format!("{weight:?} at {}", kernels.level());
                            // Rows are zero where there is no second feature.
                            let step = if 2 * line + 1 < in_features { 1 } else { 2 };
                            assert!(
                                found.0.iter().step_by(step).eq(expected.0.iter().step_by(step)),
                                "line {line} of panel {number} of {what}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_level_gives_the_naive_result_to_the_bit() {
    for (rows, in_features, out_features) in
        [(1, 1, 1), (1, 576, 70), (9, 256, 33), (13, 433, 40), (40, 768, 17), (130, 36, 100)]
    {
        let shape = (out_features, in_features);
        let mut x = numbers(rows * in_features, 99);
        // A group of zeros, and one of numbers too small for a reciprocal.
        x[..in_features.min(GROUP)].fill(0.0);
        x[in_features - in_features.min(GROUP)..in_features].fill(1e-40);
        for kernels in levels() {
            let weights = weights(kernels, shape, 3);
            let found = project(kernels, &weights, &x);
            for (weight, found) in weights.iter().zip(&found) {
                let mut x = x.clone();
                x.iter_mut().filter(|x| **x == 1e-40).for_each(|x| *x = 0.0);
                let what = format!("{rows} rows of {weight:?} at {}", kernels.level());
                assert_bits(found, &naive(weight, &x, kernels.level()), &what);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn neither_other_rows_nor_threads_change_a_row(
        rows in 1_usize..60,
        in_features in 1_usize..600,
        out_features in 1_usize..80,
        threads in 1_usize..5,
        own in any::<prop::sample::Index>(),
    ) {
        let kernels = Kernels::best().on_threads(threads.try_into().expect("some"));
        let weights = weights(kernels, (out_features, in_features), 5);
        let x = numbers(rows * in_features, 1);
        let own = own.index(rows);
        let alone = project(Kernels::best(), &weights, &x[own * in_features..][..in_features]);
        for (together, alone) in project(kernels, &weights, &x).iter().zip(alone) {
            assert_bits(&together[own * out_features..][..out_features], &alone, "together");
        }
    }
}

#[test]
fn adapters_and_bfloat16_layers_go_beside_quantised_ones() {
    let (rows, width, rank) = (11, 160, 4);
    let kernels = Kernels::best();
    let bf16s = |len, seed| -> Vec<half::bf16> {
        numbers(len, seed).into_iter().map(half::bf16::from_f32).collect()
    };
    let quantized = &weights(kernels, (48, width), 8)[1];
    let plain = Panels::pack(kernels, &bf16s(20 * width, 2), (20, width));
    let down = Panels::pack(kernels, &bf16s(rank * width, 3), (rank, width));
    let up = Panels::pack(kernels, &bf16s(48 * rank, 4), (48, rank));
    let x = numbers(rows * width, 6);
    let run = |weight, out_features: usize, deltas, onto: f32| {
        let mut out = vec![onto; rows * out_features];
        let accumulate = onto != 0.0;
        let projection = Projection { weight, bias: None, deltas, out: &mut out, accumulate };
        kernels.project(&x, width, vec![projection]);
        out
    };
    let delta = RowsDelta { rows: 2..9, down: Weight::Bf16(&down), up: Weight::Bf16(&up) };
    let weight = Weight::Quantized(quantized);
    let base = run(weight, 48, Vec::new(), 0.0);
    let with = run(weight, 48, vec![delta.clone()], 0.0);
    for row in 0..rows {
        let [base, with] = [&base, &with].map(|out| &out[row * 48..][..48]);
        assert_eq!(base == with, !(2..9).contains(&row), "row {row}");
    }
    let onto = run(weight, 48, Vec::new(), 0.5);
    let sums: Vec<f32> = base.iter().map(|base| 0.5 + base).collect();
    assert_bits(&onto, &sums, "added");
    let (mut one, mut other) = (vec![0.0; rows * 48], vec![0.0; rows * 20]);
    let both = vec![
        Projection { weight, bias: None, deltas: vec![delta], out: &mut one, accumulate: false },
        Projection {
            weight: Weight::Bf16(&plain),
            bias: None,
            deltas: Vec::new(),
            out: &mut other,
            accumulate: false,
        },
    ];
    kernels.project(&x, width, both);
    assert_bits(&one, &with, "quantised");
    assert_bits(&other, &run(Weight::Bf16(&plain), 20, Vec::new(), 0.0), "bfloat16");
}

#[test]
fn what_is_no_number_stays_none_in_its_row_only() {
    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for kernels in levels() {
            let weights = weights(kernels, (20, 64), 5);
            let mut x = numbers(3 * 64, 1);
            x[64 + 40] = fault;
            for out in project(kernels, &weights, &x) {
                for (index, value) in out.iter().enumerate() {
                    assert_eq!(value.is_finite(), index / 20 != 1, "{fault} gives {value}");
                }
            }
        }
    }
}

#[test]
fn rounding_comes_as_close_as_the_bits_allow() {
    let shape = (40, 70);
    let floats = numbers(shape.0 * shape.1, 12);
    for (bits, steps) in [(Bits::Eight, 254.0), (Bits::Four, 15.0)] {
        let panels = QuantizedPanels::quantize(Kernels::best(), &floats, shape, bits);
        let found = panels.expect("they are finite").dequantize();
        for (own, found) in floats.chunks(70).zip(found.chunks(70)) {
            for (own, found) in own.chunks(GROUP).zip(found.chunks(GROUP)) {
                let high = own.iter().copied().fold(f32::MIN, f32::max);
                let low = own.iter().copied().fold(f32::MAX, f32::min);
                let span = if bits == Bits::Eight { 2.0 * high.max(-low) } else { high - low };
                // As if each error were half a step of a grid that spans all, and scales exact.
                let bound = (span / steps / 2.0 * 1.02).powi(2) * own.len() as f32;
                let error: f32 = own.iter().zip(found).map(|(a, b)| (a - b).powi(2)).sum();
                assert!(error <= bound, "{bits:?}: {error} > {bound}");
            }
        }
    }
    let grid: Vec<f32> = (0..64).map(|i| ((i * 7) % 16) as f32 * 0.25 - 2.0).collect();
    let panels = QuantizedPanels::quantize(Kernels::best(), &grid, (2, 32), Bits::Four);
    assert_eq!(panels.expect("they are finite").dequantize(), grid);
}

#[test]
fn weights_that_cannot_be_rounded_are_named() {
    for fault in [f32::NAN, f32::INFINITY] {
        let factor = QuantizedPanels::quantize_factor(Kernels::best(), &[1.0, fault], (1, 2));
        factor.expect_err("it cannot be rounded");
    }
    for bits in [Bits::Eight, Bits::Four] {
        for fault in [f32::NAN, f32::INFINITY, -1e38] {
            let panels = QuantizedPanels::quantize(Kernels::best(), &[1.0, fault], (1, 2), bits);
            let error = panels.expect_err("it cannot be rounded");
            assert!(error.to_string().starts_with("a weight"), "{error}");
        }
    }
}

#[test]
fn an_adapter_in_8_bits_adds_both_its_products_to_its_rows_alone() {
    // Ranks below, at and beyond a group; rows of one tile and of several.
    for (width, outs, rank) in [(70, 40, 32), (33, 17, 5), (576, 300, 40), (64, 1000, 64)] {
        let x = numbers(60 * width, 6);
        let runs = [0..1, 1..5, 9..59];
        for kernels in levels() {
            let base = &weights(kernels, (outs, width), 8)[0];
            let plain = Panels::pack(kernels, &vec![half::bf16::ONE; rank * width], (rank, width));
            let factors: Vec<_> = (0..runs.len())
                .map(|seed| {
                    let factor = |shape: (usize, usize), seed| {
                        let values = numbers(shape.0 * shape.1, seed);
                        QuantizedPanels::quantize_factor(kernels, &values, shape).expect("finite")
                    };
                    (factor((rank, width), 3 + seed), factor((outs, rank), 7 + seed))
                })
                .collect();
            let run = |deltas| {
                let mut out = vec![0.0; 60 * outs];
                let weight = Weight::Quantized(base);
                let (bias, accumulate) = (None, false);
                let own = Projection { weight, bias, deltas, out: &mut out, accumulate };
                kernels.project(&x, width, vec![own]);
                out
            };
            let mut expected = run(Vec::new());
            let mut deltas = Vec::new();
            for (rows, (down, up)) in runs.iter().zip(&factors) {
                let inner = naive(down, &x[rows.start * width..rows.end * width], kernels.level());
                let own = &mut expected[rows.start * outs..rows.end * outs];
                own.iter_mut()
                    .zip(naive(up, &inner, kernels.level()))
                    .for_each(|(out, delta)| *out += delta);
                let (down, up) = (Weight::Quantized(down), Weight::Quantized(up));
                deltas.push(RowsDelta { rows: rows.clone(), down, up });
            }
            let what = format!("{width}, {outs}, {rank} at {}", kernels.level());
            assert_bits(&run(deltas.clone()), &expected, &what);
            // Beside one in bfloat16, each is as it would be alone.
            deltas[1].down = Weight::Bf16(&plain);
            let found = run(deltas);
            assert_bits(&found[9 * outs..], &expected[9 * outs..], &what);
            assert_bits(&found[..outs], &expected[..outs], &what);
        }
    }
}

#[test]
fn a_factor_in_8_bits_is_as_close_however_small_it_is() {
    for size in [1.0, 1e-9, 1e9] {
        let floats: Vec<f32> = numbers(40 * 70, 12).into_iter().map(|it| it * size).collect();
        let panels = QuantizedPanels::quantize_factor(Kernels::best(), &floats, (40, 70));
        let panels = panels.expect("they are finite");
        assert_eq!(panels.bytes(), QuantizedPanels::factor_bytes((40, 70)));
        for (own, found) in floats.chunks(70).zip(panels.dequantize().chunks(70)) {
            for (own, found) in own.chunks(GROUP).zip(found.chunks(GROUP)) {
                let largest = own.iter().fold(0.0_f32, |largest, it| largest.max(it.abs()));
                for (own, found) in own.iter().zip(found) {
                    assert!((own - found).abs() <= largest / 254.0 * 1.001, "{found}, not {own}");
                }
            }
        }
    }
}

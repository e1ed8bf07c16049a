//! Fast against naive, alone against together, level against level.

// A batch of one sequence is a list of one range of tokens.
#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;

use half::{bf16, f16};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Numbers of rows that reach every path: some products change theirs at 16 and at 128 rows.
const ROWS: [usize; 10] = [0, 1, 2, 3, 5, 8, 13, 33, 70, MAX_ROWS];
const MAX_ROWS: usize = 131;

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Every level of this machine, slowest first.
fn levels() -> Vec<Kernels> {
    Level::available().map(|level| Kernels::new(level).expect("it is available")).collect()
}

/// Equal as bits, with the first difference in the message.
fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: element {i}: {a} and {b}");
    }
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(close, "{what}: element {i}: {a}, not {b}");
    }
}

fn linear(kernels: Kernels, x: &[f32], weights: Weights<'_>, shape: LinearShape) -> Vec<f32> {
    let mut out = vec![f32::NAN; shape.rows * shape.out_features];
    kernels.linear(x, weights, None, &mut out, shape);
    out
}

/// One matrix in every storage type, with its float32 values.
struct Stored {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
}

impl Stored {
    fn random(len: usize, seed: u64) -> Self {
        let f32 = random(len, seed);
        let bf16 = f32.iter().map(|x| bf16::from_f32(*x)).collect();
        let f16 = f32.iter().map(|x| f16::from_f32(*x)).collect();
        Self { f32, bf16, f16 }
    }

    fn each(&self) -> [(Weights<'_>, Vec<f32>); 3] {
        [
            (Weights::F32(&self.f32), self.f32.clone()),
            (Weights::Bf16(&self.bf16), self.bf16.iter().map(|x| x.to_f32()).collect()),
            (Weights::F16(&self.f16), self.f16.iter().map(|x| x.to_f32()).collect()),
        ]
    }
}

#[test]
fn linear_is_the_naive_product_at_every_level_and_type() {
    for (in_features, out_features) in [(1, 1), (16, 5), (17, 64), (63, 3), (100, 37), (0, 4)] {
        for rows in ROWS {
            let shape = LinearShape { rows, in_features, out_features };
            let x = random(rows * in_features, 1);
            let bias = random(out_features, 2);
            for (weights, wide) in Stored::random(in_features * out_features, 3).each() {
                let expected = reference::linear(&x, &wide, Some(&bias), shape);
                for kernels in levels() {
                    let mut out = vec![f32::NAN; expected.len()];
                    kernels.linear(&x, weights, Some(&bias), &mut out, shape);
                    assert_close(&out, &expected, 1e-5, &format!("{shape:?} {kernels:?}"));
                }
            }
        }
    }
}

#[test]
fn a_row_alone_is_the_row_in_a_batch_and_at_every_level() {
    for (in_features, out_features) in [(33, 21), (1100, 70), (250, 259)] {
        let x = random(MAX_ROWS * in_features, 4);
        for (weights, _) in Stored::random(in_features * out_features, 5).each() {
            let alone = |kernels, row: usize| {
                let shape = LinearShape { rows: 1, in_features, out_features };
                linear(kernels, &x[row * in_features..][..in_features], weights, shape)
            };
            let expected: Vec<f32> =
                (0..MAX_ROWS).flat_map(|row| alone(Kernels::best(), row)).collect();
            for kernels in levels() {
                for rows in ROWS {
                    let shape = LinearShape { rows, in_features, out_features };
                    let out = linear(kernels, &x[..rows * in_features], weights, shape);
                    let expected = &expected[..rows * out_features];
                    assert_bits(&out, expected, &format!("{shape:?} {kernels:?}"));
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_and_the_order_of_rows_change_nothing() {
    let shape = LinearShape { rows: MAX_ROWS, in_features: 300, out_features: 500 };
    let x = random(shape.rows * shape.in_features, 6);
    let weights = random(shape.in_features * shape.out_features, 7);
    let reversed: Vec<f32> = x.chunks(shape.in_features).rev().flatten().copied().collect();
    let expected = linear(Kernels::best(), &x, Weights::F32(&weights), shape);
    for threads in [1, 2, 5] {
        let kernels = Kernels::best().on_threads(threads.try_into().expect("some"));
        let out = linear(kernels, &reversed, Weights::F32(&weights), shape);
        let out: Vec<f32> = out.chunks(shape.out_features).rev().flatten().copied().collect();
        assert_bits(&out, &expected, &format!("{threads} threads"));
    }
}

#[test]
fn low_rank_adds_the_delta_and_does_not_see_other_rows() {
    let (in_features, out_features) = (70, 45);
    for rank in [1, 7, 16, 33] {
        let x = random(MAX_ROWS * in_features, 8);
        let y = random(MAX_ROWS * out_features, 9);
        let down = Stored::random(rank * in_features, 10);
        let up = Stored::random(rank * out_features, 11);
        for ((down, wide_down), (up, wide_up)) in down.each().into_iter().zip(up.each()) {
            let mut alone = y.clone();
            let rows = alone.chunks_mut(out_features).zip(x.chunks(in_features));
            let shape = LowRankShape { rows: 1, in_features, out_features, rank };
            rows.for_each(|(y, x)| Kernels::best().low_rank_add(x, down, up, y, shape));
            for kernels in levels() {
                for rows in ROWS {
                    let shape = LowRankShape { rows, ..shape };
                    let x = &x[..rows * in_features];
                    let y = &y[..rows * out_features];
                    let mut out = y.to_vec();
                    kernels.low_rank_add(x, down, up, &mut out, shape);
                    let expected = reference::low_rank_add(x, &wide_down, &wide_up, y, shape);
                    let what = format!("{shape:?} {kernels:?}");
                    assert_close(&out, &expected, 2e-5, &what);
                    assert_bits(&out, &alone[..out.len()], &what);
                }
            }
        }
    }
}

#[test]
fn norm_gate_and_rotation_are_the_naive_ones_whatever_the_batch() {
    for width in [2, 18, 64, 576] {
        let (x, up) = (random(MAX_ROWS * width, 12), random(MAX_ROWS * width, 13));
        let x: Vec<f32> = x.iter().map(|x| 12.0 * x).collect();
        let weight = random(width, 14);
        let (cos, sin) = (random(100 * width / 2, 15), random(100 * width / 2, 16));
        let tables = RotaryTables { cos: &cos, sin: &sin, head_dim: width };
        let positions: Vec<u32> = (0..MAX_ROWS).map(|row| row as u32 * 31 % 100).collect();
        let compute = |kernels: Kernels, rows: Range<usize>| {
            let range = rows.start * width..rows.end * width;
            let mut outs = [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.0; range.len()]);
            kernels.rms_norm(&x[range.clone()], &weight, 1e-5, &mut outs[0]);
            kernels.silu_mul(&x[range.clone()], &up[range.clone()], &mut outs[1]);
            outs[2].copy_from_slice(&x[range]);
            kernels.rotary(&mut outs[2], &positions[rows], tables);
            outs
        };
        let alone = (0..MAX_ROWS).map(|row| compute(Kernels::best(), row..row + 1));
        let alone = alone.reduce(|a, b| [0, 1, 2].map(|i| [&a[i][..], &b[i][..]].concat()));
        let alone = alone.expect("there are rows");
        for kernels in levels() {
            for rows in ROWS {
                let out = compute(kernels, 0..rows);
                let x = &x[..rows * width];
                let expected = [
                    reference::rms_norm(x, &weight, 1e-5),
                    reference::silu_mul(x, &up[..rows * width]),
                    reference::rotary(x, &positions[..rows], tables),
                ];
                for i in 0..3 {
                    let what = format!("kernel {i}, {rows} x {width}, {kernels:?}");
                    assert_close(&out[i], &expected[i], 2e-6, &what);
                    assert_bits(&out[i], &alone[i][..rows * width], &what);
                }
            }
        }
    }
}

#[test]
fn silu_keeps_nan_and_survives_the_extremes() {
    let gate = [f32::NAN, 0.0, -0.0, 1e30, -1e30, -200.0, 88.5, -88.5, f32::MAX];
    for kernels in levels() {
        let mut out = [7.0; 9];
        kernels.silu_mul(&gate, &[1.0; 9], &mut out);
        assert!(out[0].is_nan(), "{kernels:?}");
        assert_close(&out[1..3], &[0.0; 2], 0.0, "zeros");
        assert_close(&out[3..4], &[1e30], 0.0, "large");
        assert_close(&out[4..6], &[0.0; 2], 1e-6, "far negative");
        assert_close(&out[6..], &[88.5, 0.0, f32::MAX], 1e-6, "the bounds");
    }
}

/// A small pool with scattered blocks, and what is needed to attend to it.
struct Attention {
    shape: AttentionShape,
    block_size: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// One table a sequence; tables do not overlap.
    tables: Vec<Vec<u32>>,
    contexts: Vec<usize>,
    /// Queries of every token of every sequence.
    queries: Vec<Vec<f32>>,
}

impl Attention {
    fn new(shape: AttentionShape, block_size: usize, contexts: &[usize]) -> Self {
        let blocks: Vec<usize> = contexts.iter().map(|c| c.div_ceil(block_size)).collect();
        let num_blocks = blocks.iter().sum::<usize>() as u32;
        // Any order that is not the identity will do: 17 has no common factor with the count.
        let step = [17, 19]
            .into_iter()
            .find(|step| !num_blocks.is_multiple_of(*step))
            .expect("one of them");
        let mut ids = (0..num_blocks).map(|i| i * step % num_blocks);
        let tables = blocks.iter().map(|n| ids.by_ref().take(*n).collect()).collect();
        let len = num_blocks as usize * block_size * shape.kv_width();
        let width = shape.query_width();
        let queries = contexts.iter().enumerate();
        Self {
            shape,
            block_size,
            // What lies behind a context's end must not matter: the tests below keep NaN there.
            keys: vec![f32::NAN; len],
            values: vec![f32::NAN; len],
            tables,
            contexts: contexts.to_vec(),
            queries: queries.map(|(i, c)| random(c * width, 20 + i as u64)).collect(),
        }
        .filled()
    }

    fn filled(mut self) -> Self {
        let width = self.shape.kv_width();
        for (i, (table, context)) in self.tables.iter().zip(&self.contexts).enumerate() {
            let slots: Vec<u32> = (0..*context)
                .map(|t| {
                    table[t / self.block_size] * self.block_size as u32
                        + (t % self.block_size) as u32
                })
                .collect();
            let seed = 40 + 2 * i as u64;
            write_kv(&random(context * width, seed), &slots, &mut self.keys, width);
            write_kv(&random(context * width, seed + 1), &slots, &mut self.values, width);
        }
        self
    }

    fn kv(&self) -> PagedKv<'_> {
        PagedKv { keys: &self.keys, values: &self.values, block_size: self.block_size }
    }

    /// The tokens `chunks[i]` of each sequence `i`, in one batch: queries and spans.
    fn batch(&self, chunks: &[Range<usize>]) -> (Vec<f32>, Vec<AttentionSpan<'_>>) {
        let width = self.shape.query_width();
        let (mut q, mut spans) = (Vec::new(), Vec::new());
        for (i, chunk) in chunks.iter().enumerate() {
            let start = q.len() / width;
            q.extend_from_slice(&self.queries[i][chunk.start * width..chunk.end * width]);
            let rows = start..start + chunk.len();
            spans.push(AttentionSpan {
                rows,
                context_len: chunk.end,
                block_table: &self.tables[i],
            });
        }
        (q, spans)
    }

    fn run(&self, kernels: Kernels, chunks: &[Range<usize>]) -> Vec<f32> {
        let (q, spans) = self.batch(chunks);
        let mut out = vec![f32::NAN; q.len()];
        kernels.paged_attention(&q, self.kv(), &spans, self.shape, &mut out);
        out
    }

    /// Outputs of one sequence, its tokens fed one by one.
    fn one_by_one(&self, sequence: usize) -> Vec<f32> {
        let feed = |token| {
            let mut chunks = vec![0..0; self.contexts.len()];
            chunks[sequence] = token..token + 1;
            self.run(Kernels::best(), &chunks)
        };
        (0..self.contexts[sequence]).flat_map(feed).collect()
    }
}

fn shape(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, scale: 1.5 }
}

#[test]
fn attention_is_the_naive_one_and_the_same_at_every_level() {
    for (shape, block_size) in [
        (shape(1, 1, 16), 16),
        (shape(9, 3, 64), 16),
        (shape(4, 4, 20), 7),
        (shape(8, 1, 128), 32),
        (shape(10, 2, 72), 1),
        (shape(2, 1, 3), 5),
    ] {
        let attention = Attention::new(shape, block_size, &[75, 1, 33]);
        let chunks = [40..75, 0..1, 31..33];
        let (q, spans) = attention.batch(&chunks);
        let expected = reference::paged_attention(&q, attention.kv(), &spans, shape);
        let best = attention.run(Kernels::best(), &chunks);
        for kernels in levels() {
            let out = attention.run(kernels, &chunks);
            assert_close(&out, &expected, 3e-6, &format!("{shape:?} {kernels:?}"));
            assert_bits(&out, &best, &format!("{shape:?} {kernels:?}"));
        }
    }
}

#[test]
fn one_query_over_large_scores_is_still_a_mean() {
    let shape = AttentionShape { scale: 300.0, ..shape(2, 1, 32) };
    let attention = Attention::new(shape, 16, &[200]);
    let (q, spans) = attention.batch(&[0..200]);
    let expected = reference::paged_attention(&q, attention.kv(), &spans, shape);
    let out = attention.run(Kernels::best(), &[0..200]);
    assert_close(&out, &expected, 2e-4, "scores of hundreds");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chunking_gives_what_one_by_one_gives(
        cuts in prop::collection::vec(0_usize..=130, 0..6),
        other in 0_usize..=50,
        geometry in prop::sample::select(vec![(6, 2, 64, 16), (3, 3, 24, 5), (5, 1, 80, 16)]),
    ) {
        let (heads, kv_heads, head_dim, block_size) = geometry;
        let attention = Attention::new(shape(heads, kv_heads, head_dim), block_size, &[130, 50]);
        let mut cuts = cuts;
        cuts.extend([0, 130]);
        cuts.sort_unstable();
        let mut out = Vec::new();
        for pair in cuts.windows(2) {
            // The other sequence rides along; its rows lie behind.
            let both = attention.run(Kernels::best(), &[pair[0]..pair[1], other..50]);
            let width = attention.shape.query_width();
            out.extend_from_slice(&both[..(pair[1] - pair[0]) * width]);
        }
        assert_bits(&out, &attention.one_by_one(0), &format!("cuts {cuts:?}"));
    }

    #[test]
    fn any_shape_of_product_is_the_naive_one(
        rows in 0_usize..150, in_features in 0_usize..90, out_features in 0_usize..90, seed: u64,
    ) {
        let shape = LinearShape { rows, in_features, out_features };
        let x = random(rows * in_features, seed);
        let weights = random(in_features * out_features, seed ^ 1);
        let expected = reference::linear(&x, &weights, None, shape);
        let best = linear(Kernels::best(), &x, Weights::F32(&weights), shape);
        assert_close(&best, &expected, 1e-5, &format!("{shape:?}"));
    }
}

#[test]
fn levels_have_names_and_unknown_ones_are_refused() {
    for level in Level::available() {
        assert_eq!(level.to_string().parse::<Level>().expect("its own name"), level);
    }
    let error = "sse9".parse::<Level>().expect_err("no such level");
    assert!(error.to_string().contains("\"sse9\""), "{error}");
    assert_eq!(Kernels::best().level(), Level::best());
}

#[test]
#[should_panic(expected = "bug: length of the weight")]
fn a_weight_of_the_wrong_size_is_called_a_bug() {
    let shape = LinearShape { rows: 1, in_features: 4, out_features: 4 };
    linear(Kernels::best(), &[0.0; 4], Weights::F32(&[0.0; 15]), shape);
}

#[test]
#[should_panic(expected = "bug: spans do not cover the rows in order")]
fn spans_with_a_gap_are_called_a_bug() {
    let attention = Attention::new(shape(1, 1, 16), 16, &[4]);
    let (q, mut spans) = attention.batch(&[0..4]);
    spans[0].rows = 1..4;
    let mut out = vec![0.0; q.len()];
    Kernels::best().paged_attention(&q, attention.kv(), &spans, attention.shape, &mut out);
}

/// What [`PairProducts`] and [`Rounding`] try at one level.
struct PairProducts<'a> {
    a: &'a [bf16; 32],
    b: &'a [bf16; 32],
    c: &'a [f32; 16],
}

impl simd::Task for PairProducts<'_> {
    type Output = [[f32; 16]; 2];

    #[inline(always)]
    fn run<S: simd::Simd>(self, simd: S) -> [[f32; 16]; 2] {
        let (a, c) = (simd.load_pairs(self.a), simd.load(self.c));
        let first = simd.splat_pair([self.b[0], self.b[1]]);
        let mut out = [[0.0; 16]; 2];
        simd.store(simd.dot_pairs(a, simd.load_pairs(self.b), c), &mut out[0]);
        simd.store(simd.dot_pairs(a, first, c), &mut out[1]);
        out
    }
}

struct Rounding<'a>(&'a [f32; 16]);

impl simd::Task for Rounding<'_> {
    type Output = [bf16; 16];

    #[inline(always)]
    fn run<S: simd::Simd>(self, simd: S) -> [bf16; 16] {
        let mut out = [bf16::ZERO; 16];
        simd.store_bf16(simd.load(self.0), &mut out);
        out
    }
}

/// A normal number: subnormal ones are left to the level.
fn normal() -> impl Strategy<Value = f32> {
    (prop::num::f32::POSITIVE | prop::num::f32::NEGATIVE)
        .prop_filter("ordinary exponents", |x| (1e-15..1e15).contains(&x.abs()))
}

proptest! {
    #[test]
    fn pairs_are_multiplied_and_rounded_alike_at_every_level(
        a in prop::array::uniform32(normal().prop_map(bf16::from_f32)),
        b in prop::array::uniform32(normal().prop_map(bf16::from_f32)),
        c in prop::array::uniform16(normal()),
    ) {
        for kernels in levels() {
            let [products, first] = kernels.run(PairProducts { a: &a, b: &b, c: &c });
            let wide = |x: bf16| x.to_f32();
            for lane in 0..16 {
                let [a, next_a] = [wide(a[2 * lane]), wide(a[2 * lane + 1])];
                let product = |b: bf16, next_b: bf16| {
                    a.mul_add(wide(b), next_a.mul_add(wide(next_b), c[lane]))
                };
                let expected = product(b[2 * lane], b[2 * lane + 1]);
                prop_assert_eq!(products[lane].to_bits(), expected.to_bits());
                prop_assert_eq!(first[lane].to_bits(), product(b[0], b[1]).to_bits());
            }
            let rounded = kernels.run(Rounding(&c));
            prop_assert_eq!(rounded, c.map(bf16::from_f32));
        }
    }
}

#[test]
fn what_is_not_finite_survives_rounding() {
    let mut values = [f32::NAN; 16];
    values[1] = f32::from_bits(0x7FFF_FFFF);
    values[2] = -f32::NAN;
    values[3] = f32::INFINITY;
    values[4] = f32::NEG_INFINITY;
    values[5] = f32::MAX;
    for kernels in levels() {
        let rounded = kernels.run(Rounding(&values)).map(bf16::to_f32);
        for (value, rounded) in values.iter().zip(rounded) {
            let expected = bf16::from_f32(*value).to_f32();
            assert!(rounded.is_nan() && value.is_nan() || rounded == expected, "{value}");
        }
    }
}

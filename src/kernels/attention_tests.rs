//! Attention: fast against naive, alone against in a batch, in chunks against whole, level against
//! level; with pools of both types.

// A batch of one sequence is a list of one range of tokens.
#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;

use half::bf16;
use proptest::prelude::*;

use super::tests::{assert_bits, assert_close, levels, random};
use super::*;

const MAX_POSITIONS: usize = 600;

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    F32,
    Bf16,
}

const BOTH: [Held; 2] = [Held::F32, Held::Bf16];

/// A small pool with scattered blocks, and what is needed to attend to it.
struct Attention {
    shape: AttentionShape,
    block_size: usize,
    held: Held,
    /// Keys and values in the one type or the other.
    f32: [Vec<f32>; 2],
    bf16: [Vec<bf16>; 2],
    /// One table a sequence; tables do not overlap.
    tables: Vec<Vec<u32>>,
    contexts: Vec<usize>,
    /// Queries, keys and values of every token of every sequence.
    rows: Vec<[Vec<f32>; 3]>,
    angles: Option<[Vec<f32>; 2]>,
}

impl Attention {
    fn new(shape: AttentionShape, block_size: usize, held: Held, contexts: &[usize]) -> Self {
        let blocks: Vec<usize> = contexts.iter().map(|c| c.div_ceil(block_size)).collect();
        let num_blocks = blocks.iter().sum::<usize>() as u32;
        // Any order that is not the identity will do: 17 has no common factor with the count.
        let step = [17, 19].into_iter().find(|step| !num_blocks.is_multiple_of(*step));
        let mut ids = (0..num_blocks).map(|i| i * step.expect("one of them") % num_blocks);
        let tables = blocks.iter().map(|n| ids.by_ref().take(*n).collect()).collect();
        let (kv, q) = (shape.num_kv_heads * shape.head_dim, shape.num_heads * shape.head_dim);
        let rows = contexts.iter().enumerate().map(|(i, context)| {
            [q, kv, kv].map(|width| random(context * width, (20 + 7 * i + width) as u64))
        });
        let even = shape.head_dim.is_multiple_of(2);
        let angles = || [17, 18].map(|seed| random(MAX_POSITIONS * shape.head_dim / 2, seed));
        // Odd numbers of tokens and dimensions are rounded up; the rest of the pool is spare.
        let len =
            num_blocks as usize * (block_size + 1) * shape.num_kv_heads * (shape.head_dim + 1);
        let mut attention = Self {
            shape,
            block_size,
            held,
            // What lies behind a context's end must not matter.
            f32: [const { f32::NAN }; 2].map(|x| vec![x; if held == Held::F32 { len } else { 0 }]),
            bf16: [bf16::NAN; 2].map(|x| vec![x; if held == Held::Bf16 { len } else { 0 }]),
            tables,
            contexts: contexts.to_vec(),
            rows: rows.collect(),
            angles: even.then(angles),
        };
        for i in 0..contexts.len() {
            attention.write(Kernels::best(), i);
        }
        attention
    }

    fn rotation<'a>(&'a self, positions: &'a [u32]) -> Option<Rotation<'a>> {
        let [cos, sin] = self.angles.as_ref()?;
        let tables = RotaryTables { cos, sin, head_dim: self.shape.head_dim };
        Some(Rotation { tables, positions })
    }

    /// One sequence's keys and values, the last token first.
    fn write(&mut self, kernels: Kernels, sequence: usize) {
        let width = self.shape.num_kv_heads * self.shape.head_dim;
        let (table, context) = (&self.tables[sequence], self.contexts[sequence]);
        let positions: Vec<u32> = (0..context as u32).rev().collect();
        let slot = |t: &u32| {
            let (block, offset) = (*t as usize / self.block_size, *t as usize % self.block_size);
            table[block] * self.block_size as u32 + offset as u32
        };
        let slots: Vec<u32> = positions.iter().map(slot).collect();
        let reversed = |i: usize| -> Vec<f32> {
            self.rows[sequence][i].chunks(width).rev().flatten().copied().collect()
        };
        let (keys, values) = (reversed(1), reversed(2));
        let angles = self.angles.clone();
        let rotation = angles.as_ref().map(|[cos, sin]| Rotation {
            tables: RotaryTables { cos, sin, head_dim: self.shape.head_dim },
            positions: &positions,
        });
        let new =
            NewKv { keys: Rows::new(&keys, width), values: Rows::new(&values, width), rotation };
        let slots = SlotMapping::new(&slots, self.block_size);
        let block_size = self.block_size;
        let pool = match self.held {
            Held::F32 => {
                let [keys, values] = &mut self.f32;
                PagedKvMut::F32(PoolMut { keys, values, block_size })
            }
            Held::Bf16 => {
                let [keys, values] = &mut self.bf16;
                PagedKvMut::Bf16(PoolMut { keys, values, block_size })
            }
        };
        kernels.write_kv(new, &slots, pool, self.shape);
    }

    fn kv(&self) -> PagedKv<'_> {
        let block_size = self.block_size;
        match self.held {
            Held::F32 => {
                PagedKv::F32(Pool { keys: &self.f32[0], values: &self.f32[1], block_size })
            }
            Held::Bf16 => {
                PagedKv::Bf16(Pool { keys: &self.bf16[0], values: &self.bf16[1], block_size })
            }
        }
    }

    /// The tokens `chunks[i]` of each sequence `i`, in one batch: queries, positions and spans.
    fn batch(&self, chunks: &[Range<usize>]) -> (Vec<f32>, Vec<u32>, Vec<AttentionSpan<'_>>) {
        let width = self.shape.num_heads * self.shape.head_dim;
        let (mut q, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (i, chunk) in chunks.iter().enumerate() {
            let start = positions.len();
            q.extend_from_slice(&self.rows[i][0][chunk.start * width..chunk.end * width]);
            positions.extend(chunk.clone().map(|position| position as u32));
            spans.push(AttentionSpan {
                rows: start..start + chunk.len(),
                context_len: chunk.end,
                block_table: &self.tables[i],
            });
        }
        (q, positions, spans)
    }

    fn run(&self, kernels: Kernels, chunks: &[Range<usize>]) -> Vec<f32> {
        let (q, positions, spans) = self.batch(chunks);
        let width = self.shape.num_heads * self.shape.head_dim;
        let queries = Queries { rows: Rows::new(&q, width), rotation: self.rotation(&positions) };
        let mut out = vec![f32::NAN; q.len()];
        kernels.paged_attention(queries, self.kv(), &spans, self.shape, &mut out);
        out
    }

    fn expected(&self, chunks: &[Range<usize>]) -> Vec<f32> {
        let (mut q, positions, spans) = self.batch(chunks);
        if let Some(rotation) = self.rotation(&positions) {
            q = reference::rotary(&q, rotation);
        }
        reference::paged_attention(&q, self.kv(), &spans, self.shape)
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

    /// How far from the naive result: with bfloat16, queries and weights are rounded too.
    fn tolerance(&self) -> f32 {
        if self.held == Held::F32 { 5e-6 } else { 2e-2 }
    }
}

fn shape(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
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
        (shape(7, 1, 1), 16),
        (shape(5, 1, 48), 16),
    ] {
        for held in BOTH {
            let attention = Attention::new(shape, block_size, held, &[175, 1, 33, 300]);
            let chunks = [40..175, 0..1, 31..33, 299..300];
            let expected = attention.expected(&chunks);
            let best = attention.run(Kernels::best(), &chunks);
            for kernels in levels() {
                let out = attention.run(kernels, &chunks);
                let what = format!("{shape:?} {held:?} {kernels:?}");
                assert_close(&out, &expected, attention.tolerance(), &what);
                assert_bits(&out, &best, &what);
            }
        }
    }
}

#[test]
fn rounding_to_bfloat16_costs_little() {
    let contexts = [512];
    let [exact, rounded] = BOTH.map(|held| {
        Attention::new(shape(9, 3, 64), 16, held, &contexts).run(Kernels::best(), &[0..512])
    });
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    let error = norm(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b));
    let size = norm(&mut exact.iter().copied());
    assert!(error < 4e-3 * size, "{error} of {size}");
}

#[test]
fn what_is_written_is_the_same_at_every_level_and_on_any_threads() {
    for held in BOTH {
        for (shape, block_size) in
            [(shape(4, 4, 64), 16), (shape(2, 2, 18), 5), (shape(1, 1, 3), 2)]
        {
            let mut attention = Attention::new(shape, block_size, held, &[301]);
            let bits = |attention: &Attention| {
                let f32 = attention.f32.iter().flatten().map(|x| x.to_bits());
                let bf16 = attention.bf16.iter().flatten().map(|x| u32::from(x.to_bits()));
                f32.chain(bf16).collect::<Vec<_>>()
            };
            let expected = bits(&attention);
            for kernels in levels() {
                for threads in [1, 3] {
                    attention.f32.poison(f32::NAN);
                    attention.bf16.poison(bf16::NAN);
                    let threads = threads.try_into().expect("some");
                    attention.write(kernels.on_threads(threads), 0);
                    assert!(bits(&attention) == expected, "{held:?} {shape:?} {kernels:?}");
                }
            }
        }
    }
}

/// Overwrites every element.
trait Poison<E> {
    fn poison(&mut self, with: E);
}

impl<E: Copy> Poison<E> for [Vec<E>; 2] {
    fn poison(&mut self, with: E) {
        self.iter_mut().for_each(|pool| pool.fill(with));
    }
}

/// Where each element of a pool should be, written down from the layout's description: `None` for
/// what is not written at all.
fn expected_pool(attention: &Attention) -> [Vec<Option<f32>>; 2] {
    let Attention { shape, block_size, held, .. } = attention;
    let AttentionShape { num_kv_heads, head_dim, .. } = *shape;
    let len = attention.f32[0].len().max(attention.bf16[0].len());
    let mut pools = [vec![None; len], vec![None; len]];
    for (table, (context, rows)) in
        attention.tables.iter().zip(attention.contexts.iter().zip(&attention.rows))
    {
        for (token, head, dim) in (0..*context).flat_map(|token| {
            (0..num_kv_heads).flat_map(move |head| (0..head_dim).map(move |dim| (token, head, dim)))
        }) {
            let at = |rows: &[f32], dim| rows[(token * num_kv_heads + head) * head_dim + dim];
            let half = head_dim / 2;
            let key = attention.angles.as_ref().map_or(at(&rows[1], dim), |[cos, sin]| {
                let angle = token * half + dim % half;
                let other = at(&rows[1], (dim + half) % head_dim) * sin[angle];
                at(&rows[1], dim) * cos[angle] + if dim < half { -other } else { other }
            });
            let value = at(&rows[2], dim);
            let (block, offset) = (table[token / block_size] as usize, token % block_size);
            if *held == Held::F32 {
                let place = ((block * block_size + offset) * num_kv_heads + head) * head_dim + dim;
                (pools[0][place], pools[1][place]) = (Some(key), Some(value));
                continue;
            }
            let keys = (block * num_kv_heads + head) * head_dim.next_multiple_of(2) * block_size;
            let pair = keys + 2 * (dim / 2 * block_size + offset);
            pools[0][pair + dim % 2] = Some(bf16::from_f32(key).to_f32());
            if dim + 1 == head_dim && dim % 2 == 0 {
                // The partner of a last odd dimension.
                pools[0][pair + 1] = Some(0.0);
            }
            let values = (block * num_kv_heads + head) * block_size.next_multiple_of(2) * head_dim;
            let pair = values + 2 * (offset / 2 * head_dim + dim);
            pools[1][pair + offset % 2] = Some(bf16::from_f32(value).to_f32());
        }
    }
    pools
}

#[test]
fn keys_and_values_lie_where_the_layout_says_and_nowhere_else() {
    for held in BOTH {
        for (heads, head_dim, block_size) in [(3, 64, 16), (2, 6, 5), (1, 7, 3), (2, 33, 1)] {
            let attention =
                Attention::new(shape(heads, heads, head_dim), block_size, held, &[37, 1, 18]);
            let wide =
                attention.bf16.each_ref().map(|pool| pool.iter().map(|x| x.to_f32()).collect());
            let found: &[Vec<f32>; 2] = if held == Held::F32 { &attention.f32 } else { &wide };
            for (found, expected) in found.iter().zip(expected_pool(&attention)) {
                for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let right = expected.map_or(found.is_nan(), |expected| *found == expected);
                    assert!(
                        right,
                        "{held:?} {head_dim} {block_size}: {found} at {place}, not {expected:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_may_be_columns_of_wider_rows() {
    for held in BOTH {
        let attention = Attention::new(shape(4, 2, 16), 16, held, &[40]);
        let (q, positions, spans) = attention.batch(&[10..40]);
        let wide: Vec<f32> = q
            .chunks(64)
            .flat_map(|row| [&[f32::NAN; 5][..], row, &[f32::NAN; 31]].concat())
            .collect();
        let rows = Rows::new(&wide[5..], 100);
        let mut out = vec![0.0; q.len()];
        let queries = Queries { rows, rotation: attention.rotation(&positions) };
        let kernels = Kernels::best();
        kernels.paged_attention(queries, attention.kv(), &spans, attention.shape, &mut out);
        assert_bits(&out, &attention.run(kernels, &[10..40]), "in wider rows");
    }
}

#[test]
fn one_query_over_large_scores_is_still_a_mean() {
    let shape = AttentionShape { scale: 300.0, ..shape(2, 1, 32) };
    let attention = Attention::new(shape, 16, Held::F32, &[200]);
    let expected = attention.expected(&[0..200]);
    let out = attention.run(Kernels::best(), &[0..200]);
    assert_close(&out, &expected, 5e-4, "scores of hundreds");
}

#[test]
fn a_long_context_is_the_same_on_any_number_of_threads() {
    for held in BOTH {
        let attention = Attention::new(shape(6, 2, 64), 16, held, &[600, 40]);
        let chunks = [599..600, 0..40];
        let expected = attention.run(Kernels::best(), &chunks);
        assert_close(&expected, &attention.expected(&chunks), attention.tolerance(), "naive");
        for threads in [1, 2, 7] {
            let kernels = Kernels::best().on_threads(threads.try_into().expect("some"));
            assert_bits(&attention.run(kernels, &chunks), &expected, &format!("{threads} threads"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_chunking_gives_what_one_by_one_gives(
        cuts in prop::collection::vec(0_usize..=280, 0..6),
        other in 0_usize..=50,
        geometry in prop::sample::select(vec![(6, 2, 64, 16), (3, 3, 24, 5), (5, 1, 80, 16)]),
        held in prop::sample::select(BOTH.to_vec()),
    ) {
        let (heads, kv_heads, head_dim, block_size) = geometry;
        let contexts = [280, 50];
        let attention = Attention::new(shape(heads, kv_heads, head_dim), block_size, held, &contexts);
        let mut cuts = cuts;
        cuts.extend([0, 280]);
        cuts.sort_unstable();
        let mut out = Vec::new();
        for pair in cuts.windows(2) {
            // The other sequence rides along; its rows lie behind.
            let both = attention.run(Kernels::best(), &[pair[0]..pair[1], other..50]);
            out.extend_from_slice(&both[..(pair[1] - pair[0]) * heads * head_dim]);
        }
        assert_bits(&out, &attention.one_by_one(0), &format!("cuts {cuts:?}"));
    }

    #[test]
    fn any_shape_of_attention_is_the_naive_one(
        head_dim in 1_usize..=128,
        group in 1_usize..=9,
        kv_heads in 1_usize..=3,
        block_size in 1_usize..=32,
        context in 1_usize..=300,
        rows in 1_usize..=40,
        held in prop::sample::select(BOTH.to_vec()),
    ) {
        let shape = shape(group * kv_heads, kv_heads, head_dim);
        let attention = Attention::new(shape, block_size, held, &[context]);
        let chunks = [context - rows.min(context)..context];
        let expected = attention.expected(&chunks);
        let out = attention.run(Kernels::best(), &chunks);
        assert_close(&out, &expected, attention.tolerance(), &format!("{shape:?}"));
    }
}

#[test]
#[should_panic(expected = "bug: spans do not cover the rows in order")]
fn spans_with_a_gap_are_called_a_bug() {
    let attention = Attention::new(shape(1, 1, 16), 16, Held::F32, &[4]);
    let (q, _, mut spans) = attention.batch(&[0..4]);
    spans[0].rows = 1..4;
    let mut out = vec![0.0; q.len()];
    let queries = Queries { rows: Rows::new(&q, 16), rotation: None };
    Kernels::best().paged_attention(queries, attention.kv(), &spans, attention.shape, &mut out);
}

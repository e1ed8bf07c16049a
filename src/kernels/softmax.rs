//! A softmax over one range of keys, for a few queries at once.

use super::attention_tile::Workspace;
use super::paged_kv::{KvElement, Pool};
use super::scratch::Place;
use super::simd::{LANES, Lanes, Simd, exp};

/// Keys over which a softmax is taken at once.
pub(super) const RANGE: usize = 128;

/// Most queries whose scores are computed together.
pub(super) const MAX_QUERIES: usize = 6;

/// Scores of one query, or what they turn into: the weights of the values.
pub(super) type Scores = [f32; RANGE];

/// The keys of one range and key head.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyRange<'a> {
    pub block_table: &'a [u32],
    pub kv_head: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// The first key.
    pub start: usize,
    /// Keys to be read, at most [`RANGE`].
    pub len: usize,
    /// The key head and the first key of the range that is wanted next.
    pub next_kv_head: usize,
    pub next_start: usize,
}

/// The products with keys and values of one storage type.
pub(super) trait KvProducts: KvElement + 'static {
    /// A range's keys and values, found in the pool.
    type View<'a>: Copy;
    /// Room for what must be rearranged first.
    type Buffer: Default + 'static;

    /// Where a thread keeps what it works with.
    fn workspace() -> &'static Place<Workspace<Self>>;

    /// Elements of a prepared query.
    fn query_len(head_dim: usize) -> usize;

    /// A query, rotated and scaled, as the products take it.
    fn prepare<S: Simd>(simd: S, query: &[f32], out: &mut [Self]);

    fn view<'a>(
        pool: Pool<'a, Self>,
        range: KeyRange<'a>,
        buffer: &'a mut Self::Buffer,
    ) -> Self::View<'a>;

    /// Scores of the first `seen` keys; what is in the others is unspecified.
    fn scores<S: Simd, const R: usize>(
        simd: S,
        queries: [&[Self]; R],
        view: Self::View<'_>,
        seen: usize,
        out: &mut [Scores; R],
    );

    /// The first `seen` values, weighted and summed; each query's sum fills the first lanes of its
    /// part of `out`.
    fn weigh<S: Simd, const R: usize>(
        simd: S,
        weights: &[Scores; R],
        view: Self::View<'_>,
        seen: usize,
        out: &mut [Lanes],
    );
}

/// Turns the first `seen` scores into `e^(score - max)` and the rest into zeros; gives the maximum
/// and the sum.
#[inline(always)]
pub(super) fn soften<S: Simd>(simd: S, scores: &mut Scores, seen: usize) -> (f32, f32) {
    let used = seen.next_multiple_of(LANES);
    scores[seen..used].fill(f32::NEG_INFINITY);
    let (vectors, _) = scores[..used].as_chunks_mut::<LANES>();
    let mut highest = simd.splat(f32::NEG_INFINITY);
    for scores in &*vectors {
        highest = simd.max(highest, simd.load(scores));
    }
    let mut lanes = [0.0; LANES];
    simd.store(highest, &mut lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (lanes[i], lanes[i + width]);
            lanes[i] = if a > b { a } else { b };
        }
        width /= 2;
    }
    let max = lanes[0];
    let shift = simd.splat(max);
    for scores in &mut *vectors {
        let weights = exp(simd, simd.sub(simd.load(scores), shift));
        simd.store(weights, scores);
    }
    scores[seen..].fill(0.0);
    let mut sum = simd.splat(0.0);
    for weights in scores[..used].as_chunks::<LANES>().0 {
        sum = simd.add(sum, simd.load(weights));
    }
    (max, simd.sum(sum))
}

/// Takes a range's maximum, sum and weighted values into those of the ranges before it. Each is
/// lanes of values, and behind them one with the maximum and the sum.
#[inline(always)]
pub(super) fn combine<S: Simd>(simd: S, state: &mut [Lanes], partial: &[Lanes]) {
    let (Some((head, values)), Some((new_head, new_values))) =
        (state.split_last_mut(), partial.split_last())
    else {
        return;
    };
    let (max, new_max) = (head.0[0], new_head.0[0]);
    let highest = if max > new_max { max } else { new_max };
    let mut shrink = [0.0; LANES];
    shrink[0] = max - highest;
    shrink[1] = new_max - highest;
    let factors = exp(simd, simd.load(&shrink));
    simd.store(factors, &mut shrink);
    let (old, new) = (simd.splat(shrink[0]), simd.splat(shrink[1]));
    for (value, new_value) in values.iter_mut().zip(new_values) {
        let kept = simd.mul(simd.load(&value.0), old);
        simd.store(simd.mul_add(simd.load(&new_value.0), new, kept), &mut value.0);
    }
    head.0[0] = highest;
    head.0[1] = new_head.0[1].mul_add(shrink[1], head.0[1] * shrink[0]);
}

//! The inside of [`super::attention`]: some rows of one sequence against one key head.

use super::attention::{AttentionShape, PagedKv};
use super::direct::dot_tile;
use super::simd::{LANES, Lanes, Simd, Task, exp, load_padded};

/// Keys between two adjustments of the running softmax.
const KEY_BLOCK: usize = 32;
const SCORE_VECTORS: usize = KEY_BLOCK / LANES;

/// Rows of one sequence and the query heads of one key head.
pub(super) struct Tile<'a, 'o> {
    pub q: &'a [f32],
    pub kv: PagedKv<'a>,
    pub shape: AttentionShape,
    pub block_table: &'a [u32],
    pub kv_head: usize,
    /// The tile's first row in the batch.
    pub first_row: usize,
    /// Keys that this row sees; each further row sees one more.
    pub first_visible: usize,
    /// For each row, the outputs of this key head's queries.
    pub out: Vec<&'o mut [f32]>,
}

/// The running softmax of the tile's queries; query `i` is head `i % group` of row `i / group`.
struct State {
    /// The largest score so far.
    max: Vec<f32>,
    /// The sum of `e^(score - max)`.
    sum: Vec<f32>,
    /// The sum of values so weighted, `vectors` of them per query.
    weighted: Vec<Lanes>,
    vectors: usize,
}

/// The keys and values of one block, by token.
struct KeyBlock<'a> {
    keys: [&'a [f32]; KEY_BLOCK],
    values: [&'a [f32]; KEY_BLOCK],
}

impl Task for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let group = self.shape.group();
        let queries = self.out.len() * group;
        let vectors = self.shape.head_dim.div_ceil(LANES);
        let mut state = State {
            max: vec![f32::NEG_INFINITY; queries],
            sum: vec![0.0; queries],
            weighted: vec![Lanes::ZERO; queries * vectors],
            vectors,
        };
        let step = if S::REGISTERS >= 32 { 4 } else { 2 };
        let context = self.first_visible + self.out.len() - 1;
        for start in (0..context).step_by(KEY_BLOCK) {
            let block = self.key_block(start, context);
            // How many of the block's keys a query sees.
            let visible = |query: usize| {
                (self.first_visible + query / group).saturating_sub(start).min(KEY_BLOCK)
            };
            let mut query = 0;
            while query < queries {
                let seen = visible(query);
                let alike = (query + 1..queries.min(query + step))
                    .take_while(|next| visible(*next) == seen)
                    .count();
                match alike + 1 {
                    1 => self.update::<S, 1>(simd, &block, query, seen, &mut state),
                    2 => self.update::<S, 2>(simd, &block, query, seen, &mut state),
                    3 => self.update::<S, 3>(simd, &block, query, seen, &mut state),
                    _ => self.update::<S, 4>(simd, &block, query, seen, &mut state),
                }
                query += alike + 1;
            }
        }
        self.finish(&state);
    }
}

impl<'a> Tile<'a, '_> {
    fn query(&self, index: usize) -> &'a [f32] {
        let group = self.shape.group();
        let row = self.first_row + index / group;
        let head = self.kv_head * group + index % group;
        &self.q[row * self.shape.query_width() + head * self.shape.head_dim..]
            [..self.shape.head_dim]
    }

    fn key_block(&self, start: usize, context: usize) -> KeyBlock<'a> {
        let mut block = KeyBlock { keys: [&[]; KEY_BLOCK], values: [&[]; KEY_BLOCK] };
        let head_dim = self.shape.head_dim;
        for (i, token) in (start..context.min(start + KEY_BLOCK)).enumerate() {
            let id = self.block_table[token / self.kv.block_size] as usize;
            let slot = id * self.kv.block_size + token % self.kv.block_size;
            let place = slot * self.shape.kv_width() + self.kv_head * head_dim;
            block.keys[i] = &self.kv.keys[place..][..head_dim];
            block.values[i] = &self.kv.values[place..][..head_dim];
        }
        block
    }

    /// Lets queries `first .. first + R` see the first `seen` keys of a block.
    #[inline(always)]
    fn update<S: Simd, const R: usize>(
        &self,
        simd: S,
        block: &KeyBlock<'_>,
        first: usize,
        seen: usize,
        state: &mut State,
    ) {
        if seen == 0 {
            return;
        }
        let mut queries = [&[] as &[f32]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            *query = self.query(first + r);
        }
        let mut weights = scores(simd, queries, &block.keys[..seen]);
        for (r, weights) in weights.iter_mut().enumerate() {
            let query = first + r;
            let (max, sum) = (&mut state.max[query], &mut state.sum[query]);
            let shrink = soften(simd, weights, self.shape.scale, (max, sum), seen);
            if shrink != 1.0 {
                let shrink = simd.splat(shrink);
                for lanes in &mut state.weighted[query * state.vectors..][..state.vectors] {
                    simd.store(simd.mul(simd.load(&lanes.0), shrink), &mut lanes.0);
                }
            }
        }
        let weighted = &mut state.weighted[first * state.vectors..][..R * state.vectors];
        add_values(simd, &weights, &block.values[..seen], weighted);
    }

    fn finish(self, state: &State) {
        let head_dim = self.shape.head_dim;
        let outs = self.out.into_iter().flat_map(|row| row.chunks_exact_mut(head_dim));
        for ((out, sum), weighted) in
            outs.zip(&state.sum).zip(state.weighted.chunks_exact(state.vectors))
        {
            let weighted = weighted.iter().flat_map(|lanes| &lanes.0);
            for (out, weighted) in out.iter_mut().zip(weighted) {
                *out = weighted / sum;
            }
        }
    }
}

/// Scores of each query, minus infinity where there is no key.
#[inline(always)]
fn scores<S: Simd, const R: usize>(
    simd: S,
    queries: [&[f32]; R],
    keys: &[&[f32]],
) -> [[f32; KEY_BLOCK]; R] {
    let mut scores = [[f32::NEG_INFINITY; KEY_BLOCK]; R];
    let (quads, rest) = keys.as_chunks::<4>();
    for (i, keys) in quads.iter().enumerate() {
        let tile = dot_tile(simd, queries, *keys);
        for (scores, tile) in scores.iter_mut().zip(tile) {
            scores[4 * i..4 * i + 4].copy_from_slice(&tile);
        }
    }
    for (i, key) in rest.iter().enumerate() {
        let tile = dot_tile(simd, queries, [*key]);
        for (scores, [score]) in scores.iter_mut().zip(tile) {
            scores[4 * quads.len() + i] = score;
        }
    }
    scores
}

/// Turns scores into `e^(scale * score - max)`, zero from `seen` on; updates the running maximum
/// and sum, and gives the factor by which everything before must shrink.
#[inline(always)]
fn soften<S: Simd>(
    simd: S,
    scores: &mut [f32; KEY_BLOCK],
    scale: f32,
    (max, sum): (&mut f32, &mut f32),
    seen: usize,
) -> f32 {
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let mut scaled = [simd.splat(0.0); SCORE_VECTORS];
    let mut highest = simd.splat(*max);
    for (scaled, scores) in scaled.iter_mut().zip(&*vectors) {
        *scaled = simd.mul(simd.load(scores), simd.splat(scale));
        highest = simd.max(highest, *scaled);
    }
    let mut lanes = [0.0; LANES];
    simd.store(highest, &mut lanes);
    let highest = lanes.into_iter().fold(*max, |a, b| if a > b { a } else { b });
    let shift = simd.splat(highest);
    for (scaled, scores) in scaled.iter().zip(vectors) {
        simd.store(exp(simd, simd.sub(*scaled, shift)), scores);
    }
    scores[seen..].fill(0.0);
    let mut total = simd.splat(0.0);
    for weights in scores.as_chunks::<LANES>().0 {
        total = simd.add(total, simd.load(weights));
    }
    let mut shrink = [0.0; LANES];
    simd.store(exp(simd, simd.sub(simd.splat(*max), shift)), &mut shrink);
    *sum = sum.mul_add(shrink[0], simd.sum(total));
    *max = highest;
    shrink[0]
}

/// Adds the weighted values to each query's vectors, key by key.
#[inline(always)]
fn add_values<S: Simd, const R: usize>(
    simd: S,
    weights: &[[f32; KEY_BLOCK]; R],
    values: &[&[f32]],
    weighted: &mut [Lanes],
) {
    let vectors = weighted.len() / R;
    let full = values.first().map_or(0, |value| value.len() / LANES);
    let wide = if S::REGISTERS >= 32 { 4 } else { 2 };
    let mut vector = 0;
    while vector + wide <= full {
        if S::REGISTERS >= 32 {
            add_vectors::<S, R, 4>(simd, weights, values, weighted, vector);
        } else {
            add_vectors::<S, R, 2>(simd, weights, values, weighted, vector);
        }
        vector += wide;
    }
    while vector < vectors {
        add_vectors::<S, R, 1>(simd, weights, values, weighted, vector);
        vector += 1;
    }
}

/// [`add_values`] for vectors `first .. first + D` of each query.
#[inline(always)]
fn add_vectors<S: Simd, const R: usize, const D: usize>(
    simd: S,
    weights: &[[f32; KEY_BLOCK]; R],
    values: &[&[f32]],
    weighted: &mut [Lanes],
    first: usize,
) {
    let vectors = weighted.len() / R;
    let mut acc = [[simd.splat(0.0); D]; R];
    for r in 0..R {
        for d in 0..D {
            acc[r][d] = simd.load(&weighted[r * vectors + first + d].0);
        }
    }
    for (key, value) in values.iter().enumerate() {
        let (full, tail) = value[first * LANES..].as_chunks::<LANES>();
        let mut loaded = [simd.splat(0.0); D];
        for d in 0..D {
            loaded[d] = if d < full.len() { simd.load(&full[d]) } else { load_padded(simd, tail) };
        }
        for r in 0..R {
            let weight = simd.splat(weights[r][key]);
            for d in 0..D {
                acc[r][d] = simd.mul_add(weight, loaded[d], acc[r][d]);
            }
        }
    }
    for r in 0..R {
        for d in 0..D {
            simd.store(acc[r][d], &mut weighted[r * vectors + first + d].0);
        }
    }
}

//! Products with float32 keys and values: a row a token.

use super::attention_tile::Workspace;
use super::direct::dot_tile;
use super::paged_kv::Pool;
use super::scratch::{Place, place};
use super::simd::{LANES, Lanes, Simd, load_padded};
use super::softmax::{KeyRange, KvProducts, RANGE, Scores};

/// A range's tokens.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    keys: [&'a [f32]; RANGE],
    values: [&'a [f32]; RANGE],
}

impl KvProducts for f32 {
    type View<'a> = Tokens<'a>;
    type Buffer = ();

    fn workspace() -> &'static Place<Workspace<Self>> {
        place!(Workspace<f32>)
    }

    fn query_len(head_dim: usize) -> usize {
        head_dim
    }

    #[inline(always)]
    fn prepare<S: Simd>(_: S, query: &[f32], out: &mut [f32]) {
        out.copy_from_slice(query);
    }

    #[inline(always)]
    fn view<'a>(pool: Pool<'a, f32>, range: KeyRange<'a>, (): &'a mut ()) -> Tokens<'a> {
        let mut tokens = Tokens { keys: [&[]; RANGE], values: [&[]; RANGE] };
        for i in 0..range.len {
            let token = range.start + i;
            let block = range.block_table[token / pool.block_size] as usize;
            let slot = block * pool.block_size + token % pool.block_size;
            let place = (slot * range.num_kv_heads + range.kv_head) * range.head_dim;
            tokens.keys[i] = &pool.keys[place..][..range.head_dim];
            tokens.values[i] = &pool.values[place..][..range.head_dim];
        }
        tokens
    }

    #[inline(always)]
    fn scores<S: Simd, const R: usize>(
        simd: S,
        queries: [&[f32]; R],
        view: Tokens<'_>,
        seen: usize,
        out: &mut [Scores; R],
    ) {
        let (quads, rest) = view.keys[..seen].as_chunks::<4>();
        for (i, keys) in quads.iter().enumerate() {
            let tile = dot_tile(simd, queries, *keys);
            for (scores, tile) in out.iter_mut().zip(tile) {
                scores[4 * i..4 * i + 4].copy_from_slice(&tile);
            }
        }
        for (i, key) in rest.iter().enumerate() {
            let tile = dot_tile(simd, queries, [*key]);
            for (scores, [score]) in out.iter_mut().zip(tile) {
                scores[4 * quads.len() + i] = score;
            }
        }
    }

    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(
        simd: S,
        weights: &[Scores; R],
        view: Tokens<'_>,
        seen: usize,
        out: &mut [Lanes],
    ) {
        let values = &view.values[..seen];
        let width = values.first().map_or(0, |value| value.len());
        let (full, vectors) = (width / LANES, width.div_ceil(LANES));
        let wide = if S::REGISTERS >= 32 { 4 } else { 2 };
        let mut first = 0;
        while first < vectors {
            if first + wide > full {
                weigh_vectors::<S, R, 1>(simd, weights, values, first, out);
                first += 1;
            } else if S::REGISTERS >= 32 {
                weigh_vectors::<S, R, 4>(simd, weights, values, first, out);
                first += 4;
            } else {
                weigh_vectors::<S, R, 2>(simd, weights, values, first, out);
                first += 2;
            }
        }
    }
}

/// Vectors `first .. first + D` of each query's sum.
#[inline(always)]
fn weigh_vectors<S: Simd, const R: usize, const D: usize>(
    simd: S,
    weights: &[Scores; R],
    values: &[&[f32]],
    first: usize,
    out: &mut [Lanes],
) {
    let stride = out.len() / R;
    let mut acc = [[simd.splat(0.0); D]; R];
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
            simd.store(acc[r][d], &mut out[r * stride + first + d].0);
        }
    }
}

//! Products with bfloat16 keys and values, two neighbours at a time: see [`super::paged_kv`] for
//! how they lie.
//!
//! A range is taken as groups of sixteen tokens, of which a vector of pairs holds two dimensions
//! (keys), or as pairs of tokens, of which one holds sixteen dimensions (values). Blocks of sixteen
//! tokens with heads of full vectors are read where they lie; others are copied together first.

use half::bf16;

use super::attention_tile::Workspace;
use super::paged_kv::{Pool, pair_lens};
use super::scratch::{Place, place};
use super::simd::{LANES, Lanes, Simd, round};
use super::softmax::{KeyRange, KvProducts, RANGE, Scores};

/// Groups of tokens in a range.
const GROUPS: usize = RANGE / LANES;
/// Pairs of tokens in a group.
const TOKEN_PAIRS: usize = LANES / 2;

type PairVector = [bf16; 2 * LANES];

/// A range's tokens in groups of sixteen.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    /// A vector for each pair of dimensions.
    keys: [&'a [PairVector]; GROUPS],
    /// For each pair of tokens, the dimensions in vectors.
    values: [&'a [PairVector]; GROUPS],
    /// The keys that will be wanted next.
    next_keys: [&'a [PairVector]; GROUPS],
}

/// Groups that cannot be read where they lie.
#[derive(Default)]
pub(super) struct Copied {
    keys: Vec<PairVector>,
    values: Vec<PairVector>,
}

impl KvProducts for bf16 {
    type View<'a> = Groups<'a>;
    type Buffer = Copied;

    fn workspace() -> &'static Place<Workspace<Self>> {
        place!(Workspace<bf16>)
    }

    fn query_len(head_dim: usize) -> usize {
        head_dim.next_multiple_of(2)
    }

    #[inline(always)]
    fn prepare<S: Simd>(simd: S, query: &[f32], out: &mut [bf16]) {
        for (query, out) in query.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let rounded = round(simd, query);
            match <&mut [bf16; LANES]>::try_from(&mut *out) {
                Ok(full) => *full = rounded,
                Err(_) => out.copy_from_slice(&rounded[..out.len()]),
            }
        }
    }

    #[inline(always)]
    fn view<'a>(pool: Pool<'a, bf16>, range: KeyRange<'a>, buffer: &'a mut Copied) -> Groups<'a> {
        if pool.block_size != LANES || !range.head_dim.is_multiple_of(LANES) {
            return buffer.copy(pool, range);
        }
        let mut groups =
            Groups { keys: [&[]; GROUPS], values: [&[]; GROUPS], next_keys: [&[]; GROUPS] };
        let len = range.head_dim / 2;
        let first = range.start / LANES;
        let place = |block: u32, head: usize| (block as usize * range.num_kv_heads + head) * len;
        for i in 0..range.len.div_ceil(LANES) {
            let block = range.block_table[first + i];
            let next = range.block_table.get(range.next_start / LANES + i).unwrap_or(&block);
            let (next, place) = (place(*next, range.next_kv_head), place(block, range.kv_head));
            groups.keys[i] = &pool.keys.as_chunks().0[place..][..len];
            groups.values[i] = &pool.values.as_chunks().0[place..][..len];
            groups.next_keys[i] = &pool.keys.as_chunks().0[next..][..len];
        }
        if range.len % 2 == 1 {
            // The last token's partner is not there yet: what lies in its place must not count.
            let last = range.len / LANES;
            let start = range.len % LANES / 2 * (range.head_dim / LANES);
            buffer.values.clear();
            buffer.values.extend_from_slice(groups.values[last]);
            for pair in buffer.values[start..].as_flattened_mut().as_chunks_mut::<2>().0 {
                pair[1] = bf16::ZERO;
            }
            groups.values[last] = &buffer.values;
        }
        groups
    }

    #[inline(always)]
    fn scores<S: Simd, const R: usize>(
        simd: S,
        queries: [&[bf16]; R],
        view: Groups<'_>,
        seen: usize,
        out: &mut [Scores; R],
    ) {
        let count = seen.div_ceil(LANES);
        let mut group = 0;
        while group < count {
            let left = count - group;
            if S::REGISTERS >= 32 && left >= 4 {
                score_groups::<S, R, 4>(simd, queries, view, group, out);
                group += 4;
            } else if left >= 2 {
                score_groups::<S, R, 2>(simd, queries, view, group, out);
                group += 2;
            } else {
                score_groups::<S, R, 1>(simd, queries, view, group, out);
                group += 1;
            }
        }
    }

    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(
        simd: S,
        weights: &[Scores; R],
        view: Groups<'_>,
        seen: usize,
        out: &mut [Lanes],
    ) {
        let mut rounded = [[[bf16::ZERO; LANES]; GROUPS]; R];
        for (rounded, weights) in rounded.iter_mut().zip(weights) {
            for (rounded, weights) in rounded.iter_mut().zip(weights.as_chunks::<LANES>().0) {
                simd.store_bf16(simd.load(weights), rounded);
            }
        }
        let vectors = view.values[0].len() / TOKEN_PAIRS;
        let mut first = 0;
        while first < vectors {
            let left = vectors - first;
            if S::REGISTERS >= 32 && left >= 4 {
                weigh_vectors::<S, R, 4>(simd, &rounded, (view, seen), first, out);
                first += 4;
            } else if left >= 2 {
                weigh_vectors::<S, R, 2>(simd, &rounded, (view, seen), first, out);
                first += 2;
            } else {
                weigh_vectors::<S, R, 1>(simd, &rounded, (view, seen), first, out);
                first += 1;
            }
        }
    }
}

/// Scores of groups `first .. first + C`.
#[inline(always)]
fn score_groups<S: Simd, const R: usize, const C: usize>(
    simd: S,
    queries: [&[bf16]; R],
    view: Groups<'_>,
    first: usize,
    out: &mut [Scores; R],
) {
    let len = view.keys[first].len();
    let mut keys = [&[] as &[PairVector]; C];
    let mut values = [std::ptr::null(); C];
    for c in 0..C {
        keys[c] = &view.keys[first + c][..len];
        values[c] = view.values[first + c].as_ptr();
    }
    let mut pairs = [&[] as &[[bf16; 2]]; R];
    for r in 0..R {
        pairs[r] = &queries[r].as_chunks().0[..len];
    }
    let mut acc = [[simd.splat(0.0); C]; R];
    for i in 0..len {
        let mut loaded = [simd.splat_pair([bf16::ZERO; 2]); C];
        for c in 0..C {
            loaded[c] = simd.load_pairs(&keys[c][i]);
            // These keys' values are wanted next.
            simd.prefetch(values[c].wrapping_add(i));
        }
        for r in 0..R {
            let query = simd.splat_pair(pairs[r][i]);
            for c in 0..C {
                acc[r][c] = simd.dot_pairs(query, loaded[c], acc[r][c]);
            }
        }
    }
    for r in 0..R {
        let out = &mut out[r].as_chunks_mut::<LANES>().0[first..][..C];
        for c in 0..C {
            simd.store(acc[r][c], &mut out[c]);
        }
    }
}

/// Vectors `first .. first + D` of each query's sum of values.
#[inline(always)]
fn weigh_vectors<S: Simd, const R: usize, const D: usize>(
    simd: S,
    weights: &[[[bf16; LANES]; GROUPS]; R],
    (view, seen): (Groups<'_>, usize),
    first: usize,
    out: &mut [Lanes],
) {
    let vectors = view.values[0].len() / TOKEN_PAIRS;
    let mut acc = [[simd.splat(0.0); D]; R];
    // An index: zipping the queries' weights with the groups would hide that they run in step.
    #[allow(clippy::needless_range_loop)]
    for group in 0..seen.div_ceil(LANES) {
        let pairs = (seen - group * LANES).min(LANES).div_ceil(2);
        let rows = view.values[group].chunks_exact(vectors).take(pairs);
        for (pair, row) in rows.enumerate() {
            let row = &row[first..][..D];
            let next = view.next_keys[group].as_ptr().wrapping_add(pair * vectors + first);
            let mut loaded = [simd.splat_pair([bf16::ZERO; 2]); D];
            for d in 0..D {
                loaded[d] = simd.load_pairs(&row[d]);
                simd.prefetch(next.wrapping_add(d));
            }
            for r in 0..R {
                let weight = simd.splat_pair(weights[r][group].as_chunks::<2>().0[pair]);
                for d in 0..D {
                    acc[r][d] = simd.dot_pairs(weight, loaded[d], acc[r][d]);
                }
            }
        }
    }
    let stride = out.len() / R;
    for r in 0..R {
        for d in 0..D {
            simd.store(acc[r][d], &mut out[r * stride + first + d].0);
        }
    }
}

impl Copied {
    /// Brings a range together, with zeros wherever there is no dimension or no token.
    fn copy(&mut self, pool: Pool<'_, bf16>, range: KeyRange<'_>) -> Groups<'_> {
        let KeyRange { head_dim, num_kv_heads, .. } = range;
        let block_size = pool.block_size;
        let (key_len, value_len) = pair_lens(head_dim, block_size);
        let (dim_pairs, vectors) = (head_dim.div_ceil(2), head_dim.div_ceil(LANES));
        self.keys.clear();
        self.keys.resize(GROUPS * dim_pairs, [bf16::ZERO; 2 * LANES]);
        self.values.clear();
        self.values.resize(GROUPS * TOKEN_PAIRS * vectors, [bf16::ZERO; 2 * LANES]);
        for i in 0..range.len {
            let (group, token) = (i / LANES, range.start + i);
            let block = range.block_table[token / block_size] as usize;
            let (head, offset) = (block * num_kv_heads + range.kv_head, token % block_size);
            let key = &pool.keys[head * key_len..][..key_len];
            for pair in 0..dim_pairs {
                let from = &key[2 * (pair * block_size + offset)..][..2];
                let to = &mut self.keys[group * dim_pairs + pair];
                to[i % LANES * 2..][..2].copy_from_slice(from);
            }
            let value = &pool.values[head * value_len..][..value_len];
            let row = (group * TOKEN_PAIRS + i % LANES / 2) * vectors;
            let row = self.values[row..][..vectors].as_flattened_mut();
            for dim in 0..head_dim {
                row[2 * dim + i % 2] = value[2 * (offset / 2 * head_dim + dim) + offset % 2];
            }
        }
        let mut groups =
            Groups { keys: [&[]; GROUPS], values: [&[]; GROUPS], next_keys: [&[]; GROUPS] };
        for i in 0..GROUPS {
            groups.keys[i] = &self.keys[i * dim_pairs..][..dim_pairs];
            groups.values[i] = &self.values[i * TOKEN_PAIRS * vectors..][..TOKEN_PAIRS * vectors];
            groups.next_keys[i] = groups.keys[i];
        }
        groups
    }
}

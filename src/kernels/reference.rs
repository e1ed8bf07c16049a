//! Every kernel once more, as its formula reads, summing in float64: what the fast ones are tested
//! against. Not fast, and not for serving.

use half::bf16;

use super::{AttentionShape, AttentionSpan, LinearShape, LowRankShape, PagedKv, Rotation};

/// `x Wᵀ + bias`; see [`super::Kernels::linear`].
#[must_use]
pub fn linear(x: &[f32], weights: &[f32], bias: Option<&[f32]>, shape: LinearShape) -> Vec<f32> {
    let mut out = Vec::with_capacity(shape.rows * shape.out_features);
    for row in 0..shape.rows {
        for column in 0..shape.out_features {
            let x = &x[row * shape.in_features..][..shape.in_features];
            let weights = &weights[column * shape.in_features..][..shape.in_features];
            let bias = bias.map_or(0.0, |bias| f64::from(bias[column]));
            out.push((dot(x, weights) + bias) as f32);
        }
    }
    out
}

/// `y + (x downᵀ) upᵀ`; see [`super::Kernels::low_rank_add`].
#[must_use]
pub fn low_rank_add(
    x: &[f32],
    down: &[f32],
    up: &[f32],
    y: &[f32],
    shape: LowRankShape,
) -> Vec<f32> {
    let LowRankShape { rows, in_features, out_features, rank } = shape;
    let inner = linear(x, down, None, LinearShape { rows, in_features, out_features: rank });
    let delta = linear(&inner, up, None, LinearShape { rows, in_features: rank, out_features });
    y.iter().zip(delta).map(|(y, delta)| y + delta).collect()
}

/// See [`super::Kernels::rms_norm`].
#[must_use]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let row = |x: &[f32]| {
        let mean = dot(x, x) / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        let scaled = |(x, weight)| (f64::from(x) * scale * f64::from(weight)) as f32;
        x.iter().copied().zip(weight.iter().copied()).map(scaled).collect::<Vec<_>>()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

/// See [`super::Kernels::silu_mul`].
#[must_use]
pub fn silu_mul(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let one = |(gate, up): (&f32, &f32)| {
        let gate = f64::from(*gate);
        (gate / (1.0 + (-gate).exp()) * f64::from(*up)) as f32
    };
    gate.iter().zip(up).map(one).collect()
}

/// Every head of every row turned by its position's angles.
#[must_use]
pub fn rotary(x: &[f32], rotation: Rotation<'_>) -> Vec<f32> {
    let Rotation { tables, positions } = rotation;
    let half = tables.head_dim / 2;
    let width = x.len() / positions.len().max(1);
    let rotated = |i: usize| {
        let (row, lane) = (i / width, i % tables.head_dim);
        let angle = positions[row] as usize * half + lane % half;
        let (cos, sin) = (f64::from(tables.cos[angle]), f64::from(tables.sin[angle]));
        let (partner, sign) = if lane < half { (i + half, -1.0) } else { (i - half, 1.0) };
        (f64::from(x[i]) * cos + sign * f64::from(x[partner]) * sin) as f32
    };
    (0..x.len()).map(rotated).collect()
}

/// See [`super::Kernels::paged_attention`]; `q` is rotated already.
#[must_use]
pub fn paged_attention(
    q: &[f32],
    kv: PagedKv<'_>,
    spans: &[AttentionSpan<'_>],
    shape: AttentionShape,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(q.len());
    for span in spans {
        let entries = |kv_head| {
            let token = |t| entry(kv, shape, span.block_table, kv_head, t);
            (0..span.context_len).map(token).collect::<Vec<_>>()
        };
        let heads: Vec<_> = (0..shape.num_kv_heads).map(entries).collect();
        for (i, row) in span.rows.clone().enumerate() {
            let visible = span.context_len - span.rows.len() + i + 1;
            for head in 0..shape.num_heads {
                let q = &q[row * shape.query_width() + head * shape.head_dim..][..shape.head_dim];
                out.extend(attend(q, &heads[head / shape.group()][..visible], shape));
            }
        }
    }
    out
}

/// The key and the value of token `t` for one key head.
fn entry(
    kv: PagedKv<'_>,
    shape: AttentionShape,
    block_table: &[u32],
    kv_head: usize,
    t: usize,
) -> (Vec<f32>, Vec<f32>) {
    let width = shape.head_dim;
    match kv {
        PagedKv::F32(pool) => {
            let slot =
                block_table[t / pool.block_size] as usize * pool.block_size + t % pool.block_size;
            let start = (slot * shape.num_kv_heads + kv_head) * width;
            let part = |pool: &[f32]| pool[start..start + width].to_vec();
            (part(pool.keys), part(pool.values))
        }
        PagedKv::Bf16(pool) => {
            let (block, offset) = (block_table[t / pool.block_size], t % pool.block_size);
            let head = block as usize * shape.num_kv_heads + kv_head;
            let dim_pairs = width.div_ceil(2);
            let token_pairs = pool.block_size.div_ceil(2);
            let key = |d: usize| {
                let pair = (head * dim_pairs + d / 2) * pool.block_size + offset;
                pool.keys[2 * pair + d % 2].to_f32()
            };
            let value = |d: usize| {
                let pair = (head * token_pairs + offset / 2) * width + d;
                pool.values[2 * pair + offset % 2].to_f32()
            };
            ((0..width).map(key).collect(), (0..width).map(value).collect())
        }
    }
}

fn attend(q: &[f32], entries: &[(Vec<f32>, Vec<f32>)], shape: AttentionShape) -> Vec<f32> {
    let scale = f64::from(shape.scale);
    let scores: Vec<f64> = entries.iter().map(|(key, _)| scale * dot(q, key)).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; shape.head_dim];
    for (weight, (_, value)) in weights.iter().zip(entries) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight / total * f64::from(*value);
        }
    }
    out.into_iter().map(|out| out as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `x Wᵀ` in bfloat16 as [`super::Kernels::project`] defines it: both factors rounded, and for each
/// output one float32 sum over the pairs of features, the second of a pair first.
#[must_use]
pub fn product_bf16(x: &[f32], weight: &[bf16], in_features: usize) -> Vec<f32> {
    let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let width = in_features.max(1);
    let mut out = Vec::new();
    for row in rounded.chunks(width) {
        out.extend(weight.chunks(width).map(|weight| {
            row.chunks(2).zip(weight.chunks(2)).fold(0.0_f32, |sum, (x, w)| {
                let second = x.get(1).map_or(sum, |x| x.mul_add(w[1].to_f32(), sum));
                x[0].mul_add(w[0].to_f32(), second)
            })
        }));
    }
    out
}

/// [`product_bf16`] in the order of AMX: of every 32 features the sum over the even ones plus the sum
/// over the odd ones, each in float32.
#[must_use]
pub fn product_tiles(x: &[f32], weight: &[bf16], in_features: usize) -> Vec<f32> {
    let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let width = in_features.max(1);
    let mut out = Vec::new();
    for row in rounded.chunks(width) {
        out.extend(weight.chunks(width).map(|weight| {
            let tiles = row.chunks(32).zip(weight.chunks(32));
            tiles.fold(0.0_f32, |sum, (x, w)| {
                let every_second = |first: usize| {
                    let products = x.iter().zip(w).skip(first).step_by(2);
                    products.fold(0.0_f32, |sum, (x, w)| x.mul_add(w.to_f32(), sum))
                };
                sum + (every_second(0) + every_second(1))
            })
        }));
    }
    out
}

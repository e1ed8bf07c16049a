//! TEMPORARY naive stand-in.
#![allow(missing_docs)]
use half::{bf16, f16};
#[derive(Debug, Clone, Copy)]
pub struct Kernels;
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}
#[derive(Debug, Clone, Copy)]
pub struct LinearShape {
    pub rows: usize,
    pub in_features: usize,
    pub out_features: usize,
}
#[derive(Debug, Clone, Copy)]
pub struct LowRankShape {
    pub rows: usize,
    pub in_features: usize,
    pub rank: usize,
    pub out_features: usize,
}
#[derive(Debug, Clone)]
pub struct Span<'a> {
    pub rows: std::ops::Range<usize>,
    pub context_len: usize,
    pub block_table: &'a [u32],
}
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub block_size: usize,
}
impl Kernels {
    pub fn detect() -> Self {
        Self
    }
    pub fn linear(
        &self,
        x: &[f32],
        w: Weights<'_>,
        bias: Option<&[f32]>,
        out: &mut [f32],
        s: LinearShape,
    ) {
        let k = s.in_features;
        for r in 0..s.rows {
            for o in 0..s.out_features {
                let mut acc = 0f32;
                for i in 0..k {
                    let w = match w {
                        Weights::F32(w) => w[o * k + i],
                        Weights::Bf16(w) => w[o * k + i].to_f32(),
                        Weights::F16(w) => w[o * k + i].to_f32(),
                    };
                    acc += x[r * k + i] * w;
                }
                out[r * s.out_features + o] = acc + bias.map_or(0.0, |b| b[o]);
            }
        }
    }
    pub fn low_rank_add(
        &self,
        x: &[f32],
        down: &[f32],
        up: &[f32],
        y: &mut [f32],
        s: LowRankShape,
    ) {
        for r in 0..s.rows {
            let mid: Vec<f32> = (0..s.rank)
                .map(|j| {
                    (0..s.in_features)
                        .map(|i| x[r * s.in_features + i] * down[j * s.in_features + i])
                        .sum()
                })
                .collect();
            for o in 0..s.out_features {
                y[r * s.out_features + o] +=
                    (0..s.rank).map(|j| mid[j] * up[o * s.rank + j]).sum::<f32>();
            }
        }
    }
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (x, o) in x.chunks(weight.len()).zip(out.chunks_mut(weight.len())) {
            let ms = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
            let s = 1.0 / (ms + eps).sqrt();
            for ((o, x), w) in o.iter_mut().zip(x).zip(weight) {
                *o = x * s * w;
            }
        }
    }
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = g / (1.0 + (-g).exp()) * u;
        }
    }
    pub fn rotary(
        &self,
        x: &mut [f32],
        cos: &[f32],
        sin: &[f32],
        positions: &[u32],
        head_dim: usize,
    ) {
        let half = head_dim / 2;
        let width = x.len() / positions.len();
        for (row, p) in x.chunks_mut(width).zip(positions) {
            let p = *p as usize * half;
            for head in row.chunks_mut(head_dim) {
                for i in 0..half {
                    let (a, b, c, s) = (head[i], head[i + half], cos[p + i], sin[p + i]);
                    head[i] = a * c - b * s;
                    head[i + half] = b * c + a * s;
                }
            }
        }
    }
    pub fn write_kv(&self, pool: &mut [f32], rows: &[f32], slots: &[u32], width: usize) {
        for (r, s) in rows.chunks(width).zip(slots) {
            pool[*s as usize * width..][..width].copy_from_slice(r);
        }
    }
    pub fn paged_attention(
        &self,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        spans: &[Span<'_>],
        scale: f32,
        out: &mut [f32],
        s: AttentionShape,
    ) {
        let (w, kw, hd) = (s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim, s.head_dim);
        for span in spans {
            for (i, r) in span.rows.clone().enumerate() {
                let n = span.context_len - span.rows.len() + i + 1;
                for h in 0..s.num_heads {
                    let kvh = h / (s.num_heads / s.num_kv_heads);
                    let at = |t: usize| {
                        (span.block_table[t / s.block_size] as usize * s.block_size
                            + t % s.block_size)
                            * kw
                            + kvh * hd
                    };
                    let q = &q[r * w + h * hd..][..hd];
                    let sc: Vec<f32> = (0..n)
                        .map(|t| {
                            scale
                                * q.iter()
                                    .zip(&keys[at(t)..][..hd])
                                    .map(|(a, b)| a * b)
                                    .sum::<f32>()
                        })
                        .collect();
                    let m = sc.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                    let e: Vec<f32> = sc.iter().map(|v| (v - m).exp()).collect();
                    let z: f32 = e.iter().sum();
                    let o = &mut out[r * w + h * hd..][..hd];
                    o.fill(0.0);
                    for t in 0..n {
                        for d in 0..hd {
                            o[d] += e[t] / z * values[at(t) + d];
                        }
                    }
                }
            }
        }
    }
}

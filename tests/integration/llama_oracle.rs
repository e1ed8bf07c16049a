//! A Llama in float64, as plain as can be: the whole sequence at once, no cache, no blocks.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use sorsa::layers::rotary::RopeScaling;
use sorsa::model::config::ModelConfig;

/// Rows of numbers.
type Matrix = Vec<Vec<f64>>;

/// The model: a configuration and its tensors by Hugging Face name.
pub struct Oracle {
    config: ModelConfig,
    tensors: BTreeMap<String, Matrix>,
    /// Round the rotary frequencies to bfloat16, as casting a whole PyTorch model does.
    pub coarse_frequencies: bool,
}

impl Oracle {
    pub fn new(config: &ModelConfig, tensors: &BTreeMap<String, Tensor>) -> Self {
        let matrix = |tensor: &Tensor| -> Matrix {
            let tensor = tensor.to_dtype(DType::F64).unwrap();
            match tensor.rank() {
                1 => vec![tensor.to_vec1().unwrap()],
                _ => tensor.to_vec2().unwrap(),
            }
        };
        let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), matrix(tensor)));
        Self { config: config.clone(), tensors: tensors.collect(), coarse_frequencies: false }
    }

    /// Adds `up · down` to the weight of module `path`.
    pub fn add(&mut self, path: &str, up: &Tensor, down: &Tensor) {
        let product = up.matmul(down).unwrap().to_dtype(DType::F64).unwrap();
        let weight = self.tensors.get_mut(&format!("{path}.weight")).unwrap();
        for (row, added) in weight.iter_mut().zip(product.to_vec2::<f64>().unwrap()) {
            row.iter_mut().zip(added).for_each(|(weight, added)| *weight += added);
        }
    }

    /// The logits after each token.
    pub fn logits(&self, ids: &[u32]) -> Matrix {
        let head = if self.config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        self.linear(&self.hidden_states(ids), head)
    }

    /// What the output head reads at each token.
    pub fn hidden_states(&self, ids: &[u32]) -> Matrix {
        let table = &self.tensors["model.embed_tokens.weight"];
        let mut x: Matrix = ids.iter().map(|id| table[*id as usize].clone()).collect();
        for layer in 0..self.config.num_hidden_layers {
            let path = |name: &str| format!("model.layers.{layer}.{name}");
            let mixed =
                self.attention(&self.norm(&x, &path("input_layernorm")), &path("self_attn"));
            add(&mut x, &mixed);
            let normed = self.norm(&x, &path("post_attention_layernorm"));
            let gate = self.linear(&normed, &path("mlp.gate_proj"));
            let up = self.linear(&normed, &path("mlp.up_proj"));
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let gated = gate
                .iter()
                .zip(&up)
                .map(|(gate, up)| gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect());
            add(&mut x, &self.linear(&gated.collect(), &path("mlp.down_proj")));
        }
        self.norm(&x, "model.norm")
    }

    fn linear(&self, x: &Matrix, path: &str) -> Matrix {
        let weight = &self.tensors[&format!("{path}.weight")];
        let bias = self.tensors.get(&format!("{path}.bias")).map(|bias| &bias[0]);
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let bias = |out: usize| bias.map_or(0.0, |bias| bias[out]);
            weight.iter().enumerate().map(|(out, row)| dot(row, x) + bias(out)).collect()
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, x: &Matrix, path: &str) -> Matrix {
        let weight = &self.tensors[&format!("{path}.weight")][0];
        let row = |x: &Vec<f64>| {
            let scale = (dot(x, x) / x.len() as f64 + self.config.rms_norm_eps).sqrt();
            x.iter().zip(weight).map(|(x, weight)| x / scale * weight).collect()
        };
        x.iter().map(row).collect()
    }

    fn attention(&self, x: &Matrix, path: &str) -> Matrix {
        let (heads, width) = (self.config.num_attention_heads, self.config.head_dim);
        let group = heads / self.config.num_key_value_heads;
        let mut q = self.linear(x, &format!("{path}.q_proj"));
        let mut k = self.linear(x, &format!("{path}.k_proj"));
        let v = self.linear(x, &format!("{path}.v_proj"));
        self.rotate(&mut q);
        self.rotate(&mut k);
        let mut mixed = vec![vec![0.0; heads * width]; x.len()];
        for row in 0..x.len() {
            for head in 0..heads {
                let of = |head: usize| head * width..(head + 1) * width;
                let (own, shared) = (of(head), of(head / group));
                let score = |k: &Vec<f64>| dot(&q[row][own.clone()], &k[shared.clone()]);
                let scores = k[..=row].iter().map(|k| (score(k) / (width as f64).sqrt()).exp());
                let scores: Vec<f64> = scores.collect();
                let total: f64 = scores.iter().sum();
                for (score, v) in scores.iter().zip(&v) {
                    let out = mixed[row][own.clone()].iter_mut().zip(&v[shared.clone()]);
                    out.for_each(|(out, v)| *out += score / total * v);
                }
            }
        }
        self.linear(&mixed, &format!("{path}.o_proj"))
    }

    fn rotate(&self, x: &mut Matrix) {
        let width = self.config.head_dim;
        for (position, row) in x.iter_mut().enumerate() {
            for head in row.chunks_mut(width) {
                for i in 0..width / 2 {
                    let (sin, cos) = (position as f64 * self.frequency(i)).sin_cos();
                    let (a, b) = (head[i], head[i + width / 2]);
                    head[i] = a * cos - b * sin;
                    head[i + width / 2] = b * cos + a * sin;
                }
            }
        }
    }

    fn frequency(&self, i: usize) -> f64 {
        let exact = self.exact_frequency(i);
        if self.coarse_frequencies { half::bf16::from_f64(exact).to_f64() } else { exact }
    }

    fn exact_frequency(&self, i: usize) -> f64 {
        let exponent = 2.0 * i as f64 / self.config.head_dim as f64;
        let plain = 1.0 / self.config.rope_theta.powf(exponent);
        match self.config.rope_scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                let wavelength = 2.0 * std::f64::consts::PI / plain;
                if wavelength < context / high {
                    plain
                } else if wavelength > context / low {
                    plain / factor
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut Matrix, y: &Matrix) {
    for (x, y) in x.iter_mut().zip(y) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

//! The base model: configuration, tokenizer and weights.

use std::path::Path;

use anyhow::{Context, ensure};
use half::bf16;
use serde_json::json;

use super::shape::Shape;
use super::tensor_file::{self, Planned, Type, Values};
use super::values::Stream;
use super::{create_dir, tokenizer, write_json};

/// The deviation of every weight: that of an untrained model, at which activations stay finite.
pub const DEVIATION: f32 = 0.02;

/// A random model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// How large it is.
    pub shape: Shape,
    /// Which one of that size.
    pub seed: u64,
}

impl Model {
    /// A rank that every module has room for.
    ///
    /// # Errors
    /// Where `text` is none.
    pub fn rank(&self, text: &str) -> anyhow::Result<usize> {
        let rank: usize = text.parse().with_context(|| format!("no rank: {text:?}"))?;
        let most = self.shape.linears().into_iter().flat_map(|(_, dims)| dims).min().unwrap_or(0);
        ensure!((1..most).contains(&rank), "a rank of {rank}: 1 to {} fit", most.saturating_sub(1));
        Ok(rank)
    }

    /// The linear modules that adapters are on, with their rows and columns.
    pub fn modules(&self) -> Vec<(String, [usize; 2])> {
        let linears = self.shape.linears();
        let layer = |i| linears.map(|(module, dims)| (format!("model.layers.{i}.{module}"), dims));
        (0..self.shape.layers).flat_map(layer).collect()
    }

    /// Every tensor.
    pub fn tensors(&self) -> Vec<Planned> {
        let Shape { hidden, layers, vocab, tied, .. } = self.shape;
        let planned = |name: String, shape: Vec<usize>| Planned { name, shape, dtype: Type::Bf16 };
        let mut all: Vec<Planned> = self
            .modules()
            .into_iter()
            .map(|(module, dims)| planned(format!("{module}.weight"), dims.to_vec()))
            .collect();
        for layer in 0..layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                all.push(planned(format!("model.layers.{layer}.{norm}.weight"), vec![hidden]));
            }
        }
        all.push(planned("model.norm.weight".to_owned(), vec![hidden]));
        all.push(planned("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]));
        if !tied {
            all.push(planned("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
        all
    }

    /// The values of one of them: ones for a norm, else random.
    pub fn values(&self, tensor: &Planned) -> Vec<bf16> {
        if tensor.shape.len() == 1 {
            return vec![bf16::ONE; tensor.elements()];
        }
        self.stream(&tensor.name).normal_bf16(tensor.elements(), DEVIATION)
    }

    /// This model's own random values of that name.
    pub fn stream(&self, name: &str) -> Stream {
        Stream::new(self.seed, name)
    }

    /// Writes it as a Hugging Face directory.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        create_dir(dir)?;
        write_json(&dir.join("config.json"), &self.shape.config())?;
        let generation = json!({ "bos_token_id": 1, "eos_token_id": 2 });
        write_json(&dir.join("generation_config.json"), &generation)?;
        tokenizer::write(dir, self.shape.vocab)?;
        tensor_file::write(&dir.join("model.safetensors"), self.tensors(), |tensor| {
            Ok(Values::Bf16(self.values(tensor)))
        })
    }
}

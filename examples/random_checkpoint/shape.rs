//! How large the models are.

use clap::ValueEnum;
use serde_json::{Value, json};

/// A model to be as large as.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ShapeName {
    /// TinyLlama: 1.1 billion parameters, 2.2 GB.
    #[value(name = "llama-1.1b")]
    Llama1B,
    /// SmolLM2: 135 million parameters, 0.3 GB.
    #[value(name = "smollm2-135m")]
    SmolLm2,
    /// Two layers, for trying things out.
    Tiny,
}

impl ShapeName {
    /// Its numbers.
    pub fn shape(self) -> Shape {
        match self {
            Self::Llama1B => Shape {
                hidden: 2048,
                intermediate: 5632,
                layers: 22,
                vocab: 32_000,
                heads: 32,
                kv_heads: 4,
                head_dim: 64,
                positions: 2048,
                rope_theta: 10_000.0,
                tied: false,
            },
            Self::SmolLm2 => Shape {
                hidden: 576,
                intermediate: 1536,
                layers: 30,
                vocab: 49_152,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                positions: 8192,
                rope_theta: 100_000.0,
                tied: true,
            },
            Self::Tiny => Shape {
                hidden: 64,
                intermediate: 96,
                layers: 2,
                vocab: 512,
                heads: 4,
                kv_heads: 2,
                head_dim: 16,
                positions: 256,
                rope_theta: 10_000.0,
                tied: false,
            },
        }
    }
}

/// A Llama's dimensions.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Of the residual stream.
    pub hidden: usize,
    /// Of the MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Tokens.
    pub vocab: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    positions: usize,
    rope_theta: f64,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

impl Shape {
    /// A layer's linear modules with their rows and columns.
    pub fn linears(&self) -> [(&'static str, [usize; 2]); 7] {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let (all, shared) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [
            ("self_attn.q_proj", [all, hidden]),
            ("self_attn.k_proj", [shared, hidden]),
            ("self_attn.v_proj", [shared, hidden]),
            ("self_attn.o_proj", [hidden, all]),
            ("mlp.gate_proj", [inner, hidden]),
            ("mlp.up_proj", [inner, hidden]),
            ("mlp.down_proj", [hidden, inner]),
        ]
    }

    /// `config.json`.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "use_cache": true,
            "vocab_size": self.vocab,
        })
    }
}

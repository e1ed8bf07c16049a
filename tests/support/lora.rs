//! PEFT LoRA adapters of pseudo-random values for the models of the tests, written to a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// What a model's adapters have to fit.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    layers: usize,
    hidden: usize,
    key_value: usize,
    intermediate: usize,
    /// The largest value of a factor.
    size: f32,
}

/// SmolLM2-135M.
pub const SMOLLM2: Shape =
    Shape { layers: 30, hidden: 576, key_value: 192, intermediate: 1536, size: 0.05 };
/// The tiny models of `tests/fixtures`; their adapters are strong enough to change every answer.
pub const TINY: Shape = Shape { layers: 2, hidden: 64, key_value: 32, intermediate: 96, size: 0.5 };

impl Shape {
    /// The same with factors of values up to `size`.
    pub fn of_size(self, size: f32) -> Self {
        Self { size, ..self }
    }

    /// Name, in, out.
    fn modules(self) -> [(&'static str, usize, usize); 7] {
        let Self { hidden, key_value, intermediate, .. } = self;
        [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", hidden, key_value),
            ("self_attn.v_proj", hidden, key_value),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", hidden, intermediate),
            ("mlp.up_proj", hidden, intermediate),
            ("mlp.down_proj", intermediate, hidden),
        ]
    }
}

/// Writes an adapter for SmolLM2 of `rank` on every linear module into `folder`; another `seed`,
/// other values.
pub fn write_random(folder: &Path, rank: usize, seed: u64) {
    write_random_for(SMOLLM2, folder, rank, seed);
}

/// The same for any of the models.
pub fn write_random_for(shape: Shape, folder: &Path, rank: usize, seed: u64) {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut random = |count: usize, size: f32| -> Vec<u8> {
        let mut value = || {
            // An xorshift generator: any will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
        };
        (0..count).flat_map(|_| value().to_le_bytes()).collect()
    };
    let mut tensors = BTreeMap::new();
    for layer in 0..shape.layers {
        for (name, inputs, outputs) in shape.modules() {
            let path = format!("base_model.model.model.layers.{layer}.{name}");
            let down = (vec![rank, inputs], random(rank * inputs, shape.size));
            let up = (vec![outputs, rank], random(outputs * rank, shape.size));
            tensors.insert(format!("{path}.lora_A.weight"), down);
            tensors.insert(format!("{path}.lora_B.weight"), up);
        }
    }
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (shape, data))| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        })
        .collect();
    let targets: Vec<_> =
        shape.modules().iter().map(|(name, ..)| name.rsplit('.').next().unwrap()).collect();
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets,
        "bias": "none", "task_type": "CAUSAL_LM", "fan_in_fan_out": false,
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
}

//! A PEFT LoRA adapter of pseudo-random values for the real model, written to a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const KEY_VALUE: usize = 192;
const INTERMEDIATE: usize = 1536;
/// Name, in, out.
const MODULES: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", HIDDEN, HIDDEN),
    ("self_attn.k_proj", HIDDEN, KEY_VALUE),
    ("self_attn.v_proj", HIDDEN, KEY_VALUE),
    ("self_attn.o_proj", HIDDEN, HIDDEN),
    ("mlp.gate_proj", HIDDEN, INTERMEDIATE),
    ("mlp.up_proj", HIDDEN, INTERMEDIATE),
    ("mlp.down_proj", INTERMEDIATE, HIDDEN),
];

/// Writes an adapter of `rank` on every linear module into `folder`; another `seed`, other values.
pub fn write_random(folder: &Path, rank: usize, seed: u64) {
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
    for layer in 0..LAYERS {
        for (name, inputs, outputs) in MODULES {
            let path = format!("base_model.model.model.layers.{layer}.{name}");
            let down = (vec![rank, inputs], random(rank * inputs, 0.05));
            let up = (vec![outputs, rank], random(outputs * rank, 0.05));
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
        MODULES.iter().map(|(name, ..)| name.rsplit('.').next().unwrap()).collect();
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets,
        "bias": "none", "task_type": "CAUSAL_LM", "fan_in_fan_out": false,
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
}

//! A LoRA adapter as PEFT saves it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;

use super::model::{DEVIATION, Model};
use super::tensor_file::{self, Planned, Type, Values};
use super::{create_dir, write_json};

/// The size of an adapter's change to a weight, relative to the weight.
const CHANGE: f32 = 0.02;
/// What adapters are scaled by: alpha over the rank.
const SCALE: usize = 2;

/// Writes adapter number `index` for `model`, which lies in `base`.
///
/// # Errors
/// Where it cannot be written.
pub fn write(
    dir: &Path,
    model: &Model,
    rank: usize,
    index: usize,
    base: &Path,
) -> anyhow::Result<()> {
    create_dir(dir)?;
    let config = json!({
        "base_model_name_or_path": base.to_string_lossy(),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": SCALE * rank,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": model.shape.linears().map(|(path, _)| path.rsplit('.').next()),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    write_json(&dir.join("adapter_config.json"), &config)?;
    let mut tensors = Vec::new();
    let mut deviations = HashMap::new();
    for (path, [rows, columns]) in model.modules() {
        // Of B A, a value has the deviations' product times the root of the rank.
        let a = (columns as f32).sqrt().recip();
        let b = CHANGE * DEVIATION / (a * (rank as f32).sqrt() * SCALE as f32);
        for (role, shape, deviation) in [("A", [rank, columns], a), ("B", [rows, rank], b)] {
            let name = format!("base_model.model.{path}.lora_{role}.weight");
            deviations.insert(name.clone(), deviation);
            tensors.push(Planned { name, shape: shape.to_vec(), dtype: Type::Bf16 });
        }
    }
    tensor_file::write(&dir.join("adapter_model.safetensors"), tensors, |tensor| {
        let stream = model.stream(&format!("{index} {}", tensor.name));
        Ok(Values::Bf16(stream.normal_bf16(tensor.elements(), deviations[&tensor.name])))
    })
}

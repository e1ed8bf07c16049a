//! A checkpoint as the reference library saves it before merging: residuals in bfloat16, factors in
//! float32.
//!
//! The initial factors are orthonormal as a decomposition's are, with singular values about those
//! of the weight; the trained ones are near them.

use std::f64::consts::PI;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use serde_json::json;

use super::model::{DEVIATION, Model};
use super::tensor_file::{self, Planned, Type, Values};
use super::values::Stream;
use super::{create_dir, write_json};

/// How far training moved each factor, relative to its size.
const MOVED: f32 = 0.05;

/// Writes the checkpoint of `rank` relative to `model`, which lies in `base`.
///
/// # Errors
/// Where it cannot be written.
pub fn write(dir: &Path, model: &Model, rank: usize, base: &Path) -> anyhow::Result<()> {
    create_dir(dir)?;
    let config = json!({
        "alpha": null,
        "architectures": ["SORSAModel"],
        "base_model_name_or_path": base.to_string_lossy(),
        "dropout": 0.0,
        "model_type": "sorsa",
        "rank": rank,
        "target_modules": model.shape.linears().map(|(path, _)| path.rsplit('.').next()),
        "torch_dtype": "bfloat16",
    });
    write_json(&dir.join("config.json"), &config)?;
    let modules = model.modules();
    let mut tensors = model.tensors();
    for (path, [rows, columns]) in &modules {
        for (role, shape) in
            [("A", vec![rank, *columns]), ("S", vec![rank]), ("B", vec![*rows, rank])]
        {
            tensors.push(Planned { name: format!("{path}.sorsa_{role}"), shape, dtype: Type::F32 });
        }
    }
    for tensor in &mut tensors {
        tensor.name.insert_str(0, "model.");
    }
    tensor_file::write(&dir.join("model.safetensors"), tensors, |tensor| {
        let name = &tensor.name["model.".len()..];
        let (path, role) = name.rsplit_once('.').unwrap_or_default();
        let Some((_, dims)) = modules.iter().find(|(module, _)| module == path) else {
            let own = Planned { name: name.to_owned(), ..tensor.clone() };
            return Ok(Values::Bf16(model.values(&own)));
        };
        let factors = Factors { stream: model.stream(path), rank, dims: *dims };
        Ok(match role {
            "sorsa_A" => Values::F32(factors.trained(factors.a(), model.stream(name))),
            "sorsa_S" => Values::F32(factors.trained(factors.s(), model.stream(name))),
            "sorsa_B" => Values::F32(factors.trained(factors.b(), model.stream(name))),
            _ => Values::Bf16(residual(model, name, &factors)?),
        })
    })
}

/// W − B₀ diag(S₀) A₀.
fn residual(model: &Model, name: &str, factors: &Factors) -> anyhow::Result<Vec<bf16>> {
    let [rows, columns] = factors.dims;
    let planned =
        Planned { name: name.to_owned(), shape: factors.dims.to_vec(), dtype: Type::Bf16 };
    let weight = Tensor::from_vec(model.values(&planned), (rows, columns), &Device::Cpu)?;
    let a = Tensor::from_vec(factors.a(), (factors.rank, columns), &Device::Cpu)?;
    let s = Tensor::from_vec(factors.s(), factors.rank, &Device::Cpu)?;
    let b = Tensor::from_vec(factors.b(), (rows, factors.rank), &Device::Cpu)?;
    let principal = b.broadcast_mul(&s)?.matmul(&a)?;
    let residual = (weight.to_dtype(DType::F32)? - principal)?.to_dtype(DType::BF16)?;
    Ok(residual.flatten_all()?.to_vec1()?)
}

/// One module's initial factors.
struct Factors {
    stream: Stream,
    rank: usize,
    dims: [usize; 2],
}

impl Factors {
    fn a(&self) -> Vec<f32> {
        let columns = self.dims[1];
        orthonormal(self.stream, columns, self.rank)
    }

    /// From a random matrix's largest singular value down to half of it.
    fn s(&self) -> Vec<f32> {
        let [rows, columns] = self.dims.map(|length| (length as f32).sqrt());
        let largest = DEVIATION * (rows + columns);
        (0..self.rank).map(|k| largest * (1.0 - 0.5 * k as f32 / self.rank as f32)).collect()
    }

    fn b(&self) -> Vec<f32> {
        let rows = self.dims[0];
        let directions = orthonormal(self.stream, rows, self.rank);
        let row = |i| (0..self.rank).map(move |k| k * rows + i);
        (0..rows).flat_map(row).map(|place| directions[place]).collect()
    }

    fn trained(&self, mut values: Vec<f32>, noise: Stream) -> Vec<f32> {
        let size = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        let moved = noise.normal(values.len(), MOVED * size.sqrt());
        values.iter_mut().zip(moved).for_each(|(value, by)| *value += by);
        values
    }
}

/// `count` orthonormal rows of `length`: waves of a cosine transform, the signs of whose places are
/// random.
fn orthonormal(stream: Stream, length: usize, count: usize) -> Vec<f32> {
    let first = stream.bits(length) as usize % (length - 1);
    let size = (2.0 / length as f64).sqrt();
    let wave = |k: usize| {
        let frequency = 1 + (first + k) % (length - 1);
        (0..length).map(move |i| {
            // The angle's whole turns would cost precision.
            let quarter_turns = (2 * i + 1) * frequency % (4 * length);
            let value = size * (PI * quarter_turns as f64 / (2 * length) as f64).cos();
            (if stream.bits(i) & 1 == 0 { value } else { -value }) as f32
        })
    };
    (0..count).flat_map(wave).collect()
}

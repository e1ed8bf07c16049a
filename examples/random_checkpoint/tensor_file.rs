//! A safetensors file written tensor by tensor, none of which is held longer than that takes.
//! Format: <https://github.com/huggingface/safetensors>.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use half::bf16;
use serde_json::{Map, json};

/// The type a tensor is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// float32; first, so that every tensor is aligned.
    F32,
    /// bfloat16.
    Bf16,
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: Type,
}

impl Planned {
    /// Its elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.elements() * if self.dtype == Type::F32 { 4 } else { 2 }
    }
}

/// A tensor's values, row-major.
#[derive(Debug)]
pub enum Values {
    /// float32.
    F32(Vec<f32>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

impl Values {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Writes `tensors` to `path`, each with the values that `produce` gives.
///
/// # Errors
/// Where the file cannot be written, or values are of another type or number than planned.
pub fn write(
    path: &Path,
    mut tensors: Vec<Planned>,
    mut produce: impl FnMut(&Planned) -> anyhow::Result<Values>,
) -> anyhow::Result<()> {
    tensors.sort_by(|a, b| (a.dtype, &a.name).cmp(&(b.dtype, &b.name)));
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(failed)?;
    file.write_all(&header(&tensors)?).with_context(failed)?;
    for tensor in &tensors {
        let values = produce(tensor)?;
        let fits = values.bytes().len() == tensor.bytes();
        ensure!(fits, "{} bytes for {tensor:?}", values.bytes().len());
        file.write_all(values.bytes()).with_context(failed)?;
    }
    Ok(())
}

fn header(tensors: &[Planned]) -> anyhow::Result<Vec<u8>> {
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let dtype = if tensor.dtype == Type::F32 { "F32" } else { "BF16" };
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
    }
    let mut json = serde_json::to_vec(&entries)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

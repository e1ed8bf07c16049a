//! A Llama in a GGUF file: its metadata, and its tensors under Hugging Face names, dequantised.
//!
//! Only the architecture `llama` is read. The configuration these metadata amount to is
//! `gguf_config.rs`'s; the vocabulary in them is the text side's.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::digests::StoredTensor;
use super::error::ModelError;
use super::stored_file::{StoredBytes, StoredFile};
use super::weights::{elements, map};
use crate::layers::packed_weight::{Bits, GgmlBlocks};

/// Factors on the rotary frequencies, one per pair of a head's dimensions; a Llama 3 has them.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Names of tensors outside the layers: GGUF's, Hugging Face's.
const OUTER: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names within a layer: GGUF's after `blk.N.`, Hugging Face's after `model.layers.N.`.
const INNER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Quantisations by their number in the file, for those that cannot be read here.
const UNREAD_TYPES: [(u32, &str); 15] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (39, "MXFP4"),
];

/// The key-value part of a GGUF file.
#[derive(Debug)]
pub struct GgufMetadata(HashMap<String, Value>);

impl GgufMetadata {
    /// True where `key` has a value.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The string under `key`.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a string", |value| value.to_string().ok().map(String::as_str))
    }

    /// The unsigned integer under `key`, of whatever width.
    ///
    /// # Errors
    /// Where the value is of another type, or negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "an unsigned integer", unsigned)
    }

    /// The boolean under `key`.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "a boolean", |value| value.to_bool().ok())
    }

    /// The number under `key`, a float of 32 bits widened by its shortest decimal, so that a stored
    /// 1e-5 is 1e-5 and not 9.999999747378752e-6.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", |value| match value {
            Value::F32(number) => number.to_string().parse().ok(),
            Value::F64(number) => Some(*number),
            _ => None,
        })
    }

    /// The list of strings under `key`.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, ModelError> {
        self.list(key, "a list of strings", |value| value.to_string().ok().cloned())
    }

    /// The list of integers under `key`, of whatever width up to 32 bits.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, ModelError> {
        self.list(key, "a list of integers", |value| match value {
            Value::I32(integer) => Some(*integer),
            other => unsigned(other).and_then(|integer| i32::try_from(integer).ok()),
        })
    }

    /// The list of floats under `key`.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.list(key, "a list of floats", |value| value.to_f32().ok())
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &str,
        item: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        self.typed(key, expected, |value| match value {
            Value::Array(items) => items.iter().map(&item).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| ModelError::InvalidField {
            field: key.to_owned(),
            value: format!("of type {:?}", value.value_type()),
            expected: expected.to_owned(),
        })
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => value.to_u64().ok(),
        Value::I8(integer) => u64::try_from(*integer).ok(),
        Value::I16(integer) => u64::try_from(*integer).ok(),
        Value::I32(integer) => u64::try_from(*integer).ok(),
        Value::I64(integer) => u64::try_from(*integer).ok(),
        _ => None,
    }
}

/// The tensors of a GGUF file, under Hugging Face names.
#[derive(Debug)]
pub struct GgufFile {
    file: StoredFile,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    rope_freqs: Option<TensorInfo>,
    num_heads: usize,
    num_kv_heads: usize,
}

impl GgufFile {
    /// Opens a file of architecture `llama`; reads its header only.
    ///
    /// # Errors
    /// Where the file is malformed, of another architecture, or quantised in a way not read here.
    pub fn open(path: &Path) -> Result<(Self, GgufMetadata), ModelError> {
        let file = StoredFile::open(path)?;
        let content = read_header(path, &map(&file)?)?;
        let metadata = GgufMetadata(content.metadata);
        match metadata.string("general.architecture")? {
            Some("llama") => {}
            Some(other) => {
                return Err(ModelError::Unsupported(format!("GGUF architecture {other:?}")));
            }
            None => return Err(ModelError::MissingField("general.architecture")),
        }
        let mut infos = content.tensor_infos;
        let rope_freqs = infos.remove(ROPE_FREQS);
        let mut tensors = BTreeMap::new();
        for (name, info) in infos {
            let mapped = hugging_face_name(&name)
                .ok_or_else(|| ModelError::UnusedTensors { count: 1, names: vec![name.clone()] })?;
            tensors.insert(mapped, info);
        }
        let heads = |key| metadata.unsigned(key).map(|heads| heads.unwrap_or(0) as usize);
        let num_heads = heads("llama.attention.head_count")?;
        let num_kv_heads = match heads("llama.attention.head_count_kv")? {
            0 => num_heads,
            kv_heads => kv_heads,
        };
        let data_start = content.tensor_data_offset;
        Ok((Self { file, data_start, tensors, rope_freqs, num_heads, num_kv_heads }, metadata))
    }

    /// The tensors' Hugging Face names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of tensor `name`.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|info| info.shape.dims().to_vec())
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Every tensor as it is stored, quantised.
    pub(super) fn stored_tensors(
        &self,
    ) -> impl Iterator<Item = Result<StoredTensor<'_>, ModelError>> {
        let tensors = self.tensors.iter().map(|(name, info)| (name.as_str(), info));
        let all = tensors.chain(self.rope_freqs.as_ref().map(|info| (ROPE_FREQS, info)));
        all.map(|(name, info)| {
            let bytes = self.bytes(info).ok_or_else(|| self.outside(name))?;
            let (dtype, shape) = (format!("{:?}", info.ggml_dtype), info.shape.dims().to_vec());
            Ok(StoredTensor { name: name.to_owned(), dtype, shape, bytes })
        })
    }

    fn bytes(&self, info: &TensorInfo) -> Option<StoredBytes<'_>> {
        let blocks = elements(info.shape.dims()).div_ceil(info.ggml_dtype.block_size() as u64);
        let length = blocks.checked_mul(info.ggml_dtype.type_size() as u64)?;
        let start = self.data_start.checked_add(info.offset)?;
        let end = start.checked_add(length)?;
        (end <= self.file.len()).then(|| self.file.reader(start..end))
    }

    /// The factors on the rotary frequencies, where the file has them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn rope_freqs(&self) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(info) = &self.rope_freqs else { return Ok(None) };
        Ok(Some(self.dequantise(ROPE_FREQS, info)?.flatten_all()?.to_vec1()?))
    }

    /// Tensor `name` in float32 on the CPU, its rows in Hugging Face's order.
    ///
    /// # Errors
    /// Where the file is too short, or the tensor's rows do not divide into heads.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(info) = self.tensors.get(name) else { return Ok(None) };
        let tensor = self.dequantise(name, info)?;
        Ok(Some(match self.heads(name) {
            Some(heads) => halves_from_pairs(&tensor, heads)?,
            None => tensor,
        }))
    }

    /// The number of heads that the rows of tensor `name` are interleaved by.
    fn heads(&self, name: &str) -> Option<usize> {
        match name.rsplit('.').nth(1) {
            Some("q_proj") => Some(self.num_heads),
            Some("k_proj") => Some(self.num_kv_heads),
            _ => None,
        }
    }

    /// Whether tensor `name` is held in blocks of integers.
    #[must_use]
    pub fn is_quantized(&self, name: &str) -> bool {
        let is_float = |dtype| matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        self.tensors.get(name).is_some_and(|info| !is_float(info.ggml_dtype))
    }

    /// The blocks of tensor `name`, its rows in Hugging Face's order, where they are of a kind that
    /// kernels read and, if asked for, of that many bits.
    ///
    /// # Errors
    /// Where the file is too short, or the rows do not divide into blocks or heads.
    pub fn blocks(
        &self,
        name: &str,
        bits: Option<Bits>,
    ) -> Result<Option<(GgmlBlocks, Vec<u8>)>, ModelError> {
        let Some(info) = self.tensors.get(name) else { return Ok(None) };
        let kind = match info.ggml_dtype {
            GgmlDType::Q8_0 => GgmlBlocks::Q8_0,
            GgmlDType::Q4_0 => GgmlBlocks::Q4_0,
            GgmlDType::Q4_1 => GgmlBlocks::Q4_1,
            GgmlDType::Q4K => GgmlBlocks::Q4K,
            _ => return Ok(None),
        };
        let &[rows, columns] = info.shape.dims() else { return Ok(None) };
        if bits.is_some_and(|bits| bits != kind.bits()) {
            return Ok(None);
        }
        let bytes = self.bytes(info).ok_or_else(|| self.outside(name))?;
        if !columns.is_multiple_of(kind.values()) || rows == 0 {
            let dtype = format!("{:?} of shape {:?}", info.ggml_dtype, info.shape);
            return Err(ModelError::TensorType { name: name.to_owned(), dtype });
        }
        let bytes = bytes.to_vec()?;
        let Some(heads) = self.heads(name) else { return Ok(Some((kind, bytes))) };
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(uneven_heads(rows, heads));
        }
        let (half, row_bytes) = (rows / heads / 2, columns / kind.values() * kind.bytes());
        let mut ordered = Vec::with_capacity(bytes.len());
        for row in 0..rows {
            let (head, place) = (row / (2 * half), row % (2 * half));
            let from = head * 2 * half + place % half * 2 + place / half;
            ordered.extend_from_slice(&bytes[from * row_bytes..][..row_bytes]);
        }
        Ok(Some((kind, ordered)))
    }

    fn outside(&self, name: &str) -> ModelError {
        let reason = format!("tensor {name:?} lies outside the file");
        ModelError::InvalidFile { path: self.path().to_owned(), format: "GGUF", reason }
    }

    fn dequantise(&self, name: &str, info: &TensorInfo) -> Result<Tensor, ModelError> {
        // A wrapped product of dimensions would pass the reader's own length check.
        let count = elements(info.shape.dims());
        if count == 0 || count != info.shape.elem_count() as u64 {
            let dtype = format!("{:?} of shape {:?}", info.ggml_dtype, info.shape);
            return Err(ModelError::TensorType { name: name.to_owned(), dtype });
        }
        // So would a wrapped number of bytes, and what it then reads lies behind its buffer.
        self.bytes(info).ok_or_else(|| self.outside(name))?;
        let mut reader = self.file.reader(0..self.file.len());
        let quantised = info.read(&mut reader, self.data_start, &Device::Cpu);
        quantised.and_then(|tensor| tensor.dequantize(&Device::Cpu)).map_err(|error| {
            let reason = format!("tensor {name:?}: {}", first_line(&error.to_string()));
            ModelError::InvalidFile { path: self.path().to_owned(), format: "GGUF", reason }
        })
    }
}

/// GGUF's writer interleaves the two halves of each head's rows of q and k, so that rotary
/// embedding works on neighbours; this puts them back: `(head, i, half) → (head, half, i)`.
fn halves_from_pairs(tensor: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
    let dims = tensor.dims();
    let rows = dims[0];
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(uneven_heads(rows, heads));
    }
    let columns = tensor.elem_count() / rows;
    let pairs = tensor.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(dims)?)
}

fn uneven_heads(rows: usize, heads: usize) -> ModelError {
    let text = format!("{rows} rows of q or k do not divide into {heads} heads");
    candle_core::Error::Msg(text).into()
}

fn read_header(path: &Path, map: &Mmap) -> Result<Content, ModelError> {
    let invalid =
        |reason| ModelError::InvalidFile { path: path.to_owned(), format: "GGUF", reason };
    // The reader divides by the alignment the file states, which may be 0.
    let read = || Content::read(&mut Cursor::new(&map[..]));
    let content = catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| invalid("its header makes no sense".to_owned()))?;
    content.map_err(|error| {
        let text = error.to_string();
        match unread_type(&text) {
            Some(name) => ModelError::Unsupported(format!("GGUF tensor type {name}")),
            None => invalid(first_line(&text).to_owned()),
        }
    })
}

/// Candle's errors go on with a backtrace where one is enabled.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// The name of the tensor type that the reader's error message gives a number.
fn unread_type(message: &str) -> Option<String> {
    let number = first_line(message).strip_prefix("unknown dtype for tensor ")?;
    let named = UNREAD_TYPES.iter().find(|(id, _)| number.trim().parse() == Ok(*id));
    Some(named.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned()))
}

fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((_, outer)) = OUTER.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*outer).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, kind) = rest.split_once('.')?;
    let (_, module) = INNER.iter().find(|(gguf, _)| *gguf == module)?;
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{layer}.{module}.{kind}"))
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;

//! A GGUF written here must come back as the Hugging Face model it was made from.

use std::io::Cursor;

use candle_core::DType;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use proptest::prelude::*;

use super::*;
use crate::model::checkpoint::Checkpoint;

/// What GGUF's writer does to q and k: `(head, half, i) → (head, i, half)`.
fn pairs_from_halves(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = tensor.dims2().unwrap();
    let halves = tensor.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

fn metadata() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.feed_forward_length", Value::U32(16)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.rope.freq_base", Value::F32(500_000.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ]
}

fn tensors() -> Vec<(&'static str, Tensor)> {
    let random = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
    vec![
        ("token_embd.weight", random(&[10, 8])),
        ("output_norm.weight", random(&[8])),
        ("blk.0.attn_norm.weight", random(&[8])),
        ("blk.0.ffn_norm.weight", random(&[8])),
        ("blk.0.attn_q.weight", random(&[8, 8])),
        ("blk.0.attn_k.weight", random(&[4, 8])),
        ("blk.0.attn_v.weight", random(&[4, 8])),
        ("blk.0.attn_output.weight", random(&[8, 8])),
        ("blk.0.ffn_gate.weight", random(&[16, 8])),
        ("blk.0.ffn_up.weight", random(&[16, 8])),
        ("blk.0.ffn_down.weight", random(&[8, 16])),
    ]
}

fn encode(metadata: &[(&str, Value)], tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let quantised: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (*name, QTensor::quantize(tensor, GgmlDType::F32).unwrap()))
        .collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = quantised.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

fn open(bytes: &[u8]) -> Result<Checkpoint, ModelError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

fn refused(metadata: &[(&str, Value)], tensors: &[(&str, Tensor)]) -> String {
    open(&encode(metadata, tensors)).unwrap_err().to_string()
}

#[test]
fn names_configuration_and_the_order_of_q_and_k_come_back() {
    let original = tensors();
    let mut stored = original.clone();
    stored[4].1 = pairs_from_halves(&original[4].1, 2);
    stored[5].1 = pairs_from_halves(&original[5].1, 1);
    let checkpoint = open(&encode(&metadata(), &stored)).unwrap();
    let config = &checkpoint.config;
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 500_000.0));
    assert_eq!((config.head_dim, config.vocab_size, config.num_key_value_heads), (4, 10, 1));
    assert!(config.tie_word_embeddings);
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!(checkpoint.weights.names().len(), original.len());
    for (gguf, tensor) in &original {
        let name = hugging_face_name(gguf).unwrap();
        let read = checkpoint.weights.tensor(&name, tensor.dims(), DType::F32, &Device::Cpu);
        let difference = (read.unwrap() - tensor).unwrap().abs().unwrap();
        assert_eq!(difference.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
}

#[test]
fn factors_of_llama_3_become_its_scaling_and_others_are_refused() {
    let scaling = crate::layers::rotary::RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let mut metadata = metadata();
    metadata.push(("llama.attention.key_length", Value::U32(16)));
    let frequencies = |scaling| crate::layers::rotary::inverse_frequencies(16, 500_000.0, scaling);
    let plain = frequencies(crate::layers::rotary::RopeScaling::None);
    let ratio = plain.iter().zip(frequencies(scaling)).map(|(plain, scaled)| plain / scaled);
    let mut factors: Vec<f32> = ratio.collect();
    let mut with = tensors();
    with.push((ROPE_FREQS, Tensor::new(factors.clone(), &Device::Cpu).unwrap()));
    let checkpoint = open(&encode(&metadata, &with)).unwrap();
    assert_eq!(checkpoint.config.rope_scaling, scaling);
    factors[4] *= 1.01;
    with.last_mut().unwrap().1 = Tensor::new(factors, &Device::Cpu).unwrap();
    assert!(refused(&metadata, &with).contains(ROPE_FREQS));
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let with = |key, value| {
        let mut metadata = metadata();
        metadata.retain(|(other, _)| *other != key);
        metadata.push((key, value));
        refused(&metadata, &tensors())
    };
    let text = |text: &str| Value::String(text.to_owned());
    assert!(with("general.architecture", text("qwen2")).contains("qwen2"));
    assert!(with("llama.rope.scaling.type", text("yarn")).contains("yarn"));
    assert!(with("llama.expert_count", Value::U32(8)).contains("experts"));
    assert!(with("llama.rope.dimension_count", Value::U32(2)).contains("dimension_count"));
    assert!(with("llama.attention.head_count", Value::U32(3)).contains("head_count"));
    assert!(with("llama.attention.head_count", Value::U32(0)).contains("head_count"));
    assert!(with("llama.block_count", text("one")).contains("block_count"));
    assert!(with("general.alignment", Value::U32(0)).contains("makes no sense"));
    let mut extra = tensors();
    extra.push(("blk.0.ffn_gate_inp.weight", extra[0].1.clone()));
    assert!(refused(&metadata(), &extra).contains("ffn_gate_inp"));
    assert_eq!(unread_type("unknown dtype for tensor 20").unwrap(), "IQ4_NL");
    assert_eq!(unread_type("unknown dtype for tensor 99").unwrap(), "number 99");
    assert_eq!(unread_type("something else"), None);
}

#[test]
fn a_shape_whose_bytes_wrap_around_is_refused() {
    let (gguf, name) = ("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight");
    let bytes = encode(&metadata(), &tensors());
    let start = bytes.windows(gguf.len()).position(|window| window == gguf.as_bytes()).unwrap();
    // Behind the name: the number of dimensions, then each of them.
    let dims = start + gguf.len() + 4;
    for wrapping in [[4, 1_u64 << 60], [1 << 40, 1 << 40], [1, 1 << 62]] {
        let mut bytes = bytes.clone();
        for (index, dim) in wrapping.into_iter().enumerate() {
            bytes[dims + 8 * index..][..8].copy_from_slice(&dim.to_le_bytes());
        }
        let tensor = open(&bytes).and_then(|checkpoint| {
            let shape = checkpoint.weights.shape(name).unwrap();
            checkpoint.weights.tensor(name, &shape, DType::F32, &Device::Cpu)
        });
        tensor.expect_err("there are not so many bytes");
    }
}

#[test]
fn a_type_candle_does_not_know_is_named() {
    let metadata = metadata();
    let mut bytes = encode(&metadata, &tensors());
    // The tensor's record: name, count of dimensions, dimensions, type.
    let name = b"output_norm.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let kind = at + name.len() + 4 + 8;
    assert_eq!(bytes[kind..kind + 4], [0; 4]);
    bytes[kind] = 23;
    assert!(open(&bytes).unwrap_err().to_string().contains("IQ4_XS"));
}

/// A file in which q, v and down have blocks of these kinds, all of them 256 wide.
fn quantised(kinds: [GgmlDType; 3]) -> Vec<u8> {
    let random = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
    let names = ["blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"];
    let blocks = kinds.map(|kind| QTensor::quantize(&random(&[8, 256]), kind).unwrap());
    let others = tensors().into_iter().filter(|(name, _)| !names.contains(name));
    let others: Vec<_> = others
        .map(|(name, tensor)| (name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()))
        .collect();
    let tensors: Vec<_> = names.into_iter().zip(&blocks).collect();
    let others = others.iter().map(|(name, tensor)| (*name, tensor));
    let tensors: Vec<_> = tensors.into_iter().chain(others).collect();
    let metadata = metadata();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

#[test]
fn blocks_are_taken_over_value_by_value() {
    use crate::kernels::{Kernels, QuantizedPanels};

    let modules = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"];
    for kinds in [
        [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1],
        [GgmlDType::Q4K, GgmlDType::Q8_0, GgmlDType::Q4K],
        [GgmlDType::Q4_1, GgmlDType::Q4K, GgmlDType::Q4_0],
    ] {
        let checkpoint = open(&quantised(kinds)).unwrap();
        let weights = &checkpoint.weights;
        for (module, kind) in modules.into_iter().zip(kinds) {
            let name = format!("model.layers.0.{module}.weight");
            let shape = [8, 256];
            let expected = weights.tensor(&name, &shape, DType::F32, &Device::Cpu).unwrap();
            let (held, bytes) = weights.blocks(&name, &shape, None).unwrap().unwrap();
            let bits = held.bits();
            let panels = QuantizedPanels::from_ggml(Kernels::best(), held, &bytes, (8, 256));
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(panels.dequantize(), expected, "{kind:?} of {module}");
            assert!(weights.is_quantized(&name));
            for asked in [Bits::Eight, Bits::Four] {
                let found = weights.blocks(&name, &shape, Some(asked)).unwrap();
                assert_eq!(found.is_some(), asked == bits, "{kind:?}");
            }
            assert!(weights.blocks(&name, &[8, 128], None).is_err());
        }
        assert!(!weights.is_quantized("model.embed_tokens.weight"));
    }
    // What no kernel reads is left to be rounded.
    let checkpoint = open(&quantised([GgmlDType::Q6K, GgmlDType::Q5K, GgmlDType::Q5_0])).unwrap();
    for module in modules {
        let name = format!("model.layers.0.{module}.weight");
        assert!(checkpoint.weights.is_quantized(&name));
        assert!(checkpoint.weights.blocks(&name, &[8, 256], None).unwrap().is_none());
    }
}

proptest! {
    #[test]
    fn a_truncated_or_altered_file_is_an_error_or_a_model_but_never_a_panic(
        cut in 0usize..4000, at in 0usize..4000, byte in any::<u8>(),
    ) {
        let mut bytes = encode(&metadata(), &tensors());
        let (cut, at) = (cut % bytes.len(), at % bytes.len());
        let read_all = |checkpoint: &Checkpoint| {
            for name in checkpoint.weights.names() {
                let shape = checkpoint.weights.shape(&name).unwrap();
                let _ = checkpoint.weights.tensor(&name, &shape, DType::F32, &Device::Cpu);
                let _ = checkpoint.weights.blocks(&name, &shape, None);
            }
        };
        let whole = bytes.clone();
        bytes[at] = byte;
        if let Ok(checkpoint) = open(&bytes) {
            read_all(&checkpoint);
        }
        if let Ok(checkpoint) = open(&whole[..cut]) {
            read_all(&checkpoint);
            let name = "model.layers.0.mlp.down_proj.weight";
            let last = checkpoint.weights.tensor(name, &[8, 16], DType::F32, &Device::Cpu);
            prop_assert!(last.unwrap_err().to_string().contains(name));
        }
    }
}

/// Every key alone, texts alone, and all together.
#[test]
fn all_that_ends_a_turn_is_an_end() {
    let ends = |keys: &[(&'static str, u32)], tokens: &[&str]| {
        let mut metadata = metadata();
        metadata.retain(|(key, _)| *key != "tokenizer.ggml.eos_token_id");
        metadata.extend(keys.iter().map(|(key, id)| (*key, Value::U32(*id))));
        if !tokens.is_empty() {
            let tokens = tokens.iter().map(|token| Value::String((*token).to_owned())).collect();
            metadata.push(("tokenizer.ggml.tokens", Value::Array(tokens)));
        }
        let checkpoint = open(&encode(&metadata, &tensors())).unwrap();
        (checkpoint.config.eos_token_ids, checkpoint.generation_config.eos_token_ids)
    };
    let (eos, eot, eom) = (
        ("tokenizer.ggml.eos_token_id", 2),
        ("tokenizer.ggml.eot_token_id", 4),
        ("tokenizer.ggml.eom_token_id", 5),
    );
    assert_eq!(ends(&[], &[]), (vec![], vec![]));
    assert_eq!(ends(&[eos], &[]), (vec![2], vec![2]));
    assert_eq!(ends(&[eot], &[]).1, [4]);
    assert_eq!(ends(&[eom], &[]).1, [5]);
    assert_eq!(ends(&[eom, eot, eos], &[]), (vec![2], vec![2, 4, 5]));
    assert_eq!(ends(&[], &["a", "<|eot_id|>"]).1, [1]);
    assert_eq!(
        ends(&[eos], &["<|endoftext|>", "b", "</s>", "<|im_start|>", "<|im_end|>"]).1,
        [0, 2, 4]
    );
    assert_eq!(ends(&[eos, eot], &["a", "b", "c", "d", "<end_of_turn>"]).1, [2, 4]);
    // A message of harmony ends with a token that ends no turn; alone, the same token does.
    assert_eq!(ends(&[], &["<|end|>", "a"]).1, [0]);
    assert_eq!(ends(&[], &["<|end|>", "<|return|>", "<|call|>"]).1, [1, 2]);
}

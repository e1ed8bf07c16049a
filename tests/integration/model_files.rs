//! What a model directory may not hold, and that the error says so.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::{Checkpoint, TokenizerSource};
use sorsa::model::contract::CausalLm;
use sorsa::model::error::ModelError;
use sorsa::model::llama::LlamaForCausalLm;
use tempfile::TempDir;

use crate::tiny_llama::{TinyLlama, run_alone};

fn load(path: &Path) -> Result<LlamaForCausalLm, ModelError> {
    let checkpoint = Checkpoint::open(path)?;
    let options = LoadOptions::new(DType::F32, Device::Cpu);
    LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {})
}

fn refused(path: &Path) -> String {
    load(path).expect_err("it must be refused").to_string()
}

/// A sound model, changed by `change` before it is written.
fn written(patch: &Value, change: impl FnOnce(&mut TinyLlama)) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut tiny = TinyLlama::new(patch, 3);
    change(&mut tiny);
    tiny.write(directory.path());
    directory
}

/// Splits the single file into two shards under an index.
fn shard(directory: &Path) -> Value {
    let single = directory.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&single, &Device::Cpu).unwrap();
    fs::remove_file(single).unwrap();
    let mut map = serde_json::Map::new();
    let (mut first, mut second) = (tensors.clone(), tensors);
    first.retain(|name, _| name.contains("layers.0"));
    second.retain(|name, _| !name.contains("layers.0"));
    for (file, tensors) in [("a.safetensors", first), ("b.safetensors", second)] {
        candle_core::safetensors::save(&tensors, directory.join(file)).unwrap();
        map.extend(tensors.into_keys().map(|name| (name, json!(file))));
    }
    let index = json!({"metadata": {}, "weight_map": map});
    write_index(directory, &index);
    index
}

fn write_index(directory: &Path, index: &Value) {
    fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let up = "model.layers.1.mlp.up_proj.weight";
    let missing = written(&json!({}), |tiny| drop(tiny.tensors.remove(up)));
    assert!(refused(missing.path()).contains(up));
    let misshapen = written(&json!({}), |tiny| {
        let transposed = tiny.tensors[up].t().unwrap().contiguous().unwrap();
        tiny.tensors.insert(up.to_owned(), transposed);
    });
    let error = refused(misshapen.path());
    assert!(error.contains(up) && error.contains("[24, 20]"), "{error}");
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let extra = written(&json!({"attention_bias": true}), |tiny| {
        tiny.config_json["attention_bias"] = json!(false);
    });
    let error = refused(extra.path());
    assert!(error.contains("8 tensors") && error.contains(bias), "{error}");
    let integers = written(&json!({}), |tiny| {
        let tensor = Tensor::zeros((20, 24), DType::U8, &Device::Cpu).unwrap();
        tiny.tensors.insert(up.to_owned(), tensor);
    });
    assert!(refused(integers.path()).contains("U8"));
    let derived = written(&json!({}), |tiny| {
        let tensor = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        tiny.tensors.insert(name.to_owned(), tensor);
    });
    load(derived.path()).unwrap();
}

#[test]
fn a_tied_head_may_be_a_copy_of_the_embedding_and_nothing_else() {
    let with_head = |change: fn(&Tensor) -> Tensor| {
        written(&json!({"tie_word_embeddings": true}), |tiny| {
            let head = change(&tiny.tensors["model.embed_tokens.weight"]);
            tiny.tensors.insert("lm_head.weight".to_owned(), head);
        })
    };
    load(with_head(Tensor::clone).path()).unwrap();
    let other = |table: &Tensor| (table * 1.001).unwrap();
    assert!(refused(with_head(other).path()).contains("lm_head.weight"));
    let short = |table: &Tensor| table.narrow(0, 0, 30).unwrap();
    assert!(refused(with_head(short).path()).contains("lm_head.weight"));
    let nan = |table: &Tensor| (table * f64::NAN).unwrap();
    assert!(refused(with_head(nan).path()).contains("lm_head.weight"));
}

#[test]
fn values_beyond_half_precision_are_refused() {
    let name = "model.layers.0.mlp.up_proj.weight";
    let directory = written(&json!({}), |tiny| {
        let large = (&tiny.tensors[name] * 1e9).unwrap();
        tiny.tensors.insert(name.to_owned(), large);
    });
    load(directory.path()).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let error = checkpoint.weights.tensor(name, &[20, 24], DType::F16, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains(name) && error.to_string().contains("f16"), "{error}");
}

#[test]
fn shards_are_read_and_their_index_is_checked() {
    let directory = written(&json!({}), |_| {});
    let path = directory.path();
    let index = shard(path);
    load(path).unwrap();
    let norm = "model.norm.weight";
    for (file, expected) in [
        (json!("../b.safetensors"), "outside the directory"),
        (json!("/etc/b.safetensors"), "outside the directory"),
        (json!(".."), "outside the directory"),
        (json!("sub/b.safetensors"), "outside the directory"),
        (json!("a.safetensors"), norm),
        (json!(7), norm),
        (json!("c.safetensors"), "c.safetensors"),
    ] {
        let mut index = index.clone();
        index["weight_map"][norm] = file;
        write_index(path, &index);
        let error = refused(path);
        assert!(error.contains(expected), "{error}");
    }
    let mut unknown = index.clone();
    unknown["weight_map"]["model.other"] = json!("a.safetensors");
    write_index(path, &unknown);
    assert!(refused(path).contains("model.other"));
    for broken in [json!({}), json!({"weight_map": {}}), json!([])] {
        write_index(path, &broken);
        refused(path);
    }
    fs::copy(path.join("a.safetensors"), path.join("c.safetensors")).unwrap();
    let mut twice = index;
    twice["weight_map"]["model.other"] = json!("c.safetensors");
    write_index(path, &twice);
    assert!(refused(path).contains("another shard"));
}

#[test]
fn what_is_no_model_is_refused_with_its_reason() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refused(empty.path()).contains("config.json"));
    assert!(refused(&empty.path().join("absent")).contains("absent"));
    let directory = written(&json!({}), |_| {});
    let path = directory.path();
    let weights = path.join("model.safetensors");
    assert!(refused(&weights).contains("neither a model directory nor a .gguf file"));
    fs::rename(&weights, path.join("pytorch_model.bin")).unwrap();
    let pickle = path.join("pytorch_model.bin");
    for opened in [path, &pickle] {
        let error = load(opened).unwrap_err();
        assert!(matches!(&error, ModelError::Pickle { path } if *path == pickle), "{error}");
    }
    // What a trainer was told is no weights, though it is a pickle.
    fs::rename(pickle, path.join("training_args.bin")).unwrap();
    assert!(refused(path).contains("model.safetensors.index.json"));
    fs::create_dir(&weights).unwrap();
    assert!(refused(path).contains("regular file"));
    fs::write(path.join("config.json"), "{").unwrap();
    assert!(refused(path).contains("JSON"));
}

/// A file of this header and so many zero bytes of data, in the place of a sound one.
fn weights_of(header: &str, data: usize) -> String {
    let directory = written(&json!({}), |_| {});
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    fs::write(directory.path().join("model.safetensors"), file).unwrap();
    refused(directory.path())
}

#[test]
fn a_header_that_lies_is_refused() {
    let entry = |name: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
    };
    let two = |from, to| format!("{{{},{}}}", entry("a", 0, 8), entry("b", from, to));
    for (what, header, data) in [
        ("an overlap", two(4, 12), 12),
        ("a gap", two(12, 20), 20),
        ("an end before the beginning", two(16, 8), 16),
        ("an end beyond the file", two(8, 16), 15),
        ("bytes that are nobody's", two(8, 16), 17),
        ("a shape of other bytes", two(8, 12), 12),
        ("no object", "[]".to_owned(), 0),
    ] {
        let error = weights_of(&header, data);
        assert!(error.contains("is not a valid safetensors file"), "{what}: {error}");
    }
    let twice = format!("{{{},{}}}", entry("a", 0, 8), entry("a", 0, 8));
    let error = weights_of(&twice, 8);
    assert!(error.contains("is not a valid safetensors file"), "{error}");
    let directory = written(&json!({}), |_| {});
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.resize(64, b' ');
    fs::write(directory.path().join("model.safetensors"), huge).unwrap();
    assert!(refused(directory.path()).contains("is not a valid safetensors file"));
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            let directory = written(&json!({}), |tiny| {
                let mut values = vec![0.5_f32; 20 * 24];
                values[7] = bad;
                let tensor = Tensor::from_vec(values, (20, 24), &Device::Cpu).unwrap();
                tiny.tensors.insert(name.to_owned(), tensor.to_dtype(dtype).unwrap());
            });
            let error = load(directory.path()).unwrap_err();
            assert!(
                matches!(&error, ModelError::NotFinite { name: named, element: 7 } if named == name),
                "{dtype:?}: {error}"
            );
        }
    }
}

/// Whoever runs it, root too: whether a file may be read is not what decides.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let directory = written(&json!({}), |_| {});
    let path = directory.path();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        let (file, aside) = (path.join(name), path.join("aside"));
        let was_there = fs::rename(&file, &aside).is_ok();
        fs::create_dir(&file).unwrap();
        assert!(refused(path).contains("regular file"), "{name}");
        fs::remove_dir(&file).unwrap();
        // Opening a pipe would wait for somebody to write.
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        assert!(refused(path).contains("regular file"), "{name}");
        fs::remove_file(&file).unwrap();
        if was_there {
            fs::rename(aside, file).unwrap();
        }
    }
    load(path).unwrap();
}

#[cfg(unix)]
#[test]
fn links_lead_to_regular_files() {
    use std::os::unix::fs::symlink;

    let directory = written(&json!({}), |_| {});
    let (path, elsewhere) = (directory.path(), tempfile::tempdir().unwrap());
    let weights = path.join("model.safetensors");
    // The base model is its operator's: its files may lie anywhere.
    let moved = elsewhere.path().join("moved.safetensors");
    fs::rename(&weights, &moved).unwrap();
    symlink(&moved, &weights).unwrap();
    load(path).unwrap();
    fs::remove_file(moved).unwrap();
    assert!(refused(path).contains("cannot read"));
    for (link, expected) in
        [(&weights, "regular file"), (&path.join("config.json"), "regular file")]
    {
        let _ = fs::remove_file(link);
        symlink("/dev/zero", link).unwrap();
        assert!(refused(path).contains(expected));
    }
}

#[test]
fn a_reference_sorsa_checkpoint_is_refused_as_such() {
    let by_type = tempfile::tempdir().unwrap();
    fs::write(by_type.path().join("config.json"), r#"{"model_type": "sorsa"}"#).unwrap();
    assert!(refused(by_type.path()).contains("un-merged SORSA checkpoint"));
    let by_tensor = written(&json!({}), |tiny| {
        let tensor = tiny.tensors["model.norm.weight"].clone();
        tiny.tensors.insert("model.layers.0.self_attn.q_proj.sorsa_S".to_owned(), tensor);
    });
    assert!(refused(by_tensor.path()).contains("un-merged SORSA checkpoint"));
}

#[test]
fn the_tokenizer_is_handed_on_as_it_lies_there() {
    let directory = written(&json!({}), |_| {});
    let path = directory.path();
    let checkpoint = Checkpoint::open(path).unwrap();
    assert!(checkpoint.tokenizer().unwrap_err().to_string().contains("tokenizer.json"));
    fs::write(path.join("tokenizer.json"), b"bytes").unwrap();
    fs::write(path.join("tokenizer_config.json"), r#"{"chat_template": "old"}"#).unwrap();
    fs::write(path.join("chat_template.jinja"), "new").unwrap();
    fs::write(path.join("special_tokens_map.json"), r#"{"eos_token": "E"}"#).unwrap();
    let TokenizerSource::HuggingFace(files) = checkpoint.tokenizer().unwrap() else {
        panic!("a directory's tokenizer is Hugging Face's")
    };
    assert_eq!(files.tokenizer, b"bytes");
    assert_eq!(files.tokenizer_config, Some(json!({"chat_template": "old"})));
    assert_eq!(files.special_tokens_map, Some(json!({"eos_token": "E"})));
    assert_eq!(files.chat_template.as_deref(), Some("new"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_truncated_file_is_an_error_and_an_altered_one_never_a_panic(
        cut in any::<prop::sample::Index>(), at in 0usize..3000, byte in any::<u8>(),
    ) {
        let directory = written(&json!({}), |_| {});
        let path = directory.path().join("model.safetensors");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
        prop_assert!(refused(directory.path()).contains("model.safetensors"));
        let mut altered = whole;
        altered[at] = byte;
        fs::write(&path, &altered).unwrap();
        let _ = load(directory.path());
    }
}

/// Who loads what leaves no trace: neither in the numbering of modules, nor in an error.
#[test]
fn a_model_is_the_same_whatever_number_of_threads_loads_it() {
    let tied = json!({"tie_word_embeddings": true});
    for (patch, dtype) in [(json!({}), DType::F32), (json!({}), DType::BF16), (tied, DType::BF16)] {
        let directory = written(&patch, |_| {});
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let run = |threads| {
            let options = LoadOptions::new(dtype, Device::Cpu);
            let options =
                LoadOptions { parallelism: NonZeroUsize::new(threads).unwrap(), ..options };
            let (config, weights) = (&checkpoint.config, &checkpoint.weights);
            let mut elements = 0;
            let model = LlamaForCausalLm::load(config, weights, options, &mut |n| elements += n);
            let model = model.unwrap();
            assert_eq!(elements, weights.total_elements());
            let delta = TinyLlama::adapter(model.modules(), 5, |_| true);
            let delta = Arc::new(model.prepare(&delta).unwrap());
            let logits =
                [None, Some(delta)].map(|delta| run_alone(&model, &[1, 2, 3, 4], delta, 3));
            (model.modules().to_vec(), logits)
        };
        let alone = run(1);
        assert_eq!(run(2), alone);
        assert_eq!(run(9), alone);
    }
}

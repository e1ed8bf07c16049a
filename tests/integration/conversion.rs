//! `sorsa convert` on the real model, against the directory that the references were computed from.

use std::fs;

use serde_json::{Value, json};

use crate::support::model;
use crate::support::shared::shared_reference;

#[test]
fn a_converted_gguf_is_the_model_of_record() {
    let written = model::hugging_face();
    let names =
        ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"];
    let Some(shared) = shared_reference() else { return };
    for name in names {
        let read = |folder: &std::path::Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let (mut written, mut recorded) =
            (read(&written), read(&shared.join("reference/smollm2/hf")));
        if name == "generation_config.json" {
            // The file's own end, and `<|endoftext|>`, which is known by its text.
            assert_eq!(written["eos_token_id"].take(), json!([0, 2]));
            assert_eq!(recorded["eos_token_id"].take(), json!(2));
        }
        assert!(written == recorded, "{name} differs");
    }
    let bytes = fs::read(written.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 272);
    for (name, tensor) in tensors.tensors() {
        assert_eq!(tensor.dtype(), safetensors::Dtype::BF16, "{name}");
    }
}

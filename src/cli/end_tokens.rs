//! Which tokens end an answer: every source of a model that names one is heard, as published models
//! name the end of a text in one of them and the end of a turn in another.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::text_files::TextFiles;
use crate::model::checkpoint::Checkpoint;
use crate::server::chat_format::ChatFormat;

/// The `eos_token_id` of the configuration and of the generation configuration (for a GGUF file those
/// of its metadata), the tokenizer's `eos_token`, and what closes a turn in the chat templates. In
/// order; ids that the model cannot produce are left out with a warning.
pub fn of_model(checkpoint: &Checkpoint, text: &TextFiles, chat: Option<&ChatFormat>) -> Vec<u32> {
    let tokenizer = &text.tokenizer;
    let mut ids: BTreeSet<u32> = checkpoint.config.eos_token_ids.iter().copied().collect();
    ids.extend(&checkpoint.generation_config.eos_token_ids);
    for token in &text.eos_tokens {
        let id = tokenizer.token_id(token);
        if id.is_none() {
            warn!(token, "the eos_token is not in the vocabulary and ends no answer");
        }
        ids.extend(id);
    }
    ids.extend(chat.into_iter().flat_map(|chat| chat.templates.turn_ends(tokenizer)));
    let vocab_size = checkpoint.config.vocab_size;
    ids.retain(|&id| {
        let known = (id as usize) < vocab_size;
        if !known {
            warn!(id, vocab_size, "an eos_token_id outside the vocabulary ends no answer");
        }
        known
    });
    let texts: Vec<String> = ids.iter().filter_map(|&id| tokenizer.token_text(id)).collect();
    info!(ids = ?ids, tokens = ?texts, "tokens that end an answer");
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ChatArgs;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        chat: ChatArgs,
    }

    /// The ends of the tiny model where its files say `files` instead, and nothing else of ends.
    fn ends(files: &[(&str, Value)]) -> Vec<u32> {
        let base = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny/f32/base");
        let (base, directory) = (Path::new(base), tempfile::tempdir().unwrap());
        for name in ["model.safetensors", "tokenizer.json", "config.json"] {
            fs::copy(base.join(name), directory.path().join(name)).unwrap();
        }
        let silent = [("config.json", json!({"eos_token_id": null}))];
        for (name, more) in silent.iter().chain(files) {
            let path = directory.path().join(name);
            let mut json: Value =
                fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fs::write(&path, json.to_string()).unwrap();
        }
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let text = TextFiles::open(&checkpoint).unwrap();
        let chat = text.chat(&Args::parse_from(["sorsa"]).chat).unwrap();
        of_model(&checkpoint, &text, chat.as_ref())
    }

    #[test]
    fn every_source_is_heard_alone() {
        let template = |end: &str| {
            let turn = format!("<s>{{{{ m.role }}}}\n{{{{ m.content }}}}{end}\n");
            json!({"chat_template": format!("{{% for m in messages %}}{turn}{{% endfor %}}")})
        };
        let object = json!({"eos_token": {"content": "</s>", "__type": "AddedToken"}});
        for (file, says, expected) in [
            ("config.json", json!({}), &[][..]),
            ("config.json", json!({"eos_token_id": 2}), &[2]),
            ("config.json", json!({"eos_token_id": [7, 2]}), &[2, 7]),
            ("generation_config.json", json!({"eos_token_id": 2}), &[2]),
            ("generation_config.json", json!({"eos_token_id": [5, 2]}), &[2, 5]),
            ("generation_config.json", json!({"eos_token_id": null}), &[]),
            ("tokenizer_config.json", json!({"eos_token": "</s>"}), &[2]),
            ("tokenizer_config.json", object.clone(), &[2]),
            ("tokenizer_config.json", json!({"eos_token": null}), &[]),
            ("tokenizer_config.json", json!({"eos_token": "<|nowhere|>"}), &[]),
            ("special_tokens_map.json", json!({"eos_token": "</s>"}), &[2]),
            ("special_tokens_map.json", object, &[2]),
            ("tokenizer_config.json", template("</s>"), &[2]),
            ("tokenizer_config.json", template("</turn>"), &[]),
            // Beyond the vocabulary of 320.
            ("config.json", json!({"eos_token_id": [2, 320, 4_000_000_000_u32]}), &[2]),
        ] {
            assert_eq!(ends(&[(file, says.clone())]), expected, "{file}: {says}");
        }
    }

    #[test]
    fn sources_that_differ_are_all_heard() {
        let found = ends(&[
            ("config.json", json!({"eos_token_id": 9})),
            ("generation_config.json", json!({"eos_token_id": [9, 8]})),
            ("tokenizer_config.json", json!({"eos_token": "<unk>"})),
            ("special_tokens_map.json", json!({"eos_token": "</s>"})),
        ]);
        assert_eq!(found, [0, 2, 8, 9]);
    }
}

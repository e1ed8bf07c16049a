//! A byte-level tokenizer of any size: every byte, then pairs of bytes, those of letters first.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::write_json;

const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// Likely ones first.
const FREQUENT: &str = " etaoinshrdlucmfwypvbgkjqxz\n.,'\"-()";
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['role'] + ': ' + \
    message['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// Writes `tokenizer.json` and `tokenizer_config.json` of `vocab` tokens.
///
/// # Errors
/// Where they cannot be written.
pub fn write(dir: &Path, vocab: usize) -> anyhow::Result<()> {
    let mut bytes: Vec<u8> = FREQUENT.bytes().collect();
    bytes.extend((0..=u8::MAX).filter(|byte| !FREQUENT.as_bytes().contains(byte)));
    let letters: Vec<String> = bytes.iter().map(|byte| letter(*byte).to_string()).collect();
    let places = (0..letters.len()).flat_map(|i| (0..letters.len()).map(move |j| (i, j)));
    let mut pairs: Vec<(usize, usize)> = places.collect();
    pairs.sort_by_key(|(i, j)| (i + j, *i));
    pairs.truncate(vocab.saturating_sub(SPECIAL.len() + letters.len()));
    let merges: Vec<[&str; 2]> =
        pairs.iter().map(|(i, j)| [&*letters[*i], &*letters[*j]]).collect();
    let tokens = SPECIAL.iter().map(|token| (*token).to_owned());
    let tokens =
        tokens.chain(letters.iter().cloned()).chain(merges.iter().map(|pair| pair.concat()));
    let ids: Map<String, Value> = tokens.zip(0_u32..).map(|(t, id)| (t, id.into())).collect();
    let json = tokenizer(&ids, &merges);
    let path = dir.join("tokenizer.json");
    fs::write(&path, serde_json::to_vec(&json)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let config = json!({
        "add_bos_token": false,
        "bos_token": SPECIAL[1],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL[2],
        "model_max_length": 1_000_000,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL[0],
    });
    write_json(&dir.join("tokenizer_config.json"), &config)
}

fn tokenizer(ids: &Map<String, Value>, merges: &[[&str; 2]]) -> Value {
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let special = SPECIAL.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.collect::<Vec<Value>>(),
        "normalizer": null,
        "pre_tokenizer": level,
        "post_processor": null,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges,
        },
    })
}

/// The character that stands for a byte in a byte-level vocabulary: itself where it can be seen, and
/// else one from 256 on, in the order of the bytes.
fn letter(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !visible(*other)).count();
    u32::try_from(before).ok().and_then(|place| char::from_u32(256 + place)).unwrap_or_default()
}

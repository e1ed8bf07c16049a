//! Small vocabularies of each kind for tests.

use std::sync::OnceLock;

use super::gguf_vocab::GgufVocab;
use super::tokenizer::Tokenizer;

/// A byte-level vocabulary of 512 tokens: `<unk>`, `<s>` and `</s>` are its special ones.
pub(super) const BYTE_LEVEL_JSON: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny/tokenizer.json"));

/// A SentencePiece vocabulary as Llama 2 has it: specials, 256 bytes, merged pieces, characters.
pub(super) fn sentencepiece() -> GgufVocab {
    let merged = ["▁a", "he", "▁t", "▁the", "▁▁", "aa", "aaa", "in", "▁日", "日本", "é▁"];
    let characters = ["▁", "a", "h", "e", "t", "i", "n", "日", "本", "é", "<", ">"];
    let mut vocab = GgufVocab {
        model: "llama".to_owned(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    let mut add = |token: String, token_type: i32, score: f32| {
        vocab.tokens.push(token);
        vocab.token_types.push(token_type);
        vocab.scores.push(score);
    };
    add("<unk>".to_owned(), 2, 0.0);
    add("<s>".to_owned(), 3, 0.0);
    add("</s>".to_owned(), 3, 0.0);
    (0..=u8::MAX).for_each(|byte| add(format!("<0x{byte:02X}>"), 6, 0.0));
    let pieces = merged.iter().chain(&characters);
    pieces.zip(0u16..).for_each(|(piece, i)| add((*piece).to_owned(), 1, -f32::from(i)));
    add("[tool]".to_owned(), 4, 0.0);
    vocab
}

/// A vocabulary with its `tokenizer.json`.
pub(super) fn tokenizer_json(vocab: &GgufVocab) -> Vec<u8> {
    serde_json::to_vec(&vocab.to_hugging_face().unwrap().tokenizer).unwrap()
}

/// A tokenizer of every kind whose texts can be decoded, each beside the one of the `tokenizers` crate
/// for the same file.
pub(super) fn every() -> &'static [(Tokenizer, tokenizers::Tokenizer)] {
    static EVERY: OnceLock<Vec<(Tokenizer, tokenizers::Tokenizer)>> = OnceLock::new();
    let load = |json: Vec<u8>| {
        (Tokenizer::from_json(&json).unwrap(), tokenizers::Tokenizer::from_bytes(&json).unwrap())
    };
    EVERY.get_or_init(|| every_json().into_iter().map(load).collect())
}

fn every_json() -> Vec<Vec<u8>> {
    let without_prefix = GgufVocab { add_prefix_space: Some(false), ..sentencepiece() };
    let mut jsons = vec![
        BYTE_LEVEL_JSON.to_vec(),
        tokenizer_json(&sentencepiece()),
        tokenizer_json(&without_prefix),
    ];
    for scheme in ["always", "first", "never"] {
        let metaspace = serde_json::json!(
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let mut tokenizer = sentencepiece().to_hugging_face().unwrap().tokenizer;
        tokenizer["normalizer"] = serde_json::Value::Null;
        tokenizer["pre_tokenizer"] = metaspace.clone();
        tokenizer["decoder"] = serde_json::json!(
            {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]});
        jsons.push(serde_json::to_vec(&tokenizer).unwrap());
    }
    jsons
}

/// The tokenizer of [`BYTE_LEVEL_JSON`].
pub(super) fn byte_level() -> Tokenizer {
    Tokenizer::from_json(BYTE_LEVEL_JSON).unwrap()
}

/// The tokenizer of [`sentencepiece`].
pub(super) fn llama() -> Tokenizer {
    Tokenizer::from_json(&tokenizer_json(&sentencepiece())).unwrap()
}

/// The tokenizer of [`BYTE_LEVEL_JSON`] with ChatML's special tokens.
pub(super) fn chat() -> Tokenizer {
    let mut json: serde_json::Value = serde_json::from_slice(BYTE_LEVEL_JSON).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (token, id) in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].into_iter().zip(320..) {
        added.push(serde_json::json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap()
}

//! Byte-level BPE: how text is cut before merging, by the name that GGUF files give it.

use serde_json::{Value, json};

use super::{GgufVocab, GgufVocabError};

/// Every supported name.
pub(super) const NAMES: [&str; 10] = [
    "default",
    "gpt-2",
    "gpt2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "qwen2",
    "refact",
    "smollm",
    "starcoder",
];

/// Cuts words, digits in groups of up to three, punctuation and line ends apart (Llama 3).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with each digit apart (Qwen 2).
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The ways to cut text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// GPT-2's expression.
    Gpt2,
    /// Each digit apart, then GPT-2's expression.
    SingleDigits,
    Llama3,
    Qwen2,
}

impl Kind {
    /// A file without a name is from before there were names: it has GPT-2's expression, and so
    /// has `default`.
    pub(super) fn by_name(name: Option<&str>) -> Result<Self, GgufVocabError> {
        match name.unwrap_or("default") {
            "default" | "gpt-2" | "gpt2" => Ok(Self::Gpt2),
            "smollm" | "starcoder" | "refact" => Ok(Self::SingleDigits),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::Llama3),
            "qwen2" => Ok(Self::Qwen2),
            other => Err(GgufVocabError::PreTokenizer(other.to_owned())),
        }
    }

    /// The class that reads the vocabulary in transformers.
    pub(super) fn tokenizer_class(self) -> &'static str {
        match self {
            Self::Gpt2 | Self::SingleDigits => "GPT2Tokenizer",
            Self::Llama3 => "PreTrainedTokenizerFast",
            Self::Qwen2 => "Qwen2Tokenizer",
        }
    }

    fn pre_tokenizer(self, add_prefix_space: bool) -> Value {
        let byte_level = json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": matches!(self, Self::Gpt2 | Self::SingleDigits),
        });
        let first = match self {
            Self::Gpt2 => return byte_level,
            Self::SingleDigits => json!({"type": "Digits", "individual_digits": true}),
            Self::Llama3 => split(LLAMA3),
            Self::Qwen2 => split(QWEN2),
        };
        json!({"type": "Sequence", "pretokenizers": [first, byte_level]})
    }
}

/// The parts of `tokenizer.json` from the normaliser on.
pub(super) fn parts(vocab: &GgufVocab, kind: Kind) -> Result<Value, GgufVocabError> {
    let offsets = byte_level(false);
    let post_processor = if vocab.add_bos.unwrap_or(kind == Kind::Llama3) {
        json!({"type": "Sequence", "processors": [offsets, vocab.add_bos_processor()?]})
    } else {
        offsets
    };
    let normalizer = if kind == Kind::Qwen2 { json!({"type": "NFC"}) } else { Value::Null };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": kind.pre_tokenizer(vocab.add_prefix_space.unwrap_or(false)),
        "post_processor": post_processor,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            // Llama 3 takes a word that is a token as it is, whatever the merges say.
            "ignore_merges": kind == Kind::Llama3,
            "vocab": vocab.vocab(),
            "merges": vocab.merges,
        },
    }))
}

/// As post-processor and decoder; what it says beyond its type has no bearing on ids or text.
fn byte_level(trim_offsets: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": true,
        "trim_offsets": trim_offsets,
        "use_regex": true,
    })
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

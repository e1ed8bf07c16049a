//! How few tokens a text can have: each stands for so many bytes at most, so that a text of many bytes
//! is too long before anybody has looked at it.

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Encoder};

use super::added_tokens::AddedTokens;
use super::cutter::flatten;
use super::pieces::PieceTable;

/// UTF-8 bytes of which NFC makes one.
const COMPOSED: usize = 3;
/// The same of NFKC, and of one character for another.
const COMPATIBLE: usize = 4;
/// Bytes of a character.
const CHARACTER: usize = 4;

/// The most that a token can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteBound {
    longest: usize,
    /// An added token may take any white space with it: that does not count.
    without_blanks: bool,
}

impl ByteBound {
    /// The bound of `encoder`; `None` where a token may stand for any number of bytes, as where the
    /// normalizer or the pre-tokenizer leaves something out, or unknown characters become one token.
    pub fn new(encoder: &Encoder, pieces: &PieceTable, added: &AddedTokens) -> Option<Self> {
        let normalizer = serde_json::to_value(encoder.get_normalizer()).ok()?;
        let pre_tokenizer = serde_json::to_value(encoder.get_pre_tokenizer()).ok()?;
        let shrink = shrink(&normalizer)?;
        let bytes = keeps_all(&pre_tokenizer)?;
        let ModelWrapper::BPE(model) = encoder.get_model() else { return None };
        let vocabulary = model.get_vocab();
        let known = if bytes {
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
                .iter()
                .all(|c| vocabulary.contains_key(&c.to_string()))
        } else {
            let fallback = model.byte_fallback
                && (0..=u8::MAX).all(|byte| vocabulary.contains_key(&format!("<0x{byte:02X}>")));
            fallback || (model.unk_token.is_some() && !model.fuse_unk)
        };
        if !known {
            return None;
        }
        let spelt = (0..).take(pieces.len()).filter_map(|id| {
            let piece = pieces.get(id)?.bytes.len();
            let spelling = encoder.id_to_token(id).filter(|_| !bytes);
            Some(piece.max(spelling.map_or(0, |spelling| spelling.len())))
        });
        let longest = spelt.max()?.max(CHARACTER) * shrink;
        Some(Self { longest, without_blanks: added.takes_blanks() })
    }

    /// Whether `text` has more than `tokens` tokens for certain.
    pub fn exceeds(self, text: &str, tokens: usize) -> bool {
        let most = self.longest.saturating_mul(tokens);
        let len = || {
            let blank = |c: &char| self.without_blanks && c.is_whitespace();
            text.chars().filter(|c| !blank(c)).map(char::len_utf8).sum::<usize>()
        };
        text.len() > most && (!self.without_blanks || len() > most)
    }

    /// Bytes that `tokens` tokens can stand for.
    pub fn bytes(self, tokens: usize) -> usize {
        self.longest.saturating_mul(tokens)
    }
}

/// How many bytes a normalizer turns into one at most, its steps multiplied; `None` where it may drop any.
fn shrink(normalizer: &Value) -> Option<usize> {
    let mut steps = Vec::new();
    flatten(normalizer, "normalizers", &mut steps);
    let is_single = |text: Option<&str>| text.is_some_and(|text| text.chars().count() == 1);
    steps.into_iter().try_fold(1, |most: usize, step| match step["type"].as_str()? {
        "Prepend" => Some(most),
        "NFC" => Some(most * COMPOSED),
        "NFKC" => Some(most * COMPATIBLE),
        "Replace" => {
            let (from, to) = (step["pattern"]["String"].as_str(), step["content"].as_str());
            let shorter = from.zip(to).is_some_and(|(from, to)| to.len() < from.len());
            let kept = is_single(from) && is_single(to);
            kept.then_some(if shorter { most * COMPATIBLE } else { most })
        }
        _ => None,
    })
}

/// Whether a pre-tokenizer that leaves nothing out spells characters as bytes; `None` where it may
/// leave something out.
fn keeps_all(pre_tokenizer: &Value) -> Option<bool> {
    let mut steps = Vec::new();
    flatten(pre_tokenizer, "pretokenizers", &mut steps);
    steps.into_iter().try_fold(false, |bytes, step| match step["type"].as_str()? {
        "ByteLevel" => Some(true),
        "Metaspace" | "Digits" => Some(bytes),
        "Split" | "Punctuation" => (step["behavior"] != "Removed").then_some(bytes),
        _ => None,
    })
}

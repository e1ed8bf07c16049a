//! SentencePiece BPE (Llama 2): pieces with scores instead of merges, `▁` for spaces, bytes for
//! what the vocabulary cannot spell.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{GgufVocab, GgufVocabError, TokenType};

/// SentencePiece's sign for a space.
const SPACE: &str = "▁";

/// The parts of `tokenizer.json` from the normaliser on.
pub(super) fn parts(vocab: &GgufVocab) -> Result<Value, GgufVocabError> {
    let (len, tokens) = (vocab.scores.len(), vocab.tokens.len());
    if len != tokens {
        return Err(GgufVocabError::Length { name: "scores", len, tokens });
    }
    let add_prefix_space = vocab.add_prefix_space.unwrap_or(true);
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders =
        vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if add_prefix_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let add_bos = vocab.add_bos.unwrap_or(true);
    let ids = vocab.vocab();
    // One missing byte would make some text unspellable.
    let byte_fallback = (0..=u8::MAX).all(|byte| ids.contains_key(&format!("<0x{byte:02X}>")));
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": if add_bos { vocab.add_bos_processor()? } else { Value::Null },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": vocab.token(vocab.unk),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges(vocab),
        },
    }))
}

/// SentencePiece joins the neighbours whose union has the best score. As merges: every way to cut
/// a piece into two pieces, pieces with better scores first, as transformers orders them.
fn merges(vocab: &GgufVocab) -> Vec<String> {
    // No other type comes about by joining, and a piece with a real space cannot be written as one.
    let mergeable =
        |id: usize| vocab.token_type(id) == TokenType::Normal && !vocab.tokens[id].contains(' ');
    let ids: HashMap<&str, usize> = vocab
        .tokens
        .iter()
        .enumerate()
        .filter(|&(id, _)| mergeable(id))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate().filter(|&(id, _)| mergeable(id)) {
        let cuts = token.char_indices().skip(1).map(|(cut, _)| token.split_at(cut));
        let mut pairs: Vec<(usize, usize)> =
            cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?))).collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|pair| (vocab.scores[id], pair)));
    }
    let chars = |id: usize| vocab.tokens[id].chars().count();
    // Longer halves first among equal scores; the order of ids decides among those.
    merges.sort_by(|(score, (left, right)), (other_score, (other_left, other_right))| {
        (other_score.total_cmp(score))
            .then_with(|| chars(*other_left).cmp(&chars(*left)))
            .then_with(|| chars(*other_right).cmp(&chars(*right)))
    });
    let text = |(_, (left, right)): (f32, (usize, usize))| {
        format!("{} {}", vocab.tokens[left], vocab.tokens[right])
    };
    merges.into_iter().map(text).collect()
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

//! Where a text may be cut so that its parts, each tokenised by itself, have together the tokens of
//! the whole.
//!
//! A cut is safe where every step of the tokenizer treats its two sides as if the other were not
//! there: no added token reaches across, the normalizer joins nothing, no regular expression matches
//! or looks across, and either the pre-tokenizer ends a word there or no token of the vocabulary
//! holds both characters. That is decided from the two characters beside the cut (and, under NFC and
//! NFKC, the few that combine with them), for the steps that are understood. Where one is not, there
//! is no cutter, and texts are tokenised whole.

mod pattern;

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, Tokenizer as Encoder,
};

use super::added_tokens::AddedTokens;
use pattern::Pattern;

/// What the byte-level pre-tokenizer splits by, unless it is told not to.
const BYTE_LEVEL: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Characters beside a cut that may combine with each other.
const MAX_COMBINED: usize = 32;

/// Finds the places of one tokenizer.
#[derive(Debug)]
pub(super) struct Cutter {
    normal: Normal,
    stages: Vec<Stage>,
    words: Option<Pairs>,
}

/// What the normalizer makes of characters.
#[derive(Debug)]
struct Normal {
    /// Composes characters: the steps but for what is put before a text.
    composing: Option<NormalizerWrapper>,
    /// One character for another, in this order.
    replaced: Vec<(char, char)>,
}

/// A step of the pre-tokenizer.
#[derive(Debug)]
enum Stage {
    /// Splits by matches; where `parts` is set, each is a word of its own.
    Pattern { pattern: Pattern, parts: bool },
    /// Puts a space before what does not begin with one.
    Prefix,
    /// A space becomes `replacement`, and begins a word where `splits` is set.
    Metaspace { replacement: char, splits: bool },
    /// Splits digits from the rest, and from each other where `each` is set.
    Digits { each: bool },
    /// Splits at single characters, which may join their neighbours.
    Characters,
}

/// Neighbouring characters in the tokens of a vocabulary.
#[derive(Debug)]
struct Pairs {
    pairs: HashSet<(char, char)>,
    /// Characters that are a token.
    known: HashSet<char>,
    /// Whether all others are tokens of their bytes, spelt `<0xNN>`.
    fallback: bool,
}

impl Cutter {
    /// The cutter of `encoder`, without a `Prepend` in its normalizer as `rest` is.
    pub fn new(encoder: &Encoder, rest: Option<&NormalizerWrapper>) -> Option<Self> {
        let normal = Normal::new(rest)?;
        let mut stages = Vec::new();
        let mut steps = Vec::new();
        let pre_tokenizer = serde_json::to_value(encoder.get_pre_tokenizer()).ok()?;
        flatten(&pre_tokenizer, "pretokenizers", &mut steps);
        let alone = steps.len() == 1;
        let mut bytes = false;
        for step in steps {
            // Behind it, characters are bytes.
            if bytes {
                return None;
            }
            bytes = step["type"] == "ByteLevel";
            add_stage(step, alone, &mut stages)?;
        }
        let words = if bytes { None } else { Pairs::new(encoder) };
        Some(Self { normal, stages, words })
    }

    /// The last safe place in `text` after `from` and up to `to`.
    pub fn last_between(
        &self,
        text: &str,
        (from, to): (usize, usize),
        added: &AddedTokens,
    ) -> Option<usize> {
        let mut places = text[from..to].char_indices().rev().map(|(at, _)| from + at);
        let end = (to < text.len()).then_some(to);
        end.into_iter()
            .chain(&mut places)
            .filter(|at| *at > from)
            .find(|at| self.is_safe(text, *at, added))
    }

    /// The first safe place in `text` from `from` on and before `to`.
    pub fn first_between(
        &self,
        text: &str,
        (from, to): (usize, usize),
        added: &AddedTokens,
    ) -> Option<usize> {
        let mut places = text[from..to].char_indices().map(|(at, _)| from + at);
        places.find(|at| *at > 0 && self.is_safe(text, *at, added))
    }

    fn is_safe(&self, text: &str, at: usize, added: &AddedTokens) -> bool {
        let (left, right) = text.split_at(at);
        let neighbours = || Some((left.chars().next_back()?, right.chars().next()?));
        let Some((before, after)) = neighbours() else { return false };
        if before.is_whitespace() || added.touches(before, after) {
            return false;
        }
        let Some((b, a)) = self.normal.beside(left, right) else { return false };
        !b.is_whitespace() && !added.touches(b, a) && self.parts(b, a)
    }

    /// Whether the pre-tokenizer or the model parts two normalised characters.
    fn parts(&self, mut before: char, mut after: char) -> bool {
        let mut parted = false;
        for stage in &self.stages {
            match stage {
                Stage::Prefix if after != ' ' => return false,
                Stage::Prefix | Stage::Characters => {}
                Stage::Metaspace { replacement, splits } => {
                    for c in [&mut before, &mut after] {
                        *c = if *c == ' ' { *replacement } else { *c };
                    }
                    parted |= *splits && after == *replacement;
                }
                Stage::Digits { each } => {
                    let digits = (before.is_numeric(), after.is_numeric());
                    parted |= digits.0 != digits.1 || (*each && digits.0);
                }
                Stage::Pattern { pattern, parts } => {
                    if pattern.may_continue(before, after) {
                        return false;
                    }
                    let matched = pattern.matches_alone(before) || pattern.matches_alone(after);
                    parted |= *parts && matched;
                }
            }
        }
        parted || self.words.as_ref().is_some_and(|words| words.parts(before, after))
    }
}

/// The steps of a sequence in order; sequences may nest.
pub(super) fn flatten<'a>(step: &'a Value, list: &str, steps: &mut Vec<&'a Value>) {
    match step[list].as_array() {
        Some(parts) if step["type"] == "Sequence" => {
            parts.iter().for_each(|part| flatten(part, list, steps));
        }
        _ if step.is_null() => {}
        _ => steps.push(step),
    }
}

fn add_stage(step: &Value, alone: bool, stages: &mut Vec<Stage>) -> Option<()> {
    let is_set = |name: &str| step[name].as_bool() == Some(true);
    let single = |value: &Value| {
        let mut chars = value.as_str()?.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    match step["type"].as_str()? {
        "Split" => {
            let regex =
                match (step["pattern"]["Regex"].as_str(), step["pattern"]["String"].as_str()) {
                    (Some(regex), _) => regex.to_owned(),
                    (_, Some(text)) => regex::escape(text),
                    _ => return None,
                };
            let parts = matches!(step["behavior"].as_str(), Some("Isolated" | "Removed"));
            stages.push(Stage::Pattern { pattern: Pattern::parse(&regex)?, parts });
        }
        "ByteLevel" => {
            if is_set("add_prefix_space") {
                stages.push(Stage::Prefix);
            }
            if is_set("use_regex") {
                let pattern = Pattern::parse(BYTE_LEVEL)?;
                stages.push(Stage::Pattern { pattern, parts: true });
            }
        }
        "Metaspace" => {
            // Alone, it is told that a text goes on; within others it cannot be.
            if !alone && step["prepend_scheme"] != "never" {
                stages.push(Stage::Prefix);
            }
            let replacement = single(&step["replacement"])?;
            stages.push(Stage::Metaspace { replacement, splits: is_set("split") });
        }
        "Digits" => stages.push(Stage::Digits { each: is_set("individual_digits") }),
        "Punctuation" => stages.push(Stage::Characters),
        _ => return None,
    }
    Some(())
}

impl Normal {
    fn new(rest: Option<&NormalizerWrapper>) -> Option<Self> {
        let value = serde_json::to_value(rest).ok()?;
        let mut steps = Vec::new();
        flatten(&value, "normalizers", &mut steps);
        let mut normal = Self { composing: None, replaced: Vec::new() };
        for step in steps {
            match step["type"].as_str()? {
                "NFC" | "NFKC" => normal.composing = rest.cloned(),
                "Replace" => {
                    let text = |value: &Value| {
                        let mut chars = value.as_str()?.chars();
                        chars.next().filter(|_| chars.next().is_none())
                    };
                    let pair = (text(&step["pattern"]["String"])?, text(&step["content"])?);
                    normal.replaced.push(pair);
                }
                _ => return None,
            }
        }
        Some(normal)
    }

    /// The characters beside a cut, as the normalizer writes them; `None` where it may join them.
    fn beside(&self, left: &str, right: &str) -> Option<(char, char)> {
        let (before, after) = (left.chars().next_back()?, right.chars().next()?);
        let Some(composing) = &self.composing else {
            return Some((self.replace(before), self.replace(after)));
        };
        if !starts(after) {
            return None;
        }
        let plain = right.chars().nth(1).is_none_or(|next| next.is_ascii());
        if before.is_ascii() && after.is_ascii() && plain {
            return Some((self.replace(before), self.replace(after)));
        }
        let normal = |text: &str| {
            let mut text = NormalizedString::from(text);
            composing.normalize(&mut text).ok()?;
            Some(text.get().to_owned())
        };
        // From the last character that nothing before it combines with, to the next one.
        let begin = left.char_indices().rev().take(MAX_COMBINED).find(|(_, c)| starts(*c))?.0;
        let mut ends = right.char_indices().skip(1).take(MAX_COMBINED);
        let end = match ends.find(|(_, c)| starts(*c)) {
            Some((end, _)) => end,
            None if right.chars().nth(MAX_COMBINED + 1).is_none() => right.len(),
            None => return None,
        };
        let (left, right) = (normal(&left[begin..])?, normal(&right[..end])?);
        Some((left.chars().next_back()?, right.chars().next()?))
    }

    fn replace(&self, c: char) -> char {
        self.replaced.iter().fold(c, |c, (from, to)| if c == *from { *to } else { c })
    }
}

/// Whether a character never combines with one before it. There are more than these.
fn starts(c: char) -> bool {
    matches!(c,
        '\0'..='\u{7F}' | '\u{C0}'..='\u{17F}'
        | '\u{391}'..='\u{3A9}' | '\u{3B1}'..='\u{3C9}' | '\u{400}'..='\u{482}'
        | '\u{5D0}'..='\u{5EA}' | '\u{621}'..='\u{63A}' | '\u{641}'..='\u{64A}'
        | '\u{905}'..='\u{939}' | '\u{E01}'..='\u{E2E}' | '\u{2010}'..='\u{2027}'
        | '\u{3001}' | '\u{3002}' | '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' | '\u{1F300}'..='\u{1F6FF}')
}

impl Pairs {
    /// `None` where a word's tokens depend on more than which of its characters stand together.
    fn new(encoder: &Encoder) -> Option<Self> {
        let ModelWrapper::BPE(model) = encoder.get_model() else { return None };
        let BPE { dropout, continuing_subword_prefix, end_of_word_suffix, ignore_merges, .. } =
            model;
        let plain = dropout.is_none_or(|dropout| dropout == 0.0)
            && continuing_subword_prefix.as_ref().is_none_or(String::is_empty)
            && end_of_word_suffix.as_ref().is_none_or(String::is_empty)
            && !ignore_merges;
        if !plain {
            return None;
        }
        let vocabulary = model.get_vocab();
        let single = |token: &String| {
            let mut chars = token.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        let pairs = vocabulary.keys().flat_map(|token| token.chars().zip(token.chars().skip(1)));
        let known = vocabulary.keys().filter_map(single).collect();
        let byte = |byte: u8| vocabulary.contains_key(&format!("<0x{byte:02X}>"));
        let fallback = model.byte_fallback && (0..=u8::MAX).all(byte);
        Some(Self { pairs: pairs.collect(), known, fallback })
    }

    fn parts(&self, before: char, after: char) -> bool {
        let spelt = |c: char, byte: char| match self.known.contains(&c) {
            true => Some(c),
            false => self.fallback.then_some(byte),
        };
        // The last character of the one's spelling, and the first of the other's.
        let beside = spelt(before, '>').zip(spelt(after, '<'));
        beside.is_some_and(|beside| !self.pairs.contains(&beside))
    }
}

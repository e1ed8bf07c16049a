//! The added tokens of a tokenizer (`<|im_end|>`, `<think>`): where they stand in a text, and where a
//! text may be cut without touching one. It agrees with the `tokenizers` crate, which copies a text
//! many times over to find them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;
use tokenizers::{AddedToken, Tokenizer as Encoder};

static STARTS_WITH_WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w").ok());
static ENDS_WITH_WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\w$").ok());

/// The added tokens of one tokenizer.
#[derive(Debug)]
pub(super) struct AddedTokens {
    /// Those that are looked for first, in the text as it is; then the others.
    finders: [Option<Finder>; 2],
    /// Neighbouring characters within a token.
    pairs: BTreeSet<(char, char)>,
    /// Last characters of tokens: what follows a token begins as a text does, or loses its blanks to it.
    ends: BTreeSet<char>,
    /// Whether some are tokens only where no word touches them.
    single_words: bool,
    /// Whether some take white space around them.
    takes_blanks: bool,
}

#[derive(Debug)]
struct Finder {
    matcher: AhoCorasick,
    tokens: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// A token in a text: its own place, and what it takes with the blanks around it.
struct Found<'a> {
    known: &'a Known,
    own: Range<usize>,
    taken: Range<usize>,
}

impl AddedTokens {
    /// Those of `encoder`.
    ///
    /// # Errors
    /// Where there are more than can be searched for.
    pub fn new(encoder: &Encoder) -> Result<Self, String> {
        let tokens: BTreeMap<u32, AddedToken> =
            encoder.get_added_tokens_decoder().into_iter().collect();
        let mut added = Self {
            finders: [None, None],
            pairs: BTreeSet::new(),
            ends: BTreeSet::new(),
            single_words: tokens.values().any(|token| token.single_word),
            takes_blanks: tokens.values().any(|token| token.lstrip || token.rstrip),
        };
        let mut spellings: [Vec<(String, Known)>; 2] = Default::default();
        for (id, token) in tokens {
            // As the normalizer spells it, where it does.
            let normal = encoder.id_to_token(id).filter(|_| token.normalized);
            let normal = normal.unwrap_or_else(|| token.content.clone());
            for text in [&token.content, &normal] {
                added.pairs.extend(text.chars().zip(text.chars().skip(1)));
                added.ends.extend(text.chars().next_back());
            }
            let AddedToken { special, single_word, lstrip, rstrip, normalized, .. } = token;
            let known = Known { id, special, single_word, lstrip, rstrip };
            spellings[usize::from(normalized)].push((normal, known));
        }
        for (finder, spellings) in added.finders.iter_mut().zip(spellings) {
            *finder = Finder::new(spellings)?;
        }
        Ok(added)
    }

    /// Whether a token may hold `before` and `after` as neighbours, end between them, or look from one
    /// to the other.
    pub fn touches(&self, before: char, after: char) -> bool {
        self.pairs.contains(&(before, after)) || self.ends.contains(&before) || self.single_words
    }

    /// Whether some take the white space around them with them.
    pub fn takes_blanks(&self) -> bool {
        self.takes_blanks
    }

    /// The special tokens in `text`, where no normalizer changes it: ids, and where they lie.
    pub fn special_in(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let [first, second] = &self.finders;
        let mut found = Vec::new();
        let mut end = 0;
        let first = first.as_ref().map(|finder| finder.find(text, 0)).unwrap_or_default();
        let rest = |range: Range<usize>| {
            second.as_ref().map(|finder| finder.find(&text[range.clone()], range.start))
        };
        for one in first {
            found.extend(rest(end..one.taken.start.max(end)).into_iter().flatten());
            end = one.taken.end;
            found.push(one);
        }
        found.extend(rest(end..text.len()).into_iter().flatten());
        let special = found.into_iter().filter(|one| one.known.special);
        special.map(|one| (one.known.id, one.own)).collect()
    }
}

impl Finder {
    fn new(spellings: Vec<(String, Known)>) -> Result<Option<Self>, String> {
        let spellings = spellings.into_iter().filter(|(text, _)| !text.is_empty());
        let (texts, tokens): (Vec<String>, Vec<Known>) = spellings.unzip();
        if texts.is_empty() {
            return Ok(None);
        }
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|error| error.to_string())?;
        Ok(Some(Self { matcher, tokens }))
    }

    /// The tokens in `text`, which stands at `offset` of a longer one.
    fn find(&self, text: &str, offset: usize) -> Vec<Found<'_>> {
        let mut end = 0;
        let mut all = Vec::new();
        for found in self.matcher.find_iter(text) {
            let (known, own) = (&self.tokens[found.pattern().as_usize()], found.range());
            let (left, right) = (&text[..own.start], &text[own.end..]);
            if known.single_word && touches_word(left, right) {
                continue;
            }
            let mut taken = own.clone();
            if known.lstrip {
                taken.start = left.trim_end().len().max(end);
            }
            if known.rstrip {
                taken.end += right.len() - right.trim_start().len();
            }
            end = taken.end;
            // Another token may have taken all of it.
            if !taken.is_empty() {
                let placed = |range: Range<usize>| range.start + offset..range.end + offset;
                all.push(Found { known, own: placed(own), taken: placed(taken) });
            }
        }
        all
    }
}

/// Whether a token between `left` and `right` is a part of a word. One character decides.
fn touches_word(left: &str, right: &str) -> bool {
    let word = |pattern: &LazyLock<Option<Regex>>, c: Option<char>| {
        c.is_some_and(|c| {
            pattern.as_ref().is_some_and(|pattern| pattern.is_match(c.encode_utf8(&mut [0; 4])))
        })
    };
    word(&ENDS_WITH_WORD, left.chars().next_back()) || word(&STARTS_WITH_WORD, right.chars().next())
}

//! Text to token ids a piece at a time: the ids of the whole, in the memory of a piece, and with an
//! end as soon as there are too many, enough, or nobody waits for them any more.
//!
//! Pieces end where [`Cutter`] finds that a cut changes nothing. A text without such a place (one
//! letter a million times) is a single piece, which has a limit: the `tokenizers` crate takes some
//! hundred bytes of memory for each byte of it.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{
    Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior,
    Token, Tokenizer as Encoder,
};

use super::added_tokens::AddedTokens;
use super::cutter::{Cutter, flatten};
use super::tokenizer::TokenizerError;

/// Bytes of a piece, as near as its ends allow.
pub(super) const PIECE: usize = 32 << 10;
/// Bytes of a text without a place to cut it, at most.
pub(super) const MAX_RUN: usize = 512 << 10;

/// Which of a text's ids are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of them; more than so many are an error.
    AtMost(usize),
    /// The first so many.
    First(usize),
    /// The last so many.
    Last(usize),
}

/// How a text is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Whether the tokenizer adds what the model expects around a text.
    pub add_special_tokens: bool,
    /// Which ids are wanted.
    pub keep: Keep,
    /// Told after each piece how many bytes it had; false ends the reading.
    pub watch: &'a dyn Fn(usize) -> bool,
}

impl Reading<'static> {
    /// The whole text, whatever its length.
    #[must_use]
    pub fn whole(add_special_tokens: bool) -> Self {
        Self { add_special_tokens, keep: Keep::AtMost(usize::MAX), watch: &|_| true }
    }
}

/// The ids of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// The ids.
    pub ids: Vec<u32>,
    /// Whether these are all of them.
    pub whole: bool,
}

/// How one tokenizer reads texts.
#[derive(Debug)]
pub(super) struct Pieces {
    added: AddedTokens,
    cutter: Option<Cutter>,
    /// The normalizer of a text that goes on.
    rest: Option<NormalizerWrapper>,
    /// The pre-tokenizer, where it is one that asks whether a text goes on.
    metaspace: Option<Metaspace>,
    /// What is put around a text.
    around: [Vec<u32>; 2],
    /// Bytes of a piece, and of one that cannot be cut.
    sizes: (usize, usize),
}

/// The normalizer of a piece: where a text goes on, nothing is put before it.
struct PieceNormalizer<'a> {
    whole: Option<&'a NormalizerWrapper>,
    rest: Option<&'a NormalizerWrapper>,
    goes_on: bool,
}

impl Normalizer for PieceNormalizer<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        // Parts of a piece between added tokens begin as any text does.
        let goes_on = self.goes_on && text.offsets_original().0 == 0;
        let normalizer = if goes_on { self.rest } else { self.whole };
        normalizer.map_or(Ok(()), |normalizer| normalizer.normalize(text))
    }
}

/// Ids so far, and whether more are wanted.
type Forward<'a> = (&'a mut Vec<u32>, &'a dyn Fn(&Vec<u32>) -> bool);

impl Pieces {
    /// # Errors
    /// Where the tokenizer's parts contradict each other.
    pub fn new(encoder: &Encoder) -> Result<Self, String> {
        let added = AddedTokens::new(encoder)?;
        let normalizer = encoder.get_normalizer().map(serde_json::to_value).transpose();
        let rest = without_prepend(normalizer.map_err(|error| error.to_string())?)?;
        let metaspace = match encoder.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::Metaspace(metaspace)) => Some(metaspace.clone()),
            _ => None,
        };
        let cutter = Cutter::new(encoder, rest.as_ref());
        let around = around(encoder)?;
        let sizes = (PIECE, MAX_RUN);
        Ok(Self { added, cutter, rest, metaspace, around, sizes })
    }

    /// The added tokens.
    pub fn added(&self) -> &AddedTokens {
        &self.added
    }

    /// What is put before and after a text.
    pub fn around(&self) -> &[Vec<u32>; 2] {
        &self.around
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] for more ids than are wanted, [`TokenizerError::Run`] for a piece
    /// beyond the limit, [`TokenizerError::Stopped`] where the reading was ended, and
    /// [`TokenizerError::Encode`] with the tokenizer's reason.
    pub fn encode(
        &self,
        encoder: &Encoder,
        text: &str,
        reading: Reading<'_>,
    ) -> Result<Ids, TokenizerError> {
        let none = [Vec::new(), Vec::new()];
        let [before, after] = if reading.add_special_tokens { &self.around } else { &none };
        match reading.keep {
            Keep::AtMost(limit) => {
                let mut ids = before.clone();
                // Room for what comes last is kept free.
                let room = limit.saturating_sub(after.len());
                let fits = |ids: &Vec<u32>| ids.len() <= room;
                if !self.forward(encoder, text, reading, (&mut ids, &fits))? || !fits(&ids) {
                    return Err(TokenizerError::TooLong { limit });
                }
                ids.extend(after);
                Ok(Ids { ids, whole: true })
            }
            Keep::First(count) => {
                let mut ids = before.clone();
                let wants = |ids: &Vec<u32>| ids.len() <= count;
                if self.forward(encoder, text, reading, (&mut ids, &wants))? {
                    ids.extend(after);
                }
                let whole = ids.len() <= count;
                ids.truncate(count);
                Ok(Ids { ids, whole })
            }
            Keep::Last(count) => {
                let mut parts = vec![after.clone()];
                if self.backward(encoder, text, reading, (&mut parts, count))? {
                    parts.push(before.clone());
                }
                let mut ids: Vec<u32> = parts.into_iter().rev().flatten().collect();
                let left_out = ids.len().saturating_sub(count);
                ids.drain(..left_out);
                Ok(Ids { ids, whole: left_out == 0 })
            }
        }
    }

    /// From the text's beginning, while `wants` more: whether the end was reached.
    fn forward(
        &self,
        encoder: &Encoder,
        text: &str,
        reading: Reading<'_>,
        (ids, wants): Forward<'_>,
    ) -> Result<bool, TokenizerError> {
        let mut start = 0;
        while start < text.len() {
            if !wants(ids) {
                return Ok(false);
            }
            let end = self.end_of_piece(text, start)?;
            self.encode_piece(encoder, &text[start..end], start > 0, ids)?;
            if !(reading.watch)(end - start) {
                return Err(TokenizerError::Stopped);
            }
            start = end;
        }
        Ok(true)
    }

    /// From the text's end, until there are more than `count` ids, in parts from the last to the
    /// first: whether the beginning was reached.
    fn backward(
        &self,
        encoder: &Encoder,
        text: &str,
        reading: Reading<'_>,
        (parts, count): (&mut Vec<Vec<u32>>, usize),
    ) -> Result<bool, TokenizerError> {
        let mut end = text.len();
        let mut found: usize = parts.iter().map(Vec::len).sum();
        while end > 0 {
            if found > count {
                return Ok(false);
            }
            let start = self.start_of_piece(text, end)?;
            let mut ids = Vec::new();
            self.encode_piece(encoder, &text[start..end], start > 0, &mut ids)?;
            if !(reading.watch)(end - start) {
                return Err(TokenizerError::Stopped);
            }
            found += ids.len();
            parts.push(ids);
            end = start;
        }
        Ok(true)
    }

    fn end_of_piece(&self, text: &str, start: usize) -> Result<usize, TokenizerError> {
        let (piece, run) = self.sizes;
        let left = text.len() - start;
        if left <= piece {
            return Ok(text.len());
        }
        // A piece has one character at least.
        let near = text.floor_char_boundary(start + piece).max(text.ceil_char_boundary(start + 1));
        let far = text.floor_char_boundary(text.len().min(start.saturating_add(run)));
        let place = self.cutter.as_ref().and_then(|cutter| {
            let last = cutter.last_between(text, (start, near), &self.added);
            last.or_else(|| cutter.first_between(text, (near, far), &self.added))
        });
        match place {
            Some(place) => Ok(place),
            None if left <= run => Ok(text.len()),
            None => Err(TokenizerError::Run { limit: run }),
        }
    }

    fn start_of_piece(&self, text: &str, end: usize) -> Result<usize, TokenizerError> {
        let (piece, run) = self.sizes;
        if end <= piece {
            return Ok(0);
        }
        let near = text.floor_char_boundary(end - piece);
        let far = text.floor_char_boundary(end.saturating_sub(run));
        let place = self.cutter.as_ref().and_then(|cutter| {
            let first = cutter.first_between(text, (near, end), &self.added);
            first.or_else(|| cutter.last_between(text, (far, near), &self.added))
        });
        match place {
            Some(place) => Ok(place),
            None if end <= run => Ok(0),
            None => Err(TokenizerError::Run { limit: run }),
        }
    }

    fn encode_piece(
        &self,
        encoder: &Encoder,
        piece: &str,
        goes_on: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            TokenizerError::Encode(error.to_string())
        };
        let whole = encoder.get_normalizer();
        let normalizer = PieceNormalizer { whole, rest: self.rest.as_ref(), goes_on };
        let normalizer = whole.is_some().then_some(&normalizer);
        let mut text = encoder.get_added_vocabulary().extract_and_normalize(normalizer, piece);
        match (&self.metaspace, encoder.get_pre_tokenizer()) {
            (Some(metaspace), _) if goes_on => {
                goes_on_with(metaspace, &mut text).map_err(failed)?
            }
            (_, Some(pre_tokenizer)) => pre_tokenizer.pre_tokenize(&mut text).map_err(failed)?,
            (_, None) => {}
        }
        let model = encoder.get_model();
        for (word, _, tokens) in text.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => {
                    let tokens = model.tokenize(word).map_err(failed)?;
                    ids.extend(tokens.iter().map(|token| token.id));
                }
            }
        }
        Ok(())
    }
}

/// What [`Metaspace`] does, but that nothing is put before the first part of `text`.
fn goes_on_with(metaspace: &Metaspace, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
    let replacement = metaspace.get_replacement();
    let prefix = replacement.to_string();
    text.split(|_, mut part| {
        part.replace(' ', &prefix)?;
        // The scheme that prefixes a text's first part has none to prefix here.
        let begins = part.offsets_original().0 > 0;
        let prefixes = metaspace.get_prepend_scheme() == PrependScheme::Always;
        if begins && prefixes && !part.get().starts_with(replacement) {
            part.prepend(&prefix);
        }
        if metaspace.get_split() {
            part.split(replacement, SplitDelimiterBehavior::MergedWithNext)
        } else {
            Ok(vec![part])
        }
    })
}

/// A normalizer that puts nothing before a text.
fn without_prepend(normalizer: Option<Value>) -> Result<Option<NormalizerWrapper>, String> {
    let Some(normalizer) = normalizer else { return Ok(None) };
    let mut steps = Vec::new();
    flatten(&normalizer, "normalizers", &mut steps);
    let rest: Vec<&Value> = steps.into_iter().filter(|step| step["type"] != "Prepend").collect();
    if rest.is_empty() {
        return Ok(None);
    }
    let rest = json!({"type": "Sequence", "normalizers": rest});
    serde_json::from_value(rest).map(Some).map_err(|error| error.to_string())
}

/// What the post-processor puts before and after a text.
fn around(encoder: &Encoder) -> Result<[Vec<u32>; 2], String> {
    // Stands for the text: no vocabulary has so large an id.
    let text = Token::new(u32::MAX, String::new(), (0, 0));
    let text = Encoding::from_tokens(vec![text], 0);
    let whole = encoder.post_process(text, None, true).map_err(|error| error.to_string())?;
    let place = whole.get_ids().iter().position(|id| *id == u32::MAX);
    let (before, after) = whole.get_ids().split_at(place.ok_or("the text itself is left out")?);
    Ok([before.to_vec(), after[1..].to_vec()])
}

#[cfg(test)]
mod tests;

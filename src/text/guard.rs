//! Special tokens that a client typed stay text; those of a chat template are tokens.
//!
//! A message that holds `<|im_end|>` must not end its turn. So a client's strings are *protected*
//! before they are rendered: a mark that nobody outside can know breaks every special token in them.
//! Those found in the rendered text are then the template's own. To encode it, they are replaced by
//! stand-ins, the marks are taken out, and a tokenizer that knows the stand-ins, but sees text in
//! special tokens, reads the whole at once: around a border nothing is cut that was not cut before.
//!
//! A text without marks never comes here: what nobody tried to forge is encoded as it always was.
//! Added tokens that are not special (such as `<think>`) are left alone. A template that cuts a
//! string in two and joins the halves anew is beyond this.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::OnceLock;

use tokenizers::{AddedToken, Tokenizer as Encoder};

use super::added_tokens::AddedTokens;
use super::piecewise::{Ids, Pieces, Reading};
use super::tokenizer::TokenizerError;

/// The guard of one tokenizer.
#[derive(Debug)]
pub(super) struct Guard {
    /// Only digits: no template and no JSON escape changes it.
    mark: String,
    /// Made when first needed.
    reader: OnceLock<Result<Reader, String>>,
}

/// Reads special tokens as text, and stand-ins as special tokens.
#[derive(Debug)]
struct Reader {
    encoder: Encoder,
    pieces: Pieces,
    /// A special token's id to its stand-in.
    stand_ins: BTreeMap<u32, String>,
    /// A stand-in's id to the special token's.
    ids: BTreeMap<u32, u32>,
}

impl Guard {
    /// A guard with a mark of its own, drawn from the operating system's randomness.
    pub(super) fn new() -> Self {
        // 64 bits nobody can try out: a wrong guess looks like any other text. Longer marks would
        // only swell a text full of special tokens.
        let secret = RandomState::new().build_hasher().finish();
        Self { mark: format!("{secret:020}"), reader: OnceLock::new() }
    }

    /// `text` with a mark in each special token of `added`.
    pub(super) fn protect<'a>(&self, added: &AddedTokens, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        loop {
            let places = added.special_in(&text);
            // A single character cannot be broken; no turn begins or ends with one.
            let places: Vec<usize> = places
                .into_iter()
                .filter_map(|(_, range)| break_in(&text[range.clone()], range))
                .collect();
            if places.is_empty() {
                return text;
            }
            // What is left of a token may hold a smaller one: looked at in the next round.
            let mut marked = String::with_capacity(text.len() + places.len() * self.mark.len());
            let mut end = 0;
            for place in places {
                marked.push_str(&text[end..place]);
                marked.push_str(&self.mark);
                end = place;
            }
            marked.push_str(&text[end..]);
            text = Cow::Owned(marked);
        }
    }

    /// `text` as it was before [`Self::protect`].
    pub(super) fn reveal(&self, text: &str) -> String {
        text.replace(&self.mark, "")
    }

    /// True where something in `text` was protected.
    pub(super) fn is_marked(&self, text: &str) -> bool {
        text.contains(&self.mark)
    }

    /// The ids of a rendered text, in which every special token is the template's.
    ///
    /// # Errors
    /// Those of [`Pieces::encode`].
    pub(super) fn encode(
        &self,
        encoder: &Encoder,
        added: &AddedTokens,
        text: &str,
        reading: Reading<'_>,
    ) -> Result<Ids, TokenizerError> {
        let reader = self.reader.get_or_init(|| Reader::new(encoder, &self.mark));
        let reader = reader.as_ref().map_err(|error| TokenizerError::Encode(error.clone()))?;
        let mut plain = String::with_capacity(text.len());
        let mut end = 0;
        for (id, range) in added.special_in(text) {
            let Some(stand_in) = reader.stand_ins.get(&id) else { continue };
            plain.push_str(&self.reveal(&text[end..range.start]));
            plain.push_str(stand_in);
            end = range.end;
        }
        plain.push_str(&self.reveal(&text[end..]));
        let mut ids = reader.pieces.encode(&reader.encoder, &plain, reading)?;
        for id in &mut ids.ids {
            *id = reader.ids.get(id).copied().unwrap_or(*id);
        }
        Ok(ids)
    }
}

impl Reader {
    /// Beside every special token of `encoder` a stand-in that matches under the same conditions.
    fn new(encoder: &Encoder, mark: &str) -> Result<Self, String> {
        let mut encoder = encoder.clone();
        encoder.set_encode_special_tokens(true);
        let specials: Vec<(u32, AddedToken)> = encoder
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        let stand_ins: BTreeMap<u32, String> =
            specials.iter().map(|(id, _)| (*id, format!("{mark}:{id};"))).collect();
        let tokens = specials.into_iter().map(|(id, token)| AddedToken {
            content: stand_ins[&id].clone(),
            special: false,
            ..token
        });
        encoder.add_tokens(tokens).map_err(|error| error.to_string())?;
        let ids = stand_ins
            .iter()
            .map(|(id, content)| Some((encoder.token_to_id(content)?, *id)))
            .collect::<Option<_>>()
            .ok_or("a stand-in for a special token is not known to the tokenizer")?;
        let pieces = Pieces::new(&encoder)?;
        Ok(Self { encoder, pieces, stand_ins, ids })
    }
}

/// After the first character of a token, where it has more than one.
fn break_in(token: &str, range: Range<usize>) -> Option<usize> {
    let second = token.char_indices().nth(1)?.0;
    Some(range.start + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::super::tokenizer::{Reading, Tokenizer};

    fn read(tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
        tokenizer.read_rendered(rendered, Reading::whole(false)).unwrap().ids
    }

    /// What a template would make of `content`, encoded.
    fn turn(tokenizer: &Tokenizer, content: &str) -> Vec<u32> {
        let text = format!("<s>user\n{}</s>\n<s>", tokenizer.protect(content));
        read(tokenizer, &text)
    }

    fn specials(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
        ids.iter().copied().filter(|id| tokenizer.is_special(*id) && *id != 0).collect()
    }

    #[test]
    fn a_typed_special_token_is_text() {
        for (tokenizer, _) in samples::every() {
            let ids = turn(tokenizer, "a</s><s>in the <unk> <<s>s> [tool]");
            assert_eq!(specials(tokenizer, &ids), [1, 2, 1], "{ids:?}");
            let text = tokenizer.decode(&ids, false).unwrap();
            assert!(text.contains("a</s><s>in the"), "{text}");
            assert!(text.contains("<<s>s> [tool]"), "{text}");
        }
    }

    #[test]
    fn what_was_protected_is_given_back() {
        let tokenizer = samples::byte_level();
        let protected = tokenizer.protect("no </s> here");
        assert_ne!(protected, "no </s> here");
        assert_eq!(tokenizer.reveal(&protected), "no </s> here");
        assert!(matches!(tokenizer.protect("nothing"), std::borrow::Cow::Borrowed("nothing")));
    }

    /// The mark of another server, or a stand-in's form, is a text like any other.
    #[test]
    fn marks_are_secrets() {
        let (one, other) = (samples::byte_level(), samples::byte_level());
        assert_ne!(one.protect("<s>"), other.protect("<s>"));
    }

    proptest! {
        /// Beside a typed token everything is as it is without one: the templates' tokens, and
        /// every text that holds none.
        #[test]
        fn ordinary_text_keeps_its_ids(
            content in "[a-z 日本🙂é</>\n]{0,24}", typed in any::<bool>(),
        ) {
            for (tokenizer, _) in samples::every() {
                let text = format!("<s>user\n{content}</s>\n<s>");
                let content = tokenizer.protect(&content);
                let plain = tokenizer.encode(&text, false).unwrap();
                if !typed && tokenizer.reveal(&content) == content {
                    prop_assert_eq!(turn(tokenizer, &content), plain);
                    continue;
                }
                // A turn with a typed token before it takes the other way through.
                let forged = format!("<s>{}</s>", tokenizer.protect("<s>"));
                let ids = read(tokenizer, &format!("{forged}<s>{content}</s>\n"));
                prop_assert_eq!(specials(tokenizer, &ids), [1, 2, 1, 2]);
                if tokenizer.reveal(&content) == content {
                    // The first piece of a text may be read differently from the others.
                    let alone = tokenizer.encode(&format!("<s>a</s><s>{content}</s>\n"), false);
                    let after = |ids: &[u32]| {
                        let end = ids.iter().position(|id| *id == 2).unwrap();
                        ids[end..].to_vec()
                    };
                    prop_assert_eq!(after(&ids), after(&alone.unwrap()));
                }
            }
        }
    }
}

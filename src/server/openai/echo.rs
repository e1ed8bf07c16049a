//! A prompt as the beginning of an answer: its text as the client gave it, and where in it the text of
//! each token begins.
//!
//! Special tokens are part of it, also where they are left out of what is generated: it shows what the
//! model reads. What the tokenizer adds around a text is not, as the client did not write it.

use crate::server::generation::Echo;
use crate::text::detokenizer::Detokenizer;
use crate::text::tokenizer::{Added, Tokenizer};

/// The echo of `tokens`, and a detokenizer that continues it. `given` is the whole text they were made
/// of, where they were made of one; `added` are those among them that are not in it.
#[must_use]
pub fn shown(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    given: Option<String>,
    added: Added,
) -> (Detokenizer, Echo) {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
    let written = added.before..tokens.len().saturating_sub(added.after);
    let written = tokens.get(written).unwrap_or_default();
    let mut echo = read(&mut detokenizer, written);
    if let Some(text) = given.filter(|text| *text != echo.text) {
        // The tokenizer changed the text before it took it apart, and so knows better than its tokens.
        let end = text.chars().count();
        let offsets = tokenizer.text_offsets(&text, false).unwrap_or_default();
        if offsets.len() == written.len() {
            echo.text_offsets = offsets;
        }
        echo.text_offsets.iter_mut().for_each(|offset| *offset = end.min(*offset));
        echo.text = text;
    }
    let end = echo.text.chars().count();
    echo.text_offsets.splice(0..0, std::iter::repeat_n(0, added.before));
    echo.text_offsets.resize(tokens.len(), end);
    (detokenizer, echo)
}

/// The text of `tokens`, without an end that is no whole character.
pub fn read(detokenizer: &mut Detokenizer, tokens: &[u32]) -> Echo {
    let mut text = String::new();
    let mut chars = 0;
    let mut text_offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        text_offsets.push(chars);
        // A model may know ids that its tokenizer does not (padding): they have no text.
        let piece = detokenizer.push(*token).unwrap_or_default();
        chars += piece.chars().count();
        text.push_str(&piece);
    }
    Echo { text, text_offsets }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The tiny tokenizer with other parts, and a first and a last token around each text.
    fn tokenizer(normalizer: &Value) -> Tokenizer {
        let json = include_bytes!("../../../tests/fixtures/tiny/tokenizer.json");
        let mut json: Value = serde_json::from_slice(json).unwrap();
        json["normalizer"] = normalizer.clone();
        let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let entry = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special("<s>"), {"Sequence": {"id": "A", "type_id": 0}}, special("</s>")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": entry("<s>", 1), "</s>": entry("</s>", 2)},
        });
        Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap()
    }

    /// The echo of `text`, with what the tokenizer adds around it.
    fn of_text(tokenizer: &Tokenizer, text: &str) -> (Vec<u32>, Echo) {
        let tokens = tokenizer.encode(text, true).unwrap();
        let echo = shown(tokenizer, &tokens, Some(text.to_owned()), tokenizer.added()).1;
        (tokens, echo)
    }

    fn of_tokens(tokenizer: &Tokenizer, tokens: &[u32]) -> Echo {
        shown(tokenizer, tokens, None, Added::default()).1
    }

    /// The text of each token, by the offsets.
    fn parts(echo: &Echo) -> Vec<String> {
        let chars: Vec<char> = echo.text.chars().collect();
        let ends = echo.text_offsets.iter().skip(1).copied().chain([chars.len()]);
        let part = |(begin, end): (&usize, usize)| chars[*begin..end].iter().collect();
        echo.text_offsets.iter().zip(ends).map(part).collect()
    }

    #[test]
    fn special_tokens_of_a_prompt_are_in_it_and_those_that_were_added_are_not() {
        let tokenizer = tokenizer(&Value::Null);
        assert_eq!(tokenizer.added(), Added { before: 1, after: 1 });
        let (tokens, echo) = of_text(&tokenizer, "<s>user\nHi</s>");
        assert_eq!(echo.text, "<s>user\nHi</s>");
        let parts = parts(&echo);
        assert_eq!((parts[0].as_str(), parts[1].as_str()), ("", "<s>"));
        assert_eq!(parts[parts.len() - 2..], ["</s>", ""]);
        assert_eq!(echo.text_offsets[..3], [0, 0, 3]);
        assert_eq!(of_tokens(&tokenizer, &tokens[1..tokens.len() - 1]).text, echo.text);
        // As ids, all of them were given.
        assert_eq!(of_tokens(&tokenizer, &tokens).text, "<s><s>user\nHi</s></s>");
    }

    #[test]
    fn an_answer_goes_on_where_its_echo_ends() {
        let tokenizer = tokenizer(&Value::Null);
        let tokens = tokenizer.encode("a🌍b", false).unwrap();
        for split in 1..tokens.len() {
            let (detokenizer, echo) = shown(&tokenizer, &tokens[..split], None, Added::default());
            let mut detokenizer = detokenizer.skipping(true);
            let rest = read(&mut detokenizer, &tokens[split..]);
            assert_eq!(format!("{}{}", echo.text, rest.text), "a🌍b", "{split}");
        }
    }

    #[test]
    fn text_that_the_tokenizer_changes_is_given_back_as_it_came() {
        for (normalizer, text) in [
            (json!({"type": "NFC"}), "e\u{301}a u\u{308} 🌍 x"),
            (json!({"type": "Lowercase"}), "Hello <s>THERE</s> Ü"),
            (json!({"type": "Prepend", "prepend": "x"}), "one two"),
        ] {
            let tokenizer = tokenizer(&normalizer);
            let (tokens, echo) = of_text(&tokenizer, text);
            assert_eq!((echo.text.as_str(), parts(&echo).concat().as_str()), (text, text));
            assert_eq!(echo.text_offsets.len(), tokens.len());
        }
        let tokenizer = tokenizer(&json!({"type": "Lowercase"}));
        let (_, echo) = of_text(&tokenizer, "<s>AB");
        assert_eq!(echo.text_offsets[..3], [0, 0, 3]);
    }

    /// Pieces of text that tokens break off, join and split.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "<s>",
            "</s>",
            "<unk>",
            "<s",
            "a",
            " the",
            "\n",
            "  ",
            "é",
            "e\u{301}",
            "日本",
            "🌍",
            "👩\u{200d}🚀",
            "\u{0}",
            "user",
            "İ",
        ]);
        prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_parts_of_a_text_are_the_text(text in text()) {
            for normalizer in [Value::Null, json!({"type": "NFKC"}), json!({"type": "Lowercase"})] {
                let tokenizer = tokenizer(&normalizer);
                let (tokens, echo) = of_text(&tokenizer, &text);
                prop_assert_eq!(&echo.text, &text);
                prop_assert_eq!(echo.text_offsets.len(), tokens.len());
                prop_assert_eq!(parts(&echo).concat(), text.clone());
                if normalizer.is_null() {
                    let own = &tokens[1..tokens.len() - 1];
                    for (part, token) in parts(&echo)[1..].iter().zip(own) {
                        let bytes = tokenizer.token_bytes(*token).unwrap();
                        // A part of a character has no text, until the character is whole.
                        let whole = String::from_utf8(bytes).is_ok_and(|name| name == *part);
                        prop_assert!(whole || part.chars().count() <= 1, "{part:?}");
                    }
                }
            }
        }

        #[test]
        fn the_parts_of_ids_are_their_text(tokens in prop::collection::vec(0_u32..400, 1..20)) {
            let tokenizer = tokenizer(&Value::Null);
            let echo = of_tokens(&tokenizer, &tokens);
            prop_assert_eq!(echo.text_offsets.len(), tokens.len());
            prop_assert_eq!(parts(&echo).concat(), echo.text.clone());
            for (token, part) in tokens.iter().zip(parts(&echo)) {
                if tokenizer.is_special(*token) {
                    // Bytes before it that are no character end there.
                    let name = String::from_utf8(tokenizer.token_bytes(*token).unwrap()).unwrap();
                    prop_assert_eq!(part.trim_start_matches('\u{fffd}'), name);
                }
            }
        }
    }
}

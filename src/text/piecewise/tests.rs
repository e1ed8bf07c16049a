use std::cell::Cell;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::json;

use super::super::samples;
use super::*;

/// Every sample, and beside them the pre-tokenizers and normalizers that published models have.
fn encoders() -> Vec<Encoder> {
    let mut encoders: Vec<Encoder> =
        samples::every().iter().map(|(_, encoder)| encoder.clone()).collect();
    let llama_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let o200k = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes = |regex: bool, prefix: bool| {
        json!({"type": "ByteLevel", "use_regex": regex,
        "add_prefix_space": prefix, "trim_offsets": true})
    };
    let split = |regex: &str, behavior: &str, invert: bool| {
        json!({"type": "Split",
        "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert})
    };
    let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
    let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
    let byte_level = [
        (Value::Null, sequence(&[split(llama_3, "Isolated", false), bytes(false, false)])),
        (json!({"type": "NFC"}), sequence(&[split(llama_3, "Removed", true), bytes(false, false)])),
        (
            json!({"type": "NFKC"}),
            sequence(&[split(o200k, "Isolated", false), bytes(false, false)]),
        ),
        (Value::Null, sequence(&[digits(true), bytes(true, false)])),
        (Value::Null, sequence(&[digits(false), bytes(true, true)])),
        (Value::Null, bytes(true, true)),
        (
            Value::Null,
            sequence(&[
                split(r"[一-龥]+", "Isolated", false),
                split(r"\p{N}{1,3}", "Isolated", false),
                split(llama_3, "Isolated", false),
                bytes(false, false),
            ]),
        ),
        (
            Value::Null,
            sequence(&[
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                bytes(true, false),
            ]),
        ),
        // Not understood: read whole.
        (json!({"type": "Lowercase"}), bytes(true, false)),
        (Value::Null, sequence(&[split(r"\w+(?=\s)", "Isolated", false), bytes(false, false)])),
    ];
    for (normalizer, pre_tokenizer) in byte_level {
        let mut json: Value = serde_json::from_slice(samples::BYTE_LEVEL_JSON).unwrap();
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = pre_tokenizer;
        encoders.push(encoder(&json));
    }
    encoders.extend(sentencepiece());
    encoders.extend(with_added_tokens());
    encoders
}

fn sentencepiece() -> Vec<Encoder> {
    let mut encoders = Vec::new();
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    for (normalizer, scheme, splits) in [
        (space.clone(), None, false),
        (json!({"type": "Sequence", "normalizers": [space, {"type": "NFC"}]}), None, false),
        (Value::Null, Some("first"), true),
        (Value::Null, Some("always"), true),
        (Value::Null, Some("never"), true),
    ] {
        let mut json = samples::sentencepiece().to_hugging_face().unwrap().tokenizer;
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = scheme.map_or(Value::Null, |scheme| {
            json!({"type": "Metaspace",
            "replacement": "▁", "prepend_scheme": scheme, "split": splits})
        });
        encoders.push(encoder(&json));
    }
    encoders
}

/// Added tokens that take blanks with them, or are no part of a word.
fn with_added_tokens() -> Vec<Encoder> {
    let mut encoders = Vec::new();
    for (lstrip, rstrip, single_word, normalized) in [
        (true, false, false, false),
        (false, true, false, false),
        (false, false, true, false),
        (false, false, false, true),
        (true, true, true, true),
    ] {
        for mut json in [
            serde_json::from_slice(samples::BYTE_LEVEL_JSON).unwrap(),
            samples::sentencepiece().to_hugging_face().unwrap().tokenizer,
        ] {
            let tokens: &mut Vec<Value> = json["added_tokens"].as_array_mut().unwrap();
            for (id, content) in (2000..).zip(["ab", "<t a>", "  ", "a\n"]) {
                tokens.push(json!({"id": id, "content": content, "single_word": single_word,
                    "lstrip": lstrip, "rstrip": rstrip, "normalized": normalized,
                    "special": id % 2 == 0}));
            }
            encoders.push(encoder(&json));
        }
    }
    encoders
}

fn encoder(json: &Value) -> Encoder {
    Encoder::from_bytes(serde_json::to_vec(json).unwrap()).unwrap()
}

/// Each of them, with readers that cut as often as they can, and less often.
fn readers() -> &'static [(Encoder, [Pieces; 3])] {
    static READERS: OnceLock<Vec<(Encoder, [Pieces; 3])>> = OnceLock::new();
    let reader = |encoder: Encoder| {
        let pieces = [1, 5, 16]
            .map(|piece| Pieces { sizes: (piece, usize::MAX), ..Pieces::new(&encoder).unwrap() });
        (encoder, pieces)
    };
    READERS.get_or_init(|| encoders().into_iter().map(reader).collect())
}

fn expected(encoder: &Encoder, text: &str, add_special_tokens: bool) -> Vec<u32> {
    encoder.encode_fast(text, add_special_tokens).unwrap().get_ids().to_vec()
}

/// Words, blanks, digits, marks, characters that combine, and added tokens, in any order.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z]{1,4}",
        "[ \n\t\r]{1,3}",
        "[0-9]{1,5}",
        "[.,!?'’\"()/-]{1,2}",
        "[日本語。、ーｶﾞ가각ᄀ ᅡ]{1,3}",
        "[\u{301}\u{300}\u{308}eéÉàñйё]{1,3}",
        "[🙂👩\u{200D}👩🏽▁ﬁＡ①]{1,2}",
        "[क-ह़ािีำกข]{1,3}",
        Just("<s>".to_owned()),
        Just("</s>".to_owned()),
        Just("[tool]".to_owned()),
        Just("<t a>".to_owned()),
        Just("'s".to_owned()),
        Just(" the".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the size of pieces, a text has the ids that the `tokenizers` crate gives the whole.
    #[test]
    fn pieces_have_the_ids_of_the_whole(text in texts(), size in 0..3_usize) {
        for (number, (encoder, pieces)) in readers().iter().enumerate() {
            let pieces = &pieces[size];
            for special in [true, false] {
                let expected = expected(encoder, &text, special);
                let read = |keep| {
                    let reading = Reading { keep, ..Reading::whole(special) };
                    pieces.encode(encoder, &text, reading)
                };
                let all = read(Keep::AtMost(expected.len())).unwrap();
                prop_assert_eq!(&all.ids, &expected, "tokenizer {}", number);
                if let Some(fewer) = expected.len().checked_sub(1) {
                    let refusal = read(Keep::AtMost(fewer)).unwrap_err().to_string();
                    prop_assert_eq!(refusal, format!("it has more than {fewer} tokens"));
                }
                for count in [0, 1, expected.len() / 2, expected.len(), expected.len() + 3] {
                    let whole = count >= expected.len();
                    let kept = count.min(expected.len());
                    let last = Ids { ids: expected[expected.len() - kept..].to_vec(), whole };
                    prop_assert_eq!(read(Keep::Last(count)).unwrap(), last, "{}", number);
                    let first = Ids { ids: expected[..kept].to_vec(), whole };
                    prop_assert_eq!(read(Keep::First(count)).unwrap(), first, "{}", number);
                }
            }
        }
    }

    /// Special tokens are found where the `tokenizers` crate finds them.
    #[test]
    fn special_tokens_are_found(text in texts()) {
        for (encoder, pieces) in readers() {
            let added = pieces[0].added();
            let vocabulary = encoder.get_added_vocabulary();
            let split = vocabulary.extract_and_normalize(None::<&NormalizerWrapper>, &text);
            let known = vocabulary.get_added_tokens_decoder();
            let splits = split.get_splits(OffsetReferential::Original, OffsetType::None);
            let ids = splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref()?.first());
            let ids: Vec<u32> = ids.map(|token| token.id).filter(|id| known[id].special).collect();
            let found = added.special_in(&text);
            prop_assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
            for (id, range) in found {
                prop_assert_eq!(encoder.id_to_token(id).unwrap(), &text[range]);
            }
        }
    }
}

/// How a text is cut: the pieces that the reading was told of.
fn cuts(encoder: &Encoder, text: &str, keep: Keep) -> (Result<Ids, TokenizerError>, Vec<usize>) {
    let told = Cell::new(Vec::new());
    let watch = |bytes: usize| {
        let mut all = told.take();
        all.push(bytes);
        told.set(all);
        true
    };
    let reading = Reading { add_special_tokens: false, keep, watch: &watch };
    let ids = Pieces::new(encoder).unwrap().encode(encoder, text, reading);
    (ids, told.into_inner())
}

#[test]
fn texts_of_all_kinds_are_cut() {
    let (byte_level, llama) = (&readers()[0].0, &readers()[1].0);
    for text in ["the in a ", "日本。", "word\n", "12a;", "él está, "] {
        let text = text.repeat((4 * PIECE).div_ceil(text.len()));
        for encoder in [byte_level, llama] {
            let (ids, cuts) = cuts(encoder, &text, Keep::AtMost(usize::MAX));
            assert_eq!(ids.unwrap().ids, expected(encoder, &text, false));
            assert!(cuts.len() >= 4 && cuts.iter().all(|cut| *cut <= PIECE), "{text:.9} {cuts:?}");
        }
    }
}

#[test]
fn a_text_is_read_only_as_far_as_it_is_wanted() {
    let encoder = &readers()[0].0;
    let text = "the in a ".repeat(100_000);
    let (ids, read) = cuts(encoder, &text, Keep::AtMost(1000));
    assert!(matches!(ids, Err(TokenizerError::TooLong { limit: 1000 })));
    assert_eq!(read.len(), 1, "{read:?}");
    for keep in [Keep::First(1000), Keep::Last(1000)] {
        let (ids, read) = cuts(encoder, &text, keep);
        assert_eq!(ids.unwrap().ids.len(), 1000);
        assert_eq!(read.len(), 1, "{read:?}");
    }
    let seen = Cell::new(0);
    let watch = |bytes| {
        seen.set(seen.get() + bytes);
        seen.get() < 2 * PIECE
    };
    let reading =
        Reading { add_special_tokens: false, keep: Keep::AtMost(usize::MAX), watch: &watch };
    let stopped = Pieces::new(encoder).unwrap().encode(encoder, &text, reading);
    assert!(matches!(stopped, Err(TokenizerError::Stopped)));
    assert!(seen.get() <= 3 * PIECE);
}

/// A run that nothing divides is one piece, up to a limit; then it is refused before it is read.
#[test]
fn a_run_without_a_place_to_cut_has_a_limit() {
    for (encoder, _) in &readers()[..2] {
        for unit in ["a", " ", "\n"] {
            let text = unit.repeat(MAX_RUN);
            let (ids, read) = cuts(encoder, &text, Keep::AtMost(usize::MAX));
            assert_eq!((ids.unwrap().ids, read), (expected(encoder, &text, false), vec![MAX_RUN]));
            let text = unit.repeat(MAX_RUN + 1);
            for keep in [Keep::AtMost(usize::MAX), Keep::First(9), Keep::Last(9)] {
                let (ids, read) = cuts(encoder, &text, keep);
                assert!(matches!(ids, Err(TokenizerError::Run { limit: MAX_RUN })), "{unit:?}");
                assert_eq!(read, Vec::<usize>::new());
            }
        }
    }
}

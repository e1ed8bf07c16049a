use super::super::samples;
use super::*;
use proptest::prelude::*;

#[test]
fn tokens_have_a_spelling_and_bytes() {
    let tokenizer = samples::byte_level();
    let newline = tokenizer.token_id("Ċ").unwrap();
    assert_eq!(tokenizer.token_text(newline).as_deref(), Some("Ċ"));
    assert_eq!(tokenizer.token_bytes(newline), Some(b"\n".to_vec()));
    assert_eq!(tokenizer.token_bytes(1), Some(b"<s>".to_vec()));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(newline));

    let llama = samples::llama();
    let the = llama.token_id("▁the").unwrap();
    assert_eq!(llama.token_bytes(the), Some(b" the".to_vec()));
    assert_eq!(llama.token_bytes(3 + 0xE6), Some(vec![0xE6]));
    assert_eq!(llama.token_text(3 + 0xE6).as_deref(), Some("<0xE6>"));
    let tool = llama.token_id("[tool]").unwrap();
    assert!(!llama.is_special(tool));
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let tokenizer = samples::byte_level();
    let size = tokenizer.vocab_size();
    let id = u32::try_from(size).unwrap();
    assert!(tokenizer.token_bytes(id - 1).is_some());
    assert_eq!((tokenizer.token_bytes(id), tokenizer.token_text(id)), (None, None));
    assert!(!tokenizer.is_special(id));
    assert_eq!(tokenizer.token_id("no such token"), None);
    let error = tokenizer.decode(&[1, id], true).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{size} is not a token: the vocabulary has {size} tokens")
    );
    assert!(tokenizer.decode(&[u32::MAX], true).is_err());
}

#[test]
fn special_tokens_are_added_where_asked_for() {
    let llama = samples::llama();
    let with = llama.encode("the", true).unwrap();
    let without = llama.encode("the", false).unwrap();
    assert_eq!(with, [&[1][..], &without].concat());
    assert_eq!(llama.decode(&with, true).unwrap(), "the");
    assert_eq!(llama.decode(&with, false).unwrap(), "<s> the");
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let mut json: serde_json::Value = serde_json::from_slice(samples::BYTE_LEVEL_JSON).unwrap();
    json["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("1 2 3", false).unwrap().len(), 5);
    assert_eq!(tokenizer.encode("1", false).unwrap().len(), 1);
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    for bytes in [&b""[..], b"{}", b"null", &[0xFF]] {
        assert!(matches!(Tokenizer::from_json(bytes), Err(TokenizerError::Load(_))));
    }
    let mut json: serde_json::Value = serde_json::from_slice(samples::BYTE_LEVEL_JSON).unwrap();
    json["decoder"] = serde_json::Value::Null;
    let error = Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the tokenizer has no decoder");
}

/// Long runs of one character must neither take quadratic time nor exhaust the regular expression.
#[test]
fn long_runs_survive() {
    for tokenizer in [samples::byte_level(), samples::llama()] {
        for text in ["a", " ", "日", "🙂", "\n"] {
            let text = text.repeat(100_000);
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(text in "[a-z 日本🙂é\u{200D}👩\n\t]{0,40}") {
        for tokenizer in [samples::byte_level(), samples::llama()] {
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.as_str());
        }
    }

    #[test]
    fn any_text_is_spelt_by_the_bytes_of_its_tokens(text in any::<String>()) {
        let tokenizer = samples::byte_level();
        let ids = tokenizer.encode(&text, false).unwrap();
        let bytes: Vec<u8> =
            ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        prop_assert_eq!(bytes, text.as_bytes());
    }
}

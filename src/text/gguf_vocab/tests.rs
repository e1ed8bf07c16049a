use super::super::samples;
use super::super::tokenizer::Tokenizer;
use super::*;
use proptest::prelude::*;

/// Every character of the byte-level alphabet, two merged tokens and three special ones.
fn byte_level(pre: Option<&str>) -> GgufVocab {
    let tiny: Value = serde_json::from_slice(samples::BYTE_LEVEL_JSON).unwrap();
    let alphabet = tiny["model"]["vocab"].as_object().unwrap().keys();
    let alphabet = alphabet.filter(|token| token.chars().count() == 1).cloned();
    let mut tokens: Vec<String> = ["<|a|>", "<|b|>", "<|c|>"].map(str::to_owned).to_vec();
    tokens.extend(alphabet);
    tokens.extend(["12", "123", "1234", "Ġ1", "ĠĠ", "in"].map(str::to_owned));
    let merges = ["1 2", "12 3", "123 4", "Ġ 1", "Ġ Ġ", "i n"].map(str::to_owned).to_vec();
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: pre.map(str::to_owned),
        token_types: (0..tokens.len()).map(|id| if id < 3 { 3 } else { 1 }).collect(),
        tokens,
        merges,
        bos: Some(0),
        eos: Some(1),
        chat_template: Some("{{ '<|b|>' }}<|c|>".to_owned()),
        context_length: Some(2048),
        ..GgufVocab::default()
    }
}

fn tokens(vocab: &GgufVocab, text: &str, add_special_tokens: bool) -> Vec<String> {
    let tokenizer = Tokenizer::from_json(&samples::tokenizer_json(vocab)).unwrap();
    let ids = tokenizer.encode(text, add_special_tokens).unwrap();
    ids.into_iter().map(|id| tokenizer.token_text(id).unwrap()).collect()
}

#[test]
fn text_is_cut_as_the_name_says() {
    for (pre, expected) in [
        (None, &["Ġ", "1234", "'", "S", "ĠĠ", "Ġ", "Ċ", "in"][..]),
        (Some("gpt-2"), &["Ġ", "1234", "'", "S", "ĠĠ", "Ġ", "Ċ", "in"]),
        (Some("smollm"), &["Ġ", "1", "2", "3", "4", "'", "S", "ĠĠ", "Ġ", "Ċ", "in"]),
        (Some("llama-bpe"), &["Ġ", "123", "4", "'", "S", "ĠĠ", "Ġ", "Ċ", "in"]),
        (Some("qwen2"), &["Ġ", "1", "2", "3", "4", "'", "S", "ĠĠ", "Ġ", "Ċ", "in"]),
    ] {
        assert_eq!(tokens(&byte_level(pre), " 1234'S   \nin", false), expected, "{pre:?}");
    }
}

#[test]
fn every_name_that_is_listed_is_supported() {
    for name in byte_level::NAMES {
        assert!(byte_level(Some(name)).to_hugging_face().is_ok(), "{name}");
    }
}

#[test]
fn a_first_token_is_added_where_the_file_or_its_kind_says_so() {
    let with = |pre, add_bos| GgufVocab { add_bos, ..byte_level(Some(pre)) };
    for (vocab, expected) in [
        (with("smollm", None), vec!["in"]),
        (with("smollm", Some(true)), vec!["<|a|>", "in"]),
        (with("llama-bpe", None), vec!["<|a|>", "in"]),
        (with("llama-bpe", Some(false)), vec!["in"]),
    ] {
        assert_eq!(tokens(&vocab, "in", true), expected);
        assert_eq!(tokens(&vocab, "in", false), ["in"]);
    }
    let without = GgufVocab { bos: None, ..with("smollm", Some(true)) };
    assert_eq!(without.to_hugging_face(), Err(GgufVocabError::NoBos));
}

#[test]
fn the_config_names_what_the_metadata_names() {
    let converted = byte_level(Some("smollm")).to_hugging_face().unwrap();
    let expected = json!({
        "additional_special_tokens": ["<|b|>", "<|c|>"],
        "bos_token": "<|a|>",
        "eos_token": "<|b|>",
    });
    assert_eq!(converted.special_tokens_map, expected);
    let config = &converted.tokenizer_config;
    assert_eq!(config["model_max_length"], 2048);
    assert_eq!(config["tokenizer_class"], "GPT2Tokenizer");
    assert_eq!(config["added_tokens_decoder"].as_object().unwrap().len(), 3);
    assert_eq!((&config["unk_token"], &config["add_bos_token"]), (&Value::Null, &Value::Null));
    let names: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(names.is_sorted());
}

#[test]
fn user_defined_tokens_are_added_but_not_special() {
    let vocab = samples::sentencepiece();
    let tokenizer = Tokenizer::from_json(&samples::tokenizer_json(&vocab)).unwrap();
    let ids = tokenizer.encode("a[tool]a</s>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a[tool] a");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a[tool] a</s>");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let message = |vocab: GgufVocab| vocab.to_hugging_face().unwrap_err().to_string();
    let bert = GgufVocab { model: "bert".to_owned(), ..byte_level(None) };
    let expected = r#"tokenizer model "bert" is not supported: only "gpt2" and "llama" are"#;
    assert_eq!(message(bert), expected);
    let tekken = message(byte_level(Some("tekken")));
    assert!(tekken.starts_with(r#"pre-tokenizer "tekken" is not supported: only default, "#));
}

#[test]
fn contradictions_are_refused() {
    let message = |vocab: GgufVocab| vocab.to_hugging_face().unwrap_err().to_string();
    let sample = samples::sentencepiece();
    let tokens = sample.tokens.len();
    let short = GgufVocab { token_types: vec![1], ..sample.clone() };
    assert_eq!(message(short), format!("token_type has 1 entries for {tokens} tokens"));
    let unscored = GgufVocab { scores: Vec::new(), ..sample.clone() };
    assert_eq!(message(unscored), format!("scores has 0 entries for {tokens} tokens"));
    let outside = GgufVocab { eos: Some(9999), ..sample.clone() };
    assert_eq!(message(outside), format!("eos_token_id 9999 is not one of {tokens} tokens"));
    let mut twice = sample;
    twice.tokens[5] = "<s>".to_owned();
    assert_eq!(message(twice), r#"tokens 1 and 5 are both "<s>""#);
}

#[test]
fn files_are_written_as_the_libraries_write_them() {
    let converted = HuggingFaceTokenizer {
        tokenizer: json!({"a": ["é"]}),
        tokenizer_config: json!({"b": {}}),
        special_tokens_map: json!({"c": 1}),
    };
    let files =
        converted.files().unwrap().map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap()));
    assert_eq!(files[0], ("tokenizer.json", "{\n \"a\": [\n  \"é\"\n ]\n}".to_owned()));
    assert_eq!(files[1], ("tokenizer_config.json", "{\n  \"b\": {}\n}\n".to_owned()));
    assert_eq!(files[2], ("special_tokens_map.json", "{\n  \"c\": 1\n}\n".to_owned()));
}

/// SentencePiece's own algorithm: join the best-scored neighbours, the leftmost first, until none
/// can be joined; what remains outside the vocabulary becomes bytes.
fn sentencepiece_ids(vocab: &GgufVocab, text: &str) -> Vec<u32> {
    let id = |piece: &str| vocab.tokens.iter().position(|token| token == piece);
    let mut pieces: Vec<String> =
        format!("▁{}", text.replace(' ', "▁")).chars().map(String::from).collect();
    loop {
        let joined = pieces.windows(2).map(|pair| id(&pair.concat()));
        let best = joined
            .enumerate()
            .filter_map(|(at, id)| Some((at, vocab.scores[id?])))
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some((at, _)) = best else { break };
        let right = pieces.remove(at + 1);
        pieces[at].push_str(&right);
    }
    let ids = pieces.iter().flat_map(|piece| match id(piece) {
        Some(id) => vec![id],
        None => piece.bytes().map(|byte| 3 + usize::from(byte)).collect(),
    });
    ids.map(|id| u32::try_from(id).unwrap()).collect()
}

proptest! {
    #[test]
    fn scores_become_merges(text in "[atheinx 日本é🙂]{1,24}") {
        let vocab = samples::sentencepiece();
        let tokenizer = Tokenizer::from_json(&samples::tokenizer_json(&vocab)).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), sentencepiece_ids(&vocab, &text));
    }
}

use super::super::samples;
use super::*;
use proptest::prelude::*;

fn pushed(detokenizer: &mut Detokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip);
    let text = pushed(&mut detokenizer, ids).concat();
    assert!(detokenizer.pending.len() <= 3);
    text + &detokenizer.finish().unwrap()
}

#[test]
fn a_special_token_may_be_kept() {
    let tokenizer = samples::byte_level();
    let mut detokenizer = Detokenizer::new(tokenizer, true).keeping(&[1]);
    assert_eq!(pushed(&mut detokenizer, &[0, 1, 2]), ["", "<s>", ""]);
}

#[test]
fn a_split_character_waits_and_is_flushed() {
    let tokenizer = samples::byte_level();
    let ids = tokenizer.encode("é🙂", false).unwrap();
    assert_eq!(ids.len(), 6, "the sample vocabulary spells these byte by byte");
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    assert_eq!(pushed(&mut detokenizer, &ids), ["", "é", "", "", "", "🙂"]);
    assert_eq!(detokenizer.finish().unwrap(), "");
    assert_eq!(pushed(&mut detokenizer, &ids[2..5]), ["", "", ""]);
    assert_eq!(detokenizer.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn bytes_stream_character_by_character_in_sentencepiece() {
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut detokenizer = Detokenizer::new(samples::llama(), true);
    let ids: Vec<u32> = "🙂🙂".bytes().map(byte).collect();
    assert_eq!(pushed(&mut detokenizer, &ids), ["", "", "", "🙂", "", "", "", "🙂"]);
    // A broken character costs a U+FFFD a byte and leaves the ones around it alone.
    let ids = [byte(0xE6), byte(0x97), byte(b'x'), byte(0xE6)];
    assert_eq!(pushed(&mut detokenizer, &ids), ["", "", "\u{FFFD}\u{FFFD}x", ""]);
    let the = samples::llama().token_id("▁the").unwrap();
    assert_eq!(detokenizer.push(the).unwrap(), "\u{FFFD} the");
}

#[test]
fn the_leading_space_of_sentencepiece_is_removed_once() {
    let tokenizer = samples::llama();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    let (the, two, bos) = (id("▁the"), id("▁▁"), 1);
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), true);
    assert_eq!(pushed(&mut detokenizer, &[bos, the, bos, the]), ["", "the", "", " the"]);
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), true);
    assert_eq!(pushed(&mut detokenizer, &[two, two]), [" ", "  "]);
    // A byte can be the space, too.
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    assert_eq!(pushed(&mut detokenizer, &[3 + 0x20, the]), ["", " the"]);
}

#[test]
fn an_unknown_token_changes_nothing() {
    let tokenizer = samples::byte_level();
    let ids = tokenizer.encode("é", false).unwrap();
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    assert_eq!(detokenizer.push(ids[0]).unwrap(), "");
    assert!(matches!(
        detokenizer.push(u32::MAX),
        Err(TokenizerError::UnknownToken { id: u32::MAX, .. })
    ));
    assert_eq!(detokenizer.push(ids[1]).unwrap(), "é");
}

#[test]
fn text_after_a_prompt_continues_it() {
    let tokenizer = samples::llama();
    let the = tokenizer.token_id("▁the").unwrap();
    let after = |prompt: &[u32]| Detokenizer::after_prompt(tokenizer.clone(), true, prompt);
    assert_eq!(after(&[1, the]).unwrap().push(the).unwrap(), " the");
    assert_eq!(after(&[1]).unwrap().push(the).unwrap(), "the");
    assert!(after(&[u32::MAX]).is_err());
}

/// Ids that exercise characters, bytes and specials of every sample vocabulary alike.
fn ids() -> impl Strategy<Value = Vec<u32>> {
    // The bytes of characters of every length make valid sequences likely.
    let bytes = prop::sample::select("é日🙂👩\u{200D}👧 a".bytes().collect::<Vec<u8>>());
    let id = prop_oneof![
        4 => bytes.prop_map(|byte| 3 + u32::from(byte)),
        4 => 0u32..280,
        1 => 0u32..3,
    ];
    prop::collection::vec(id, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The decoders of the `tokenizers` crate are the oracle, wherever it breaks no character.
    #[test]
    fn streamed_text_is_the_whole_text(ids in ids(), skip in any::<bool>()) {
        for (tokenizer, oracle) in samples::every() {
            let text = streamed(tokenizer, &ids, skip);
            prop_assert_eq!(&text, &tokenizer.decode(&ids, skip).unwrap());
            let expected = oracle.decode(&ids, skip).unwrap();
            let is_byte_level = !tokenizer.pieces().replaces_each_byte();
            if is_byte_level || !expected.contains('\u{FFFD}') {
                prop_assert_eq!(&text, &expected);
            }
        }
    }

    /// No character of a text that is well-formed is ever replaced, wherever it is cut.
    #[test]
    fn well_formed_text_is_never_replaced(text in "[a日本é🙂👩👧\u{200D}\u{FE0F} ]{0,20}") {
        for tokenizer in [samples::byte_level(), samples::llama()] {
            let ids = tokenizer.encode(&text, false).unwrap();
            let mut detokenizer = Detokenizer::new(tokenizer, true);
            let pieces = pushed(&mut detokenizer, &ids);
            prop_assert_eq!(detokenizer.finish().unwrap(), "");
            prop_assert_eq!(pieces.concat(), text.as_str());
        }
    }

    /// A prompt and what follows it make one text, wherever the border lies.
    #[test]
    fn a_prompt_and_its_continuation_make_one_text(ids in ids(), border in 0usize..24) {
        let (prompt, generated) = ids.split_at(border.min(ids.len()));
        for (tokenizer, _) in samples::every() {
            let mut whole = Detokenizer::new(tokenizer.clone(), true);
            let mut after = Detokenizer::after_prompt(tokenizer.clone(), true, prompt).unwrap();
            pushed(&mut whole, prompt);
            prop_assert_eq!(pushed(&mut whole, generated), pushed(&mut after, generated));
            prop_assert_eq!(whole.finish().unwrap(), after.finish().unwrap());
        }
    }
}

//! A stream, put together again, is the whole answer; and both are the text of the tokens.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::harness::{Server, TOKENIZER, VOCAB_SIZE, ids, play};

/// Scripts for two choices: any tokens, whole or broken characters, end-of-sequence included.
fn scripts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let vocab = u32::try_from(VOCAB_SIZE).unwrap();
    let any = prop::collection::vec(0..vocab, 0..12);
    let words = prop::sample::select(vec!["hello", " 世界", "é", "👩‍👩‍👧", "the quick", "\n", "aab"]);
    let text = prop::collection::vec(words, 0..4).prop_map(|words| ids(&words.concat()));
    prop::collection::vec(prop_oneof![any, text], 2)
}

#[derive(Debug, Clone)]
struct Case {
    scripts: Vec<Vec<u32>>,
    stops: Vec<&'static str>,
    extra: Value,
    chat: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let stops =
        prop::sample::subsequence(vec!["lo", "ab", "界", "👩", "u", "e q", "\n", "o 世"], 0..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0_usize..4);
    (scripts(), stops, flags).prop_map(|(scripts, stops, (chat, logprobs, echo, skip, min))| {
        let mut extra = json!({
            "n": 2, "max_tokens": 20, "min_tokens": min, "skip_special_tokens": skip,
        });
        if logprobs && chat {
            extra["logprobs"] = json!(true);
            extra["top_logprobs"] = json!(1);
        } else if logprobs {
            extra["logprobs"] = json!(1);
        }
        if echo && !chat {
            extra["echo"] = json!(true);
        }
        Case { scripts, stops, extra, chat }
    })
}

/// Appends a chunk's choice to a whole one, as a client does.
pub fn append(whole: &mut Value, chunk: &Value) {
    let text = chunk["text"].as_str().or(chunk["delta"]["content"].as_str()).unwrap_or_default();
    let so_far = whole["text"].as_str().unwrap_or_default();
    whole["text"] = json!(format!("{so_far}{text}"));
    if let Some(thought) = chunk["delta"]["reasoning_content"].as_str() {
        let so_far = whole["reasoning"].as_str().unwrap_or_default();
        whole["reasoning"] = json!(format!("{so_far}{thought}"));
    }
    for call in chunk["delta"]["tool_calls"].as_array().into_iter().flatten() {
        append_call(whole, call);
    }
    for id in chunk["token_ids"].as_array().into_iter().flatten() {
        if whole["token_ids"].is_null() {
            whole["token_ids"] = json!([]);
        }
        whole["token_ids"].as_array_mut().unwrap().push(id.clone());
    }
    for field in ["finish_reason", "stop_reason"] {
        if !chunk[field].is_null() {
            assert!(whole[field].is_null(), "{field} came twice");
            whole[field] = chunk[field].clone();
        }
    }
    for (name, values) in chunk["logprobs"].as_object().into_iter().flatten() {
        for value in values.as_array().into_iter().flatten() {
            if whole["logprobs"][name].is_null() {
                whole["logprobs"][name] = json!([]);
            }
            whole["logprobs"][name].as_array_mut().unwrap().push(value.clone());
        }
    }
}

/// Appends a piece of a call, whose id nobody can foresee.
fn append_call(whole: &mut Value, call: &Value) {
    if whole["calls"].is_null() {
        whole["calls"] = json!([]);
    }
    let calls = whole["calls"].as_array_mut().unwrap();
    let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
    if index == calls.len() {
        assert!(call["id"].is_string() && call["type"] == "function");
        calls.push(json!({"name": call["function"]["name"], "arguments": ""}));
    } else {
        assert!(call.get("id").is_none() && call["function"].get("name").is_none());
    }
    let arguments = calls[index]["arguments"].as_str().unwrap().to_owned();
    calls[index]["arguments"] =
        (arguments + call["function"]["arguments"].as_str().unwrap()).into();
}

/// A choice of either kind of answer, reduced to what [`append`] builds.
pub fn reduce(choice: &Value) -> Value {
    let mut whole = json!({});
    let mut chunk = choice.clone();
    let message = &choice["message"];
    if let Some(content) = message["content"].as_str() {
        chunk["text"] = json!(content);
    }
    if message.is_object() {
        let mut calls = message["tool_calls"].clone();
        for (index, call) in calls.as_array_mut().into_iter().flatten().enumerate() {
            call["index"] = json!(index);
        }
        chunk["delta"] = json!({
            "reasoning_content": message["reasoning_content"], "tool_calls": calls,
        });
    }
    append(&mut whole, &chunk);
    whole
}

async fn check(server: &Server, script: &Mutex<Vec<Vec<u32>>>, case: Case) {
    *script.lock().unwrap() = case.scripts.clone();
    let (path, mut body) = if case.chat {
        let messages = json!([{"role": "user", "content": "hi"}]);
        ("/v1/chat/completions", json!({"model": "base", "messages": messages}))
    } else {
        ("/v1/completions", json!({"model": "base", "prompt": "jump"}))
    };
    body.as_object_mut().unwrap().extend(case.extra.as_object().unwrap().clone());
    if !case.stops.is_empty() {
        body["stop"] = json!(case.stops);
    }
    let whole = server.answer(path, &body).await;
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let events = server.stream(path, &body).await;
    let (done, events) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
    let mut choices = vec![json!({}), json!({})];
    for chunk in chunks {
        assert!(chunk["usage"].is_null() && chunk["created"] == usage["created"]);
        for choice in chunk["choices"].as_array().unwrap() {
            append(
                &mut choices[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()],
                choice,
            );
        }
    }
    let expected: Vec<_> = whole["choices"].as_array().unwrap().iter().map(reduce).collect();
    assert_eq!(choices, expected);
    if case.extra["min_tokens"] == 0 {
        for (choice, script) in expected.iter().zip(&case.scripts) {
            check_text(choice, script, &case);
        }
    }
}

/// The oracle: all bytes before the end of sequence at once, cut at the first stop string.
fn check_text(choice: &Value, script: &[u32], case: &Case) {
    let skip = case.extra["skip_special_tokens"] == true;
    let script = script.iter().copied().take(20).take_while(|token| *token != super::harness::EOS);
    let bytes: Vec<u8> = script
        .filter(|token| !(skip && *token < 3))
        .flat_map(|token| TOKENIZER.token_bytes(token).unwrap())
        .collect();
    // Broken characters: decoders differ in how many replacement characters they write.
    let Ok(text) = String::from_utf8(bytes) else { return };
    let end = case.stops.iter().filter_map(|stop| text.find(stop)).min();
    let text = end.map_or(&text[..], |end| &text[..end]);
    let echo = if case.extra["echo"] == true { "jump" } else { "" };
    assert_eq!(choice["text"], format!("{echo}{text}"));
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let script = Arc::new(Mutex::new(Vec::<Vec<u32>>::new()));
    let server = runtime.block_on(async {
        let (server, engine) = Server::start().await;
        let script = Arc::clone(&script);
        engine.script(move |request, choice| {
            play(request, choice, script.lock().unwrap()[choice].clone())
        });
        server
    });
    proptest!(|(case in cases())| runtime.block_on(check(&server, &script, case)));
}

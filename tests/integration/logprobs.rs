//! Log-probabilities that evaluation harnesses can rely on, from the real model over real HTTP.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::model;
use crate::support::server::Server;

const PROMPT: &str = "naïve 日本語 🙂👩‍👩‍👧 café: the capital of France is";

fn floats(value: &Value) -> Vec<Option<f64>> {
    value.as_array().unwrap().iter().map(Value::as_f64).collect()
}

/// Every array of one length, offsets that lie on the tokens' texts, the token itself in its list.
fn check_completion(choice: &Value, top: usize) {
    let (text, logprobs) = (choice["text"].as_str().unwrap(), &choice["logprobs"]);
    let tokens = logprobs["tokens"].as_array().unwrap();
    let chosen = floats(&logprobs["token_logprobs"]);
    let tops = logprobs["top_logprobs"].as_array().unwrap();
    let offsets: Vec<usize> = serde_json::from_value(logprobs["text_offset"].clone()).unwrap();
    assert!([chosen.len(), tops.len(), offsets.len()].iter().all(|len| *len == tokens.len()));
    let chars: Vec<char> = text.chars().collect();
    for (place, token) in tokens.iter().map(|token| token.as_str().unwrap()).enumerate() {
        if place == 0 {
            assert!(chosen[0].is_none() && tops[0].is_null());
        } else {
            // The very same number, not one that is close.
            assert_eq!(chosen[place], tops[place][token].as_f64(), "{token:?}");
            let listed = tops[place].as_object().unwrap().len();
            assert!((1..=top + 1).contains(&listed), "{listed} of {top}");
        }
        if place > 0 {
            assert!(offsets[place] >= offsets[place - 1]);
        }
        if !token.starts_with("bytes:") && token != "<|im_end|>" {
            let rest: String = chars[offsets[place]..].iter().collect();
            assert!(rest.starts_with(token), "{token:?} is not at {} of {text:?}", offsets[place]);
        }
    }
    let spelt: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(spelt.contains("bytes:"), text.contains('🙂'), "no token is a part of a character");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_score_prompts_and_answers_exactly() {
    let server = Server::start(&model::hugging_face(), &["--served-model-name=base"]);
    let request = |top: usize, max_tokens: usize| {
        json!({
            "model": "base", "prompt": PROMPT, "temperature": 0, "echo": true, "logprobs": top,
            "max_tokens": max_tokens,
        })
    };
    for (top, max_tokens) in [(0, 8), (5, 8), (20, 0)] {
        let answer = server.post("/v1/completions", &request(top, max_tokens)).await;
        let choice = &answer["choices"][0];
        check_completion(choice, top);
        let usage = &answer["usage"];
        let tokens = choice["logprobs"]["tokens"].as_array().unwrap().len() as u64;
        assert_eq!(usage["total_tokens"], tokens);
        assert!(choice["text"].as_str().unwrap().starts_with(PROMPT));
    }
    // A prompt is scored as it is generated, and the same in any company.
    let request = |top, max_tokens| {
        let mut request = request(top, max_tokens);
        request["return_token_ids"] = true.into();
        request
    };
    let alone = server.post("/v1/completions", &request(5, 8)).await;
    let ids = |name: &str| alone["choices"][0][name].as_array().unwrap().clone();
    let whole = [ids("prompt_token_ids"), ids("token_ids")].concat();
    let scored = json!({
        "model": "base", "prompt": whole, "echo": true, "logprobs": 5, "max_tokens": 0,
    });
    let scored = server.post("/v1/completions", &scored).await;
    assert_eq!(scored["choices"][0]["logprobs"], alone["choices"][0]["logprobs"]);
    let many = join_all((0..6).map(|_| {
        let server = &server;
        async move { server.post("/v1/completions", &request(5, 8)).await }
    }));
    for other in many.await {
        assert_eq!(other["choices"], alone["choices"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_that_are_written_out_are_echoed_ranked_and_told_token_by_token() {
    let server = Server::start(&model::hugging_face(), &["--served-model-name=base"]);
    let text = "<|im_start|>user\nHi";
    let ids = server.post("/tokenize", &json!({"prompt": text})).await["tokens"].take();
    for prompt in [json!(text), ids] {
        let request = json!({
            "model": "base", "prompt": prompt, "echo": true, "logprobs": 20, "max_tokens": 1,
            "temperature": 0, "prompt_logprobs": 0,
        });
        let answer = server.post("/v1/completions", &request).await;
        let choice = &answer["choices"][0];
        assert!(choice["text"].as_str().unwrap().starts_with(text), "{choice}");
        assert_eq!(choice["logprobs"]["text_offset"], json!([0, 12, 16, 17, 19]));
        // Each rank is the place among the best, where the token is one of them.
        for place in 1..4 {
            let token = choice["logprobs"]["tokens"][place].as_str().unwrap();
            let best = choice["logprobs"]["top_logprobs"][place].as_object().unwrap();
            let index = best.keys().position(|name| name == token).unwrap();
            let told = choice["prompt_logprobs"][place].as_object().unwrap();
            let told = told.values().next().unwrap();
            assert_eq!(told["logprob"], best[token]);
            let rank = usize::try_from(told["rank"].as_u64().unwrap()).unwrap();
            assert!(rank == index + 1 || (rank > 20 && index == 20), "{rank} {index}");
        }
        // The same numbers, of tokens that are named.
        let named = json!({
            "model": "base", "prompt": text, "logprobs": 0, "logprob_token_ids": [0, 2, 28],
            "max_tokens": 1, "temperature": 0, "return_tokens_as_token_ids": true,
        });
        let named = server.post("/v1/completions", &named).await;
        let named = named["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap();
        for id in ["token_id:0", "token_id:2", "token_id:28"] {
            assert!(named[id].as_f64().unwrap() < 0.0, "{id}");
        }
        let chosen = &choice["logprobs"]["token_logprobs"][4];
        assert!(named.values().any(|logprob| logprob == chosen), "{named:?} {chosen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_report_each_token_of_what_is_said() {
    let server = Server::start(&model::hugging_face(), &["--served-model-name=base"]);
    let request = json!({
        "model": "base", "temperature": 0, "logprobs": true, "top_logprobs": 4,
        "max_completion_tokens": 12, "return_token_ids": true,
        "messages": [{"role": "user", "content": "Say 🙂 and 日本."}],
    });
    let answer = server.post("/v1/chat/completions", &request).await;
    let choice = &answer["choices"][0];
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    assert_eq!(entries.len(), choice["token_ids"].as_array().unwrap().len());
    let mut bytes: Vec<u8> = Vec::new();
    for entry in entries {
        let best = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(best.len(), 4);
        // The greedy choice is the first of its list, bit for bit.
        assert_eq!(
            (&best[0]["token"], &best[0]["logprob"], &best[0]["bytes"]),
            (&entry["token"], &entry["logprob"], &entry["bytes"])
        );
        let logprobs = best.iter().map(|entry| entry["logprob"].as_f64().unwrap());
        assert!(logprobs.is_sorted_by(|a, b| a >= b));
        let own: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).unwrap();
        bytes.extend(own);
    }
    let spelt = String::from_utf8_lossy(&bytes).replace("<|im_end|>", "");
    assert_eq!(choice["message"]["content"], spelt);
}

//! What one request may ask of the engine: tokens that the model knows, and lists that are shared
//! instead of copied; and how an answer ends that may not go on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{
    EOS, Engine, MAX_MODEL_LEN, Server, TOKENIZER, VOCAB_SIZE, ids, model, play, say,
};
use crate::engine::request::{Event, FinishReason};
use crate::grammar::GrammarCompiler;
use crate::server::form;
use crate::server::state::{ServerConfig, Serving};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A server whose model knows `vocab_size` tokens, fewer than its tokenizer.
async fn with_vocabulary(vocab_size: usize) -> (Server, Engine) {
    let server = Server::loading(ServerConfig::default(), Duration::from_secs(60)).await;
    let (serving, engine) = model(16);
    let vocabulary = form::vocabulary(&TOKENIZER, vocab_size, &[EOS]);
    let grammars = Arc::new(GrammarCompiler::new(vocabulary, 1 << 20).unwrap());
    assert!(server.state.set_serving(Serving { vocab_size, grammars, ..serving }));
    (server, engine)
}

/// A text, and the largest id among its tokens: the first that a model of so many does not know.
fn beyond() -> (&'static str, usize) {
    let text = "Once upon a time";
    (text, *ids(text).iter().max().unwrap() as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_model_does_not_know_is_refused_on_every_way_in() {
    let (text, unknown) = beyond();
    let (server, engine) = with_vocabulary(unknown).await;
    engine.script(|_, _| unreachable!("nothing may reach the engine"));
    let all: Vec<u32> = ids(text);
    let message = json!([{"role": "user", "content": text}]);
    let known = "ab";
    assert!(ids(known).iter().all(|id| (*id as usize) < unknown));
    let biased = Value::Object([(unknown.to_string(), json!(1))].into_iter().collect());
    let ways = [
        (COMPLETIONS, "prompt", json!({"prompt": text})),
        (COMPLETIONS, "prompt", json!({"prompt": [known, text]})),
        (COMPLETIONS, "prompt", json!({"prompt": all})),
        (COMPLETIONS, "prompt", json!({"prompt": [[1], all]})),
        (COMPLETIONS, "prompt", json!({"prompt": text, "max_tokens": 0, "echo": true})),
        (COMPLETIONS, "stop_token_ids", json!({"prompt": known, "stop_token_ids": [unknown]})),
        (
            COMPLETIONS,
            "allowed_token_ids",
            json!({"prompt": known, "allowed_token_ids": [unknown]}),
        ),
        (COMPLETIONS, "logit_bias", json!({"prompt": known, "logit_bias": biased})),
        (CHAT, "messages", json!({"messages": message})),
        (
            CHAT,
            "messages",
            json!({"messages": message, "tools": [
                {"type": "function", "function": {"name": "f"}},
            ]}),
        ),
        ("/v1/responses", "input", json!({"input": text})),
        ("/v1/responses", "input", json!({"input": message})),
        ("/v1/embeddings", "input", json!({"input": text})),
        ("/v1/embeddings", "input", json!({"input": all})),
        ("/tokenize", "prompt", json!({"prompt": text})),
        ("/tokenize", "messages", json!({"messages": message})),
        ("/detokenize", "tokens", json!({"tokens": all})),
    ];
    for (path, param, mut body) in ways {
        body["model"] = json!("base");
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400, "{path} {body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{path} {body} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_token_is_told_by_its_text() {
    let (text, unknown) = beyond();
    let (server, _engine) = with_vocabulary(unknown).await;
    let answer = server.post(COMPLETIONS, &json!({"model": "base", "prompt": text})).await;
    let error: Value = answer.json().await.unwrap();
    let token = TOKENIZER.token_text(u32::try_from(unknown).unwrap()).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("{token:?}")), "{message}");
    assert!(message.contains(&unknown.to_string()), "{message}");
}

/// Lists of a request are there once, however many prompts and choices it has.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_is_shared_by_all_prompts_of_a_request() {
    let (server, mut engine) = Server::start().await;
    let bias: serde_json::Map<String, Value> =
        (0..VOCAB_SIZE).map(|id| (id.to_string(), json!(0.5))).collect();
    let body = json!({
        "model": "base", "prompt": ["a", "b", "c", "d"], "n": 8, "logit_bias": bias,
        "allowed_token_ids": (0..VOCAB_SIZE).collect::<Vec<_>>(), "cache_salt": "salt",
        "stop_token_ids": (10..VOCAB_SIZE).collect::<Vec<_>>(), "repetition_penalty": 1.5,
    });
    let url = format!("{}{COMPLETIONS}", server.url);
    let _asking = tokio::spawn(server.client.post(url).json(&body).send());
    let first = engine.receive().await;
    for _ in 1..4 {
        let next = engine.receive().await;
        let (a, b) = (&first.request.sampling, &next.request.sampling);
        assert!(Arc::ptr_eq(&a.logit_bias, &b.logit_bias));
        assert!(Arc::ptr_eq(&a.stop_token_ids, &b.stop_token_ids));
        let sets = [a, b].map(|params| params.allowed_token_ids.as_ref().unwrap());
        assert!(Arc::ptr_eq(sets[0], sets[1]));
        assert!(Arc::ptr_eq(&first.request.cache_salt, &next.request.cache_salt));
    }
    assert_eq!(first.request.sampling.logit_bias.len(), VOCAB_SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_logit_bias_is_a_token_written_in_one_way() {
    let server = Server::saying("hello").await;
    let body = |key: &str| json!({"model": "base", "prompt": "a", "logit_bias": {key: 1}});
    for key in ["0", "5", "319"] {
        assert_eq!(server.post(COMPLETIONS, &body(key)).await.status(), 200, "{key}");
    }
    let wrong = ["05", "+5", "-0", "-1", " 5", "5 ", "5.0", "0x5", "", "٥", "320", "4294967301"];
    for key in wrong {
        let response = server.post(COMPLETIONS, &body(key)).await;
        assert_eq!(response.status(), 400, "{key}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], "logit_bias");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("{key:?}")), "{message}");
    }
    let long = "9".repeat(100_000);
    let error = server.post(COMPLETIONS, &body(&long)).await.text().await.unwrap();
    assert!(error.len() < 400, "a key is repeated as a whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_with_which_nothing_can_begin_are_refused() {
    let server = Server::saying("hello").await;
    let digit = ids("7")[0];
    let letter = ids("h")[0];
    let cases = [
        json!({"allowed_token_ids": [EOS], "min_tokens": 1}),
        json!({"allowed_token_ids": [EOS, digit], "stop_token_ids": [digit], "min_tokens": 2}),
        json!({"allowed_token_ids": [letter], "guided_regex": "[0-9]+"}),
        json!({"allowed_token_ids": [EOS, letter], "guided_regex": "[0-9]+"}),
        json!({"allowed_token_ids": [letter], "guided_json": {"type": "object"}}),
    ];
    for fields in cases {
        let mut body = json!({"model": "base", "prompt": "a"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let response = server.post(COMPLETIONS, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], "allowed_token_ids", "{error}");
    }
    let possible = [
        json!({"allowed_token_ids": [EOS]}),
        json!({"allowed_token_ids": [EOS], "min_tokens": 1, "ignore_eos": true}),
        json!({"allowed_token_ids": [letter, digit], "guided_regex": "[0-9]+"}),
        json!({"allowed_token_ids": [letter], "guided_regex": "[0-9]*"}),
    ];
    for fields in possible {
        let mut body = json!({"model": "base", "prompt": "a"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        assert_eq!(server.post(COMPLETIONS, &body).await.status(), 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_go_on_is_cut_off_and_says_so() {
    let (server, engine) = Server::start().await;
    engine.script(|request, choice| {
        let mut events = play(request, choice, ids("he"));
        *events.last_mut().unwrap() = Event::Finished(FinishReason::Stuck);
        events
    });
    let body = json!({"model": "base", "prompt": "a"});
    let answer = server.answer(COMPLETIONS, &body).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("he"), &json!("length")));
    assert_eq!(choice["stop_reason"], "no_token_allowed");
    let body = json!({"model": "base", "input": "a"});
    assert_eq!(server.answer("/v1/responses", &body).await["status"], "incomplete");
}

/// Every stop string of a text, with every `min_tokens`: it counts where it ends behind the text of
/// the first `min_tokens` tokens, wherever it begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_may_begin_before_min_tokens_and_ends_after() {
    const TEXT: &str = "never ever, ever";
    let server = Server::saying(TEXT).await;
    let tokens = ids(TEXT);
    assert!(tokens.len() < MAX_MODEL_LEN - 4 && tokens.len() > 5);
    for min_tokens in [0, 1, 3, 5] {
        let from = TOKENIZER.decode(&tokens[..min_tokens], false).unwrap().len();
        for start in 0..TEXT.len() {
            for end in (start + 1..=TEXT.len()).step_by(2) {
                let stop = &TEXT[start..end];
                let found = TEXT.match_indices(stop).map(|(at, _)| at);
                // Overlapping ones too.
                let found = found.chain((0..TEXT.len()).filter(|at| TEXT[*at..].starts_with(stop)));
                let found = found.filter(|at| at + stop.len() > from).min();
                let body = json!({
                    "model": "base", "prompt": "a", "stop": stop, "min_tokens": min_tokens,
                    "max_tokens": 40,
                });
                let answer = server.answer(COMPLETIONS, &body).await;
                let expected = found.map_or(TEXT, |at| &TEXT[..at]);
                assert_eq!(answer["choices"][0]["text"], expected, "{stop:?} after {min_tokens}");
                let reason = found.map_or(Value::Null, |_| json!(stop));
                assert_eq!(answer["choices"][0]["stop_reason"], reason);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_temperatures_reach_the_engine_as_greedy() {
    let (server, engine) = Server::start().await;
    engine.script(|request, choice| {
        assert_eq!(request.sampling.is_greedy(), request.sampling.temperature < 1e-5);
        say(request, choice, if request.sampling.is_greedy() { "likeliest" } else { "drawn" })
    });
    let cases =
        [("0", true), ("1e-320", true), ("2.9e-39", true), ("9.9e-6", true), ("0.00002", false)];
    for (temperature, greedy) in cases {
        let temperature: Value = serde_json::from_str(temperature).unwrap();
        let body = json!({"model": "base", "prompt": "a", "temperature": temperature});
        let answer = server.answer(COMPLETIONS, &body).await;
        let text = if greedy { "likeliest" } else { "drawn" };
        assert_eq!(answer["choices"][0]["text"], text, "{temperature}");
    }
}

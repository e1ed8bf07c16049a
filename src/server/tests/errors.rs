//! Every way to be refused: status and whole body, in one table.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Server, VOCAB_SIZE};
use super::openapi::assert_described;
use crate::server::state::ServerConfig;

/// A completion with `field` set to `value`.
fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": "base", "prompt": "hi"});
    body[field] = value;
    body
}

/// A chat with `field` set to `value`.
fn chat_with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "hi"}]});
    body[field] = value;
    body
}

async fn table(server: &Server, path: &str, bodies: impl IntoIterator<Item = Value>) -> String {
    let mut table = String::new();
    for body in bodies {
        let response = server.post(path, &body).await;
        let status = response.status().as_u16();
        let answer = response.text().await.unwrap();
        let json = serde_json::from_str(&answer).unwrap();
        assert_described(path, "post", status, "application/json", &json);
        let body: String = body.to_string().chars().take(160).collect();
        writeln!(table, "{body}\n  {status} {answer}").unwrap();
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn a_salt_says_something_and_guesses_are_few() {
    let (server, _engine) = Server::start().await;
    let wrong = [
        ("cache_salt", json!("")),
        ("cache_salt", json!(7)),
        ("num_speculative_tokens", json!(17)),
        ("num_speculative_tokens", json!({"num_tokens": 4})),
    ];
    for (field, value) in wrong {
        let mut body = json!({"model": "base", "prompt": "hi"});
        body[field] = value;
        let answer = server.post("/v1/completions", &body).await;
        assert_eq!(answer.status(), 400);
        let answer: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(answer["error"]["param"], field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_forms_are_refused_by_the_name_of_the_field() {
    let server = Server::saying("never said").await;
    let bodies = vec![
        with("guided_json", json!(5)),
        with("guided_json", json!("{")),
        with("guided_json", json!({"type": "array", "contains": {"type": "null"}})),
        with("guided_json", json!({"type": "string", "minLength": 3, "maxLength": 2})),
        with("guided_regex", json!("a(")),
        with("guided_choice", json!(["a", 1])),
        with("guided_choice", json!([])),
        with("guided_grammar", json!("start: nothing")),
        with("guided_whitespace_pattern", json!(" ")),
        with("structured_outputs", json!({"json": {}, "regex": "a"})),
        with("structured_outputs", json!({"choice": "a"})),
        with("structured_outputs", json!({"regex": "a", "whitespace_pattern": " "})),
        with("response_format", json!({"type": "structural_tag"})),
    ];
    insta::assert_snapshot!(table(&server, "/v1/completions", bodies).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_completions_are_refused_by_the_name_of_the_field() {
    let server = Server::saying("hello").await;
    let bodies = [
        json!({"prompt": "hi"}),
        json!({"model": 1, "prompt": "hi"}),
        json!({"model": "nobody", "prompt": "hi"}),
        json!({"model": "Tenant", "prompt": "hi"}),
        json!({"model": "base"}),
        with("prompt", json!("")),
        with("prompt", json!([])),
        with("prompt", json!([[]])),
        with("prompt", json!(["a", [1]])),
        with("prompt", json!([1, true])),
        with("prompt", json!([VOCAB_SIZE])),
        with("prompt", json!([[1], [-1]])),
        with("prompt", json!({"text": "a"})),
        with("prompt", json!(vec![5; 64])),
        with("prompt", json!(vec!["a"; 2000])),
        with("max_tokens", json!(-1)),
        with("max_tokens", json!(true)),
        with("max_tokens", json!("16")),
        with("max_tokens", json!(1.5)),
        with("max_tokens", json!(i64::MAX)),
        with("max_tokens", json!(u64::MAX)),
        with("max_tokens", json!(1e300)),
        with("max_tokens", json!(63)),
        with("n", json!(0)),
        with("n", json!(129)),
        with("n", json!(false)),
        with("best_of", json!(2)),
        with("best_of", json!(-1)),
        with("temperature", json!(-0.1)),
        with("temperature", json!(2.1)),
        with("temperature", json!("hot")),
        with("top_p", json!(1.5)),
        with("top_k", json!(-2)),
        with("min_p", json!(2)),
        with("repetition_penalty", json!(0)),
        with("presence_penalty", json!(-3)),
        with("frequency_penalty", json!(3)),
        with("logit_bias", json!([1])),
        with("logit_bias", json!({"x": 1})),
        with("logit_bias", json!({"320": 1})),
        with("logit_bias", json!({"1": 101})),
        with("logit_bias", json!({"1": true})),
        with("seed", json!(9_223_372_036_854_775_808_u64)),
        with("stop", json!(1)),
        with("stop", json!([1])),
        with("stop", json!("")),
        with("stop", json!(["a", "b", "c", "d", "e"])),
        with("stop_token_ids", json!([320])),
        with("min_tokens", json!(17)),
        with("logprobs", json!(21)),
        with("logprobs", json!(true)),
        with("prompt_logprobs", json!(-1)),
        with("echo", json!("yes")),
        with("stream", json!(1)),
        with("stream_options", json!({"include_usage": true})),
        json!({"model": "base", "prompt": "hi", "stream": true, "stream_options": {"include_usage": 1}}),
        json!({"model": "base", "prompt": "hi", "stream": true, "prompt_logprobs": 1}),
        with("suffix", json!("end")),
        with("use_beam_search", json!(true)),
        with("response_format", json!({"type": "poem"})),
        with("prompt_embeds", json!("AAAA")),
        with("modalities", json!("audio")),
        // More than may wait at once: another try would not help.
        with("prompt", json!(vec!["a"; 17])),
    ];
    insta::assert_snapshot!(table(&server, "/v1/completions", bodies).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_and_accepted_fields_are_checked_too() {
    let server = Server::saying("hello").await;
    let bodies = [
        with("include_stop_str_in_output", json!("yes")),
        with("allowed_token_ids", json!([])),
        with("allowed_token_ids", json!([320])),
        with("truncate_prompt_tokens", json!(0)),
        with("truncate_prompt_tokens", json!(65)),
        with("bad_words", json!(["x"])),
        with("user", json!(1)),
        with("store", json!("yes")),
        with("metadata", json!({"a": 1})),
        with("metadata", json!(["a"])),
    ];
    insta::assert_snapshot!(table(&server, "/v1/completions", bodies).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_chats_are_refused_by_the_name_of_the_field() {
    let server = Server::saying("hello").await;
    let part = |part: Value| chat_with("messages", json!([{"role": "user", "content": [part]}]));
    let bodies = [
        json!({"model": "base"}),
        json!({"messages": [{"role": "user", "content": "hi"}]}),
        chat_with("messages", json!([])),
        chat_with("messages", json!("hi")),
        chat_with("messages", json!([{"role": "user"}])),
        chat_with("messages", json!([{"role": "poet", "content": "hi"}])),
        chat_with("messages", json!([{"role": "user", "content": "x".repeat(80)}])),
        part(json!({"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}})),
        part(json!({"type": "text", "text": 1})),
        part(json!({"type": "poem"})),
        chat_with("max_tokens", json!(0)),
        chat_with("max_completion_tokens", json!(60)),
        chat_with("top_logprobs", json!(2)),
        chat_with("logprobs", json!(1)),
        chat_with("tools", json!([{"type": "function"}])),
        chat_with("tool_choice", json!("required")),
        chat_with("functions", json!([{}])),
        chat_with("modalities", json!(["text", "audio"])),
        chat_with("audio", json!({"voice": "x"})),
        chat_with("response_format", json!({"type": "json_schema"})),
        chat_with("response_format", json!({"type": "json_schema", "json_schema": {}})),
        chat_with(
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "a b"}}),
        ),
        chat_with("response_format", json!({"type": "json_schema", "json_schema": {"name": "a"}})),
        chat_with(
            "response_format",
            json!({
                "type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "cow"}},
            }),
        ),
        json!({
            "model": "base", "messages": [{"role": "user", "content": "hi"}],
            "response_format": {"type": "json_object"}, "guided_regex": "a",
        }),
        chat_with("chat_template", json!("{{ 1 }}")),
        chat_with("chat_template_kwargs", json!({"tokenize": true})),
        chat_with("continue_final_message", json!(true)),
        chat_with("echo", json!(true)),
        chat_with("messages", json!([{"role": "system", "content": "refused"}])),
    ];
    insta::assert_snapshot!(table(&server, "/v1/chat/completions", bodies).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_for_tokens_are_refused() {
    let server = Server::saying("hello").await;
    let bodies = [
        json!({}),
        json!({"prompt": 1}),
        json!({"prompt": [1, 2], "messages": [{"role": "user", "content": "hi"}]}),
        json!({"model": "nobody", "prompt": "hi"}),
        json!({"messages": []}),
    ];
    let mut all = table(&server, "/tokenize", bodies).await;
    let bodies = [json!({}), json!({"tokens": "1"}), json!({"tokens": [320]})];
    all.push_str(&table(&server, "/detokenize", bodies).await);
    insta::assert_snapshot!(all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_at_all_is_answered_in_the_envelope_too() {
    let config = ServerConfig { max_body_bytes: 1000, ..ServerConfig::default() };
    let (server, engine) = Server::with_config(config, 16).await;
    engine.script(|_, _| Vec::new());
    let url = format!("{}/v1/completions", server.url);
    let json = "application/json";
    let post = |body: &'static str, kind: &'static str| {
        server.client.post(&url).header("content-type", kind).body(body).send()
    };
    let deep: &'static str = Box::leak("[".repeat(500).into_boxed_str());
    let long: &'static str = Box::leak("x".repeat(1001).into_boxed_str());
    let mut responses = Vec::new();
    for body in ["", "{", "[1]", "null", "{\"model\": NaN}", deep, "{\"a\": 1e999}"] {
        responses.push(post(body, json).await.unwrap());
    }
    responses.push(post(long, json).await.unwrap());
    responses.push(post("{}", "text/plain").await.unwrap());
    responses.push(server.client.post(&url).send().await.unwrap());
    responses.push(server.get("/v1/completions").await);
    responses.push(server.post("/health", &json!({})).await);
    responses.push(server.get("/v1/nothing").await);
    responses.push(server.get("//v1/models").await);
    responses.push(server.get("/v1/models/nobody").await);
    responses.push(server.get("/v1/models/..%2fbase").await);
    responses.push(server.get("/v1/models/%ff").await);
    let compressed = server.client.post(&url).header("content-encoding", "gzip");
    responses.push(compressed.header("content-type", json).body("{}").send().await.unwrap());
    let mut all = String::new();
    for response in responses {
        let allow = response.headers().get("allow").cloned();
        assert_eq!(response.headers()["content-type"], json);
        assert!(response.headers().contains_key("x-request-id"));
        let status = response.status().as_u16();
        let body = response.text().await.unwrap();
        writeln!(all, "{status} {body}{}", allow.map_or(String::new(), |a| format!(" {a:?}")))
            .unwrap();
    }
    insta::assert_snapshot!(all);
}

/// The bytes a server sends back to `request` until it closes.
async fn raw(server: &Server, request: &[u8]) -> String {
    let (address, request) = (server.url.replace("http://", ""), request.to_vec());
    let talk = move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end like another.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_huge_heads_and_slow_bodies_are_cut_off() {
    let config = ServerConfig {
        header_timeout: Duration::from_millis(100),
        body_timeout: Duration::from_millis(100),
        max_header_bytes: 4096,
        ..ServerConfig::default()
    };
    let (server, engine) = Server::with_config(config, 16).await;
    engine.script(|_, _| Vec::new());
    assert_eq!(raw(&server, b"GET /health HTTP/1.1\r\nx: ").await, "");
    let huge = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(8192));
    assert!(raw(&server, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let slow =
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        content-length: 10\r\n\r\n{";
    let answer = raw(&server, slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.ends_with("\"code\":null}}"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_allowed_is_refused_before_it_costs_anything() {
    let config =
        ServerConfig { max_choices: 8, max_request_tokens: 100, ..ServerConfig::default() };
    let (server, engine) = Server::with_config(config, 16).await;
    engine.script(|_, _| unreachable!("nothing may reach the engine"));
    let bodies = [
        json!({"model": "base", "prompt": vec!["a"; 9]}),
        json!({"model": "base", "prompt": vec!["a"; 2], "n": 5}),
        json!({"model": "base", "prompt": vec!["a"; 2], "n": 4, "max_tokens": 13}),
    ];
    insta::assert_snapshot!(table(&server, "/v1/completions", bodies).await);
}

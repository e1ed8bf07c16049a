//! `/v1/responses` over a loopback connection, in front of a scripted engine.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::harness::{Engine, Server, format_of, ids, play, say};
use crate::engine::request::Event;
use crate::text::tool_format::ToolFormat;

const PATH: &str = "/v1/responses";
const TEMPLATE: &str = "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}\
    {% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}\
    {% if add_generation_prompt %}<s>assistant\n{% endif %}\
    {% if enable_thinking %}<think>\n{% endif %}";
const THOUGHT: &str = "<think>\nhm é\n</think>\n\n";
const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"日\"}}\n</tool_call>";

async fn started() -> (Server, Engine) {
    calling_as(ToolFormat::Hermes).await
}

async fn calling_as(format: ToolFormat) -> (Server, Engine) {
    Server::chatting(format_of(TEMPLATE, format, true)).await
}

async fn saying(text: &'static str) -> Server {
    let (server, engine) = started().await;
    engine.script(move |request, choice| say(request, choice, text));
    server
}

fn asking(extra: Value) -> Value {
    let mut body = json!({"model": "tenant", "input": "hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null}])
}

/// Replaces ids and times, wherever they stand.
fn redact(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &mut *value) {
                    ("id" | "item_id" | "call_id", Value::String(id)) => {
                        // Some formats have ids of nine letters and digits.
                        let kind = id.split_once('_').map_or("", |(kind, _)| kind);
                        *id = format!("{kind}_[id]");
                    }
                    ("created_at", created) => *created = json!(0),
                    (_, value) => redact(value),
                }
            }
        }
        _ => {}
    }
}

async fn whole(server: &Server, body: &Value) -> Value {
    let response = server.post(PATH, body).await;
    let status = response.status();
    let mut answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    redact(&mut answer);
    answer
}

/// The events of a stream, each of which bears its type as its name.
async fn events(server: &Server, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let response = server.post(PATH, &body).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert!(text.ends_with("\n\n"), "{text}");
    let mut events = Vec::new();
    for event in text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':')) {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"], "{event}");
        assert_eq!(data["sequence_number"], events.len());
        events.push(data);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_response() {
    let server = saying("hello").await;
    let body = asking(json!({
        "instructions": "be brief", "metadata": {"a": "b"}, "store": true, "temperature": 0.7,
        "reasoning": {"effort": "none"}, "include": ["reasoning.encrypted_content"],
    }));
    insta::assert_json_snapshot!(whole(&server, &body).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_words_and_calls_are_items() {
    let server =
        saying("<think>\nhm\n</think>\n\nSo: <tool_call>\n{\"name\": \"f\"}\n</tool_call>").await;
    let body = asking(json!({"tools": tools()}));
    let answer = whole(&server, &body).await;
    insta::assert_json_snapshot!((&answer["output"], &answer["tools"], &answer["usage"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_what_is_said_have_log_probabilities() {
    let server = saying("<think>\nhm\n</think>\n\nSo: é").await;
    let include = json!(["message.output_text.logprobs", "reasoning.encrypted_content"]);
    let body = json!({"include": include, "top_logprobs": 1});
    let answer = whole(&server, &asking(body)).await;
    assert_eq!(answer["top_logprobs"], 1);
    let part = &answer["output"][1]["content"][0];
    let tokens = part["logprobs"].as_array().unwrap();
    let bytes = tokens.iter().flat_map(|token| token["bytes"].as_array().unwrap());
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert!(String::from_utf8(bytes).unwrap().contains(part["text"].as_str().unwrap()));
    for token in tokens {
        assert_eq!(
            (&token["logprob"], &token["top_logprobs"][0]["logprob"]),
            (&json!(-1.5), &json!(-0.5))
        );
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 1);
    }
    let without = whole(&server, &asking(json!({}))).await;
    assert_eq!(
        (&without["output"][1]["content"][0]["logprobs"], &without["top_logprobs"]),
        (&json!([]), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_stream() {
    let server =
        saying("<think>\nhm\n</think>\n\nSo: <tool_call>\n{\"name\": \"f\"}\n</tool_call>").await;
    let mut events = events(&server, &asking(json!({"tools": tools()}))).await;
    events.iter_mut().for_each(redact);
    // The whole response is in a snapshot of its own.
    for event in &mut events {
        if let Some(response) = event.get_mut("response") {
            *response = json!({"status": response["status"], "items": response["output"].as_array().unwrap().len()});
        }
    }
    insta::assert_json_snapshot!(events);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_items_become_turns_of_the_conversation() {
    let (server, mut engine) = started().await;
    let body = asking(json!({
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "7"},
        ],
        "max_output_tokens": 5, "top_p": 0.5,
    }));
    let request = server.client.post(format!("{}{PATH}", server.url)).json(&body).send();
    let answer = tokio::spawn(request);
    let submission = engine.receive().await;
    let expected = "<s>system\nbe brief</s>\n<s>user\nhi</s>\n<s>assistant\n</s>\n<s>tool\n7</s>\n\
                    <s>assistant\n";
    let read = super::harness::TOKENIZER.decode(&submission.request.prompt, false).unwrap();
    assert_eq!(read, expected);
    let request = &submission.request;
    assert_eq!((request.n, request.sampling.max_tokens, request.sampling.top_p), (1, 5, 0.5));
    assert_eq!(request.adapter.as_ref().unwrap().name, "tenant");
    for event in play(request, 0, ids("hello there everybody")) {
        submission.replies[0].send(event);
    }
    let answer: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(answer["output"][0]["status"], "incomplete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_says_so() {
    let (server, engine) = started().await;
    engine.script(|request, choice| {
        let mut events = say(request, choice, "hello");
        events.pop();
        events.push(Event::Failed("the forward pass failed".to_owned()));
        events
    });
    let events = events(&server, &asking(json!({}))).await;
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.failed");
    let response = &last["response"];
    assert_eq!(response["status"], "failed");
    let error = json!({"code": "server_error", "message": "the forward pass failed"});
    assert_eq!(response["error"], error);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept() {
    let server = saying("hello").await;
    let answer: Value = server.post(PATH, &asking(json!({}))).await.json().await.unwrap();
    let path = format!("{PATH}/{}", answer["id"].as_str().unwrap());
    let url = format!("{}{path}", server.url);
    for response in [server.get(&path).await, server.client.delete(url).send().await.unwrap()] {
        assert_eq!(response.status(), 404);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error");
        assert_eq!(error["error"]["param"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_refused_by_its_name() {
    let server = saying("hello").await;
    let cases = [
        ("input", json!(null)),
        ("input", json!([])),
        ("input", json!([{"type": "item_reference", "id": "msg_1"}])),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}])),
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!({"id": "conv_1"})),
        ("background", json!(true)),
        ("prompt", json!({"id": "p"})),
        ("messages", json!([{"role": "user", "content": "hi"}])),
        ("max_tokens", json!(7)),
        ("n", json!(2)),
        ("top_logprobs", json!(2)),
        ("top_logprobs", json!(21)),
        ("max_output_tokens", json!(0)),
        ("max_output_tokens", json!(1_000_000)),
        ("truncation", json!("auto")),
        ("include", json!(["message.input_image.image_url"])),
        ("tools", json!([{"type": "web_search"}])),
        ("tools", json!([{"type": "file_search", "vector_store_ids": []}])),
        ("tools", json!([{"type": "computer_use_preview"}])),
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!("always")),
        ("tool_choice", json!({"type": "web_search"})),
        ("text", json!({"format": {"type": "xml"}})),
        ("text", json!({"format": {"type": "json_schema", "name": "a"}})),
        ("text", json!({"format": {"type": "json_schema", "name": "", "schema": {}}})),
        ("metadata", json!({"a": 1})),
        ("instructions", json!(["be brief"])),
        ("temperature", json!(3)),
    ];
    let mut table = String::new();
    for (field, value) in cases {
        let body = asking(json!({field: value}));
        let response = server.post(PATH, &body).await;
        let (status, answer) = (response.status(), response.text().await.unwrap());
        writeln!(table, "{field} {}\n  {} {answer}", body[field], status.as_u16()).unwrap();
    }
    insta::assert_snapshot!(table);
}

/// What a client makes of the events between the first two and the last.
fn assemble(events: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for event in events {
        let index = usize::try_from(event["output_index"].as_u64().unwrap()).unwrap();
        let name = event["type"].as_str().unwrap().strip_prefix("response.").unwrap();
        if name == "output_item.added" {
            assert_eq!(index, items.len(), "one item after another");
            items.push(event["item"].clone());
            continue;
        }
        assert_eq!(index + 1, items.len(), "the last item");
        let item = &mut items[index];
        if let Some(id) = event.get("item_id") {
            assert_eq!(id, &item["id"]);
        }
        let append = |text: &mut Value| {
            let more = event["delta"].as_str().unwrap();
            let tokens = event["logprobs"].as_array().is_some_and(|tokens| !tokens.is_empty());
            assert!(!more.is_empty() || tokens);
            *text = json!(format!("{}{more}", text.as_str().unwrap()));
        };
        match name {
            "content_part.added" => {
                item["content"].as_array_mut().unwrap().push(event["part"].clone())
            }
            "output_text.delta" => {
                append(&mut item["content"][0]["text"]);
                let tokens = item["content"][0]["logprobs"].as_array_mut().unwrap();
                tokens.extend(event["logprobs"].as_array().unwrap().clone());
            }
            "reasoning_text.delta" => append(&mut item["content"][0]["text"]),
            "function_call_arguments.delta" => append(&mut item["arguments"]),
            "output_text.done" | "reasoning_text.done" => {
                assert_eq!(event["text"], item["content"][0]["text"]);
                assert_eq!(event["logprobs"], item["content"][0]["logprobs"]);
            }
            "content_part.done" => assert_eq!(event["part"], item["content"][0]),
            "function_call_arguments.done" => assert_eq!(event["arguments"], item["arguments"]),
            "output_item.done" => {
                item["status"] = event["item"]["status"].clone();
                assert_eq!(&event["item"], item);
            }
            other => panic!("{other}"),
        }
    }
    items
}

async fn check(server: &Server, script: &Mutex<Vec<u32>>, tokens: Vec<u32>, extra: Value) {
    *script.lock().unwrap() = tokens;
    let body = asking(extra);
    let Ok(mut whole) = server.try_answer(PATH, &body).await else { return };
    redact(&mut whole);
    let events = events(server, &body).await;
    let (first, rest) = events.split_first_chunk::<2>().unwrap();
    let (last, changes) = rest.split_last().unwrap();
    assert_eq!(
        first.each_ref().map(|event| event["response"]["output"].clone()),
        [json!([]), json!([])]
    );
    assert_eq!(json!(assemble(changes)), last["response"]["output"]);
    let mut response = last["response"].clone();
    redact(&mut response);
    assert_eq!(response, whole);
    let status = whole["status"].as_str().unwrap();
    assert_eq!(last["type"], format!("response.{status}"));
    assert_eq!(whole["incomplete_details"].is_null(), status == "completed");
    let calls =
        whole["output"].as_array().unwrap().iter().filter(|it| it["type"] == "function_call");
    let only_one = body["parallel_tool_calls"] == false || body["tool_choice"].is_object();
    assert!(calls.count() <= if only_one { 1 } else { usize::MAX });
}

/// What a response must be, where it ends, and what else changes how it is taken apart.
fn extras() -> impl Strategy<Value = Value> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let forms = [
        json!({"type": "text"}),
        json!({"type": "json_object"}),
        json!({"type": "json_schema", "name": "s", "schema": schema, "strict": true}),
    ];
    let f = json!({"type": "function", "name": "f"});
    let choices = ["none".into(), "auto".into(), "required".into(), f];
    let pick = |options: &[Value]| prop::sample::select(options.to_vec());
    let stops = prop::sample::subsequence(vec!["lo", "界", "}", "tool_call>\n"], 0..2);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 1_usize..120);
    (pick(&forms), pick(&choices), stops, flags).prop_map(
        |(form, choice, stops, (with_tools, parallel, opened, max_tokens))| {
            let mut extra = json!({
                "tools": if with_tools { tools() } else { json!([]) }, "tool_choice": choice,
                "parallel_tool_calls": parallel, "text": {"format": form},
                "max_output_tokens": max_tokens,
                "chat_template_kwargs": {"enable_thinking": opened},
            });
            if !stops.is_empty() {
                extra["stop"] = json!(stops);
            }
            if max_tokens % 2 == 0 {
                extra["include"] = json!(["message.output_text.logprobs"]);
                extra["top_logprobs"] = json!(max_tokens % 3);
            }
            extra
        },
    )
}

#[test]
fn a_streamed_response_is_the_whole_one_in_pieces() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let words = prop::sample::select(vec![
        THOUGHT,
        CALL,
        CALL,
        "hello",
        " 世界",
        "é",
        "👩‍👩‍👧",
        "\n",
        "<tool_call>",
        "</think>",
        "{\"name\"",
        "{\"a\": \"日\"}",
        "{\"name\": \"f\", \"parameters\": {\"a\": [1]}}",
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"f\"}]",
        "; ",
    ]);
    let texts = prop::collection::vec(words, 0..5).prop_map(|words| ids(&words.concat()));
    for format in ToolFormat::ALL {
        let script = Arc::new(Mutex::new(Vec::<u32>::new()));
        let server = runtime.block_on(async {
            let (server, engine) = calling_as(format).await;
            let script = Arc::clone(&script);
            engine.script(move |request, choice| {
                play(request, choice, script.lock().unwrap().clone())
            });
            server
        });
        proptest!(ProptestConfig::with_cases(160), |(tokens in &texts, extra in extras())| {
            runtime.block_on(check(&server, &script, tokens, extra));
        });
    }
}

//! The description of the API against the API: every route is there and every answer fits it, and
//! the reader of requests takes what it describes, value for value, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::harness::{Server, format_of, say};
use crate::engine::request::{Event, FinishReason, Queued};
use crate::server::openapi::document;
use crate::server::router::routes;
use crate::text::tool_format::ToolFormat;

/// A server that says hello, or makes a vector of ones.
pub(super) async fn server() -> Server {
    let template = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}\
        {% if add_generation_prompt %}<s>assistant\n{% endif %}";
    let (server, engine) = Server::chatting(format_of(template, ToolFormat::Hermes, false)).await;
    engine.script(|request, choice| match request.pooling {
        None => say(request, choice, "hello"),
        Some(_) => vec![
            Event::PromptComputed { num_cached_tokens: 0, queued: Queued::default() },
            Event::Pooled(vec![1.0; 4]),
            Event::Finished(FinishReason::Length),
        ],
    });
    server
}

/// The document, as a client reads it.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(document()).unwrap());

/// Deeper than any schema of ours.
const MAX_DEPTH: usize = 40;

/// Panics unless `path` describes an answer of that status and media type that `body` fits, without a
/// key that is not described.
pub fn assert_described(path: &str, method: &str, status: u16, media_type: &str, body: &Value) {
    let path = match path {
        path if path.starts_with("/v1/models/") => "/v1/models/{id}",
        path if path.starts_with("/v1/responses/") => "/v1/responses/{id}",
        path => path,
    };
    let operation = &DOCUMENT["paths"][path][method];
    let content = &operation["responses"][status.to_string()]["content"][media_type];
    assert!(content.is_object(), "{method} {path} describes no {status} of {media_type}: {body}");
    let schema = whole(&content["schema"], Others::Forbidden, 0);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path}: {errors:?} in {body}");
}

/// Keys of an object that its schema does not describe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// As the schema says, or where it says nothing, allowed.
    AsDescribed,
    /// Forbidden where the schema says nothing.
    Forbidden,
}

/// A schema that holds everything it refers to.
pub fn whole(schema: &Value, others: Others, depth: usize) -> Value {
    assert!(depth < MAX_DEPTH, "a schema is part of itself: {schema}");
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap();
        let target = DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("no {reference}"));
        return whole(target, others, depth + 1);
    }
    let within = |value: &Value| whole(value, others, depth + 1);
    let Value::Object(map) = schema else { return schema.clone() };
    let mut object = Map::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, value)| (name.clone(), within(value))).collect()
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(parts)) => {
                parts.iter().map(within).collect()
            }
            ("items" | "additionalProperties", value) => within(value),
            (_, value) => value.clone(),
        };
        object.insert(key.clone(), value);
    }
    if let Some(Value::Array(parts)) = object.remove("allOf") {
        merge(&mut object, parts);
    }
    let forbid = others == Others::Forbidden && object.contains_key("properties");
    if forbid && !object.contains_key("additionalProperties") {
        object.insert("additionalProperties".to_owned(), json!(false));
    }
    Value::Object(object)
}

/// Adds what `parts`, objects all of them, have together.
fn merge(object: &mut Map<String, Value>, parts: Vec<Value>) {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for part in parts {
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
        if part["additionalProperties"] == true {
            object.insert("additionalProperties".to_owned(), json!(true));
        }
    }
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("required".to_owned(), Value::Array(required));
}

#[test]
fn no_part_of_a_schema_forbids_the_fields_of_the_others() {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let mut parts = 0;
    for (name, schema) in schemas {
        for part in schema["allOf"].as_array().into_iter().flatten() {
            let pointer = part["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            let part = pointer.map_or(Some(part), |pointer| DOCUMENT.pointer(pointer)).unwrap();
            assert_ne!(part["additionalProperties"], false, "{name}");
            parts += 1;
        }
    }
    assert!(parts > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_described_and_nothing_else() {
    let server = server().await;
    let mut served = BTreeSet::new();
    for (path, _) in routes() {
        let path = path.replace("{*", "{");
        // No route knows it, so that each says which methods it knows.
        let request = server.client.request(Method::TRACE, format!("{}{path}", server.url));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 405, "{path}");
        let allowed = response.headers()["allow"].to_str().unwrap();
        for method in allowed.split(',').map(|method| method.trim().to_lowercase()) {
            if method != "head" {
                served.insert((path.clone(), method));
            }
        }
    }
    let described: BTreeSet<_> = DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
        })
        .collect();
    assert_eq!(served, described);
}

#[test]
fn operations_have_names_of_their_own_and_say_what_they_do() {
    let mut names = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is two operations");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_without_a_body_is_described() {
    let server = server().await;
    let paths = [
        "/v1/models",
        "/v1/models/tenant",
        "/v1/models/nobody",
        "/tokenizer_info",
        "/health",
        "/ready",
        "/v1/health/live",
        "/v1/health/ready",
        "/ping",
        "/version",
        "/openapi.json",
    ];
    for path in paths {
        let response = server.get(path).await;
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let body: Value = response.json().await.unwrap();
        assert_described(path, "get", status, "application/json", &body);
    }
    for (path, kind) in [("/metrics", "text/plain"), ("/docs", "text/html")] {
        let response = server.get(path).await;
        let served = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(served.starts_with(kind), "{path} is {served}");
        let body = Value::from(response.text().await.unwrap());
        assert_described(path, "get", 200, kind, &body);
    }
}

/// Every word of the server's source that could be a field's name.
fn words() -> BTreeSet<String> {
    let word = Regex::new("\"([a-z][a-z0-9_]{0,40})\"").unwrap();
    let mut words = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                words.extend(word.captures_iter(&source).map(|found| found[1].to_owned()));
            }
        }
    }
    words
}

/// A request that is answered, to be changed field by field.
pub(super) struct Case {
    pub path: &'static str,
    /// Among several ways to ask, which one.
    way: usize,
    pub body: Value,
}

pub(super) fn cases() -> Vec<Case> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let case = |path, way, body| Case { path, way, body };
    vec![
        case("/v1/completions", 0, json!({"model": "base", "prompt": "hi", "max_tokens": 16})),
        case("/v1/chat/completions", 0, json!({"model": "base", "messages": messages})),
        case("/v1/responses", 0, json!({"model": "base", "input": "hi"})),
        case("/v1/embeddings", 0, json!({"model": "base", "input": "hi"})),
        case("/tokenize", 0, json!({"model": "base", "prompt": "hi"})),
        case("/tokenize", 1, json!({"model": "base", "messages": messages})),
        case("/detokenize", 0, json!({"model": "base", "tokens": [5]})),
    ]
}

impl Case {
    /// The fields described, each with its schema.
    pub fn fields(&self) -> Map<String, Value> {
        let content = &DOCUMENT["paths"][self.path]["post"]["requestBody"]["content"];
        let mut schema = whole(&content["application/json"]["schema"], Others::AsDescribed, 0);
        if schema["oneOf"].is_array() {
            schema = schema["oneOf"][self.way].take();
        }
        assert!(
            jsonschema::validator_for(&schema).unwrap().is_valid(&self.body),
            "{}: the description refuses {}",
            self.path,
            self.body
        );
        schema["properties"].as_object().unwrap().clone()
    }

    /// How the server takes `value` as `name`.
    async fn send(&self, server: &Server, name: &str, value: &Value) -> Taken {
        let mut body = self.body.clone();
        for (name, value) in self.company(name, value) {
            body[name] = value;
        }
        body[name] = value.clone();
        let unknown = unknown_fields(server);
        let response = server.post(self.path, &body).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        if status == 200 {
            return if unknown_fields(server) > unknown { Taken::Unknown } else { Taken::Read };
        }
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
        assert_described(self.path, "post", status, "application/json", &body);
        let error = &body["error"];
        let param = error["param"].as_str().unwrap_or_default();
        let of_field = param
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        match error["code"].is_null() {
            // What fits the model, and which models there are, is not the description's to say.
            false => Taken::Read,
            true if !of_field => Taken::Elsewhere,
            true if text.contains("not supported by this server") => Taken::Unsupported,
            true => Taken::Wrong,
        }
    }

    fn is_conversation(&self) -> bool {
        self.body.get("messages").is_some()
    }

    /// The fields without which another makes no sense.
    fn company(&self, name: &str, value: &Value) -> Vec<(&'static str, Value)> {
        match (self.path, name, value) {
            (_, "stream_options", _) => vec![("stream", json!(true))],
            (_, "continue_final_message", Value::Bool(true)) if self.is_conversation() => vec![(
                "messages",
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
            )],
            (_, "tool_choice", value) if self.is_conversation() && !value.is_null() => {
                vec![("tools", json!([{"type": "function", "function": {"name": "f"}}]))]
            }
            ("/v1/responses", "continue_final_message", Value::Bool(true)) => {
                vec![("input", json!([{"role": "assistant", "content": "b"}]))]
            }
            ("/v1/responses", "tool_choice", value) if !value.is_null() => {
                vec![("tools", json!([{"type": "function", "name": "f"}]))]
            }
            ("/v1/completions", "logprob_token_ids", _) => vec![("logprobs", json!(0))],
            ("/v1/chat/completions", "top_logprobs" | "logprob_token_ids", _) => {
                vec![("logprobs", json!(true))]
            }
            ("/v1/responses", "top_logprobs" | "logprob_token_ids", _) => {
                vec![("include", json!(["message.output_text.logprobs"]))]
            }
            (_, "best_of", Value::Number(number)) => match number.as_i64() {
                Some(1..=128) => vec![("n", value.clone())],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// What the server made of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Read,
    Unknown,
    Wrong,
    Unsupported,
    /// Refused for another field.
    Elsewhere,
}

fn unknown_fields(server: &Server) -> f64 {
    let text = server.state.metrics.render();
    let sample = |line: &str| line.strip_prefix("sorsa:unknown_fields_total ")?.parse().ok();
    text.lines().find_map(sample).unwrap_or(0.0)
}

/// True where more than the description decides: the model's own limits, and keys of maps.
fn is_beyond_words(name: &str, value: &Value) -> bool {
    match (name, value) {
        // At most what is generated.
        ("min_tokens", Value::Number(number)) => number.as_f64() > Some(16.0),
        // Without them, `/tokenize` asks for a prompt.
        ("messages", Value::Null) => true,
        // What schemas, expressions and grammars may say has a language of its own.
        ("guided_json", Value::Object(map)) => !map.is_empty(),
        ("guided_json" | "guided_grammar", Value::String(_) | Value::Bool(false)) => true,
        ("guided_regex", Value::String(text)) => text.is_empty(),
        ("guided_choice", Value::Array(choices)) => choices.iter().all(|choice| choice == ""),
        ("structured_outputs", Value::Object(map)) => map.values().all(Value::is_null),
        // It would have to be in company.
        ("best_of", Value::Number(number)) => number.as_i64().is_none(),
        // Keys are token ids.
        ("logit_bias", Value::Object(map)) => map.keys().any(|key| key.parse::<u32>().is_err()),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_knows_the_fields_that_are_described_and_no_others() {
    let server = server().await;
    let words = words();
    assert!(words.len() > 100, "the source was not read");
    let mut wrong = Vec::new();
    for case in cases() {
        let fields = case.fields();
        let names: BTreeSet<&String> = words.iter().chain(fields.keys()).collect();
        for name in names {
            // The ways to ask that a body is not.
            let other = case.path == "/tokenize" && ["prompt", "messages"].contains(&name.as_str());
            if case.body.get(name.as_str()).is_some() || other {
                continue;
            }
            let taken = case.send(&server, name, &json!(true)).await;
            let described = fields.contains_key(name.as_str());
            let read = matches!(taken, Taken::Read | Taken::Wrong);
            if read != described || taken == Taken::Elsewhere {
                wrong.push(format!("{}: `{name}` is {taken:?}", case.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Values of every kind, on both sides of every bound.
fn values() -> Vec<Value> {
    let numbers = [
        -101.0, -100.5, -100.0, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.005, 0.01, 0.5, 1.0,
        1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 16.0, 17.0, 20.0, 21.0, 100.0, 100.5, 128.0, 129.0,
    ];
    #[expect(clippy::cast_possible_truncation, reason = "they are integral and small")]
    let number = |number: f64| {
        if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
    };
    let mut values: Vec<Value> = numbers.into_iter().map(number).collect();
    let plain = r#"[
        null, true, false, 5.0, "", "x", "text", "auto", "none", "required", "float", "base64", "mean",
        "last", "left", "right", "Left", [], ["x"], [""], ["x", "y", "z", "w"], ["x", "y", "z", "w", "v"], ["text"], ["audio"],
        [1], [1.5], [-1], [true], [[1]], [[]], [[1], [2]], ["x", [1]], [null], [{}]
    ]"#;
    let objects = json!([
        {}, {"type": "text"}, {"type": "x"}, {"type": null}, {"1": 5}, {"1": 100.5}, {"1": "x"},
        {"include_usage": true}, {"include_usage": 1}, {"continuous_usage_stats": null},
        {"enable_thinking": true}, {"enable_thinking": "x"}, {"other": 1},
        {"type": "function", "function": {"name": "f"}}, {"type": "function"},
        {"type": "json_object"}, {"type": "json_schema"}, {"regex": "a"}, {"regex": 1},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "a"}},
    ]);
    for others in [serde_json::from_str(plain).unwrap(), objects] {
        values.extend(others.as_array().unwrap().iter().cloned());
    }
    values.extend(conversations());
    values
}

/// Messages and tools, right and wrong.
fn conversations() -> Vec<Value> {
    let messages = json!([
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}],
        [{"role": "user"}], [{"content": "a"}], [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": 1}], [{"role": "user", "content": "a", "name": 1}],
        [{"role": "user", "content": "a", "name": null, "other": 1}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}],
        [{"role": "user", "content": ["a"]}],
        [{"role": "tool", "content": "a", "tool_call_id": "b"}], [{"role": "tool", "content": "a"}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]}],
    ]);
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let calls = json!([
        [{"role": "assistant", "tool_calls": [call]}],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}],
    ]);
    let tools = json!([
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        [{"type": "function", "function": {"name": "f", "description": "a", "strict": true}}],
        [{"type": "function", "function": {"name": "a b"}}], [{"type": "function"}],
        [{"type": "function", "function": {"name": "f", "parameters": []}}],
        [{"type": "custom", "function": {"name": "f"}}], [{"function": {"name": "f"}}],
    ]);
    let all = [messages, calls, tools];
    all.iter().flat_map(|values| values.as_array().unwrap().iter().cloned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_takes_the_values_that_are_described_and_no_others() {
    let server = server().await;
    let values = values();
    let mut wrong = Vec::new();
    for case in cases() {
        for (name, schema) in case.fields() {
            let validator = jsonschema::validator_for(&schema).unwrap();
            let mut right = 0;
            for value in values.iter().filter(|value| !is_beyond_words(&name, value)) {
                let described = validator.is_valid(value);
                let taken = case.send(&server, &name, value).await;
                if (taken == Taken::Read) != described || taken == Taken::Elsewhere {
                    wrong.push(format!("{}: `{name}`: {value} is {taken:?}", case.path));
                }
                right += usize::from(described);
            }
            assert!(right > 0, "{}: no value of `{name}` is right", case.path);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

//! Every list of a request has a bound, and one value more is refused by its name before it costs
//! anything. The description says which lists there are.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::harness::{MAX_MODEL_LEN, Server, VOCAB_SIZE};
use super::openapi::{DOCUMENT, Others, whole};

const MODEL: &str = "base";

/// Paths of requests that generate or read text.
const PATHS: [&str; 6] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
];

/// One list: where it stands, its longest form, and a body with `count` values in it.
struct List {
    place: &'static str,
    most: usize,
    body: fn(Value) -> Value,
    value: fn() -> Value,
}

fn list(place: &'static str, most: usize, body: fn(Value) -> Value, value: fn() -> Value) -> List {
    List { place, most, body, value }
}

fn completion(field: &str, value: Value) -> Value {
    let mut body = json!({"prompt": "a", "max_tokens": 1});
    body[field] = value;
    body
}

fn chat(field: &str, value: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
    body[field] = value;
    body
}

fn called() -> Value {
    json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}})
}

/// The lists by their places. Those of fields that all generating endpoints share are written once.
fn lists() -> Vec<List> {
    let a = || json!("a");
    let token = || json!(5);
    vec![
        list("stop", 4, |v| completion("stop", v), a),
        list("stop_token_ids", VOCAB_SIZE, |v| completion("stop_token_ids", v), token),
        list("allowed_token_ids", VOCAB_SIZE, |v| completion("allowed_token_ids", v), token),
        list(
            "logprob_token_ids",
            128,
            |v| {
                let mut body = completion("logprob_token_ids", v);
                body["logprobs"] = json!(1);
                body
            },
            token,
        ),
        list("modalities", 8, |v| completion("modalities", v), || json!("text")),
        list("guided_choice", 4096, |v| completion("guided_choice", v), a),
        list(
            "structured_outputs.choice",
            4096,
            |v| completion("structured_outputs", json!({"choice": v})),
            a,
        ),
        // As many as may wait; of one prompt, what the context leaves beside an answer.
        list("prompt", 16, |v| completion("prompt", v), a),
        list("prompt", MAX_MODEL_LEN - 1, |v| completion("prompt", v), token),
        list("prompt[]", MAX_MODEL_LEN - 1, |v| completion("prompt", json!([v])), token),
        list("tokens", MAX_MODEL_LEN, |v| json!({"tokens": v}), token),
    ]
}

/// The lists of conversations.
fn lists_of_conversations() -> Vec<List> {
    vec![
        list(
            "messages",
            16_384,
            |v| chat("messages", v),
            || json!({"role": "user", "content": ""}),
        ),
        list(
            "messages[].content",
            4096,
            |v| chat("messages", json!([{"role": "user", "content": v}])),
            || json!({"type": "text", "text": ""}),
        ),
        list(
            "messages[].tool_calls",
            1024,
            |v| chat("messages", json!([{"role": "assistant", "tool_calls": v}])),
            called,
        ),
        list(
            "tools",
            128,
            |v| chat("tools", v),
            || json!({"type": "function", "function": {"name": "f"}}),
        ),
        list("input", 16_384, |v| json!({"input": v}), || json!({"role": "user", "content": ""})),
        list(
            "input[].content",
            4096,
            |v| json!({"input": [{"role": "user", "content": v}]}),
            || json!({"type": "input_text", "text": ""}),
        ),
        list(
            "input[].output",
            4096,
            |v| json!({"input": [{"type": "function_call_output", "call_id": "a", "output": v}]}),
            || json!({"type": "input_text", "text": ""}),
        ),
        list(
            "include",
            32,
            |v| json!({"input": "a", "include": v}),
            || json!("reasoning.encrypted_content"),
        ),
    ]
}

/// The places of all arrays in a schema: `.` goes into an object, `[]` into an array.
fn arrays(schema: &Value, place: &str, found: &mut BTreeSet<String>) {
    for part in ["oneOf", "anyOf", "allOf"] {
        let parts = schema[part].as_array().into_iter().flatten();
        parts.for_each(|part| arrays(part, place, found));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let within = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        arrays(field, &within, found);
    }
    if schema["items"].is_object() {
        found.insert(place.to_owned());
        arrays(&schema["items"], &format!("{place}[]"), found);
    }
}

#[test]
fn every_list_that_is_described_is_in_the_table() {
    let lists = lists().into_iter().chain(lists_of_conversations());
    let known: BTreeSet<String> = lists.map(|list| list.place.to_owned()).collect();
    for path in PATHS {
        let content = &DOCUMENT["paths"][path]["post"]["requestBody"]["content"];
        let schema = whole(&content["application/json"]["schema"], Others::AsDescribed, 0);
        let mut found = BTreeSet::new();
        arrays(&schema, "", &mut found);
        assert!(!found.is_empty(), "{path}");
        // The same prompts under another name.
        let found = found.into_iter().map(|place| match path {
            "/v1/embeddings" => place.replace("input", "prompt"),
            _ => place,
        });
        let unknown: Vec<String> = found.filter(|place| !known.contains(place)).collect();
        assert!(unknown.is_empty(), "{path} has lists without a line in the table: {unknown:?}");
    }
}

/// The lists of requests that manage the server: the method, the path, and a body with the list.
fn lists_of_administrators() -> Vec<(List, &'static str, &'static str)> {
    vec![
        (
            list("adapters", 1024, |v| json!({"adapters": v}), || json!("a-*")),
            "PUT",
            "/admin/tenants/{name}",
        ),
        (
            list("roles", 2, |v| json!({"tenant": "acme", "roles": v}), || json!("user")),
            "POST",
            "/admin/keys",
        ),
    ]
}

#[test]
fn every_list_of_an_administrator_is_in_the_table() {
    let known = lists_of_administrators();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let managing = paths.iter().filter(|(path, _)| !PATHS.contains(&path.as_str()));
    let mut seen = 0;
    for (path, methods) in managing {
        for (method, operation) in methods.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if schema.is_null() {
                continue;
            }
            let mut found = BTreeSet::new();
            arrays(&whole(schema, Others::AsDescribed, 0), "", &mut found);
            for place in found {
                let is_known = |(list, of, at): &&(List, &str, &str)| {
                    list.place == place && of.eq_ignore_ascii_case(method) && at == path
                };
                assert!(known.iter().any(|known| is_known(&known)), "{method} {path}: {place}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, known.len());
}

#[tokio::test]
async fn an_administrators_lists_are_bounded() {
    let server = super::tenants::managed().await;
    let send = async |method: &str, path: &str, body: Value| {
        let url = format!("{}{}", server.url, path.replace("{name}", "acme"));
        let request = server.client.request(method.parse().unwrap(), url);
        let answer = request.bearer_auth("root").json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    for (List { place, most, body, value }, method, path) in lists_of_administrators() {
        for (count, accepted) in [(most, true), (most + 1, false)] {
            let body = body((0..count).map(|_| value()).collect());
            let (status, answer) = send(method, path, body).await;
            assert_eq!(status < 400, accepted, "{path}: {answer}");
            if !accepted {
                assert_eq!((status, &answer["error"]["param"]), (400, &json!(place)));
                let message = answer["error"]["message"].as_str().unwrap();
                assert!(message.contains(&format!("at most {most} ")), "{message}");
            }
        }
    }
    // Patterns are compared with the name of each request: neither is long.
    let body = json!({"adapters": ["*".repeat(257)]});
    assert_eq!(send("PUT", "/admin/tenants/acme", body).await.0, 400);
    let long = json!({"model": "a".repeat(1 << 20), "prompt": "a"});
    assert_eq!(send("POST", "/v1/completions", long).await.0, 403, "an administrator is no user");
}

/// Which endpoint takes a body.
fn path_of(body: &Map<String, Value>) -> &'static str {
    let has = |name: &str| body.contains_key(name);
    match () {
        () if has("prompt") => PATHS[0],
        () if has("messages") => PATHS[1],
        () if has("input") => PATHS[2],
        () => PATHS[5],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_value_more_than_the_bound_is_refused_by_name() {
    let server = Server::saying("a").await;
    for List { place, most, body, value } in lists().into_iter().chain(lists_of_conversations()) {
        let sent = async |count: usize| {
            let mut body = body((0..count).map(|_| value()).collect());
            body["model"] = json!(MODEL);
            let path = path_of(body.as_object().unwrap());
            let response = server.post(path, &body).await;
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        };
        let bound = match place {
            "stop" => "1 to 4 strings".to_owned(),
            _ if most == MAX_MODEL_LEN - 1 => "maximum context length is".to_owned(),
            _ => format!("at most {most} "),
        };
        let refused = |answer: &Value| {
            answer["error"]["message"].as_str().is_some_and(|message| message.contains(&bound))
        };
        let (status, answer) = sent(most + 1).await;
        assert_eq!(status, 400, "{place}: {answer}");
        assert!(refused(&answer), "{place}: {answer}");
        let param = answer["error"]["param"].as_str().unwrap().replace("[0]", "[]");
        assert!(
            place.starts_with(param.trim_end_matches("[]")) || param == place,
            "{place}: {param}"
        );
        // As many as that may be too much for the model, which is said in other words.
        let (_, answer) = sent(most).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.contains("must hold at most"), "{place}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_that_are_kept_have_bounds_too() {
    let server = Server::saying("a").await;
    for (field, most) in [("stop", 4096), ("cache_salt", 1024)] {
        for (len, status) in [(most, 200), (most + 1, 400)] {
            let body = completion(field, json!("x".repeat(len)));
            let mut body = body;
            body["model"] = json!(MODEL);
            let response = server.post(PATHS[0], &body).await;
            assert_eq!(response.status(), status, "{field} of {len}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_inputs_of_embeddings_are_refused() {
    let server = Server::saying("a").await;
    for inputs in [json!(vec!["a"; 2049]), json!(vec![vec![5]; 2049])] {
        let body = json!({"model": MODEL, "input": inputs});
        let response = server.post(PATHS[3], &body).await;
        assert_eq!(response.status(), 400);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["param"], "input");
    }
}

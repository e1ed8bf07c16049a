//! Which form a request asks of its texts, from every field that names one to the engine.

use serde_json::{Value, json};

use super::harness::{Engine, Server, ids};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// Whether the engine is asked for texts that may be `text`.
async fn may_be(server: &Server, engine: &mut Engine, ask: &(&str, Value), text: &str) -> bool {
    let asking = tokio::spawn({
        let (client, url) = (server.client.clone(), format!("{}{}", server.url, ask.0));
        let body = ask.1.clone();
        async move { client.post(url).json(&body).send().await }
    });
    let submission = engine.receive().await;
    asking.abort();
    let grammar = submission.request.grammar.as_ref().expect("a form was asked for");
    let mut matcher = grammar.matcher();
    let fits = ids(text).iter().all(|id| matcher.advance(*id).is_ok());
    fits && (matcher.is_finished() || matcher.allowed().is_ok_and(|allowed| allowed.may_end()))
}

fn asking(path: &'static str, field: &str, form: Value) -> (&'static str, Value) {
    let mut body = match path {
        COMPLETIONS => json!({"model": "tenant", "prompt": "hi"}),
        RESPONSES => json!({"model": "tenant", "input": "hi"}),
        _ => json!({"model": "tenant", "messages": [{"role": "user", "content": "hi"}]}),
    };
    body[field] = form;
    (path, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_obeyed_whatever_field_it_stands_in() {
    let (server, mut engine) = Server::start().await;
    let schema = json!({
        "type": "object", "properties": {"a": {"enum": [7, 9_007_199_254_740_993_i64]}},
        "required": ["a"], "additionalProperties": false,
    });
    let object = json!({"type": "json_object", "schema": schema});
    let named = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let mut cases = Vec::new();
    for path in [COMPLETIONS, CHAT] {
        cases.extend([
            asking(path, "response_format", object.clone()),
            asking(path, "response_format", named.clone()),
            asking(path, "guided_json", schema.clone()),
            asking(path, "guided_json", json!(schema.to_string())),
            asking(path, "structured_outputs", json!({ "json": schema })),
            asking(path, "guided_grammar", json!(format!("start: %json {schema}"))),
        ]);
    }
    let named = json!({"type": "json_schema", "name": "s", "schema": schema});
    cases.push(asking(RESPONSES, "text", json!({ "format": object })));
    cases.push(asking(RESPONSES, "text", json!({ "format": named })));
    for case in &cases {
        for (text, expected) in [
            ("{\"a\": 7}", true),
            ("{\"a\": 9007199254740993}", true),
            ("{\"a\": 9007199254740992}", false),
            ("{\"a\": 7, \"b\": 1}", false),
            ("{}", false),
            ("[]", false),
        ] {
            let fits = may_be(&server, &mut engine, case, text).await;
            assert_eq!(fits, expected, "{text} for {case:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_schema_any_object_will_do() {
    let (server, mut engine) = Server::start().await;
    let object = json!({"type": "json_object"});
    let cases = [
        asking(COMPLETIONS, "response_format", object.clone()),
        asking(CHAT, "response_format", object.clone()),
        asking(CHAT, "structured_outputs", json!({"json_object": true})),
        asking(RESPONSES, "text", json!({ "format": object })),
    ];
    for case in &cases {
        for (text, expected) in [("{\"b\": [1]}", true), ("{}", true), ("[]", false)] {
            let fits = may_be(&server, &mut engine, case, text).await;
            assert_eq!(fits, expected, "{text} for {case:?}");
        }
    }
}

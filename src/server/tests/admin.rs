//! Adapters changed through HTTP while others are answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::harness::{Server, model, say};
use crate::adapter::registry::Source;
use crate::adapter::registry::made_up::{MadeUp, registry};
use crate::server::router::router;
use crate::server::state::ServerConfig;

const ROUTES: [(&str, &str); 11] = [
    ("GET", "/admin/adapters"),
    ("GET", "/admin/adapters/a"),
    ("PUT", "/admin/adapters/a"),
    ("DELETE", "/admin/adapters/a"),
    ("GET", "/admin/adapters/a/versions"),
    ("PUT", "/admin/adapters/a/rollout"),
    ("POST", "/admin/adapters/a/rollback"),
    ("PUT", "/admin/adapters/a/pin"),
    ("POST", "/admin/adapters/a/unload"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
];

/// A server that callers may manage, and the loader behind it. Its engine says the first byte of the
/// adapter's digest.
async fn managed() -> (Server, Arc<MadeUp>) {
    let config = ServerConfig {
        runtime_adapters: true,
        adapter_roots: vec!["/adapters".into()],
        adapter_sources: vec!["s3://models/acme".parse().unwrap()],
        ..ServerConfig::default()
    };
    let server = Server::loading(config, Duration::from_secs(60)).await;
    let loader = Arc::new(MadeUp::default());
    loader.prompt.store(true, Ordering::SeqCst);
    let (mut serving, engine) = model(16);
    serving.registry = Arc::new(registry(Arc::clone(&loader), None));
    serving.adapter_load_timeout = Duration::from_millis(100);
    assert!(server.state.set_serving(serving));
    engine.script(|request, choice| {
        let content = request.adapter.as_ref().map_or(0, |version| version.id().0[0]);
        say(request, choice, &content.to_string())
    });
    (server, loader)
}

/// Status, `etag` and body of an answer.
async fn call(server: &Server, method: &str, path: &str, body: Value) -> (u16, String, Value) {
    conditional(server, method, path, body, &[]).await
}

async fn conditional(
    server: &Server,
    method: &str,
    path: &str,
    body: Value,
    headers: &[(&str, &str)],
) -> (u16, String, Value) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = server.client.request(method, format!("{}{path}", server.url));
    if !body.is_null() {
        request = request.json(&body);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let etag = response.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, etag.unwrap_or_default(), body)
}

/// What a model says.
async fn said(server: &Server, name: &str) -> String {
    let request = json!({"model": name, "prompt": "hi", "max_tokens": 8});
    let answer = server.answer("/v1/completions", &request).await;
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn code(answer: &(u16, String, Value)) -> (u16, &str) {
    (answer.0, answer.2["error"]["code"].as_str().unwrap_or("none"))
}

#[tokio::test]
async fn nobody_manages_a_server_that_does_not_allow_it() {
    let (server, _engine) = Server::start().await;
    for (method, path) in ROUTES {
        let answer = call(&server, method, path, Value::Null).await;
        assert_eq!(code(&answer), (403, "insufficient_permissions"), "{method} {path}");
        assert_eq!(answer.2["error"]["type"], "permission_error");
    }
}

#[tokio::test]
async fn nobody_manages_a_server_from_another_machine() {
    let (server, _) = managed().await;
    for (method, path) in ROUTES {
        // A request that came over no connection has no address either.
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.body(Body::empty()).unwrap();
        let response = router(Arc::clone(&server.state)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{method} {path}");
    }
}

#[tokio::test]
async fn an_adapter_lives() {
    let (server, _) = managed().await;
    let path = "/admin/adapters/acme";
    let (status, first, mut body) = call(&server, "PUT", path, json!({"path": "acme/1"})).await;
    assert_eq!(status, 201, "{body}");
    assert!(body["versions"][0]["created"].take().as_u64().unwrap() > 1_700_000_000);
    insta::assert_json_snapshot!(body);
    assert_eq!(said(&server, "acme").await, "1");
    // The same again, by another path.
    let again = call(&server, "PUT", path, json!({"path": "/adapters/copy/1"})).await;
    assert_eq!((again.0, again.1.as_str()), (200, first.as_str()));
    let (status, second, body) = call(&server, "PUT", path, json!({"path": "acme/2"})).await;
    assert_eq!((status, body["versions"].as_array().unwrap().len()), (200, 2));
    assert_eq!(said(&server, "acme").await, "2");
    // Somebody else was faster.
    let stale = [("if-match", first.as_str())];
    let late = conditional(&server, "PUT", path, json!({"path": "acme/3"}), &stale).await;
    assert_eq!(code(&late), (409, "revision_mismatch"));
    let late = conditional(&server, "DELETE", path, Value::Null, &stale).await;
    assert_eq!(code(&late), (409, "revision_mismatch"));
    let absent = [("if-none-match", "*")];
    let late = conditional(&server, "PUT", path, json!({"path": "acme/3"}), &absent).await;
    assert_eq!(code(&late), (409, "revision_mismatch"));
    let fresh = [("if-match", second.as_str())];
    let canary = json!({"path": "acme/3", "activate": false, "pinned": true});
    let (status, ..) = conditional(&server, "PUT", path, canary, &fresh).await;
    assert_eq!((status, said(&server, "acme").await.as_str()), (200, "2"));
    let weights = json!({"weights": {"3": 1}});
    let (status, ..) = call(&server, "PUT", &format!("{path}/rollout"), weights).await;
    assert_eq!((status, said(&server, "acme").await.as_str()), (200, "3"));
    let (status, ..) = call(&server, "POST", &format!("{path}/rollback"), Value::Null).await;
    assert_eq!((status, said(&server, "acme").await.as_str()), (200, "2"));
    let (status, _, body) =
        call(&server, "PUT", &format!("{path}/pin"), json!({"pinned": false})).await;
    assert_eq!((status, &body["pinned"]), (200, &json!(false)));
    let (status, _, body) = call(&server, "POST", &format!("{path}/unload"), Value::Null).await;
    assert_eq!((status, &body["versions"][1]["state"]), (200, &json!("on_disk")));
    assert_eq!(said(&server, "acme").await, "2");
    let (_, _, body) = call(&server, "GET", &format!("{path}/versions"), Value::Null).await;
    assert_eq!(body["versions"][1]["state"], "resident");
    let alias = json!({"alias_of": "acme"});
    let (status, ..) = call(&server, "PUT", "/admin/adapters/live", alias).await;
    assert_eq!((status, said(&server, "live").await.as_str()), (201, "2"));
    let (status, _, body) = call(&server, "GET", "/admin/adapters", Value::Null).await;
    assert_eq!((status, &body["adapters"][0]["aliases"]), (200, &json!(["live"])));
    assert_eq!(body["durable"], false);
    let (status, ..) = call(&server, "DELETE", path, Value::Null).await;
    assert_eq!(status, 204);
    for name in ["acme", "live"] {
        let gone = call(&server, "GET", &format!("/admin/adapters/{name}"), Value::Null).await;
        assert_eq!(code(&gone), (404, "adapter_not_found"));
        let request = json!({"model": name, "prompt": "hi"});
        let gone = call(&server, "POST", "/v1/completions", request).await;
        assert_eq!(code(&gone), (404, "model_not_found"));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_change_is_said() {
    let (server, _) = managed().await;
    call(&server, "PUT", "/admin/adapters/acme", json!({"path": "1"})).await;
    let cases = [
        ("PUT", "/admin/adapters/acme", json!({})),
        ("PUT", "/admin/adapters/acme", json!({"path": 1})),
        ("PUT", "/admin/adapters/acme", json!({"path": "../1"})),
        ("PUT", "/admin/adapters/acme", json!({"path": "/etc/passwd"})),
        ("PUT", "/admin/adapters/acme", json!({"path": "nothing"})),
        ("PUT", "/admin/adapters/acme", json!({"path": "1", "pined": true})),
        ("PUT", "/admin/adapters/base", json!({"path": "1"})),
        ("PUT", "/admin/adapters/%2e%2e", json!({"path": "1"})),
        ("PUT", "/admin/adapters/a%2fb", json!({"path": "1"})),
        ("PUT", "/admin/adapters/acme", json!({"alias_of": "acme"})),
        ("PUT", "/admin/adapters/live", json!({"alias_of": "nobody"})),
        ("PUT", "/admin/adapters/acme/rollout", json!({})),
        ("PUT", "/admin/adapters/acme/rollout", json!({"weights": {"1": 0}})),
        ("PUT", "/admin/adapters/acme/rollout", json!({"weights": {"one": 1}})),
        ("PUT", "/admin/adapters/acme/rollout", json!({"weights": {"2": 1}})),
        ("POST", "/admin/adapters/acme/rollback", Value::Null),
        ("POST", "/admin/adapters/nobody/unload", Value::Null),
        ("DELETE", "/admin/adapters/nobody", Value::Null),
        ("PATCH", "/admin/adapters/acme", Value::Null),
        ("POST", "/v1/load_lora_adapter", json!({"lora_name": "a"})),
        ("POST", "/v1/load_lora_adapter", json!({"lora_path": "1"})),
        ("POST", "/v1/load_lora_adapter", json!({"lora_name": "a", "lora_path": "/x"})),
        ("POST", "/v1/load_lora_adapter", json!({"lora_name": "acme", "lora_path": "2"})),
        ("POST", "/v1/unload_lora_adapter", json!({"lora_name": "nobody"})),
    ];
    let mut table = String::new();
    for (method, path, body) in cases {
        let shown = body.to_string();
        let (status, _, answer) = call(&server, method, path, body).await;
        table += &format!("{method} {path} {shown}\n    {status} {answer}\n");
    }
    insta::assert_snapshot!(table);
    assert_eq!(said(&server, "acme").await, "1");
}

#[tokio::test]
async fn an_adapter_may_lie_where_the_operator_said() {
    let (server, _) = managed().await;
    let path = "/admin/adapters/acme";
    let (status, _, body) =
        call(&server, "PUT", path, json!({"path": "s3://models/acme/7/"})).await;
    assert_eq!((status, said(&server, "acme").await.as_str()), (201, "7"), "{body}");
    let source = &body["versions"][0]["source"];
    assert_eq!(source, "s3://models/acme/7");
    let digest = format!("blake3:{}", "0a".repeat(32));
    let declared = json!({"path": "s3://models/acme/8", "digest": digest});
    assert_eq!(call(&server, "PUT", path, declared).await.0, 200);
    let load = json!({"lora_name": "sql", "lora_path": "s3://models/acme/9"});
    assert_eq!(call(&server, "POST", "/v1/load_lora_adapter", load).await.0, 200);
    let outside = call(&server, "PUT", path, json!({"path": "s3://models/acme2"})).await;
    assert_eq!(code(&outside), (403, "path_outside_roots"));
    assert_eq!(outside.2["error"]["param"], "path");
    for (param, body) in [
        ("path", json!({"path": "s3:/models/acme://x"})),
        ("digest", json!({"path": "s3://models/acme", "digest": "0a"})),
        ("digest", json!({"path": "1", "digest": digest})),
        ("digest", json!({"path": "s3://models/acme", "digest": 7})),
    ] {
        let wrong = call(&server, "PUT", path, body).await;
        assert_eq!((wrong.0, &wrong.2["error"]["param"]), (400, &json!(param)), "{}", wrong.2);
    }
}

#[tokio::test]
async fn tools_made_for_vllm_find_its_words() {
    let (server, loader) = managed().await;
    let load = |path: &str, in_place: bool| json!({"lora_name": "sql", "lora_path": format!("/adapters/{path}"), "load_inplace": in_place});
    let (status, _, text) = call(&server, "POST", "/v1/load_lora_adapter", load("1", false)).await;
    assert_eq!((status, text), (200, json!("Success: LoRA adapter 'sql' added successfully.")));
    let (status, _, body) = call(&server, "POST", "/v1/load_lora_adapter", load("2", false)).await;
    let message = "The lora adapter 'sql' has already been loaded. If you want to load the adapter \
                   in place, set 'load_inplace' to True.";
    assert_eq!((status, &body["error"]["message"]), (400, &json!(message)));
    let (status, ..) = call(&server, "POST", "/v1/load_lora_adapter", load("2", true)).await;
    assert_eq!((status, said(&server, "sql").await.as_str()), (200, "2"));
    let models = server.get("/v1/models").await.json::<Value>().await.unwrap();
    let card = &models["data"][2];
    assert_eq!((&card["id"], &card["parent"]), (&json!("sql"), &json!("base")));
    assert_eq!(card["root"], format!("blake3:{}", "02".repeat(32)));
    // Nothing lies there; what lies there is no adapter; what is no name.
    let nothing = call(&server, "POST", "/v1/load_lora_adapter", load("nothing", true)).await;
    assert_eq!(code(&nothing), (404, "adapter_not_found"));
    assert_eq!(nothing.2["error"]["param"], "lora_path");
    loader.place(&Source::Beneath { root: "/adapters".into(), path: "9".into() }, None);
    let broken = call(&server, "POST", "/v1/load_lora_adapter", load("9", true)).await;
    assert_eq!((broken.0, &broken.2["error"]["param"]), (400, &json!("lora_path")));
    let unnamed = json!({"lora_name": "a/b", "lora_path": "1"});
    let unnamed = call(&server, "POST", "/v1/load_lora_adapter", unnamed).await;
    assert_eq!((unnamed.0, &unnamed.2["error"]["param"]), (400, &json!("lora_name")));
    assert_eq!(said(&server, "sql").await, "2");
    let unload = json!({"lora_name": "sql", "lora_int_id": 1});
    let (status, _, text) = call(&server, "POST", "/v1/unload_lora_adapter", unload).await;
    assert_eq!((status, text), (200, json!("Success: LoRA adapter 'sql' removed successfully.")));
    let dry = json!({"path": "7", "dry_run": true});
    let (status, _, body) = call(&server, "PUT", "/admin/adapters/sql", dry).await;
    assert_eq!((status, &body["dry_run"]["kind"]), (200, &json!("lora")));
    assert!(!server.state.serving().unwrap().registry.knows("sql"));
}

#[tokio::test]
async fn requests_wait_for_an_adapter_but_not_for_ever() {
    let (server, loader) = managed().await;
    let path = "/admin/adapters/slow";
    let (status, ..) = call(&server, "PUT", path, json!({"path": "5"})).await;
    assert_eq!(status, 201);
    call(&server, "POST", &format!("{path}/unload"), Value::Null).await;
    loader.hold(true);
    let request = json!({"model": "slow", "prompt": "hi", "max_tokens": 8});
    let response = server.post("/v1/completions", &request).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (503, &json!("adapter_loading")));
    // Others are answered meanwhile, and tokenising waits for no adapter.
    assert_eq!(said(&server, "base").await, "0");
    let tokens = json!({"model": "slow", "prompt": "hi"});
    assert_eq!(server.post("/tokenize", &tokens).await.status(), 200);
    let (waiting, ()) = tokio::join!(server.post("/v1/completions", &request), async {
        tokio::task::yield_now().await;
        loader.hold(false);
    });
    assert_eq!(waiting.status(), 200);
    // Broken from now on: said at once, and again, without another look.
    loader.place(&Source::Beneath { root: "/adapters".into(), path: "5".into() }, None);
    call(&server, "POST", &format!("{path}/unload"), Value::Null).await;
    for _ in 0..2 {
        let answer = call(&server, "POST", "/v1/completions", request.clone()).await;
        assert_eq!(code(&answer), (503, "adapter_failed"));
        assert_eq!(answer.2["error"]["message"], "the model `slow` could not be loaded");
    }
}

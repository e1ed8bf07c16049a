//! Tenants at the wire: who is let in, what each may use, and how much.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::harness::{Server, ids, say};
use crate::engine::request::TenantShare;
use crate::server::tenancy::routes::Access;
use crate::server::tenancy::{MetricsAccess, Tenancy};
use crate::tenant::directory::Directory;
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::KeysFile;

const COMPLETIONS: &str = "/v1/completions";

/// A directory of tenants, each with a key of its own name, and an administrator's key.
fn directory(tenants: &str) -> Directory {
    let mut file = KeysFile::parse(tenants).unwrap();
    let keys = file.tenants.keys().map(|name| entry(name, name, "user")).collect::<String>();
    let keys = keys + &entry("root", file.tenants.keys().next().unwrap(), "admin");
    file.keys = KeysFile::parse(&keys).unwrap().keys;
    Directory::new(&file).unwrap()
}

fn entry(id: &str, tenant: &str, role: &str) -> String {
    let hash = KeyHash::of(id);
    format!("[keys.{id}]\ntenant = \"{tenant}\"\nsha256 = \"{hash}\"\nroles = [\"{role}\"]\n")
}

const TWO: &str = "\
    [tenants.acme]\n\
    adapters = [\"acme-*\"]\n\
    default = \"acme-chat\"\n\
    [tenants.globex]\n\
    adapters = [\"globex-chat\"]\n\
    base = true\n\
    weight = 3\n";

fn tenancy(tenants: &str) -> Arc<Tenancy> {
    Tenancy::with_keys(directory(tenants), MetricsAccess::Admins)
}

async fn saying(tenants: &str) -> Server {
    let (server, engine) = Server::for_tenants(tenancy(tenants)).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    server
}

async fn post(server: &Server, key: &str, body: &Value) -> Response {
    let request = server.client.post(format!("{}{COMPLETIONS}", server.url));
    request.bearer_auth(key).json(body).send().await.unwrap()
}

async fn get(server: &Server, key: &str, path: &str) -> Response {
    let request = server.client.get(format!("{}{path}", server.url));
    request.bearer_auth(key).send().await.unwrap()
}

/// Status, headers without times and ids, and body.
async fn whole(response: Response) -> (StatusCode, BTreeSet<String>, String) {
    let headers = response.headers().iter();
    let headers = headers
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    (response.status(), headers, response.text().await.unwrap())
}

/// Sends a request as it is written, and returns the answer's status.
fn raw(server: &Server, request: &str) -> u16 {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The patterns of the router, read where they stand.
fn routes() -> Vec<&'static str> {
    let source = include_str!("../router.rs");
    let routes: Vec<_> = source
        .split(".route(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .filter(|route| *route != "/")
        .collect();
    assert!(routes.len() >= 14, "{routes:?}");
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_probes_needs_a_key_however_it_is_asked_for() {
    let server = saying(TWO).await;
    let public = ["/health", "/ready", "/v1/health/live", "/v1/health/ready", "/ping", "/version"];
    for route in routes() {
        let open = public.contains(&route);
        assert_eq!(Access::of(Some(route)) == Access::Public, open, "{route}");
        let path = route.replace("{*id}", "base").replace("{id}", "base").replace("{name}", "x");
        let absolute = format!("{}{path}", server.url);
        let targets = [
            (path.clone(), "localhost"),
            (path.clone(), "localhost/health"),
            (path.clone(), "/health?"),
            (absolute, "health"),
            (format!("http://x/health/..{path}"), "x"),
            (format!("/{path}"), "localhost"),
            (format!("{path}/"), "localhost"),
            (format!("/health/..{path}"), "localhost"),
            (path.replacen('/', "/%2f", 1), "localhost"),
            (path.replace("/v1/", "/v1%2f"), "localhost"),
            (format!("{path}%00"), "localhost"),
            (format!("{path}?/health"), "localhost"),
            (format!("{path};/health"), "localhost"),
        ];
        for (number, (target, host)) in targets.iter().enumerate() {
            for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PURGE"] {
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-original-url: /health\r\n\
                     x-forwarded-uri: /health\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let status = raw(&server, &request);
                let fine = match status {
                    // The path itself, whatever the host is called and whatever the question.
                    200 | 405 => open && (*target == path || [3, 11].contains(&number)),
                    400 | 401 => true,
                    _ => false,
                };
                assert!(fine, "{method} {target} of {host}: {status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_key_is_told_how_to_bring_one() {
    let server = saying(TWO).await;
    let without = server.get("/v1/models").await;
    assert_eq!(without.headers()["www-authenticate"], "Bearer");
    insta::assert_snapshot!(without.text().await.unwrap(), @r#"{"error":{"message":"a valid API key is needed, as `authorization: Bearer KEY`","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#);
    let (wrong, missing) = (get(&server, "acmo", "/v1/models").await, server.get("/nowhere").await);
    assert_eq!(whole(wrong).await, whole(missing).await);
    let anthropic = server.client.get(format!("{}/v1/models", server.url));
    assert_eq!(anthropic.header("x-api-key", "acme").send().await.unwrap().status(), 200);
    assert_eq!(get(&server, "acme", "/nowhere").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_key_is_for_nothing_else() {
    let server = saying(TWO).await;
    let refused = get(&server, "root", "/v1/models").await;
    assert_eq!(refused.status(), 403);
    insta::assert_snapshot!(refused.text().await.unwrap(), @r#"{"error":{"message":"this API key is not allowed to do that","type":"permission_error","param":null,"code":"insufficient_permissions"}}"#);
    let metrics = ["root", "acme", ""].map(|key| get(&server, key, "/metrics"));
    let statuses = futures_util::future::join_all(metrics).await;
    assert_eq!(statuses.iter().map(Response::status).collect::<Vec<_>>(), [200, 403, 401]);
    let access = MetricsAccess::Key(KeyHash::of("scraper"));
    let (server, _engine) = Server::for_tenants(Tenancy::with_keys(directory(TWO), access)).await;
    assert_eq!(get(&server, "scraper", "/metrics").await.status(), 200);
    assert_eq!(get(&server, "scraper", "/v1/models").await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_as_what_is_nobodys() {
    let server = saying(TWO).await;
    let models = |key: &'static str| {
        let server = &server;
        async move {
            let list: Value = get(server, key, "/v1/models").await.json().await.unwrap();
            let ids = list["data"].as_array().unwrap().iter();
            ids.map(|card| card["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(models("acme").await, ["acme-chat", "acme-code"]);
    assert_eq!(models("globex").await, ["base", "globex-chat"]);
    let body = |model: &str| json!({"model": model, "prompt": "hi"});
    for (key, own, others) in [
        ("acme", "acme-code", ["globex-chat", "base"]),
        ("globex", "globex-chat", ["acme-chat", "acme-code"]),
    ] {
        assert_eq!(post(&server, key, &body(own)).await.status(), 200);
        assert_eq!(get(&server, key, &format!("/v1/models/{own}")).await.status(), 200);
        for other in others {
            let nobody = "x".repeat(other.len());
            let hide = |(status, headers, body): (StatusCode, BTreeSet<String>, String)| {
                assert_eq!(status, 404);
                (headers, body.replace(other, &nobody))
            };
            let (theirs, unknown) =
                (post(&server, key, &body(other)).await, post(&server, key, &body(&nobody)).await);
            assert_eq!(hide(whole(theirs).await), hide(whole(unknown).await));
            let path = |name: &str| format!("/v1/models/{name}");
            let (theirs, unknown) =
                (get(&server, key, &path(other)).await, get(&server, key, &path(&nobody)).await);
            assert_eq!(hide(whole(theirs).await), hide(whole(unknown).await));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_model_is_meant_where_none_is_named() {
    let server = saying(TWO).await;
    for body in [json!({"prompt": "hi"}), json!({"prompt": "hi", "model": "default"})] {
        let answer = post(&server, "acme", &body).await;
        let digest = answer.headers()["x-sorsa-adapter-digest"].to_str().unwrap().to_owned();
        assert_eq!(digest, format!("blake3:{}", "01".repeat(32)));
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["model"], "acme-chat");
        assert_eq!(answer["system_fingerprint"], "fp_00ff_0101010101010101");
    }
    let none = post(&server, "globex", &json!({"prompt": "hi"})).await;
    assert_eq!(none.status(), 400);
    let base = post(&server, "globex", &json!({"prompt": "hi", "model": "base"})).await;
    assert!(base.status() == 200 && !base.headers().contains_key("x-sorsa-adapter-digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_learns_for_whom_it_works() {
    let shared = TWO.replace("default", "cache_group = \"both\"\ndefault");
    let (server, mut engine) = Server::for_tenants(tenancy(&shared)).await;
    let mut owners = Vec::new();
    for (key, model) in [("acme", "acme-chat"), ("globex", "base")] {
        let request = server.client.post(format!("{}{COMPLETIONS}", server.url)).bearer_auth(key);
        let _answer = tokio::spawn(request.json(&json!({"model": model, "prompt": "a"})).send());
        let request = engine.receive().await.request;
        owners.push((request.tenant, request.cache_owner));
    }
    let expected = [
        (TenantShare { id: 1, weight: 1 }, "group/both".to_owned()),
        (TenantShare { id: 2, weight: 3 }, "tenant/globex".to_owned()),
    ];
    assert_eq!(owners, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let server = saying("[tenants.a]\nbase = true\nrequests_per_minute = 2\n").await;
    let body = json!({"model": "base", "prompt": "hi"});
    for remaining in ["1", "0"] {
        let answer = post(&server, "a", &body).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-ratelimit-limit-requests"], "2");
        assert_eq!(answer.headers()["x-ratelimit-remaining-requests"], remaining);
        assert!(!answer.headers().contains_key("x-ratelimit-limit-tokens"));
    }
    let refused = post(&server, "a", &body).await;
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((25..=30).contains(&seconds), "{seconds}");
    assert!(!refused.headers().contains_key("x-should-retry"));
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    // Asking what there is costs nothing.
    assert_eq!(get(&server, "a", "/v1/models").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_charged_before_and_settled_after() {
    let server = saying("[tenants.a]\nbase = true\ntokens_per_minute = 1000\n").await;
    let prompt = ids("a long enough prompt");
    let used = prompt.len() + ids("hello").len() + 1;
    let body = |n: usize, max: usize| json!({"model": "base", "prompt": prompt, "max_tokens": max, "n": n});
    // All that it might have used is not there: nothing is begun, no time would help.
    let refused = post(&server, "a", &body(40, 30)).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["x-should-retry"]),
        (429, &"false".parse().unwrap())
    );
    assert!(!refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["type"], "insufficient_quota");
    // Of 800 charged few are used: it can be asked for again and again.
    for asked in 1..=3 {
        let answer = post(&server, "a", &body(1, 40)).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-ratelimit-limit-tokens"], "1000");
        let again = get(&server, "a", "/v1/models").await;
        let remaining = again.headers()["x-ratelimit-remaining-tokens"].to_str().unwrap();
        let left = 1000 - asked * used;
        let remaining: usize = remaining.parse().unwrap();
        assert!((left - 1..left + 200).contains(&remaining), "{remaining} and not {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_at_once_and_no_more() {
    let limits = "[tenants.a]\nbase = true\nmax_concurrent = 1\nmax_tokens = 5\nmax_waiting = 2\n\
                  [tenants.b]\nbase = true\n";
    let (server, mut engine) = Server::for_tenants(tenancy(limits)).await;
    let body = json!({"model": "base", "prompt": "hi", "max_tokens": 5});
    let first = server.client.post(format!("{}{COMPLETIONS}", server.url)).bearer_auth("a");
    let first = tokio::spawn(first.json(&body).send());
    let submission = engine.receive().await;
    let refused = post(&server, "a", &body).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    engine.script(|request, choice| say(request, choice, "hello"));
    assert_eq!(post(&server, "b", &body).await.status(), 200, "others are not concerned");
    for event in say(&submission.request, 0, "hello") {
        submission.replies[0].send(event);
    }
    drop(submission);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(post(&server, "a", &body).await.status(), 200);
    let longer = json!({"model": "base", "prompt": "hi", "max_tokens": 6});
    let error: Value = post(&server, "a", &longer).await.json().await.unwrap();
    assert_eq!(error["error"]["param"], "max_tokens");
    assert_eq!(post(&server, "b", &longer).await.status(), 200);
    let many = json!({"model": "base", "prompt": ["a", "b", "c"], "max_tokens": 1});
    let error: Value = post(&server, "a", &many).await.json().await.unwrap();
    assert_eq!(error["error"]["param"], "prompt");
    assert_eq!(post(&server, "b", &many).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_directory_holds_at_once_and_what_was_used_stays_used() {
    let tenancy = tenancy("[tenants.a]\nbase = true\nrequests_per_minute = 1\n");
    let (server, engine) = Server::for_tenants(Arc::clone(&tenancy)).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let body = json!({"model": "base", "prompt": "hi"});
    assert_eq!(post(&server, "a", &body).await.status(), 200);
    tenancy.replace(directory("[tenants.a]\nbase = true\nrequests_per_minute = 2\n[tenants.b]\n"));
    assert_eq!(get(&server, "b", "/v1/models").await.status(), 200);
    assert_eq!(post(&server, "a", &body).await.status(), 200);
    assert_eq!(post(&server, "a", &body).await.status(), 429);
    tenancy.replace(directory("[tenants.b]\n"));
    assert_eq!(post(&server, "a", &body).await.status(), 401);
}

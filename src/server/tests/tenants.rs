//! Tenants at the wire: who is let in, what each may use, and how much.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::harness::{Server, ids, say};
use crate::engine::request::{Event, TenantShare};
use crate::server::router::routes;
use crate::server::tenancy::book::Book;
use crate::server::tenancy::routes::Access;
use crate::server::tenancy::{MetricsAccess, Tenancy};
use crate::server::usage::UsageLog;
use crate::tenant::declarations::ChangeError;
use crate::tenant::directory::Directory;
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::{KeysFile, TenantEntry};

const COMPLETIONS: &str = "/v1/completions";

/// Tenants, each with a key of its own name, and an administrator's key.
fn keys_file(tenants: &str) -> KeysFile {
    let mut file = KeysFile::parse(tenants).unwrap();
    let keys = file.tenants.keys().map(|name| entry(name, name, "user")).collect::<String>();
    let keys = keys + &entry("root", file.tenants.keys().next().unwrap(), "admin");
    file.keys = KeysFile::parse(&keys).unwrap().keys;
    file
}

fn directory(tenants: &str) -> Directory {
    Directory::new(&keys_file(tenants)).unwrap()
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

/// A server that administrators manage, with the key `root`.
pub(super) async fn managed() -> Server {
    let book = Book::open(keys_file("[tenants.platform]\n"), None).unwrap();
    let tenancy = Tenancy::with_book(book, MetricsAccess::Admins).unwrap();
    Server::for_tenants(tenancy).await.0
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

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_probes_needs_a_key_however_it_is_asked_for() {
    let server = saying(TWO).await;
    let probes = ["/health", "/ready", "/v1/health/live", "/v1/health/ready", "/ping", "/version"];
    let public = [&probes[..], &["/openapi.json", "/docs"]].concat();
    for (route, _) in routes() {
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
async fn a_foreign_model_is_as_one_that_nobody_has() {
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
    assert_eq!(models("globex").await, ["base", "org/base", "globex-chat"]);
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
        (TenantShare { id: 2, weight: 1, alone: false }, "group/1".to_owned()),
        (TenantShare { id: 3, weight: 3, alone: false }, "tenant/3".to_owned()),
    ];
    assert_eq!(owners, expected);
}

/// A tenant is who it was as long as it is declared; a name that is given again is somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_given_again_is_somebody_elses() {
    let a = "[tenants.a]\nbase = true\n";
    let b = "[tenants.b]\nbase = true\n";
    let (in_g, in_h) = ("cache_group = \"g\"\n", "cache_group = \"h\"\n");
    let book = Book::open(keys_file(&format!("{a}{in_g}{b}")), None).unwrap();
    let tenancy = Tenancy::with_book(book, MetricsAccess::Admins).unwrap();
    let owner = |tenants: String| {
        tenancy.reload(keys_file(&tenants)).unwrap();
        let of = |key: &str| {
            let caller = tenancy.caller(Some(key))?;
            Some((caller.cache_owner(), caller.share().id))
        };
        [of("a"), of("b")]
    };
    let [first_a, first_b] = owner(format!("{a}{in_g}{b}"));
    assert_ne!(first_a, first_b);
    assert_eq!(owner(format!("{a}{in_g}{b}")), [first_a.clone(), first_b.clone()], "all the same");
    let [left_a, none] = owner(format!("{a}{in_g}"));
    assert_eq!((left_a, none), (first_a.clone(), None));
    // The tenant with the greatest number is made anew, as is one in the middle, and a group.
    let mut seen = vec![first_a.unwrap(), first_b.unwrap()];
    for (gone, again) in
        [(format!("{a}{in_g}"), 1), (b.to_owned(), 0), (a.to_owned(), 1), (b.to_owned(), 0)]
    {
        owner(gone);
        let new = owner(format!("{a}{in_g}{b}{in_h}"))[again].clone().unwrap();
        for old in &seen {
            assert!(new.0 != old.0 && new.1 != old.1, "{new:?} was {old:?}");
        }
        seen.push(new);
    }
    // So is one without a group.
    owner(a.to_owned());
    let [_, second_b] = owner(format!("{a}{b}"));
    owner(a.to_owned());
    let [_, third_b] = owner(format!("{a}{b}"));
    let (second_b, third_b) = (second_b.unwrap(), third_b.unwrap());
    assert!(second_b.0 != third_b.0 && second_b.1 != third_b.1, "{third_b:?} was {second_b:?}");
    // A group lives as long as somebody stays in it, and no longer.
    let [in_both, also] = owner(format!("{a}{in_g}{b}{in_g}"));
    let group = in_both.clone().unwrap().0;
    assert_eq!(also.unwrap().0, group);
    let [_, still] = owner(format!("{b}{in_g}"));
    assert_eq!(still.unwrap().0, group);
    assert_eq!(owner(format!("{a}{in_g}{b}{in_g}"))[0].clone().unwrap().0, group);
    owner(format!("{a}{b}"));
    let [anew, _] = owner(format!("{a}{in_g}{b}"));
    assert_ne!(anew.unwrap().0, group);
    // Who takes over a group's name in the moment in which its last tenant leaves is nobody of it.
    let [before, _] = owner(format!("{a}{in_h}{b}"));
    let [_, after] = owner(format!("{a}{b}{in_h}"));
    assert_ne!(before.unwrap().0, after.unwrap().0);
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
async fn a_new_file_holds_at_once_and_what_was_used_stays_used() {
    let tenants = "[tenants.a]\nbase = true\nrequests_per_minute = 1\n";
    let book = Book::open(keys_file(tenants), None).unwrap();
    let tenancy = Tenancy::with_book(book, MetricsAccess::Admins).unwrap();
    let (server, engine) = Server::for_tenants(Arc::clone(&tenancy)).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let body = json!({"model": "base", "prompt": "hi"});
    assert_eq!(post(&server, "a", &body).await.status(), 200);
    let next = "[tenants.a]\nbase = true\nrequests_per_minute = 2\n[tenants.b]\n";
    assert_eq!(tenancy.reload(keys_file(next)), Ok((2, 3)));
    assert_eq!(get(&server, "b", "/v1/models").await.status(), 200);
    assert_eq!(post(&server, "a", &body).await.status(), 200);
    assert_eq!(post(&server, "a", &body).await.status(), 429);
    // One that does not hold together changes nothing.
    tenancy.reload(keys_file("[tenants.b]\nweight = 0\n")).unwrap_err();
    assert_eq!(get(&server, "a", "/v1/models").await.status(), 200);
    tenancy.reload(keys_file("[tenants.b]\n")).unwrap();
    assert_eq!(post(&server, "a", &body).await.status(), 401);
    // As where half of the file was written: what was used is not forgotten.
    for between in ["[tenants.b]\n", "[tenants.a]\nbase = true\n[tenants.b]\n"] {
        tenancy.reload(keys_file(between)).unwrap();
        tenancy.reload(keys_file(next)).unwrap();
        assert_eq!(post(&server, "a", &body).await.status(), 429, "{between}");
    }
}

/// A change of tenants that the disk did not take is no change, and is told by the probe until the
/// disk takes what is in force.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_change_of_tenants_is_told_until_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state").join("tenants.toml");
    let book = Book::open(keys_file("[tenants.platform]\n"), Some(path.clone())).unwrap();
    let tenancy = Tenancy::with_book(book, MetricsAccess::Admins).unwrap();
    let (server, _engine) = Server::for_tenants(Arc::clone(&tenancy)).await;
    let ready = || async { server.client.get(format!("{}/ready", server.url)).send().await };
    let change = |name: &'static str| {
        tenancy.change(|all| all.put_tenant(name, TenantEntry::default())).unwrap()
    };
    change("first").unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.parent().unwrap(), "no directory").unwrap();
    assert_eq!(change("second"), Err(ChangeError::NotWritten));
    let answer = ready().await.unwrap();
    let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("state_unavailable")));
    tenancy.write_again();
    assert_eq!(ready().await.unwrap().status(), 503);
    std::fs::remove_file(path.parent().unwrap()).unwrap();
    tenancy.write_again();
    assert_eq!(ready().await.unwrap().status(), 200);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("first") && !text.contains("second"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_declare_tenants_and_keys_that_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenants.toml");
    let start = || {
        let book = Book::open(keys_file("[tenants.platform]\n"), Some(path.clone())).unwrap();
        Tenancy::with_book(book, MetricsAccess::Admins).unwrap()
    };
    let (server, engine) = Server::for_tenants(start()).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let send = |method: &str, path: &str, key: &str, body: Option<Value>| {
        let method = method.parse().unwrap();
        let request = server.client.request(method, format!("{}{path}", server.url));
        let request = request.bearer_auth(key);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.json::<Value>().await.unwrap())
        }
    };
    let acme = json!({"adapters": ["acme-*"], "default": "acme-chat", "tokens_per_minute": 9000});
    let (status, tenant) = send("PUT", "/admin/tenants/acme", "root", Some(acme.clone())).await;
    assert_eq!((status, &tenant["name"], &tenant["in_file"]), (201, &json!("acme"), &json!(false)));
    assert_eq!(send("PUT", "/admin/tenants/acme", "root", Some(acme)).await.0, 200);
    let key = json!({"tenant": "acme", "expires": "2100-01-01T00:00:00Z"});
    let (status, made) = send("POST", "/admin/keys", "root", Some(key)).await;
    assert_eq!(status, 201);
    let secret = made["key"].as_str().unwrap().to_owned();
    let body = json!({"prompt": "hi"});
    assert_eq!(post(&server, &secret, &body).await.status(), 200);
    // No list and no file has it.
    for path in ["/admin/tenants", "/admin/keys"] {
        let (status, list) = send("GET", path, "root", None).await;
        assert!(
            status == 200
                && !list.to_string().contains(&secret)
                && !list.to_string().contains("sha256")
        );
    }
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&secret));
    // What is wrong is refused by name, and by whom it is asked.
    let put = |body: Value| send("PUT", "/admin/tenants/acme", "root", Some(body));
    assert_eq!(put(json!({"weight": 0})).await.1["error"]["param"], "weight");
    assert_eq!(put(json!({"max_tokns": 1})).await.1["error"]["param"], "max_tokns");
    assert_eq!(put(json!({"default": "globex-chat"})).await.0, 400);
    assert_eq!(send("PUT", "/admin/tenants/a%20b", "root", Some(json!({}))).await.0, 400);
    assert_eq!(send("PUT", "/admin/tenants/platform", "root", Some(json!({}))).await.0, 409);
    assert_eq!(send("DELETE", "/admin/keys/root", "root", None).await.0, 409);
    assert_eq!(send("POST", "/admin/keys", "root", Some(json!({"tenant": "x"}))).await.0, 404);
    assert_eq!(send("DELETE", "/admin/keys/nobody", "root", None).await.0, 404);
    for (key, status) in [(secret.as_str(), 403), ("platform", 403), ("nobody", 401)] {
        assert_eq!(send("GET", "/admin/keys", key, None).await.0, status);
    }
    // It outlives the process, and ends when it is taken back.
    let (again, _engine) = Server::for_tenants(start()).await;
    assert_eq!(get(&again, &secret, "/v1/models").await.status(), 200);
    let id = made["id"].as_str().unwrap();
    assert_eq!(send("DELETE", &format!("/admin/keys/{id}"), "root", None).await.0, 200);
    assert_eq!(post(&server, &secret, &body).await.status(), 401);
    let (again, _engine) = Server::for_tenants(start()).await;
    assert_eq!(get(&again, &secret, "/v1/models").await.status(), 401);
    assert_eq!(send("DELETE", "/admin/tenants/acme", "root", None).await.0, 200);
    let (server, _engine) = Server::start().await;
    assert_eq!(
        server.get("/admin/keys").await.status(),
        403,
        "an open server has no administrator"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_request_used_is_counted_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    let usage = UsageLog::open(&path, 1 << 20).unwrap();
    let (server, mut engine) = Server::recording(tenancy(TWO), Some(usage)).await;
    let url = format!("{}{COMPLETIONS}", server.url);
    let send = |key: &str, body: Value| {
        let request = server.client.post(&url).bearer_auth(key).header("x-request-id", key);
        tokio::spawn(request.json(&body).send())
    };
    // One is answered, one goes away in the middle, one fails, one never reaches the engine.
    let whole = send("acme", json!({"prompt": "abc", "n": 2, "max_tokens": 4}));
    let submission = engine.receive().await;
    for (choice, reply) in submission.replies.iter().enumerate() {
        for event in say(&submission.request, choice, if choice == 0 { "a" } else { "a long text" })
        {
            reply.send(event);
        }
    }
    assert_eq!(whole.await.unwrap().unwrap().status(), 200);
    let gone = send("globex", json!({"model": "base", "prompt": "abc", "stream": true}));
    let submission = engine.receive().await;
    submission.replies[0].send(say(&submission.request, 0, "a").remove(1));
    let mut stream = gone.await.unwrap().unwrap();
    while !String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()).contains("text") {}
    drop(stream);
    let failed = send("globex", json!({"model": "globex-chat", "prompt": "abc"}));
    let submission = engine.receive().await;
    submission.replies[0].send(Event::Failed("broken".into()));
    assert_eq!(failed.await.unwrap().unwrap().status(), 500);
    assert_eq!(
        post(&server, "acme", &json!({"model": "nobody", "prompt": "a"})).await.status(),
        404
    );
    let records = records(&server, &path).await;
    let (prompt, cached) = (ids("abc").len(), ids("abc").len() / 2);
    let digest = |byte: &str| format!("blake3:{}", byte.repeat(32));
    let long = ids("a long text").len().min(4);
    let short = ids("a").len() + 1;
    assert_eq!(
        records,
        [
            json!({
                "request_id": "acme", "tenant": "acme", "key": "acme", "model": "acme-chat",
                "adapter_digest": digest("01"), "prompt_tokens": prompt, "cached_tokens": cached,
                "completion_tokens": short + long, "finish": {"length": 1, "stop": 1},
            }),
            json!({
                "request_id": "globex", "tenant": "globex", "key": "globex", "model": "base",
                "adapter_digest": null, "prompt_tokens": prompt, "cached_tokens": 0,
                "completion_tokens": 1, "finish": {"abort": 1},
            }),
            json!({
                "request_id": "globex", "tenant": "globex", "key": "globex", "model": "globex-chat",
                "adapter_digest": digest("03"), "prompt_tokens": prompt, "cached_tokens": 0,
                "completion_tokens": 0, "finish": {"error": 1},
            }),
        ]
    );
    let metrics = get(&server, "root", "/metrics").await.text().await.unwrap();
    for line in [
        format!(
            "sorsa:tenant_generation_tokens_total{{tenant=\"acme\",model=\"acme-chat\"}} {}",
            short + long
        ),
        format!("sorsa:tenant_prompt_tokens_total{{tenant=\"globex\",model=\"base\"}} {prompt}"),
        "sorsa:tenant_queue_time_seconds_count{tenant=\"acme\",model=\"acme-chat\"} 1".to_owned(),
        "sorsa:tenant_time_to_first_token_seconds_count{tenant=\"globex\",model=\"base\"} 1"
            .to_owned(),
    ] {
        assert!(metrics.lines().any(|other| *other == line), "no {line} in\n{metrics}");
    }
}

/// The usage records once nobody is answered any more, by model and without times.
async fn records(server: &Server, path: &std::path::Path) -> Vec<Value> {
    server.state.lifecycle.idle().await;
    server.state.usage.as_ref().unwrap().flush().await;
    let text = std::fs::read_to_string(path).unwrap();
    let mut records: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    records.iter_mut().for_each(|record| {
        let time = record.as_object_mut().unwrap().shift_remove("time").unwrap();
        assert!(time.as_f64().unwrap() > 1.6e9);
    });
    records.sort_by_key(|record| record["model"].as_str().unwrap().to_owned());
    records
}

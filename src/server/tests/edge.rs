//! Requests as bytes on a connection: what is refused before a body is read, how long one may take to
//! send and to read, and for which names and pages a server answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::harness::{Server, say};
use crate::server::router::routes;
use crate::server::state::ServerConfig;
use crate::server::tenancy::{MetricsAccess, Tenancy};
use crate::tenant::directory::Directory;
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::KeysFile;

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
struct Wire(TcpStream);

impl Wire {
    async fn to(server: &Server) -> Self {
        Self(TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer: its head and its body.
    async fn answer(&mut self) -> (String, String) {
        timeout(PATIENCE, self.read_answer()).await.expect("no answer came")
    }

    async fn read_answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("the connection ended within a head"));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    async fn status(&mut self) -> u16 {
        self.answer().await.0.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Whether the server ends the connection, one way or another.
    async fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.is_ok() && rest.is_empty()
    }
}

/// The status of the answer to one request on a connection of its own.
async fn status(server: &Server, request: &str) -> u16 {
    let mut wire = Wire::to(server).await;
    wire.send(request).await;
    wire.status().await
}

/// The head of a completion's request with more headers.
fn head(headers: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\n{headers}\r\n"
    )
}

/// The tenants `a` and `b`, with keys of their names, and the administrator `root`.
fn tenancy(limits: &str) -> Arc<Tenancy> {
    let key = |id: &str, tenant: &str, role: &str| {
        let hash = KeyHash::of(id);
        format!("[keys.{id}]\ntenant = \"{tenant}\"\nsha256 = \"{hash}\"\nroles = [\"{role}\"]\n")
    };
    let text = format!(
        "[tenants.a]\nbase = true\n{limits}[tenants.b]\nbase = true\n{}{}{}",
        key("a", "a", "user"),
        key("b", "b", "user"),
        key("root", "a", "admin")
    );
    let directory = Directory::new(&KeysFile::parse(&text).unwrap()).unwrap();
    Tenancy::with_keys(directory, MetricsAccess::Admins)
}

async fn for_tenants(limits: &str) -> Server {
    let (server, engine) = Server::for_tenants(tenancy(limits)).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    server
}

const BODY: &str = "{\"model\":\"base\",\"prompt\":\"hi\"}";

/// Headers of a request of `key` that waits to be told to send its body.
fn waiting(key: &str) -> String {
    format!(
        "authorization: Bearer {key}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n",
        BODY.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_be_answered_is_told_before_a_body_is_read() {
    let server = for_tenants("requests_per_minute = 1\n").await;
    // One is told to go on, and is answered.
    let mut wire = Wire::to(&server).await;
    wire.send(&head(&waiting("a"))).await;
    assert_eq!(wire.status().await, 100);
    wire.send(BODY).await;
    assert_eq!(wire.status().await, 200);
    for (headers, expected) in [
        (waiting("a"), 429),
        (waiting("nobody"), 401),
        (waiting("root"), 403),
        (waiting("b").replace(&BODY.len().to_string(), "10000000000"), 413),
        (waiting("b") + "content-encoding: gzip\r\n", 415),
        // Nobody has to ask first.
        (waiting("a").replace("expect: 100-continue\r\n", ""), 429),
        (waiting("nobody").replace("expect: 100-continue\r\n", ""), 401),
        ("authorization: Bearer a\r\ntransfer-encoding: chunked\r\n".to_owned(), 429),
        ("authorization: Bearer b\r\ncontent-length: 10000000000\r\n".to_owned(), 413),
        ("authorization: Bearer b\r\ncontent-length: 9223372036854775807\r\n".to_owned(), 413),
    ] {
        let mut wire = Wire::to(&server).await;
        wire.send(&head(&headers)).await;
        assert_eq!(wire.status().await, expected, "{headers}");
        assert!(wire.ends().await, "{headers}");
    }
    let text = head(&waiting("b")).replace("application/json", "text/plain");
    assert_eq!(status(&server, &text).await, 415);
    for path in
        ["/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"]
    {
        let request = head(&waiting("a")).replace("/v1/completions", path);
        assert_eq!(status(&server, &request).await, 429, "{path}");
    }
    let (server, _engine) = Server::for_tenants(tenancy("")).await;
    server.state.lifecycle.advance(crate::server::lifecycle::Phase::Draining);
    assert_eq!(status(&server, &head(&waiting("a"))).await, 503);
    let server = Server::loading(ServerConfig::default(), Duration::ZERO).await;
    assert_eq!(status(&server, &head(&waiting("a"))).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stays_away_gives_its_place_back() {
    let config = ServerConfig { body_grace: Duration::from_millis(50), ..ServerConfig::default() };
    let (server, engine) = Server::limited(tenancy("max_concurrent = 1\n"), config).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let mut slow = Wire::to(&server).await;
    slow.send(&head(&waiting("a"))).await;
    assert_eq!(slow.status().await, 100);
    // It has the one place that its tenant has; others are not concerned.
    assert_eq!(status(&server, &head(&waiting("a"))).await, 429);
    assert_eq!(status(&server, &(head(&waiting("b")) + BODY)).await, 100);
    slow.send("{").await;
    assert_eq!(slow.status().await, 408);
    assert!(slow.ends().await);
    // So does one whose client goes away.
    let mut gone = Wire::to(&server).await;
    gone.send(&head(&waiting("a"))).await;
    assert_eq!(gone.status().await, 100);
    drop(gone);
    timeout(PATIENCE, server.state.lifecycle.idle()).await.unwrap();
    assert_eq!(server.state.bodies.used(), 0);
    assert_eq!(status(&server, &head(&waiting("a"))).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_pieces_is_bounded_as_one_that_says_its_length() {
    let config = ServerConfig { max_body_bytes: 1000, ..ServerConfig::default() };
    let (server, engine) = Server::with_config(config, 16).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let chunked = head("transfer-encoding: chunked\r\n");
    let small = format!("{chunked}{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    assert_eq!(status(&server, &small).await, 200);
    let chunk = format!("{:x}\r\n{}\r\n", 500, " ".repeat(500));
    assert_eq!(status(&server, &(chunked.clone() + &chunk + &chunk + &chunk)).await, 413);
    assert_eq!(status(&server, &(chunked + "ffffffffffffffff\r\n" + &" ".repeat(2000))).await, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_still_sending_gets_its_answer() {
    let config = ServerConfig { max_body_bytes: 1000, ..ServerConfig::default() };
    let (server, _engine) = Server::with_config(config, 16).await;
    for _ in 0..8 {
        let mut wire = Wire::to(&server).await;
        wire.send(&head("content-length: 8000000\r\n")).await;
        let piece = " ".repeat(80_000);
        for _ in 0..100 {
            wire.send(&piece).await;
        }
        assert_eq!(wire.status().await, 413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_together_are_bounded_and_a_tenant_takes_only_a_part() {
    let config = ServerConfig { max_bodies_memory: 100_000, ..ServerConfig::default() };
    let (server, engine) = Server::limited(tenancy(""), config).await;
    engine.script(|request, choice| say(request, choice, "hello"));
    let long = |key: &str| format!("authorization: Bearer {key}\r\ncontent-length: 25000\r\n");
    let mut first = Wire::to(&server).await;
    first.send(&(head(&long("a")) + &" ".repeat(20_000))).await;
    while server.state.bodies.used() < 40_000 {
        tokio::task::yield_now().await;
    }
    // Another of the same tenant would leave others less than the tenant has.
    let mut second = Wire::to(&server).await;
    second.send(&(head(&long("a")) + &" ".repeat(20_000))).await;
    let (head, body) = second.answer().await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: 1\r\n"), "{head}");
    assert!(body.contains("rate_limit_exceeded"), "{body}");
    let headers = format!("authorization: Bearer b\r\ncontent-length: {}\r\n", BODY.len());
    assert_eq!(status(&server, &(self::head(&headers) + BODY)).await, 200);
    drop(first);
    timeout(PATIENCE, server.state.lifecycle.idle()).await.unwrap();
    assert_eq!(server.state.bodies.used(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_given_up() {
    let config =
        ServerConfig { write_timeout: Duration::from_millis(100), ..ServerConfig::default() };
    let (server, _engine) = Server::with_config(config, 16).await;
    let mut wire = Wire::to(&server).await;
    let request = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    // Until nobody takes what is sent: an end that is only held up would wait for ever.
    let asks = async { while wire.0.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, asks).await.expect("the connection is held");
    assert_eq!(server.get("/health").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_never_read_gives_its_place_back() {
    let config = ServerConfig {
        write_timeout: Duration::from_millis(100),
        max_request_tokens: 1 << 30,
        ..ServerConfig::default()
    };
    let (server, engine) = Server::with_config(config, 1024).await;
    engine.script(|request, choice| say(request, choice, &"long ".repeat(20)));
    let body = serde_json::json!({
        "model": "base", "prompt": vec!["a"; 1000], "max_tokens": 40, "stream": true,
        "logprobs": 20, "return_token_ids": true,
    });
    let body = body.to_string();
    let mut wire = Wire::to(&server).await;
    wire.send(&(head(&format!("content-length: {}\r\n", body.len())) + &body)).await;
    while server.state.lifecycle.running() == 0 {
        tokio::task::yield_now().await;
    }
    timeout(PATIENCE, server.state.lifecycle.idle()).await.expect("the place is held");
    drop(wire);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_and_busy_ones_stay() {
    let config = ServerConfig { max_connections: 2, ..ServerConfig::default() };
    let (server, mut engine) = Server::with_config(config, 16).await;
    let mut busy = Wire::to(&server).await;
    busy.send(&(head(&format!("content-length: {}\r\n", BODY.len())) + BODY)).await;
    let submission = engine.receive().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(Wire::to(&server).await);
    }
    assert_eq!(status(&server, "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 200);
    assert!(idle[0].ends().await);
    for event in say(&submission.request, 0, "hello") {
        submission.replies[0].send(event);
    }
    assert_eq!(busy.status().await, 200);
}

/// Requests that servers in front of this one may read otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_can_be_read_in_two_ways_is_refused() {
    let keys = for_tenants("").await;
    let open = Server::saying("hello").await;
    let get = |headers: &str| format!("GET /health HTTP/1.1\r\n{headers}\r\n");
    for server in [&open, &keys] {
        for (request, expected) in [
            (get("host: localhost\r\n"), 200),
            (get(""), 400),
            (get("host: localhost\r\nhost: localhost\r\n"), 400),
            (get("host: localhost\r\nhost: evil.example\r\n"), 400),
            (get("host: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n"), 400),
            (get("host: localhost\r\ntransfer-encoding: chunked, identity\r\n"), 400),
            (get("host: localhost\r\ntransfer-encoding: gzip\r\n"), 400),
            (get("host: localhost\r\ncontent-length: +1\r\n"), 400),
            (get("host: localhost\r\ncontent-length: -1\r\n"), 400),
            (get("host: localhost\r\n folded: yes\r\n"), 400),
            (get("host : localhost\r\n"), 400),
            (get(&format!("host: localhost\r\n{}", "a: b\r\n".repeat(200))), 431),
            ("GET /health HTTP/1.0\r\n\r\n".to_owned(), 200),
            ("GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n".to_owned(), 200),
            ("GET /health HTTP/2.0\r\nhost: localhost\r\n\r\n".to_owned(), 400),
            ("GET /health\r\n\r\n".to_owned(), 400),
        ] {
            assert_eq!(status(server, &request).await, expected, "{request}");
        }
    }
}

/// A length beside chunks is not gone by, and what comes behind the chunks is nobody's request.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_behind_a_body_in_chunks() {
    let server = Server::saying("hello").await;
    for lengths in ["", "content-length: 3\r\n", "content-length: 300\r\n"] {
        for headers in [
            format!("{lengths}transfer-encoding: chunked\r\n"),
            format!("transfer-encoding: chunked\r\n{lengths}"),
        ] {
            let request = head(&headers) + &format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
            let mut wire = Wire::to(&server).await;
            wire.send(&(request + "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
            let (answer, _) = wire.answer().await;
            assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"));
            assert!(wire.ends().await, "{headers}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_only_own_names_are_answered_to_on_every_route() {
    let config = ServerConfig {
        allowed_hosts: vec!["sorsa.example".parse().unwrap()],
        runtime_adapters: true,
        ..ServerConfig::default()
    };
    let (server, _engine) = Server::with_config(config, 16).await;
    let keys = for_tenants("").await;
    let get = |host: &str| format!("GET /health HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for own in ["127.0.0.1", "[::1]:8000", "localhost", "LocalHost.:1", "sorsa.example:8000"] {
        assert_eq!(status(&server, &get(own)).await, 200, "{own}");
    }
    for other in
        ["evil.example", "evil.example:8000", "localhost.evil.example", "", "x.sorsa.example"]
    {
        assert_eq!(status(&server, &get(other)).await, 403, "{other}");
        assert_eq!(status(&keys, &get(other)).await, 200, "a key is no page's to bring");
    }
    // The target names a server too.
    for (target, host, expected) in [
        ("http://evil.example/health", "localhost", 403),
        ("http://localhost/health", "evil.example", 403),
        ("http://localhost:8000/health", "localhost:8000", 200),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(status(&server, &request).await, expected, "{target} of {host}");
    }
    for (route, _) in routes() {
        let path = route.replace("{*id}", "base").replace("{id}", "x").replace("{name}", "x");
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\
                 content-length: 0\r\n\r\n"
            );
            assert_eq!(status(&server, &request).await, 403, "{method} {path}");
            if method == "GET" {
                continue;
            }
            let request = request.replace("evil.example", "localhost");
            for page in
                ["origin: http://evil.example", "sec-fetch-site: cross-site", "origin: null"]
            {
                let request = request.replace("connection", &format!("{page}\r\nconnection"));
                let refused = status(&server, &request).await == 403;
                assert!(refused || method == "OPTIONS", "{method} {path} from {page}");
            }
        }
    }
    let mut wire = Wire::to(&server).await;
    wire.send(&get("evil.example")).await;
    insta::assert_snapshot!(wire.answer().await.1, @r#"{"error":{"message":"without keys this server answers only to addresses, localhost and the names given by --allowed-host, and not to \"evil.example\"","type":"permission_error","param":null,"code":"host_not_allowed"}}"#);
    let form = "POST /ping HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n\r\n";
    wire.send(form).await;
    insta::assert_snapshot!(wire.answer().await.1, @r#"{"error":{"message":"without keys this server takes no requests from pages of other servers","type":"permission_error","param":null,"code":"cross_origin"}}"#);
}

/// A client that hangs up and one that only closes its sending half look the same until something is
/// written to them: both are gone, so that nothing is computed for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_sending_half_is_gone() {
    let (server, mut engine) = Server::start().await;
    let body = r#"{"model": "base", "prompt": "hi"}"#;
    for stays in [true, false] {
        let mut wire = Wire::to(&server).await;
        wire.send(&format!("{}{body}", head(&format!("content-length: {}\r\n", body.len())))).await;
        let submission = engine.receive().await;
        if stays {
            wire.0.shutdown().await.unwrap();
            assert!(wire.ends().await, "nothing comes of it");
        } else {
            drop(wire);
        }
        timeout(PATIENCE, server.state.lifecycle.idle()).await.expect("it runs on");
        assert!(submission.replies.iter().all(|reply| reply.is_closed()));
    }
}

//! Loading, overload, clients that hang up, a dead engine, and the end.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::harness::{Engine, Server, model, parse_events, say};
use crate::engine::handle::Submission;
use crate::engine::request::{Event, FinishReason};
use crate::server::Drained;
use crate::server::state::ServerConfig;

const COMPLETIONS: &str = "/v1/completions";

fn body(stream: bool) -> Value {
    json!({"model": "base", "prompt": "hi", "n": 2, "stream": stream})
}

/// Sends `body` in the background.
fn send(
    server: &Server,
    body: &Value,
) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    tokio::spawn(server.client.post(format!("{}{COMPLETIONS}", server.url)).json(body).send())
}

async fn status(server: &Server, path: &str) -> u16 {
    server.get(path).await.status().as_u16()
}

fn finish(submission: &Submission) {
    for (choice, reply) in submission.replies.iter().enumerate() {
        say(&submission.request, choice, "hello").into_iter().for_each(|event| reply.send(event));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loading_server_is_healthy_but_not_ready() {
    let server = Server::loading(ServerConfig::default(), Duration::ZERO).await;
    assert_eq!(status(&server, "/health").await, 200);
    assert_eq!(status(&server, "/v1/health/live").await, 200);
    assert_eq!(status(&server, "/metrics").await, 200);
    assert_eq!(status(&server, "/ready").await, 503);
    assert_eq!(status(&server, "/v1/models").await, 503);
    let refused = server.post(COMPLETIONS, &body(false)).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    let (serving, engine) = model(4);
    server.state.set_serving(serving);
    engine.script(|request, choice| say(request, choice, "hello"));
    assert_eq!(status(&server, "/ready").await, 200);
    assert_eq!(server.post(COMPLETIONS, &body(false)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_at_once_and_takes_nothing_of_a_batch() {
    let (server, mut engine) = Server::with_config(ServerConfig::default(), 2).await;
    let first = send(&server, &body(false));
    let waiting = engine.receive().await;
    let batch = json!({"model": "base", "prompt": ["a", "b"]});
    let refused = server.post(COMPLETIONS, &batch).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    insta::assert_snapshot!(refused.text().await.unwrap(), @r#"{"error":{"message":"the queue is full: 2 requests are waiting","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#);
    let half = engine.receive().await;
    assert!(half.replies[0].is_closed(), "the batch's first prompt was aborted with it");
    drop(half);
    finish(&waiting);
    drop(waiting);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    engine.script(|request, choice| say(request, choice, "hello"));
    assert_eq!(server.post(COMPLETIONS, &batch).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_aborts_every_choice() {
    let (server, mut engine) = Server::start().await;
    for stream in [false, true] {
        let request = send(&server, &body(stream));
        let submission = engine.receive().await;
        if stream {
            let token = Event::Token { token: 5, logprobs: None };
            submission.replies[1].send(token);
            let mut bytes = request.await.unwrap().unwrap().bytes_stream();
            bytes.next().await.unwrap().unwrap();
            drop(bytes);
        } else {
            request.abort();
        }
        let idle = server.state.lifecycle.idle();
        tokio::time::timeout(Duration::from_secs(10), idle).await.unwrap();
        assert!(submission.replies.iter().all(|reply| reply.is_closed()));
    }
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("request_success_total{finished_reason=\"abort\"} 4\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_is_503_everywhere() {
    let (server, engine) = Server::start().await;
    let lost: Engine = engine;
    drop(lost);
    // The first request finds out: its events never come.
    assert_eq!(server.post(COMPLETIONS, &body(false)).await.status(), 503);
    for path in ["/health", "/ready", "/ping"] {
        assert_eq!(status(&server, path).await, 503);
    }
    let refused = server.post(COMPLETIONS, &body(true)).await;
    assert_eq!(refused.status(), 503);
    insta::assert_snapshot!(refused.text().await.unwrap(), @r#"{"error":{"message":"the engine has stopped","type":"server_error","param":null,"code":"engine_dead"}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_fails_ends_its_request_and_no_other() {
    let (server, mut engine) = Server::start().await;
    for stream in [false, true] {
        let bad = send(&server, &body(stream));
        let failing = engine.receive().await;
        let good = send(&server, &body(stream));
        let working = engine.receive().await;
        failing.replies[1].send(Event::Failed("the logits are not finite".to_owned()));
        finish(&working);
        assert_eq!(good.await.unwrap().unwrap().status(), 200);
        let response = bad.await.unwrap().unwrap();
        assert_eq!(response.status().as_u16(), if stream { 200 } else { 500 });
        let text = response.text().await.unwrap();
        let error = if stream {
            let events = parse_events(&text);
            assert_eq!(events.last().unwrap(), "[DONE]");
            events[events.len() - 2].clone()
        } else {
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(error["error"]["message"], "the logits are not finite");
        assert!(failing.replies[0].is_closed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_requests_finish_and_refuses_new_ones() {
    let (mut server, mut engine) = Server::start().await;
    let whole = send(&server, &body(false));
    let first = engine.receive().await;
    let stream = send(&server, &body(true));
    let second = engine.receive().await;
    let stream = stream.await.unwrap().unwrap();
    server.shut_down();
    // Readiness falls at once, on connections that are accepted as before.
    while status(&server, "/ready").await == 200 {}
    assert_eq!(status(&server, "/health").await, 200);
    let refused = server.post(COMPLETIONS, &body(true)).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    finish(&first);
    finish(&second);
    let whole: Value = whole.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(whole["choices"][1]["text"], "hello");
    assert!(stream.text().await.unwrap().ends_with("[DONE]\n\n"));
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(server.ended().await, Drained::Completely);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_past_the_timeout_or_a_second_signal_is_aborted_aloud() {
    for second_signal in [false, true] {
        let patience = if second_signal { Duration::from_secs(600) } else { Duration::ZERO };
        let mut server = Server::loading(ServerConfig::default(), patience).await;
        let (serving, mut engine) = model(4);
        server.state.set_serving(serving);
        let whole = send(&server, &body(false));
        let first = engine.receive().await;
        let stream = send(&server, &body(true));
        let second = engine.receive().await;
        second.replies[0].send(Event::Token { token: 5, logprobs: None });
        let stream = stream.await.unwrap().unwrap();
        server.shut_down();
        if second_signal {
            server.abort();
        }
        let whole = whole.await.unwrap().unwrap();
        assert_eq!(whole.status(), 503);
        let events = parse_events(&stream.text().await.unwrap());
        assert_eq!(events[events.len() - 2]["error"]["code"], "shutting_down");
        assert_eq!(events.last().unwrap(), "[DONE]");
        assert_eq!(server.ended().await, Drained::Aborted(2));
        let mut replies = first.replies.iter().chain(&second.replies);
        assert!(replies.all(|reply| reply.is_closed()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_aborts_is_an_error_not_a_short_answer() {
    let (server, engine) = Server::start().await;
    engine.script(|_, _| vec![Event::Finished(FinishReason::Abort)]);
    assert_eq!(server.post(COMPLETIONS, &body(false)).await.status(), 503);
    let events = server.stream(COMPLETIONS, &body(true)).await;
    assert_eq!(events[0]["error"]["code"], "shutting_down");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_echoed_where_they_are_harmless() {
    let server = Server::saying("hello").await;
    let with = |id: &str| {
        server.client.get(format!("{}/version", server.url)).header("x-request-id", id).send()
    };
    let harmless = with("trace-1/2").await.unwrap();
    assert_eq!(harmless.headers()["x-request-id"], "trace-1/2");
    for odd in ["a b", "\"x\"", &"x".repeat(129)] {
        let response = with(odd).await.unwrap();
        assert_eq!(response.headers()["x-request-id"].len(), 36);
    }
    assert_eq!(
        harmless.json::<Value>().await.unwrap(),
        json!({"version": env!("CARGO_PKG_VERSION")})
    );
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let counted = "sorsa:http_requests_total{method=\"GET\",route=\"/version\",status=\"200\"} 4\n";
    assert!(metrics.contains(counted), "{metrics}");
}

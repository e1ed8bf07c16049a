//! `/v1/embeddings` over a loopback connection, in front of a scripted engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::harness::{MAX_MODEL_LEN, Server, VOCAB_SIZE, ids};
use crate::engine::request::{Event, FinishReason, Pooling, Queued, Request};
use crate::server::state::ServerConfig;

const PATH: &str = "/v1/embeddings";

/// A prompt's length and its first token: a vector of length 5 where they are 3 and 4.
fn embed(request: &Request, _: usize) -> Vec<Event> {
    let vector = vec![request.prompt.len() as f32, request.prompt[0] as f32];
    let computed = Event::PromptComputed { num_cached_tokens: 0, queued: Queued::default() };
    vec![computed, Event::Pooled(vector), Event::Finished(FinishReason::Length)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_for_each_input_in_order_and_of_length_one() {
    let (server, engine) = Server::start().await;
    engine.script(embed);
    let body = json!({"model": "tenant", "input": [[4, 1, 1], [12, 1, 1, 1, 1]]});
    let expected = json!({
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]},
            {"object": "embedding", "index": 1, "embedding": [0.3846154, 0.9230769]},
        ],
        "model": "tenant",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    });
    assert_eq!(server.answer(PATH, &body).await, expected);
    let body = json!({"model": "tenant", "input": [4, 1, 1], "normalize": false});
    let answer = server.answer(PATH, &body).await;
    assert_eq!(answer["data"][0]["embedding"], json!([3.0, 4.0]));
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("request_success_total{finished_reason=\"stop\"} 3\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn base64_is_the_same_numbers_in_four_bytes_each() {
    let (server, engine) = Server::start().await;
    engine.script(embed);
    let body = json!({
        "model": "base", "input": [4, 1, 1], "normalize": false, "encoding_format": "base64",
    });
    let answer = server.answer(PATH, &body).await;
    // 3.0 and 4.0: 00 00 40 40, 00 00 80 40.
    assert_eq!(answer["data"][0]["embedding"], "AABAQAAAgEA=");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_the_engine_as_it_was_meant() {
    let config = ServerConfig { pooling: Pooling::Last, ..ServerConfig::default() };
    let (server, mut engine) = Server::with_config(config, 16).await;
    for (asked, pooling) in [
        (json!(null), Pooling::Last),
        (json!("mean"), Pooling::Mean),
        (json!("last"), Pooling::Last),
    ] {
        let body = json!({
            "model": "tenant", "input": "jump", "pooling": asked, "cache_salt": "pepper",
            "user": "u", "dimensions": null,
        });
        let _answer =
            tokio::spawn(server.client.post(format!("{}{PATH}", server.url)).json(&body).send());
        let Request { prompt, n, sampling, adapter, cache_salt, pooling: found, .. } =
            engine.receive().await.request;
        assert_eq!((prompt.to_vec(), n, sampling.max_tokens), (ids("jump"), 1, 0));
        assert_eq!((adapter.unwrap().name.as_str(), &*cache_salt), ("tenant", "pepper"));
        assert_eq!(found, Some(pooling));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_input_is_cut_where_that_is_asked_for() {
    let (server, mut engine) = Server::start().await;
    let long: Vec<u32> = (0..100).collect();
    for (extra, expected) in [
        (json!({"truncate_prompt_tokens": 5}), &long[95..]),
        (json!({"truncate_prompt_tokens": 5, "truncation_side": "right"}), &long[..5]),
        (json!({"truncate_prompt_tokens": -1}), &long[100 - MAX_MODEL_LEN..]),
    ] {
        let mut body = json!({"model": "base", "input": [long]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let request = server.client.post(format!("{}{PATH}", server.url)).json(&body);
        let asking = tokio::spawn(request.send());
        assert_eq!(*engine.receive().await.request.prompt, *expected, "{extra}");
        asking.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_of_a_vector_has_two_names() {
    let (server, engine) = Server::start().await;
    engine.script(embed);
    for (extra, unit) in [
        (json!({}), true),
        (json!({"normalize": false}), false),
        (json!({"use_activation": false}), false),
        (json!({"use_activation": true, "normalize": false}), true),
        (json!({"use_activation": null, "normalize": false}), false),
    ] {
        let mut body = json!({"model": "base", "input": "hi"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = server.answer(PATH, &body).await;
        let vector: Vec<f64> =
            serde_json::from_value(answer["data"][0]["embedding"].clone()).unwrap();
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert_eq!((length - 1.0).abs() < 1e-5, unit, "{extra}: {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_inputs_than_may_wait_are_taken_a_window_at_a_time() {
    let (server, mut engine) = Server::with_config(ServerConfig::default(), 8).await;
    let inputs: Vec<_> = (0..100).map(|n| json!([n, 1, 1])).collect();
    let body = json!({"model": "base", "input": inputs, "normalize": false});
    let request = server.client.post(format!("{}{PATH}", server.url)).json(&body).send();
    let answer = tokio::spawn(request);
    let (most, mut held) = (Arc::new(AtomicUsize::new(0)), Vec::new());
    for _ in 0..100 {
        held.push(engine.receive().await);
        most.fetch_max(held.len(), Ordering::Relaxed);
        if held.len() == 2 {
            // The later one first: order is the request's, not the engine's.
            for submission in held.drain(..).rev() {
                for event in embed(&submission.request, 0) {
                    submission.replies[0].send(event);
                }
            }
        }
    }
    let answer: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(most.load(Ordering::Relaxed), 2, "a quarter of the queue");
    for (index, item) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(item["index"], index);
        assert_eq!(item["embedding"], json!([3.0, index as f32]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_fails_its_request_and_aborts_the_others() {
    let (server, mut engine) = Server::start().await;
    let body = json!({"model": "base", "input": [[1], [2], [3]]});
    let request = server.client.post(format!("{}{PATH}", server.url)).json(&body).send();
    let answer = tokio::spawn(request);
    let submissions = [engine.receive().await, engine.receive().await, engine.receive().await];
    submissions[1].replies[0].send(Event::Failed("the forward pass failed".to_owned()));
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), 500);
    assert!(submissions[0].replies[0].is_closed() && submissions[2].replies[0].is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_by_its_name() {
    let (server, engine) = Server::start().await;
    engine.script(embed);
    let cases = [
        ("model", json!("nobody")),
        ("input", json!(null)),
        ("input", json!("")),
        ("input", json!([])),
        ("input", json!([[]])),
        ("input", json!(["a", [1]])),
        ("input", json!([VOCAB_SIZE])),
        ("input", json!(vec![1; MAX_MODEL_LEN + 1])),
        ("input", json!(vec!["a"; 2049])),
        ("encoding_format", json!("bytes")),
        ("dimensions", json!(256)),
        ("pooling", json!("max")),
        ("normalize", json!("yes")),
        ("cache_salt", json!("")),
        ("messages", json!([{"role": "user", "content": "a"}])),
        ("truncate_prompt_tokens", json!(0)),
        ("truncate_prompt_tokens", json!("7")),
        ("truncation_side", json!("middle")),
        ("padding", json!("max_length")),
        ("use_activation", json!(1)),
    ];
    for (field, value) in cases {
        let mut body = json!({"model": "base", "input": "hi"});
        body[field] = value;
        let response = server.post(PATH, &body).await;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, if field == "model" { 404 } else { 400 }, "{body} {answer}");
        assert_eq!(answer["error"]["param"], field, "{answer}");
    }
    // As long as the context: an answer needs no room.
    let body = json!({"model": "base", "input": vec![1; MAX_MODEL_LEN]});
    assert_eq!(server.post(PATH, &body).await.status(), 200);
}

//! Text work: what is refused before it is begun, whose turn it is, and what a client that left leaves
//! behind.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Server, say};
use crate::metrics::Metrics;
use crate::server::state::ServerConfig;
use crate::server::tenancy::{MetricsAccess, Tenancy};
use crate::server::work::lane::{Lane, Place, Refused};
use crate::tenant::directory::Directory;
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::KeysFile;
use crate::tenant::turns::{Full, Limits, Party};

const TENANTS: &str = "[tenants.a]\nbase = true\n[tenants.b]\nbase = true\n";
const KEYS: [&str; 2] = ["a", "b"];

fn tenancy() -> Arc<Tenancy> {
    let mut file = KeysFile::parse(TENANTS).unwrap();
    let entry = |key: &&str| {
        let hash = KeyHash::of(key);
        format!("[keys.{key}]\ntenant = \"{key}\"\nsha256 = \"{hash}\"\nroles = [\"user\"]\n")
    };
    file.keys = KeysFile::parse(&KEYS.iter().map(entry).collect::<String>()).unwrap().keys;
    Tenancy::with_keys(Directory::new(&file).unwrap(), MetricsAccess::Public)
}

fn party(tenant: u32) -> Party {
    Party { tenant, weight: 1, alone: false }
}

fn lane(places: usize, jobs: usize) -> Arc<Lane> {
    let limits = Limits { places, jobs, bytes: 1 << 20 };
    Lane::new("text", limits, Duration::from_secs(600), Metrics::new().work("text"))
}

/// A sample of a metric.
async fn metric(server: &Server, sample: &str) -> f64 {
    let text = server.get("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

/// Waits until a metric has a value.
async fn until(server: &Server, sample: &str, value: f64) {
    let wait = async { while metric(server, sample).await != value {} };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

async fn post(server: &Server, key: usize, body: &Value) -> reqwest::Response {
    let url = format!("{}/v1/completions", server.url);
    server.client.post(url).bearer_auth(KEYS[key]).json(body).send().await.unwrap()
}

const BEGUN: &str = "sorsa:work_wait_seconds_count{kind=\"text\"}";
const WAITING: &str = "sorsa:work_waiting{kind=\"text\"}";

/// A text that no 64 tokens can stand for is refused for its bytes: no job is begun for it.
#[tokio::test]
async fn what_cannot_fit_is_refused_before_it_is_tokenised() {
    let server = Server::saying("yes").await;
    let long = "the in a ".repeat(200_000);
    let chat = |text: &str| json!([{"role": "user", "content": text}]);
    let cases = [
        ("/v1/completions", "prompt", json!({"prompt": long})),
        ("/v1/completions", "prompt", json!({"prompt": ["a", long], "echo": true})),
        ("/v1/chat/completions", "messages", json!({"messages": chat(&long)})),
        (
            "/v1/chat/completions",
            "messages",
            json!({"messages": chat("a"), "tools": [
            {"type": "function", "function": {"name": "f", "description": long}}]}),
        ),
        ("/v1/responses", "input", json!({"input": long})),
        ("/v1/responses", "input", json!({"input": "a", "instructions": long})),
        ("/v1/embeddings", "input", json!({"input": long})),
        ("/v1/embeddings", "input", json!({"input": ["a", "b", long]})),
    ];
    for (path, param, mut body) in cases {
        body["model"] = json!("base");
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400, "{path}");
        let error = response.json::<Value>().await.unwrap();
        assert_eq!(error["error"]["code"], "context_length_exceeded", "{path} {error}");
        assert_eq!(error["error"]["param"], param);
    }
    for body in [json!({"prompt": long}), json!({"messages": chat(&long)})] {
        let response = server.post("/tokenize", &body).await;
        assert_eq!(response.status(), 400);
    }
    assert_eq!(metric(&server, BEGUN).await, 0.0);
    // Whoever asks for the last tokens of a long text gets them.
    let body =
        json!({"model": "base", "prompt": long, "truncate_prompt_tokens": 9, "max_tokens": 1});
    let answer = server.answer("/v1/completions", &body).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 9);
}

#[tokio::test]
async fn a_tenant_that_waits_has_half_the_queue_and_is_told_when_it_is_full() {
    let config = ServerConfig { text_workers: 1, max_queued_jobs: 4, ..ServerConfig::default() };
    let (server, engine) = Server::for_tenants_with(tenancy(), config).await;
    engine.script(|request, choice| say(request, choice, "yes"));
    let body = json!({"model": "base", "prompt": "a"});
    // Somebody else has the only place.
    let place = server.state.lanes.text.place(party(77), 0).await.unwrap();
    let answers = [post(&server, 0, &body), post(&server, 0, &body), post(&server, 1, &body)];
    let answered = futures_util::future::join_all(answers);
    let full = async {
        until(&server, WAITING, 3.0).await;
        let refusal = post(&server, 1, &body).await;
        assert_eq!(refusal.status(), 429);
        assert_eq!(refusal.headers()["retry-after"], "1");
        let error = refusal.json::<Value>().await.unwrap();
        assert_eq!(error["error"]["code"], "rate_limit_exceeded");
        drop(place);
    };
    let (answers, ()) = futures_util::future::join(answered, full).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(metric(&server, WAITING).await, 0.0);
    let refused = "sorsa:work_refused_total{kind=\"text\",reason=\"full\"}";
    assert_eq!(metric(&server, refused).await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_queue() {
    let config = ServerConfig { text_workers: 1, ..ServerConfig::default() };
    let (server, engine) = Server::with_config(config, 16).await;
    engine.script(|request, choice| say(request, choice, "yes"));
    let place = server.state.lanes.text.place(party(77), 0).await.unwrap();
    let body = json!({"model": "base", "prompt": "a"});
    let request = server.post("/v1/completions", &body);
    tokio::select! {
        _ = request => panic!("there was no place"),
        () = until(&server, WAITING, 1.0) => {}
    }
    until(&server, WAITING, 0.0).await;
    drop(place);
    assert_eq!(server.post("/v1/completions", &body).await.status(), 200);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let config =
        ServerConfig { text_workers: 1, work_patience: Duration::ZERO, ..ServerConfig::default() };
    let (server, _engine) = Server::with_config(config, 16).await;
    let _place = server.state.lanes.text.place(party(77), 0).await.unwrap();
    let body = json!({"model": "base", "prompt": "a"});
    assert_eq!(server.post("/v1/completions", &body).await.status(), 429);
    let form = json!({"model": "base", "prompt": "a", "guided_regex": "a"});
    let place = server.state.lanes.grammars.place(party(77), 0).await.unwrap();
    drop(place);
    assert_eq!(server.post("/v1/completions", &form).await.status(), 429);
    let late = "sorsa:work_refused_total{kind=\"text\",reason=\"late\"}";
    assert_eq!(metric(&server, late).await, 2.0);
}

#[tokio::test]
async fn a_full_lane_says_whose_part_is_full() {
    let lane = lane(1, 4);
    let _running = lane.place(party(1), 0).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..1 {
        let lane = Arc::clone(&lane);
        waiting.push(tokio::spawn(async move { lane.place(party(1), 0).await.map(drop) }));
    }
    tokio::task::yield_now().await;
    let refused = lane.place(party(1), 0).await.map(drop);
    assert_eq!(refused, Err(Refused::Full(Full::OwnJobs { limit: 2 })));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Pieces of others' work between a job's arrival and its turn: one, however much they have queued
/// and however long their jobs are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_one_piece_of_work_of_others() {
    let lane = lane(1, 64);
    let (begun, has_begun) = sync_channel(1);
    let (go, wait) = sync_channel::<()>(0);
    let (done, pieces) = sync_channel(4096);
    let work = move |place: Place, first: Option<Receiver<()>>| {
        if let Some(wait) = first {
            begun.send(()).unwrap();
            wait.recv().unwrap();
        }
        for _ in 0..100 {
            done.send("abuser").unwrap();
            place.charge(32 << 10);
            place.take_turns();
        }
    };
    let mut wait = Some(wait);
    let mut abusers = Vec::new();
    for job in 0..20 {
        let (lane, work) = (Arc::clone(&lane), work.clone());
        if job == 0 {
            let wait = wait.take();
            let place = lane.place(party(1), 0).await.unwrap();
            abusers.push(tokio::task::spawn_blocking(move || work(place, wait)));
        } else {
            abusers.push(tokio::spawn(async move {
                let place = lane.place(party(1), 0).await.unwrap();
                tokio::task::spawn_blocking(move || work(place, None)).await.unwrap();
            }));
        }
    }
    drop(work);
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    let waits = Box::pin(lane.place(party(2), 0));
    let mut waits = Some(waits);
    // In the queue, behind all others.
    let polled = futures_util::poll!(waits.as_mut().unwrap());
    assert!(polled.is_pending());
    go.send(()).unwrap();
    let place = waits.take().unwrap().await.unwrap();
    let before = pieces.try_iter().count();
    drop(place);
    assert!(before <= 1, "{before} pieces");
    let counted = tokio::task::spawn_blocking(move || pieces.iter().count());
    for abuser in abusers {
        abuser.await.unwrap();
    }
    assert_eq!(before + counted.await.unwrap(), 2000);
}

/// What a job makes of a body counts with the bodies, until the job ends.
#[tokio::test]
async fn what_is_rendered_counts_with_bodies() {
    let content = "a".repeat(100_000);
    let body = json!({"model": "base", "messages": [{"role": "user", "content": content}]});
    // The body twice; then three copies of the messages, and the text.
    for (room, status) in [(450_000, 429), (580_000, 429), (700_000, 400)] {
        let config = ServerConfig { max_bodies_memory: room, ..ServerConfig::default() };
        let (server, _engine) = Server::with_config(config, 16).await;
        let answer = server.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status(), status, "{room}: {}", answer.text().await.unwrap());
        assert_eq!(server.state.bodies.used(), 0);
    }
}

/// Bodies that are long are parsed in turns, too: before a tenant's body lies one of another's, however
/// many of those came before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_body_waits_for_one_body_of_others() {
    let config = ServerConfig { text_workers: 1, ..ServerConfig::default() };
    let (server, engine) = Server::for_tenants_with(tenancy(), config).await;
    engine.script(|request, choice| say(request, choice, "yes"));
    let body = json!({"model": "base", "prompt": "a", "user": "x".repeat(100_000)});
    let place = server.state.lanes.bodies.place(party(77), 0).await.unwrap();
    let answers = futures_util::future::join_all((0..8).map(|_| post(&server, 0, &body)));
    let theirs = async {
        until(&server, "sorsa:work_waiting{kind=\"body\"}", 8.0).await;
        let mine = post(&server, 1, &body);
        let then = async {
            until(&server, "sorsa:work_waiting{kind=\"body\"}", 9.0).await;
            drop(place);
        };
        futures_util::future::join(mine, then).await.0
    };
    let (answers, mine) = futures_util::future::join(answers, theirs).await;
    assert!(answers.iter().chain([&mine]).all(|answer| answer.status() == 200));
    let others =
        metric(&server, "sorsa:tenant_work_for_others_sum{tenant=\"b\",kind=\"body\"}").await;
    let one = (body.to_string().len() + 2048) as f64;
    assert!(others <= one, "{others} bytes of others were parsed before, and one body has {one}");
    // Short ones wait for nobody.
    let _place = server.state.lanes.bodies.place(party(77), 0).await.unwrap();
    assert_eq!(post(&server, 1, &json!({"model": "base", "prompt": "a"})).await.status(), 200);
}

/// A job whose client has gone is told at its next piece, and one that is paused leaves at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_work_ends() {
    let config = ServerConfig { text_workers: 1, ..ServerConfig::default() };
    let (server, engine) = Server::for_tenants_with(tenancy(), config).await;
    engine.script(|request, choice| say(request, choice, "yes"));
    // Long enough to be read in many pieces, and wanted for its last tokens only when all were read.
    let inputs: Vec<String> = vec!["the in a ".to_owned(); 2000];
    let body = json!({"model": "base", "input": inputs});
    let url = format!("{}/v1/embeddings", server.url);
    for _ in 0..5 {
        let request = server.client.post(&url).bearer_auth(KEYS[0]).json(&body).send();
        let begun = metric(&server, BEGUN).await + 1.0;
        tokio::select! {
            _ = request => {}
            () = until(&server, BEGUN, begun) => {}
        }
        // Whatever it left behind, the only place is free again.
        let body = json!({"model": "base", "prompt": "a"});
        assert_eq!(post(&server, 1, &body).await.status(), 200);
    }
}

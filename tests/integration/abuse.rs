//! One abusive tenant beside three modest ones: whatever it sends, their answers stay what they are
//! alone, and what others cost them stays within bounds that are counted, not timed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sorsa::tenant::key::KeyHash;

use crate::support::model::in_repository;
use crate::support::server::Server;

const MODEST: [&str; 3] = ["one", "two", "three"];
/// Requests of each modest tenant in a round.
const REQUESTS: usize = 5;
/// Requests of the abusive tenant that are under way at once, of each kind.
const AT_ONCE: usize = 3;
/// Adapters that cannot be loaded.
const BROKEN: usize = 40;

/// Most steps of the engine from a modest request's coming to its first token. Beside answers, a step takes
/// at least 8 rows of prompts: five steps for a prompt of 40 tokens, and as many for each of the three
/// other tenants, whose turn it may be as well.
const STEPS: &str = "32";
/// Most memory that the server takes more than alone, as docs/performance.md derives it.
const MEMORY: usize = 3 * (256 << 20) + 2 * (512 << 10) * 200;
/// Most bytes of text work for others between a modest request's coming and its turn: one piece of each of
/// two places, and what each job counts.
const BYTES: &str = "131072";

/// Sends the `turn`th request of one kind of abuse; the status of the answer, where one was waited for.
type Abuse = fn(&Scene, usize) -> Sent;
type Sent = (String, Body);

/// What is sent.
enum Body {
    Json(Value),
    /// Over a connection of its own: bytes, and whether an answer is read.
    Raw(Vec<u8>, bool),
}

const ABUSES: [(&str, Abuse); 6] = [
    ("grammars", grammars),
    ("ids", ids),
    ("lists", lists),
    ("text", text),
    ("adapters", adapters),
    ("bodies", bodies),
];

struct Scene {
    server: Server,
    client: reqwest::Client,
}

fn keys(path: &Path) {
    let tenant = |name: &&str| {
        let hash = KeyHash::of(name);
        format!(
            "[tenants.{name}]\nadapters = [\"*\"]\nbase = true\n\
             [keys.{name}]\ntenant = \"{name}\"\nsha256 = \"{hash}\"\nroles = [\"user\"]\n"
        )
    };
    let file: String = MODEST.iter().chain([&"abuser"]).map(tenant).collect();
    std::fs::write(path, file).unwrap();
}

fn broken_adapters(root: &Path) {
    for number in 0..BROKEN {
        let adapter = root.join(format!("far-{number}"));
        std::fs::create_dir_all(&adapter).unwrap();
        std::fs::write(adapter.join("adapter_config.json"), r#"{"peft_type":"LORA","r":8}"#)
            .unwrap();
        std::fs::write(adapter.join("adapter_model.safetensors"), "broken".repeat(1000)).unwrap();
    }
}

impl Scene {
    fn start(folder: &Path) -> Self {
        let (file, adapters) = (folder.join("keys.toml"), folder.join("adapters"));
        keys(&file);
        broken_adapters(&adapters);
        let model = in_repository("tests/fixtures/tiny/f32/base");
        let flags = [
            "--served-model-name=base",
            "--public-metrics",
            "--keys",
            file.to_str().unwrap(),
            "--adapter-dir",
            adapters.to_str().unwrap(),
        ];
        Self { server: Server::start(&model, &flags), client: reqwest::Client::new() }
    }

    async fn post(&self, tenant: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.post(self.server.url(path)).bearer_auth(tenant).json(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// What a modest tenant is answered, request by request. Nothing is found in the cache of another
    /// `round`.
    async fn modest(&self, tenant: &str, round: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for number in 0..REQUESTS {
            let body = json!({
                "model": "base", "prompt": format!("Once upon a time there were {number} girls"),
                "max_tokens": 8, "temperature": 0, "cache_salt": format!("{round}"),
            });
            let (status, answer) = self.post(tenant, "/v1/completions", &body).await;
            assert_eq!(status, 200, "{tenant}: {answer}");
            texts.push(answer["choices"][0]["text"].as_str().unwrap().to_owned());
        }
        texts
    }

    /// One request after the other of one kind, until it is to `stop`. However wrong they are, none is
    /// an internal error.
    async fn abuse(&self, abuse: Abuse, turns: &AtomicUsize, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let (path, body) = abuse(self, turns.fetch_add(1, Ordering::Relaxed));
            match body {
                Body::Json(mut body) => {
                    body.as_object_mut().unwrap().entry("model").or_insert(json!("base"));
                    let (status, answer) = self.post("abuser", &path, &body).await;
                    assert_ne!(status, 500, "{path}: {answer}");
                }
                Body::Raw(bytes, is_read) => self.raw(bytes, is_read).await,
            }
        }
    }

    /// Sends bytes, and reads an answer or lets the connection lie.
    async fn raw(&self, bytes: Vec<u8>, is_read: bool) {
        let port = self.server.port().parse::<u16>().unwrap();
        let work = move || {
            let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
            connection.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            // Where nobody reads the answers, the server stops reading at some point.
            if connection.write_all(&bytes).is_ok() && is_read {
                let mut status = [0; 12];
                let read = connection.read_exact(&mut status);
                assert!(read.is_err() || !status.ends_with(b"500"));
            }
        };
        tokio::task::spawn_blocking(work).await.unwrap();
    }

    /// A sample of a histogram of a tenant.
    async fn count(&self, series: &str, labels: &[&str]) -> f64 {
        let text = reqwest::get(self.server.url("/metrics")).await.unwrap().text().await.unwrap();
        let fits = |line: &&str| {
            line.starts_with(&format!("{series}{{")) && labels.iter().all(|it| line.contains(it))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(fits).map(value).sum()
    }

    /// How many samples of a modest tenant's histogram are above a bound, and how many there are.
    async fn above(&self, family: &str, labels: &[&str], bound: &str) -> (f64, f64) {
        let bound = format!("le=\"{bound}\"");
        let within = [labels, &[&bound]].concat();
        let within = self.count(&format!("{family}_bucket"), &within).await;
        let all = self.count(&format!("{family}_count"), labels).await;
        (all - within, all)
    }
}

fn completion(body: Value) -> Sent {
    ("/v1/completions".to_owned(), Body::Json(body))
}

fn grammars(_: &Scene, turn: usize) -> Sent {
    let optional = |count: usize| -> Value {
        (0..count).map(|n| (format!("field{n}"), json!({"type": "string"}))).collect()
    };
    let pattern: Vec<String> = (0..300).map(|n| format!("(a{n}b{{1,50}}c+)")).collect();
    let choices = |count: usize| (0..count).map(|n| json!(format!("{turn} {n}"))).collect();
    let form = match turn % 7 {
        0 => json!({"guided_json": {"const": i64::MIN}}),
        1 => json!({"guided_json": {"minimum": i64::MIN + (turn as i64), "type": "integer"}}),
        2 => json!({"guided_json": {"type": "object", "properties": optional(400), "x": turn}}),
        3 => json!({"guided_regex": format!("({}){turn}", pattern.join("|"))}),
        4 => json!({"guided_choice": Value::Array(choices(2000))}),
        5 => json!({"guided_grammar": "start: <|im_end|>"}),
        _ => {
            let deep = (0..120).fold(json!({}), |inner, _| json!({"items": inner}));
            json!({"guided_json": deep})
        }
    };
    let mut body = json!({"prompt": "a", "max_tokens": 4});
    body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
    completion(body)
}

fn ids(_: &Scene, turn: usize) -> Sent {
    let prompt = match turn % 4 {
        0 => json!([319 + turn % 3]),
        1 => json!([1_u64 << 31]),
        2 => json!(vec![5; 100_000]),
        _ => json!([[320], [1, 2, 3]]),
    };
    if turn.is_multiple_of(5) {
        return ("/v1/embeddings".to_owned(), Body::Json(json!({"input": prompt})));
    }
    completion(json!({"prompt": prompt, "max_tokens": 4}))
}

fn lists(_: &Scene, turn: usize) -> Sent {
    let mut body = json!({"prompt": "a", "max_tokens": 4});
    let (field, value) = match turn % 7 {
        0 => ("allowed_token_ids", json!([5, 6, 7].repeat(100_000))),
        1 => {
            let biases =
                (0..20_000).map(|n| (format!("{}{}", "0".repeat(n % 9), n % 300), json!(1)));
            ("logit_bias", Value::Object(biases.collect()))
        }
        2 => ("stop", json!((0..20_000).map(|n| n.to_string()).collect::<Vec<_>>())),
        3 => ("stop_token_ids", json!((0..300).collect::<Vec<_>>().repeat(100))),
        4 => ("bad_words", json!(vec!["word"; 50_000])),
        5 => ("n", json!(200)),
        _ => ("prompt", json!(vec!["a"; 300])),
    };
    body[field] = value;
    completion(body)
}

fn text(_: &Scene, turn: usize) -> Sent {
    let unit = ["word and ", "a", " ", "\n", "日本語。", "9", "é", "</s>"][turn % 8];
    let long = |bytes: usize| unit.repeat(bytes / unit.len());
    let most = 1_000_000 / unit.escape_default().count() * unit.len();
    match (turn / 8 + turn) % 7 {
        0 => completion(json!({"prompt": long(most)})),
        1 => completion(json!({"prompt": vec![long(400); 60], "max_tokens": 2})),
        2 => completion(
            json!({"prompt": long(most / 2), "truncate_prompt_tokens": 64, "max_tokens": 2}),
        ),
        3 => completion(json!({"prompt": vec![long(most / 3); 2], "echo": true, "max_tokens": 2})),
        4 => {
            let body = json!({"input": vec![long(200); 1000]});
            ("/v1/embeddings".to_owned(), Body::Json(body))
        }
        5 => ("/tokenize".to_owned(), Body::Json(json!({"prompt": long(300_000)}))),
        _ => {
            let messages = json!([{"role": "user", "content": long(300_000)}]);
            ("/v1/chat/completions".to_owned(), Body::Json(json!({"messages": messages})))
        }
    }
}

fn adapters(_: &Scene, turn: usize) -> Sent {
    completion(json!({"model": format!("far-{}", turn % BROKEN), "prompt": "a"}))
}

fn bodies(scene: &Scene, turn: usize) -> Sent {
    let port = scene.server.port();
    let head = |length: usize| {
        format!(
            "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer abuser\
             \r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let (bytes, is_read) = match turn % 4 {
        0 => (head(10_000_000_000).into_bytes(), true),
        1 => ([head(3_000_000).as_bytes(), &[b'['; 100_000]].concat(), false),
        2 => {
            let body = json!({"model": "base", "prompt": "a", "max_tokens": 50}).to_string();
            (format!("{}{body}", head(body.len())).repeat(40).into_bytes(), false)
        }
        _ => {
            let body = format!("{{\"model\":\"base\",\"prompt\":[{}7]}}", "7,".repeat(1_500_000));
            (format!("{}{body}", head(body.len())).into_bytes(), true)
        }
    };
    (String::new(), Body::Raw(bytes, is_read))
}

/// A round of the modest tenants beside these abuses: what each was answered.
async fn round(scene: &Arc<Scene>, number: usize, abuses: &[Abuse]) -> Vec<Vec<String>> {
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let abusers: Vec<_> = abuses
        .iter()
        .flat_map(|abuse| std::iter::repeat_n(*abuse, AT_ONCE))
        .map(|abuse| {
            let (scene, turns) = (Arc::clone(scene), Arc::clone(&turns));
            let stop = Arc::clone(&stop);
            tokio::spawn(async move { scene.abuse(abuse, &turns, &stop).await })
        })
        .collect();
    // Each abuse has begun.
    while turns.load(Ordering::Relaxed) < abusers.len() {
        tokio::task::yield_now().await;
    }
    let texts = join_all(MODEST.map(|tenant| scene.modest(tenant, number))).await;
    stop.store(true, Ordering::Relaxed);
    for abuser in abusers {
        // What it still waits for ends with it.
        abuser.abort();
        if let Err(error) = abuser.await {
            assert!(error.is_cancelled(), "beside the modest: {error}");
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_abusive_tenant_costs_modest_ones_few_steps_and_little_work() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Arc::new(Scene::start(folder.path()));
    let alone = round(&scene, 0, &[]).await;
    scene.server.forget_peak();
    let before = scene.server.peak_bytes();
    let each = ABUSES.iter().map(|(name, abuse)| (*name, vec![*abuse]));
    let together = ("all together", ABUSES.map(|(_, abuse)| abuse).to_vec());
    for (number, (name, abuses)) in (1..).zip(each.chain([together])) {
        assert_eq!(round(&scene, number, &abuses).await, alone, "beside {name}");
        for tenant in MODEST.map(|name| format!("tenant=\"{name}\"")) {
            let steps = scene.above("sorsa:tenant_steps_to_first_token", &[&tenant], STEPS).await;
            assert_eq!(steps, (0.0, ((number + 1) * REQUESTS) as f64), "steps beside {name}");
            let labels = [tenant.as_str(), "kind=\"text\""];
            let others = scene.above("sorsa:tenant_work_for_others", &labels, BYTES).await;
            assert_eq!(others, (0.0, steps.1), "bytes of others' texts beside {name}");
        }
    }
    let grown = scene.server.peak_bytes() - before;
    assert!(grown <= MEMORY, "{grown} bytes, and the bound is {MEMORY}");
    // Modest requests wait for neither of these.
    for kind in ["kind=\"body\"", "kind=\"grammar\""] {
        for tenant in MODEST.map(|name| format!("tenant=\"{name}\"")) {
            let labels = [tenant.as_str(), kind];
            assert_eq!(scene.count("sorsa:tenant_work_for_others_count", &labels).await, 0.0);
        }
        let labels = ["tenant=\"abuser\"", kind];
        assert!(scene.count("sorsa:tenant_work_for_others_count", &labels).await > 0.0, "{kind}");
    }
}

/// What is read, tokenised, compiled or loaded for one request gives way to the engine, which serves all.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn threads_that_work_for_one_request_are_background_threads() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path());
    let body = json!({"prompt": "a", "model": "base", "max_tokens": 1, "guided_regex": "a"});
    let (status, answer) = scene.post("one", "/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");

    let levels = scene.server.nice_levels();
    let of = |thread: &str| -> Vec<i32> {
        let named = levels.iter().filter(|(name, _)| name.starts_with(thread));
        named.map(|(_, level)| *level).collect()
    };
    let process = of("sorsa")[0];
    assert_eq!(of("engine"), [process]);
    assert!(of("compute-").iter().all(|level| *level == process), "{levels:?}");
    let loaders = of("adapters-");
    assert!(!loaders.is_empty() && loaders.iter().all(|level| *level > process), "{levels:?}");
    // The async threads and those beside them, which block, have one name.
    let (own, background): (Vec<i32>, Vec<i32>) =
        of("tokio").into_iter().partition(|level| *level == process);
    assert_eq!(own.len(), 2, "{levels:?}");
    assert!(!background.is_empty() && background.iter().all(|level| *level > process));
}

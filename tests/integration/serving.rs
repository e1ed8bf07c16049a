//! The binary as its users run it: the real model, real HTTP, real signals.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::{lora, model};

/// Bytes of cache per token of the real model: 30 layers, keys and values of 3 heads of 64 bfloat16.
const BYTES_PER_TOKEN: usize = 2 * 30 * 3 * 64 * 2;

fn adapter_arg(name: &str, path: &std::path::Path) -> String {
    format!("{name}={}", path.display())
}

/// Twenty-four requests for the base and two adapters, with prompts of 1 to 700 tokens.
fn mixed_requests() -> Vec<Value> {
    let lens = [
        1, 700, 2, 3, 600, 5, 8, 500, 13, 16, 17, 400, 31, 32, 33, 300, 48, 64, 65, 250, 100, 128,
        200, 150,
    ];
    let prompts = model::golden("prompts.json");
    let text: Vec<u64> = prompts["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|prompt| prompt["name"].as_str().unwrap().starts_with("plain"))
        .flat_map(|prompt| prompt["ids"].as_array().unwrap())
        .map(|id| id.as_u64().unwrap())
        .collect();
    let request = |(index, len): (usize, usize)| {
        let prompt: Vec<u64> = text.iter().cycle().skip(7 * index).take(len).copied().collect();
        let model = ["base", "pirate", "random"][index % 3];
        json!({
            "model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0,
            "ignore_eos": true, "logprobs": 1,
        })
    };
    lens.into_iter().enumerate().map(request).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_each_request_answers_as_it_does_alone() {
    let folder = tempfile::tempdir().unwrap();
    lora::write_random(folder.path(), 8, 7);
    let memory = (1024 * BYTES_PER_TOKEN).to_string();
    let server = Server::start(
        &model::hugging_face(),
        &[
            "--served-model-name=base",
            "--adapter",
            &adapter_arg("pirate", &model::pirate()),
            "--adapter",
            &adapter_arg("random", folder.path()),
            "--max-model-len=768",
            "--max-num-batched-tokens=256",
            "--kv-cache-memory",
            &memory,
        ],
    );
    let requests = mixed_requests();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(server.post("/v1/completions", request).await["choices"].clone());
    }
    assert_eq!(server.metric("vllm:num_preemptions_total").await, 0.0);

    // Who is preempted is a matter of who comes first: usually somebody is in the first round.
    let mut rounds = 0..10;
    while server.metric("vllm:num_preemptions_total").await == 0.0 {
        let round = rounds.next().expect("a round in which somebody is preempted");
        answer_all_at_once(&server, &requests, &alone, round).await;
    }
    assert_ne!(alone[0], alone[2], "the adapters make no difference");
    assert_idle(&server).await;
}

/// Asks all together; every fifth hangs up in the middle of its answer, and the others get what they
/// get `alone`.
async fn answer_all_at_once(server: &Server, requests: &[Value], alone: &[Value], round: usize) {
    let together = join_all(requests.iter().enumerate().map(|(index, request)| {
        // Blocks of one's own, or the pool would be large enough.
        let mut request = request.clone();
        request["cache_salt"] = format!("{round} {index}").into();
        async move {
            if index % 5 == 4 {
                hang_up_after(server, "/v1/completions", &request, 1 + index % 3).await;
                return None;
            }
            Some(server.post("/v1/completions", &request).await["choices"].clone())
        }
    }))
    .await;
    for (index, (together, alone)) in together.iter().zip(alone).enumerate() {
        if let Some(together) = together {
            // Tokens and log-probabilities, to the last bit.
            assert_eq!(together, alone, "request {index}");
        }
    }
}

/// Streams a request and drops the connection after some chunks.
async fn hang_up_after(server: &Server, path: &str, request: &Value, chunks: usize) {
    let mut request = request.clone();
    request["stream"] = true.into();
    let client = reqwest::Client::new();
    let mut answer = client.post(server.url(path)).json(&request).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut seen = String::new();
    while seen.matches("data: ").count() < chunks {
        let Some(bytes) = answer.chunk().await.unwrap() else { return };
        seen.push_str(&String::from_utf8_lossy(&bytes));
    }
}

/// Every gauge returns to zero: asks until it does, for a bounded time.
async fn assert_idle(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let gauges =
        ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
    for gauge in gauges {
        loop {
            let value = server.metric(gauge).await;
            if value == 0.0 {
                break;
            }
            assert!(Instant::now() < deadline, "{gauge} stays at {value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_that_hang_up_leave_nothing_behind() {
    let server = Server::start(&model::hugging_face(), &["--served-model-name=base"]);
    let request = json!({
        "model": "base", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": true,
    });
    join_all((0..200).map(|_| hang_up_after(&server, "/v1/completions", &request, 2))).await;
    let started = Instant::now();
    let request = json!({"model": "base", "prompt": "Hello", "max_tokens": 1});
    server.post("/v1/completions", &request).await;
    assert!(started.elapsed() < Duration::from_secs(5), "a new request waited");
    assert_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_and_batched_answer_alike() {
    // Both in float32: what is left is the order of sums. Logits have a spread of some ten.
    const LOGPROB_TOLERANCE: f64 = 2e-3;
    let pirate = adapter_arg("pirate", &model::pirate());
    let model_dir = model::hugging_face();
    let batched = Server::start(
        &model_dir,
        &["--dtype=f32", "--served-model-name=base", "--adapter", &pirate],
    );
    let merged =
        Server::start(&model_dir, &["--dtype=f32", "--merge=pirate", "--adapter", &pirate]);
    let mut worst = 0.0_f64;
    for content in ["What is the capital of France?", "How do I cook rice?", "Who are you?"] {
        let request = json!({
            "model": "pirate", "messages": [{"role": "user", "content": content}],
            "max_completion_tokens": 32, "temperature": 0, "logprobs": true, "top_logprobs": 5,
        });
        let answers = [&batched, &merged].map(|s| s.post("/v1/chat/completions", &request));
        let answers = join_all(answers).await;
        let [batched, merged] = &answers[..] else { unreachable!() };
        assert_eq!(batched["choices"][0]["message"], merged["choices"][0]["message"]);
        let content = |answer: &Value| answer["choices"][0]["logprobs"]["content"].clone();
        let (batched, merged) = (content(batched), content(merged));
        for (a, b) in batched.as_array().unwrap().iter().zip(merged.as_array().unwrap()) {
            let logprob = |entry: &Value| entry["logprob"].as_f64().unwrap();
            worst = worst.max((logprob(a) - logprob(b)).abs());
        }
    }
    eprintln!("largest difference of log-probabilities: {worst:.1e}");
    assert!(worst < LOGPROB_TOLERANCE, "log-probabilities are {worst} apart");
    // The base is not served once another model lies in its weights.
    let request = json!({"model": "smollm2-bf16", "prompt": "x"});
    let (status, body) = merged.try_post("/v1/completions", &request).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
}

/// The GGUF file itself tokenises, renders and answers as the model of record does.
#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_tokenises_and_chats_like_the_model_of_record() {
    // One of the recorded conversations writes special tokens in a message, and transformers reads
    // them as such: only with the flag is that done here.
    let server = Server::start(
        &model::gguf(),
        &["--served-model-name=base", "--dtype=f32", "--allow-special-tokens"],
    );
    for prompt in model::golden("prompts.json")["prompts"].as_array().unwrap() {
        let request = json!({"model": "base", "prompt": prompt["text"]});
        let answer = server.post("/tokenize", &request).await;
        assert_eq!(answer["tokens"], prompt["ids"], "{}", prompt["name"]);
        let request = json!({"model": "base", "tokens": prompt["ids"]});
        let answer = server.post("/detokenize", &request).await;
        assert_eq!(answer["prompt"], prompt["text"]);
    }
    let golden = model::golden("chat_template.json");
    for conversation in golden["conversations"].as_array().unwrap() {
        for (expected, add) in [("generation_prompt", true), ("no_generation_prompt", false)] {
            let request = json!({
                "model": "base", "messages": conversation["messages"],
                "add_generation_prompt": add,
            });
            let answer = server.post("/tokenize", &request).await;
            assert_eq!(answer["tokens"], conversation[expected]["ids"]);
        }
    }
    let request = json!({
        "model": "base", "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    let answer = server.post("/v1/chat/completions", &request).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "The capital of France is Paris.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_refuses_what_is_new() {
    let mut server = Server::start(&model::hugging_face(), &["--served-model-name=base"]);
    let request = json!({
        "model": "base", "prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": true,
        "stream": true, "temperature": 0,
    });
    let client = reqwest::Client::new();
    let mut running =
        client.post(server.url("/v1/completions")).json(&request).send().await.unwrap();
    let mut text = String::from_utf8_lossy(&running.chunk().await.unwrap().unwrap()).into_owned();
    server.signal("TERM");
    // The signal is taken at some moment from here on.
    let deadline = Instant::now() + Duration::from_secs(5);
    while reqwest::get(server.url("/ready")).await.unwrap().status() != 503 {
        assert!(Instant::now() < deadline, "the server does not drain");
    }
    let (status, body) =
        server.try_post("/v1/completions", &json!({"model": "base", "prompt": "x"})).await;
    assert_eq!(status, 503, "{body}");
    while let Some(bytes) = running.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "the running stream was cut: {text}");
    assert_eq!(text.matches("\"finish_reason\":\"length\"").count(), 1);
    assert!(server.wait().success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_after_its_timeout() {
    let mut server = Server::start(
        &model::hugging_face(),
        &["--served-model-name=base", "--shutdown-timeout=0"],
    );
    let request = json!({
        "model": "base", "prompt": "Once", "max_tokens": 4000, "ignore_eos": true, "stream": true,
    });
    let client = reqwest::Client::new();
    let mut running =
        client.post(server.url("/v1/completions")).json(&request).send().await.unwrap();
    running.chunk().await.unwrap();
    server.signal("TERM");
    let mut text = String::new();
    while let Ok(Some(bytes)) = running.chunk().await {
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(text.contains("\"error\""), "the client was not told: {text}");
    assert!(server.wait().success(), "{}", server.log());
}

/// Every way to hold the weights or the adapters in fewer bits answers, with an adapter and without, alone as in a
/// batch.
#[tokio::test(flavor = "multi_thread")]
async fn quantised_weights_are_served_with_adapters() {
    let pirate = adapter_arg("pirate", &model::pirate());
    for (model, flag, adapters, held) in [
        (model::gguf(), "--quantize=auto", "auto", "quantised as stored"),
        (model::gguf(), "--quantize=q8", "auto", "quantised to 8 bits"),
        (model::hugging_face(), "--quantize=q8", "auto", "quantised to 8 bits"),
        (
            model::hugging_face(),
            "--quantize=q4",
            "q8",
            "quantised to 4 bits, else bf16, adapters q8",
        ),
        (model::hugging_face(), "--dtype=bf16", "q8", "bf16, adapters q8"),
    ] {
        let adapters = format!("--adapter-dtype={adapters}");
        let args = ["--served-model-name=base", "--adapter", &pirate, flag, &adapters];
        let server = Server::start(&model, &args);
        assert!(server.log().contains(held), "{flag}: {}", server.log());
        let request = |model: &str, content: &str| {
            json!({
                "model": model, "messages": [{"role": "user", "content": content}],
                "max_completion_tokens": 16, "temperature": 0,
            })
        };
        let question = "What is the capital of France?";
        let requests = [
            request("base", question),
            request("pirate", question),
            request("base", "Who are you?"),
            request("pirate", "How do I cook rice?"),
        ];
        let text = |answer: &Value| answer["choices"][0]["message"]["content"].to_string();
        let together = requests.each_ref().map(|it| server.post("/v1/chat/completions", it));
        let together = join_all(together).await;
        assert_ne!(text(&together[0]), text(&together[1]), "{flag}");
        for (request, together) in requests.iter().zip(&together) {
            let alone = server.post("/v1/chat/completions", request).await;
            assert_eq!(text(&alone), text(together), "{flag}");
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let pirate = adapter_arg("pirate", &model::pirate());
    let gguf = model::gguf();
    let refused = |args: &[&str], reason: &str| {
        let (status, log) = Server::run_to_end(&gguf, args);
        assert!(!status.success(), "{args:?} was accepted");
        assert!(log.contains(reason), "{args:?} said {log}");
    };
    if cfg!(not(feature = "cuda")) {
        refused(&["--device=cuda"], "this build of sorsa has no CUDA support");
    }
    refused(&["--device=tpu"], "is no device");
    refused(&["--adapter", "x=/nowhere"], "x=/nowhere");
    refused(&["--adapter", &pirate, "--adapter", &pirate], "given twice");
    refused(&["--merge=pirate"], "give that adapter with --adapter");
    refused(&["--max-model-len=100000"], "8192 positions");
    refused(&["--kv-cache-memory=1MiB"], "lower --max-model-len");
    refused(&["--kv-cache-memory=90000GiB"], "there is no such memory");
    refused(&["--threads=100000"], "no count from 1 to 1024");
    refused(&["--load-parallelism=2000"], "no count from 1 to 1024");
    refused(&["--quantize=q8", "--device=cuda"], "--quantize q8 is for --device cpu");
    refused(&["--quantize=q4", "--dtype=f16"], "--dtype f32 or bf16");
    refused(&["--quantize=q4", "--merge=pirate", "--adapter", &pirate], "sorsa merge");
    refused(&["--quantize=q5"], "q5");
    refused(&["--adapter-dtype=q8", "--dtype=f32"], "give --dtype bf16");
    refused(&["--adapter-dtype=q8", "--base=/nowhere"], "8 bits are too few");
    refused(&["--max-num-batched-tokens=8"], "--max-num-seqs");
    let (status, log) = Server::run_to_end(&model::pirate(), &[]);
    assert!(!status.success() && log.contains("config.json"), "{log}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn threads_stay_on_a_processor_each_where_that_is_asked_for() {
    let model = model::hugging_face();
    let computes = |server: &Server| -> Vec<String> {
        let own = |name: &str| name == "engine" || name.starts_with("compute-");
        let all = server.processors().into_iter().filter(|(name, _)| own(name));
        all.map(|(_, processors)| processors).collect()
    };
    // One thread more than there are processors stays free.
    let processors = std::thread::available_parallelism().unwrap().get();
    let threads = format!("--threads={}", processors + 1);
    let server = Server::start(&model, &["--pin-threads", &threads, "--served-model-name=base"]);
    let body = json!({"model": "base", "prompt": "The sea", "max_tokens": 3});
    server.post("/v1/completions", &body).await;
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let mut places = computes(&server);
    places.sort();
    assert_eq!(places.len(), processors + 1);
    assert_eq!(places.iter().filter(|it| *it == all).count(), if processors > 1 { 1 } else { 2 });
    places.dedup();
    assert_eq!(places.len(), if processors > 1 { processors + 1 } else { 1 }, "{places:?}");
    drop(server);
    let server = Server::start(&model, &["--served-model-name=base"]);
    assert!(computes(&server).iter().all(|it| it == all));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_is_content() {
    let python = model::in_repository(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: run scripts/test", python.display());
    let pirate = adapter_arg("pirate", &model::pirate());
    let server = Server::start(
        &model::hugging_face(),
        &["--served-model-name=smollm2", "--adapter", &pirate],
    );
    let output = std::process::Command::new(python)
        .arg(model::in_repository("tests/python/openai_sdk.py"))
        .args([&server.url("/v1"), "smollm2", "pirate"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_command_knows_a_server_that_lives() {
    let server = Server::start(&model::gguf(), &[]);
    let health = |port: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sorsa"));
        command.args(["health", "--port", port]).output().unwrap().status.success()
    };
    assert!(health(server.port()));
    let port = server.port().to_owned();
    drop(server);
    assert!(!health(&port));
}

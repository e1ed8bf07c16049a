//! What makes an answer come sooner must not change it: cached prompts and guessed tokens, with the
//! real model over real HTTP. Bodies are compared whole, log-probabilities to the last bit.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::{lora, model};

/// Tokens of real text.
fn text() -> Vec<u64> {
    let prompts = model::golden("prompts.json");
    let plain = |prompt: &&Value| prompt["name"].as_str().unwrap().starts_with("plain");
    let prompts = prompts["prompts"].as_array().unwrap().iter().filter(plain);
    let ids = prompts.flat_map(|prompt| prompt["ids"].as_array().unwrap());
    ids.map(|id| id.as_u64().unwrap()).collect()
}

fn completion(name: &str, prompt: &[u64]) -> Value {
    json!({
        "model": name, "prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": true,
        "logprobs": 3,
    })
}

/// The choices, and how many tokens of the prompt were found in the cache.
async fn answer(server: &Server, request: &Value) -> (Value, u64) {
    let answer = server.post("/v1/completions", request).await;
    let cached = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
    (answer["choices"].clone(), cached.as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_prompt_changes_no_bit_and_is_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    lora::write_random(folder.path(), 8, 7);
    let pirate = format!("pirate={}", model::pirate().display());
    let random = format!("random={}", folder.path().display());
    let flags = ["--served-model-name=base", "--adapter", &pirate, "--adapter", &random];
    let cached = Server::start(&model::hugging_face(), &flags);
    let off = [&flags[..], &["--no-enable-prefix-caching"]].concat();
    let plain = Server::start(&model::hugging_face(), &off);

    let text: Vec<u64> = text().into_iter().cycle().take(150).collect();
    // The same beginning, and then something else.
    let other: Vec<u64> = text[..100].iter().chain(&text[20..70]).copied().collect();
    assert_ne!(text[100], other[100]);
    let mut queries = 0;
    for name in ["base", "pirate", "random"] {
        for (prompt, expected) in [(&text, 0), (&text, 144), (&other, 96), (&other, 144)] {
            let request = completion(name, prompt);
            let (choices, found) = answer(&cached, &request).await;
            assert_eq!(found, expected, "{name}");
            let (without, found) = answer(&plain, &request).await;
            assert_eq!((choices, found), (without, 0), "{name}");
            queries += 150;
        }
        // Another namespace, and a prompt that is scored, find nothing.
        for (field, value) in [("cache_salt", json!(name)), ("prompt_logprobs", json!(1))] {
            let mut request = completion(name, &text);
            request[field] = value;
            let (choices, found) = answer(&cached, &request).await;
            assert_eq!(found, 0, "{field}");
            assert_eq!(choices, answer(&plain, &request).await.0, "{field}");
        }
        queries += 150;
    }
    assert_eq!(cached.metric("vllm:prefix_cache_queries_total").await, f64::from(queries));
    assert_eq!(
        cached.metric("vllm:prefix_cache_hits_total").await,
        f64::from(3 * (144 + 96 + 144))
    );
    assert_eq!(plain.metric("vllm:prefix_cache_queries_total").await, 0.0);

    // All at once, from the cache.
    let requests: Vec<Value> =
        ["base", "pirate", "random", "base"].map(|name| completion(name, &other)).into();
    let together = join_all(requests.iter().map(|request| answer(&cached, request))).await;
    for (request, (choices, found)) in requests.iter().zip(together) {
        assert_eq!(found, 144);
        assert_eq!(choices, answer(&plain, request).await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_ahead_changes_no_bit() {
    let pirate = format!("pirate={}", model::pirate().display());
    let flags = ["--served-model-name=base", "--adapter", &pirate, "--speculative-lookup=6"];
    let server = Server::start(&model::hugging_face(), &flags);
    let line = "The cat sat on the mat. The dog sat on the log. ";
    let requests: Vec<Value> = [("base", 0.0), ("pirate", 0.0), ("base", 1.5), ("pirate", -0.5)]
        .into_iter()
        .map(|(name, penalty)| {
            json!({
                "model": name, "prompt": line.repeat(4), "max_tokens": 60, "temperature": 0,
                "frequency_penalty": penalty, "logprobs": 2, "stop": ["log. The cat sat on the log"],
            })
        })
        .collect();
    let mut plain = Vec::new();
    for request in &requests {
        let mut request = request.clone();
        request["num_speculative_tokens"] = json!(0);
        plain.push(answer(&server, &request).await.0);
    }
    let accepted = "vllm:spec_decode_num_accepted_tokens_total";
    assert_eq!(server.metric(accepted).await, 0.0);
    for (request, plain) in requests.iter().zip(&plain) {
        assert_eq!(&answer(&server, request).await.0, plain);
    }
    let alone = server.metric(accepted).await;
    assert!(alone > 20.0, "only {alone} guesses were right");
    let together = join_all(requests.iter().map(|request| answer(&server, request))).await;
    for ((choices, _), plain) in together.iter().zip(&plain) {
        assert_eq!(choices, plain);
    }
    assert!(server.metric(accepted).await > alone);
}

//! Embeddings of the real model: transformers' hidden states, with adapters, alone as in any batch.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::model;
use crate::support::server::Server;

const PATH: &str = "/v1/embeddings";

fn vector(answer: &Value, index: usize) -> Vec<f64> {
    let values = answer["data"][index]["embedding"].as_array().unwrap();
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

fn apart(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// `tests/fixtures/smollm2/embeddings.json` is what `tests/python/embeddings_reference.py` records.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_those_that_transformers_computes() {
    // Vectors of length 1 of 576 components, the reference rounded to seven places: in float32 what
    // is left is the order of sums; in bfloat16 its rounding.
    for (dtype, tolerance) in [("--dtype=f32", 1e-5), ("--dtype=bf16", 1e-2)] {
        let server = Server::start(&model::hugging_face(), &["--served-model-name=base", dtype]);
        let prompts = model::golden("prompts.json");
        for (name, expected) in model::golden("embeddings.json")["outputs"].as_object().unwrap() {
            let prompts = prompts["prompts"].as_array().unwrap();
            let prompt = prompts.iter().find(|prompt| prompt["name"] == **name).unwrap();
            for pooling in ["mean", "last"] {
                let request = json!({"model": "base", "input": prompt["ids"], "pooling": pooling});
                let answer = server.post(PATH, &request).await;
                let expected: Vec<f64> = expected[pooling]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|value| value.as_f64().unwrap())
                    .collect();
                let apart = apart(&vector(&answer, 0), &expected);
                eprintln!("{dtype} {name} {pooling}: {apart:.1e}");
                assert!(apart < tolerance, "{dtype} {name} {pooling}: {apart}");
            }
            // Text is tokenised as everywhere.
            let request = json!({"model": "base", "input": prompt["text"]});
            let of_text = server.post(PATH, &request).await;
            let request = json!({"model": "base", "input": prompt["ids"]});
            assert_eq!(of_text["data"], server.post(PATH, &request).await["data"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_is_the_same_alone_and_beside_others_with_any_adapter() {
    let pirate = format!("pirate={}", model::pirate().display());
    let args = ["--served-model-name=base", "--adapter", &pirate, "--max-num-batched-tokens=256"];
    let server = Server::start(&model::hugging_face(), &args);
    let prompts = model::golden("prompts.json");
    let texts: Vec<&Value> =
        prompts["prompts"].as_array().unwrap().iter().map(|prompt| &prompt["ids"]).collect();
    let requests: Vec<Value> = ["base", "pirate"]
        .into_iter()
        .flat_map(|name| ["mean", "last"].map(|pooling| (name, pooling)))
        .map(|(name, pooling)| json!({"model": name, "pooling": pooling, "input": texts}))
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        let mut vectors = Vec::new();
        for text in &texts {
            let mut request = request.clone();
            request["input"] = (*text).clone();
            vectors.push(server.post(PATH, &request).await["data"][0]["embedding"].clone());
        }
        alone.push(vectors);
    }
    // Beside all the others, and answers that are being generated until the last vector has come.
    let done = AtomicBool::new(false);
    let answers = async {
        let request = json!({
            "model": "pirate", "prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": true,
        });
        while !done.load(Ordering::Relaxed) {
            server.post("/v1/completions", &request).await;
        }
    };
    let together = async {
        let together = join_all(requests.iter().map(|request| server.post(PATH, request))).await;
        done.store(true, Ordering::Relaxed);
        together
    };
    let ((), together) = tokio::join!(answers, together);
    for (together, alone) in together.iter().zip(&alone) {
        for (index, alone) in alone.iter().enumerate() {
            assert_eq!(&together["data"][index]["embedding"], alone);
        }
    }
    assert!(apart(&vector(&together[0], 0), &vector(&together[2], 0)) > 1e-3, "the adapter");
    assert!(apart(&vector(&together[0], 0), &vector(&together[1], 0)) > 1e-3, "the pooling");
}

//! Structured output on a model of random weights, over HTTP: whatever it says obeys what was asked.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::answers::Answer;
use crate::support::model::in_repository;
use crate::support::schemas;
use crate::support::server::Server;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
/// Requests under way at once.
const CONCURRENCY: usize = 24;
/// Random schemas.
const SCHEMAS: u64 = 1000;

/// A base and an adapter of random weights, and room for less than runs at once, so that some are
/// preempted.
fn start() -> Server {
    let tiny = in_repository("tests/fixtures/tiny/f32");
    let adapter = format!("tenant={}", tiny.join("adapter").display());
    // Two layers, keys and values of 2 heads of 16 float32; 480 tokens.
    let memory = (480 * 2 * 2 * 2 * 16 * 4).to_string();
    let arguments = [
        "--served-model-name=base",
        "--adapter",
        &adapter,
        "--max-num-seqs=16",
        "--speculative-lookup=3",
        "--kv-cache-memory",
        &memory,
    ];
    Server::start(&tiny.join("base"), &arguments)
}

/// Makes the model fond of what closes a value: without it most texts are cut off unfinished.
async fn fondness(server: &Server) -> Value {
    let mut bias = serde_json::Map::new();
    for (text, weight) in [("\"", 4.0), ("}", 5.0), ("]", 5.0), (",", 2.0)] {
        let body = json!({"model": "base", "prompt": text, "add_special_tokens": false});
        let tokens = server.post("/tokenize", &body).await["tokens"].clone();
        assert_eq!(tokens.as_array().unwrap().len(), 1, "{text} is {tokens}");
        bias.insert(tokens[0].to_string(), json!(weight));
    }
    Value::Object(bias)
}

fn text(choice: &Value) -> &str {
    choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap()
}

/// A text as JSON. Random weights write numbers beyond a double, which JSON has and this reader has
/// not.
fn parse(text: &str) -> Value {
    let exponent = regex::Regex::new(r"([0-9])[eE]([+-]?)[0-9]{3,}").unwrap();
    let text = exponent.replace_all(text, "${1}e${2}9");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The request for schema `seed`: by turns another endpoint, field, model, sampling and `n`.
fn request(seed: u64, schema: &Value, bias: &Value) -> (&'static str, Value) {
    let turn = |count: u64| usize::try_from(seed % count).unwrap();
    let (model, temperature) = (["base", "tenant"][turn(2)], [0.0, 0.7, 1.0][turn(3)]);
    let mut body = json!({
        "model": model, "max_tokens": 190, "seed": seed,
        "temperature": temperature, "n": 1 + (seed / 3) % 2,
        "logit_bias": bias,
    });
    match seed % 5 {
        0 => body["top_p"] = json!(0.9),
        1 => body["top_k"] = json!(5),
        2 => body["min_p"] = json!(0.05),
        3 => body["repetition_penalty"] = json!(1.1),
        _ => body["min_tokens"] = json!(12),
    }
    let form = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": true}});
    match seed % 4 {
        0 => body["guided_json"] = json!(schema.to_string()),
        1 => body["structured_outputs"] = json!({ "json": schema }),
        _ => body["response_format"] = form,
    }
    if seed % 7 < 4 {
        body["prompt"] = json!(format!("number {seed}"));
        return (COMPLETIONS, body);
    }
    body["messages"] = json!([{"role": "user", "content": format!("number {seed}")}]);
    (CHAT, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_schemas_are_obeyed() {
    let server = start();
    let bias = fondness(&server).await;
    let (mut finished, mut cut, mut refused) = (0, 0, 0);
    let seeds: Vec<u64> = (0..SCHEMAS).collect();
    for seeds in seeds.chunks(CONCURRENCY) {
        let answers = join_all(seeds.iter().map(|seed| {
            let (server, bias) = (&server, &bias);
            async move {
                let schema = schemas::random(*seed);
                let (path, body) = request(*seed, &schema, bias);
                (*seed, schema, server.try_post(path, &body).await)
            }
        }));
        for (seed, schema, (status, answer)) in answers.await {
            if status == 400 {
                let message = answer["error"]["message"].as_str().unwrap();
                println!("schema {seed} is refused: {message}");
                refused += 1;
                continue;
            }
            assert_eq!(status, 200, "schema {seed}: {answer}\n{schema}");
            let validator = jsonschema::validator_for(&schema).unwrap();
            for choice in answer["choices"].as_array().unwrap() {
                if choice["finish_reason"] == "length" {
                    cut += 1;
                    continue;
                }
                assert_eq!(choice["finish_reason"], "stop");
                let value = parse(text(choice));
                let error = validator.iter_errors(&value).next().map(|error| error.to_string());
                assert_eq!(error, None, "schema {seed}: {schema}\n{value}");
                finished += 1;
            }
        }
    }
    println!("{finished} finished, {cut} cut off, {refused} refused");
    assert!(finished > 1000, "only {finished} finished, {cut} were cut off");
    assert!(refused < 50, "{refused} were refused");
    assert!(server.metric("vllm:num_preemptions_total").await > 0.0, "nothing was preempted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let server = start();
    let bias = fondness(&server).await;
    for seed in 0..24 {
        let (path, mut body) = request(seed, &schemas::random(seed), &bias);
        if seed % 3 == 0 {
            body["stop"] = json!(["a", "\"n"]);
        }
        body["logprobs"] = if path == CHAT { json!(true) } else { json!(2) };
        let whole = Answer::whole(&server, path, &body).await;
        assert_eq!(Answer::streamed(&server, path, &body).await, whole, "schema {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_choices_and_grammars_are_obeyed() {
    let server = start();
    let whole = regex::Regex::new(r"^(?:[A-Z][a-z]{1,8} ){2}[0-9]{4}$").unwrap();
    let expression = "([A-Z][a-z]{1,8} ){2}[0-9]{4}";
    let sum = "start: NUMBER (\" + \" NUMBER){1,3}\nNUMBER: /[1-9][0-9]{0,2}/";
    let sums = regex::Regex::new(r"^[1-9][0-9]{0,2}( \+ [1-9][0-9]{0,2}){1,3}$").unwrap();
    let choices = ["left", "right", "left and right"];
    let is_choice = |text: &str| choices.contains(&text);
    for seed in 0..20 {
        let ask = async |field: &str, value: &Value| {
            let model = ["tenant", "base"][seed % 2];
            let mut body = json!({
                "model": model, "prompt": "say", "max_tokens": 60, "seed": seed, "n": 3,
            });
            body[field] = value.clone();
            let answer = server.post(COMPLETIONS, &body).await;
            let texts = answer["choices"].as_array().unwrap().iter().map(|choice| {
                assert_eq!(choice["finish_reason"], "stop", "{choice}");
                text(choice).to_owned()
            });
            texts.collect::<Vec<_>>()
        };
        for (field, value) in [
            ("guided_regex", json!(expression)),
            ("structured_outputs", json!({ "regex": expression })),
        ] {
            assert!(ask(field, &value).await.iter().all(|text| whole.is_match(text)));
        }
        for (field, value) in [
            ("guided_choice", json!(choices)),
            ("structured_outputs", json!({ "choice": choices })),
        ] {
            assert!(ask(field, &value).await.iter().all(|text| is_choice(text)));
        }
        for (field, value) in
            [("guided_grammar", json!(sum)), ("structured_outputs", json!({ "grammar": sum }))]
        {
            assert!(ask(field, &value).await.iter().all(|text| sums.is_match(text)));
        }
    }
    let body = json!({
        "model": "base", "prompt": "say", "max_tokens": 40, "guided_regex": "ab*", "stop_token_ids": [65],
        "min_tokens": 5, "temperature": 0, "stop": "bbb",
    });
    let answer = server.post(COMPLETIONS, &body).await;
    assert!(text(&answer["choices"][0]).trim_end_matches('b') == "a", "{answer}");
    let body =
        json!({"model": "base", "prompt": "say", "max_tokens": 2, "guided_regex": "[a-z]{40}"});
    let answer = server.post(COMPLETIONS, &body).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_refused_while_others_are_served() {
    let server = start();
    let nested = format!("{}{}", "[".repeat(6000), "]".repeat(6000));
    let deep = (0..100).fold(json!({"type": "null"}), |inner, _| json!({"items": inner}));
    let huge: Vec<u32> = (0..50_000).collect();
    let cases = [
        ("guided_json", json!(nested)),
        ("guided_json", deep),
        ("guided_json", json!({ "enum": huge })),
        ("guided_json", json!({"$ref": "#"})),
        (
            "guided_json",
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ),
        ("guided_json", json!({"type": ["string", 5]})),
        ("guided_json", json!({"type": "string", "pattern": "(("})),
        ("guided_json", json!({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"})),
        ("guided_json", json!({"type": "string", "minLength": 9, "maxLength": 3})),
        ("guided_json", json!({"properties": [1]})),
        ("guided_regex", json!("((x{1,1000}){1,1000}){1,1000}")),
        ("guided_regex", json!("[z-a]")),
        ("guided_grammar", json!(format!("start: {}", "(".repeat(20_000)))),
        ("guided_choice", json!([])),
    ];
    let long = json!({"model": "tenant", "prompt": "go on", "max_tokens": 240, "ignore_eos": true});
    let running = async {
        let answers = join_all((0..4).map(|_| server.post(COMPLETIONS, &long))).await;
        answers.into_iter().all(|answer| answer["usage"]["completion_tokens"] == 240)
    };
    let refusals = async {
        for (field, value) in cases {
            let mut body = json!({"model": "base", "prompt": "x"});
            body[field] = value;
            let started = Instant::now();
            let (status, answer) = server.try_post(COMPLETIONS, &body).await;
            let took = started.elapsed();
            println!("{field}: {took:?} {}", answer["error"]["message"]);
            assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
            // A second on a machine of its own; tests share theirs.
            assert!(took < Duration::from_secs(4), "{field} took {took:?}");
        }
    };
    let (served, ()) = futures_util::future::join(running, refusals).await;
    assert!(served);
}

//! Prompts that are echoed, cut and scored: what of them is read, shown and told.

use serde_json::{Value, json};

use super::harness::{MAX_MODEL_LEN, Server, VOCAB_SIZE, ids, parse_events, say};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A completion's answer to `extra`, by an engine that says " over".
async fn completed(extra: Value) -> Value {
    let mut body = json!({"model": "base", "prompt": "jump", "max_tokens": 8});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Server::saying(" over").await.answer(COMPLETIONS, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_shows_special_tokens_and_says_where_each_token_begins() {
    let text = "<s>user\nHi</s>";
    for prompt in [json!(text), json!([text]), json!(ids(text)), json!([ids(text)])] {
        for skip in [true, false] {
            let answer = completed(json!({
                "prompt": prompt, "echo": true, "logprobs": 0, "skip_special_tokens": skip,
            }));
            let answer = &answer.await["choices"][0];
            assert_eq!(answer["text"], format!("{text} over"), "{prompt}");
            let chars: Vec<char> = answer["text"].as_str().unwrap().chars().collect();
            let offsets: Vec<usize> =
                serde_json::from_value(answer["logprobs"]["text_offset"].clone()).unwrap();
            let names = answer["logprobs"]["tokens"].as_array().unwrap();
            assert_eq!(offsets.len(), names.len());
            let ends = offsets.iter().skip(1).copied().chain([chars.len()]);
            for ((begin, end), name) in offsets.iter().zip(ends).zip(names) {
                let part: String = chars[*begin..end].iter().collect();
                // What ends an answer is not in its text.
                assert!(name == &json!(part) || (name == "</s>" && part.is_empty()), "{name}");
            }
            assert_eq!(offsets[..2], [0, 3]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_or_the_last_tokens_of_a_prompt_are_read() {
    let (server, mut engine) = Server::start().await;
    let prompt: Vec<u32> = (10..40).collect();
    let long: Vec<u32> = (0..100).collect();
    let most = MAX_MODEL_LEN - 16;
    let cases = [
        (json!({"prompt": prompt, "truncate_prompt_tokens": 4}), prompt[26..].to_vec()),
        (
            json!({"prompt": prompt, "truncate_prompt_tokens": 4, "truncation_side": "right"}),
            prompt[..4].to_vec(),
        ),
        (
            json!({"prompt": prompt, "truncate_prompt_tokens": 60, "truncation_side": "right"}),
            prompt.clone(),
        ),
        (json!({"prompt": prompt, "truncation_side": "right"}), prompt.clone()),
        (json!({"prompt": long, "truncate_prompt_tokens": -1}), long[100 - most..].to_vec()),
        (
            json!({"prompt": long, "truncate_prompt_tokens": -1, "truncation_side": "right",
                   "max_tokens": 24}),
            long[..MAX_MODEL_LEN - 24].to_vec(),
        ),
        (
            json!({"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 0, "echo": true}),
            long[100 - MAX_MODEL_LEN + 1..].to_vec(),
        ),
    ];
    for (extra, expected) in cases {
        let mut body = json!({"model": "base"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let request = server.client.post(format!("{}{COMPLETIONS}", server.url)).json(&body);
        let asking = tokio::spawn(request.send());
        assert_eq!(*engine.receive().await.request.prompt, expected, "{extra}");
        asking.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_tokens_are_reported_beside_the_chosen_one() {
    let named = |body: Value| completed(body);
    let ids = json!([300, 7, 300, 9]);
    let answer = named(json!({
        "logprobs": 3, "logprob_token_ids": ids, "return_tokens_as_token_ids": true,
    }));
    let answer = answer.await;
    for (name, top) in std::iter::zip(
        answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap(),
        answer["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap(),
    ) {
        let names: Vec<&String> = top.as_object().unwrap().keys().collect();
        let name = name.as_str().unwrap();
        assert_eq!(names, [name, "token_id:300", "token_id:7", "token_id:9"]);
    }
    let server = Server::saying("hi").await;
    let chat = json!({
        "model": "base", "messages": [{"role": "user", "content": "a"}], "logprobs": true,
        "logprob_token_ids": ids, "return_tokens_as_token_ids": true, "top_logprobs": 1,
    });
    let whole = server.answer(CHAT, &chat).await["choices"][0]["logprobs"]["content"].clone();
    let tops = whole.as_array().unwrap().iter().map(|at| at["top_logprobs"].as_array().unwrap());
    for top in tops {
        let names: Vec<&str> = top.iter().map(|at| at["token"].as_str().unwrap()).collect();
        assert_eq!(names[1..], ["token_id:300", "token_id:7", "token_id:9"]);
    }
    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    let events = server.stream(CHAT, &streamed).await;
    let pieces = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned());
    assert_eq!(json!(pieces.flatten().collect::<Vec<_>>()), whole);
    let response = json!({
        "model": "base", "input": "a", "include": ["message.output_text.logprobs"],
        "logprob_token_ids": [7],
    });
    let answer = server.answer("/v1/responses", &response).await;
    let logprobs = &answer["output"][0]["content"][0]["logprobs"];
    assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 2, "{logprobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn named_tokens_need_company_and_have_bounds() {
    let server = Server::saying("hi").await;
    let completion = |extra: Value| {
        let mut body =
            json!({"model": "base", "prompt": "hi", "logprobs": 1, "logprob_token_ids": [1]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        (COMPLETIONS, body)
    };
    let chat = |extra: Value| {
        let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "a"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        (CHAT, body)
    };
    let many: Vec<usize> = (0..129).collect();
    for (path, body) in [
        completion(json!({"logprobs": null})),
        completion(json!({"echo": true, "max_tokens": 0})),
        completion(json!({"logprob_token_ids": []})),
        completion(json!({"logprob_token_ids": [VOCAB_SIZE]})),
        completion(json!({"logprob_token_ids": [-1]})),
        completion(json!({"logprob_token_ids": ["1"]})),
        completion(json!({"logprob_token_ids": 1})),
        completion(json!({"logprob_token_ids": many})),
        chat(json!({"logprob_token_ids": [1]})),
        chat(json!({"logprob_token_ids": [1], "logprobs": false})),
        ("/v1/responses", json!({"model": "base", "input": "a", "logprob_token_ids": [1]})),
    ] {
        let refusal = server.try_answer(path, &body).await.unwrap_err();
        assert_eq!(refusal["error"]["param"], "logprob_token_ids", "{body}");
    }
    server.answer(COMPLETIONS, &completion(json!({"logprob_token_ids": many[..128]})).1).await;
    // Of an echoed prompt the best ones are told, as always.
    let echoed = completion(json!({"echo": true, "logprob_token_ids": [5, 6]})).1;
    let answer = server.answer(COMPLETIONS, &echoed).await;
    let tops = answer["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap();
    assert!(tops[0].is_null());
    assert_eq!(tops.last().unwrap().as_object().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_of_a_scored_prompt_has_a_rank() {
    for top in [0, 1, 2, 5] {
        let answer = completed(json!({"prompt_logprobs": top})).await;
        let places = answer["choices"][0]["prompt_logprobs"].as_array().unwrap();
        let tokens = ids("jump");
        for (place, token) in places.iter().zip(tokens).skip(1) {
            let place = place.as_object().unwrap();
            assert!(place.values().all(|entry| entry["rank"].as_u64() >= Some(1)), "{place:?}");
            // The harness has each as the second best.
            assert_eq!(place[&token.to_string()]["rank"], 2, "{top}");
            assert_eq!(place.len(), if top < 2 { top + 1 } else { top });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_comes_with_every_chunk_only_where_it_comes_at_all() {
    let server = Server::saying("hi").await;
    for (path, body) in [
        (COMPLETIONS, json!({"model": "base", "prompt": "a", "stream": true})),
        (
            CHAT,
            json!({"model": "base", "messages": [{"role": "user", "content": "a"}], "stream": true}),
        ),
    ] {
        for (options, each, last) in [
            (json!({"continuous_usage_stats": true}), None, false),
            (json!({"continuous_usage_stats": true, "include_usage": false}), None, false),
            (json!({"include_usage": true}), Some(false), true),
            (json!({"include_usage": true, "continuous_usage_stats": true}), Some(true), true),
        ] {
            let mut body = body.clone();
            body["stream_options"] = options.clone();
            let text = server.post(path, &body).await.text().await.unwrap();
            let events = parse_events(&text);
            let chunks: Vec<_> = events.iter().filter(|event| event.is_object()).collect();
            for chunk in chunks.iter().filter(|chunk| chunk["choices"] != json!([])) {
                let usage = chunk.get("usage").map(|usage| !usage.is_null());
                assert_eq!(usage, each, "{path} {options}: {chunk}");
            }
            let closing = chunks.last().unwrap();
            assert_eq!(closing["choices"] == json!([]), last, "{path} {options}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_bias_is_named() {
    let server = Server::saying("hi").await;
    let long = "9".repeat(500);
    for (bias, shown) in [
        (json!({"5": 1, "x y": 1}), "\"x y\""),
        (json!({"320": 1}), "\"320\""),
        (json!({"-1": 1}), "\"-1\""),
        (json!({"5": 1, "7": 101}), "\"7\""),
        (json!({"7": "1"}), "\"7\""),
        (json!({"7": true}), "\"7\""),
        (json!({&long: 1}), "\"9999"),
    ] {
        let body = json!({"model": "base", "prompt": "hi", "logit_bias": bias});
        let error = server.try_answer(COMPLETIONS, &body).await.unwrap_err()["error"].take();
        assert_eq!(error["param"], "logit_bias");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(shown) && message.len() < 200, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effort_reaches_the_template() {
    use super::harness::format_of;
    use crate::text::tool_format::ToolFormat;

    let source = "{{ reasoning_effort }}|{{ enable_thinking }}|{{ messages[-1].content }}";
    let (server, engine) = Server::chatting(format_of(source, ToolFormat::Hermes, false)).await;
    engine.script(|request, choice| say(request, choice, "hi"));
    let messages = json!([{"role": "user", "content": "a"}]);
    for (extra, rendered) in [
        (json!({}), "||a"),
        (json!({"reasoning_effort": "high"}), "high|true|a"),
        (json!({"reasoning_effort": "none"}), "none|false|a"),
        (
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}}),
            "low|false|a",
        ),
    ] {
        let mut body = json!({"model": "base", "messages": messages});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let tokens = server.answer("/tokenize", &body).await["tokens"].take();
        // Minijinja writes what is undefined as nothing.
        let text = server.answer("/detokenize", &json!({"tokens": tokens})).await;
        assert_eq!(
            text["prompt"],
            rendered.replace("true", "True").replace("false", "False"),
            "{extra}"
        );
        body["return_token_ids"] = json!(true);
        assert_eq!(server.answer(CHAT, &body).await["prompt_token_ids"], tokens);
    }
    let response = json!({"model": "base", "input": "a", "reasoning": {"effort": "none"}});
    let usage = server.answer("/v1/responses", &response).await["usage"].take();
    assert_eq!(usage["input_tokens"], ids("none|False|a").len());
    let wrong = json!({"model": "base", "messages": messages, "reasoning_effort": "lots"});
    let refusal = server.try_answer(CHAT, &wrong).await.unwrap_err();
    assert_eq!(refusal["error"]["param"], "reasoning_effort");
    let wrong = json!({"model": "base", "input": "a", "reasoning": {"effort": 1}});
    let refusal = server.try_answer("/v1/responses", &wrong).await.unwrap_err();
    assert_eq!(refusal["error"]["param"], "reasoning.effort");
}

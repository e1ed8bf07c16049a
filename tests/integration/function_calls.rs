//! Functions that must be called: whatever the model and its weights, they are, with arguments that
//! fit; and a stream says the same as a whole answer.

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::answers::Answer;
use crate::support::model;
use crate::support::server::Server;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const FORMATS: [&str; 3] = ["hermes", "llama3_json", "mistral"];
/// Shows functions by their names alone: the tiny model reads 256 tokens.
const TEMPLATE: &str = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}\
    {% for m in messages %}<s>{{ m.role }} {{ m.content }}{% for c in m.tool_calls or [] %}\
    {{ c.function.name }} {{ c.function.arguments }}{% endfor %}</s>{% endfor %}\
    {% if add_generation_prompt %}<s>{% endif %}{% if enable_thinking %}<think>{% endif %}";

/// Functions: names and schemas of arguments.
fn functions() -> [(&'static str, Value); 2] {
    let city = json!({"enum": ["Paris", "東京", "São Paulo"]});
    let weather = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "$defs": {"city": city},
    });
    let alarm = json!({
        "type": "object", "additionalProperties": false, "required": ["hour"],
        "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
    });
    [("get_weather", weather), ("set_alarm", alarm)]
}

fn tools() -> Value {
    let tool = |(name, parameters)| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    functions().map(tool).to_vec().into()
}

fn flat_tools() -> Value {
    let tool =
        |(name, parameters)| json!({"type": "function", "name": name, "parameters": parameters});
    functions().map(tool).to_vec().into()
}

/// Calls name functions, with arguments that fit their schemas: each of them, or where the text was
/// cut off, all but the last.
fn assert_fit(answer: &Answer, cut_off: bool) {
    let complete = answer.calls.len() - usize::from(cut_off && !answer.calls.is_empty());
    for (name, arguments) in &answer.calls[..complete] {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        let (_, schema) = functions().into_iter().find(|(known, _)| known == name).unwrap();
        assert!(jsonschema::is_valid(&schema, &arguments), "{arguments} for {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_was_trained_for_none_calls_them() {
    let pirate = format!("pirate={}", model::pirate().display());
    let args = ["--served-model-name=base", "--adapter", &pirate];
    for format in FORMATS {
        let server =
            &Server::start(&model::gguf(), &[&args[..], &["--tool-call-parser", format]].concat());
        let ask = |seed: usize| async move {
            let named = json!({"type": "function", "function": {"name": "set_alarm"}});
            let body = json!({
                "model": (["base", "pirate"][seed % 2]), "seed": seed, "temperature": 1.2,
                "tools": tools(), "tool_choice": (if seed < 3 { named } else { "required".into() }),
                "parallel_tool_calls": false, "max_completion_tokens": 400,
                "messages": [{"role": "user", "content": "What is the weather in Tokyo?"}],
            });
            let whole = Answer::whole(server, CHAT, &body).await.unwrap();
            let [answer] = &whole[..] else { panic!("{whole:?}") };
            assert_eq!((answer.calls.len(), answer.text.as_str()), (1, ""));
            assert_eq!(answer.end, if seed < 3 { "stop" } else { "tool_calls" });
            assert!(seed >= 3 || answer.calls[0].0 == "set_alarm");
            assert_fit(answer, false);
            assert_eq!(Answer::streamed(server, CHAT, &body).await, Ok(whole), "{format} {seed}");
        };
        join_all((0..6).map(ask)).await;
    }
}

/// Random weights that call, answer in a form and think, in a format.
fn tiny(format: &str) -> Server {
    let tiny = model::in_repository("tests/fixtures/tiny/f32");
    let adapter = format!("tenant={}", tiny.join("adapter").display());
    let args = ["--served-model-name=base", "--adapter", &adapter, "--chat-template", TEMPLATE];
    let more = ["--reasoning-parser=think", "--speculative-lookup=2", "--tool-call-parser", format];
    Server::start(&tiny.join("base"), &[&args[..], &more].concat())
}

/// What a request may ask for at once, by turns: which calls, of what form, how sampled, where ended.
struct Wish {
    form: Option<Value>,
    /// The choice, and the function it names.
    choice: Option<&'static str>,
    shared: Value,
}

fn wish(seed: usize) -> Wish {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["a"],
        "properties": {"a": {"enum": ["x", "ÿ"]}, "b": {"type": "array", "items": {"type": "null"}}},
    });
    let mut shared = json!({
        "model": (["base", "tenant"][seed % 2]), "seed": seed,
        "temperature": ([0.0, 0.8, 1.3][seed % 3]),
        "parallel_tool_calls": seed % 4 < 2, "chat_template_kwargs": {"enable_thinking": seed % 4 == 3},
    });
    if seed % 3 == 1 {
        shared["stop"] = json!([["1", "ÿ"], ["}", "\n"]][seed % 2]);
        shared["include_stop_str_in_output"] = json!(seed.is_multiple_of(2));
    }
    Wish {
        form: (seed % 7 < 3).then_some(schema),
        choice: [Some("required"), Some("set_alarm"), None, Some("auto"), Some("none")][seed % 5],
        shared,
    }
}

fn merged(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn as_chat(Wish { form, choice, shared }: Wish, seed: usize) -> Value {
    let mut body = merged(
        shared,
        json!({
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 130, "n": 1 + seed % 3,
            "logprobs": true, "top_logprobs": seed % 3, "include_reasoning": seed % 4 != 1,
        }),
    );
    if let Some(schema) = form {
        let named = json!({"name": "s", "schema": schema});
        body["response_format"] = json!({"type": "json_schema", "json_schema": named});
    }
    if let Some(choice) = choice {
        body["tools"] = tools();
        let named = json!({"type": "function", "function": {"name": choice}});
        body["tool_choice"] = if choice == "set_alarm" { named } else { choice.into() };
    }
    body
}

fn as_response(Wish { form, choice, shared }: Wish) -> Value {
    let mut body = merged(
        shared,
        json!({
            "input": "hi", "max_output_tokens": 130, "include": ["message.output_text.logprobs"],
        }),
    );
    if let Some(schema) = form {
        body["text"] = json!({"format": {"type": "json_schema", "name": "s", "schema": schema}});
    }
    if let Some(choice) = choice {
        body["tools"] = flat_tools();
        let named = json!({"type": "function", "name": choice});
        body["tool_choice"] = if choice == "set_alarm" { named } else { choice.into() };
    }
    body
}

/// What came of a wish.
#[derive(Default)]
struct Outcome {
    calls: usize,
    forms: usize,
    refusals: usize,
}

/// Asks for the same whole and as a stream.
async fn compare(server: &Server, path: &str, body: &Value, is_refused: bool) -> Outcome {
    let whole = Answer::whole(server, path, body).await;
    let streamed = Answer::streamed(server, path, body).await;
    assert_eq!(streamed, whole, "{path} {body}");
    assert_eq!(whole.is_err(), is_refused, "{body}");
    let mut outcome = Outcome { refusals: usize::from(is_refused), ..Outcome::default() };
    let forced = body["tool_choice"] == "required" || body["tool_choice"].is_object();
    for answer in whole.into_iter().flatten() {
        let complete = ["tool_calls", "stop", "completed"].iter().any(|end| answer.end == *end);
        let cut_off = !complete || body.get("stop").is_some();
        assert_fit(&answer, cut_off || !forced);
        assert!(!forced || cut_off || !answer.calls.is_empty(), "{body}");
        outcome.calls += answer.calls.len();
        outcome.forms += usize::from(answer.text.starts_with('{'));
    }
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_for_at_once_a_stream_says_the_same_as_a_whole_answer() {
    let mut all = Outcome::default();
    for format in FORMATS {
        let server = &tiny(format);
        let outcomes = (0..42).map(|seed| async move {
            let forced = matches!(wish(seed).choice, Some("required" | "set_alarm"));
            let is_refused = forced && wish(seed).form.is_some();
            let (chat, response) = (as_chat(wish(seed), seed), as_response(wish(seed)));
            join(
                compare(server, CHAT, &chat, is_refused),
                compare(server, RESPONSES, &response, is_refused),
            )
            .await
        });
        for (chat, response) in join_all(outcomes).await {
            all.calls += chat.calls + response.calls;
            all.forms += chat.forms + response.forms;
            all.refusals += chat.refusals + response.refusals;
        }
    }
    let Outcome { calls, forms, refusals } = all;
    println!("{calls} calls, {forms} texts of a form, {refusals} refusals");
    assert!(calls > 40 && forms > 10 && refusals > 30, "{calls} {forms} {refusals}");
}

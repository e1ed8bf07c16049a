//! Every field of vLLM's request types, and what becomes of it here: it is built, or refused by its name,
//! or it cannot change an answer. The types are those of vLLM 0.33.

use serde_json::{Value, json};

use super::harness::Server;
use super::openapi::{Case, cases, server};
use crate::server::openai::validate::refused::IGNORED;

/// What becomes of a field.
enum Fate {
    /// It is described, and does what it says.
    Built,
    /// This value is refused as not supported, with the field's name.
    Refused(Value),
    /// With this value the answer is the same, and the description says so.
    Idle(Value),
}

use Fate::{Built, Idle, Refused};

type Fields = Vec<(&'static str, Fate)>;

fn built(names: &[&'static str]) -> Fields {
    names.iter().map(|name| (*name, Built)).collect()
}

fn refused(fields: &Value) -> Fields {
    let fields = fields.as_object().unwrap().iter();
    fields.map(|(name, value)| (&*name.clone().leak(), Refused(value.clone()))).collect()
}

fn idle(fields: &Value) -> Fields {
    let fields = fields.as_object().unwrap().iter();
    fields.map(|(name, value)| (&*name.clone().leak(), Idle(value.clone()))).collect()
}

/// What completions and chats have in common.
fn generating() -> Fields {
    let all = [
        built(&[
            "model",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_tokens",
            "n",
            "presence_penalty",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "stop_token_ids",
            "include_stop_str_in_output",
            "ignore_eos",
            "min_tokens",
            "skip_special_tokens",
            "truncate_prompt_tokens",
            "truncation_side",
            "allowed_token_ids",
            "prompt_logprobs",
            "logprob_token_ids",
            "add_special_tokens",
            "response_format",
            "structured_outputs",
            "cache_salt",
            "return_tokens_as_token_ids",
            "return_token_ids",
        ]),
        refused(&json!({
            "use_beam_search": true,
            "watermarking": true,
            "bad_words": ["x"],
            "kv_transfer_params": {"a": 1},
            "ec_transfer_params": {"a": 1},
            "vllm_xargs": {"a": 1},
            "repetition_detection": {"max_pattern_size": 4, "min_count": 2},
            "thinking_token_budget": 5,
        })),
        idle(&json!({
            "user": "a",
            // Of beam search alone.
            "length_penalty": 2.0,
            // Of tokenizers that put blanks between special tokens, of which none is served.
            "spaces_between_special_tokens": false,
            // Requests wait in the order of tenants, and are known by `x-request-id`.
            "priority": 1,
            "request_id": "a",
            "session_id": "a",
            // Of answers with routed experts, rendered prompts and media, which vLLM itself gives
            // elsewhere.
            "routed_experts_prompt_start": 1,
            "return_token_offsets": true,
            "return_mm_kwargs": false,
            // How a stream is cut into pieces.
            "stream_interval": 4,
        })),
    ];
    all.into_iter().flatten().collect()
}

fn of_completions() -> Fields {
    let own = built(&["prompt", "echo"]);
    let refused = refused(&json!({"suffix": "x", "prompt_embeds": "AAAA"}));
    [generating(), own, refused].into_iter().flatten().collect()
}

/// What chats are rendered by.
fn of_templates() -> Fields {
    let own = built(&[
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
        "reasoning_effort",
    ]);
    let refused = refused(&json!({"chat_template": "x", "documents": [{"a": "b"}]}));
    let idle = idle(&json!({"media_io_kwargs": {"a": {}}, "mm_processor_kwargs": {"a": 1}}));
    [own, refused, idle].into_iter().flatten().collect()
}

fn of_chats() -> Fields {
    let own = built(&[
        "top_logprobs",
        "max_completion_tokens",
        "tool_choice",
        "include_reasoning",
        "parallel_tool_calls",
    ]);
    let refused = refused(&json!({"echo": true, "return_prompt_text": true}));
    [generating(), of_templates(), own, refused].into_iter().flatten().collect()
}

fn of_responses() -> Fields {
    let all = [
        built(&[
            "include",
            "input",
            "instructions",
            "max_output_tokens",
            "metadata",
            "model",
            "logit_bias",
            "parallel_tool_calls",
            "reasoning",
            "stream",
            "temperature",
            "text",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
            "top_k",
            "truncation",
            "skip_special_tokens",
            "include_stop_str_in_output",
            "cache_salt",
            "structured_outputs",
            "repetition_penalty",
            "seed",
            "stop",
            "ignore_eos",
            "presence_penalty",
            "frequency_penalty",
        ]),
        refused(&json!({
            "background": true,
            "previous_response_id": "a",
            "previous_response": {"id": "a"},
            "previous_input_messages": [{"role": "user"}],
            "prompt": {"id": "a"},
            "enable_response_messages": true,
            "vllm_xargs": {"a": 1},
            "kv_transfer_params": {"a": 1},
        })),
        idle(&json!({
            "service_tier": "auto",
            "store": true,
            "user": "a",
            "prompt_cache_key": "a",
            "request_id": "a",
            "mm_processor_kwargs": {"a": 1},
            "priority": 1,
            // There are no built-in tools that it could bound.
            "max_tool_calls": 3,
        })),
    ];
    all.into_iter().flatten().collect()
}

fn of_embeddings() -> Fields {
    let all = [
        built(&[
            "model",
            "input",
            "encoding_format",
            "truncate_prompt_tokens",
            "truncation_side",
            "cache_salt",
            "add_special_tokens",
            "use_activation",
        ]),
        refused(&json!({
            "dimensions": 3,
            "embed_dtype": "float16",
            "endianness": "big",
            "padding": "max_length",
            "messages": [{"role": "user", "content": "a"}],
        })),
        idle(&json!({
            "user": "a", "request_id": "a", "priority": 1, "mm_processor_kwargs": {"a": 1},
        })),
    ];
    all.into_iter().flatten().collect()
}

fn of(case: &Case) -> Fields {
    match case.path {
        "/v1/completions" => of_completions(),
        "/v1/chat/completions" => of_chats(),
        "/v1/responses" => of_responses(),
        "/v1/embeddings" => of_embeddings(),
        "/tokenize" if case.body.get("messages").is_some() => {
            let own = built(&["model", "return_token_strs", "add_special_tokens"]);
            own.into_iter().chain(of_templates()).collect()
        }
        "/tokenize" => built(&["model", "prompt", "return_token_strs", "add_special_tokens"]),
        "/detokenize" => built(&["model", "tokens"]),
        other => panic!("{other} is not vLLM's"),
    }
}

/// The answer without what is new in each.
async fn answer(server: &Server, case: &Case, name: &str, value: &Value) -> (u16, Value) {
    let mut body = case.body.clone();
    if !name.is_empty() {
        body[name] = value.clone();
    }
    let response = server.post(case.path, &body).await;
    let status = response.status().as_u16();
    let mut answer: Value = response.json().await.unwrap();
    let object = answer.as_object_mut().unwrap();
    for key in ["id", "created", "created_at", "completed_at"] {
        object.shift_remove(key);
    }
    for item in object.get_mut("output").and_then(Value::as_array_mut).into_iter().flatten() {
        item.as_object_mut().unwrap().shift_remove("id");
    }
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_vllm_is_built_or_refused_or_cannot_change_an_answer() {
    let server = server().await;
    let mut wrong = Vec::new();
    for case in cases() {
        let described = case.fields();
        let (_, plain) = answer(&server, &case, "", &Value::Null).await;
        for (name, fate) in of(&case) {
            let place = format!("{} {name}", case.path);
            let ignored = IGNORED.contains(&name);
            match fate {
                Built if ignored || !described.contains_key(name) => {
                    wrong.push(format!("{place} is not described"));
                }
                Built => {}
                Refused(value) => {
                    let (status, answer) = answer(&server, &case, name, &value).await;
                    let error = &answer["error"];
                    let message = error["message"].as_str().unwrap_or_default();
                    if status != 400 || error["param"] != name || !message.contains("not supported")
                    {
                        wrong.push(format!("{place}: {status} {answer}"));
                    }
                }
                Idle(value) => {
                    let (status, mut answer) = answer(&server, &case, name, &value).await;
                    // A response repeats what was asked.
                    if let (Some(answer), Some(plain)) = (answer.get_mut(name), plain.get(name)) {
                        *answer = plain.clone();
                    }
                    if status != 200 || answer != plain || !described.contains_key(name) {
                        wrong.push(format!("{place}: {status} {answer}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

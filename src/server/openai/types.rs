//! The wire's answers, field by field as OpenAI documents them. Requests are read by
//! [`super::validate`] and the endpoints themselves.

use serde::ser::{Serialize, SerializeMap, Serializer};
use utoipa::ToSchema;

use crate::server::choice::CallDelta;
use crate::server::generation::TokenCounts;

/// Present as `null` on a stream's chunks before the last; absent where nobody asked.
pub type OptionalUsage = Option<Option<Usage>>;

/// `CompletionUsage`.
#[derive(Debug, Clone, Copy, serde::Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// More about the prompts' tokens.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the generated ones, where thoughts are told from answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// `completion_tokens_details`.
#[derive(Debug, Clone, Copy, serde::Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Those of thoughts.
    pub reasoning_tokens: usize,
}

/// `prompt_tokens_details`.
#[derive(Debug, Clone, Copy, serde::Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those found in the cache.
    pub cached_tokens: usize,
}

impl From<TokenCounts> for Usage {
    fn from(counts: TokenCounts) -> Self {
        Self {
            prompt_tokens: counts.prompt,
            completion_tokens: counts.completion,
            total_tokens: counts.prompt + counts.completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: counts.cached },
            completion_tokens_details: counts
                .reasoning
                .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens }),
        }
    }
}

/// What ended a choice, an extension of vLLM: a string of `stop` or an id of `stop_token_ids`.
#[derive(Debug, Clone, serde::Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopReasonField {
    /// A string.
    Text(String),
    /// A token.
    Token(u32),
}

/// The fields every answer and every chunk begins with; `T` is the choice.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct Envelope<'a, T> {
    /// The same in all chunks of an answer.
    pub id: &'a str,
    /// The kind of object.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name the client asked for.
    pub model: &'a str,
    /// Which weights answer.
    pub system_fingerprint: &'a str,
    /// The choices.
    pub choices: Vec<T>,
    /// Token counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: OptionalUsage,
    /// vLLM's extension for chats: log-probabilities of the one prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::HashMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprobEntry>>>,
    /// vLLM's extension for chats: the tokens of the one prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A choice of a completion, or of a chunk of one.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Prompt times `n` plus the choice's number.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Where asked for.
    #[schema(required = true)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Set at the end.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::HashMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprobEntry>>>,
    /// vLLM's extension: the prompt's tokens, on a stream's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// vLLM's extension: the generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The log-probabilities of a completion: four arrays of one length.
#[derive(Debug, Default, serde::Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Each token's text.
    pub tokens: Vec<String>,
    /// Its log-probability; `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The best tokens there, and the token itself.
    #[schema(value_type = Vec<Option<std::collections::HashMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<InOrder<String, f32>>>,
    /// Characters of the text before it.
    pub text_offset: Vec<usize>,
}

/// A choice of a whole chat answer.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// What was said.
    pub message: ChatMessage,
    /// Where asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
    /// vLLM's extension: all tokens, those of thoughts and calls too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A whole answer's message.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; `null` where there are only calls.
    #[schema(required = true)]
    pub content: Option<String>,
    /// What was thought before, an extension of many servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Always `null`; strict clients want the key.
    #[schema(required = true)]
    pub refusal: Option<String>,
}

/// A call of a function, or a chunk's piece of one.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct ToolCall {
    /// Which call of the choice; in chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Its id; on its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// What is called.
    pub function: CalledFunction,
}

/// The function of a [`ToolCall`].
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct CalledFunction {
    /// Its name; on the call's first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its arguments, JSON as the model wrote it, or more of them.
    pub arguments: String,
}

impl ToolCall {
    /// A whole call, or a piece of one in a chunk.
    #[must_use]
    pub fn new(call: CallDelta, in_chunk: bool) -> Self {
        let (id, name) = call.head.map(|head| (head.id, head.name)).unzip();
        Self {
            index: in_chunk.then_some(call.index),
            r#type: id.as_ref().map(|_| "function"),
            id,
            function: CalledFunction { name, arguments: call.arguments },
        }
    }
}

/// A choice of a chunk of a chat answer.
#[derive(Debug, Default, serde::Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Its number.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta,
    /// Where asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// Set on the last chunk.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// vLLM's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReasonField>,
    /// vLLM's extension: the tokens since the last chunk that had some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, serde::Serialize, ToSchema)]
pub struct ChatDelta {
    /// On the first chunk alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of a call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// The log-probabilities of a chat answer.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token of the content; `null` where there is none.
    #[schema(required = true)]
    pub content: Option<Vec<ChatLogprob>>,
    /// Always `null`; strict clients want the key.
    #[schema(required = true)]
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// One token of a chat's answer, or of a response's text.
#[derive(Debug, Clone, PartialEq, serde::Serialize, ToSchema)]
pub struct ChatLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The best tokens there.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq, serde::Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text, or `bytes:` and its bytes where they are no whole characters.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The log-probabilities at one prompt token: token id to value, best first.
pub type PromptLogprobEntry = InOrder<u32, PromptLogprob>;

/// A value of [`PromptLogprobEntry`].
#[derive(Debug, Clone, serde::Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural logarithm.
    pub logprob: f32,
    /// 1 is the best of the vocabulary.
    pub rank: usize,
    /// Its text.
    pub decoded_token: String,
}

/// A JSON object that keeps its order and single-precision numbers as they are.
#[derive(Debug, Clone)]
pub struct InOrder<K, V>(pub Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for InOrder<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

//! What requests may hold, for the document: names, types, bounds and defaults. Nothing reads a
//! request through these types: [`crate::server::openai`] does, strictly, and a test asks it about
//! every field here and every name there.
//!
//! A field that is `null` counts as absent; the fields that are accepted and ignored are added from
//! the reader's own list.

mod admin;
mod conversation;
mod form;
mod response;
mod tenants;

use std::collections::HashMap;

use serde_json::Value;
use utoipa::ToSchema;

pub use admin::{
    AdapterName, Conditions, LoadLoraAdapter, Pin, PutAdapter, RollOut, UnloadLoraAdapter,
};
pub use conversation::{Message, TemplateFields};
pub use form::FormFields;
pub use response::ResponseRequest;
pub use tenants::{
    CreateKey, DeletedKey, DeletedTenant, KeyList, NewKey, PutTenant, Tenant, TenantList,
};

/// Fields that completions and chats take.
#[derive(Debug, ToSchema)]
pub struct CommonFields {
    /// What all endpoints take that generate.
    #[serde(flatten)]
    pub generating: GeneratingFields,
    /// Choices for each prompt.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    pub n: Option<i64>,
    /// Answers with the ids of prompt and answer too.
    #[schema(default = false)]
    pub return_token_ids: Option<bool>,
    /// Log-probabilities of the prompt, with this many of the best tokens; not with `stream`.
    #[schema(minimum = 0, maximum = 20)]
    pub prompt_logprobs: Option<i64>,
    /// What the text must obey.
    #[serde(flatten)]
    pub form: FormFields,
}

/// Fields that all endpoints take that generate.
#[derive(Debug, ToSchema)]
pub struct GeneratingFields {
    /// A name from `/v1/models`.
    pub model: String,
    /// Below 0.00001 it takes the likeliest token. Default: the model's own, else 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Keeps the likeliest tokens that have this probability together. Default: the model's own,
    /// else 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Keeps this many of the likeliest tokens; -1 and 0 keep all. Default: the model's own, else all.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Keeps tokens of at least this probability relative to the likeliest.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    pub min_p: Option<f64>,
    /// Taken from the logits of tokens that the answer already has.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub presence_penalty: Option<f64>,
    /// Taken from the logits of tokens, for each time that the answer already has them.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub frequency_penalty: Option<f64>,
    /// Divides the logits of tokens that prompt or answer already have. Default: the model's own,
    /// else 1.
    #[schema(minimum = 0.01, maximum = 100)]
    pub repetition_penalty: Option<f64>,
    /// Added to the logits: token id, in digits without zeros before them, to a number from -100 to
    /// 100.
    pub logit_bias: Option<HashMap<String, LogitBias>>,
    /// Makes sampling repeatable. Default: drawn for each request.
    pub seed: Option<i64>,
    /// Ends an answer before this text.
    pub stop: Option<Stop>,
    /// Tokens that end an answer; at most as many as the model has.
    pub stop_token_ids: Option<Vec<TokenId>>,
    /// Goes on past the model's own end tokens.
    #[schema(default = false)]
    pub ignore_eos: Option<bool>,
    /// No end before this many tokens.
    #[schema(minimum = 0, default = 0)]
    pub min_tokens: Option<i64>,
    /// Leaves special tokens out of the text.
    #[schema(default = true)]
    pub skip_special_tokens: Option<bool>,
    /// Keeps what ends the text in it.
    #[schema(default = false)]
    pub include_stop_str_in_output: Option<bool>,
    /// Reads only a part of a longer prompt: so many tokens, or with -1 what the context holds beside
    /// the answer.
    pub truncate_prompt_tokens: Option<TruncatePrompt>,
    /// Where `truncate_prompt_tokens` leaves tokens out.
    #[schema(default = "left")]
    pub truncation_side: Option<TruncationSide>,
    /// Only these tokens are generated; at most as many as the model has.
    #[schema(min_items = 1)]
    pub allowed_token_ids: Option<Vec<TokenId>>,
    /// Log-probabilities of these tokens at each generated one, instead of the best ones'. Only with
    /// log-probabilities of the answer.
    #[schema(min_items = 1, max_items = 128)]
    pub logprob_token_ids: Option<Vec<TokenId>>,
    /// Writes `token_id:` and the id in place of tokens' texts in log-probabilities.
    #[schema(default = false)]
    pub return_tokens_as_token_ids: Option<bool>,
    /// Cached prompts are shared only among requests of one salt.
    #[schema(min_length = 1, max_length = 1024)]
    pub cache_salt: Option<String>,
    /// Tokens to guess ahead at most, for greedy answers.
    #[schema(minimum = 0, maximum = 16)]
    pub num_speculative_tokens: Option<i64>,
    /// Answers with server-sent events.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// What kind of answer is wanted, and what changes nothing.
    #[serde(flatten)]
    pub answer: AnswerFields,
}

/// How much of a prompt is read.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum TruncatePrompt {
    /// What the context holds.
    Context(WholeContext),
    /// Tokens.
    Tokens(PromptLength),
}

/// An end of a prompt.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TruncationSide {
    /// Its beginning: the last tokens are read.
    Left,
    /// Its end: the first tokens are read.
    Right,
}

/// Stands for what the context holds.
#[derive(Debug, ToSchema)]
#[schema(minimum = -1, maximum = -1)]
pub struct WholeContext(pub i64);

/// Tokens of a prompt.
#[derive(Debug, ToSchema)]
#[schema(minimum = 1)]
pub struct PromptLength(pub i64);

/// What kind of answer is wanted.
#[derive(Debug, ToSchema)]
pub struct AnswerFields {
    /// Only `text` is generated.
    #[schema(max_items = 8)]
    pub modalities: Option<Vec<Modality>>,
    /// What every endpoint accepts.
    #[serde(flatten)]
    pub accepted: AcceptedFields,
}

/// Fields that change nothing and are checked all the same.
#[derive(Debug, ToSchema)]
pub struct AcceptedFields {
    /// In a chat, whether one answer may hold several calls. Elsewhere it changes nothing.
    #[schema(default = true)]
    pub parallel_tool_calls: Option<bool>,
    /// Changes nothing: at most 16 strings of at most 512 characters, under keys of at most 64.
    pub metadata: Option<HashMap<String, MetadataText>>,
    /// Changes nothing.
    #[schema(value_type = Option<Object>)]
    pub prediction: Option<Value>,
    /// Changes nothing.
    pub prompt_cache_key: Option<String>,
    /// Changes nothing.
    pub prompt_cache_retention: Option<String>,
    /// What the chat template is told, where it knows of it; `none` tells it not to think. Where there
    /// is no conversation it changes nothing.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Changes nothing.
    pub safety_identifier: Option<String>,
    /// Changes nothing.
    pub service_tier: Option<String>,
    /// Changes nothing: no answer is stored.
    pub store: Option<bool>,
    /// Changes nothing.
    pub user: Option<String>,
    /// Changes nothing.
    pub verbosity: Option<String>,
}

/// How much a model is to think.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReasoningEffort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// Little.
    Low,
    /// As usual.
    Medium,
    /// Much.
    High,
    /// More.
    XHigh,
    /// As much as it can.
    Max,
}

/// A value of `metadata`.
#[derive(Debug, ToSchema)]
#[schema(max_length = 512)]
pub struct MetadataText(pub String);

/// A number added to a logit.
#[derive(Debug, ToSchema)]
#[schema(minimum = -100, maximum = 100)]
pub struct LogitBias(pub f64);

/// A token of the model's vocabulary.
#[derive(Debug, ToSchema)]
#[schema(minimum = 0)]
pub struct TokenId(pub i64);

/// One string, or up to four; none of them empty.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(StopString),
    /// Several.
    Several(StopStrings),
}

/// A text that ends an answer.
#[derive(Debug, ToSchema)]
#[schema(min_length = 1, max_length = 4096)]
pub struct StopString(pub String);

/// Texts of which the first to come ends an answer.
#[derive(Debug, ToSchema)]
#[schema(max_items = 4)]
pub struct StopStrings(pub Vec<StopString>);

/// What a stream holds besides the answer.
#[derive(Debug, ToSchema)]
pub struct StreamOptions {
    /// One more chunk at the end, with the usage and without choices.
    #[schema(default = false)]
    pub include_usage: Option<bool>,
    /// The usage so far on every chunk; only with `include_usage`.
    #[schema(default = false)]
    pub continuous_usage_stats: Option<bool>,
}

/// A kind of output.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Text.
    Text,
}

/// Body of `POST /v1/completions`.
#[derive(Debug, ToSchema)]
pub struct CompletionRequest {
    /// What both inference endpoints take.
    #[serde(flatten)]
    pub common: CommonFields,
    /// What is continued.
    pub prompt: Prompt,
    /// Tokens to generate at most; 0 only scores the prompt.
    #[schema(minimum = 0, default = 16)]
    pub max_tokens: Option<i64>,
    /// Log-probabilities, with this many of the best tokens at each place.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// Begins the text with the prompt; with `logprobs`, scores it too.
    #[schema(default = false)]
    pub echo: Option<bool>,
    /// May only repeat `n`; 0 says nothing.
    #[schema(minimum = 0, maximum = 20)]
    pub best_of: Option<i64>,
    /// Lets the tokenizer add its own tokens, such as a first one.
    #[schema(default = true)]
    pub add_special_tokens: Option<bool>,
}

/// One prompt or several, as text or as token ids.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(PromptText),
    /// Several texts.
    Texts(PromptTexts),
    /// Token ids.
    Tokens(PromptTokens),
    /// Several arrays of token ids.
    ManyTokens(ManyPromptTokens),
}

/// A text to continue.
#[derive(Debug, ToSchema)]
#[schema(min_length = 1)]
pub struct PromptText(pub String);

/// Texts to continue.
#[derive(Debug, ToSchema)]
#[schema(min_items = 1)]
pub struct PromptTexts(pub Vec<PromptText>);

/// A text to continue, as token ids.
#[derive(Debug, ToSchema)]
#[schema(min_items = 1)]
pub struct PromptTokens(pub Vec<TokenId>);

/// Texts to continue, as token ids.
#[derive(Debug, ToSchema)]
#[schema(min_items = 1)]
pub struct ManyPromptTokens(pub Vec<PromptTokens>);

/// Body of `POST /v1/chat/completions`.
#[derive(Debug, ToSchema)]
pub struct ChatCompletionRequest {
    /// What both inference endpoints take.
    #[serde(flatten)]
    pub common: CommonFields,
    /// The conversation so far.
    #[schema(min_items = 1, max_items = 16384)]
    pub messages: Vec<Message>,
    /// Tokens to generate at most. Default: what the context leaves.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// The former name of `max_completion_tokens`, which wins.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Log-probabilities of the answer.
    #[schema(default = false)]
    pub logprobs: Option<bool>,
    /// This many of the best tokens at each place; only with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Answers with what the model thought, where it does and says so.
    #[schema(default = true)]
    pub include_reasoning: Option<bool>,
    /// What is done with the conversation.
    #[serde(flatten)]
    pub template: TemplateFields,
}

/// Body of `POST /v1/embeddings`.
#[derive(Debug, ToSchema)]
pub struct EmbeddingRequest {
    /// A name from `/v1/models`.
    pub model: String,
    /// What becomes vectors.
    pub input: Prompt,
    /// How numbers are written: as they are, or all in one text.
    #[schema(default = "float")]
    pub encoding_format: Option<EmbeddingEncoding>,
    /// Which of the hidden states become the vector. Default: the server's.
    pub pooling: Option<EmbeddingPooling>,
    /// Scales each vector to length 1.
    #[schema(default = true)]
    pub normalize: Option<bool>,
    /// vLLM's name of `normalize`, which wins.
    #[schema(default = true)]
    pub use_activation: Option<bool>,
    /// Reads only a part of a longer text: so many tokens, or with -1 what the context holds.
    pub truncate_prompt_tokens: Option<TruncatePrompt>,
    /// Where `truncate_prompt_tokens` leaves tokens out.
    #[schema(default = "left")]
    pub truncation_side: Option<TruncationSide>,
    /// Lets the tokenizer add its own tokens, such as a first one.
    #[schema(default = true)]
    pub add_special_tokens: Option<bool>,
    /// Cached prompts are shared only among requests of one salt.
    #[schema(min_length = 1, max_length = 1024)]
    pub cache_salt: Option<String>,
    /// What every endpoint accepts.
    #[serde(flatten)]
    pub accepted: AcceptedFields,
}

/// How a vector's numbers are written.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingEncoding {
    /// As an array of numbers.
    Float,
    /// As four bytes each, the lowest first, in Base64.
    Base64,
}

/// How a text's hidden states become one vector.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingPooling {
    /// Their mean.
    Mean,
    /// The last one.
    Last,
}

/// Body of `POST /tokenize`: `prompt` or `messages`.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum TokenizeRequest {
    /// A text.
    Prompt(TokenizePrompt),
    /// A conversation.
    Messages(TokenizeMessages),
}

/// What `/tokenize` takes besides its input.
#[derive(Debug, ToSchema)]
pub struct TokenizeFields {
    /// A name from `/v1/models`: all have one tokenizer.
    pub model: Option<String>,
    /// Answers with each token's text too.
    #[schema(default = false)]
    pub return_token_strs: Option<bool>,
    /// As in the requests whose prompts these are; it changes nothing.
    #[serde(flatten)]
    pub answer: AnswerFields,
}

/// A text to be tokenised.
#[derive(Debug, ToSchema)]
pub struct TokenizePrompt {
    /// What is always taken.
    #[serde(flatten)]
    pub fields: TokenizeFields,
    /// The text.
    pub prompt: String,
    /// Lets the tokenizer add its own tokens.
    #[schema(default = true)]
    pub add_special_tokens: Option<bool>,
}

/// A conversation to be tokenised, through the model's chat template.
#[derive(Debug, ToSchema)]
pub struct TokenizeMessages {
    /// What is always taken.
    #[serde(flatten)]
    pub fields: TokenizeFields,
    /// The conversation.
    #[schema(min_items = 1, max_items = 16384)]
    pub messages: Vec<Message>,
    /// What is done with it.
    #[serde(flatten)]
    pub template: TemplateFields,
}

/// Body of `POST /detokenize`.
#[derive(Debug, ToSchema)]
pub struct DetokenizeRequest {
    /// A name from `/v1/models`: all have one tokenizer.
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<TokenId>,
    /// As in the requests whose answers these are; it changes nothing.
    #[serde(flatten)]
    pub answer: AnswerFields,
}

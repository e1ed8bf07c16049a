//! From a checked request to the engine's terms: text to token ids, prompts measured against the
//! context, the whole measured against the server's limits.

use std::sync::Arc;

use super::echo;
use super::prompts::PromptInput;
use super::validate::Common;
use super::validate::length::fit_max_tokens;
use super::validate::truncation::{Truncation, room};
use super::workbench::Workbench;
use crate::adapter::registry::Target;
use crate::engine::request::PromptTokens;
use crate::server::choice::AnswerRules;
use crate::server::error::ApiError;
use crate::server::generation::{Job, Prompt};
use crate::server::state::{ServerConfig, Serving};
use crate::text::detokenizer::Detokenizer;
use crate::text::tokenizer::{Added, Keep};

/// What an endpoint asks of [`prompts`].
#[derive(Debug, Clone, Copy)]
pub struct PromptRules<'a> {
    /// The field prompts come from, for errors.
    pub param: &'a str,
    /// Lets the tokenizer add its own tokens, such as a beginning of sequence.
    pub add_special_tokens: bool,
    /// Begins answers with the prompt.
    pub echo: bool,
    /// Leaves special tokens out of the text.
    pub skip_special_tokens: bool,
    /// But for these.
    pub marks: &'a [u32],
    /// Which part of a prompt is read, where not all is.
    pub truncation: Option<Truncation>,
    /// Tokens to generate, with the field that asked for them.
    pub max_tokens: Option<(&'a str, usize)>,
    /// Tokens to generate where nobody asked.
    pub default_max_tokens: usize,
    /// Tokens that may be asked for, and generated where nobody did.
    pub most_tokens: Option<usize>,
}

/// Tokenises and measures prompts. Slow for long ones: not for async threads.
///
/// # Errors
/// Where a prompt is empty or too long.
pub fn prompts(
    bench: &Workbench<'_>,
    inputs: Vec<PromptInput>,
    rules: PromptRules<'_>,
) -> Result<Vec<Prompt>, ApiError> {
    inputs.into_iter().map(|input| prompt(bench, input, rules)).collect()
}

/// Which tokens of a prompt are wanted, beside as many to generate as were asked for: all that the
/// context holds, or one more than `truncation` keeps.
#[must_use]
pub fn keep(
    serving: &Serving,
    truncation: Option<Truncation>,
    max_tokens: Option<(&str, usize)>,
) -> Keep {
    let most = serving.max_model_len;
    let room = room(max_tokens.map(|(_, asked)| asked), most);
    truncation.map_or(Keep::AtMost(most), |truncation| truncation.keep(room))
}

fn prompt(
    bench: &Workbench<'_>,
    input: PromptInput,
    rules: PromptRules<'_>,
) -> Result<Prompt, ApiError> {
    let serving = bench.serving;
    let (mut tokens, mut text, mut added) = match input {
        PromptInput::Tokens(tokens) => (tokens, None, Added::default()),
        PromptInput::Text(text) => {
            let keep = keep(serving, rules.truncation, rules.max_tokens);
            let tokens = bench.read(&text, rules.param, keep, rules.add_special_tokens)?.ids;
            let added = rules.add_special_tokens.then(|| serving.tokenizer.added());
            (tokens, Some(text), added.unwrap_or_default())
        }
    };
    if tokens.is_empty() {
        let message = format!("`{}` has no tokens: at least one is needed", rules.param);
        return Err(ApiError::invalid(rules.param, message));
    }
    check_asked(rules)?;
    if let Some(truncation) = rules.truncation {
        let asked = rules.max_tokens.map(|(_, asked)| asked);
        if truncation.apply(&mut tokens, &mut added, room(asked, serving.max_model_len)) {
            text = None;
        }
    }
    let max_tokens = fit_max_tokens(
        (rules.param, tokens.len()),
        rules.max_tokens,
        rules.default_max_tokens.min(rules.most_tokens.unwrap_or(usize::MAX)),
        serving.max_model_len,
    )?;
    // Read once for all choices: their text continues the prompt's.
    let detokenizer = |detokenizer: Detokenizer| {
        detokenizer.skipping(rules.skip_special_tokens).keeping(rules.marks)
    };
    let (detokenizer, echo) = if rules.echo {
        let (continued, echo) = echo::shown(&serving.tokenizer, &tokens, text, added);
        (detokenizer(continued), Some(echo))
    } else {
        let mut detokenizer = detokenizer(Detokenizer::new(serving.tokenizer.clone(), false));
        echo::read(&mut detokenizer, &tokens);
        (detokenizer, None)
    };
    let tokens = known(serving, tokens, rules.param)?;
    Ok(Prompt { tokens, max_tokens, detokenizer, echo })
}

/// A tenant's own limit is refused by name, as the model's is.
fn check_asked(rules: PromptRules<'_>) -> Result<(), ApiError> {
    match (rules.max_tokens, rules.most_tokens) {
        (Some((param, asked)), Some(most)) if asked > most => Err(ApiError::invalid(
            param,
            format!("`{param}` must be at most {most} with this API key"),
        )),
        _ => Ok(()),
    }
}

/// The tokens of a prompt in `param`, all of which the model knows. Its tokenizer may have more: a
/// token that was added to it alone has no row in the embedding.
///
/// # Errors
/// The first one that the model does not know, with its text.
pub fn known(serving: &Serving, tokens: Vec<u32>, param: &str) -> Result<PromptTokens, ApiError> {
    PromptTokens::new(tokens, serving.vocab_size).map_err(|error| {
        let text = serving.tokenizer.token_text(error.token).unwrap_or_default();
        let message = format!("`{param}` has a token that the model does not know: {text:?}");
        ApiError::invalid(param, format!("{message} ({error})"))
    })
}

/// The job of a request, once its prompts are known.
///
/// # Errors
/// Where it is larger than the server allows.
pub fn job(
    config: &ServerConfig,
    common: &Common,
    prompts: Vec<Prompt>,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
) -> Result<Job, ApiError> {
    for prompt in &prompts {
        if common.sampling.min_tokens > prompt.max_tokens {
            let message = format!(
                "`min_tokens` must be at most the tokens to generate, which are {}",
                prompt.max_tokens
            );
            return Err(ApiError::invalid("min_tokens", message));
        }
    }
    let tokens = prompts
        .iter()
        .try_fold(0_usize, |sum, prompt| sum.checked_add(prompt.max_tokens.checked_mul(common.n)?));
    if tokens.is_none_or(|tokens| tokens > config.max_request_tokens) {
        let message = format!(
            "prompts times `n` times the tokens to generate must be at most {}",
            config.max_request_tokens
        );
        return Err(ApiError::invalid("max_tokens", message));
    }
    Ok(Job {
        prompts,
        n: common.n,
        sampling: common.sampling.clone(),
        logprobs,
        logprob_token_ids: None,
        prompt_logprobs,
        stop: common.stop.clone(),
        include_stop: common.include_stop,
        answer: AnswerRules::default(),
        adapter: match &common.model.target {
            Target::Base => None,
            Target::Adapter(version) => Some(Arc::clone(version)),
        },
        cache_salt: Arc::clone(&common.cache_salt),
        grammar: None,
        form: common.form.clone(),
        num_speculative_tokens: common.num_speculative_tokens,
    })
}

/// Checks the number of choices before anything is allocated for them.
///
/// # Errors
/// Where there are more than the server allows.
pub fn check_choices(config: &ServerConfig, prompts: usize, n: usize) -> Result<(), ApiError> {
    if prompts.checked_mul(n).is_some_and(|choices| choices <= config.max_choices) {
        return Ok(());
    }
    let (param, limit) = (if n > 1 { "n" } else { "prompt" }, config.max_choices);
    Err(ApiError::invalid(param, format!("prompts times `n` must be at most {limit}")))
}

/// Checks that the queue could ever take all prompts: else every retry would be a 429.
///
/// # Errors
/// Where there are more than may wait.
pub fn check_prompts(serving: &Serving, prompts: usize) -> Result<(), ApiError> {
    let limit = serving.engine.max_waiting();
    if prompts <= limit {
        return Ok(());
    }
    Err(ApiError::invalid("prompt", format!("`prompt` must hold at most {limit} prompts")))
}

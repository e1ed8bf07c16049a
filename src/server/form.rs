//! What a request asks its texts to obey: the field that says so, and its compilation, off the async
//! threads and far from the engine's, a bounded number at a time and for a bounded time.

use std::sync::Arc;
use std::time::Instant;

use super::blocking::spawn;
use super::call::Call;
use super::error::ApiError;
use super::state::{AppState, Serving};
use super::work::{place, text_bytes};
use crate::engine::request::TokenSet;
use crate::grammar::{Grammar, GrammarError, GrammarSpec, Vocabulary};
use crate::text::tokenizer::Tokenizer;

/// The form that a request asks of its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The field that asks for it, for errors.
    pub param: String,
    /// What is asked.
    pub spec: GrammarSpec,
}

/// The tokens of a model of `vocab_size` ids as a grammar sees them.
#[must_use]
pub fn vocabulary(tokenizer: &Tokenizer, vocab_size: usize, eos_token_ids: &[u32]) -> Vocabulary {
    let mut vocabulary = Vocabulary::new(vocab_size, eos_token_ids);
    for id in (0..).take(tokenizer.vocab_size()) {
        if let Some(bytes) = tokenizer.token_bytes(id) {
            vocabulary.insert(id, &bytes, tokenizer.is_special(id));
        }
    }
    vocabulary
}

/// Bytes of the texts in a specification.
fn bytes(spec: &GrammarSpec) -> usize {
    match spec {
        GrammarSpec::JsonObject => 0,
        GrammarSpec::JsonSchema(schema) => text_bytes(schema),
        GrammarSpec::Regex(text) => text.len(),
        GrammarSpec::Choice(texts) => texts.iter().map(String::len).sum(),
        GrammarSpec::Lark { text, schemas } => {
            text.len() + schemas.iter().map(|(_, schema)| text_bytes(schema)).sum::<usize>()
        }
    }
}

/// True where a text of `grammar` may begin with one of these tokens, or be empty.
fn can_begin(grammar: &Grammar, tokens: &TokenSet) -> bool {
    // Where the grammar cannot say, that is no fault of the tokens.
    let Ok(allowed) = grammar.matcher().allowed() else { return true };
    allowed.may_end() || tokens.iter().any(|token| allowed.contains(token))
}

/// Compiles a form, whose texts are made of `allowed_token_ids` where not of all.
///
/// # Errors
/// 400 for one that is malformed, too large, not supported or impossible to obey.
pub(super) async fn compile(
    state: &AppState,
    call: &Call,
    (serving, allowed_token_ids): (&Serving, Option<Arc<TokenSet>>),
    form: Form,
) -> Result<Arc<Grammar>, ApiError> {
    let Form { param, spec } = form;
    let place = place(&state.metrics, &state.lanes.grammars, call, bytes(&spec)).await?;
    let grammars = Arc::clone(&serving.grammars);
    // Dropped with this future: when the answer has come, or nobody waits for it any more.
    let client = Arc::new(());
    let waits = Arc::downgrade(&client);
    let work = spawn(move || {
        let begun = Instant::now();
        let result = grammars.compile_while(spec, &|| waits.strong_count() > 0).map(|grammar| {
            let begins = allowed_token_ids.is_none_or(|tokens| can_begin(&grammar, &tokens));
            begins.then_some(grammar)
        });
        // Given back when the work is done, not when its client stops waiting for it.
        place.charge(usize::try_from(begun.elapsed().as_micros()).unwrap_or(usize::MAX));
        drop(place);
        result
    });
    let invalid = |reason: &dyn std::fmt::Display| {
        ApiError::invalid(param.clone(), format!("`{param}` cannot be obeyed: {reason}"))
    };
    let compiled = tokio::time::timeout(state.config.grammar_timeout, work).await;
    drop(client);
    match compiled {
        Ok(Ok(Ok(Some(grammar)))) => Ok(grammar),
        Ok(Ok(Ok(None))) => Err(ApiError::invalid(
            "allowed_token_ids",
            format!("`allowed_token_ids` has no token with which a text of `{param}` can begin"),
        )),
        Ok(Ok(Err(error))) => Err(invalid(&error)),
        Ok(Err(error)) => {
            tracing::error!(%error, "bug: compiling a grammar panicked");
            Err(invalid(&GrammarError::Failed))
        }
        Err(_) => Err(invalid(&"compiling it takes too long")),
    }
}

//! What a request is rendered and tokenised with, off the async threads: the model, the limits, and the
//! job that may have to wait or to end between two pieces of a text.

use crate::server::error::ApiError;
use crate::server::state::{ServerConfig, Serving};
use crate::server::work::Work;
use crate::text::tokenizer::{Ids, Keep, Reading, TokenizerError};

/// So many bytes of messages are rendered whatever the context: a template may leave most of them out.
const ALWAYS_RENDERED: usize = 1 << 20;

/// Where a request's texts are worked on.
#[derive(Debug, Clone, Copy)]
pub struct Workbench<'a> {
    /// The server's limits.
    pub config: &'a ServerConfig,
    /// The model.
    pub serving: &'a Serving,
    /// The running job.
    pub work: &'a Work,
}

impl Workbench<'_> {
    /// The ids of `text`, which stands in the field `param`; where only its first or last ones are kept,
    /// what the tokenizer adds around it comes on top.
    ///
    /// # Errors
    /// Where there are more than `keep` wants, and where the tokenizer cannot read it.
    pub fn read(
        &self,
        text: &str,
        param: &str,
        keep: Keep,
        add_special_tokens: bool,
    ) -> Result<Ids, ApiError> {
        let watch = |bytes| self.work.checkpoint(bytes);
        let tokenizer = &self.serving.tokenizer;
        let whole = matches!(keep, Keep::AtMost(_));
        let reading =
            Reading { add_special_tokens: add_special_tokens && whole, keep, watch: &watch };
        let mut ids = tokenizer.read(text, reading).map_err(|error| self.refusal(&error, param))?;
        if add_special_tokens && !whole {
            ids.ids = tokenizer.surrounded(&ids.ids);
        }
        Ok(ids)
    }

    /// The same of a rendered conversation.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_rendered(
        &self,
        text: &str,
        keep: Keep,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        let watch = |bytes| self.work.checkpoint(bytes);
        let reading = Reading { add_special_tokens, keep, watch: &watch };
        let ids = self.serving.tokenizer.read_rendered(text, reading);
        Ok(ids.map_err(|error| self.refusal(&error, "messages"))?.ids)
    }

    /// What the client is told; the log has the tokenizer's own reason.
    fn refusal(&self, error: &TokenizerError, param: &str) -> ApiError {
        match error {
            TokenizerError::TooLong { limit } if *limit >= self.serving.max_model_len => {
                too_long(self.serving, param)
            }
            TokenizerError::TooLong { .. } | TokenizerError::Run { .. } => {
                ApiError::invalid(param, format!("`{param}` cannot be tokenised: {error}"))
            }
            // The client has gone: nobody reads this.
            TokenizerError::Stopped => ApiError::internal(),
            error => {
                tracing::warn!(%error, "a prompt could not be tokenised");
                ApiError::invalid(param, format!("`{param}` could not be tokenised"))
            }
        }
    }
}

fn too_long(serving: &Serving, param: &str) -> ApiError {
    let limit = serving.max_model_len;
    let message = format!(
        "this model's maximum context length is {limit} tokens, and `{param}` has more than that"
    );
    ApiError::context_length(param, message)
}

/// Refuses a text of which it is certain, by its bytes alone, that it does not fit the context. Quick.
///
/// # Errors
/// 400 in that case.
pub fn check_text(serving: &Serving, param: &str, text: &str) -> Result<(), ApiError> {
    if serving.tokenizer.exceeds(text, serving.max_model_len) {
        return Err(too_long(serving, param));
    }
    Ok(())
}

/// Refuses messages of so many bytes that they are not rendered. Quick.
///
/// # Errors
/// 400 in that case.
pub fn check_messages(serving: &Serving, param: &str, bytes: usize) -> Result<(), ApiError> {
    let most = serving.tokenizer.most_bytes(serving.max_model_len);
    if most.is_some_and(|most| bytes > most.max(ALWAYS_RENDERED)) {
        return Err(too_long(serving, param));
    }
    Ok(())
}

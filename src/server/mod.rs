//! HTTP: the only place that knows axum, JSON and OpenAI's words.
//!
//! [`serve`] owns connections and the drain, [`router`] says which path is whose, [`openai`] turns
//! bodies into jobs, [`generation`] and [`choice`] turn the engine's events into text, [`stream`]
//! writes them as they come. A whole answer is the same pieces, collected. [`vectors`] is the way of
//! prompts that become vectors. [`work`] is done before the engine sees a request, tenant by tenant.
//! [`tenancy`] says who may call, and counts what each tenant uses, and [`admin`] changes which
//! adapters are served.
//!
//! The server starts before the model is loaded: [`state::AppState`] gets its
//! [`state::Serving`] later, and until then only probes succeed.

pub mod admin;
pub mod blocking;
pub mod body;
pub mod call;
pub mod chat_format;
pub mod choice;
pub mod error;
pub mod extract;
pub mod form;
pub mod generation;
pub mod hosts;
mod idle;
pub mod lifecycle;
pub mod observe;
pub mod openai;
pub mod openapi;
pub mod probes;
pub mod router;
mod serve;
mod stall;
pub mod state;
pub mod stream;
pub mod tenancy;
mod token_places;
pub mod tokenization;
pub mod usage;
pub mod vectors;
pub mod work;

pub use serve::{Drained, serve};

#[cfg(test)]
mod tests;

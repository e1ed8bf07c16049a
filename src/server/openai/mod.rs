//! OpenAI's endpoints: requests are read by [`fields`], checked by [`validate`], brought into the
//! engine's terms by [`convert`], and answered in the words of [`types`].
//!
//! What is not supported is refused by its name; nothing here knows tensors or the scheduler.

pub mod answer;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod fields;
pub mod logprobs;
pub mod messages;
pub mod models;
pub mod render;
pub mod types;
pub mod validate;

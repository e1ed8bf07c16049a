//! OpenAI's endpoints: requests are read by [`fields`], checked by [`validate`], brought into the
//! engine's terms by [`convert`], and answered in the words of [`types`]. [`endpoint`] is the way
//! they share, and says how another one is added; [`model`] turns names into what answers.
//!
//! What is not supported is refused by its name; nothing here knows tensors or the scheduler.

pub mod answer;
pub mod chat;
pub mod completions;
pub mod conversation;
pub mod convert;
pub mod demand;
pub mod echo;
pub mod embeddings;
pub mod endpoint;
pub mod fields;
pub mod logprobs;
pub mod messages;
pub mod model;
pub mod models;
pub mod prompts;
pub mod render;
pub mod responses;
pub mod text_parts;
pub mod tools;
pub mod types;
pub mod validate;
pub mod workbench;

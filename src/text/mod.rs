//! Text as pure functions: tokens to characters and back, stop strings, chat templates.
//!
//! Nothing here is async, knows HTTP, a tensor or another module of this crate. Files are read by
//! the callers: everything takes bytes, strings or JSON values.

mod added_tokens;
pub mod answer;
mod byte_bound;
pub mod chat_template;
pub mod chat_templates;
mod cutter;
pub mod detokenizer;
pub mod gguf_vocab;
mod guard;
mod json_dumps;
mod pieces;
mod piecewise;
#[cfg(test)]
mod samples;
pub mod stop;
pub mod tokenizer;
pub mod tokenizer_config;
pub mod tool_format;

//! Stub until the text module lands.
#![allow(missing_docs)]
pub mod chat_template;
pub mod detokenizer;
pub mod stop;
pub mod tokenizer;

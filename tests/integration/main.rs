//! All integration tests, in one binary.

// In a test a panic is the report; clippy's own exception knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod adapter_files;
mod adapter_sources;
mod adapters_live;
mod agreement;
mod bench;
mod caching;
mod conversion;
mod edge;
mod embeddings;
mod flags_page;
mod followed_live;
mod function_calls;
mod llama_oracle;
mod logprobs;
mod model_files;
mod model_oracle;
mod panics;
mod reference;
mod serving;
mod sorsa_checkpoint;
mod structured;
mod text_golden;
mod tiny_llama;
mod tools;

//! Model families: configuration, weights and the forward pass of each, on candle tensors.
//!
//! A [`checkpoint::Checkpoint`] is what lies on disk, a [`contract::CausalLm`] what runs. Nothing
//! here samples, schedules or tokenises.

pub mod builder;
pub mod chat_templates;
pub mod checkpoint;
pub mod comparison;
pub mod config;
pub mod contract;
pub mod digest_cache;
pub mod digests;
mod disk;
pub mod error;
mod fields;
mod finite;
pub mod generation_config;
pub mod gguf;
mod gguf_config;
pub mod llama;
mod parts;
mod safetensors_file;
pub mod sorsa;
mod stored_file;
pub mod weights;

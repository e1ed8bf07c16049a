//! Model families: configuration, weights and the forward pass of each, on candle tensors.

pub mod config;
pub mod contract;
pub mod gguf;
pub mod llama;
pub mod weights;

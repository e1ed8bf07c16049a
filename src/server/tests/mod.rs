//! The HTTP surface over a real loopback connection, in front of a scripted engine.

mod admin;
mod answers;
mod edge;
mod embeddings;
mod equivalence;
mod errors;
mod forms;
mod harness;
mod lifecycle;
mod limits;
mod lists;
mod openapi;
mod prompt_parts;
mod responses;
mod tenants;
mod tools;
mod vllm_fields;
mod work;

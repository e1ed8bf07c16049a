//! `sorsa`: one base model in memory, each request answered with its own tenant's adapter.
//!
//! # A request's way
//!
//! 1. [`server`] accepts HTTP: `server/openai/chat.rs` or `completions.rs` parses the body, and
//!    `convert.rs` validates it, renders the chat template and tokenises with [`text`].
//! 2. The result is an [`engine::request::Request`]: token ids, sampling parameters and, through
//!    [`adapter::registry`], an `Arc` of the adapter version it will be served with to its end.
//! 3. [`engine::handle::EngineHandle::submit`] puts it into a bounded queue. Here async ends.
//! 4. [`engine::Engine::step`], on a thread of its own: receive, schedule, execute, update.
//! 5. [`engine::scheduler::Scheduler`] decides which tokens of which sequences run now, with blocks
//!    from [`kv_cache::block_manager`]; the outcome is an [`engine::batch::Batch`].
//! 6. [`engine::model_runner::ModelRunner`] turns the batch into a forward pass of the [`model`],
//!    which is made of [`layers`] and, on a CPU, of [`kernels`].
//! 7. [`engine::sampler`] picks the next token of each sequence; it goes out as an event.
//! 8. `server/stream.rs` turns events into text, stops at stop strings and writes the response.
//!
//! `docs/ARCHITECTURE.md` holds the invariants; `tests/architecture.rs` checks them.

pub mod adapter;
pub mod background;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod grammar;
pub mod kernels;
pub mod kv_cache;
pub mod layers;
pub mod metrics;
pub mod model;
pub mod remote;
pub mod server;
pub mod tenant;
pub mod text;

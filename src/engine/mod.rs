//! The engine: one OS thread that owns the model, the scheduler and the cache.

pub mod handle;
pub mod request;

//! What several tests share.

pub mod answers;
pub mod lora;
pub mod model;
pub mod schemas;
pub mod server;
pub mod shared;

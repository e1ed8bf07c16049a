//! What several tests share.

pub mod lora;
pub mod model;
pub mod server;
pub mod shared;

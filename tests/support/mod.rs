//! What several tests share.

pub mod answers;
pub mod lora;
pub mod model;
pub mod object_server;
pub mod schemas;
pub mod server;
pub mod shared;

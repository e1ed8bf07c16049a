//! What several tests share.

pub mod shared;

//! Who may call: tenants, what each may use and how much of it, and the keys that speak for them.
//!
//! Plain values and their arithmetic, and the file they are declared in. It knows no HTTP, no engine
//! and no clock: times are handed in. What a tenant uses at the moment is `server/tenancy`'s.

pub mod bucket;
pub mod declarations;
pub mod directory;
pub mod key;
pub mod keys_file;
pub mod pattern;
pub mod policy;
pub mod time;
pub mod turns;

//! The benchmark client: puts an OpenAI-compatible server under load over HTTP and says how it did.
//!
//! [`plan`] decides what is measured, [`workload`] what is asked, [`load`] asks it in a closed loop
//! of streams through [`client`], [`statistics`] reduces the arrival times, and [`report`] and
//! [`plot`] show the result. It knows the server only from outside, through its wire: nothing here
//! names a part of the server, so that every server is measured alike.

pub mod chart;
pub mod client;
pub mod events;
pub mod load;
pub mod measurement;
pub mod plan;
pub mod plot;
pub mod report;
pub mod statistics;
pub mod target;
pub mod workload;

//! Bodies of requests, from the first byte to values: how long one may take to come, how much memory
//! it may take, and how much all of them together.
//!
//! [`reader`] collects bytes, [`json`] turns them into values that are counted as they are made, and
//! [`budget`] counts what both hold, for the server and for each tenant. What fields mean is
//! [`super::openai`]'s to know.

pub mod budget;
pub mod json;
pub mod reader;

use std::sync::Arc;

use axum::body::Body;

use self::budget::BodyCharge;
use self::json::Object;
use super::blocking::blocking;
use super::error::ApiError;
use super::state::AppState;

/// Bytes from which a body is parsed off the async threads, on which other requests wait.
const LONG: usize = 64 << 10;

/// Reads and parses a body. The charge holds what it costs until it is dropped.
///
/// # Errors
/// 408 where it comes too slowly, 413 where it is too large, 429 where bodies hold all the memory
/// that they may, 400 where it is no JSON object.
pub async fn read(
    state: &AppState,
    body: Body,
    mut charge: BodyCharge,
) -> Result<(Object, BodyCharge), ApiError> {
    let bytes = reader::read(body, &state.config, &mut charge).await?;
    if bytes.len() < LONG {
        return json::parse(&bytes, &mut charge).map(|object| (object, charge));
    }
    let place = Arc::clone(&state.parse_work);
    let place = place.acquire_owned().await.expect("the semaphore is never closed");
    let parse = move || {
        let object = json::parse(&bytes, &mut charge);
        // Given back when the work is done, not when its client stops waiting for it.
        drop((bytes, place));
        Ok((object?, charge))
    };
    blocking("parsing a body", parse).await
}

//! Bodies of requests, from the first byte to values: how long one may take to come, how much memory
//! it may take, and how much all of them together.
//!
//! [`reader`] collects bytes, [`json`] turns them into values that are counted as they are made, and
//! [`budget`] counts what both hold, for the server and for each tenant. What fields mean is
//! [`super::openai`]'s to know.

pub mod budget;
pub mod json;
pub mod reader;

use axum::body::Body;

use self::budget::BodyCharge;
use self::json::Object;
use super::call::Call;
use super::error::ApiError;
use super::state::AppState;
use super::work;

/// Bytes from which a body is parsed off the async threads, on which other requests wait.
const LONG: usize = 64 << 10;

/// Reads and parses the body of a call. The charge holds what it costs until it is dropped.
///
/// # Errors
/// 408 where it comes too slowly, 413 where it is too large, 429 where bodies hold all the memory
/// that they may or too many wait to be parsed, 400 where it is no JSON object.
pub async fn read(
    state: &AppState,
    call: &Call,
    body: Body,
    mut charge: BodyCharge,
) -> Result<(Object, BodyCharge), ApiError> {
    let bytes = reader::read(body, &state.config, &mut charge).await?;
    if bytes.len() < LONG {
        return json::parse(&bytes, &mut charge).map(|object| (object, charge));
    }
    // The charge goes with the work, and is given back when that is done, not when its client stops
    // waiting for it.
    work::run(state, &state.lanes.bodies, call, bytes.len(), move |work| {
        let object = json::parse(&bytes, &mut charge);
        work.charge(bytes.len());
        Ok((object?, charge))
    })
    .await
}

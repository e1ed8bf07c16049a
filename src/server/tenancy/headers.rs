//! How a tenant's rates stand, in OpenAI's headers.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::caller::Tenant;
use super::live::Rate;

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Adds what is known of each rate that is limited.
pub fn add(headers: &mut HeaderMap, tenant: &Tenant) {
    for (rate, [limit, remaining, reset]) in [(Rate::Requests, REQUESTS), (Rate::Tokens, TOKENS)] {
        let Some(standing) = tenant.live.standing(rate) else { continue };
        headers.insert(limit, standing.limit.into());
        headers.insert(remaining, standing.remaining.into());
        if let Ok(time) = HeaderValue::from_str(&duration(standing.reset)) {
            headers.insert(reset, time);
        }
    }
}

/// A time as OpenAI writes it: `6m0s`, `1.5s`, `20ms`.
fn duration(time: Duration) -> String {
    let (minutes, millis) = (time.as_secs() / 60, time.as_millis() % 60_000);
    let seconds = match (millis / 1000, millis % 1000) {
        (0, 0) => "0s".to_owned(),
        (0, millis) if minutes == 0 => return format!("{millis}ms"),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{seconds}.{millis:03}s"),
    };
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_look_as_openai_writes_them() {
        for (millis, expected) in [
            (0, "0s"),
            (20, "20ms"),
            (1000, "1s"),
            (1500, "1.500s"),
            (60_000, "1m0s"),
            (60_020, "1m0.020s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }
}

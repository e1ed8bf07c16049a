//! Times of flags: whole seconds, up to a day. What should take longer is a slip.

use clap::builder::RangedU64ValueParser;

const DAY: u64 = 86_400;

/// Reads a time of at least `least` seconds.
#[must_use]
pub fn from(least: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(least..=DAY)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::Command;
    use clap::builder::TypedValueParser;

    use super::*;

    #[test]
    fn a_time_is_within_a_day() {
        let read = |least, text: &str| {
            from(least).parse_ref(&Command::new("sorsa"), None, OsStr::new(text)).ok()
        };
        assert_eq!(
            [read(0, "0"), read(1, "1"), read(1, "86400")],
            [Some(0), Some(1), Some(86_400)]
        );
        for (least, wrong) in [(1, "0"), (0, "86401"), (0, "-1"), (0, "1.5"), (0, "1s"), (0, "")] {
            assert_eq!(read(least, wrong), None, "{wrong}");
        }
    }
}

//! Counts for which something is set aside: at least one, and no more than can be.

use std::num::NonZeroUsize;

use super::ConfigError;

/// Reads a count from 1 to `MOST`.
///
/// # Errors
/// Where it is something else.
pub fn up_to<const MOST: usize>(text: &str) -> Result<NonZeroUsize, ConfigError> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST);
    count.ok_or_else(|| ConfigError::Count(text.to_owned(), MOST))
}

/// Reads a number of threads that compute or read: one per core is the most that helps.
///
/// # Errors
/// Where it is more than any machine has cores, or no count.
pub fn threads(text: &str) -> Result<NonZeroUsize, ConfigError> {
    up_to::<1024>(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_within_its_bounds() {
        for (text, expected) in [("1", Some(1)), ("9", Some(9)), ("10", None), ("0", None)] {
            assert_eq!(up_to::<9>(text).ok().map(NonZeroUsize::get), expected, "{text}");
        }
        for wrong in ["", "-1", "1.5", "one", "99999999999999999999999"] {
            assert_eq!(up_to::<9>(wrong), Err(ConfigError::Count(wrong.to_owned(), 9)));
        }
    }
}

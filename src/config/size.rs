//! Numbers of bytes, written with a unit.

use std::str::FromStr;

use super::ConfigError;

/// A number of bytes, written as `512MiB`, `4GB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// Reads a size other than none.
    ///
    /// # Errors
    /// Where it is none, or no size.
    pub fn not_zero(text: &str) -> Result<Self, ConfigError> {
        let size: Self = text.parse()?;
        if size.0 == 0 { Err(ConfigError::Size(text.to_owned())) } else { Ok(size) }
    }
}

impl FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::Size(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(invalid()),
        };
        let number: usize = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("3 MB"), Ok(3_000_000));
        assert_eq!((size("0"), ByteSize::not_zero("1")), (Ok(0), Ok(ByteSize(1))));
        assert_eq!(ByteSize::not_zero("0 GiB"), Err(ConfigError::Size("0 GiB".into())));
        for bad in
            ["", "GiB", "-1", "1.5GiB", "4 parsecs", "99999999999999999999", "99999999999GiB"]
        {
            assert_eq!(size(bad), Err(ConfigError::Size(bad.into())), "{bad}");
        }
    }
}

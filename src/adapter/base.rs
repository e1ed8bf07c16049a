//! Which base weights an adapter is relative to, by their content digest.
//!
//! Here is the digest's name and its comparison; `model/digests.rs` computes it.

use std::fmt;
use std::str::FromStr;

/// The digest (BLAKE3) of all of a base model's tensors. Written `blake3:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BaseDigest(pub [u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is \"blake3:\" and 64 hexadecimal digits")]
pub struct InvalidDigest;

impl fmt::Display for BaseDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BaseDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseDigest({self})")
    }
}

impl FromStr for BaseDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("blake3:").ok_or(InvalidDigest)?;
        let hash = blake3::Hash::from_hex(hex).map_err(|_| InvalidDigest)?;
        Ok(Self(*hash.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = BaseDigest(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let bare = digest.to_string().replace("blake3:", "");
        for bad in ["", "blake3:", "blake3:00", &bare, &format!("{digest}0"), "sha256:00"] {
            assert_eq!(bad.parse::<BaseDigest>(), Err(InvalidDigest), "{bad}");
        }
    }
}

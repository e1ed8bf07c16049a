//! API keys: random words that are shown once, and the digests by which they are known afterwards.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of chance in a key: nobody guesses it, so that one fast digest keeps it.
const KEY_BYTES: usize = 32;
/// Bytes of chance in a key's public name.
const ID_BYTES: usize = 6;

/// The SHA-256 of a key.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The digest of a key as a caller sends it.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Its first bytes: enough to find a key's entry, of no use to guess the key.
    #[must_use]
    pub fn prefix(&self) -> [u8; 8] {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        prefix
    }

    /// Whether two keys are one, in a time that says nothing of where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Says nothing: a digest is no secret, and nobody needs it in a log.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// A key just made. Its text exists here alone.
pub struct NewKey {
    /// Its public name, which may stand in logs and lists.
    pub id: String,
    /// The key itself: for its owner, once.
    pub secret: String,
}

impl NewKey {
    /// A key by the operating system's chance.
    ///
    /// # Errors
    /// Where the operating system has none.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0_u8; KEY_BYTES + ID_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
        let (secret, id) = bytes.split_at(KEY_BYTES);
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, secret: format!("sk-{}", URL_SAFE_NO_PAD.encode(secret)) })
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.secret)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_sha256sum() {
        let hash = KeyHash::of("abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), hex);
        assert!(KeyHash::parse(hex).unwrap().matches(&hash));
        assert!(!KeyHash::of("abq").matches(&hash));
        for wrong in ["", &hex[1..], &hex.replace('b', "g"), &hex.replacen("7816", "+816", 1)] {
            assert!(KeyHash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_key_never_says_itself() {
        let (one, other) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        assert!(one.secret != other.secret && one.id != other.id);
        assert_eq!(one.secret.len(), 3 + 43);
        assert!(!format!("{one:?} {:?}", one.hash()).contains(&one.secret[3..]));
    }
}

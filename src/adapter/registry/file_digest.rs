//! The digest that a file must have, as common tools print it: `sha256:…` (sha256sum, and the hub's
//! page of a file) or `blake3:…` (b3sum).

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Read at a time.
const CHUNK: usize = 64 << 10;

/// The digest of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FileDigest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is sha256: or blake3: and 64 hexadecimal digits")]
pub struct NoDigest;

impl FileDigest {
    /// The digest of the same kind of all that `reader` gives.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn of_same_kind(self, mut reader: impl Read) -> io::Result<Self> {
        match self {
            Self::Blake3(_) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(reader)?;
                Ok(Self::Blake3(*hasher.finalize().as_bytes()))
            }
            Self::Sha256(_) => {
                let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
                loop {
                    match reader.read(&mut chunk) {
                        Ok(0) => return Ok(Self::Sha256(hasher.finalize().into())),
                        Ok(count) => hasher.update(&chunk[..count]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

impl FromStr for FileDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let (kind, digits) = text.split_once(':').ok_or(NoDigest)?;
        let bytes = *blake3::Hash::from_hex(digits).map_err(|_| NoDigest)?.as_bytes();
        match kind {
            "sha256" => Ok(Self::Sha256(bytes)),
            "blake3" => Ok(Self::Blake3(bytes)),
            _ => Err(NoDigest),
        }
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Blake3(bytes) => ("blake3", bytes),
        };
        write!(f, "{kind}:{}", blake3::Hash::from_bytes(*bytes).to_hex())
    }
}

impl TryFrom<String> for FileDigest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        text.parse()
    }
}

impl From<FileDigest> for String {
    fn from(digest: FileDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_common_tools() {
        for text in [
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
        ] {
            let digest: FileDigest = text.parse().unwrap();
            assert_eq!(digest.of_same_kind(&b"abc"[..]).unwrap(), digest);
            assert_ne!(digest.of_same_kind(&b"ab"[..]).unwrap(), digest);
            assert_eq!(digest.to_string(), text);
        }
        let zeros = "0".repeat(64);
        for text in
            ["", "sha256", "sha256:", "md5:00", "sha256:0", &zeros, &format!("sha512:{zeros}")]
        {
            assert_eq!(text.parse::<FileDigest>(), Err(NoDigest), "{text}");
        }
    }
}

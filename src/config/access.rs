//! Who may call: keys, what is open without one, and where it is written down what was used.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::{ByteSize, ConfigError};
use crate::server::hosts::HostName;

/// Who may call.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// TOML file with tenants and their keys, read again when it changes and at SIGHUP. `sorsa key
    /// new` adds to it
    #[arg(long, env = "SORSA_KEYS", value_name = "FILE", conflicts_with = "api_key")]
    pub keys: Option<PathBuf>,
    /// API key that every request must carry; grants everything but an administrator's rights
    /// (repeatable)
    #[arg(
        long,
        env = "SORSA_API_KEY",
        value_delimiter = ',',
        value_name = "KEY",
        hide_env_values = true
    )]
    pub api_key: Vec<Secret>,
    /// Allow requests without a key on an address that other machines can reach
    #[arg(long, env = "SORSA_ALLOW_OPEN")]
    pub allow_open: bool,
    /// Without keys, accept this host name (as in http://NAME:8000) beside IP addresses and
    /// localhost (repeatable). Other names are refused, because a web page can make a name of its
    /// own resolve to this machine
    #[arg(
        long,
        env = "SORSA_ALLOWED_HOST",
        value_delimiter = ',',
        conflicts_with_all = ["keys", "api_key"],
        value_name = "NAME"
    )]
    pub allowed_host: Vec<HostName>,
    /// API key for /metrics alone [default: an administrator's key, if keys are required]
    #[arg(long, env = "SORSA_METRICS_KEY", value_name = "KEY", hide_env_values = true)]
    pub metrics_key: Option<Secret>,
    /// Serve /metrics, which names tenants, without a key
    #[arg(long, env = "SORSA_PUBLIC_METRICS", conflicts_with = "metrics_key")]
    pub public_metrics: bool,
    /// Append one line of JSON per request to this file: what it used
    #[arg(long, env = "SORSA_USAGE_LOG", value_name = "FILE")]
    pub usage_log: Option<PathBuf>,
    /// Size at which the usage log is rotated; older files are kept, as FILE.1, FILE.2 …
    #[arg(
        long,
        env = "SORSA_USAGE_LOG_MAX_SIZE",
        default_value = "64MiB",
        value_parser = ByteSize::not_zero,
        value_name = "BYTES"
    )]
    pub usage_log_max_size: ByteSize,
}

/// A key as its owner wrote it. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl FromStr for Secret {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        // What a header could not carry would lock everybody out.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Secret);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_something_and_says_nothing() {
        let secret: Secret = "sk-1".parse().unwrap();
        assert_eq!((secret.0.as_str(), format!("{secret:?}").as_str()), ("sk-1", "Secret"));
        for wrong in ["", " ", "a b", "é", "a\n"] {
            let error = wrong.parse::<Secret>().unwrap_err();
            assert_eq!(error, ConfigError::Secret);
        }
    }
}

//! What is logged, and how lines look.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::ConfigError;

/// What is logged where only single targets are named.
const DEFAULT: &str = "info";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people to read.
    Text,
    /// One JSON object per line.
    Json,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log level: error, warn, info, debug, trace or off. Single targets may have levels of their
    /// own, as in `warn,sorsa=debug`; without a level for the rest it is info
    #[arg(long, env = "SORSA_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: LogFilter,
    /// Format of log lines
    #[arg(long, env = "SORSA_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// Directives for `tracing`, all of which mean something.
///
/// `tracing` itself takes a word that is no level as the name of a target, and then logs nothing else: a
/// slip would silence a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let directives: Vec<String> =
            text.split(',').map(str::trim).map(directive).collect::<Result<_, _>>()?;
        let all = directives.iter().any(|directive| directive.parse::<LevelFilter>().is_ok());
        let all = if all { Vec::new() } else { vec![DEFAULT.to_owned()] };
        let text = [all, directives].concat().join(",");
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(ConfigError::LogDirective(text, error.to_string())),
        }
    }
}

/// One directive as `tracing` knows it.
fn directive(text: &str) -> Result<String, ConfigError> {
    let is_span = text.contains(['[', '{']);
    let (target, level) = match text.rsplit_once('=') {
        Some((target, level)) if !is_span => (Some(target), level),
        _ if is_span => return Ok(text.to_owned()),
        _ => (None, text),
    };
    let level = if level.eq_ignore_ascii_case("warning") { "warn" } else { level };
    // A number is a level to `tracing` and to nobody else.
    if level.is_empty() || level.parse::<u8>().is_ok() || level.parse::<LevelFilter>().is_err() {
        return Err(ConfigError::LogLevel(text.to_owned()));
    }
    match target {
        None => Ok(level.to_owned()),
        Some(target) if target.is_empty() || target.contains(char::is_whitespace) => {
            Err(ConfigError::LogLevel(text.to_owned()))
        }
        Some(target) => Ok(format!("{target}={level}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, ConfigError> {
        text.parse().map(|LogFilter(text)| text)
    }

    #[test]
    fn levels_are_read_in_every_way_that_people_write_them() {
        for (text, expected) in [
            ("error", "error"),
            ("warn", "warn"),
            ("warning", "warn"),
            ("WARNING", "warn"),
            ("Info", "Info"),
            ("debug", "debug"),
            ("trace", "trace"),
            ("off", "off"),
            ("warn,sorsa=debug", "warn,sorsa=debug"),
            ("sorsa=debug, warning", "sorsa=debug,warn"),
            // Whoever wants more of one does not want less of the others.
            ("sorsa=debug", "info,sorsa=debug"),
            ("sorsa=warning,tower_http=trace", "info,sorsa=warn,tower_http=trace"),
            ("sorsa::server[x{a=1}]=debug", "info,sorsa::server[x{a=1}]=debug"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(read("warning").unwrap().parse::<LevelFilter>().unwrap(), LevelFilter::WARN);
    }

    #[test]
    fn what_is_no_level_is_refused_by_name() {
        for wrong in [
            "",
            " ",
            "verbose",
            "wrn",
            "warn,",
            ",warn",
            "warn,,info",
            "sorsa",
            "sorsa=loud",
            "sorsa=",
            "=debug",
            "5",
            "sorsa=5",
            "warn info",
            "a b=warn",
            "info;debug",
            "critical",
            "notice",
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("no log level"), "{wrong}: {error}");
        }
        assert!(read("[").is_err() && read("a[b=debug").is_err());
    }
}

//! A `sorsa serve` of the benchmark's own: a process apart, as any other server is.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, bail};

use crate::config::own_executable;

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct BenchServer {
    child: Child,
    url: String,
    log: Option<JoinHandle<()>>,
}

impl BenchServer {
    /// Serves `model` with `adapters` (each `NAME=PATH`) and further `options` on a free port of
    /// this machine, and waits until it is ready.
    ///
    /// # Errors
    /// Where it ends before it is ready; it has said why.
    pub fn start(model: &Path, adapters: &[String], options: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(own_executable()?);
        // The line that says where it listens is one of its log; one for each request would be many.
        let level = "warn,sorsa::cli=info";
        command.args(["--log-level", level, "--log-format", "text", "serve"]);
        command.arg(model).args(["--host", "127.0.0.1", "--port", "0"]);
        for adapter in adapters {
            command.arg("--adapter").arg(adapter);
        }
        command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("the server cannot be started")?;
        let stderr = child.stderr.take();
        let mut server = Self { child, url: String::new(), log: None };
        let mut log = BufReader::new(stderr.context("bug: the server's log is not piped")?);
        server.url = wait_until_ready(&mut log)?;
        // Nobody would otherwise empty the pipe, and a full one would stop the server.
        let pass_on =
            move || log.lines().map_while(Result::ok).for_each(|line| eprintln!("{line}"));
        server.log = Some(std::thread::spawn(pass_on));
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for BenchServer {
    fn drop(&mut self) {
        // Nothing of it is to be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

/// Passes on the log until it says that the server is ready, and where.
fn wait_until_ready(log: &mut BufReader<ChildStderr>) -> anyhow::Result<String> {
    let mut line = String::new();
    while log.read_line(&mut line)? > 0 {
        eprint!("{line}");
        if let Some(url) = address(&line) {
            return Ok(url);
        }
        line.clear();
    }
    bail!("the server did not start")
}

fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" on http://")?;
    let (address, _) = rest.split_once(", ready in ")?;
    Some(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_it_is_ready_holds_the_address() {
        let line = "2026-01-01  INFO m (llama) on http://127.0.0.1:41, ready in 0.3 s\n";
        assert_eq!(address(line).as_deref(), Some("http://127.0.0.1:41"));
        assert_eq!(address("INFO reading the model on http://x\n"), None);
    }
}

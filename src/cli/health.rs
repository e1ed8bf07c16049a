//! `sorsa health`: a probe for container health checks, so that an image needs no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

/// `sorsa health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Port of the server on this machine
    #[arg(long, env = "SORSA_PORT", default_value_t = 8000)]
    port: u16,
    /// Route to ask: /health (alive) or /ready (accepts requests)
    #[arg(long, default_value = "/health")]
    path: String,
    /// Longest time to wait for the answer, in seconds
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

/// Asks once.
///
/// # Errors
/// Where there is no answer in time, or one other than 200.
pub fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], args.port));
    let timeout = Duration::from_secs(args.timeout.max(1));
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .with_context(|| format!("no server answers on {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request =
        format!("GET {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n", args.path);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).context("the server's answer broke off")?;
    let status = String::from_utf8_lossy(&answer);
    let status = status.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200 "), "the server on {address} answered: {status}");
    Ok(())
}

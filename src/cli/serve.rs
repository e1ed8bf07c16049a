//! `sorsa serve`: listens at once, loads beside it, serves until told to stop.
//!
//! The listener is open before the model is loaded, so that probes can tell a start from a crash.
//! `load.rs` does the loading.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::changes::{Look, Looks, looks};
use super::signals::{Cause, Signals};
use super::{access, keys_watch, load, names, sources};
use crate::config::{AccessArgs, ServeArgs};
use crate::metrics::Metrics;
use crate::server::state::{AppState, ServerConfig};
use crate::server::tenancy::Tenancy;
use crate::server::usage::UsageLog;
use crate::server::{Drained, serve};

/// HTTP, tokenising and detokenising need little; the cores belong to the engine.
const ASYNC_THREADS: usize = 2;

/// For the last usage records, where the disk does not take them.
const USAGE_FLUSH: Duration = Duration::from_secs(10);

/// Memory for bodies, as a multiple of the largest one: parsed, that one may take six times its bytes,
/// and no tenant beside others may take more than half.
const BODIES: usize = 16;

/// Serves until a signal, then drains.
///
/// # Errors
/// Where the address cannot be bound, the model cannot be loaded, or the engine dies.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    crate::kernels::heap::share();
    load::check(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .enable_all()
        .build()?;
    // Before anything that takes time: from here on no signal ends the process by itself.
    let signals = {
        let _in_runtime = runtime.enter();
        Signals::listen()?
    };
    let tenancy = access::tenancy(&args.access, args.host, args.adapters.state_dir.as_deref())?;
    // One per core where nothing is said. Started here, its threads inherit no background thread's priority.
    let threads = args.engine.threads.map_or(0, NonZeroUsize::get);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    crate::kernels::start_threads(args.engine.threads, args.engine.pin_threads);
    let result = runtime.block_on(serve_until_stopped(args, tenancy, signals));
    // Loading may still be under way; the process ends whatever it does.
    runtime.shutdown_background();
    result
}

async fn serve_until_stopped(
    args: ServeArgs,
    tenancy: Arc<Tenancy>,
    signals: Signals,
) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let defaults = ServerConfig::default();
    let config = ServerConfig {
        max_body_bytes: args.max_body_size.0,
        max_bodies_memory: defaults
            .max_bodies_memory
            .max(BODIES.saturating_mul(args.max_body_size.0)),
        allowed_hosts: args.access.allowed_host.clone(),
        runtime_adapters: args.adapters.allow_runtime_adapters,
        adapter_roots: names::roots(&args)?,
        adapter_sources: sources::allowed(&args),
        allow_special_tokens: args.chat.allow_special_tokens,
        pooling: args.pooling.into(),
        ..defaults
    };
    let usage = usage_log(&args.access)?;
    let (of_keys, of_adapters) = (looks(), looks());
    let told = [of_keys.0.clone(), of_adapters.0.clone()];
    if let Some(path) = &args.access.keys {
        keys_watch::watch(path.clone(), Arc::clone(&tenancy), of_keys)?;
    }
    let state = AppState::new(config, Metrics::new(), tenancy, usage);
    let (failures, mut causes) = mpsc::channel(2);
    tokio::spawn(signals.follow(followed(&args), told, failures.clone()));
    let timeout = Duration::from_secs(args.shutdown_timeout);
    spawn_engine(args, Arc::clone(&state), address, of_adapters, failures)?;

    let (stop, stopped) = oneshot::channel::<()>();
    let (abort, aborted) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(
        listener,
        Arc::clone(&state),
        resolved(stopped),
        resolved(aborted),
        timeout,
    ));
    let cause = causes.recv().await;
    let _ = stop.send(());
    let failure = match cause {
        Some(Cause::Failure(error)) => {
            // Nothing that runs can finish.
            let _ = abort.send(());
            Some(error)
        }
        Some(Cause::Signal) | None => {
            tokio::spawn(async move {
                // A second signal does not wait.
                if causes.recv().await.is_some() {
                    let _ = abort.send(());
                } else {
                    std::future::pending::<()>().await;
                }
            });
            None
        }
    };
    if let Drained::Aborted(count) = server.await? {
        tracing::warn!(count, "requests were still running and were ended");
    }
    if let Some(usage) = &state.usage
        && tokio::time::timeout(USAGE_FLUSH, usage.flush()).await.is_err()
    {
        tracing::error!("usage records could not be written before the end");
    }
    failure.map_or(Ok(()), Err)
}

fn usage_log(args: &AccessArgs) -> anyhow::Result<Option<UsageLog>> {
    let Some(path) = &args.usage_log else { return Ok(None) };
    let opened = UsageLog::open(path, args.usage_log_max_size.0 as u64);
    opened.map(Some).with_context(|| format!("--usage-log {}", path.display()))
}

/// Resolves when its sender sends; never where the sender is dropped.
async fn resolved(receiver: oneshot::Receiver<()>) {
    if receiver.await.is_err() {
        std::future::pending().await
    }
}

/// Loads the model, runs the engine, and reports how either failed.
fn spawn_engine(
    args: ServeArgs,
    state: Arc<AppState>,
    address: SocketAddr,
    looks: (Look, Looks),
    failures: mpsc::Sender<Cause>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let work = move || {
        let failure = match load::load(&args, &state, looks) {
            Ok(loaded) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!("{} on http://{address}, ready in {seconds:.1} s", loaded.summary);
                died(loaded.engine)
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            // Nobody listens only where the server is already ending.
            let _ = failures.blocking_send(Cause::Failure(error));
        }
    };
    std::thread::Builder::new().name("loader".into()).spawn(work)?;
    Ok(())
}

/// Waits for the engine's end: why the process has to end, where that was not asked for. A service
/// manager starts it anew.
fn died(engine: JoinHandle<()>) -> Option<anyhow::Error> {
    let bug = engine.join().err()?;
    let said = bug.downcast_ref::<String>().map(String::as_str);
    let said = said.or(bug.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    tracing::error!("bug: the engine died of {said:?}, and the process ends");
    Some(anyhow::anyhow!("the engine died of a bug: {said}"))
}

/// The flags whose files are read again while the server runs.
fn followed(args: &ServeArgs) -> Vec<&'static str> {
    let flags = [
        (args.access.keys.is_some(), "--keys"),
        (args.adapters.adapters_file.is_some(), "--adapters"),
        (args.adapters.adapter_dir.is_some(), "--adapter-dir"),
    ];
    flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_died_ends_the_process_and_one_that_was_stopped_does_not() {
        let number = 7;
        let error = died(std::thread::spawn(move || panic!("block {number} has two owners")));
        let said = error.unwrap().to_string();
        assert_eq!(said, "the engine died of a bug: block 7 has two owners");
        assert!(died(std::thread::spawn(|| {})).is_none());
    }
}

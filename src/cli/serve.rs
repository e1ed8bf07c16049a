//! `sorsa serve`: listens at once, loads beside it, serves until told to stop.
//!
//! The listener is open before the model is loaded, so that probes can tell a start from a crash.
//! `load.rs` does the loading.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::{access, keys_watch, load, names, sources};
use crate::config::ServeArgs;
use crate::metrics::Metrics;
use crate::server::state::{AppState, ServerConfig};
use crate::server::tenancy::Tenancy;
use crate::server::usage::UsageLog;
use crate::server::{Drained, serve};

/// HTTP, tokenising and detokenising need little; the cores belong to the engine.
const ASYNC_THREADS: usize = 2;

/// For the last usage records, where the disk does not take them.
const USAGE_FLUSH: Duration = Duration::from_secs(10);

/// Why the server stops.
enum Cause {
    /// SIGTERM or Ctrl-C.
    Signal,
    /// The model could not be loaded, or the engine died.
    Failure(anyhow::Error),
}

/// Serves until a signal, then drains.
///
/// # Errors
/// Where the address cannot be bound, the model cannot be loaded, or the engine dies.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    crate::kernels::heap::share();
    load::check(&args)?;
    let tenancy = access::tenancy(&args.access, args.host, args.adapters.state_dir.as_deref())?;
    if let Some(threads) = args.engine.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    crate::kernels::start_threads(args.engine.threads, args.engine.pin_threads);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve_until_stopped(args, tenancy));
    // Loading may still be under way; the process ends whatever it does.
    runtime.shutdown_background();
    result
}

async fn serve_until_stopped(args: ServeArgs, tenancy: Arc<Tenancy>) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let config = ServerConfig {
        max_body_bytes: args.max_body_size.0,
        runtime_adapters: args.adapters.allow_runtime_adapters,
        adapter_roots: names::roots(&args)?,
        adapter_sources: sources::allowed(&args),
        allow_special_tokens: args.chat.allow_special_tokens,
        pooling: args.pooling.into(),
        ..ServerConfig::default()
    };
    let usage = args.access.usage_log.as_ref().map(|path| {
        let opened = UsageLog::open(path, args.access.usage_log_max_size.0 as u64);
        opened.with_context(|| format!("--usage-log {}", path.display()))
    });
    let usage = usage.transpose()?;
    if let Some(path) = &args.access.keys {
        keys_watch::watch(path.clone(), Arc::clone(&tenancy))?;
    }
    let state = AppState::new(config, Metrics::new(), tenancy, usage);
    let (signals, mut causes) = mpsc::channel(2);
    let failures = signals.clone();
    watch_signals(signals)?;
    let timeout = Duration::from_secs(args.shutdown_timeout);
    spawn_engine(args, Arc::clone(&state), address, failures)?;

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
    failures: mpsc::Sender<Cause>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let work = move || {
        let failure = match load::load(&args, &state) {
            Ok(loaded) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!("{} on http://{address}, ready in {seconds:.1} s", loaded.summary);
                let join = loaded.engine.join();
                join.err().map(|_| anyhow::anyhow!("the engine died of a bug; its panic is above"))
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

fn watch_signals(causes: mpsc::Sender<Cause>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if causes.send(Cause::Signal).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

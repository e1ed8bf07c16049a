//! From an open listener to the last closed connection: accept, drain, abort, close.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::ServiceExt;

use super::admin::guard::Peer;
use super::lifecycle::Phase;
use super::router::router;
use super::state::AppState;

/// Between two foldings of recorded samples.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// For the last bytes of answers and for idle connections, after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Before the next try where no connection can be accepted, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every running request was answered to its end.
    Completely,
    /// This many requests were still running after the timeout, or at the call to abort.
    Aborted(usize),
}

/// Serves `state` on `listener` until `shutdown` resolves and the drain is over.
///
/// From `shutdown` on, `/ready` and new inference requests are answered with 503 on connections
/// that are accepted as before, and running requests have `shutdown_timeout` to finish. After it,
/// or once `abort` resolves, they are ended: a stream gets an error event and `[DONE]`.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AppState>,
    shutdown: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
    shutdown_timeout: Duration,
) -> Drained {
    let mut connections = Connections::new(&state);
    let mut upkeep = interval(METRICS_UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut end = pin!(async {
        shutdown.await;
        drain(&state, abort, shutdown_timeout).await
    });
    let drained = loop {
        tokio::select! {
            biased;
            drained = &mut end => break drained,
            _ = upkeep.tick() => state.metrics.upkeep(),
            Some(_) = connections.tasks.join_next() => {}
            stream = accept(&listener, &connections.places) => connections.spawn(stream),
        }
    };
    drop(listener);
    connections.close().await;
    drained
}

async fn drain(
    state: &AppState,
    abort: impl Future<Output = ()>,
    shutdown_timeout: Duration,
) -> Drained {
    let lifecycle = &state.lifecycle;
    lifecycle.advance(Phase::Draining);
    tracing::info!(running = lifecycle.running(), "draining");
    let drained = tokio::select! {
        biased;
        () = lifecycle.idle() => Drained::Completely,
        () = abort => Drained::Aborted(lifecycle.running()),
        () = sleep(shutdown_timeout) => Drained::Aborted(lifecycle.running()),
    };
    lifecycle.advance(Phase::Aborting);
    // Each running request sees it at its next poll; a client that does not read cannot hold us.
    let _ = timeout(CLOSE_TIMEOUT, lifecycle.idle()).await;
    drained
}

/// A connection and its place among the open ones.
type Accepted = (TcpStream, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Accepted {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The open connections.
struct Connections {
    service: Router,
    http: http1::Builder,
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
}

impl Connections {
    fn new(state: &Arc<AppState>) -> Self {
        let config = &state.config;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_header_size(config.max_header_bytes);
        Self {
            service: router(Arc::clone(state)),
            http,
            graceful: GracefulShutdown::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(config.max_connections.max(1))),
        }
    }

    fn spawn(&mut self, (stream, place): Accepted) {
        // Tokens are small writes that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok().map(Peer);
        let service = self.service.clone().map_request(move |mut request: Request<Incoming>| {
            peer.and_then(|peer| request.extensions_mut().insert(peer));
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    /// Lets answers that are being written end, then closes what is left.
    async fn close(mut self) {
        let _ = timeout(CLOSE_TIMEOUT, self.graceful.shutdown()).await;
        self.tasks.shutdown().await;
    }
}

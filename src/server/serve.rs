//! From an open listener to the last closed connection: accept, drain, abort, close.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::ServiceExt;

use super::admin::guard::Peer;
use super::idle::OpenConnections;
use super::lifecycle::Phase;
use super::router::router;
use super::stall::Stall;
use super::state::AppState;

/// Between two foldings of recorded samples.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// For the last bytes of answers and for idle connections, after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are taken before those whose places they get have been closed.
const NEWCOMERS: usize = 64;
/// What the protocol's reader works in at least.
const MIN_BUFFER: usize = 64 << 10;
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
            Some(ended) = connections.tasks.join_next() => connections.ended(ended),
            stream = accept(&listener), if connections.have_room() => connections.spawn(stream),
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

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
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
    /// Each returns its number.
    tasks: JoinSet<u64>,
    open: OpenConnections,
    max: usize,
    write_timeout: Duration,
}

impl Connections {
    fn new(state: &Arc<AppState>) -> Self {
        let config = &state.config;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_header_size(config.max_header_bytes)
            // What is read ahead of a connection, requests that wait behind others included.
            .max_buf_size(config.max_header_bytes.max(MIN_BUFFER));
        Self {
            service: router(Arc::clone(state)),
            http,
            graceful: GracefulShutdown::new(),
            tasks: JoinSet::new(),
            open: OpenConnections::default(),
            max: config.max_connections.max(1),
            write_timeout: config.write_timeout,
        }
    }

    /// Whether one more may come: in the place of an idle one, if there are as many as there may be.
    fn have_room(&self) -> bool {
        self.tasks.len() < self.max + NEWCOMERS
    }

    fn spawn(&mut self, stream: TcpStream) {
        let (number, activity) = self.open.add();
        if self.open.count() > self.max {
            self.open.dismiss_idle(number);
        }
        // Tokens are small writes that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok().map(Peer);
        let (router, on) = (self.service.clone(), Arc::clone(&activity));
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            peer.and_then(|peer| request.extensions_mut().insert(peer));
            let (open, answer) = (on.request(), router.clone().oneshot(request.map(Body::new)));
            async move {
                answer.await.map(|answer: Response| answer.map(|body| open.until_written(body)))
            }
        });
        let service = TowerToHyperService::new(service);
        let stream = TokioIo::new(Stall::new(stream, self.write_timeout));
        let connection = self.graceful.watch(self.http.serve_connection(stream, service));
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = activity.dismissed() => {
                    tracing::debug!("an idle connection made room for another");
                }
            }
            number
        });
    }

    fn ended(&mut self, ended: Result<u64, JoinError>) {
        match ended {
            Ok(number) => self.open.remove(number),
            // Handlers that panic are caught; nothing else on a connection may.
            Err(error) => tracing::error!(%error, "bug: a connection panicked"),
        }
    }

    /// Lets answers that are being written end, then closes what is left.
    async fn close(mut self) {
        let _ = timeout(CLOSE_TIMEOUT, self.graceful.shutdown()).await;
        self.tasks.shutdown().await;
    }
}

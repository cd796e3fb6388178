//! The HTTP server of every service: HTTP/1.1 with a time for everything that others decide the pace of.

use super::connection::{Answer, Connection, Shared, TimedBody};
use super::draining;
use super::rate::Peer;
use crate::metrics::{self, Measure, Service};
use crate::shares::Shares;
use crate::trace::Tracer;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower_service::Service as _;

/// How long a connection may take for what (contract sts §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// For the head of a request, from its first byte.
    pub header_read: Duration,
    /// For the body of a request, from the moment that it is waited for.
    pub body_read: Duration,
    /// For the other side to take what is written.
    pub write: Duration,
    /// Before a request, the first one as well. Whoever keeps connections to a service has to end an idle one earlier
    /// than this, or a request may meet its end.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(5),
            body_read: Duration::from_secs(5),
            write: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        }
    }
}

/// The bounds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// How long a connection may take.
    pub connection: ConnectionLimits,
    /// The longest head, request line included, in bytes.
    pub header_bytes: usize,
    /// Open connections. Whoever comes next waits in the listener's queue until one ends.
    pub connections: usize,
    /// Open connections of one address ([`Peer`]). One that is too many is ended at once, and counted.
    pub connections_per_address: usize,
    /// How long requests that are under way may take when the server is told to stop.
    pub shutdown: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connection: ConnectionLimits::default(),
            header_bytes: 16 * 1024,
            // An idle connection holds a few kilobytes and one file descriptor.
            connections: 4096,
            connections_per_address: 2048,
            shutdown: Duration::from_secs(10),
        }
    }
}

/// A server that was not told to stop yet.
#[derive(Debug, Clone)]
pub struct Server {
    own: Own,
    tracer: Option<Tracer>,
}

/// What every connection of a server knows of it.
#[derive(Debug, Clone, Copy)]
struct Own {
    service: Service,
    limits: ServerLimits,
}

impl Server {
    /// A server of `service` with the default limits.
    #[must_use]
    pub fn new(service: Service) -> Self {
        Self { own: Own { service, limits: ServerLimits::default() }, tracer: None }
    }

    /// The server with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: ServerLimits) -> Self {
        self.own.limits = limits;
        self
    }

    /// The server with somebody who records its requests.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Option<Tracer>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Serves until `stop` resolves, then lets requests that are under way finish, for as long as the limits say. Until
    /// they have, whoever comes is told that the service is draining.
    ///
    /// A handler finds the other side's address as [`ConnectInfo<SocketAddr>`]. One that panics answers 500
    /// `internal_error`.
    pub async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let _ = listener.local_addr()?;
        let Self { own, tracer } = self;
        let router = router.layer(Measure { service: own.service, tracer });
        let places = Arc::new(Semaphore::new(own.limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
        let addresses = Shares::default();
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&listener, &places) => accepted,
                // Tasks that have ended are forgotten as they end.
                Some(_) = connections.join_next() => continue,
            };
            let (socket, peer, place) = accepted;
            let Some(share) = addresses.take(&Peer::from(peer.ip()), own.limits.connections_per_address)
            else {
                metrics::connection_ended(own.service, "address");
                continue;
            };
            let one = own.connection(socket, peer, router.clone(), graceful.watcher());
            connections.spawn(async move {
                one.await;
                drop((place, share));
            });
        }
        let finish = async {
            graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        tokio::select! {
            finished = tokio::time::timeout(own.limits.shutdown, finish) => if finished.is_err() {
                tracing::warn!(service = own.service.as_str(), "requests were cut off by the end of the server");
            },
            never = own.send_away(&listener, &places) => match never {},
        }
        Ok(())
    }
}

impl Own {
    /// Tells everyone who comes that the service is draining, for as long as it is polled.
    async fn send_away(self, listener: &TcpListener, places: &Arc<Semaphore>) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                (socket, _, place) = accept(listener, places) => {
                    connections.spawn(async move {
                        draining::answer(self.service, socket, self.limits.connection.header_read).await;
                        drop(place);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn connection(
        self,
        socket: TcpStream,
        peer: SocketAddr,
        router: Router,
        watcher: hyper_util::server::graceful::Watcher,
    ) -> impl Future<Output = ()> + Send {
        let limits = self.limits.connection;
        let shared = Arc::new(Shared::default());
        let io = Connection::new(socket, limits, Arc::clone(&shared));
        let service = {
            let shared = Arc::clone(&shared);
            service_fn(move |request| {
                let serving = shared.serve();
                let answer = self.answer(request, peer, router.clone());
                async move { Ok::<_, Infallible>(answer.await.map(|body| Answer::new(body, serving))) }
            })
        };
        // The times are the connection's own: hyper's does not tell a head that comes slowly from an idle connection.
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(self.limits.header_bytes)
            .serve_connection(io, service);
        async move {
            let open = metrics::connections(self.service);
            if let Some(open) = &open {
                open.inc();
            }
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
            if let Some(cut) = shared.cut() {
                metrics::connection_ended(self.service, cut.as_str());
            }
            if let Some(open) = &open {
                open.dec();
            }
        }
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
        peer: SocketAddr,
        mut router: Router,
    ) -> Response {
        let mut request = request.map(|body| TimedBody::new(body, self.limits.connection.body_read));
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut answer = pin!(router.call(request));
        let outcome =
            poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
                Ok(poll) => poll.map(Some),
                Err(_) => Poll::Ready(None),
            })
            .await;
        match outcome {
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
            None => {
                tracing::error!(service = self.service.as_str(), "a handler panicked");
                metrics::panicked(self.service);
                let body = serde_json::json!({ "error": "internal_error" });
                (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(body)).into_response()
            }
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                // Answers are small and written at once: there is nothing to gather.
                let _ = socket.set_nodelay(true);
                return (socket, peer, place);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                // Such as no free file descriptor: others have to end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

//! The doors, and what stands behind them: a Unix socket for this machine, mutual TLS for others.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroU16;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;
use caracal_store::shares::Shares;
use caracal_store::{Store, StoreError};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;

use super::content::{Own, Snapshot};
use super::follow::Follower;
use super::names::Lookup;
use super::network::{Certified, NetworkListener};
use super::proto::METHOD;
use super::status::{Gateways, STATUS_PATH, Status};
use super::stream::{by_network, by_socket};
use super::translate::Rules;
use super::wire::WireError;
use crate::node::GatewayNode;
use crate::options::{BootstrapOptions, Shape};

/// How many streams may be open where nobody says otherwise ([`XdsOptions::max_streams`]).
pub const DEFAULT_MAX_STREAMS: NonZeroU16 = NonZeroU16::MIN.saturating_add(255);
/// Connections over the network for each stream that there may be: those whose end is not noticed yet need a place too.
const CONNECTIONS_PER_STREAM: usize = 4;
/// How often a silent connection is tried, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum XdsError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket cannot be used.
    #[error("{}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Only gateways are configured like this.
    #[error("a sidecar takes nothing from a control plane")]
    Sidecar,
    /// The listener cannot be written as Envoy reads it.
    #[error("the listener cannot be served: {0}")]
    Listener(String),
    /// The server ended.
    #[error("the server ended: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What a server needs.
#[derive(Debug)]
pub struct XdsOptions {
    /// Where resources stand.
    pub store: Store,
    /// The key that gateways' credentials come from.
    pub key: GatewayKey,
    /// What every gateway's listener is rendered from; its id is each gateway's own.
    pub template: BootstrapOptions,
    /// How names are looked up.
    pub lookup: Lookup,
    /// How many streams may be open at the same time, by whatever door. A gateway has one.
    pub max_streams: NonZeroU16,
}

/// The server.
pub struct XdsServer {
    shared: Arc<Shared>,
    follower: Follower,
    network: Option<NetworkListener>,
    ended: watch::Sender<bool>,
}

/// What all streams share.
pub(super) struct Shared {
    pub(super) key: GatewayKey,
    pub(super) template: BootstrapOptions,
    pub(super) store: Store,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) ended: watch::Receiver<bool>,
    pub(super) gateways: Gateways,
    pub(super) streams: Arc<Semaphore>,
    /// Connections over the network at the same time.
    connections: usize,
    /// The streams of those who showed a certificate.
    pub(super) certified: Shares<Certified>,
    /// The streams of gateways that introduced themselves.
    pub(super) introduced: Shares<GatewayId>,
}

/// Makes the socket, for its owner alone. One that a process left behind is taken away.
///
/// # Errors
/// [`XdsError::Socket`].
pub fn listen(path: &Path) -> Result<UnixListener, XdsError> {
    let failed = |source| XdsError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "is there, and no socket"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

impl XdsServer {
    /// Reads what there is to serve.
    ///
    /// # Errors
    /// Any [`XdsError`] but those of the socket.
    pub async fn new(options: XdsOptions) -> Result<Self, XdsError> {
        let Shape::Gateway(gateway) = &options.template.shape else { return Err(XdsError::Sidecar) };
        if gateway.control.is_none() {
            return Err(XdsError::Listener("its options name no control plane".to_owned()));
        }
        let rules =
            Rules { trusted_ca: gateway.trusted_ca.clone(), protected: options.template.protected.clone() };
        // What every gateway would stumble over is found now.
        let node = GatewayNode::new(options.template.gateway_id.clone());
        Own::of(&options.template, &node).map_err(unwritable)?;
        let zone = gateway.zone.clone();
        let (follower, snapshots) =
            Follower::begin(options.store.clone(), zone, rules, options.lookup).await?;
        let (ended, told) = watch::channel(false);
        let max_streams = usize::from(options.max_streams.get());
        let shared = Shared {
            key: options.key,
            template: options.template,
            store: options.store,
            snapshots,
            ended: told,
            gateways: Gateways::default(),
            streams: Arc::new(Semaphore::new(max_streams)),
            connections: max_streams.saturating_mul(CONNECTIONS_PER_STREAM),
            certified: Shares::default(),
            introduced: Shares::default(),
        };
        Ok(Self { shared: Arc::new(shared), follower, network: None, ended })
    }

    /// The server with a door for other machines.
    #[must_use]
    pub fn with_network(mut self, listener: NetworkListener) -> Self {
        self.network = Some(listener);
        self
    }

    /// Serves until `stop` resolves.
    ///
    /// # Errors
    /// [`XdsError::Transport`].
    pub async fn serve(
        self,
        listener: UnixListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), XdsError> {
        let Self { shared, follower, network, ended } = self;
        let stopping = async {
            stop.await;
            // Streams never end by themselves.
            ended.send_replace(true);
            std::future::pending::<Infallible>().await
        };
        let doors = async {
            tokio::try_join!(serve_socket(listener, &shared), async {
                match network {
                    Some(network) => serve_network(network, &shared).await,
                    None => Ok(()),
                }
            })
        };
        tokio::select! {
            served = doors => Ok(served.map(|_| ())?),
            () = follower.run() => Ok(()),
            never = stopping => match never {},
        }
    }
}

async fn serve_socket(listener: UnixListener, shared: &Arc<Shared>) -> Result<(), tonic::transport::Error> {
    let routes = Router::new()
        .route(METHOD, post(by_socket))
        .route(STATUS_PATH, get(status))
        .with_state(Arc::clone(shared));
    let incoming = UnixListenerStream::new(listener);
    let server = builder().accept_http1(true).add_routes(routes.into());
    server.serve_with_incoming_shutdown(incoming, ended(shared)).await
}

/// Streams alone: what operators are shown stays on the socket.
async fn serve_network(
    network: NetworkListener,
    shared: &Arc<Shared>,
) -> Result<(), tonic::transport::Error> {
    let routes = Router::new().route(METHOD, post(by_network)).with_state(Arc::clone(shared));
    let (connections, incoming) = mpsc::channel(1);
    let server = builder().add_routes(routes.into());
    tokio::select! {
        served = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), ended(shared)) => served,
        never = network.run(connections, shared.connections) => match never {},
    }
}

fn builder() -> Server {
    let (interval, timeout) = KEEPALIVE;
    Server::builder()
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .max_concurrent_streams(16)
}

/// Resolves when the server was told to stop.
fn ended(shared: &Shared) -> impl Future<Output = ()> + use<> {
    let mut ended = shared.ended.clone();
    async move {
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

fn unwritable(error: WireError) -> XdsError {
    XdsError::Listener(error.to_string())
}

/// Reads the state of a running server over its socket.
///
/// # Errors
/// Where nobody answers there, or nothing that can be read.
pub async fn read_status(socket: &Path) -> io::Result<Status> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!("GET {STATUS_PATH} HTTP/1.0\r\nhost: xds\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4 * 1024 * 1024).read_to_end(&mut answer).await?;
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at.saturating_add(4));
    let body = at.and_then(|at| answer.get(at..)).unwrap_or_default();
    serde_json::from_slice(body).map_err(io::Error::other)
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let snapshot = Arc::clone(&shared.snapshots.borrow());
    Json(shared.gateways.status(&snapshot))
}

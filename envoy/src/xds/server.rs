//! The socket, who may use it, and the streams.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::GatewayId;
use caracal_store::{Store, StoreError, metrics};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status as Refusal, Streaming};

use super::content::{Kind, Own, Snapshot};
use super::follow::Follower;
use super::names::Lookup;
use super::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, METHOD};
use super::session::{Said, Session};
use super::status::{Gateways, STATUS_PATH, Status};
use super::translate::Rules;
use super::wire::WireError;
use crate::control::{CREDENTIAL, SCHEME};
use crate::options::{BootstrapOptions, Shape};

/// Streams at the same time.
const MAX_STREAMS: usize = 64;
/// How long a stream may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// How often a silent connection is tried, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// The largest message of a gateway, in bytes: the names and versions of all it has.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

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
}

/// The server.
pub struct XdsServer {
    shared: Arc<Shared>,
    follower: Follower,
    ended: watch::Sender<bool>,
}

struct Shared {
    key: GatewayKey,
    template: BootstrapOptions,
    store: Store,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    ended: watch::Receiver<bool>,
    gateways: Gateways,
    streams: Arc<Semaphore>,
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
        Own::of(&options.template, &options.template.gateway_id).map_err(unwritable)?;
        let zone = gateway.zone.clone();
        let (follower, snapshots) =
            Follower::begin(options.store.clone(), zone, rules, options.lookup).await?;
        let (ended, told) = watch::channel(false);
        let shared = Shared {
            key: options.key,
            template: options.template,
            store: options.store,
            snapshots,
            ended: told,
            gateways: Gateways::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        };
        Ok(Self { shared: Arc::new(shared), follower, ended })
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
        let Self { shared, follower, ended } = self;
        let routes = Router::new()
            .route(METHOD, post(stream))
            .route(STATUS_PATH, get(status))
            .with_state(Arc::clone(&shared));
        let stop = async {
            stop.await;
            // Streams never end by themselves.
            ended.send_replace(true);
        };
        let (interval, timeout) = KEEPALIVE;
        let serving = tonic::transport::Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(interval))
            .http2_keepalive_timeout(Some(timeout))
            .max_concurrent_streams(16)
            .add_routes(routes.into())
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop);
        tokio::select! {
            served = serving => Ok(served?),
            () = follower.run() => Ok(()),
        }
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

async fn stream(State(shared): State<Arc<Shared>>, request: HttpRequest) -> http::Response<Body> {
    let codec = tonic_prost::ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
    let accept = tower::service_fn(move |request| accept(Arc::clone(&shared), request));
    let answer = tonic::server::Grpc::new(codec)
        .max_decoding_message_size(MAX_MESSAGE)
        .streaming(accept, request)
        .await;
    answer.map(Body::new)
}

type Answers = ReceiverStream<Result<DeltaDiscoveryResponse, Refusal>>;

async fn accept(
    shared: Arc<Shared>,
    request: Request<Streaming<DeltaDiscoveryRequest>>,
) -> Result<Response<Answers>, Refusal> {
    let credential = credential(request.metadata()).map_err(refuse)?;
    let permit = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| refuse(Refused::TooMany))?;
    // One answer of each type can be under way.
    let (answers, answered) = mpsc::channel(2 * Kind::ALL.len());
    tokio::spawn(converse(shared, credential, request.into_inner(), answers, permit));
    Ok(Response::new(ReceiverStream::new(answered)))
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug)]
enum Refused {
    NoCredential,
    NoGateway,
    TooMany,
    WrongCredential,
}

fn refuse(why: Refused) -> Refusal {
    let (reason, refusal) = match why {
        Refused::NoCredential => ("no_credential", Refusal::unauthenticated("no credential")),
        Refused::NoGateway => ("no_gateway", Refusal::invalid_argument("the node's id is no gateway's id")),
        Refused::TooMany => ("too_many", Refusal::resource_exhausted("too many streams")),
        Refused::WrongCredential => {
            ("wrong_credential", Refusal::unauthenticated("the credential is not this gateway's"))
        }
    };
    metrics::configuration_stream_refused(reason);
    tracing::warn!(reason, "a stream for the configuration of a gateway is refused");
    refusal
}

fn credential(metadata: &MetadataMap) -> Result<String, Refused> {
    let mut values = metadata.get_all(CREDENTIAL).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Refused::NoCredential) };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix(SCHEME));
    text.map(str::to_owned).ok_or(Refused::NoCredential)
}

/// A stream, from the first message to the last.
async fn converse(
    shared: Arc<Shared>,
    credential: String,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Refusal>>,
    _permit: OwnedSemaphorePermit,
) {
    let Ok(Ok(Some(first))) = tokio::time::timeout(INTRODUCTION, requests.message()).await else { return };
    let introduced = introduce(&shared, &credential, &first);
    let (gateway, own) = match introduced {
        Ok(introduced) => introduced,
        Err(refusal) => {
            let _ = answers.send(Err(refusal)).await;
            return;
        }
    };
    let connected = Connected::new(&shared, gateway);
    let mut talk = Talk { connected, own, session: Session::default(), answers };
    talk.hear(&first);
    let mut snapshots = shared.snapshots.clone();
    let mut ended = shared.ended.clone();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        if talk.say(&snapshot).await.is_err() {
            return;
        }
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => talk.hear(&request),
                Ok(None) | Err(_) => return,
            },
            changed = snapshots.changed() => if changed.is_err() {
                return;
            },
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

fn introduce(
    shared: &Shared,
    credential: &str,
    first: &DeltaDiscoveryRequest,
) -> Result<(GatewayId, Own), Refusal> {
    let node = first.node.as_ref().ok_or_else(|| refuse(Refused::NoGateway))?;
    let gateway = GatewayId::new(node.id.as_str()).map_err(|_| refuse(Refused::NoGateway))?;
    if !shared.key.verify_configuration_credential(&gateway, credential) {
        return Err(refuse(Refused::WrongCredential));
    }
    let own = Own::of(&shared.template, &gateway).map_err(|error| {
        tracing::error!(%error, "the listener cannot be written as Envoy reads it");
        Refusal::internal("the listener cannot be served")
    })?;
    Ok((gateway, own))
}

/// A gateway that is counted as connected for as long as this lives.
struct Connected {
    shared: Arc<Shared>,
    gateway: GatewayId,
}

impl Connected {
    fn new(shared: &Arc<Shared>, gateway: GatewayId) -> Self {
        tracing::info!(%gateway, "a gateway follows the configuration");
        shared.gateways.connected(&gateway);
        metrics::configuration_streams(1);
        Self { shared: Arc::clone(shared), gateway }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        tracing::info!(gateway = %self.gateway, "a gateway stopped following the configuration");
        self.shared.gateways.gone(&self.gateway);
        metrics::configuration_streams(-1);
    }
}

struct Talk {
    connected: Connected,
    own: Own,
    session: Session,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Refusal>>,
}

impl Talk {
    fn hear(&mut self, request: &DeltaDiscoveryRequest) {
        let (gateways, gateway) = (&self.connected.shared.gateways, &self.connected.gateway);
        let Some(kind) = Kind::of(&request.type_url) else {
            tracing::warn!(%gateway, type_url = request.type_url, "a gateway wants a type that is not served");
            return;
        };
        match self.session.hear(kind, request) {
            Said::Accepted => gateways.accepted(gateway, kind),
            Said::Rejected(message) => {
                metrics::configuration_rejected(kind.as_str());
                tracing::error!(%gateway, kind = kind.as_str(), message, "a gateway rejected a configuration");
                gateways.rejected(gateway, kind, &message, self.connected.shared.store.now());
            }
            Said::Wants => {}
        }
    }

    /// Says what there is to say; `Err` where nobody listens any more.
    async fn say(&mut self, snapshot: &Snapshot) -> Result<(), ()> {
        for kind in Kind::ALL {
            let Some(answer) = self.session.say(kind, self.own.pieces(snapshot, kind)) else { continue };
            metrics::configuration_pushed(kind.as_str());
            self.answers.send(Ok(answer)).await.map_err(|_| ())?;
        }
        if self.session.settled() {
            self.connected.shared.gateways.settled(&self.connected.gateway, &snapshot.version);
        }
        Ok(())
    }
}

//! One gateway's stream: who may open one, and what is said on it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use caracal_mandate::id::GatewayId;
use caracal_store::metrics;
use caracal_store::shares::Share;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status as Refusal, Streaming};

use super::content::{Kind, Own, Snapshot};
use super::network::{Certified, PER_GATEWAY, Peer, may_have};
use super::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use super::server::Shared;
use super::session::{Said, Session};
use crate::control::{CREDENTIAL, SCHEME};
use crate::node::{GatewayNode, NodeError};

/// How long a stream may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// The largest message of a gateway, in bytes: the names and versions of all it has.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// By which door a stream came.
#[derive(Clone, Debug)]
enum Door {
    /// By mutual TLS: the certificate has to name the gateway.
    Network(Peer),
    /// By the socket, which the owner of this process alone can open.
    Socket,
}

impl Door {
    fn admits(&self, gateway: &GatewayId) -> bool {
        match self {
            Self::Network(peer) => peer.may_be(gateway),
            Self::Socket => true,
        }
    }

    fn introduced(&self) {
        match self {
            Self::Network(peer) => peer.introduced(),
            Self::Socket => {}
        }
    }
}

/// A stream over the socket.
pub(super) async fn by_socket(
    State(shared): State<Arc<Shared>>,
    request: HttpRequest,
) -> http::Response<Body> {
    stream(shared, Door::Socket, request).await
}

/// A stream over the network.
pub(super) async fn by_network(
    State(shared): State<Arc<Shared>>,
    request: HttpRequest,
) -> http::Response<Body> {
    // A peer that nothing is known of is nobody.
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    stream(shared, Door::Network(peer), request).await
}

async fn stream(shared: Arc<Shared>, door: Door, request: HttpRequest) -> http::Response<Body> {
    let codec = tonic_prost::ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
    let accept = tower::service_fn(move |request| accept(Arc::clone(&shared), door.clone(), request));
    let answer = tonic::server::Grpc::new(codec)
        .max_decoding_message_size(MAX_MESSAGE)
        .streaming(accept, request)
        .await;
    answer.map(Body::new)
}

type Answers = ReceiverStream<Result<DeltaDiscoveryResponse, Refusal>>;

async fn accept(
    shared: Arc<Shared>,
    door: Door,
    request: Request<Streaming<DeltaDiscoveryRequest>>,
) -> Result<Response<Answers>, Refusal> {
    let credential = credential(request.metadata()).map_err(refuse)?;
    let place = Place::take(&shared, &door).map_err(refuse)?;
    // One answer of each type can be under way.
    let (answers, answered) = mpsc::channel(2 * Kind::ALL.len());
    let caller = Caller { door, credential };
    tokio::spawn(converse(shared, caller, request.into_inner(), answers, place));
    Ok(Response::new(ReceiverStream::new(answered)))
}

/// What a stream takes up while it lives.
struct Place {
    _of_all: OwnedSemaphorePermit,
    /// Of those that its certificate may have, where it showed one: what holds before it said who it is.
    _of_certificate: Option<Share<Certified>>,
}

impl Place {
    fn take(shared: &Shared, door: &Door) -> Result<Self, Refused> {
        let of_certificate = match door {
            Door::Network(peer) => {
                let certified = peer.certified();
                let share = shared.certified.take(certified, may_have(certified));
                Some(share.ok_or(Refused::TooManyOfGateway)?)
            }
            Door::Socket => None,
        };
        let of_all = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| Refused::TooMany)?;
        Ok(Self { _of_all: of_all, _of_certificate: of_certificate })
    }
}

/// What is known of a caller before its first message.
struct Caller {
    door: Door,
    credential: String,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug)]
enum Refused {
    BadMetadata(NodeError),
    NoCredential,
    NoGateway(NodeError),
    TooMany,
    TooManyOfGateway,
    WrongCertificate,
    WrongCredential,
}

fn refuse(why: Refused) -> Refusal {
    let (reason, refusal) = match why {
        Refused::NoCredential => ("no_credential", Refusal::unauthenticated("no credential")),
        Refused::BadMetadata(error) => ("bad_metadata", Refusal::invalid_argument(error.to_string())),
        Refused::NoGateway(error) => ("no_gateway", Refusal::invalid_argument(error.to_string())),
        Refused::TooMany => ("too_many", Refusal::resource_exhausted("too many streams")),
        Refused::TooManyOfGateway => {
            ("too_many_of_gateway", Refusal::resource_exhausted("too many streams of this gateway"))
        }
        Refused::WrongCertificate => {
            ("wrong_certificate", Refusal::unauthenticated("the certificate does not name this gateway"))
        }
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
    caller: Caller,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Refusal>>,
    _place: Place,
) {
    let Ok(Ok(Some(first))) = tokio::time::timeout(INTRODUCTION, requests.message()).await else { return };
    let introduced = introduce(&shared, &caller, &first);
    let Introduced { gateway, own, _share } = match introduced {
        Ok(introduced) => introduced,
        Err(refusal) => {
            let _ = answers.send(Err(refusal)).await;
            return;
        }
    };
    caller.door.introduced();
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

/// A gateway that said who it is, and may be.
struct Introduced {
    gateway: GatewayId,
    own: Own,
    _share: Share<GatewayId>,
}

fn introduce(shared: &Shared, caller: &Caller, first: &DeltaDiscoveryRequest) -> Result<Introduced, Refusal> {
    let node = first.node.as_ref().ok_or_else(|| refuse(Refused::NoGateway(NodeError::Id)))?;
    let node = GatewayNode::parse(node).map_err(|error| {
        refuse(match error {
            NodeError::Id => Refused::NoGateway(error),
            NodeError::Metadata(_) => Refused::BadMetadata(error),
        })
    })?;
    if !caller.door.admits(&node.id) {
        return Err(refuse(Refused::WrongCertificate));
    }
    if !shared.key.verify_configuration_credential(&node.id, &caller.credential) {
        return Err(refuse(Refused::WrongCredential));
    }
    let share = shared.introduced.take(&node.id, PER_GATEWAY);
    let share = share.ok_or_else(|| refuse(Refused::TooManyOfGateway))?;
    let own = Own::of(&shared.template, &node).map_err(|error| {
        tracing::error!(%error, "the listener cannot be written as Envoy reads it");
        Refusal::internal("the listener cannot be served")
    })?;
    Ok(Introduced { gateway: node.id, own, _share: share })
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

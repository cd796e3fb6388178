//! A store, a server on it, and a gateway that speaks the protocol.

use axum::body::Body;
use caracal_envoy::xds::proto::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, ErrorDetail, METHOD, Node, Resource,
};
use caracal_envoy::xds::{
    DEFAULT_MAX_STREAMS, Lookup, NetworkFiles, NetworkListener, Status, XdsError, XdsOptions, XdsServer,
    listen, read_status,
};
use caracal_envoy::{BootstrapOptions, ControlCredential, ControlPlace, ControlPlane, GatewayOptions, Shape};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::{GatewayId, ZoneId};
use caracal_store::change::Change;
use caracal_store::metrics::{Access, Exposition, Service};
use caracal_store::{Store, StoreError};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status as Refusal, Streaming};
use tower::ServiceExt as _;

pub(crate) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_secs(30);

fn key() -> GatewayKey {
    GatewayKey::from_hex(&"ab".repeat(32)).unwrap()
}

pub(crate) struct World {
    dir: TempDir,
    store: Store,
    network: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), XdsError>>,
}

impl World {
    pub(crate) async fn start(lookup: Lookup) -> Self {
        Self::start_for(None, lookup).await
    }

    /// The same with a door for other machines.
    pub(crate) async fn start_on_network(lookup: Lookup, files: NetworkFiles) -> Self {
        let (dir, store) = Self::prepare().await;
        Self::serve(dir, store, None, lookup, Some(files), DEFAULT_MAX_STREAMS).await
    }

    /// The same for gateways of one zone.
    pub(crate) async fn start_for(zone: Option<&str>, lookup: Lookup) -> Self {
        let (dir, store) = Self::prepare().await;
        Self::serve(dir, store, zone, lookup, None, DEFAULT_MAX_STREAMS).await
    }

    /// The same for so many streams at the same time.
    pub(crate) async fn start_for_streams(max_streams: NonZeroU16, lookup: Lookup) -> Self {
        let (dir, store) = Self::prepare().await;
        Self::serve(dir, store, None, lookup, None, max_streams).await
    }

    async fn prepare() -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
        execute(
            &store,
            vec![
                "INSERT INTO zones (id, name, slug, created_at, updated_at) VALUES ('z1', 'z1', 'z1', 0, 0)"
                    .into(),
                "INSERT INTO providers (id, zone_id, name, identifier, kind, created_at, updated_at) \
                 VALUES ('p1', 'z1', 'p1', 'p1', 'caracal_mandate', 0, 0)"
                    .into(),
            ],
            Change::Zone,
        )
        .await;
        (dir, store)
    }

    async fn serve(
        dir: TempDir,
        store: Store,
        zone: Option<&str>,
        lookup: Lookup,
        files: Option<NetworkFiles>,
        max_streams: NonZeroU16,
    ) -> Self {
        let socket = dir.path().join("xds.sock");
        let id = GatewayId::new("template").unwrap();
        let control = ControlPlane {
            place: ControlPlace::Socket(socket.clone()),
            credential: ControlCredential::new(""),
        };
        let gateway = GatewayOptions {
            zone: zone.map(|zone| ZoneId::new(zone).unwrap()),
            control: Some(control),
            ..GatewayOptions::default()
        };
        let template = BootstrapOptions::new(id, Shape::Gateway(gateway), "/opt/filter.wasm".into());
        let options = XdsOptions { store: store.clone(), key: key(), template, lookup, max_streams };
        let mut server = XdsServer::new(options).await.unwrap();
        let mut network = None;
        if let Some(files) = files {
            let listener = NetworkListener::bind("127.0.0.1:0".parse().unwrap(), files).await.unwrap();
            network = Some(listener.address());
            server = server.with_network(listener);
        }
        let listener = listen(&socket).unwrap();
        let (stop, told) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(listener, async {
            let _ = told.await;
        }));
        Self { dir, store, network, stop, served }
    }

    /// Ends the server, which has to end all streams, and starts another on the same store.
    pub(crate) async fn restart(self, lookup: Lookup) -> Self {
        let Self { dir, store, stop, served, .. } = self;
        end(stop, served).await;
        Self::serve(dir, store, None, lookup, None, DEFAULT_MAX_STREAMS).await
    }

    pub(crate) async fn stop(self) {
        end(self.stop, self.served).await;
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("xds.sock")
    }

    /// Where it listens for other machines.
    pub(crate) fn network(&self) -> SocketAddr {
        self.network.unwrap()
    }

    pub(crate) fn credential(&self, gateway: &str) -> String {
        key().configuration_credential(&GatewayId::new(gateway).unwrap())
    }

    pub(crate) async fn status(&self) -> Status {
        read_status(&self.socket()).await.unwrap()
    }

    /// How many streams, and connections, this process refused for this reason.
    pub(crate) async fn refusals(&self, reason: &str) -> u64 {
        let exposition = Exposition::new(Service::Admin, self.store.clone(), Access::Open);
        let request = http::Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = exposition.routes().oneshot(request).await.unwrap();
        let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let sample = format!("caracal_xds_refused_streams_total{{reason=\"{reason}\"}} ");
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines().find_map(|line| line.strip_prefix(&sample)).map_or(0, |count| count.parse().unwrap())
    }

    pub(crate) async fn until(&self, holds: impl Fn(&Status) -> bool) -> Status {
        let waiting = async {
            loop {
                let status = self.status().await;
                if holds(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the status stays another")
    }

    pub(crate) async fn put(&self, id: &str, url: &str) {
        let sql = format!(
            "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, created_at, updated_at) \
             VALUES ('{id}', 'z1', '{id}', 'resource://{id}', '{url}', 'p1', 0, 0) \
             ON CONFLICT (id) DO UPDATE SET upstream_url = excluded.upstream_url"
        );
        execute(&self.store, vec![sql], Change::Resource { id: id.to_owned() }).await;
    }

    /// Puts the first resource, and waits until gateways that come are told of it.
    pub(crate) async fn put_and_serve(&self, id: &str, url: &str) {
        self.put(id, url).await;
        self.until(|status| status.resources == 1).await;
    }

    pub(crate) async fn put_many(&self, count: usize) {
        let row = |number: usize| {
            format!(
                "INSERT INTO resources (id, zone_id, name, identifier, upstream_url, credential_provider_id, created_at, updated_at) \
                 VALUES ('m{number}', 'z1', 'm', 'resource://m{number}', 'https://10.0.0.{}:{}', 'p1', 0, 0)",
                1 + number % 200,
                9_000 + number
            )
        };
        execute(&self.store, (0..count).map(row).collect(), Change::Resource { id: "m0".into() }).await;
    }

    pub(crate) async fn archive(&self, id: &str) {
        let sql = format!("UPDATE resources SET archived_at = 1 WHERE id = '{id}'");
        execute(&self.store, vec![sql], Change::ResourceGone { identifier: format!("resource://{id}") })
            .await;
    }

    pub(crate) async fn run(&self, sql: &str, change: Change) {
        execute(&self.store, vec![sql.to_owned()], change).await;
    }

    pub(crate) async fn change(&self, change: Change) {
        execute(&self.store, vec![], change).await;
    }
}

async fn end(stop: oneshot::Sender<()>, served: JoinHandle<Result<(), XdsError>>) {
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, served).await.expect("the server does not end").unwrap().unwrap();
}

async fn execute(store: &Store, statements: Vec<String>, change: Change) {
    let done: Result<(), StoreError> = store
        .write(move |tx| {
            Box::pin(async move {
                for sql in statements {
                    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx.connection()).await?;
                }
                tx.record_change(&ZoneId::new("z1").unwrap(), &change).await?;
                Ok(())
            })
        })
        .await;
    done.unwrap();
}

pub(crate) struct Gateway {
    id: String,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Gateway {
    pub(crate) async fn connect(world: &World, id: &str) -> Self {
        let credential = format!("Bearer {}", world.credential(id));
        Self::open(&world.socket(), id, Some(&credential)).await.unwrap()
    }

    /// Connects, has to be refused, and tells how.
    pub(crate) async fn refused(world: &World, id: &str, authorization: Option<&str>) -> Code {
        let mut gateway = match Self::open(&world.socket(), id, authorization).await {
            Ok(gateway) => gateway,
            Err(refusal) => return refusal.code(),
        };
        gateway.want(CLUSTER, &[]).await;
        gateway.answers.message().await.expect_err("it is told something").code()
    }

    async fn open(socket: &Path, id: &str, authorization: Option<&str>) -> Result<Self, Refusal> {
        Self::open_on(channel(socket).await, id, authorization).await
    }

    pub(crate) async fn open_on(
        channel: Channel,
        id: &str,
        authorization: Option<&str>,
    ) -> Result<Self, Refusal> {
        let (requests, sent) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(sent));
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(64 * 1024 * 1024);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let answers = client.streaming(request, path, codec).await?.into_inner();
        Ok(Self { id: id.to_owned(), requests, answers })
    }

    pub(crate) async fn want(&mut self, type_url: &str, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn want_having(&mut self, type_url: &str, had: &[Resource]) {
        let had = had.iter().map(|resource| (resource.name.clone(), resource.version.clone()));
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            initial_resource_versions: had.collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = Some(Node { id: self.id.clone(), ..Node::default() });
        let _ = self.requests.send(request).await;
    }

    /// The end of the stream, before anything is said.
    pub(crate) async fn end(&mut self) -> Option<Code> {
        match tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("the stream goes on") {
            Ok(None) => None,
            Ok(Some(_)) => panic!("it is told something"),
            Err(refusal) => Some(refusal.code()),
        }
    }

    /// The next answer, not answered to.
    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        answer.expect("nothing is said").unwrap().expect("the stream ended")
    }

    /// The next answer, taken: the names that came, and those that went.
    pub(crate) async fn taken(&mut self) -> (Vec<String>, Vec<String>) {
        let answer = self.next().await;
        self.send(DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
        (answer.resources.into_iter().map(|resource| resource.name).collect(), answer.removed_resources)
    }

    pub(crate) async fn reject(&mut self, answer: &DeltaDiscoveryResponse, message: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            error_detail: Some(ErrorDetail { code: 13, message: message.to_owned() }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Whether nothing is said for so long.
    pub(crate) async fn silent(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.answers.message()).await.is_err()
    }
}

async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://xds").connect_with_connector(connect).await.unwrap()
}

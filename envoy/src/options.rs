//! What a bootstrap is rendered from.

use std::fmt;
use std::path::PathBuf;

use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};

/// A host and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port. 0 lets the system choose, where something listens.
    pub port: u16,
}

impl Endpoint {
    /// From host and port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// A port on the loopback interface.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self::new("127.0.0.1", port)
    }
}

/// Where Envoy's administration listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admin {
    /// A port; keep it on the loopback interface. Port 0 lets the system choose; `--admin-address-path` then tells.
    Port(Endpoint),
    /// A Unix socket that only its owner can open: no upstream that a tenant names can lead there.
    Socket(PathBuf),
}

/// What happens to requests while evidence cannot be delivered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnBacklog {
    /// They go on without evidence.
    Allow,
    /// They are refused.
    #[default]
    Deny,
}

/// Options of a gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GatewayOptions {
    /// The only zone that is served; `None` for all.
    pub zone: Option<ZoneId>,
    /// The file with the certificates that upstreams are verified against.
    pub trusted_ca: PathBuf,
    /// Who gives this Envoy its listener, routes and clusters; `None` where all of it stands in the bootstrap.
    pub control: Option<ControlPlane>,
}

/// The server that an Envoy takes its configuration from (`caracal_envoy::xds`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlPlane {
    /// The Unix socket that it listens on.
    pub socket: PathBuf,
    /// What this Envoy shows it.
    pub credential: ControlCredential,
}

/// A gateway's credential at its control plane (`GatewayKey::configuration_credential`). Never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct ControlCredential(pub(crate) String);

impl ControlCredential {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for ControlCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlCredential(…)")
    }
}

impl Default for GatewayOptions {
    fn default() -> Self {
        let trusted_ca = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
        Self { zone: None, trusted_ca, control: None }
    }
}

/// Options of a sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SidecarOptions {
    /// The zone of the resource.
    pub zone: ZoneId,
    /// The resource that stands behind this Envoy.
    pub resource: ResourceIdentifier,
    /// Where it listens.
    pub upstream: Endpoint,
    /// Whether the mandate reaches it.
    pub forward_mandate: bool,
    /// Whether what would be refused passes, and is only counted and written down.
    pub dry_run: bool,
}

/// What the Envoy stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shape {
    /// In front of all resources: one-shot mandates, exchanged at the STS.
    Gateway(GatewayOptions),
    /// In front of one resource: mandates for it, decided locally.
    Sidecar(SidecarOptions),
}

/// How the filter follows the feed of the STS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FeedSource {
    /// One VM on the main thread polls for all workers.
    #[default]
    Singleton,
    /// Every worker polls for itself: for an Envoy whose bootstrap is not one's own, as under Istio.
    Workers,
}

/// Everything that a bootstrap is rendered from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BootstrapOptions {
    /// The gateway's id: how the STS and Audit know this Envoy.
    pub gateway_id: GatewayId,
    /// What the Envoy stands for.
    pub shape: Shape,
    /// Where callers connect. Port 0 lets the system choose; `/listeners?format=json` of the admin
    /// interface then tells.
    pub listener: Endpoint,
    /// Envoy's own administration. Whoever reaches it rules over this Envoy.
    pub admin: Admin,
    /// Where no upstream may be: the services behind the gateway, on this host.
    pub protected: Vec<Endpoint>,
    /// The STS.
    pub sts: Endpoint,
    /// The audit service.
    pub audit: Endpoint,
    /// The module's file.
    pub module: PathBuf,
    /// What happens while evidence cannot be delivered.
    pub on_backlog: OnBacklog,
    /// Events that a worker holds at most while they cannot be delivered.
    pub evidence_capacity: u32,
    /// How old the last successful poll of the feed may be, in milliseconds.
    pub max_feed_age_ms: u64,
    /// How long the STS may hold a poll of the feed back, in seconds. Keep it well below
    /// `max_feed_age_ms`.
    pub feed_wait_s: u64,
    /// The largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Whether the filter reads the bodies of MCP requests. Then a body that comes while the STS is asked is held in
    /// memory up to the buffer limit (1 MiB), and refused beyond it.
    pub mcp: bool,
    /// The protocols that requests may upgrade to, as `websocket`.
    pub upgrades: Vec<String>,
    /// Who polls the feed.
    pub feed: FeedSource,
    /// Where Envoy writes one line of JSON for each request: who acted, and what was decided, without path and query.
    pub access_log: Option<PathBuf>,
}

impl BootstrapOptions {
    /// Who gives this Envoy its configuration.
    #[must_use]
    pub fn control(&self) -> Option<&ControlPlane> {
        match &self.shape {
            Shape::Gateway(gateway) => gateway.control.as_ref(),
            Shape::Sidecar(_) => None,
        }
    }

    /// Options with the defaults of the contract: gateway on port 8081, STS on 8080, Audit on 9090, all
    /// on the loopback interface.
    #[must_use]
    pub fn new(gateway_id: GatewayId, shape: Shape, module: PathBuf) -> Self {
        Self {
            gateway_id,
            shape,
            listener: Endpoint::loopback(8081),
            admin: Admin::Port(Endpoint::loopback(0)),
            protected: Vec::new(),
            sts: Endpoint::loopback(8080),
            audit: Endpoint::loopback(9090),
            module,
            on_backlog: OnBacklog::default(),
            evidence_capacity: 1_000,
            max_feed_age_ms: 30_000,
            feed_wait_s: 10,
            max_body_bytes: 10 * 1024 * 1024,
            mcp: false,
            upgrades: Vec::new(),
            feed: FeedSource::default(),
            access_log: None,
        }
    }
}

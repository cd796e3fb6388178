//! What a bootstrap is rendered from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

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

    /// Whether the host is an address, and no name.
    #[must_use]
    pub fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// A port on the loopback interface.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self::new("127.0.0.1", port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip().to_string(), address.port())
    }
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointError {
    /// The host is neither a name nor an address.
    #[error("the host is neither a name nor an address (IPv6 addresses stand in brackets)")]
    Host,
    /// The port is not between 1 and 65535, or missing.
    #[error("is no HOST:PORT")]
    Port,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::Port)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::Port)?;
        if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| EndpointError::Host)?;
            return Ok(Self::new(address.to_string(), port));
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !host.bytes().all(known) {
            return Err(EndpointError::Host);
        }
        Ok(Self::new(host, port))
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
    /// Where it is.
    pub place: ControlPlace,
    /// What this Envoy shows it.
    pub credential: ControlCredential,
}

/// Where a control plane is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ControlPlace {
    /// On another machine, by mutual TLS.
    Network(ControlNetwork),
    /// On this machine: a Unix socket that only its owner can open.
    Socket(PathBuf),
}

/// A control plane on another machine. The files are on Envoy's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlNetwork {
    /// Where it listens. Its certificate has to name this host.
    pub endpoint: Endpoint,
    /// The certificates that it is verified against.
    pub trusted_ca: PathBuf,
    /// The certificate that this Envoy shows; it has to name the gateway.
    pub certificate: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// Where Envoy is told of those files, so that it follows them.
    pub secrets: ControlSecrets,
}

/// Two small files that name the others ([`render_secrets`](crate::render_secrets)). Envoy reads what a bootstrap names
/// once, and what such a file names again whenever something is moved into its folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlSecrets {
    /// Names the certificates that the control plane is verified against.
    pub authority: PathBuf,
    /// Names the certificate that this Envoy shows, and its key.
    pub certificate: PathBuf,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_with_ports() {
        for (text, host, port) in [
            ("sts.example:8080", "sts.example", 8080),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[fd00::1]:65535", "fd00::1", 65_535),
        ] {
            assert_eq!(text.parse(), Ok(Endpoint::new(host, port)), "{text}");
        }
        for (text, error) in [
            ("", EndpointError::Port),
            ("sts.example", EndpointError::Port),
            ("sts.example:", EndpointError::Port),
            ("sts.example:0", EndpointError::Port),
            ("sts.example:65536", EndpointError::Port),
            (":8080", EndpointError::Host),
            ("fd00::1:8080", EndpointError::Host),
            ("[10.0.0.1]:8080", EndpointError::Host),
            ("http://sts:8080", EndpointError::Host),
            ("a b:8080", EndpointError::Host),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }
}

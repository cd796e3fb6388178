//! What changes in a request before it goes on, and in a response before it goes back
//! (contract gateway §A15 and §A16).

use caracal_mandate::header;
use caracal_mandate::path::{DecodedPath, escape_path, split_target, stays_as_it_is};
use caracal_mandate::upstream::{Scheme, UpstreamUrl};
use caracal_mandate::verdict::DenyReason;

use crate::config::{Clusters, Role};
use crate::exchange::Granted;
use crate::host::{Direction, Headers, Host};
use crate::known::Case;
use crate::request::upgrade;
use crate::root::Worker;

/// The header by which the route finds the cluster. Only the filter writes it: it is taken out of every
/// inbound request, and the route takes it out of what goes upstream.
pub const SELECTOR: &str = "x-caracal-upstream";

/// A request as it came in.
#[derive(Debug, Default)]
pub struct Inbound {
    headers: Headers,
    request_id: String,
    /// Empty until it is settled.
    traceparent: Vec<u8>,
}

impl Inbound {
    /// Reads all headers at once, because a lookup by name shows the first value only, and settles the
    /// request id. `None` without a random source.
    #[must_use]
    pub fn read(host: &dyn Host) -> Option<Self> {
        let mut inbound = Self { headers: host.headers(Direction::Request), ..Self::default() };
        let accepted = inbound.first("x-request-id").and_then(header::accepted_request_id).map(str::to_owned);
        inbound.request_id = match accepted {
            Some(request_id) => request_id,
            None => {
                let mut random = [0_u8; 16];
                if !host.random(&mut random) {
                    return None;
                }
                header::uuid_v4(random)
            }
        };
        Some(inbound)
    }

    /// The request's id, the caller's or ours.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Settles to which trace the request belongs: the caller's, or one that begins here. Without a random source it
    /// stays open.
    pub fn settle_trace(&mut self, host: &dyn Host) {
        if !self.traceparent.is_empty() {
            return;
        }
        let accepted = self.first("traceparent").filter(|value| header::valid_traceparent(value));
        self.traceparent = match accepted {
            Some(accepted) => accepted.to_vec(),
            None => {
                let mut random = [0_u8; 24];
                if !host.random(&mut random) {
                    return;
                }
                header::new_traceparent(random).into_bytes()
            }
        };
    }

    /// The request's `traceparent`; empty as long as it is not settled.
    #[must_use]
    pub fn traceparent(&self) -> &[u8] {
        &self.traceparent
    }

    /// The first value of a header.
    #[must_use]
    pub fn first(&self, name: &'static str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// All values of a header.
    #[must_use]
    pub fn all(&self, name: &'static str) -> Vec<&[u8]> {
        self.values(name).collect()
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers.values(name)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.first(":method").unwrap_or_default()
    }

    /// The raw path with its query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.first(":path").unwrap_or_default()
    }

    /// Whether the announced body is larger than allowed.
    pub(crate) fn too_large(&self, limit: u64) -> bool {
        self.values("content-length").any(|value| {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
            length.is_none_or(|length| length > limit)
        })
    }

    /// Whether the caller takes a stream of events.
    fn asks_for_events(&self) -> bool {
        let events = b"text/event-stream";
        self.first("accept").is_some_and(|value| value.windows(events.len()).any(|part| part == events))
    }

    fn names(&self) -> Vec<&[u8]> {
        distinct_names(&self.headers)
    }
}

/// Prepares a request for the service behind this filter.
///
/// # Errors
/// [`DenyReason::PayloadTooLarge`].
pub fn to_resource(worker: &Worker, inbound: &Inbound) -> Result<(), DenyReason> {
    if inbound.too_large(worker.config.max_body_bytes) {
        return Err(DenyReason::PayloadTooLarge);
    }
    let target = escaped_anew(inbound.path())?;
    let host = worker.host.as_ref();
    if let Some(protocol) = upgrade(&worker.config, inbound) {
        host.set_header(Direction::Request, "connection", b"upgrade");
        host.set_header(Direction::Request, "upgrade", protocol.as_bytes());
    }
    for name in inbound.names() {
        let mandate = name == b"authorization" && !worker.config.forward_mandate;
        if mandate || name.starts_with(b"x-caracal-") || header::overrides_request(name) {
            host.remove_header(Direction::Request, name);
        }
    }
    if let Some(target) = target {
        host.set_header(Direction::Request, ":path", &target);
    }
    if !inbound.values("x-request-id").eq([inbound.request_id.as_bytes()]) {
        host.set_header(Direction::Request, "x-request-id", inbound.request_id.as_bytes());
    }
    Ok(())
}

/// What was judged is what is sent: the decoded path, escaped anew. `None` where that is what stands there.
fn escaped_anew(raw: &[u8]) -> Result<Option<Vec<u8>>, DenyReason> {
    let (path, query) = split_target(raw);
    if stays_as_it_is(path) {
        return Ok(None);
    }
    let path = DecodedPath::parse(path).map_err(|_| DenyReason::PathTraversal)?;
    let mut target = escape_path(path.as_bytes()).into_bytes();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    Ok(Some(target).filter(|target| *target != raw))
}

/// Prepares a request that would be refused for the service behind this filter: as it came, but without what only the
/// filter may say.
pub fn untouched(worker: &Worker, inbound: &Inbound) {
    let host = worker.host.as_ref();
    for name in inbound.names() {
        if name.starts_with(b"x-caracal-") {
            host.remove_header(Direction::Request, name);
        }
    }
    host.set_header(Direction::Request, "x-request-id", inbound.request_id.as_bytes());
}

/// Prepares a request for the upstream that the STS named; returns that upstream's host. Nothing is
/// changed unless everything fits.
///
/// # Errors
/// Rows 16 to 19 of contract gateway §A5.
pub fn to_upstream(
    worker: &Worker,
    inbound: &Inbound,
    case: &Case,
    granted: &Granted,
) -> Result<String, DenyReason> {
    let host = worker.host.as_ref();
    let url = UpstreamUrl::parse(&granted.directive.url).map_err(|_| DenyReason::UpstreamNotAddressable)?;
    if !url.allowed_by(&granted.directive.allowed_token_hosts) {
        return Err(DenyReason::ProviderHost);
    }
    let credential =
        granted.directive.credential(&granted.access_token).map_err(|_| DenyReason::RequestBuild)?;
    let (path, query) = split_target(inbound.path());
    let path = DecodedPath::parse(path).map_err(|_| DenyReason::PathTraversal)?;
    let in_query = credential.query.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    let target = url.target(&path, query, in_query).map_err(|_| DenyReason::RequestBuild)?;
    if inbound.too_large(worker.config.max_body_bytes) {
        return Err(DenyReason::PayloadTooLarge);
    }
    if inbound.traceparent().is_empty() {
        return Err(DenyReason::Internal);
    }

    let rewritten: [&[u8]; 4] = [b"authorization", b"baggage", b"traceparent", b"x-request-id"];
    let upgrades = upgrade(&worker.config, inbound);
    for name in inbound.names() {
        let replaced = credential.header.as_ref().is_some_and(|(header, _)| header.as_bytes() == name);
        let ours = rewritten.contains(&name) || name.starts_with(b"x-envoy-");
        if replaced || ours || header::stripped_from_request(name) {
            host.remove_header(Direction::Request, name);
        }
    }
    let set = |name: &str, value: &[u8]| host.set_header(Direction::Request, name, value);
    if let Some(protocol) = &upgrades {
        set("connection", b"upgrade");
        set("upgrade", protocol.as_bytes());
    }
    if let Some((name, value)) = &credential.header {
        set(name, value.as_bytes());
    }
    if let Some(identity) = &credential.identity {
        set("x-caracal-identity", identity.as_bytes());
    }
    if let Some(baggage) = header::strip_baggage(inbound.all("baggage")) {
        set("baggage", &baggage);
    }
    set("x-request-id", inbound.request_id.as_bytes());
    set("traceparent", inbound.traceparent());
    if let Some(peer) = peer_address(host) {
        set("x-forwarded-for", peer.as_bytes());
    }
    let tls = inbound.first("x-forwarded-proto") == Some(b"https");
    set("x-forwarded-proto", if tls { b"https" } else { b"http" });
    if let Some(authority) = inbound.first(":authority") {
        set("x-forwarded-host", authority);
    }
    match (worker.config.clusters, url.scheme()) {
        (Clusters::Resource, _) => {
            set(SELECTOR, url.cluster_name(&case.mandate.claims.zone_id, &case.resource).as_bytes());
        }
        (Clusters::Scheme, Scheme::Http) => set(SELECTOR, worker.config.plain_cluster.as_bytes()),
        (Clusters::Scheme, Scheme::Https) => set(SELECTOR, worker.config.tls_cluster.as_bytes()),
    }
    set(":path", target.as_bytes());
    set(":authority", url.authority().as_bytes());
    Ok(url.host().to_owned())
}

/// A response as far as the filter looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Whether it is a stream of events.
    pub events: bool,
}

/// Prepares a response for the caller. `exp` is the inbound mandate's end.
pub fn clean_response(worker: &Worker, inbound: &Inbound, exp: i64) -> Answered {
    let host = worker.host.as_ref();
    let status = host.header(Direction::Response, ":status");
    let status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok()).unwrap_or(0);
    if worker.config.role == Role::Gateway {
        strip_response(host, status);
        let now = i64::try_from(host.now() / 1_000).unwrap_or(i64::MAX);
        let left = exp.saturating_sub(now).max(0).to_string();
        host.set_header(Direction::Response, "x-caracal-token-expires-in", left.as_bytes());
    }
    if worker.config.response_request_id {
        host.set_header(Direction::Response, "x-request-id", inbound.request_id.as_bytes());
    }
    // Looked at only where the caller asked for it: that is known without the host.
    let events = inbound.asks_for_events()
        && host
            .header(Direction::Response, "content-type")
            .is_some_and(|value| value.starts_with(b"text/event-stream"));
    Answered { status, events }
}

/// Takes out of a response what is for the gateway alone.
fn strip_response(host: &dyn Host, status: u16) {
    let headers = host.headers(Direction::Response);
    let nominated: Vec<Vec<u8>> = headers
        .iter()
        .filter(|(name, _)| *name == b"connection")
        .flat_map(|(_, value)| header::connection_nominated(value))
        .collect();
    // By these two the upstream agrees to the other protocol that the request asked for.
    let switches = |name: &[u8]| status == 101 && matches!(name, b"connection" | b"upgrade");
    let goes = |name: &[u8], value: &[u8]| {
        header::stripped_from_response(name)
            || name.starts_with(b"x-envoy-")
            || nominated.iter().any(|nominated| nominated == name)
            || (matches!(name, b"location" | b"content-location") && !header::location_stays(value))
    };
    for name in distinct_names(&headers) {
        // One value that may not pass takes all of its name along.
        if !switches(name) && headers.iter().any(|(other, value)| other == name && goes(other, value)) {
            host.remove_header(Direction::Response, name);
        }
    }
}

/// Every name once, without pseudo-headers.
fn distinct_names(headers: &Headers) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = Vec::new();
    for (name, _) in headers.iter() {
        if !name.starts_with(b":") && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The caller's address without its port.
fn peer_address(host: &dyn Host) -> Option<String> {
    let address = String::from_utf8(host.property(&["source", "address"])?).ok()?;
    let (ip, _port) = address.rsplit_once(':')?;
    Some(ip.trim_start_matches('[').trim_end_matches(']').to_owned())
}

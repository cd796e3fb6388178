//! Where an allowed request goes and which credential it carries (contract gateway §A13 to §A15).
//!
//! The STS answers an exchange with a [`Directive`]. [`UpstreamUrl`] parses its address and joins the
//! caller's path and query to it; [`Directive::credential`] says what to put into the request.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::header;
use crate::id::{ResourceIdentifier, ZoneId};
use crate::path::{DecodedPath, Kept, PathError, escape, escape_path, percent_decode, push_escape};

/// Why a request cannot be sent upstream.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UpstreamError {
    /// The address is not an http(s) URL with a host and without user information.
    #[error("upstream address is not usable: {0}")]
    Address(&'static str),
    /// The address is a literal that no upstream may have (link-local, multicast, unspecified).
    #[error("upstream address is restricted")]
    Restricted,
    /// The path of the address does not decode or holds traversal.
    #[error("upstream base path is not usable: {0}")]
    BasePath(PathError),
    /// A query does not parse: a `;` separator or a bad escape.
    #[error("query does not parse")]
    Query,
    /// The directive's `auth_mode` is not known.
    #[error("unknown auth mode")]
    AuthMode,
    /// The header named for the credential may not carry one.
    #[error("header may not carry a credential")]
    CredentialHeader,
    /// `auth_location=query` without a parameter name.
    #[error("query credential without a parameter name")]
    CredentialParameter,
    /// The secret is empty or holds control characters.
    #[error("credential is not usable")]
    Secret,
}

/// The scheme of an upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// How the name of every resource's own cluster begins.
pub const CLUSTER_PREFIX: &str = "upstream|";

/// A checked upstream address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamUrl {
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    base_path: DecodedPath,
    query: Option<String>,
}

impl UpstreamUrl {
    /// Parses `http(s)://host[:port][/path][?query][#fragment]`; the fragment is dropped.
    ///
    /// # Errors
    /// [`UpstreamError::Address`], [`UpstreamError::Restricted`], [`UpstreamError::BasePath`].
    pub fn parse(url: &str) -> Result<Self, UpstreamError> {
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UpstreamError::Address("only visible ASCII is allowed"));
        }
        let (scheme, rest) = url.split_once("://").ok_or(UpstreamError::Address("no scheme"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(UpstreamError::Address("scheme is neither http nor https")),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query.to_owned())),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UpstreamError::Address("user information is not allowed"));
        }
        let (host, port) = split_authority(authority)?;
        let base_path = DecodedPath::parse(path.as_bytes()).map_err(UpstreamError::BasePath)?;
        Ok(Self { scheme, host: check_host(host)?, port, base_path, query })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host in lower case, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `host` or `host:port`, as it belongs into `:authority`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// The port: the scheme's own where none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// The name of the cluster that leads a resource's requests here. It holds scheme, host and port, so that a resource
    /// that moved never sends to where it was.
    #[must_use]
    pub fn cluster_name(&self, zone: &ZoneId, resource: &ResourceIdentifier) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{CLUSTER_PREFIX}{zone}|{resource}|{scheme}|{}|{}", self.host, self.port())
    }

    /// The request target: base path joined with the caller's path, and the merged queries
    /// (contract gateway §A15.1 and §A15.2). A `credential` replaces every parameter of its name.
    ///
    /// # Errors
    /// [`UpstreamError::Query`].
    pub fn target(
        &self,
        path: &DecodedPath,
        query: Option<&[u8]>,
        credential: Option<(&str, &str)>,
    ) -> Result<String, UpstreamError> {
        let mut target = escape_path(&join_path(self.base_path.as_bytes(), path.as_bytes()));
        let mut own = parse_query(self.query.as_deref().unwrap_or_default().as_bytes())?;
        if let Some((name, value)) = credential {
            own.retain(|(other, _)| **other != *name.as_bytes());
            insert(&mut own, name.as_bytes(), value.as_bytes());
        }
        let mut merged = parse_query(query.unwrap_or_default())?;
        merged.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
        for (name, value) in own {
            insert(&mut merged, name, value);
        }
        let merged = encode_query(&merged);
        if !merged.is_empty() {
            target.push('?');
            target.push_str(&merged);
        }
        Ok(target)
    }

    /// Whether a provider credential may be sent to this host: the list is empty or names it.
    #[must_use]
    pub fn allowed_by(&self, allowed_token_hosts: &[String]) -> bool {
        allowed_token_hosts.is_empty()
            || allowed_token_hosts.iter().any(|allowed| allowed.trim().eq_ignore_ascii_case(&self.host))
    }
}

/// What the STS says about one resource (contract gateway §A13). Members that are absent are empty.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Directive {
    /// The upstream address.
    pub url: String,
    /// `none`, `caracal_jwt`, `provider_oauth` or `provider_apikey`.
    pub auth_mode: String,
    /// `header` (also when empty) or `query`.
    pub auth_location: String,
    /// The header that carries the credential; empty means `Authorization`.
    pub auth_header: String,
    /// The query parameter that carries the credential when `auth_location` is `query`.
    pub query_param_name: String,
    /// The word before the credential, for example `Bearer`; empty means none.
    pub auth_scheme: String,
    /// Hosts that may receive the provider's credential; empty means any.
    pub allowed_token_hosts: Vec<String>,
    /// The provider's credential.
    pub provider_token: String,
    /// The provider, for evidence.
    pub provider_id: String,
    /// The provider connection, for evidence.
    pub connection_id: String,
    /// Whether the derived mandate travels as `X-Caracal-Identity` beside a provider credential.
    pub forward_caracal_identity: bool,
    /// Until when a gateway may use all of this again for the same mandate, unix seconds; 0: not at all.
    pub cache_until: i64,
}

impl std::fmt::Debug for Directive {
    /// Without the secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Directive")
            .field("auth_mode", &self.auth_mode)
            .field("provider_id", &self.provider_id)
            .finish_non_exhaustive()
    }
}

/// What to put into the request that goes upstream.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Credential {
    /// Header to set, name in lower case.
    pub header: Option<(String, String)>,
    /// Query parameter to set.
    pub query: Option<(String, String)>,
    /// Value of `x-caracal-identity`.
    pub identity: Option<String>,
}

impl Directive {
    /// Reads a directive. Members that are absent or null are empty, unknown ones are ignored, and a
    /// known one of another type than it should have makes the whole directive unusable.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let members = value.as_object()?;
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => None,
        };
        let forward_caracal_identity = match members.get("forward_caracal_identity") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => return None,
        };
        let allowed_token_hosts = match members.get("allowed_token_hosts") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(hosts)) => {
                hosts.iter().map(|host| host.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        Some(Self {
            url: text("url")?,
            auth_mode: text("auth_mode")?,
            auth_location: text("auth_location")?,
            auth_header: text("auth_header")?,
            query_param_name: text("query_param_name")?,
            auth_scheme: text("auth_scheme")?,
            allowed_token_hosts,
            provider_token: text("provider_token")?,
            provider_id: text("provider_id")?,
            connection_id: text("connection_id")?,
            forward_caracal_identity,
            cache_until: match members.get("cache_until") {
                None | Some(Value::Null) => 0,
                Some(until) => until.as_i64()?,
            },
        })
    }

    /// Decides how the credential travels. `access_token` is the derived `use=resource` mandate.
    ///
    /// # Errors
    /// [`UpstreamError::AuthMode`], [`UpstreamError::CredentialHeader`],
    /// [`UpstreamError::CredentialParameter`], [`UpstreamError::Secret`].
    pub fn credential(&self, access_token: &str) -> Result<Credential, UpstreamError> {
        let mut credential = Credential::default();
        let from_provider = match self.auth_mode.as_str() {
            "none" => return Ok(credential),
            "caracal_jwt" => false,
            "provider_oauth" | "provider_apikey" => true,
            _ => return Err(UpstreamError::AuthMode),
        };
        if from_provider && self.forward_caracal_identity {
            credential.identity = Some(usable_secret(access_token)?);
        }
        if self.auth_mode == "provider_apikey" && self.auth_location == "query" {
            if self.query_param_name.is_empty() {
                return Err(UpstreamError::CredentialParameter);
            }
            credential.query = Some((self.query_param_name.clone(), usable_secret(&self.provider_token)?));
            return Ok(credential);
        }
        let header = if self.auth_header.is_empty() { "authorization" } else { &self.auth_header };
        if !header::may_carry_credential(header.as_bytes()) {
            return Err(UpstreamError::CredentialHeader);
        }
        let (scheme, secret) = if from_provider {
            (self.auth_scheme.as_str(), usable_secret(&self.provider_token)?)
        } else if self.auth_scheme.is_empty() {
            ("Bearer", usable_secret(access_token)?)
        } else {
            (self.auth_scheme.as_str(), usable_secret(access_token)?)
        };
        let value = if scheme.is_empty() { secret } else { format!("{scheme} {secret}") };
        if !header::is_clean_value(value.as_bytes()) {
            return Err(UpstreamError::Secret);
        }
        credential.header = Some((header.to_ascii_lowercase(), value));
        Ok(credential)
    }
}

fn usable_secret(secret: &str) -> Result<String, UpstreamError> {
    if secret.is_empty() || !header::is_clean_value(secret.as_bytes()) {
        return Err(UpstreamError::Secret);
    }
    Ok(secret.to_owned())
}

/// Metadata services of clouds that are not link-local.
const METADATA_V4: [[u8; 4]; 2] = [[100, 100, 100, 200], [168, 63, 129, 16]];
/// The same, in IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address may never be an upstream (contract gateway §A14): link-local, multicast,
/// unspecified, the metadata services of clouds, and forms of IPv6 that hide one of those. Loopback and private ranges
/// are allowed.
#[must_use]
pub fn restricted(address: IpAddr) -> bool {
    fn restricted_v4(address: Ipv4Addr) -> bool {
        let metadata = METADATA_V4.iter().any(|service| address == Ipv4Addr::from(*service));
        metadata || address.is_link_local() || address.is_multicast() || address.is_unspecified()
    }
    fn restricted_v6(address: Ipv6Addr) -> bool {
        if let Some(embedded) = embedded_v4(address) {
            return restricted_v4(embedded);
        }
        // The local NAT64 prefix hides an IPv4 address.
        let hidden = matches!(address.segments(), [0x64, 0xff9b, 1, ..]);
        hidden
            || address == METADATA_V6
            || address.is_unicast_link_local()
            || address.is_multicast()
            || address.is_unspecified()
    }
    match address {
        IpAddr::V4(address) => restricted_v4(address),
        IpAddr::V6(address) => restricted_v6(address),
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056).
#[must_use]
pub fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

/// Encodes pairs as `application/x-www-form-urlencoded`, keys sorted.
#[must_use]
pub fn form_encode(fields: &[(&str, &[u8])]) -> String {
    let mut query = Query::new();
    for (name, value) in fields {
        insert(&mut query, name.as_bytes(), *value);
    }
    encode_query(&query)
}

/// Query parameters sorted by name, the values of one name in order.
type Query<'a> = Vec<(Cow<'a, [u8]>, Cow<'a, [u8]>)>;

fn insert<'a>(query: &mut Query<'a>, name: impl Into<Cow<'a, [u8]>>, value: impl Into<Cow<'a, [u8]>>) {
    let (name, value) = (name.into(), value.into());
    let at = query.iter().position(|(other, _)| *other > name).unwrap_or(query.len());
    query.insert(at, (name, value));
}

fn parse_query(query: &[u8]) -> Result<Query<'_>, UpstreamError> {
    if query.contains(&b';') {
        return Err(UpstreamError::Query);
    }
    let mut parsed = Query::new();
    for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = unescape_query(halves.next().unwrap_or_default())?;
        let value = unescape_query(halves.next().unwrap_or_default())?;
        insert(&mut parsed, name, value);
    }
    Ok(parsed)
}

fn unescape_query(text: &[u8]) -> Result<Cow<'_, [u8]>, UpstreamError> {
    if !text.contains(&b'+') {
        return percent_decode(text).map_err(|_| UpstreamError::Query);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded = percent_decode(&spaced).map_err(|_| UpstreamError::Query)?;
    Ok(Cow::Owned(decoded.into_owned()))
}

fn encode_query(query: &Query<'_>) -> String {
    const KEPT: Kept = Kept::letters_digits_and(b"-_.~");
    let other = |encoded: &mut String, byte| match byte {
        b' ' => encoded.push('+'),
        byte => push_escape(encoded, byte),
    };
    let sizes = query.iter().map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(16));
    let mut encoded = String::with_capacity(sizes.fold(0, usize::saturating_add));
    for (name, value) in query {
        if !encoded.is_empty() {
            encoded.push('&');
        }
        escape(&mut encoded, name, &KEPT, other);
        encoded.push('=');
        escape(&mut encoded, value, &KEPT, other);
    }
    encoded
}

/// Joins two decoded paths: an empty or root side yields the other one unchanged, else the join is
/// cleaned of empty segments and of a trailing slash. Neither side holds dot segments.
fn join_path(base: &[u8], request: &[u8]) -> Vec<u8> {
    if matches!(base, b"" | b"/") {
        return if request.is_empty() { b"/".to_vec() } else { request.to_vec() };
    }
    if matches!(request, b"" | b"/") {
        return base.to_vec();
    }
    let mut joined = Vec::with_capacity(base.len() + request.len() + 1);
    let segments = base.split(|byte| *byte == b'/').chain(request.split(|byte| *byte == b'/'));
    for segment in segments.filter(|segment| !segment.is_empty()) {
        joined.push(b'/');
        joined.extend_from_slice(segment);
    }
    joined
}

fn split_authority(authority: &str) -> Result<(&str, Option<u16>), UpstreamError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(UpstreamError::Address("bad IPv6 literal"))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(UpstreamError::Address("bad IPv6 literal"));
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(UpstreamError::Address("text after the IPv6 literal")),
        }
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port {
        None | Some("") => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port != 0).ok_or(UpstreamError::Address("bad port"))?)
        }
        Some(_) => return Err(UpstreamError::Address("bad port")),
    };
    Ok((host, port))
}

fn check_host(host: &str) -> Result<String, UpstreamError> {
    let host = host.to_ascii_lowercase();
    if let Ok(address) = host.parse::<IpAddr>() {
        return if restricted(address) { Err(UpstreamError::Restricted) } else { Ok(host) };
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return Err(UpstreamError::Address("bad host"));
    }
    // `0x7f.1`, `2130706433`, `127.1`: some resolvers read these as addresses.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if last.is_empty() || last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UpstreamError::Address("host is a number that is not an IPv4 address"));
    }
    Ok(host)
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;

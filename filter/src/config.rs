//! The plugin configuration: strict JSON, parsed once. Whatever is unknown, missing or out of range is
//! an error that names the field, and Envoy then refuses the listener.

use caracal_mandate::header;
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use serde_json::Value;

use crate::fields::{Fields, invalid};

/// Why a configuration is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("configuration is not a JSON object: {0}")]
    NotAnObject(String),
    /// A required field is absent.
    #[error("configuration field `{0}` is missing")]
    Missing(String),
    /// A field that nobody reads; most likely a typing error.
    #[error("configuration field `{0}` is unknown")]
    Unknown(String),
    /// A field with a value that is not allowed.
    #[error("configuration field `{field}` {problem}")]
    Invalid {
        /// Dotted path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a root context is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Config {
    /// The singleton that polls the feed.
    Feed(FeedConfig),
    /// The filter on a worker.
    Filter(Box<FilterConfig>),
}

/// A server that the filter calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Envoy's cluster.
    pub cluster: String,
    /// The `:authority` to send.
    pub authority: String,
    /// Milliseconds.
    pub timeout_ms: u64,
}

/// Configuration of the feed singleton: `{"service": "feed", …}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FeedConfig {
    /// Who polls.
    pub gateway_id: GatewayId,
    /// Whom.
    pub sts: Server,
    /// How long the STS may hold a poll back, in seconds.
    pub wait_s: u64,
}

/// What the filter stands for and how the resource is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Binding {
    /// One resource, named here.
    Fixed {
        /// Its zone.
        zone: ZoneId,
        /// Its identifier.
        resource: ResourceIdentifier,
    },
    /// The caller's `X-Caracal-Resource`.
    Header,
    /// The route's `filter_metadata.caracal.resource` (and `.zone`).
    Metadata,
}

/// What a gateway or a resource's sidecar accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// `use=gateway` mandates, exchanged at the STS.
    Gateway,
    /// `use=resource` mandates, decided here.
    Resource,
}

impl Role {
    /// The word in configuration and evidence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Resource => "resource",
        }
    }
}

/// Where evidence goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditConfig {
    /// The audit service.
    pub server: Server,
    /// Whether requests are refused while evidence cannot be delivered and the buffer is full.
    pub deny_on_backlog: bool,
    /// Events that a worker holds at most.
    pub capacity: usize,
}

/// How a worker comes to know the feed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FeedSource {
    /// A singleton polls and shares it.
    Singleton,
    /// Each worker polls for itself, where no singleton can run.
    Worker {
        /// How long the STS may hold a poll back, in seconds.
        wait_s: u64,
    },
}

/// A URL by which clients name the resource (RFC 9728 §1.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl {
    /// Scheme and authority.
    pub origin: String,
    /// The path; empty for `/`.
    pub path: String,
}

/// Which cluster leads to an upstream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Clusters {
    /// Each resource has its own (`UpstreamUrl::cluster_name`).
    Resource,
    /// One of two, by the scheme of the upstream.
    #[default]
    Scheme,
}

/// Configuration of the filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilterConfig {
    /// Which mandates are accepted.
    pub role: Role,
    /// How the resource is found.
    pub binding: Binding,
    /// The only zone that is served; `None` for all.
    pub zone: Option<ZoneId>,
    /// The only issuer that is accepted; `None` takes the feed's word.
    pub issuer: Option<String>,
    /// Who we are.
    pub gateway_id: GatewayId,
    /// The STS.
    pub sts: Server,
    /// Where evidence goes.
    pub audit: AuditConfig,
    /// How old the last successful poll may be, in milliseconds.
    pub max_feed_age_ms: u64,
    /// The largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Whether the mandate stays in the request (resource role only).
    pub forward_mandate: bool,
    /// Where `jwt_authn` leaves the payload that it verified (`payload_in_metadata`); `None`: signatures are verified here.
    pub jwt_authn_payload: Option<String>,
    /// How many verified tokens a worker remembers.
    pub signature_cache: usize,
    /// Whether requests that would be refused pass, and are only counted and written down (resource role only).
    pub dry_run: bool,
    /// Whether the metadata of the protected resource is served, and refusals point to it (RFC 9728).
    pub resource_metadata: bool,
    /// The resource's own URL; `None` takes the one that the client calls.
    pub public_url: Option<PublicUrl>,
    /// Whether bodies of MCP requests are read. Envoy has to let the module see a body before it passes the headers on
    /// (`allow_on_headers_stop_iteration`).
    pub mcp: bool,
    /// Whether filter state is written, for access logs and other filters.
    pub filter_state: bool,
    /// Whether the request id is written into responses here; else Envoy does it (`always_set_request_id_in_response`).
    pub response_request_id: bool,
    /// The protocols that a request may upgrade to, in lower case.
    pub upgrades: Vec<String>,
    /// How the feed is followed.
    pub feed: FeedSource,
    /// Which cluster leads to an upstream (gateway role only).
    pub clusters: Clusters,
    /// The cluster for upstreams without TLS (gateway role only).
    pub plain_cluster: String,
    /// The cluster for upstreams with TLS (gateway role only).
    pub tls_cluster: String,
}

impl Config {
    /// Parses a plugin configuration.
    ///
    /// # Errors
    /// Any [`ConfigError`].
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = caracal_mandate::json::parse(text)
            .map_err(|error| ConfigError::NotAnObject(error.to_string()))?;
        let Value::Object(members) = value else {
            return Err(ConfigError::NotAnObject("another JSON type".to_owned()));
        };
        let mut fields = Fields::new(members, String::new());
        let config = match fields.text("service")? {
            Some(service) if service == "feed" => Self::Feed(feed(&mut fields)?),
            Some(_) => return Err(invalid("service", "is not \"feed\"")),
            None => Self::Filter(Box::new(filter(&mut fields)?)),
        };
        fields.finish()?;
        Ok(config)
    }
}

impl FilterConfig {
    /// The only zone that can be meant, when there is one.
    #[must_use]
    pub fn bound_zone(&self) -> Option<&ZoneId> {
        match &self.binding {
            Binding::Fixed { zone, .. } => Some(zone),
            Binding::Header | Binding::Metadata => self.zone.as_ref(),
        }
    }
}

fn feed(fields: &mut Fields) -> Result<FeedConfig, ConfigError> {
    Ok(FeedConfig {
        gateway_id: gateway_id(fields)?,
        sts: server(&mut fields.required_section("sts")?, "sts", 5_000)?,
        wait_s: fields.number("wait_s", 10, 1..=60)?,
    })
}

fn filter(fields: &mut Fields) -> Result<FilterConfig, ConfigError> {
    let role = match fields.required_text("role")?.as_str() {
        "gateway" => Role::Gateway,
        "resource" => Role::Resource,
        _ => return Err(invalid("role", "is neither \"gateway\" nor \"resource\"")),
    };
    let zone = fields
        .text("zone")?
        .map(|zone| ZoneId::new(zone).map_err(|error| invalid("zone", error)))
        .transpose()?;
    let binding = binding(fields, zone.as_ref())?;
    if role == Role::Resource && binding == Binding::Header {
        return Err(invalid(
            "binding",
            "may not be \"header\" for role \"resource\": the caller would choose",
        ));
    }
    let forward_mandate = match role {
        Role::Gateway => {
            if fields.flag("forward_mandate")?.is_some() {
                return Err(invalid("forward_mandate", "has no meaning for role \"gateway\""));
            }
            false
        }
        Role::Resource => fields.flag("forward_mandate")?.unwrap_or(true),
    };
    Ok(FilterConfig {
        role,
        binding,
        zone,
        issuer: fields.text("issuer")?,
        gateway_id: gateway_id(fields)?,
        sts: server(&mut fields.required_section("sts")?, "sts", 5_000)?,
        audit: audit(fields)?,
        max_feed_age_ms: fields.number("max_feed_age_ms", 30_000, 1_000..=600_000)?,
        max_body_bytes: fields.number("max_body_bytes", 10 * 1024 * 1024, 1..=1 << 40)?,
        forward_mandate,
        jwt_authn_payload: fields.text("jwt_authn_payload")?,
        signature_cache: fields.size("signature_cache", 4_096, 0..=1 << 20)?,
        dry_run: dry_run(fields, role)?,
        resource_metadata: fields.flag("resource_metadata")?.unwrap_or(true),
        public_url: fields.text("public_url")?.map(|url| public_url(&url)).transpose()?,
        mcp: fields.flag("mcp")?.unwrap_or(false),
        filter_state: fields.flag("filter_state")?.unwrap_or(true),
        response_request_id: fields.flag("response_request_id")?.unwrap_or(true),
        upgrades: upgrades(fields)?,
        feed: feed_source(fields)?,
        clusters: clusters(fields)?,
        plain_cluster: fields.text("plain_cluster")?.unwrap_or_else(|| "dfp_plain".to_owned()),
        tls_cluster: fields.text("tls_cluster")?.unwrap_or_else(|| "dfp_tls".to_owned()),
    })
}

fn clusters(fields: &mut Fields) -> Result<Clusters, ConfigError> {
    match fields.text("clusters")?.as_deref() {
        None | Some("scheme") => Ok(Clusters::Scheme),
        Some("resource") => Ok(Clusters::Resource),
        Some(_) => Err(invalid("clusters", "is neither \"scheme\" nor \"resource\"")),
    }
}

fn dry_run(fields: &mut Fields, role: Role) -> Result<bool, ConfigError> {
    let dry_run = fields.flag("dry_run")?;
    if dry_run.is_some() && role == Role::Gateway {
        return Err(invalid(
            "dry_run",
            "has no meaning for role \"gateway\": without a mandate there is no upstream",
        ));
    }
    Ok(dry_run.unwrap_or(false))
}

fn public_url(url: &str) -> Result<PublicUrl, ConfigError> {
    let bad = || invalid("public_url", "is not an http(s) URL without query and fragment");
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or_else(bad)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%@!$&'()*+,;=".contains(&byte);
    if !rest.bytes().all(plain) {
        return Err(bad());
    }
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty()).ok_or_else(bad)?;
    let path = rest.strip_prefix(authority).unwrap_or_default();
    let origin = url.strip_suffix(path).unwrap_or(url);
    Ok(PublicUrl {
        origin: origin.to_owned(),
        path: if path == "/" { String::new() } else { path.to_owned() },
    })
}

fn upgrades(fields: &mut Fields) -> Result<Vec<String>, ConfigError> {
    let bad = || invalid("upgrades", "is not a list of protocol names in lower case, each once");
    let Some(value) = fields.take("upgrades") else { return Ok(Vec::new()) };
    let mut upgrades: Vec<String> = Vec::new();
    for item in value.as_array().ok_or_else(bad)? {
        let name = item.as_str().ok_or_else(bad)?;
        let token = header::is_token(name.as_bytes()) && !name.bytes().any(|byte| byte.is_ascii_uppercase());
        // CONNECT is a method: what it would open is no upgrade.
        if !token || name == "connect" || upgrades.iter().any(|known| known == name) {
            return Err(bad());
        }
        upgrades.push(name.to_owned());
    }
    Ok(upgrades)
}

fn feed_source(fields: &mut Fields) -> Result<FeedSource, ConfigError> {
    let wait_s = fields.number("feed_wait_s", 10, 1..=60)?;
    match fields.text("feed")?.as_deref() {
        None | Some("singleton") => Ok(FeedSource::Singleton),
        Some("worker") => Ok(FeedSource::Worker { wait_s }),
        Some(_) => Err(invalid("feed", "is neither \"singleton\" nor \"worker\"")),
    }
}

fn binding(fields: &mut Fields, zone: Option<&ZoneId>) -> Result<Binding, ConfigError> {
    match fields.take("binding") {
        None => Err(ConfigError::Missing("binding".to_owned())),
        Some(Value::String(kind)) if kind == "header" => Ok(Binding::Header),
        Some(Value::String(kind)) if kind == "metadata" => Ok(Binding::Metadata),
        Some(Value::Object(members)) => {
            let mut outer = Fields::new(members, "binding".to_owned());
            let mut fixed = outer.required_section("fixed")?;
            outer.finish()?;
            let bound = fixed.required_text("zone")?;
            let bound = ZoneId::new(bound).map_err(|error| invalid("binding.fixed.zone", error))?;
            if zone.is_some_and(|zone| *zone != bound) {
                return Err(invalid("zone", "differs from `binding.fixed.zone`"));
            }
            let resource = fixed.required_text("resource")?;
            let resource = ResourceIdentifier::new(resource)
                .map_err(|error| invalid("binding.fixed.resource", error))?;
            fixed.finish()?;
            Ok(Binding::Fixed { zone: bound, resource })
        }
        Some(_) => Err(invalid("binding", "is neither \"header\", \"metadata\" nor {\"fixed\": …}")),
    }
}

fn audit(fields: &mut Fields) -> Result<AuditConfig, ConfigError> {
    let mut section = fields.required_section("audit")?;
    let deny_on_backlog = match section.text("on_backlog")?.as_deref() {
        None | Some("deny") => true,
        Some("allow") => false,
        Some(_) => return Err(invalid("audit.on_backlog", "is neither \"deny\" nor \"allow\"")),
    };
    let capacity = section.size("capacity", 1_000, 10..=100_000)?;
    Ok(AuditConfig { server: server(&mut section, "audit", 5_000)?, deny_on_backlog, capacity })
}

fn server(section: &mut Fields, name: &str, timeout_ms: u64) -> Result<Server, ConfigError> {
    let server = Server {
        cluster: section.text("cluster")?.unwrap_or_else(|| name.to_owned()),
        authority: section.text("authority")?.unwrap_or_else(|| name.to_owned()),
        timeout_ms: section.number("timeout_ms", timeout_ms, 1..=60_000)?,
    };
    section.finish()?;
    Ok(server)
}

fn gateway_id(fields: &mut Fields) -> Result<GatewayId, ConfigError> {
    GatewayId::new(fields.required_text("gateway_id")?).map_err(|error| invalid("gateway_id", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource() -> Value {
        json!({
            "role": "resource",
            "binding": {"fixed": {"zone": "z1", "resource": "resource://orders"}},
            "gateway_id": "gw-1",
            "sts": {"cluster": "sts", "authority": "sts", "timeout_ms": 5000},
            "audit": {"cluster": "audit", "on_backlog": "deny"},
        })
    }

    fn parse(value: &Value) -> Result<Config, ConfigError> {
        Config::parse(value.to_string().as_bytes())
    }

    #[test]
    fn good_configurations() {
        let Ok(Config::Filter(filter)) = parse(&resource()) else { panic!() };
        assert_eq!(
            (filter.role, filter.forward_mandate, filter.max_feed_age_ms),
            (Role::Resource, true, 30_000)
        );
        let mut gateway = resource();
        gateway["role"] = json!("gateway");
        gateway["binding"] = json!("header");
        let Ok(Config::Filter(filter)) = parse(&gateway) else { panic!() };
        assert_eq!((filter.role, filter.binding.clone()), (Role::Gateway, Binding::Header));
        assert_eq!(filter.clusters, Clusters::Scheme);
        gateway["clusters"] = json!("resource");
        let Ok(Config::Filter(filter)) = parse(&gateway) else { panic!() };
        assert_eq!(filter.clusters, Clusters::Resource);
        let feed = json!({"service": "feed", "gateway_id": "gw-1", "sts": {}, "wait_s": 20});
        let Ok(Config::Feed(feed)) = parse(&feed) else { panic!() };
        assert_eq!((feed.wait_s, feed.sts.cluster.as_str(), feed.sts.timeout_ms), (20, "sts", 5_000));
    }

    #[test]
    fn errors_name_the_field() {
        for (field, value, named) in [
            ("role", json!("router"), "role"),
            ("role", Value::Null, "role"),
            ("binding", json!("cookie"), "binding"),
            ("clusters", json!("host"), "clusters"),
            ("binding", json!("header"), "binding"),
            ("binding", json!({"fixed": {"zone": "z1"}}), "binding.fixed.resource"),
            ("binding", json!({"fixed": {"zone": "../z", "resource": "r"}}), "binding.fixed.zone"),
            ("binding", json!({"fixed": {"zone": "z1", "resource": "r", "x": 1}}), "binding.fixed.x"),
            ("zone", json!("z2"), "zone"),
            ("gateway_id", json!(""), "gateway_id"),
            ("gateway_id", json!("a b"), "gateway_id"),
            ("max_feed_age_ms", json!(-1), "max_feed_age_ms"),
            ("max_feed_age_ms", json!("30000"), "max_feed_age_ms"),
            ("dry_run", json!("yes"), "dry_run"),
            ("mcp", json!("yes"), "mcp"),
            ("filter_state", json!("no"), "filter_state"),
            ("response_request_id", json!(0), "response_request_id"),
            ("jwt_authn_payload", json!(true), "jwt_authn_payload"),
            ("jwt_authn_payload", json!(""), "jwt_authn_payload"),
            ("upgrades", json!("websocket"), "upgrades"),
            ("upgrades", json!([1]), "upgrades"),
            ("upgrades", json!([""]), "upgrades"),
            ("upgrades", json!(["WebSocket"]), "upgrades"),
            ("upgrades", json!(["websocket", "websocket"]), "upgrades"),
            ("upgrades", json!(["connect"]), "upgrades"),
            ("feed", json!("both"), "feed"),
            ("feed_wait_s", json!(0), "feed_wait_s"),
            ("public_url", json!("ftp://x"), "public_url"),
            ("public_url", json!("https://"), "public_url"),
            ("public_url", json!("https://x/a?b"), "public_url"),
            ("resource_metadata", json!(1), "resource_metadata"),
            ("max_body_bytes", json!(0), "max_body_bytes"),
            ("forward_mandate", json!("yes"), "forward_mandate"),
            ("sts", json!({"cluster": 7}), "sts.cluster"),
            ("sts", json!({"clutser": "sts"}), "sts.clutser"),
            ("sts", json!([]), "sts"),
            ("audit", json!({"on_backlog": "ignore"}), "audit.on_backlog"),
            ("audit", json!({"capacity": 1}), "audit.capacity"),
            ("maxbody", json!(1), "maxbody"),
            ("service", json!("audit"), "service"),
        ] {
            let mut config = resource();
            config[field] = value.clone();
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains(&format!("`{named}`")), "{field}={value}: {error}");
        }
        for field in ["role", "binding", "gateway_id", "sts", "audit"] {
            let mut config = resource();
            config.as_object_mut().unwrap().remove(field);
            assert_eq!(parse(&config), Err(ConfigError::Missing(field.to_owned())));
        }
        for text in ["", "[]", "{", "null", "{\"role\":\"resource\"} x"] {
            assert!(matches!(Config::parse(text.as_bytes()), Err(ConfigError::NotAnObject(_))), "{text}");
        }
    }
}

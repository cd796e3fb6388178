//! How a client finds out whom to ask for a mandate: the challenge in `WWW-Authenticate` (RFC 6750 §3), and the metadata
//! of the protected resource that it points to (RFC 9728).
//!
//! The metadata tells of the STS and of scopes, and of no caller; it needs no mandate and leaves no evidence.

use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::verdict::DenyReason;
use serde_json::{Map, Value};

use crate::bind::Route;
use crate::config::{Binding, FilterConfig};
use crate::forward::Inbound;
use crate::reply::Refusal;
use crate::root::Worker;

/// Where the metadata is, before the path of the resource's own URL.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// The headers of the metadata.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("content-type", "application/json"),
    ("cache-control", "public, max-age=300"),
    ("access-control-allow-origin", "*"),
];

/// The resource as its clients name it: an origin, and the path of its URL; empty for `/`.
struct PublicUrl<'a> {
    origin: String,
    path: &'a str,
}

/// What the operator says, or what the client called: it compares the two itself (RFC 9728 §3.3).
fn public_url<'a>(config: &'a FilterConfig, inbound: &Inbound) -> Option<PublicUrl<'a>> {
    if let Some(url) = &config.public_url {
        return Some(PublicUrl { origin: url.origin.clone(), path: &url.path });
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".:-_[]".contains(byte);
    let authority = inbound.first(":authority").filter(|authority| authority.iter().all(plain))?;
    let authority = std::str::from_utf8(authority).ok().filter(|authority| !authority.is_empty())?;
    let tls = inbound.first("x-forwarded-proto") == Some(b"https");
    let scheme = if tls { "https" } else { "http" };
    Some(PublicUrl { origin: [scheme, "://", authority].concat(), path: "" })
}

/// The metadata, when this request asks for it and it can be told.
pub(crate) fn document(worker: &Worker, inbound: &Inbound) -> Option<Vec<u8>> {
    if !worker.config.resource_metadata || !matches!(inbound.method(), b"GET" | b"HEAD") {
        return None;
    }
    let path = std::str::from_utf8(inbound.path()).ok()?;
    let suffix = path.split('?').next()?.strip_prefix(WELL_KNOWN)?;
    let url = public_url(&worker.config, inbound)?;
    // Where the operator names no URL, a client may look for the metadata of any URL here.
    let named = if worker.config.public_url.is_some() { suffix == url.path } else { true };
    if !named || !(suffix.is_empty() || suffix.starts_with('/')) {
        return None;
    }
    let mut view = worker.view.borrow_mut();
    let host = worker.host.as_ref();
    let (state, _) = view.fresh(host, host.now(), worker.config.max_feed_age_ms).ok()?;
    let mut members = Map::new();
    let text = |text: &str| Value::String(text.to_owned());
    members.insert("resource".to_owned(), Value::String([&url.origin, suffix].concat()));
    members.insert("authorization_servers".to_owned(), Value::Array(vec![text(&state.issuer)]));
    members.insert("bearer_methods_supported".to_owned(), Value::Array(vec![text("header")]));
    if let Some(identifier) = bound(worker, inbound) {
        let zone = worker.config.bound_zone().and_then(|zone| state.zone(zone));
        if let Some(entry) =
            zone.and_then(|zone| zone.resource(&identifier)).filter(|entry| !entry.scopes.is_empty())
        {
            let scopes = entry.scopes.iter().map(|scope| text(scope.as_str())).collect();
            members.insert("scopes_supported".to_owned(), Value::Array(scopes));
        }
        members.insert("caracal_resource".to_owned(), text(identifier.as_str()));
    }
    serde_json::to_vec(&Value::Object(members)).ok()
}

/// The resource that is meant, as far as it is known.
fn bound(worker: &Worker, inbound: &Inbound) -> Option<ResourceIdentifier> {
    match &worker.config.binding {
        Binding::Fixed { resource, .. } => Some(resource.clone()),
        Binding::Metadata => Route::read(worker).resource(),
        Binding::Header => {
            let value = std::str::from_utf8(inbound.first("x-caracal-resource")?).ok()?;
            ResourceIdentifier::new(value.trim()).ok()
        }
    }
}

/// What a refused caller is told in `WWW-Authenticate`: why, and where to look. `None` where another mandate would change
/// nothing.
pub(crate) fn challenge(
    worker: &Worker,
    inbound: &Inbound,
    refusal: &Refusal,
    missing: Option<&str>,
) -> Option<String> {
    let expired = refusal.error == "credential_expired_not_renewable";
    let error = match (refusal.status, refusal.reason) {
        // Who brought no credentials is told of no error (RFC 6750 §3.1).
        (401, DenyReason::MissingBearer) => None,
        (401, _) if refusal.error == "invalid_token" || expired => Some("invalid_token"),
        (403, DenyReason::ScopeMissing) => Some("insufficient_scope"),
        _ => return None,
    };
    let mut parameters = Vec::new();
    let mut say = |name: &str, value: &str| {
        let quotable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if value.bytes().all(quotable) {
            parameters.push([name, "=\"", value, "\""].concat());
        }
    };
    if let Some(error) = error {
        say("error", error);
        say("error_description", &refusal.description);
    }
    if let Some(scope) = missing.filter(|_| refusal.reason == DenyReason::ScopeMissing) {
        say("scope", scope);
    }
    if worker.config.resource_metadata
        && let Some(url) = public_url(&worker.config, inbound)
    {
        say("resource_metadata", &[&url.origin, WELL_KNOWN, url.path].concat());
    }
    if parameters.is_empty() {
        Some("Bearer".to_owned())
    } else {
        Some(["Bearer ", &parameters.join(", ")].concat())
    }
}

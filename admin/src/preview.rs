//! What would be stored of a body, by the same rules as the routes, without a store: for those who plan changes.

use crate::attribution::Attribution;
use crate::body::Body;
use crate::gate::{Actor, Capability};
use crate::{applications, grants, providers, resources, sinks, subject_issuers, workloads, zones};
use serde_json::Value;

/// What a body describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A managed application.
    Application,
    /// A delegated grant.
    Grant,
    /// A provider of credentials; its secrets may be left out.
    Provider,
    /// A resource.
    Resource,
    /// A notification sink.
    Sink,
    /// An issuer of users.
    SubjectIssuer,
    /// A workload with its bindings.
    Workload,
    /// A zone.
    Zone,
}

/// Why the Admin API would not take a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}{why}", if why.is_empty() { "" } else { ": " })]
#[non_exhaustive]
pub struct Refused {
    /// The `error` that it would answer.
    pub code: String,
    /// Its `error_description`; no value of a secret is ever in it.
    pub why: String,
    /// The member of the body that is to blame, where one is known.
    pub member: Option<String>,
}

/// The body as it would be stored, with what is left out filled in. Names that are reserved for the platform are
/// refused; whether other objects are there, and whether the name is free, is for the routes to say.
pub fn preview(object: Object, body: &Value) -> Result<Value, Refused> {
    let actor = Actor {
        id: String::new(),
        name: String::new(),
        zone: None,
        capability: Capability::Write,
        bootstrap: false,
        attribution: Attribution::default(),
    };
    let (members, body) = (body, Body::of(body));
    let stored = match object {
        Object::Application => applications::preview(&actor, &body),
        Object::Grant => grants::preview(&body),
        Object::Provider => providers::preview(&actor, &body),
        Object::Resource => resources::preview(&actor, &body),
        Object::Sink => sinks::preview(&body),
        Object::SubjectIssuer => subject_issuers::preview(&body),
        Object::Workload => workloads::preview(&body),
        Object::Zone => zones::preview(&actor, &body),
    };
    stored.map_err(|problem| {
        let (code, why, details) = problem.into_parts();
        let column = details.get("column").and_then(Value::as_u64);
        match column {
            // Where it is in the body that was made of the value says nothing to anybody.
            Some(column) => {
                let member = if why.starts_with("missing field") { None } else { member_at(members, column) };
                let member = member.map(str::to_owned);
                let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why).to_owned();
                Refused { code, why, member }
            }
            None if details.is_null() => Refused { code, why, member: None },
            None => Refused { code, why: format!("{why} {details}").trim_start().to_owned(), member: None },
        }
    })
}

/// The member in whose text a column of the body is.
fn member_at(body: &Value, column: u64) -> Option<&str> {
    let (mut end, members) = (0_u64, body.as_object()?);
    for (index, (name, value)) in members.iter().enumerate() {
        // The colon, and the brace or comma before.
        let length = Value::from(name.as_str()).to_string().len() + value.to_string().len() + 2;
        end = end.saturating_add(u64::try_from(length).ok()?);
        // The last one is told of after the closing brace.
        if column <= end || index + 1 == members.len() {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_is_previewed_as_it_would_be_stored() {
        let cases = [
            (
                Object::Zone,
                json!({ "name": " My Zone " }),
                json!({ "name": "My Zone", "slug": "my-zone", "dcr_enabled": false }),
            ),
            (
                Object::Resource,
                json!({
                    "identifier": "resource://a", "upstream_url": "http://a.test", "credential_provider_id": "x",
                    "scopes": ["a:read", "a:read"], "operations": [{ "method": "get", "path": "/a", "scope": "a:read" }],
                }),
                json!({
                    "name": "resource://a", "identifier": "resource://a", "upstream_url": "http://a.test",
                    "scopes": ["a:read"], "operations": [{ "method": "GET", "path": "/a", "scope": "a:read" }],
                    "operation_enforcement": "enforced", "mandate_use": "single", "mcp": null,
                }),
            ),
            (
                Object::Provider,
                json!({ "identifier": "provider://w", "kind": "api_key", "config_json": { "header_name": "X-Key" } }),
                json!({
                    "name": "provider://w", "identifier": "provider://w", "kind": "api_key", "secret_keys": [],
                    "needs": ["api_key"], "config_json": { "header_name": "X-Key" },
                }),
            ),
            (
                Object::Workload,
                json!({ "name": "w", "bindings": [{ "env": "KEY", "resource": "resource://a", "optional": false }] }),
                json!({ "name": "w", "bindings": [{ "env": "KEY", "resource": "resource://a" }] }),
            ),
        ];
        for (object, body, expected) in cases {
            assert_eq!(preview(object, &body), Ok(expected), "{object:?}");
        }
    }

    #[test]
    fn the_member_to_blame_is_named() {
        let cases = [
            (
                json!({ "issuer": "https://a.test", "jwks_url": "http://a.test", "audience": "a" }),
                Some("jwks_url"),
            ),
            (
                json!({ "issuer": "https://a.test", "jwks_url": "https://a.test", "audience": "" }),
                Some("audience"),
            ),
            (json!({ "issuer": 5, "jwks_url": "https://a.test", "audience": "a" }), Some("issuer")),
        ];
        for (body, member) in cases {
            let refused = preview(Object::SubjectIssuer, &body).unwrap_err();
            assert_eq!(refused.member.as_deref(), member, "{refused:?}");
            assert!(!refused.why.contains("column"), "{refused:?}");
        }
    }

    #[test]
    fn a_body_that_a_route_refuses_is_refused_with_the_code_of_the_route() {
        let cases = [
            (Object::Zone, json!({ "name": "caracal.sys/x" }), "reserved_namespace"),
            (Object::Zone, json!({ "name": "x", "slug": "A" }), "invalid_zone"),
            (
                Object::Application,
                json!({ "name": "x", "registration_method": "managed", "traits": ["a", "a"] }),
                "trait_duplicate",
            ),
            (Object::Provider, json!({ "identifier": "w", "kind": "none" }), "invalid_provider_identifier"),
            (
                Object::Provider,
                json!({ "identifier": "provider://w", "kind": "none", "config_json": { "a": 1 } }),
                "invalid_provider_config",
            ),
            (
                Object::Resource,
                json!({ "identifier": "resource://a", "scopes": ["a"], "upstream_url": "http://a.test" }),
                "credential_provider_required",
            ),
            (
                Object::Grant,
                json!({ "application_id": "a", "user_id": "u", "resource_id": "r", "scopes": [] }),
                "invalid_body",
            ),
            (
                Object::SubjectIssuer,
                json!({ "issuer": "http://a.test", "jwks_url": "https://a.test/k", "audience": "a" }),
                "invalid_subject_issuer",
            ),
            (Object::Sink, json!({ "name": "s", "url": "https://127.0.0.1/" }), "invalid_sink_url"),
            (
                Object::Workload,
                json!({ "name": "w", "bindings": [{ "env": "LD_PRELOAD", "resource": "r" }] }),
                "invalid_credential_env",
            ),
        ];
        for (object, body, code) in cases {
            assert_eq!(
                preview(object, &body).map_err(|refused| refused.code),
                Err(code.to_owned()),
                "{body}"
            );
        }
    }
}

//! The feed's JSON, read and written by hand.
//!
//! The types derive the same form in `caracal-mandate`, and a test here holds both together. What the
//! derived code costs is size: one copy of the parser per type made up an eighth of the module, and
//! every worker compiles all of it when Envoy starts.

use caracal_mandate::anchor::{Anchor, RevokedAnchor};
use caracal_mandate::epoch::{AuthorityEpoch, Generation, PolicyEpoch};
use caracal_mandate::feed::{CredentialKind, FeedResponse, ResourceEntry, UpstreamEntry, ZoneFeed};
use caracal_mandate::id::{
    AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, KeyId, ResourceIdentifier, ZoneId,
};
use caracal_mandate::json::{self, Member};
use caracal_mandate::jwks::Jwk;
use caracal_mandate::mcp::{McpEntry, McpRule};
use caracal_mandate::operation::{Operation, OperationEnforcement, PathMatch};
use caracal_mandate::scope::Scope;
use serde_json::{Map, Value};

/// An answer of the feed that is none. Nothing of it is used: half a revocation list is worse than an
/// old one, which at least grows stale.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// Not JSON.
    #[error("the answer is not JSON")]
    Json,
    /// A member is missing, or is not what it has to be.
    #[error("in the answer, {0}")]
    Member(#[from] Member),
}

/// Reads an answer of the feed.
///
/// # Errors
/// Any [`WireError`].
pub fn read(text: &[u8]) -> Result<FeedResponse, WireError> {
    let value: Value = json::parse(text).map_err(|_| WireError::Json)?;
    Ok(FeedResponse {
        previous: Generation(json::number(&value, "previous")?),
        generation: Generation(json::number(&value, "generation")?),
        snapshot: json::flag(&value, "snapshot")?.ok_or(Member("snapshot"))?,
        issuer: json::text(&value, "issuer")?.to_owned(),
        time: json::number(&value, "time")?,
        zones: json::required(&value, "zones").and_then(|_| list(&value, "zones", read_zone))?,
        removed_zones: list(&value, "removed_zones", |zone| parse(zone, |text| ZoneId::new(text).ok()))?,
    })
}

fn read_zone(zone: &Value) -> Option<ZoneFeed> {
    let keys = match zone.get("keys") {
        None | Some(Value::Null) => None,
        Some(_) => Some(list(zone, "keys", read_key).ok()?),
    };
    let resource_id = |value: &Value| parse(value, |text| ResourceIdentifier::new(text).ok());
    Some(ZoneFeed {
        zone_id: ZoneId::new(json::text(zone, "zone_id").ok()?).ok()?,
        authority_epoch: AuthorityEpoch(json::number(zone, "authority_epoch").ok()?),
        policy_epoch: PolicyEpoch(json::number(zone, "policy_epoch").ok()?),
        keys,
        resources: list(zone, "resources", read_resource).ok()?,
        removed_resources: list(zone, "removed_resources", resource_id).ok()?,
        revoked: list(zone, "revoked", read_revoked).ok()?,
        restored: list(zone, "restored", read_anchor).ok()?,
    })
}

fn read_key(key: &Value) -> Option<Jwk> {
    let text = |name| json::text(key, name).ok().map(str::to_owned);
    let usage = match key.get("use") {
        None | Some(Value::Null) => None,
        Some(usage) => Some(usage.as_str()?.to_owned()),
    };
    let key_ops = match key.get("key_ops") {
        None | Some(Value::Null) => None,
        Some(_) => Some(list(key, "key_ops", |operation| operation.as_str().map(str::to_owned)).ok()?),
    };
    Some(Jwk {
        kty: text("kty")?,
        crv: text("crv")?,
        usage,
        kid: KeyId::new(text("kid")?).ok()?,
        alg: text("alg")?,
        x: text("x")?,
        y: text("y")?,
        key_ops,
    })
}

fn read_resource(resource: &Value) -> Option<ResourceEntry> {
    let enforcement = match json::text(resource, "enforcement").ok()? {
        "enforced" => OperationEnforcement::Enforced,
        "transport_uniform" => OperationEnforcement::TransportUniform,
        _ => return None,
    };
    Some(ResourceEntry {
        identifier: ResourceIdentifier::new(json::text(resource, "identifier").ok()?).ok()?,
        operations: list(resource, "operations", read_operation).ok()?,
        enforcement,
        multi_use: json::flag(resource, "multi_use").ok()?.unwrap_or(false),
        scopes: read_scopes(resource, "scopes")?,
        upstream: match resource.get("upstream") {
            None => None,
            Some(upstream) => Some(read_upstream(upstream)?),
        },
        mcp: match resource.get("mcp") {
            None => None,
            Some(mcp) => Some(read_mcp(mcp)?),
        },
    })
}

fn read_mcp(mcp: &Value) -> Option<McpEntry> {
    let perhaps = |name: &'static str| match mcp.get(name) {
        None => Some(None),
        Some(_) => read_scopes(mcp, name).map(Some),
    };
    Some(McpEntry {
        path: json::text(mcp, "path").ok()?.to_owned(),
        methods: list(mcp, "methods", read_rule).ok()?,
        tools: list(mcp, "tools", read_rule).ok()?,
        stream: perhaps("stream")?,
        end: perhaps("end")?,
        responses: perhaps("responses")?,
        max_body_bytes: json::number(mcp, "max_body_bytes").ok()?,
    })
}

fn read_rule(rule: &Value) -> Option<McpRule> {
    json::required(rule, "scopes").ok()?;
    Some(McpRule { name: json::text(rule, "name").ok()?.to_owned(), scopes: read_scopes(rule, "scopes")? })
}

fn read_scopes(value: &Value, name: &'static str) -> Option<Vec<Scope>> {
    list(value, name, |scope| parse(scope, |text| Scope::new(text).ok())).ok()
}

fn read_upstream(upstream: &Value) -> Option<UpstreamEntry> {
    let credential = match json::text(upstream, "credential").ok()? {
        "none" => CredentialKind::None,
        "mandate" => CredentialKind::Mandate,
        "brokered" => CredentialKind::Brokered,
        _ => return None,
    };
    Some(UpstreamEntry { url: json::text(upstream, "url").ok()?.to_owned(), credential })
}

fn read_operation(operation: &Value) -> Option<Operation> {
    Some(Operation {
        method: json::text(operation, "method").ok()?.to_owned(),
        path: json::text(operation, "path").ok()?.to_owned(),
        scope: Scope::new(json::text(operation, "scope").ok()?).ok()?,
        matching: match operation.get("match") {
            None => PathMatch::Exact,
            Some(kind) => parse(kind, PathMatch::parse)?,
        },
    })
}

fn read_revoked(revoked: &Value) -> Option<RevokedAnchor> {
    Some(RevokedAnchor { anchor: read_anchor(revoked)?, until: json::number(revoked, "until").ok()? })
}

fn read_anchor(anchor: &Value) -> Option<Anchor> {
    let id = json::text(anchor, "id").ok()?;
    Some(match json::text(anchor, "kind").ok()? {
        "authority_record" => Anchor::AuthorityRecord(AuthorityRecordId::new(id).ok()?),
        "agent_session" => Anchor::AgentSession(AgentSessionId::new(id).ok()?),
        "delegation_edge" => Anchor::DelegationEdge(DelegationEdgeId::new(id).ok()?),
        "application" => Anchor::Application(ApplicationId::new(id).ok()?),
        _ => return None,
    })
}

fn list<T>(value: &Value, name: &'static str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, Member> {
    json::items(value, name)?.iter().map(read).collect::<Option<_>>().ok_or(Member(name))
}

fn parse<T>(value: &Value, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    read(value.as_str()?)
}

/// Writes an answer of the feed.
#[must_use]
pub fn write(response: &FeedResponse) -> Vec<u8> {
    let zones = response.zones.iter().map(write_zone).collect();
    let mut members = vec![
        ("previous", response.previous.0.into()),
        ("generation", response.generation.0.into()),
        ("snapshot", response.snapshot.into()),
        ("issuer", string(&response.issuer)),
        ("time", response.time.into()),
        ("zones", Value::Array(zones)),
    ];
    push_list(
        &mut members,
        "removed_zones",
        response.removed_zones.iter().map(|zone| string(zone.as_str())).collect(),
    );
    serde_json::to_vec(&object(members)).unwrap_or_default()
}

fn write_zone(zone: &ZoneFeed) -> Value {
    let mut members = vec![
        ("zone_id", string(zone.zone_id.as_str())),
        ("authority_epoch", zone.authority_epoch.0.into()),
        ("policy_epoch", zone.policy_epoch.0.into()),
    ];
    if let Some(keys) = &zone.keys {
        members.push(("keys", Value::Array(keys.iter().map(write_key).collect())));
    }
    push_list(&mut members, "resources", zone.resources.iter().map(write_resource).collect());
    let removed = zone.removed_resources.iter().map(|resource| string(resource.as_str())).collect();
    push_list(&mut members, "removed_resources", removed);
    let revoked = zone.revoked.iter().map(|revoked| {
        let mut members = anchor_members(&revoked.anchor);
        members.push(("until", revoked.until.into()));
        object(members)
    });
    push_list(&mut members, "revoked", revoked.collect());
    push_list(
        &mut members,
        "restored",
        zone.restored.iter().map(|anchor| object(anchor_members(anchor))).collect(),
    );
    object(members)
}

fn write_key(key: &Jwk) -> Value {
    let mut members = vec![
        ("kty", string(&key.kty)),
        ("crv", string(&key.crv)),
        ("kid", string(key.kid.as_str())),
        ("alg", string(&key.alg)),
        ("x", string(&key.x)),
        ("y", string(&key.y)),
    ];
    if let Some(usage) = &key.usage {
        members.push(("use", string(usage)));
    }
    if let Some(operations) = &key.key_ops {
        members
            .push(("key_ops", Value::Array(operations.iter().map(|operation| string(operation)).collect())));
    }
    object(members)
}

fn write_resource(resource: &ResourceEntry) -> Value {
    // A kind of enforcement that is not known here is written as the strict one.
    let enforcement = match resource.enforcement {
        OperationEnforcement::TransportUniform => "transport_uniform",
        _ => "enforced",
    };
    let operations = resource.operations.iter().map(|operation| {
        let mut members = vec![
            ("method", string(&operation.method)),
            ("path", string(&operation.path)),
            ("scope", string(operation.scope.as_str())),
        ];
        if operation.matching != PathMatch::Exact {
            members.push(("match", string(operation.matching.as_str())));
        }
        object(members)
    });
    let mut members = vec![
        ("identifier", string(resource.identifier.as_str())),
        ("enforcement", string(enforcement)),
        ("multi_use", resource.multi_use.into()),
    ];
    push_list(&mut members, "operations", operations.collect());
    push_list(&mut members, "scopes", write_scopes(&resource.scopes));
    if let Some(upstream) = &resource.upstream {
        // A kind of credential that is not known here was never read here either: only the STS knows it.
        let credential = match upstream.credential {
            CredentialKind::None => "none",
            CredentialKind::Mandate => "mandate",
            _ => "brokered",
        };
        let upstream = vec![("url", string(&upstream.url)), ("credential", string(credential))];
        members.push(("upstream", object(upstream)));
    }
    if let Some(mcp) = &resource.mcp {
        members.push(("mcp", write_mcp(mcp)));
    }
    object(members)
}

fn write_mcp(mcp: &McpEntry) -> Value {
    let mut members = vec![("path", string(&mcp.path)), ("max_body_bytes", mcp.max_body_bytes.into())];
    for (name, rules) in [("methods", &mcp.methods), ("tools", &mcp.tools)] {
        let rules = rules.iter().map(|rule| {
            object(vec![("name", string(&rule.name)), ("scopes", Value::Array(write_scopes(&rule.scopes)))])
        });
        push_list(&mut members, name, rules.collect());
    }
    for (name, scopes) in [("stream", &mcp.stream), ("end", &mcp.end), ("responses", &mcp.responses)] {
        // None needed and not permitted at all are two things.
        if let Some(scopes) = scopes {
            members.push((name, Value::Array(write_scopes(scopes))));
        }
    }
    object(members)
}

fn write_scopes(scopes: &[Scope]) -> Vec<Value> {
    scopes.iter().map(|scope| string(scope.as_str())).collect()
}

fn anchor_members(anchor: &Anchor) -> Vec<(&'static str, Value)> {
    let (kind, id) = match anchor {
        Anchor::AuthorityRecord(id) => ("authority_record", id.as_str()),
        Anchor::AgentSession(id) => ("agent_session", id.as_str()),
        Anchor::DelegationEdge(id) => ("delegation_edge", id.as_str()),
        Anchor::Application(id) => ("application", id.as_str()),
        // A kind that is not known here was never read here either.
        _ => ("", ""),
    };
    vec![("kind", string(kind)), ("id", string(id))]
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn object(members: Vec<(&'static str, Value)>) -> Value {
    let mut object = Map::new();
    for (name, value) in members {
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

fn push_list(members: &mut Vec<(&'static str, Value)>, name: &'static str, items: Vec<Value>) {
    if !items.is_empty() {
        members.push((name, Value::Array(items)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::es256::PublicKey;
    use serde_json::json;

    fn full() -> FeedResponse {
        let session = || Anchor::AgentSession(AgentSessionId::new("s").unwrap());
        let anchors = [
            session(),
            Anchor::AuthorityRecord(AuthorityRecordId::new("r").unwrap()),
            Anchor::DelegationEdge(DelegationEdgeId::new("e").unwrap()),
            Anchor::Application(ApplicationId::new("a").unwrap()),
        ];
        let key = Jwk::new(KeyId::new("k1").unwrap(), &PublicKey { x: [1; 32], y: [2; 32] });
        let bare = Jwk { usage: None, key_ops: Some(vec!["verify".into()]), ..key.clone() };
        let entry = |identifier: &str, enforcement, multi_use, credential| ResourceEntry {
            identifier: ResourceIdentifier::new(identifier).unwrap(),
            operations: [PathMatch::Exact, PathMatch::Template, PathMatch::Prefix]
                .map(|matching| Operation {
                    method: "GET".into(),
                    path: "/\"quoted\"".into(),
                    scope: Scope::new("orders:read").unwrap(),
                    matching,
                })
                .to_vec(),
            enforcement,
            multi_use,
            scopes: vec![Scope::new("orders:read").unwrap()],
            upstream: Some(UpstreamEntry { url: "https://orders.internal".into(), credential }),
            mcp: None,
        };
        let rule = |name: &str, scopes: &[&str]| McpRule {
            name: name.into(),
            scopes: scopes.iter().map(|scope| Scope::new(*scope).unwrap()).collect(),
        };
        let mcp = McpEntry {
            path: "/mcp".into(),
            methods: vec![rule("ping", &[]), rule("tools/list", &["orders:read"])],
            tools: vec![rule("find", &["orders:read", "orders:write"])],
            stream: Some(vec![]),
            end: None,
            responses: Some(vec![Scope::new("orders:read").unwrap()]),
            max_body_bytes: 4_096,
        };
        let speaks = |entry: ResourceEntry| ResourceEntry { mcp: Some(mcp.clone()), ..entry };
        FeedResponse {
            previous: Generation(4),
            generation: Generation(9),
            snapshot: false,
            issuer: "http://sts:8080".into(),
            time: 1_700_000_000_000,
            zones: vec![
                ZoneFeed {
                    zone_id: ZoneId::new("z1").unwrap(),
                    authority_epoch: AuthorityEpoch(7),
                    policy_epoch: PolicyEpoch(3),
                    keys: Some(vec![key, bare]),
                    resources: vec![
                        speaks(entry(
                            "resource://a",
                            OperationEnforcement::Enforced,
                            true,
                            CredentialKind::None,
                        )),
                        entry(
                            "resource://b",
                            OperationEnforcement::TransportUniform,
                            false,
                            CredentialKind::Mandate,
                        ),
                        entry("resource://d", OperationEnforcement::Enforced, true, CredentialKind::Brokered),
                    ],
                    removed_resources: vec![ResourceIdentifier::new("resource://c").unwrap()],
                    revoked: anchors.into_iter().map(|anchor| RevokedAnchor { anchor, until: 5 }).collect(),
                    restored: vec![session()],
                },
                ZoneFeed {
                    zone_id: ZoneId::new("z2").unwrap(),
                    authority_epoch: AuthorityEpoch(0),
                    policy_epoch: PolicyEpoch(0),
                    keys: None,
                    resources: vec![],
                    removed_resources: vec![],
                    revoked: vec![],
                    restored: vec![],
                },
            ],
            removed_zones: vec![ZoneId::new("z3").unwrap()],
        }
    }

    #[test]
    fn the_derived_form_and_this_one_are_the_same() {
        let response = full();
        let derived = serde_json::to_value(&response).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&write(&response)).unwrap(), derived);
        assert_eq!(read(derived.to_string().as_bytes()).unwrap(), response);
    }

    #[test]
    fn one_malformed_member_spoils_the_whole_answer() {
        let good = serde_json::to_value(full()).unwrap();
        for (pointer, wrong) in [
            ("/generation", json!("9")),
            ("/generation", json!(-1)),
            ("/snapshot", json!(null)),
            ("/issuer", json!(7)),
            ("/time", json!("now")),
            ("/zones", json!({})),
            ("/zones/0/zone_id", json!("../z")),
            ("/zones/0/authority_epoch", json!(1.5)),
            ("/zones/0/keys/0/kid", json!("")),
            ("/zones/0/keys/1/key_ops", json!("verify")),
            ("/zones/0/resources/0/enforcement", json!("off")),
            ("/zones/0/resources/0/operations/0/scope", json!("")),
            ("/zones/0/resources/0/upstream", json!("http://x")),
            ("/zones/0/resources/0/upstream/credential", json!("any")),
            ("/zones/0/resources/0/scopes/0", json!("a b")),
            ("/zones/0/resources/0/operations/1/match", json!("regex")),
            ("/zones/0/resources/0/mcp", json!(null)),
            ("/zones/0/resources/0/mcp/path", json!(1)),
            ("/zones/0/resources/0/mcp/max_body_bytes", json!("4096")),
            ("/zones/0/resources/0/mcp/stream", json!("orders:read")),
            ("/zones/0/resources/0/mcp/tools/0/name", json!(null)),
            ("/zones/0/resources/0/mcp/tools/0/scopes", json!(null)),
            ("/zones/0/resources/0/mcp/methods/1/scopes/0", json!("a b")),
            ("/zones/0/revoked/0/kind", json!("planet")),
            ("/zones/0/revoked/0/id", json!("")),
            ("/zones/0/revoked/0/until", json!(null)),
            ("/zones/0/restored/0", json!("s")),
            ("/removed_zones/0", json!(1)),
        ] {
            let mut changed = good.clone();
            *changed.pointer_mut(pointer).unwrap() = wrong.clone();
            assert!(read(changed.to_string().as_bytes()).is_err(), "{pointer} = {wrong}");
        }
        assert_eq!(read(b"{").unwrap_err(), WireError::Json);
        assert!(read(b"[]").is_err());
    }
}

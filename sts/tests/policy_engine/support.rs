//! A small zone and the requests that its applications make.

use caracal_sts::policy::input::{Action, Context, DelegationEdge, Principal, Resource};
use caracal_sts::policy::{Bundle, PolicyInput};
use serde_json::{Map, Value, json};

pub(crate) const ORDERS: &str = "resource://orders";
pub(crate) const LEDGER: &str = "resource://ledger";

/// Two applications, one resource each; `billing` is also reachable as `billing-old`.
pub(crate) const ZONE: &str = r#"# caracal:data-document
package caracal.authz

import rego.v1

app_ids := {"billing": "app-1", "billing-old": "app-1", "books": "app-2"}

grants := {
	"resource://orders": {
		"application": "billing",
		"roles": {"payer": ["r:pay", "r:read"], "reader": ["r:read"]},
	},
	"resource://ledger": {"application": "books", "roles": {"payer": ["r:pay"]}},
}
"#;

pub(crate) fn document(rules: &str) -> String {
    format!("package caracal.authz\n\nimport rego.v1\n\n{rules}\n")
}

/// The zone above together with further rules.
pub(crate) fn zone_with(rules: &str) -> Bundle {
    Bundle::compile(&[("zone", ZONE.to_owned()), ("more", document(rules))]).expect("documents compile")
}

pub(crate) fn zone() -> Bundle {
    Bundle::compile(&[("zone", ZONE)]).expect("documents compile")
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

/// An application that asks for its own lifecycle authority.
pub(crate) fn bootstrap(application: &str) -> PolicyInput {
    PolicyInput {
        principal: Principal {
            kind: "Application".into(),
            id: application.into(),
            zone_id: "zone-1".into(),
            registration_method: "managed".into(),
            ..Principal::default()
        },
        resource: Resource {
            id: "res-1".into(),
            identifier: ORDERS.into(),
            scopes: texts(&["r:pay", "r:read"]),
            ..Resource::default()
        },
        action: Action { id: "TokenExchange".into(), ..Action::default() },
        context: Context {
            actor_claims: object(json!({ "caracal_client_id": application })),
            requested_scopes: texts(&["agent:lifecycle"]),
            ..Context::default()
        },
        ..PolicyInput::default()
    }
}

/// A session of `app-1` that asks for `scopes` under an edge that carries `edge`.
pub(crate) fn mint(labels: &[&str], edge: &[&str], scopes: &[&str]) -> PolicyInput {
    let mut input = bootstrap("app-1");
    input.principal.agent_session_id = "session-t".into();
    input.principal.lifecycle = "task".into();
    input.principal.labels = texts(labels);
    input.delegation_edge = Some(DelegationEdge {
        id: "edge-1".into(),
        source_session_id: "session-s".into(),
        target_session_id: "session-t".into(),
        scopes: texts(edge),
        path: texts(&["edge-1"]),
        ..DelegationEdge::default()
    });
    input.context.agent_session_id = "session-t".into();
    input.context.delegation_edge_id = "edge-1".into();
    input.context.requested_scopes = texts(scopes);
    input
}

/// A workload that has a binding with `scopes` injected.
pub(crate) fn workload(scopes: &[&str]) -> PolicyInput {
    let mut input = bootstrap("workload-1");
    input.principal.kind = "Workload".into();
    input.principal.registration_method.clear();
    input.action.id = "CredentialInjection".into();
    input.context.requested_scopes = texts(scopes);
    input
}

/// A gateway mandate of `app-1` for `target` that carries `scope`, presented for use on `ORDERS`.
pub(crate) fn usage(labels: &[&str], target: &[&str], scope: &str) -> PolicyInput {
    let mut input = bootstrap("app-1");
    input.principal.labels = texts(labels);
    input.action.method = "POST".into();
    input.action.path = "/orders".into();
    input.context.requested_scopes.clear();
    input.context.subject_claims = object(json!({
        "sub": "app-1", "use": "gateway", "scope": scope, "target": target, "delegation_edge_id": "edge-1",
    }));
    input
}

/// The same request for another resource.
pub(crate) fn on(resource: &str, mut input: PolicyInput) -> PolicyInput {
    input.resource.identifier = resource.into();
    input
}

/// The same request with one claim of the subject token changed; null removes it.
pub(crate) fn with_claim(mut input: PolicyInput, name: &str, value: Value) -> PolicyInput {
    if value.is_null() {
        input.context.subject_claims.remove(name);
    } else {
        input.context.subject_claims.insert(name.to_owned(), value);
    }
    input
}

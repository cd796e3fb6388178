//! The routes of the STS as data: one declaration makes the router and the OpenAPI document.

use crate::routes::{CHECK_PATH, TOKEN_PATH, check, feed, health, jwks, ready, token};
use crate::{Sts, approvals, internal_policy, key_rotation, mandates, run};
use axum::Json;
use caracal_mandate::feed::FEED_PATH;
use caracal_store::openapi::schema::{
    any, exactly, flag, id, list, list_of, maybe, named, number, number_of, object, one_of, open_object,
    problem, text, text_of, time,
};
use caracal_store::openapi::{Document, Operation, Routes, Verb};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";
/// How gateways and other services sign what they ask (`X-Caracal-Gateway-Signature`).
const SIGNED: &str = "gateway_signature";
const OPERATOR: &str = "operator_token";
const USER: &str = "session_mandate";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

fn get(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Verb::Get, name, path, summary)
}

fn post(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Verb::Post, name, path, summary)
}

fn refuses(operation: Operation, statuses: &[u16]) -> Operation {
    operation.refuses(statuses, &named("Problem"))
}

/// Every route.
pub(crate) fn routes() -> Routes<Sts> {
    tokens().merge(gateways()).merge(launchers()).merge(policy()).merge(holds()).merge(operations_of_hosts())
}

/// The OpenAPI document of the STS.
#[must_use]
pub fn document() -> Value {
    let signed = json!({
        "type": "apiKey", "in": "header", "name": "X-Caracal-Gateway-Signature",
        "description": "An HMAC over method, target, time, nonce and body",
    });
    let bearer = |what: &str| json!({ "type": "http", "scheme": "bearer", "description": what });
    let document = Document {
        title: "Caracal STS",
        description: "Exchanges tokens for mandates, and answers gateways.",
        components: components(),
        security: vec![
            (SIGNED, signed),
            (OPERATOR, bearer("The token of operators at the STS")),
            (USER, bearer("The session mandate of the person who decides")),
        ],
    };
    document.of(&operations())
}

/// What every route does: what [`document`] is made of.
#[must_use]
pub fn operations() -> Vec<Operation> {
    routes().into_parts().1
}

/// `GET /openapi.json`
async fn openapi() -> Json<Value> {
    Json(document())
}

fn tokens() -> Routes<Sts> {
    let client = || {
        open_object(&[
            ("token", text()),
            ("application_id?", text()),
            ("client_id?", text()),
            ("client_secret?", text()),
        ])
    };
    let every = [400, 401, 403, 413, 415, 429, 500, 503];
    let metadata = open_object(&[("issuer", text()), ("token_endpoint", text()), ("jwks_uri", text())]);
    let exchange = post("exchange_token", TOKEN_PATH, "Exchanges a token for a mandate (RFC 8693)")
        .takes_as(FORM, token_request(&[]), true)
        .answers(200, named("TokenResponse"));
    let introspect = post("introspect", mandates::INTROSPECTION_PATH, "What a mandate says (RFC 7662)")
        .takes_as(FORM, client(), true)
        .answers(200, open_object(&[("active", flag())]));
    let revoke = post("revoke_token", mandates::REVOCATION_PATH, "Takes a mandate back (RFC 7009)")
        .takes_as(FORM, client(), true)
        .answers_nothing(200);
    let keys = get("jwks", "/.well-known/jwks.json", "The public keys of a zone")
        .query(&[("zone_id", id())])
        .answers(200, object(&[("keys", list(named("Jwk")))]));
    Routes::default()
        .add(refuses(exchange, &[400, 401, 403, 404, 409, 413, 415, 429, 500, 502, 503]), token)
        .add(refuses(introspect, &every), mandates::introspect)
        .add(refuses(revoke, &every), mandates::revoke)
        .add(
            get("authorization_server", mandates::METADATA_PATH, "Where all of it is (RFC 8414)")
                .answers(200, metadata),
            mandates::metadata,
        )
        .add(refuses(keys, &[400, 404, 500, 503]), jwks)
}

/// The fields of a token request, with these besides.
fn token_request(more: &[(&str, Value)]) -> Value {
    let mut fields = vec![
        ("grant_type", exactly(TOKEN_EXCHANGE)),
        ("application_id", text()),
        ("client_secret?", text()),
        ("subject_token?", text()),
        (
            "subject_token_type?",
            one_of(&[
                "urn:ietf:params:oauth:token-type:access_token",
                "urn:ietf:params:oauth:token-type:id_token",
            ]),
        ),
        ("resource?", list(text())),
        ("zone_id?", text()),
        ("session_id?", text()),
        ("agent_session_id?", text()),
        ("delegation_edge_id?", text()),
        ("scope?", text()),
        ("ttl_seconds?", text()),
        ("approval_id?", text()),
    ];
    fields.extend(more.iter().cloned());
    open_object(&fields)
}

fn gateways() -> Routes<Sts> {
    let fed = get("gateway_feed", FEED_PATH, "What gateways have to know, as soon as it changed")
        .behind(SIGNED)
        .query(&[
            ("gateway", id()),
            ("since?", number_of(0, i64::MAX)),
            ("wait?", number_of(0, i64::from(u32::MAX))),
        ])
        .answers(200, named("Feed"));
    let asked = token_request(&[
        ("mandate_use", one_of(&["gateway", "resource"])),
        ("gateway_request_id", text()),
        ("request_method?", text()),
        ("request_path?", text()),
    ]);
    let checked = post("check_mandate", CHECK_PATH, "Does a mandate still stand")
        .behind(SIGNED)
        .takes_as(FORM, asked, true)
        .answers(200, object(&[("active", exactly(true))]));
    Routes::default()
        .add(refuses(fed, &[400, 401, 503]), feed)
        .add(refuses(checked, &[400, 401, 403, 404, 409, 413, 415, 429, 500, 502, 503]), check)
}

fn launchers() -> Routes<Sts> {
    let who = [("workload_id", text()), ("secret", text())];
    let wish = [("workload_id", text()), ("secret", text()), ("env", text()), ("approval_id?", text())];
    let binding = open_object(&[("env", text()), ("resource", text())]);
    let manifest = post("run_manifest", run::MANIFEST_PATH, "Which variables a workload may fill")
        .takes_as(FORM, open_object(&who), true)
        .answers(200, object(&[("zone_id", id()), ("workload_id", id()), ("bindings", list(binding))]));
    let credential = post("run_credential", run::CREDENTIAL_PATH, "A credential for one variable")
        .takes_as(FORM, open_object(&wish), true)
        .answers(200, object(&[("env", text()), ("credential", text()), ("expires_at?", number())]));
    let every = [400, 401, 403, 404, 409, 413, 415, 429, 500, 502, 503];
    Routes::default()
        .add(refuses(manifest, &every), run::manifest)
        .add(refuses(credential, &every), run::credential)
}

fn policy() -> Routes<Sts> {
    let source = open_object(&[("id", text()), ("content", text())]);
    let asked = open_object(&[
        ("policy_set_id?", text()),
        ("version_id?", text()),
        ("manifest_sha256?", text()),
        ("policies", list_of(source, 1, 256)),
        ("input?", json!({ "type": "object" })),
    ]);
    let simulated = object(&[
        ("policy_set_id", text()),
        ("version_id", text()),
        ("manifest_sha256", text()),
        ("result", any()),
    ]);
    let loaded = object(&[
        ("zone_id", text()),
        ("loaded", flag()),
        ("manifest_sha256?", text()),
        ("loaded_at?", time()),
        ("age_seconds?", number()),
        ("policy_set_version_id?", text()),
        ("fallback?", exactly("deny_all")),
    ]);
    let simulate = post("simulate_policy", "/internal/policy/simulate", "What policies would decide")
        .behind(SIGNED)
        .takes(asked)
        .answers(200, simulated);
    let status = get("policy_status", "/internal/policy/status/{zone}", "What is loaded of a zone")
        .behind(SIGNED)
        .answers(200, loaded);
    Routes::default()
        .add(refuses(simulate, &[400, 401, 422, 503]), internal_policy::simulate)
        .add(refuses(status, &[400, 401, 503]), internal_policy::status)
}

fn holds() -> Routes<Sts> {
    let states = one_of(&["pending", "approved", "rejected", "consumed", "expired"]);
    let state = object(&[("id", id()), ("state", states), ("expires_at", time())]);
    let decision = open_object(&[
        ("decision", one_of(&["approved", "rejected"])),
        ("binding?", text()),
        ("reason?", maybe(text_of(0, 500))),
    ]);
    let status = get("approval_status", "/approvals/{id}", "What a hold has come to")
        .query(&[("wait?", number_of(0, i64::from(u32::MAX)))])
        .answers(200, state.clone());
    let decide =
        post("decide_approval", "/approvals/{id}/decision", "A person lets a hold go on, or ends it")
            .behind(USER)
            .takes(decision)
            .answers(200, state);
    Routes::default()
        .add(refuses(status, &[400, 404, 503]), approvals::status)
        .add(refuses(decide, &[400, 401, 403, 404, 409, 503]), approvals::decide)
}

fn operations_of_hosts() -> Routes<Sts> {
    let rotated = object(&[("rotated", exactly(true)), ("zone_id", id()), ("kid", text())]);
    let rotate = |name, path| {
        let operation = post(name, path, "Makes a zone sign with a new key").behind(OPERATOR);
        refuses(operation.answers(200, rotated.clone()), &[400, 500])
            .answers_as(401, "text/plain", text())
            .answers_as(404, "text/plain", text())
    };
    let ready_body = object(&[("ok", flag()), ("ready", flag()), ("reason?", text())]);
    let [one, none] = key_rotation::PATHS;
    Routes::default()
        .add(rotate("rotate_signing_key", one), key_rotation::rotate)
        // Without a zone it is refused as one that is not there, and not as a route that is not there.
        .add(rotate("rotate_signing_key_of_none", none), key_rotation::rotate)
        .add(get("health", "/health", "Is the process alive").answers_nothing(200), health)
        .add(
            get("ready", "/ready", "Does the database answer")
                .answers(200, ready_body.clone())
                .answers(503, ready_body),
            ready,
        )
        .add(
            get("openapi", "/openapi.json", "This document").answers(200, json!({ "type": "object" })),
            openapi,
        )
}

fn components() -> Vec<(&'static str, Value)> {
    let directive = object(&[
        ("url", text()),
        ("auth_mode", text()),
        ("auth_location?", text()),
        ("auth_header?", text()),
        ("query_param_name?", text()),
        ("auth_scheme?", text()),
        ("allowed_token_hosts?", list(text())),
        ("provider_token?", text()),
        ("provider_id?", text()),
        ("connection_id?", text()),
        ("forward_caracal_identity?", flag()),
        ("expires_at?", number()),
        ("cache_until?", number()),
    ]);
    let token = object(&[
        ("access_token", text()),
        ("token_type", text()),
        ("expires_in", number()),
        ("scope?", text()),
        ("issued_token_type", text()),
        ("target_resources?", list(text())),
        ("upstreams?", json!({ "type": "object", "additionalProperties": named("Directive") })),
    ]);
    let key = object(&[
        ("kty", exactly("EC")),
        ("crv", exactly("P-256")),
        ("use?", text()),
        ("kid", text()),
        ("alg", exactly("ES256")),
        ("x", text()),
        ("y", text()),
        ("key_ops?", list(text())),
    ]);
    let feed = object(&[
        ("previous", number()),
        ("generation", number()),
        ("snapshot", flag()),
        ("issuer", text()),
        ("time", number()),
        ("zones", list(open_object(&[("zone_id", id())]))),
        ("removed_zones?", list(id())),
    ]);
    vec![
        ("Problem", problem()),
        ("TokenResponse", token),
        ("Directive", directive),
        ("Jwk", key),
        ("Feed", feed),
    ]
}

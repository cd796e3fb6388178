//! The routes of the Coordinator as data: one declaration makes the router and the OpenAPI document.

mod schemas;

use crate::config::Config;
use crate::{
    attempts, delegate, delegations, effective, invocations, lease, outbox, routes, services, sessions,
    start, stats, verify,
};
use axum::Json;
use caracal_store::openapi::schema::{
    any, exactly, flag, id, list, maybe, named, number, number_of, object, one_of, open_object, text,
    text_of, time,
};
use caracal_store::openapi::{Document, Operation, Routes, Verb};
use serde_json::{Value, json};
use std::sync::Arc;

type Table = Routes<Arc<Config>>;

const MANDATE: &str = "mandate";
const OPERATOR: &str = "operator_token";

/// An operation of a zone, which asks for a mandate or the operator's token.
fn zoned(verb: Verb, name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    refuses(
        Operation::new(verb, name, path, summary).behind(MANDATE),
        &[400, 401, 403, 404, 409, 429, 500, 503],
    )
}

fn refuses(operation: Operation, statuses: &[u16]) -> Operation {
    operation.refuses(statuses, &named("Problem"))
}

/// The same with a body.
fn sends(operation: Operation, body: Value, required: bool) -> Operation {
    refuses(operation.takes_as("application/json", body, required), &[413])
}

fn paged(operation: Operation, item: &str) -> Operation {
    let page = object(&[("items", list(named(item))), ("next_cursor", maybe(text()))]);
    operation.query(&[("limit?", number_of(1, 500)), ("cursor?", text_of(1, 128))]).answers(200, page)
}

/// What is open, or asks for something else than a mandate of the zone.
pub(crate) fn open() -> Table {
    let ready = object(&[("ok", flag()), ("draining?", flag()), ("error?", text()), ("dependency?", text())]);
    let question = object(&[
        ("zone_id", id()),
        ("authorization?", text()),
        ("token?", text()),
        ("required_scope?", text()),
        ("require_session?", flag()),
        ("require_delegation?", flag()),
    ]);
    let verified = object(&[("valid", exactly(true)), ("claims", open_object(&[("sub", text())]))]);
    let get = |name, path, summary| Operation::new(Verb::Get, name, path, summary);
    let verify_operation = Operation::new(Verb::Post, "verify", "/v1/verify", "Does a mandate stand");
    let verify_operation =
        sends(refuses(verify_operation, &[400, 401, 429, 500, 503]), question, true).answers(200, verified);
    let stats_operation = get("stats", "/stats", "What the Coordinator counts").behind(OPERATOR);
    Routes::default()
        .add(
            get("health", "/health", "Is the process alive").answers(200, object(&[("ok", exactly(true))])),
            routes::health,
        )
        .add(
            refuses(
                get("ready", "/ready", "Does the database answer")
                    .answers(200, ready.clone())
                    .answers(503, ready),
                &[429],
            ),
            routes::ready,
        )
        .add(
            get("openapi", "/openapi.json", "This document").answers(200, json!({ "type": "object" })),
            openapi,
        )
        .add(
            refuses(stats_operation, &[401, 403, 429, 500, 503]).answers(200, json!({ "type": "object" })),
            stats::route,
        )
        .add(verify_operation, verify::route)
}

/// What is in a zone.
pub(crate) fn zone() -> Table {
    agents().merge(leases()).merge(graph()).merge(calls()).merge(waiting())
}

fn agents() -> Table {
    let (all, one) = ("/zones/{zone}/agents", "/zones/{zone}/agents/{session}");
    let begin = open_object(&[
        ("application_id", id()),
        ("subject_session_id?", id()),
        ("subject_token?", text()),
        ("parent_id?", maybe(id())),
        ("lifecycle?", one_of(&["task", "service"])),
        ("labels?", list(text_of(1, 64))),
        ("ttl_seconds?", number_of(1, 86_400)),
        ("parent_authority?", one_of(&["inherit", "none"])),
        ("inherit_parent_edge_id?", id()),
        ("metadata?", json!({ "type": "object" })),
    ]);
    let listed = zoned(Verb::Get, "list_agents", all, "Agent sessions, newest first").query(&[
        ("application_id?", id()),
        ("status?", one_of(&["active", "suspended", "terminated", "expired"])),
        ("lifecycle?", one_of(&["task", "service"])),
        ("label?", text()),
    ]);
    let started = sends(zoned(Verb::Post, "start_agent", all, "Starts an agent session"), begin, true)
        .answers(200, named("StartedSession"))
        .answers(201, named("StartedSession"));
    let generation = open_object(&[("lease_generation?", number_of(1, i64::MAX))]);
    let ended = zoned(Verb::Delete, "terminate_agent", one, "Ends a session and all below it")
        .query(&[("reason?", text_of(1, 256))])
        .answers_nothing(204);
    let children = zoned(
        Verb::Get,
        "list_children",
        "/zones/{zone}/agents/{session}/children",
        "Sessions that a session started",
    );
    Routes::default()
        .add(paged(listed, "AgentSession"), sessions::list_route)
        .add(started, start::route)
        .add(
            zoned(Verb::Get, "get_agent", one, "An agent session").answers(200, named("AgentSession")),
            sessions::get_route,
        )
        .add(sends(ended, generation, false), sessions::terminate_route)
        .add(paged(children, "ChildSession"), sessions::children_route)
        .add(
            zoned(
                Verb::Get,
                "effective_authority",
                "/zones/{zone}/agents/{session}/effective-authority",
                "What delegations let a session do",
            )
            .answers(200, named("EffectiveAuthority")),
            effective::route,
        )
}

fn leases() -> Table {
    let beat = open_object(&[
        ("lease_generation", number_of(1, i64::MAX)),
        ("status?", one_of(&["starting", "healthy", "degraded", "unhealthy"])),
        ("service_id?", text()),
        ("active_invocations?", number_of(0, i64::MAX)),
        ("metadata?", json!({ "type": "object" })),
    ]);
    let taken =
        object(&[("status", text()), ("heartbeat_deadline_at", time()), ("lease_generation", number())]);
    let alive = object(&[
        ("agent", open_object(&[("id", id()), ("status", text())])),
        ("service", any()),
        ("active_invocations", number()),
    ]);
    let heartbeat = zoned(
        Verb::Post,
        "heartbeat",
        "/zones/{zone}/agents/{session}/heartbeat",
        "A service says that it lives",
    );
    Routes::default()
        .add(
            zoned(
                Verb::Patch,
                "suspend_agent",
                "/zones/{zone}/agents/{session}/suspend",
                "Lets a session and all below it rest",
            )
            .answers(200, object(&[("suspended", any())])),
            sessions::suspend_route,
        )
        .add(
            zoned(
                Verb::Patch,
                "resume_agent",
                "/zones/{zone}/agents/{session}/resume",
                "Lets a session act again",
            )
            .answers(200, object(&[("resumed", any())])),
            sessions::resume_route,
        )
        .add(
            zoned(
                Verb::Post,
                "take_lease",
                "/zones/{zone}/agents/{session}/lease",
                "Takes the lease of a service",
            )
            .answers(200, taken),
            lease::take_route,
        )
        .add(sends(heartbeat, beat, true).answers(200, alive), lease::heartbeat_route)
}

fn graph() -> Table {
    let delegate_operation =
        zoned(Verb::Post, "delegate", "/zones/{zone}/delegations", "Delegates authority to a session");
    let traversed = object(&[
        ("id", id()),
        ("source_session_id", id()),
        ("target_session_id", id()),
        ("depth", number()),
    ]);
    let edge = object(&[("id", id()), ("status", text()), ("expires_at", time())]);
    let revoked = object(&[
        ("revoked_edges", number()),
        ("affected_sessions", number()),
        ("terminated_sessions", number()),
    ]);
    let get = |name, path, summary| zoned(Verb::Get, name, path, summary);
    Routes::default()
        .add(
            sends(delegate_operation, schemas::delegation_request(), true)
                .answers(200, named("NewDelegation"))
                .answers(201, named("NewDelegation")),
            delegate::route,
        )
        .add(
            paged(
                get("active_delegations", "/zones/{zone}/delegations/active", "Delegations that are live"),
                "DelegationWithReason",
            ),
            delegations::active_route,
        )
        .add(
            paged(
                get(
                    "inbound_delegations",
                    "/zones/{zone}/delegations/inbound/{session}",
                    "Delegations that a session received",
                ),
                "Delegation",
            ),
            delegations::inbound_route,
        )
        .add(
            get(
                "inbound_delegation",
                "/zones/{zone}/delegations/inbound/{session}/{edge}",
                "Does a delegation reach a session",
            )
            .answers(200, edge),
            delegations::probe_route,
        )
        .add(
            paged(
                get(
                    "outbound_delegations",
                    "/zones/{zone}/delegations/outbound/{session}",
                    "Delegations that a session gave",
                ),
                "Delegation",
            ),
            delegations::outbound_route,
        )
        .add(
            get(
                "traverse_delegation",
                "/zones/{zone}/delegations/{edge}/traverse",
                "All that descends from a delegation",
            )
            .answers(200, list(traversed)),
            delegations::traverse_route,
        )
        .add(
            get(
                "delegation_impact",
                "/zones/{zone}/delegations/{edge}/impact",
                "What a revocation would take, and from whom",
            )
            .answers(200, named("Impact")),
            delegations::impact_route,
        )
        .add(
            zoned(
                Verb::Patch,
                "revoke_delegation",
                "/zones/{zone}/delegations/{edge}/revoke",
                "Ends a delegation and all that descends from it",
            )
            .answers(200, revoked),
            delegations::revoke_route,
        )
}

fn calls() -> Table {
    let (offered, all) = ("/zones/{zone}/agent-services", "/zones/{zone}/invocations");
    let register = zoned(Verb::Post, "register_service", offered, "Registers what an application offers");
    let invoke = zoned(Verb::Post, "invoke", all, "Asks a service for something");
    let listed = zoned(Verb::Get, "list_invocations", all, "Invocations, newest first").query(&[
        ("status?", one_of(&invocations::STATUSES)),
        ("service_id?", text()),
        ("session_id?", text()),
    ]);
    let step =
        |name, path, summary| zoned(Verb::Patch, name, path, summary).answers(200, named("Invocation"));
    let cancel =
        step("cancel_invocation", "/zones/{zone}/invocations/{invocation}/cancel", "Takes a wish back");
    let complete =
        step("complete_invocation", "/zones/{zone}/invocations/{invocation}/complete", "Says how it ended");
    let outcome = open_object(&[
        ("status", one_of(&["succeeded", "failed"])),
        ("error?", maybe(json!({ "type": "object" }))),
        ("metadata?", json!({ "type": "object" })),
    ]);
    Routes::default()
        .add(
            paged(zoned(Verb::Get, "list_services", offered, "What applications offer"), "AgentService"),
            services::list_route,
        )
        .add(
            sends(register, schemas::registration(), true).answers(201, named("AgentService")),
            services::register_route,
        )
        .add(paged(listed, "Invocation"), invocations::list_route)
        .add(
            sends(invoke, schemas::invocation_request(), true)
                .answers(200, named("Invocation"))
                .answers(201, named("Invocation")),
            invocations::create_route,
        )
        .add(
            zoned(
                Verb::Get,
                "get_invocation",
                "/zones/{zone}/invocations/{invocation}",
                "An invocation with its parameters",
            )
            .answers(200, named("InvocationWithParameters")),
            invocations::get_route,
        )
        .add(
            step("start_invocation", "/zones/{zone}/invocations/{invocation}/start", "Begins an attempt"),
            attempts::start_route,
        )
        .add(sends(cancel, open_object(&[("reason?", text_of(1, 256))]), false), attempts::cancel_route)
        .add(sends(complete, outcome, true), attempts::complete_route)
}

fn waiting() -> Table {
    let listed = zoned(Verb::Get, "list_outbox", "/zones/{zone}/outbox", "Events that wait for the ledger");
    Routes::default().add(paged(listed, "OutboxEntry"), outbox::list_route).add(
        zoned(
            Verb::Post,
            "requeue_outbox_entry",
            "/zones/{zone}/outbox/{entry}/requeue",
            "Kept for clients: no entry is ever dead, so there is none to requeue",
        )
        .answers(200, any()),
        outbox::requeue_route,
    )
}

/// The OpenAPI document of the Coordinator.
#[must_use]
pub fn document() -> Value {
    let bearer = |what: &str| json!({ "type": "http", "scheme": "bearer", "description": what });
    let document = Document {
        title: "Caracal Coordinator",
        description: "Agent sessions, leases, the delegation graph and invocations.",
        components: schemas::components(),
        security: vec![
            (MANDATE, bearer("A session mandate of the zone, or the operator's token")),
            (OPERATOR, bearer("The operator's token")),
        ],
    };
    document.of(&operations())
}

/// What every route does: what [`document`] is made of.
#[must_use]
pub fn operations() -> Vec<Operation> {
    open().merge(zone()).into_parts().1
}

/// `GET /openapi.json`
async fn openapi() -> Json<Value> {
    Json(document())
}

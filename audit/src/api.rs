//! The routes of the audit service as data: one declaration makes the router and the OpenAPI document.

use crate::gateway_events;
use crate::service::{Audit, health, ready};
use axum::Json;
use caracal_store::openapi::schema::{
    any, either, exactly, flag, id, list, list_of, maybe, named, number, number_of, object, one_of, problem,
    text, text_of,
};
use caracal_store::openapi::{Document, Operation, Routes, Verb};
use serde_json::{Value, json};

const SIGNED: &str = "gateway_signature";

/// Every route.
pub(crate) fn routes() -> Routes<Audit> {
    let sick = object(&[("ok?", exactly(false)), ("ready", exactly(false)), ("reason", text())]);
    let delivered = Operation::new(
        Verb::Post,
        "deliver_events",
        "/internal/audit/gateway-events",
        "Takes what a worker of a gateway decided",
    )
    .behind(SIGNED)
    .takes(named("Delivery"))
    .answers(200, object(&[("acknowledged", number())]))
    .refuses(&[400, 401, 413, 503], &named("Problem"));
    Routes::default()
        .add(
            Operation::new(Verb::Get, "health", "/health", "Are events taken into the ledger")
                .answers(200, object(&[("ok", exactly(true))]))
                .answers(503, sick.clone()),
            health,
        )
        .add(
            Operation::new(
                Verb::Get,
                "ready",
                "/ready",
                "Does the database answer, are events taken, and are the chains as they were written",
            )
            .answers(200, object(&[("ready", flag())]))
            .answers(503, sick),
            ready,
        )
        .add(
            Operation::new(Verb::Get, "openapi", "/openapi.json", "This document")
                .answers(200, json!({ "type": "object" })),
            openapi,
        )
        .add(delivered, gateway_events::receive)
}

/// The OpenAPI document of the audit service.
#[must_use]
pub fn document() -> Value {
    let signed = json!({
        "type": "apiKey", "in": "header", "name": "X-Caracal-Gateway-Signature",
        "description": "An HMAC over method, target, time, nonce and body",
    });
    let name = || text_of(1, 128);
    let event = object(&[
        ("seq", number_of(1, i64::MAX)),
        ("occurred_at", number_of(0, i64::MAX)),
        ("zone_id?", maybe(id())),
        ("request_id", name()),
        ("event_type", name()),
        ("decision", one_of(&["allow", "deny"])),
        ("evaluation_status?", maybe(name())),
        ("reason?", maybe(name())),
        ("metadata?", json!({ "type": "object" })),
    ]);
    let delivery = object(&[
        ("gateway", id()),
        ("worker", name()),
        ("incarnation", either(&[name(), number_of(0, i64::MAX)])),
        ("events?", list_of(named("GatewayEvent"), 0, 1000)),
        // Events by what they share, and as rows: see `caracal_mandate::delivery`.
        ("shared?", list(json!({ "type": "object" }))),
        ("columns?", list_of(text(), 0, 64)),
        ("rows?", list_of(list(any()), 0, 1000)),
    ]);
    let document = Document {
        title: "Caracal Audit",
        description: "Takes the evidence of gateways into the ledger. It is read through the Admin API.",
        components: vec![("Problem", problem()), ("Delivery", delivery), ("GatewayEvent", event)],
        security: vec![(SIGNED, signed)],
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

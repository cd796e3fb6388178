//! The routes of the Admin API as data: one declaration makes the router, the OpenAPI document and the authorisation
//! matrix.

mod administration;
mod configuration;
mod notifications;
mod policy;
mod reads;
mod schemas;

use crate::app::{self, App};
use caracal_store::openapi::schema::{
    exactly, flag, list_of, matching, maybe, named, number_of, object, text, text_of,
};
use caracal_store::openapi::{Document, Operation, Routes, Verb};
use serde_json::{Value, json};

/// Who may use a route. Besides, a token that is bound to a zone reaches routes of that zone alone, and only those:
/// routes without a zone in their path are for tokens of all zones, except with [`Right::Known`] and [`Right::Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Everybody, without a token.
    Open,
    /// Every token, wherever it is bound.
    Known,
    /// Every token.
    Read,
    /// Tokens that may write, and the bootstrap credential.
    Write,
    /// Tokens that may approve, and the bootstrap credential: who writes does not approve.
    Decide,
    /// Tokens that administer, and the bootstrap credential: secrets are shown, the life of evidence is changed.
    Administer,
}

impl Right {
    /// As it stands in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Known => "known",
            Self::Read => "read",
            Self::Write => "write",
            Self::Decide => "decide",
            Self::Administer => "administer",
        }
    }

    /// The right that a described operation declares.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<Self> {
        let (_, declared) = operation.extensions.iter().find(|(name, _)| *name == RIGHT)?;
        let all = [Self::Open, Self::Known, Self::Read, Self::Write, Self::Decide, Self::Administer];
        all.into_iter().find(|right| declared.as_str() == Some(right.as_str()))
    }
}

const RIGHT: &str = "x-caracal-right";
/// What needs more than the right of the route, in words.
const ELEVATED: &str = "x-caracal-elevated";
const SCHEME: &str = "admin_token";
/// A scope (RFC 6749 §3.3).
const SCOPE: &str = "^[!#-\\[\\]-~]{1,200}$";

/// An operation with its right, and the refusals that come of having one.
fn operation(
    verb: Verb,
    right: Right,
    name: &'static str,
    path: &'static str,
    summary: &'static str,
) -> Operation {
    let operation = Operation::new(verb, name, path, summary).with(RIGHT, right.as_str());
    if right == Right::Open {
        return operation;
    }
    operation.behind(SCHEME).refuses(&[400, 401, 403, 429, 500, 503], &named("Problem"))
}

fn get(right: Right, name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    operation(Verb::Get, right, name, path, summary)
}

/// An operation that changes something and takes no body.
fn act(verb: Verb, right: Right, name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    operation(verb, right, name, path, summary)
}

/// An operation that takes a body.
fn send(
    verb: Verb,
    right: Right,
    (name, path, summary): (&'static str, &'static str, &'static str),
    body: Value,
) -> Operation {
    operation(verb, right, name, path, summary).takes(body).refuses(&[413, 415], &named("Problem"))
}

/// Removes something.
fn remove(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    act(Verb::Delete, Right::Write, name, path, summary)
        .answers_nothing(204)
        .refuses(&[404], &named("Problem"))
}

trait Refusing {
    /// Refuses with these statuses too.
    fn or(self, statuses: &[u16]) -> Self;
    /// The parameters of a list, whose pages have at most so many items.
    fn paged(self, most: i64, item: &str) -> Self;
    /// The same list as CSV.
    fn csv(self) -> Self;
}

impl Refusing for Operation {
    fn or(self, statuses: &[u16]) -> Self {
        self.refuses(statuses, &named("Problem"))
    }

    fn paged(self, most: i64, item: &str) -> Self {
        let page = object(&[
            ("items", caracal_store::openapi::schema::list(named(item))),
            ("next_cursor", maybe(text())),
        ]);
        self.query(&[("limit?", number_of(1, most)), ("cursor?", text())]).answers(200, page)
    }

    fn csv(self) -> Self {
        let formats = caracal_store::openapi::schema::one_of(&["json", "csv"]);
        self.query(&[("format?", formats)]).answers_as(200, "text/csv", text())
    }
}

/// What of MCP a resource declares.
fn mcp() -> Value {
    let scopes = || list_of(matching(SCOPE), 0, 64);
    let rule = object(&[("name", text_of(1, 128)), ("scopes", scopes())]);
    object(&[
        ("path", text_of(1, 512)),
        ("methods?", list_of(rule.clone(), 0, 64)),
        ("tools?", list_of(rule, 0, 512)),
        ("stream?", maybe(scopes())),
        ("end?", maybe(scopes())),
        ("responses?", maybe(scopes())),
        ("max_body_bytes?", number_of(1, 524_288)),
    ])
}

/// Every route.
pub(crate) fn routes() -> Routes<App> {
    let ready = object(&[("ok", flag()), ("draining?", flag()), ("error?", text()), ("dependency?", text())]);
    Routes::default()
        .add(
            get(Right::Open, "health", "/health", "Is the process alive")
                .answers(200, object(&[("ok", exactly(true))])),
            app::health,
        )
        .add(
            get(Right::Open, "ready", "/ready", "Does the database answer")
                .answers(200, ready.clone())
                .answers(503, ready)
                .or(&[429]),
            app::ready,
        )
        .add(
            get(Right::Open, "openapi", "/openapi.json", "This document")
                .answers(200, json!({ "type": "object" })),
            openapi,
        )
        .merge(configuration::routes())
        .merge(policy::routes())
        .merge(reads::routes())
        .merge(administration::routes())
        .merge(notifications::routes())
}

/// The OpenAPI document of the Admin API.
#[must_use]
pub fn document() -> Value {
    describe(routes().operations())
}

/// What every route does and who may use it: what [`document`] and the authorisation matrix are made of.
#[must_use]
pub fn operations() -> Vec<Operation> {
    routes().into_parts().1
}

fn describe(operations: &[Operation]) -> Value {
    let document = Document {
        title: "Caracal Admin API",
        description: "All that operators configure, and what they read.",
        components: schemas::components(),
        security: vec![(
            SCHEME,
            json!({
                "type": "http", "scheme": "bearer",
                "description": "An admin token, or the bootstrap credential. What it may do stands at every \
                    operation as `x-caracal-right`.",
            }),
        )],
    };
    document.of(operations)
}

/// `GET /openapi.json`
async fn openapi() -> axum::Json<Value> {
    axum::Json(document())
}

//! A workload of the tests, and how its launcher calls.

use crate::support::{Answer, FORM, World};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

pub(crate) const WORKLOAD: &str = "0190f0c1-7d1e-7a57-8f0e-1c2d3e4f5a6b";
pub(crate) const SECRET: &str = "ws_k2Jd8sQpLr5vXy1nTz4mBgHcWfEaUo9R";
pub(crate) const LAUNCH: &str = "7f8e9d0c-1b2a-4c3d-8e4f-5a6b7c8d9e0f";
const OTHER: &str = "0190f0c1-7d1e-7a57-8f0e-000000000002";

/// Status and code of an answer.
pub(crate) type Verdict = (u16, &'static str);

/// The form of a call, by its own fields.
pub(crate) type Fields<'a> = Vec<(&'a str, &'a str)>;

pub(crate) fn fields<'a>(more: &[(&'a str, &'a str)]) -> Fields<'a> {
    [&[("workload_id", WORKLOAD), ("secret", SECRET)], more].concat()
}

pub(crate) fn request(path: &str, fields: &[(&str, &str)], request_id: &str) -> Request<Body> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    Request::post(path)
        .header("content-type", FORM)
        .header("x-request-id", request_id)
        .header("x-caracal-launch-id", LAUNCH)
        .body(Body::from(body))
        .unwrap()
}

/// The binding of the orders' credential to `ORDERS_KEY`.
pub(crate) fn orders() -> Value {
    json!({ "env": "ORDERS_KEY", "resource": "resource://orders", "scopes": ["orders:read"] })
}

impl World {
    /// Makes the workload, with these bindings, and another one that has none.
    pub(crate) async fn with_workload(self, bindings: &Value) -> Self {
        let hash = self.vault.hash(SECRET);
        self.sql(&format!(
            "INSERT INTO workloads (id, zone_id, name, bindings_json, secret_hash, created_at, updated_at) \
             VALUES ('{WORKLOAD}', 'z1', 'Nightly', '{bindings}', '{hash}', 0, 0), \
                    ('{OTHER}', 'z1', 'Other', '{bindings}', '{hash}', 0, 0)"
        ))
        .await;
        self
    }

    pub(crate) async fn manifest(&self, fields: &[(&str, &str)], request_id: &str) -> Answer {
        self.send(request("/v1/run/manifest", fields, request_id)).await
    }

    pub(crate) async fn credential(&self, more: &[(&str, &str)], request_id: &str) -> Answer {
        let all = fields(&[&[("env", "ORDERS_KEY")], more].concat());
        self.send(request("/v1/run/credential", &all, request_id)).await
    }

    /// The same, for the other workload.
    pub(crate) async fn credential_of_other(&self, more: &[(&str, &str)], request_id: &str) -> Answer {
        let own = [("workload_id", OTHER), ("secret", SECRET), ("env", "ORDERS_KEY")];
        self.send(request("/v1/run/credential", &[&own, more].concat(), request_id)).await
    }

    /// The last event of a request.
    pub(crate) async fn told(&self, request_id: &str) -> Value {
        let events = self.events().await;
        events.into_iter().rfind(|event| event["request_id"] == request_id).unwrap_or_default()
    }
}

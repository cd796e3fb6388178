//! The calls of the tour, as any client would make them.

use crate::error::Error;
use crate::runtime::Running;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use std::net::SocketAddr;

/// Calls every service the way its users do.
pub(super) struct Caller {
    http: Client,
    running: Running,
    admin_token: String,
}

/// An answer of the gateway.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) request_id: String,
}

impl Caller {
    pub(super) fn new(running: &Running, admin_token: &str) -> Result<Self, Error> {
        let http = crate::egress::local().build().map_err(|error| Error::Tour(error.to_string()))?;
        Ok(Self { http, running: running.clone(), admin_token: admin_token.to_owned() })
    }

    /// Calls the Admin API.
    pub(super) async fn admin(&self, method: Method, path: &str, body: Value) -> Result<Value, Error> {
        let request = self.http.request(method, url(self.running.admin, path)).bearer_auth(&self.admin_token);
        json(request.json(&body), path).await
    }

    /// Calls the Coordinator.
    pub(super) async fn coordinator(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let request = self.http.request(method, url(self.running.coordinator, path)).bearer_auth(bearer);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        json(request, path).await
    }

    /// Gets the application its own mandate, for work at the Coordinator.
    pub(super) async fn bootstrap(
        &self,
        zone: &str,
        application: &str,
        secret: &str,
        resource: &str,
    ) -> Result<String, Error> {
        let form = [
            ("zone_id", zone),
            ("application_id", application),
            ("client_secret", secret),
            ("scope", caracal_mandate::scope::LIFECYCLE),
            ("resource", resource),
        ];
        self.mint(&form).await
    }

    /// Asks the STS for a mandate.
    pub(super) async fn mint(&self, form: &[(&str, &str)]) -> Result<String, Error> {
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
        let form: Vec<(&str, &str)> = [grant].into_iter().chain(form.iter().copied()).collect();
        let path = "/oauth/2/token";
        let answer = json(self.http.post(url(self.running.sts, path)).form(&form), path).await?;
        let token = answer.get("access_token").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| Error::Tour("the STS answered without a token".into()))
    }

    /// Calls a resource through the gateway.
    pub(super) async fn gateway(
        &self,
        method: Method,
        path: &str,
        resource: &str,
        mandate: Option<&str>,
    ) -> Result<Answer, Error> {
        let request_id = caracal_store::ids::new_id();
        let mut request = self.http.request(method, url(self.running.gateway, path));
        request = request.header("x-caracal-resource", resource).header("x-request-id", &request_id);
        if let Some(mandate) = mandate {
            request = request.bearer_auth(mandate);
        }
        let answer = request.send().await.map_err(|error| unreachable_service(path, &error))?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|error| unreachable_service(path, &error))?;
        Ok(Answer { status, body, request_id })
    }

    /// The audit events of one request: those of the zone, and those of requests that no zone could be proved for.
    pub(super) async fn trail(&self, zone: &str, request_id: &str) -> Result<Vec<Value>, Error> {
        let mut events = Vec::new();
        for zone in [zone, "unknown"] {
            let path = format!("/v1/zones/{zone}/audit?request_id={request_id}");
            let request = self.http.get(url(self.running.admin, &path)).bearer_auth(&self.admin_token);
            let page = json(request, &path).await?;
            events.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        }
        events.sort_by_key(|event| {
            event.get("occurred_at").and_then(Value::as_str).unwrap_or_default().to_owned()
        });
        Ok(events)
    }
}

/// One line about an audit event.
pub(super) fn describe(what: &str, event: &Value) -> String {
    let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let reason =
        event.pointer("/metadata_json/reason").or_else(|| event.pointer("/diagnostics_json/0/reason"));
    let reason = reason.and_then(Value::as_str).unwrap_or_default();
    let policy =
        event.pointer("/determining_policies_json/0/policy").and_then(Value::as_str).unwrap_or_default();
    let (kind, decision, status) = (field("event_type"), field("decision"), field("evaluation_status"));
    format!("{} {what:<14} {kind:<26} {decision:<6} {status} {policy}{reason}", field("occurred_at"))
}

/// The claims of a token, for showing. Nothing is verified.
pub(super) fn claims(token: &str) -> Option<Value> {
    let jws = caracal_mandate::jws::CompactJws::split(token.as_bytes()).ok()?;
    serde_json::from_slice(&jws.payload().ok()?).ok()
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}

fn unreachable_service(path: &str, error: &reqwest::Error) -> Error {
    Error::Tour(format!("{path}: {error}"))
}

async fn json(request: RequestBuilder, path: &str) -> Result<Value, Error> {
    let answer = request.send().await.map_err(|error| unreachable_service(path, &error))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| unreachable_service(path, &error))?;
    if !status.is_success() {
        return Err(Error::Tour(format!("{path}: {status} {}", body.trim())));
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&body)
        .map_err(|error| Error::Tour(format!("{path}: the answer is no JSON: {error}")))
}

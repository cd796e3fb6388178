//! A configured zone, and the calls of its operator and its agents.

use crate::{Credentials, Stack, Upstream};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A zone with one application, one resource and an active policy.
#[derive(Clone)]
pub struct World {
    pub http: reqwest::Client,
    pub admin: String,
    pub sts: String,
    pub gateway: String,
    pub coordinator: String,
    pub admin_token: String,
    pub zone: String,
    pub application: String,
    pub secret: String,
    pub resource: &'static str,
}

/// A session with authority, and the bearer that governs it.
pub struct Agent {
    pub bearer: String,
    pub root: String,
    pub session: String,
    pub edge: String,
}

impl World {
    /// Configures everything through the Admin API.
    pub async fn configure(stack: &Stack, upstream: &Upstream) -> Self {
        let mut world = Self::prepare(stack).await;
        world.add_resource(upstream.address).await;
        world
    }

    /// Nothing yet but the addresses and the operator's token.
    pub fn bare(stack: &Stack) -> Self {
        Self {
            http: reqwest::Client::new(),
            admin: stack.url("admin"),
            sts: stack.url("sts"),
            gateway: stack.url("gateway"),
            coordinator: stack.url("coordinator"),
            admin_token: stack.admin_token(),
            zone: String::new(),
            application: String::new(),
            secret: String::new(),
            resource: "resource://orders",
        }
    }

    /// Makes zone, application and policy; the resource is still to come.
    pub async fn prepare(stack: &Stack) -> Self {
        let mut world = Self::bare(stack);
        let zone = world.operate(Method::POST, "/v1/zones", json!({ "name": "test" })).await;
        world.zone = text(&zone, "id");
        Credentials { application: world.application, secret: world.secret } =
            world.add_application("agent").await;
        world.activate("orders", &world.policy(&world.application, "", "")).await;
        world
    }

    /// Registers an application.
    pub async fn add_application(&self, name: &str) -> Credentials {
        let body = json!({ "name": name, "registration_method": "managed" });
        let made = self.operate(Method::POST, &self.path("applications"), body).await;
        Credentials { application: text(&made, "id"), secret: text(&made, "client_secret") }
    }

    /// Adds the resource, behind `upstream`.
    pub async fn add_resource(&mut self, upstream: SocketAddr) {
        self.add_resource_named(self.resource, upstream).await;
    }

    /// Adds another one.
    pub async fn add_resource_named(&self, identifier: &str, upstream: SocketAddr) {
        let body = json!({ "name": identifier, "kind": "caracal_mandate" });
        let provider = text(&self.operate(Method::POST, &self.path("providers"), body).await, "id");
        let body = json!({
            "identifier": identifier,
            "upstream_url": format!("http://{upstream}"),
            "scopes": ["orders:read", "orders:write"],
            "credential_provider_id": provider,
            "operations": [
                { "method": "GET", "path": "/v1/orders", "scope": "orders:read" },
                { "method": "POST", "path": "/v1/orders", "scope": "orders:write" },
            ],
            "operation_enforcement": "enforced",
        });
        self.operate(Method::POST, &self.path("resources"), body).await;
    }

    /// The same world at the addresses of a restarted Caracal.
    pub fn moved_to(&mut self, stack: &Stack) {
        self.admin = stack.url("admin");
        self.sts = stack.url("sts");
        self.gateway = stack.url("gateway");
        self.coordinator = stack.url("coordinator");
    }

    /// Data that gives the resource to an application, with a reader, a clerk and `roles`, and then `rest`.
    pub fn policy(&self, application: &str, roles: &str, rest: &str) -> String {
        format!(
            "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {{\"agent\": \"{application}\"}}\n\n\
             grants := {{\"{}\": {{\"application\": \"agent\", \"roles\": {{\
             \"reader\": [\"orders:read\"], \"clerk\": [\"orders:read\", \"orders:write\"]{roles}}}}}}}\n{rest}",
            self.resource
        )
    }

    /// Makes this the zone's policy, in place of any other.
    pub async fn activate(&self, name: &str, content: &str) {
        let body = json!({ "name": name, "content": content });
        let version = text(&self.operate(Method::POST, &self.path("policies"), body).await, "version_id");
        let set = self.operate(Method::POST, &self.path("policy-sets"), json!({ "name": name })).await;
        let set = self.path(&format!("policy-sets/{}", text(&set, "id")));
        let body = json!({ "manifest": [{ "policy_version_id": version }] });
        let made = self.operate(Method::POST, &format!("{set}/versions"), body).await;
        let body = json!({ "version_id": text(&made, "version_id") });
        self.operate(Method::POST, &format!("{set}/activate"), body).await;
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/zones/{}/{rest}", self.zone)
    }

    /// Calls the Admin API; it has to succeed.
    pub async fn operate(&self, method: Method, path: &str, body: Value) -> Value {
        let request =
            self.http.request(method, format!("{}{path}", self.admin)).bearer_auth(&self.admin_token);
        let request = if body.is_null() { request } else { request.json(&body) };
        good(path, request.send().await.unwrap()).await
    }

    /// Gets the application's own mandate.
    pub async fn bootstrap(&self) -> String {
        let answer = self.exchange(&[("scope", "agent:lifecycle")]).await;
        text(&good("bootstrap", answer).await, "access_token")
    }

    /// Sends a token request with the application's secret.
    pub async fn exchange(&self, fields: &[(&str, &str)]) -> Response {
        let form: Vec<(&str, &str)> = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", self.zone.as_str()),
            ("application_id", self.application.as_str()),
            ("client_secret", self.secret.as_str()),
            ("resource", self.resource),
        ]
        .into_iter()
        .chain(fields.iter().copied())
        .collect();
        self.http.post(format!("{}/oauth/2/token", self.sts)).form(&form).send().await.unwrap()
    }

    /// Calls the Coordinator.
    pub async fn coordinate(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Response {
        let url = format!("{}/zones/{}/{path}", self.coordinator, self.zone);
        let request = self.http.request(method, url).bearer_auth(bearer);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// Starts a root session and a child that may read.
    pub async fn agent(&self) -> Agent {
        let bearer = self.bootstrap().await;
        let root = self.start_session(&bearer, json!({ "labels": ["clerk"] })).await;
        let child = json!({ "labels": ["reader"], "parent_id": root, "parent_authority": "none" });
        let session = self.start_session(&bearer, child).await;
        let body = json!({
            "issuer_application_id": self.application, "receiver_application_id": self.application,
            "source_session_id": root, "target_session_id": session,
            "scopes": ["orders:read"], "resource_id": self.resource, "ttl_seconds": 300,
        });
        let answer = self.coordinate(Method::POST, "delegations", &bearer, Some(body)).await;
        let edge = text(&good("delegations", answer).await, "delegation_edge_id");
        Agent { bearer, root, session, edge }
    }

    pub async fn start_session(&self, bearer: &str, mut body: Value) -> String {
        body["application_id"] = self.application.as_str().into();
        let answer = self.coordinate(Method::POST, "agents", bearer, Some(body)).await;
        text(&good("agents", answer).await, "agent_session_id")
    }

    /// Ends a session; it has to succeed.
    pub async fn end_session(&self, bearer: &str, session: &str) {
        let answer = self.coordinate(Method::DELETE, &format!("agents/{session}"), bearer, None).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    /// A session's row.
    pub async fn session(&self, bearer: &str, session: &str) -> Value {
        let answer = self.coordinate(Method::GET, &format!("agents/{session}"), bearer, None).await;
        good(session, answer).await
    }

    /// Suspends or resumes a session; it has to succeed.
    pub async fn switch_session(&self, bearer: &str, session: &str, verb: &str) {
        let path = format!("agents/{session}/{verb}");
        good(&path, self.coordinate(Method::PATCH, &path, bearer, None).await).await;
    }

    /// Mints a mandate to read with.
    pub async fn mint(&self, agent: &Agent) -> String {
        text(&good("mint", self.try_mint(agent, "orders:read").await).await, "access_token")
    }

    pub async fn try_mint(&self, agent: &Agent, scope: &str) -> Response {
        let edge =
            [("scope", scope), ("agent_session_id", &agent.session), ("delegation_edge_id", &agent.edge)];
        self.exchange(&edge).await
    }

    /// Calls `path` of the resource through the gateway.
    pub async fn call(&self, method: Method, path: &str, mandate: &str) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.gateway));
        request.header("x-caracal-resource", self.resource).bearer_auth(mandate).send().await.unwrap()
    }

    pub async fn read(&self, mandate: &str) -> Response {
        self.call(Method::GET, "/v1/orders", mandate).await
    }

    /// The audit events of the zone that `query` selects, newest first.
    pub async fn audit(&self, query: &str) -> Vec<Value> {
        let list =
            self.operate(Method::GET, &self.path(&format!("audit?limit=1000&{query}")), Value::Null).await;
        list["items"].as_array().unwrap().clone()
    }
}

async fn good(what: &str, answer: Response) -> Value {
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert!(status.is_success(), "{what}: {status} {body}");
    serde_json::from_str(&body).unwrap_or_default()
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}")).to_owned()
}

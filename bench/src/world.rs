//! A zone as an operator configures one, and the calls of its agents.

use crate::error::Error;
use crate::stack::Stack;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// The identifier of the resource that is asked for.
pub(crate) const RESOURCE: &str = "resource://orders";
/// How many grants of other applications stand in the policy beside the one that decides.
const OTHER_GRANTS: usize = 100;

/// A zone with one application, one resource and an active policy.
#[derive(Debug, Clone)]
pub(crate) struct World {
    http: reqwest::Client,
    admin: String,
    sts: String,
    coordinator: String,
    admin_token: String,
    pub(crate) zone: String,
    pub(crate) application: String,
    pub(crate) secret: String,
}

/// A session with authority, and the bearer that governs it.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) session: String,
    pub(crate) edge: String,
}

impl World {
    /// The same world for an application that gives a secret which is not its own.
    pub(crate) fn with_secret(&self, secret: &str) -> Self {
        Self { secret: secret.to_owned(), ..self.clone() }
    }

    /// Configures everything through the Admin API. The resource's upstream is never called.
    pub(crate) async fn configure(stack: &Stack) -> Result<Self, Error> {
        Self::configure_before(stack, "http://upstream.bench.test:8000", "single").await
    }

    /// Configures everything, with a resource before this upstream whose mandates are for `mandate_use`.
    pub(crate) async fn configure_before(
        stack: &Stack,
        upstream: &str,
        mandate_use: &str,
    ) -> Result<Self, Error> {
        let addresses = &stack.addresses;
        let mut world = Self {
            http: reqwest::Client::new(),
            admin: format!("http://{}", addresses.admin),
            sts: format!("http://{}", addresses.sts),
            coordinator: format!("http://{}", addresses.coordinator),
            admin_token: stack.admin_token()?,
            zone: String::new(),
            application: String::new(),
            secret: String::new(),
        };
        world.zone = text(
            &world.operate("/v1/zones", json!({ "name": format!("bench {mandate_use}") })).await?,
            "id",
        )?;
        let body = json!({ "name": "agent", "registration_method": "managed" });
        let application = world.operate(&world.path("applications"), body).await?;
        world.application = text(&application, "id")?;
        world.secret = text(&application, "client_secret")?;
        world.add_resource(upstream, mandate_use).await?;
        world.activate_policy().await?;
        Ok(world)
    }

    async fn add_resource(&self, upstream: &str, mandate_use: &str) -> Result<(), Error> {
        let body = json!({ "name": "mandate", "kind": "caracal_mandate" });
        let provider = text(&self.operate(&self.path("providers"), body).await?, "id")?;
        let body = json!({
            "identifier": RESOURCE,
            "upstream_url": upstream,
            "mandate_use": mandate_use,
            "scopes": ["orders:read", "orders:write"],
            "credential_provider_id": provider,
            "operations": [
                { "method": "GET", "path": "/v1/orders", "scope": "orders:read" },
                { "method": "POST", "path": "/v1/orders", "scope": "orders:write" },
            ],
            "operation_enforcement": "enforced",
        });
        self.operate(&self.path("resources"), body).await.map(|_| ())
    }

    async fn activate_policy(&self) -> Result<(), Error> {
        let body = json!({ "name": "orders", "content": policy_document(&self.application) });
        let version = text(&self.operate(&self.path("policies"), body).await?, "version_id")?;
        let set = self.operate(&self.path("policy-sets"), json!({ "name": "main" })).await?;
        let set = self.path(&format!("policy-sets/{}", text(&set, "id")?));
        let body = json!({ "manifest": [{ "policy_version_id": version }] });
        let made = self.operate(&format!("{set}/versions"), body).await?;
        let body = json!({ "version_id": text(&made, "version_id")? });
        self.operate(&format!("{set}/activate"), body).await.map(|_| ())
    }

    /// A path of the zone at the Admin API.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/zones/{}/{rest}", self.zone)
    }

    /// Posts to the Admin API; it has to succeed.
    pub(crate) async fn operate(&self, path: &str, body: Value) -> Result<Value, Error> {
        let request = self.http.post(format!("{}{path}", self.admin)).bearer_auth(&self.admin_token);
        good(path, request.json(&body).send().await?).await
    }

    /// Calls the Coordinator.
    pub(crate) async fn coordinate(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Result<Response, Error> {
        let url = format!("{}/zones/{}/{path}", self.coordinator, self.zone);
        let request = self.http.request(method, url).bearer_auth(bearer);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Ok(request.send().await?)
    }

    /// The form of a token request with the application's secret.
    pub(crate) fn form(&self, fields: &[(&str, &str)]) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("zone_id", &self.zone)
            .append_pair("application_id", &self.application)
            .append_pair("client_secret", &self.secret)
            .append_pair("resource", RESOURCE)
            .extend_pairs(fields);
        form.finish()
    }

    /// Sends a form to the token endpoint, with further headers.
    pub(crate) async fn token(&self, form: String, headers: &[(String, String)]) -> Result<Response, Error> {
        let mut request = self
            .http
            .post(format!("{}/oauth/2/token", self.sts))
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Ok(request.body(form).send().await?)
    }

    /// Gets the application's own mandate.
    pub(crate) async fn bootstrap(&self) -> Result<String, Error> {
        let answer = self.token(self.form(&[("scope", "agent:lifecycle")]), &[]).await?;
        text(&good("the application's own mandate", answer).await?, "access_token")
    }

    /// Starts a root session and a child that may read.
    pub(crate) async fn agent(&self, bearer: &str) -> Result<Agent, Error> {
        let root = self.start_session(bearer, json!({ "labels": ["clerk"] })).await?;
        let child = json!({ "labels": ["reader"], "parent_id": root, "parent_authority": "none" });
        let session = self.start_session(bearer, child).await?;
        let body = json!({
            "issuer_application_id": self.application, "receiver_application_id": self.application,
            "source_session_id": root, "target_session_id": session,
            "scopes": ["orders:read"], "resource_id": RESOURCE, "ttl_seconds": 3600,
        });
        let answer = self.coordinate(Method::POST, "delegations", bearer, Some(body)).await?;
        let edge = text(&good("a delegation", answer).await?, "delegation_edge_id")?;
        Ok(Agent { session, edge })
    }

    /// Starts a session of an hour.
    pub(crate) async fn start_session(&self, bearer: &str, mut body: Value) -> Result<String, Error> {
        if let Some(body) = body.as_object_mut() {
            body.insert("application_id".into(), self.application.as_str().into());
            body.insert("ttl_seconds".into(), 3600.into());
        }
        let answer = self.coordinate(Method::POST, "agents", bearer, Some(body)).await?;
        text(&good("a session", answer).await?, "agent_session_id")
    }
}

/// A policy of realistic size: a hundred grants, of which one decides.
pub(crate) fn policy_document(application: &str) -> String {
    let mut apps = serde_json::Map::new();
    let mut grants = serde_json::Map::new();
    for index in 0..OTHER_GRANTS {
        apps.insert(format!("app{index}"), uuid::Uuid::now_v7().to_string().into());
        let roles =
            json!({ "reader": [format!("thing{index}:read")], "clerk": [format!("thing{index}:write")] });
        let grant = json!({ "application": format!("app{index}"), "roles": roles });
        grants.insert(format!("resource://thing{index}"), grant);
    }
    apps.insert("agent".into(), application.into());
    let roles = json!({ "reader": ["orders:read"], "clerk": ["orders:read", "orders:write"] });
    grants.insert(RESOURCE.into(), json!({ "application": "agent", "roles": roles }));
    let (apps, grants) = (Value::Object(apps), Value::Object(grants));
    format!(
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {apps:#}\n\n\
         grants := {grants:#}\n"
    )
}

/// The body of an answer that has to be a success.
pub(crate) async fn good(what: &str, answer: Response) -> Result<Value, Error> {
    let status = answer.status();
    let body = answer.text().await?;
    if !status.is_success() {
        return Err(Error::answer(what, format!("{status} {body}")));
    }
    Ok(serde_json::from_str(&body).unwrap_or_default())
}

/// An answer that has to be a refusal with this status.
pub(crate) async fn refused(what: &str, answer: Response, status: StatusCode) -> Result<(), Error> {
    if answer.status() == status {
        return Ok(());
    }
    let got = answer.status();
    Err(Error::answer(what, format!("{got} instead of {status}: {}", answer.text().await?)))
}

/// A member of an answer that has to be text.
pub(crate) fn text(value: &Value, member: &str) -> Result<String, Error> {
    let found = value.get(member).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| Error::answer(member, format!("not in {value}")))
}

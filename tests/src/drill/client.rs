//! Calls that may meet a Caracal that has just died.

use crate::World;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where Caracal is at the moment: nowhere, while it is down.
pub(super) type Place = Option<Arc<World>>;

/// An answer's status and its JSON.
pub(super) type Answer = (u16, Value);

/// The calls of one agent. Every one of them answers `None` where nobody answered: then nobody knows what was done.
pub(super) struct Client {
    places: watch::Receiver<Place>,
    world: Arc<World>,
    bearer: String,
}

impl Client {
    /// A client of what runs there, once it runs.
    pub(super) async fn new(mut places: watch::Receiver<Place>) -> Result<Self, String> {
        let world = wait(&mut places).await?;
        let mut client = Self { places, world, bearer: String::new() };
        client.renew().await?;
        Ok(client)
    }

    /// Waits until it runs again, if it does not, and gets a bearer there.
    pub(super) async fn recover(&mut self) -> Result<(), String> {
        self.world = wait(&mut self.places).await?;
        self.renew().await
    }

    async fn renew(&mut self) -> Result<(), String> {
        loop {
            match self.exchange(&[("scope", "agent:lifecycle")]).await {
                Some((200, body)) => {
                    self.bearer = text(&body, "access_token");
                    return Ok(());
                }
                Some((status, body)) if status < 500 => return Err(format!("a bootstrap: {status} {body}")),
                // It died once more, or is not ready yet.
                _ => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    self.world = wait(&mut self.places).await?;
                }
            }
        }
    }

    pub(super) async fn exchange(&self, fields: &[(&str, &str)]) -> Option<Answer> {
        let world = &self.world;
        let form: Vec<(&str, &str)> = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", world.zone.as_str()),
            ("application_id", world.application.as_str()),
            ("client_secret", world.secret.as_str()),
            ("resource", world.resource),
        ]
        .into_iter()
        .chain(fields.iter().copied())
        .collect();
        send(world.http.post(format!("{}/oauth/2/token", world.sts)).form(&form)).await
    }

    pub(super) async fn coordinate(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        let url = format!("{}/zones/{}/{path}", self.world.coordinator, self.world.zone);
        let request = self.world.http.request(method, url).bearer_auth(&self.bearer);
        send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// Starts a session, below another where one is named.
    pub(super) async fn start(&self, parent: Option<&str>, authority: &str) -> Option<Answer> {
        let body = json!({
            "application_id": self.world.application, "parent_id": parent, "parent_authority": authority,
            "labels": ["reader"], "ttl_seconds": 7200,
        });
        self.coordinate(Method::POST, "agents", Some(body)).await
    }

    /// Delegates reading from one session to another.
    pub(super) async fn delegate(&self, source: &str, target: &str) -> Option<Answer> {
        let application = &self.world.application;
        let body = json!({
            "issuer_application_id": application, "receiver_application_id": application,
            "source_session_id": source, "target_session_id": target, "scopes": ["orders:read"],
            "resource_id": self.world.resource, "ttl_seconds": 7200, "constraints": { "max_hops": 4 },
        });
        self.coordinate(Method::POST, "delegations", Some(body)).await
    }

    /// Mints a mandate to read with.
    pub(super) async fn mint(&self, session: &str, edge: &str) -> Option<Answer> {
        let fields = [("agent_session_id", session), ("delegation_edge_id", edge), ("scope", "orders:read")];
        self.exchange(&fields).await
    }

    /// Reads through the Gateway; answers the status.
    pub(super) async fn read(&self, mandate: &str) -> Option<u16> {
        let world = &self.world;
        let request = world.http.get(format!("{}/v1/orders", world.gateway)).bearer_auth(mandate);
        send(request.header("x-caracal-resource", world.resource)).await.map(|(status, _)| status)
    }
}

async fn wait(places: &mut watch::Receiver<Place>) -> Result<Arc<World>, String> {
    let place = places.wait_for(Option::is_some).await.map_err(|_| "the drill is over".to_owned())?;
    place.clone().ok_or_else(|| "nowhere".to_owned())
}

async fn send(request: RequestBuilder) -> Option<Answer> {
    let answer = request.timeout(Duration::from_secs(20)).send().await.ok()?;
    let status = answer.status().as_u16();
    // An answer that broke off is none.
    let bytes = answer.bytes().await.ok()?;
    Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// A member that is text; empty where it is not.
pub(super) fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap_or_default().to_owned()
}

//! A token endpoint of the test's own, and a zone whose orders take their credential from it.

use super::https::Https;
use super::support::{Answer, Form, GatewayCall, ORDERS, World};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::post;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// The provider that the tests set up.
pub(crate) const PROVIDER: &str = "p-idp";

/// What the endpoint answers.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    Json(u16, Value),
    Text(u16, String),
    Redirect(String),
    /// So many bytes of JSON.
    Long(usize),
    /// Nothing, ever.
    Never,
    /// A token once per refresh token; one that was used before ends the consent.
    Rotating {
        next: String,
        number: u32,
    },
}

impl Script {
    pub(crate) fn token(token: &str, expires_in: i64) -> Self {
        Self::Json(200, json!({ "access_token": token, "token_type": "Bearer", "expires_in": expires_in }))
    }
}

/// One request that it got.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) form: BTreeMap<String, String>,
}

struct Shared {
    script: Mutex<Script>,
    asked: watch::Sender<Vec<Asked>>,
    /// A permit for each answer.
    answers: Semaphore,
}

pub(crate) struct Idp {
    pub(crate) https: Https,
    shared: Arc<Shared>,
}

impl Idp {
    pub(crate) async fn start(script: Script) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            asked: watch::channel(Vec::new()).0,
            answers: Semaphore::new(1_000_000),
        });
        let routes = Router::new()
            .route("/token", post(answer))
            .route("/elsewhere", post(answer))
            .with_state(Arc::clone(&shared));
        Self { https: Https::start(routes).await, shared }
    }

    pub(crate) fn says(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.borrow().clone()
    }

    pub(crate) async fn was_asked(&self, times: usize) {
        self.shared.asked.subscribe().wait_for(|asked| asked.len() >= times).await.unwrap();
    }

    /// Answers nothing until [`Idp::answers_again`].
    pub(crate) fn holds_answers(&self) {
        self.shared.answers.forget_permits(1_000_000);
    }

    pub(crate) fn answers_again(&self) {
        self.shared.answers.add_permits(1_000_000);
    }

    /// A configuration of a client here.
    pub(crate) fn client(&self, more: &Value) -> Value {
        let mut config = json!({ "token_endpoint": self.https.url("/token"), "client_id": "client 1" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    /// A configuration of a client that persons connect.
    pub(crate) fn user_client(&self, more: &Value) -> Value {
        let mut config = self.client(&json!({
            "authorization_endpoint": self.https.url("/authorize"),
            "redirect_uri": "https://console.example.com/callback",
        }));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let refresh_token = form.get("refresh_token").cloned();
    let asked = Asked { path: uri.path().to_owned(), authorization, form };
    shared.asked.send_modify(|all| all.push(asked));
    let _permit = shared.answers.acquire().await.unwrap();
    let script = {
        let mut script = shared.script.lock().unwrap();
        let now = script.clone();
        if let Script::Rotating { next, number } = &mut *script
            && refresh_token.as_deref() == Some(next.as_str())
        {
            *number += 1;
            *next = format!("rt-{number}");
        }
        now
    };
    let respond = |status: u16, body: String| {
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap()
    };
    match script {
        Script::Json(status, body) => respond(status, body.to_string()),
        Script::Text(status, body) => respond(status, body),
        Script::Redirect(to) => Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, to)
            .body(Body::empty())
            .unwrap(),
        Script::Long(bytes) => {
            let padding = "x".repeat(bytes);
            respond(200, json!({ "access_token": "t", "padding": padding }).to_string())
        }
        Script::Never => std::future::pending().await,
        Script::Rotating { next, number } if refresh_token.as_deref() == Some(next.as_str()) => {
            let body = json!({
                "access_token": format!("at-{}", number + 1), "refresh_token": format!("rt-{}", number + 1),
                "token_type": "bearer", "expires_in": 3600,
            });
            respond(200, body.to_string())
        }
        Script::Rotating { .. } => respond(400, json!({ "error": "invalid_grant" }).to_string()),
    }
}

impl World {
    /// Makes the orders take their credential from a provider of this kind.
    pub(crate) async fn provide(&self, kind: &str, config: &Value, secrets: &Value) {
        let config = config.to_string().replace('\'', "''");
        let place = format!("zones/z1/providers/{PROVIDER}/secretConfig");
        let sealed = self.vault.seal(secrets.to_string().as_bytes(), &place).unwrap();
        self.change(
            &format!(
                "INSERT INTO providers (id, zone_id, name, identifier, kind, config_json, created_at, updated_at) \
                     VALUES ('{PROVIDER}', 'z1', 'IdP', 'provider://idp', '{kind}', '{config}', 0, 0) \
                     ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, config_json = excluded.config_json; \
                 INSERT INTO secret_store (ref, envelope, version) VALUES ('{place}', '{sealed}', 1) \
                     ON CONFLICT (ref) DO UPDATE SET envelope = excluded.envelope, version = secret_store.version + 1; \
                 UPDATE resources SET credential_provider_id = '{PROVIDER}' WHERE id = 'R1'"
            ),
            caracal_store::change::Change::Resource { id: "R1".to_owned() },
        )
        .await;
    }

    /// What a gateway gets for this mandate.
    pub(crate) async fn use_mandate(&self, mandate: &str) -> Answer {
        self.send(GatewayCall::new(Form::usage(mandate)).request()).await
    }

    /// A gateway's call for this mandate that waits for the endpoint's answer, which is held back.
    pub(crate) async fn call_that_waits(&self, idp: &Idp, mandate: &str) -> JoinHandle<Answer> {
        let before = idp.asked().len();
        idp.holds_answers();
        let call = self.spawn(GatewayCall::new(Form::usage(mandate)).request());
        idp.was_asked(before + 1).await;
        call
    }

    /// What a gateway gets for a new mandate.
    pub(crate) async fn use_one(&self) -> Answer {
        let mandate = self.mandate().await;
        self.use_mandate(&mandate).await
    }

    /// The directive of the orders.
    pub(crate) async fn directive(&self) -> Value {
        let answer = self.use_one().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["upstreams"][ORDERS].clone()
    }
}

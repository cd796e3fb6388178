//! A token endpoint of the test's own.

use super::https::Https;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::routing::post;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub const CLIENT_SECRET: &str = "cs-5ca1ab1e0001";
pub const ACCESS: &str = "at-5ca1ab1e0002";
pub const REFRESH: &str = "rt-5ca1ab1e0003";

pub type Form = BTreeMap<String, String>;

#[derive(Clone)]
pub struct Idp {
    pub https: Arc<Https>,
    answer: Arc<Mutex<(u16, Value)>>,
    pub asked: Arc<Mutex<Vec<(String, Form)>>>,
}

impl Idp {
    pub async fn start() -> Self {
        let answer = Arc::new(Mutex::new((200, token())));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let routes = Router::new()
            .route("/token", post(respond))
            .route("/revoke", post(respond))
            .with_state((Arc::clone(&answer), Arc::clone(&asked)));
        Self { https: Arc::new(Https::start(routes).await), answer, asked }
    }

    pub fn says(&self, status: u16, body: Value) {
        *self.answer.lock().unwrap() = (status, body);
    }

    pub fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "token_endpoint": self.https.url("/token"), "authorization_endpoint": self.https.url("/authorize"),
            "redirect_uri": "http://localhost:3000/callback", "client_id": "c 1", "client_secret": CLIENT_SECRET,
            "scopes": ["read", "offline"],
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }
}

type Shared = (Arc<Mutex<(u16, Value)>>, Arc<Mutex<Vec<(String, Form)>>>);

async fn respond(
    State((answer, asked)): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> (axum::http::StatusCode, axum::Json<Value>) {
    let form = form_urlencoded::parse(&body).into_owned().collect();
    asked.lock().unwrap().push((uri.path().to_owned(), form));
    let (status, body) = answer.lock().unwrap().clone();
    (status.try_into().unwrap(), axum::Json(body))
}

fn token() -> Value {
    json!({ "access_token": ACCESS, "refresh_token": REFRESH, "token_type": "Bearer", "expires_in": 600 })
}

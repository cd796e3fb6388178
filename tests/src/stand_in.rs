//! An STS and an Audit that do as they are told, for what real ones never do, and a gateway that follows them. The gateway
//! is a real Envoy; the STS is there to misbehave, to sign whatever a test likes, and to count.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use caracal_filter_bed::issuer::Issuer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the stand-in answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub media_type: &'static str,
    pub body: Vec<u8>,
    pub after: Duration,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn new(status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, media_type, body: body.into(), after: Duration::ZERO }
    }
}

/// How polls of the feed are answered.
#[derive(Debug, Clone, Default)]
pub enum Feeding {
    /// With what there is.
    #[default]
    Well,
    /// Like this, whatever is asked.
    Badly(Reply),
}

#[derive(Debug)]
struct Told {
    /// What the feed says: `generation`, `time`, `zones`.
    zones: Vec<Value>,
    feeding: Feeding,
    exchange: Reply,
    exchanges: Vec<HashMap<String, String>>,
    strangers: Vec<String>,
    events: Vec<Value>,
}

/// The services that a gateway asks.
#[derive(Clone)]
pub struct StandIn {
    pub issuer: Issuer,
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
    generation: Arc<watch::Sender<u64>>,
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl StandIn {
    /// Starts it; it lives as long as the runtime.
    pub async fn start(issuer: Issuer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Told {
            zones: Vec::new(),
            feeding: Feeding::Well,
            exchange: Reply::new(500, "text/plain", "nothing was prepared"),
            exchanges: Vec::new(),
            strangers: Vec::new(),
            events: Vec::new(),
        };
        let stand_in = Self {
            issuer,
            address,
            told: Arc::new(Mutex::new(told)),
            generation: Arc::new(watch::Sender::new(1)),
        };
        let router = Router::new()
            .route("/internal/gateway/feed", get(feed))
            .route("/oauth/2/token", post(exchange))
            .route("/internal/audit/gateway-events", post(audit))
            .fallback(stranger)
            .with_state(stand_in.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        stand_in
    }

    /// Changes the zones that the feed tells of. Gateways hear of it at once.
    pub fn feed(&self, zones: Vec<Value>) {
        self.told.lock().unwrap().zones = zones;
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Changes how polls are answered, those that wait included.
    pub fn feed_like(&self, feeding: Feeding) {
        self.told.lock().unwrap().feeding = feeding;
        self.generation.send_modify(|_| {});
    }

    /// What exchanges are answered from now on.
    pub fn answer(&self, reply: Reply) {
        self.told.lock().unwrap().exchange = reply;
    }

    /// The forms of all exchanges so far.
    pub fn exchanges(&self) -> Vec<HashMap<String, String>> {
        self.told.lock().unwrap().exchanges.clone()
    }

    /// What was asked for that a gateway has no business with.
    pub fn strangers(&self) -> Vec<String> {
        self.told.lock().unwrap().strangers.clone()
    }

    /// All evidence so far.
    pub fn events(&self) -> Vec<Value> {
        self.told.lock().unwrap().events.clone()
    }

    fn told_of(&self, generation: u64, since: u64) -> Value {
        let zones = if generation == since { Vec::new() } else { self.told.lock().unwrap().zones.clone() };
        let previous = if generation == since { since } else { 0 };
        json!({
            "previous": previous, "generation": generation, "snapshot": generation != since, "issuer": self.issuer.url,
            "time": now_ms(), "zones": zones,
        })
    }
}

fn reply(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap();
    let mut response = (status, [("content-type", reply.media_type)], reply.body).into_response();
    if status.is_redirection() {
        response.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
    }
    response
}

async fn feed(State(it): State<StandIn>, Query(asked): Query<HashMap<String, String>>) -> Response {
    let since: u64 = asked["since"].parse().unwrap();
    let wait = Duration::from_secs(asked["wait"].parse().unwrap());
    let mut changes = it.generation.subscribe();
    if *changes.borrow_and_update() == since {
        let _ = tokio::time::timeout(wait, changes.changed()).await;
    }
    let generation = *changes.borrow_and_update();
    let feeding = it.told.lock().unwrap().feeding.clone();
    match feeding {
        Feeding::Well => reply(Reply::json(200, &it.told_of(generation, since))),
        Feeding::Badly(bad) => reply(bad),
    }
}

async fn exchange(State(it): State<StandIn>, body: Bytes) -> Response {
    let form = body.split(|byte| *byte == b'&').filter_map(|pair| {
        let text = String::from_utf8_lossy(pair).replace('+', " ");
        let (name, value) = text.split_once('=')?;
        let value = caracal_mandate::path::percent_decode(value.as_bytes()).ok()?;
        Some((name.to_owned(), String::from_utf8_lossy(&value).into_owned()))
    });
    let answer = {
        let mut told = it.told.lock().unwrap();
        told.exchanges.push(form.collect());
        told.exchange.clone()
    };
    tokio::time::sleep(answer.after).await;
    reply(answer)
}

async fn audit(State(it): State<StandIn>, body: Bytes) -> Response {
    let batch: Value = serde_json::from_slice(&body).unwrap();
    let events = caracal_mandate::delivery::events(&batch).unwrap();
    let last = events.last().map_or(0, |event| event["seq"].as_u64().unwrap());
    it.told.lock().unwrap().events.extend(events);
    reply(Reply::json(200, &json!({ "acknowledged": last })))
}

async fn stranger(State(it): State<StandIn>, uri: Uri) -> StatusCode {
    it.told.lock().unwrap().strangers.push(uri.to_string());
    StatusCode::NOT_FOUND
}

//! A host in memory, and a world of one zone, one key and a few resources around it.

// Every test file uses its own part of this.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use caracal_filter::config::Config;
use caracal_filter::feed::FeedPoller;
use caracal_filter::host::{Answer, AnswerSize, Call, CallError, CallToken, Direction, Headers, Host, Level};
use caracal_filter::request::{Flow, Request};
use caracal_filter::root::{Root, Worker};
use caracal_filter::signed::KEY_VARIABLE;
use caracal_filter::snapshot::{self, Status};
use caracal_mandate::es256::Signature;
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_mandate::id::KeyId;
use caracal_mandate::jws::{signing_input, with_signature};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_700_000_000_000;
pub(crate) const ISSUER: &str = "http://sts:8080";
pub(crate) const RESOURCE: &str = "resource://orders";

/// A call as the fake host took it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) token: CallToken,
    pub(crate) cluster: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Sent {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn form(&self) -> HashMap<String, String> {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            String::from_utf8(caracal_mandate::path::percent_decode(spaced.as_bytes()).unwrap().into_owned())
                .unwrap()
        };
        self.body
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (decode(k), decode(v)))
            .collect()
    }
}

/// A reply as the fake host took it.
#[derive(Clone, Debug)]
pub(crate) struct Replied {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

#[derive(Default)]
pub(crate) struct FakeHost {
    pub(crate) now: Cell<u64>,
    pub(crate) request: RefCell<Vec<(String, Vec<u8>)>>,
    pub(crate) body: RefCell<Vec<u8>>,
    pub(crate) response: RefCell<Vec<(String, Vec<u8>)>>,
    pub(crate) shared: RefCell<HashMap<String, Vec<u8>>>,
    pub(crate) environment: RefCell<HashMap<String, String>>,
    pub(crate) properties: RefCell<HashMap<String, Vec<u8>>>,
    pub(crate) sent: RefCell<Vec<Sent>>,
    pub(crate) replies: RefCell<Vec<Replied>>,
    pub(crate) logs: RefCell<Vec<String>>,
    pub(crate) counters: RefCell<HashMap<String, u64>>,
    pub(crate) gauges: RefCell<HashMap<String, u64>>,
    pub(crate) filter_state: RefCell<HashMap<String, String>>,
    pub(crate) answer: RefCell<Option<Answer>>,
    pub(crate) resumed: Cell<u32>,
    pub(crate) resets: Cell<u32>,
    pub(crate) cut_streams: RefCell<Vec<u32>>,
    pub(crate) no_clusters: Cell<bool>,
    /// Whether some call to the host failed.
    pub(crate) failed: Cell<bool>,
    tokens: Cell<u32>,
}

impl FakeHost {
    fn map(&self, direction: Direction) -> &RefCell<Vec<(String, Vec<u8>)>> {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.counters.borrow().get(name).copied().unwrap_or(0)
    }

    pub(crate) fn last_sent(&self) -> Sent {
        self.sent.borrow().last().cloned().expect("nothing was sent")
    }

    pub(crate) fn request_header(&self, name: &str) -> Vec<String> {
        let headers = self.request.borrow();
        let values = headers.iter().filter(|(header, _)| header == name);
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub(crate) fn response_names(&self) -> Vec<String> {
        self.response.borrow().iter().map(|(name, _)| name.clone()).collect()
    }
}

impl Host for FakeHost {
    fn now(&self) -> u64 {
        self.now.get()
    }
    fn random(&self, bytes: &mut [u8]) -> bool {
        getrandom::fill(bytes).is_ok()
    }
    fn environment(&self, name: &str) -> Option<String> {
        self.environment.borrow().get(name).cloned()
    }
    fn log(&self, _level: Level, message: &str) {
        self.logs.borrow_mut().push(message.to_owned());
    }
    fn configuration(&self, _size: usize) -> Vec<u8> {
        Vec::new()
    }
    fn tick_every(&self, _millis: u64) -> bool {
        true
    }
    fn headers(&self, direction: Direction) -> Headers {
        self.map(direction).borrow().iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }
    fn header(&self, direction: Direction, name: &str) -> Option<Vec<u8>> {
        let headers = self.map(direction).borrow();
        headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.clone())
    }
    fn set_header(&self, direction: Direction, name: &str, value: &[u8]) {
        self.remove_header(direction, name.as_bytes());
        self.map(direction).borrow_mut().push((name.to_owned(), value.to_vec()));
    }
    fn remove_header(&self, direction: Direction, name: &[u8]) {
        self.map(direction).borrow_mut().retain(|(header, _)| header.as_bytes() != name);
    }
    fn request_body(&self, size: usize) -> Vec<u8> {
        let body = self.body.borrow();
        body.get(..size).unwrap_or(&body).to_vec()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.properties.borrow().get(&path.join("/")).cloned()
    }
    fn filter_state(&self, key: &str, value: &str) {
        self.filter_state.borrow_mut().insert(key.to_owned(), value.to_owned());
    }
    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.borrow().get(key).cloned()
    }
    fn share(&self, key: &str, value: &[u8]) {
        self.shared.borrow_mut().insert(key.to_owned(), value.to_vec());
    }
    fn reply(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = serde_json::from_slice(body).expect("replies are JSON");
        self.replies.borrow_mut().push(Replied { status, headers, body });
    }
    fn resume(&self) {
        self.resumed.set(self.resumed.get() + 1);
    }
    fn reset(&self) {
        self.resets.set(self.resets.get() + 1);
    }
    fn reset_stream(&self, context: u32) {
        self.cut_streams.borrow_mut().push(context);
    }
    fn call(&self, call: &Call<'_>) -> Result<CallToken, CallError> {
        if self.no_clusters.get() {
            return Err(CallError);
        }
        self.tokens.set(self.tokens.get() + 1);
        let token = CallToken(self.tokens.get());
        let headers =
            call.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = String::from_utf8(call.body.to_vec()).unwrap();
        self.sent.borrow_mut().push(Sent { token, cluster: call.cluster.to_owned(), headers, body });
        Ok(token)
    }
    fn answer(&self, size: AnswerSize) -> Option<Answer> {
        if size.headers == 0 { None } else { self.answer.borrow().clone() }
    }
    fn foreign(&self, _function: &str, _arguments: &[u8]) -> Option<Vec<u8>> {
        None
    }
    fn failed(&self) -> bool {
        self.failed.take()
    }
    fn count(&self, metric: &str, by: u64) {
        *self.counters.borrow_mut().entry(metric.to_owned()).or_default() += by;
    }
    fn gauge(&self, metric: &str, value: u64) {
        self.gauges.borrow_mut().insert(metric.to_owned(), value);
    }
    fn gauge_now(&self, metric: &str) -> u64 {
        self.gauges.borrow().get(metric).copied().unwrap_or(0)
    }
}

pub(crate) const ANSWERED: AnswerSize = AnswerSize { headers: 3, body: 1 };
pub(crate) const FAILED: AnswerSize = AnswerSize { headers: 0, body: 0 };

pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    Answer { status, media_type: "application/json".to_owned(), body: body.to_string().into_bytes() }
}

pub(crate) fn gateway_key() -> GatewayKey {
    GatewayKey::from_hex(&"ab".repeat(32)).unwrap()
}

pub(crate) fn gateway_configuration() -> Value {
    json!({
        "role": "gateway", "binding": "header", "gateway_id": "gw-1",
        "sts": {}, "audit": {"capacity": 100}, "max_body_bytes": 100,
    })
}

pub(crate) fn sidecar_configuration() -> Value {
    json!({
        "role": "resource", "binding": {"fixed": {"zone": "z1", "resource": RESOURCE}}, "gateway_id": "gw-1",
        "sts": {}, "audit": {"capacity": 100}, "max_body_bytes": 100,
    })
}

pub(crate) struct World {
    pub(crate) host: Rc<FakeHost>,
    pub(crate) root: Root,
    pub(crate) signing: SigningKey,
    pub(crate) generation: u64,
    pub(crate) lineage: u64,
}

impl World {
    /// A configured worker whose feed is fresh.
    pub(crate) fn new(configuration: &Value) -> Self {
        let mut world = Self::without_feed(configuration);
        world.share_snapshot(&[]);
        world
    }

    pub(crate) fn without_feed(configuration: &Value) -> Self {
        let host = Rc::new(FakeHost::default());
        host.now.set(NOW);
        host.environment.borrow_mut().insert(KEY_VARIABLE.to_owned(), "ab".repeat(32));
        let as_host: Rc<dyn Host> = host.clone();
        let root = Root::configure(&as_host, configuration.to_string().as_bytes()).expect("configuration");
        Self { host, root, signing: SigningKey::from_slice(&[7; 32]).unwrap(), generation: 10, lineage: 1 }
    }

    pub(crate) fn zone(&self) -> Value {
        let point = self.signing.verifying_key().to_sec1_point(false);
        let bytes = point.as_bytes();
        let key = caracal_mandate::es256::PublicKey {
            x: bytes[1..33].try_into().unwrap(),
            y: bytes[33..].try_into().unwrap(),
        };
        let jwk = caracal_mandate::jwks::Jwk::new(KeyId::new("k1").unwrap(), &key);
        json!({
            "zone_id": "z1", "authority_epoch": 3, "policy_epoch": 0, "keys": [jwk],
            "resources": [
                {"identifier": RESOURCE, "enforcement": "enforced", "scopes": ["orders:read"], "operations": [
                    {"method": "GET", "path": "/v1/orders", "scope": "orders:read"},
                    {"method": "POST", "path": "/v1/orders", "scope": "orders:read"}]},
                {"identifier": "resource://multi", "enforcement": "transport_uniform", "multi_use": true},
                {"identifier": "resource://open", "enforcement": "transport_uniform", "multi_use": true,
                 "upstream": {"url": "http://open.example:9000", "credential": "none"}},
                {"identifier": "resource://derived", "enforcement": "transport_uniform", "multi_use": true,
                 "upstream": {"url": "http://derived.example", "credential": "mandate"}},
                {"identifier": "resource://keyed", "enforcement": "transport_uniform", "multi_use": true,
                 "upstream": {"url": "http://keyed.example", "credential": "brokered"}},
                speaks_mcp("resource://tools", false),
                speaks_mcp("resource://reused-tools", true),
            ],
        })
    }

    pub(crate) fn snapshot(&self, revoked: &[&str]) -> Value {
        let mut zone = self.zone();
        zone["revoked"] = revoked.iter().map(|id| anchor(id)).collect();
        json!({"previous": 0, "generation": self.generation, "snapshot": true, "issuer": ISSUER, "time": NOW, "zones": [zone]})
    }

    pub(crate) fn share_snapshot(&mut self, revoked: &[&str]) {
        let text = self.snapshot(revoked).to_string();
        self.host.share(snapshot::SNAPSHOT_KEY, &snapshot::with_lineage(self.lineage, text.as_bytes()));
        self.host.share(&snapshot::part_key(1), &snapshot::with_lineage(self.lineage, b""));
        self.share_status();
    }

    pub(crate) fn share_status(&self) {
        let generation = caracal_mandate::epoch::Generation(self.generation);
        let status = Status { generation, polled_at: self.host.now.get(), lineage: self.lineage, time: NOW };
        snapshot::share_status(self.host.as_ref(), status);
    }

    /// Shares one delta that revokes a session.
    pub(crate) fn revoke(&mut self, session: &str) {
        self.share_delta(
            &json!({"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0, "revoked": [anchor(session)]}),
        );
    }

    /// Shares one delta.
    pub(crate) fn share_delta(&mut self, zone: &Value) {
        let delta = json!({
            "previous": self.generation, "generation": self.generation + 1, "snapshot": false, "issuer": ISSUER,
            "time": NOW, "zones": [zone],
        });
        self.generation += 1;
        let key = snapshot::delta_key(caracal_mandate::epoch::Generation(self.generation));
        self.host.share(&key, &snapshot::with_lineage(self.lineage, delta.to_string().as_bytes()));
        self.share_status();
    }

    pub(crate) fn claims(&self) -> Value {
        let now = NOW / 1000;
        json!({
            "iss": ISSUER, "sub": "a1", "aud": [ISSUER], "exp": now + 300, "iat": now, "jti": "j1", "zone_id": "z1",
            "client_id": "a1", "scope": "orders:read", "sid": "S2", "root_sid": "S1", "use": "gateway",
            "sub_type": "application", "target": [
                RESOURCE, "resource://multi", "resource://open", "resource://derived", "resource://keyed",
                "resource://tools", "resource://reused-tools"], "agent_session_id": "T",
            "authority_epoch": 3,
        })
    }

    pub(crate) fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        let input = signing_input(&KeyId::new("k1").unwrap(), claims.to_string().as_bytes());
        let signature: p256::ecdsa::Signature = self.signing.sign(input.as_bytes());
        with_signature(input, &Signature(signature.to_bytes().into()))
    }

    pub(crate) fn resource_token(&self) -> String {
        self.token(|claims| {
            claims["use"] = json!("resource");
            claims["aud"] = json!([RESOURCE]);
        })
    }

    /// A mandate of a gateway that may be used more than once.
    pub(crate) fn multi_use_token(&self, change: impl FnOnce(&mut Value)) -> String {
        self.token(|claims| {
            claims["multi_use"] = json!(true);
            change(claims);
        })
    }

    pub(crate) fn worker(&self) -> Rc<Worker> {
        Rc::clone(self.root.worker().expect("a worker"))
    }

    /// A stream whose request headers are these.
    pub(crate) fn stream(&self, headers: &[(&str, &str)]) -> Request {
        let headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        *self.host.request.borrow_mut() = headers;
        Request::new(self.worker())
    }

    /// The headers of a good request with this token.
    pub(crate) fn good<'a>(&self, authorization: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            (":method", "GET"),
            (":path", "/v1/orders?page=1"),
            (":authority", "gateway.example"),
            (":scheme", "http"),
            ("authorization", authorization),
            ("x-caracal-resource", RESOURCE),
            ("x-request-id", "req-1"),
        ]
    }

    /// Sends a request that is refused at once; status, `error`, `error_description`.
    pub(crate) fn refused(&self, headers: &[(&str, &str)]) -> (u16, String, String) {
        let sent = self.host.sent.borrow().len();
        let mut request = self.stream(headers);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        request.on_end();
        assert_eq!(self.host.sent.borrow().len(), sent, "the STS was asked");
        assert_eq!(self.host.resumed.get(), 0);
        self.last_refusal()
    }

    pub(crate) fn last_refusal(&self) -> (u16, String, String) {
        let replied = self.host.replies.borrow().last().cloned().expect("no reply");
        let text = |name: &str| replied.body[name].as_str().unwrap().to_owned();
        assert!(!text("requestId").is_empty());
        assert!(replied.headers.contains(&("x-request-id".to_owned(), text("requestId"))));
        assert!(replied.headers.contains(&("content-type".to_owned(), "application/json".to_owned())));
        (replied.status, text("error"), text("error_description"))
    }

    /// Answers the call of this request.
    pub(crate) fn answer(&self, request: &mut Request, answer: Option<Answer>) {
        let size = if answer.is_some() { ANSWERED } else { FAILED };
        *self.host.answer.borrow_mut() = answer;
        request.on_answer(self.host.last_sent().token, size);
    }

    pub(crate) fn calls(&self) -> usize {
        self.host.sent.borrow().len()
    }

    pub(crate) fn granted(&self, directive: &Value) -> Answer {
        json_answer(200, &json!({"access_token": "derived", "upstreams": {RESOURCE: directive}}))
    }
}

fn speaks_mcp(identifier: &str, multi_use: bool) -> Value {
    json!({
        "identifier": identifier, "enforcement": "transport_uniform", "multi_use": multi_use,
        "upstream": {"url": "http://tools.example", "credential": "none"},
        "mcp": {
            "path": "/mcp", "max_body_bytes": 1000, "stream": [],
            "methods": [
                {"name": "initialize", "scopes": []}, {"name": "tools/list", "scopes": ["orders:read"]}],
            "tools": [
                {"name": "find", "scopes": ["orders:read"]}, {"name": "move", "scopes": ["orders:read", "orders:write"]}],
        },
    })
}

pub(crate) fn anchor(session: &str) -> Value {
    json!({"kind": "agent_session", "id": session, "until": NOW + 3_600_000})
}

pub(crate) fn poller(host: &Rc<FakeHost>) -> FeedPoller {
    host.now.set(NOW);
    let text = json!({"service": "feed", "gateway_id": "gw-1", "sts": {}, "wait_s": 7}).to_string();
    let Ok(Config::Feed(config)) = Config::parse(text.as_bytes()) else { panic!("configuration") };
    FeedPoller::new(config, gateway_key())
}

//! Requests to the token endpoint, and their answers.

use super::{ACCESS_TOKEN, GATEWAY_KEY, ORDERS, SECRET};
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::gateway_signature::{GatewayKey, Signed};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const TOKEN_PATH: &str = "/oauth/2/token";

/// The fields of a form, in order.
#[derive(Debug, Clone)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Contract sts §31.1: lifecycle authority for application `a1`.
    pub(crate) fn bootstrap() -> Self {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", "z1"),
            ("application_id", "a1"),
            ("client_secret", SECRET),
            ("scope", "agent:lifecycle"),
            ("resource", ORDERS),
        ];
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
    }

    /// Contract sts §31.2: a mint of session `T` under edge `E`.
    pub(crate) fn mint() -> Self {
        Self::bootstrap()
            .with("scope", "orders:read")
            .with("agent_session_id", "T")
            .with("delegation_edge_id", "E")
    }

    /// Contract sts §31.3: what a gateway asks when that mandate is presented.
    pub(crate) fn usage(token: &str) -> Self {
        Self::bootstrap()
            .without("client_secret")
            .without("scope")
            .with("subject_token", token)
            .with("subject_token_type", ACCESS_TOKEN)
            .with("request_method", "GET")
            .with("request_path", "/v1/orders")
    }

    /// The form with this field, in place of one of that name.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.without(name).and(name, value)
    }

    /// The form with one more field.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The form without this field.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(field, _)| field != name);
        self
    }

    pub(crate) fn encoded(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }

    /// A request of the application itself.
    pub(crate) fn request(&self) -> Request<Body> {
        post(self.encoded())
    }

    /// The same, under this request id.
    pub(crate) fn request_as(&self, request_id: &str) -> Request<Body> {
        let mut request = self.request();
        request.headers_mut().insert("x-request-id", request_id.parse().unwrap());
        request
    }
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post(TOKEN_PATH).header("content-type", FORM).body(body.into()).unwrap()
}

/// A request that a gateway signs; every part can be got wrong.
#[derive(Debug, Clone)]
pub(crate) struct GatewayCall {
    pub(crate) form: Form,
    pub(crate) request_id: String,
    /// What stands in `gateway_request_id`.
    pub(crate) named_request_id: String,
    pub(crate) nonce: String,
    pub(crate) key: String,
    /// The path that is signed.
    pub(crate) path: String,
    /// Seconds from now.
    pub(crate) skew: i64,
    /// Sent after the form although it was not signed.
    pub(crate) appended: String,
}

impl GatewayCall {
    pub(crate) fn new(form: Form) -> Self {
        let request_id = caracal_store::ids::new_id();
        Self {
            form,
            named_request_id: request_id.clone(),
            request_id,
            nonce: caracal_store::ids::new_id(),
            key: GATEWAY_KEY.to_owned(),
            path: TOKEN_PATH.to_owned(),
            skew: 0,
            appended: String::new(),
        }
    }

    pub(crate) fn request(&self) -> Request<Body> {
        let body = self.form.clone().with("gateway_request_id", &self.named_request_id).encoded();
        let timestamp = (seconds() + self.skew).to_string();
        let signature = GatewayKey::from_hex(&self.key).unwrap().sign(&Signed {
            timestamp: &timestamp,
            nonce: &self.nonce,
            method: "POST",
            path: &self.path,
            body: body.as_bytes(),
        });
        let mut request = post(format!("{body}{}", self.appended));
        let headers = [
            ("x-request-id", self.request_id.as_str()),
            ("x-caracal-gateway-timestamp", &timestamp),
            ("x-caracal-gateway-request", &self.nonce),
            ("x-caracal-gateway-signature", &signature),
        ];
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    }

    /// A signed poll of the feed.
    pub(crate) fn poll(query: &str) -> Request<Body> {
        let path = format!("{}?{query}", caracal_mandate::feed::FEED_PATH);
        let timestamp = seconds().to_string();
        let nonce = caracal_store::ids::new_id();
        let signed = Signed { timestamp: &timestamp, nonce: &nonce, method: "GET", path: &path, body: b"" };
        Request::get(&path)
            .header("x-caracal-gateway-timestamp", &timestamp)
            .header("x-caracal-gateway-request", &nonce)
            .header("x-caracal-gateway-signature", GatewayKey::from_hex(GATEWAY_KEY).unwrap().sign(&signed))
            .body(Body::empty())
            .unwrap()
    }
}

fn seconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }

    pub(crate) fn description(&self) -> &str {
        self.body["error_description"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The token of a grant.
    #[track_caller]
    pub(crate) fn granted(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body["access_token"].as_str().unwrap().to_owned()
    }

    /// The claims of a grant's token.
    #[track_caller]
    pub(crate) fn claims(&self) -> Value {
        claims_of(&self.granted())
    }
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

pub(crate) fn claims_of(token: &str) -> Value {
    part(token, 1)
}

pub(crate) fn header_of(token: &str) -> Value {
    part(token, 0)
}

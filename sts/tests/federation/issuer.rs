//! An OpenID provider of the test's own: it signs ID tokens and publishes its keys, well or badly.

use crate::https::Https;
use crate::support::{Answer, Form, SECRET, World};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

pub(crate) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
pub(crate) const ISSUER: &str = "https://idp.example/";
pub(crate) const AUDIENCE: &str = "orders-app";
pub(crate) const USER: &str = "auth0|u-1";

/// A signing key of the issuer.
pub(crate) enum Key {
    Ec(&'static str, &'static str, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    pub(crate) fn ec(curve: &'static str) -> Self {
        let (algorithm, signing) = match curve {
            "P-256" => ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            "P-384" => ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            _ => ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
        };
        Self::Ec(curve, algorithm, EcdsaKeyPair::generate(signing).unwrap())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// As the key set has it.
    pub(crate) fn to_jwk(&self, kid: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(curve, algorithm, pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                json!({ "kty": "EC", "kid": kid, "use": "sig", "alg": algorithm, "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Self::Rsa(pair) => {
                // A PKCS#1 key of 2048 bits: two integers behind headers of fixed length.
                let public = pair.public_key().as_ref();
                let (modulus, exponent) = (&public[9..265], &public[267..]);
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": encode(modulus), "e": encode(exponent) })
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(_, _, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let padding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token with any header and claims.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(header, &claims.to_string())
    }

    /// A token whose claims are this very text.
    pub(crate) fn token_of(&self, header: &Value, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let input = format!("{}.{}", encode(&header.to_string()), encode(claims));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// How the issuer answers when it is asked for its keys.
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    /// With these bytes.
    Body(Vec<u8>),
    /// Never.
    Silent,
    /// With its keys, once told to.
    Gated,
    Keys,
    Redirect,
    Status(u16),
}

struct Publishing {
    mode: Mutex<Mode>,
    keys: Mutex<Vec<Value>>,
    asked: AtomicUsize,
    gate: Notify,
    arrived: Notify,
}

/// The issuer, its key `k1`, and a zone that trusts it.
pub(crate) struct Issuer {
    pub(crate) world: World,
    pub(crate) key: Key,
    pub(crate) server: Https,
    published: Arc<Publishing>,
}

async fn publish(State(state): State<Arc<Publishing>>) -> Response {
    state.asked.fetch_add(1, Ordering::SeqCst);
    let mode = state.mode.lock().unwrap().clone();
    match mode {
        Mode::Body(bytes) => return bytes.into_response(),
        Mode::Silent => std::future::pending::<()>().await,
        Mode::Gated => {
            state.arrived.notify_one();
            state.gate.notified().await;
        }
        Mode::Keys => {}
        Mode::Redirect => return (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
        Mode::Status(status) => return StatusCode::from_u16(status).unwrap().into_response(),
    }
    keys(&state)
}

fn keys(state: &Publishing) -> Response {
    axum::Json(json!({ "keys": *state.keys.lock().unwrap() })).into_response()
}

impl Issuer {
    /// With a key of P-256.
    pub(crate) async fn new() -> Self {
        Self::with_key(Key::ec("P-256")).await
    }

    pub(crate) async fn with_key(key: Key) -> Self {
        let published = Arc::new(Publishing {
            mode: Mutex::new(Mode::Keys),
            keys: Mutex::new(vec![key.to_jwk("k1")]),
            asked: AtomicUsize::new(0),
            gate: Notify::new(),
            arrived: Notify::new(),
        });
        let elsewhere = |State(state): State<Arc<Publishing>>| async move { keys(&state) };
        let routes = Router::new()
            .route("/keys", get(publish))
            .route("/elsewhere", get(elsewhere))
            .with_state(Arc::clone(&published));
        let server = Https::start(routes).await;
        let world = World::new().await.calling(server.egress());
        let issuer = Self { world, key, server, published };
        issuer.trust("i1", ISSUER, "/keys").await;
        issuer
    }

    /// Makes the zone trust an issuer whose keys are at this path.
    pub(crate) async fn trust(&self, id: &str, issuer: &str, path: &str) {
        let url = self.server.url(path);
        self.world
            .sql(&format!(
                "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience, created_at, updated_at) \
                 VALUES ('{id}', 'z1', '{issuer}', '{url}', '{AUDIENCE}', 0, 0)"
            ))
            .await;
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.published.mode.lock().unwrap() = mode;
    }

    pub(crate) fn publish(&self, keys: &[Value]) {
        *self.published.keys.lock().unwrap() = keys.to_vec();
    }

    /// How often it was asked for its keys.
    pub(crate) fn asked(&self) -> usize {
        self.published.asked.load(Ordering::SeqCst)
    }

    /// Resolves once somebody asks a gated issuer for its keys.
    pub(crate) async fn arrived(&self) {
        self.published.arrived.notified().await;
    }

    /// Lets the keys of a gated issuer out.
    pub(crate) fn open_gate(&self) {
        self.published.gate.notify_one();
    }

    pub(crate) fn header(&self) -> Value {
        let algorithm = match &self.key {
            Key::Ec(_, algorithm, _) => algorithm,
            Key::Rsa(_) => "RS256",
        };
        json!({ "alg": algorithm, "kid": "k1", "typ": "JWT" })
    }

    /// What an ID token says of the user.
    pub(crate) fn claims(&self) -> Value {
        let now = self.world.store.now() / 1000;
        json!({
            "iss": ISSUER, "sub": USER, "aud": AUDIENCE, "exp": now + 600, "iat": now,
            "email": "someone@example.com", "nonce": "n-1",
        })
    }

    /// An ID token with some claims changed; null leaves one out.
    pub(crate) fn token(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = self.claims();
        let members = claims.as_object_mut().unwrap();
        for (name, value) in changes {
            if value.is_null() {
                members.remove(*name);
            } else {
                members.insert((*name).to_owned(), value.clone());
            }
        }
        self.key.token(&self.header(), &claims)
    }

    /// The form that presents a token.
    pub(crate) fn form(token: &str) -> Form {
        Form::bootstrap()
            .without("resource")
            .without("scope")
            .with("client_secret", SECRET)
            .with("subject_token", token)
            .with("subject_token_type", ID_TOKEN)
    }

    pub(crate) async fn federate(&self, token: &str) -> Answer {
        self.world.exchange(&Self::form(token)).await
    }

    /// Presents a token and answers status, code and what the ledger says of it.
    pub(crate) async fn verdict(&self, token: &str) -> (u16, String, String) {
        let id = caracal_store::ids::new_id();
        let answer = self.world.send(Self::form(token).request_as(&id)).await;
        let events = self.world.events().await;
        let own: Vec<&Value> = events.iter().filter(|event| event["request_id"] == *id).collect();
        assert_eq!(own.len(), 1, "{own:?}");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reason = word(&own[0]["metadata_json"]["reason"]);
        let status = word(&own[0]["evaluation_status"]);
        (answer.status, word(&answer.body["error"]), format!("{status}/{reason}"))
    }
}

//! A zone of a test's own: its key, the mandates that it signs, and how the feed tells of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_mandate::es256::PublicKey;
use caracal_mandate::id::KeyId;
use caracal_mandate::jwks::Jwk;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

/// Makes every mandate's `jti` another one.
static MADE: AtomicU64 = AtomicU64::new(1);

/// A zone that signs mandates.
#[derive(Clone)]
pub struct Issuer {
    /// The issuer's URL.
    pub url: String,
    /// The zone's id.
    pub zone: String,
    /// The id of its key.
    pub kid: String,
    key: Arc<EcdsaKeyPair>,
}

impl Issuer {
    /// A zone whose key follows from `seed`.
    ///
    /// # Panics
    /// On seed 0, which is no key.
    #[must_use]
    pub fn new(url: &str, zone: &str, kid: &str, seed: u8) -> Self {
        let secret = [seed; 32];
        let point = SigningKey::from_slice(&secret)
            .expect("a seed that is a key")
            .verifying_key()
            .to_sec1_point(false);
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, point.as_bytes());
        let key = Arc::new(key.expect("a key pair"));
        Self { url: url.to_owned(), zone: zone.to_owned(), kid: kid.to_owned(), key }
    }

    /// Its public key.
    ///
    /// # Panics
    /// Never: it is uncompressed.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        PublicKey { x: x.try_into().expect("32 bytes"), y: y.try_into().expect("32 bytes") }
    }

    /// Its key as the feed carries it.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let kid = KeyId::new(self.kid.as_str()).expect("a key id");
        serde_json::to_value(Jwk::new(kid, &self.public_key())).expect("JSON")
    }

    /// The zone as the feed carries it, with these resources and nothing revoked.
    #[must_use]
    pub fn zone_feed(&self, resources: &Value) -> Value {
        json!({
            "zone_id": self.zone, "authority_epoch": 3, "policy_epoch": 0, "keys": [self.jwk()], "resources": resources,
        })
    }

    /// The claims of a mandate for a gateway that is good from `now` (unix seconds) on for five minutes.
    #[must_use]
    pub fn claims(&self, now: u64, targets: &[&str]) -> Value {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        json!({
            "iss": self.url, "aud": [self.url], "sub": "app", "client_id": "app", "zone_id": self.zone, "use": "gateway",
            "sub_type": "application", "exp": now + 300, "iat": now, "jti": format!("jti-{number}"), "sid": "sid-1",
            "root_sid": "root-1", "scope": "orders:read", "target": targets, "agent_session_id": "session-1",
            "delegation_edge_id": "edge-1", "delegation_path": ["edge-1"], "hop_count": 1, "authority_epoch": 3,
        })
    }

    /// A mandate with these claims.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"}), claims)
    }

    /// A token with this header, signed as a mandate is, whatever the header says.
    #[must_use]
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let input = signing_input(header.to_string().as_bytes(), claims.to_string().as_bytes());
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        join(&input, signature.as_ref())
    }
}

/// The signed part of a token.
#[must_use]
pub fn signing_input(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

/// A token of a signed part and the bytes of a signature.
#[must_use]
pub fn join(input: &str, signature: &[u8]) -> String {
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The signed part and the signature of a token.
///
/// # Panics
/// When it is no token.
#[must_use]
pub fn split(token: &str) -> (String, Vec<u8>) {
    let (input, signature) = token.rsplit_once('.').expect("a token");
    (input.to_owned(), URL_SAFE_NO_PAD.decode(signature).expect("a signature"))
}

/// The token with other claims and the same signature: what a forger can do.
///
/// # Panics
/// When it is no token.
#[must_use]
pub fn forge(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let payload = URL_SAFE_NO_PAD.decode(parts[1]).expect("a payload");
    let mut claims = serde_json::from_slice(&payload).expect("claims");
    change(&mut claims);
    format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

/// The other signature of the same token that verifies: `s` replaced by `n - s`.
///
/// # Panics
/// When it is no token.
#[must_use]
pub fn mirror(token: &str) -> String {
    let (input, bytes) = split(token);
    let signature = Signature::from_slice(&bytes).expect("a signature");
    let (r, s) = signature.split_scalars();
    let mirrored = Signature::from_scalars(r, -s).expect("a signature");
    join(&input, &mirrored.to_bytes())
}

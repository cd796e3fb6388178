//! JSON Web Keys of a zone (contract sts §20, gateway A7).

use crate::es256::PublicKey;
use crate::id::KeyId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// One key as JWKS documents and the feed carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC`.
    pub kty: String,
    /// `P-256`.
    pub crv: String,
    /// `sig`, or absent.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// The key's id.
    pub kid: KeyId,
    /// `ES256`.
    pub alg: String,
    /// base64url of the x coordinate, 32 bytes.
    pub x: String,
    /// base64url of the y coordinate, 32 bytes.
    pub y: String,
    /// Absent, or holding `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
}

/// A key set document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwkSet {
    /// Newest first.
    pub keys: Vec<Jwk>,
}

impl Jwk {
    /// The JWK of a key.
    #[must_use]
    pub fn new(kid: KeyId, key: &PublicKey) -> Self {
        Self {
            kty: "EC".into(),
            crv: "P-256".into(),
            usage: Some("sig".into()),
            kid,
            alg: "ES256".into(),
            x: URL_SAFE_NO_PAD.encode(key.x),
            y: URL_SAFE_NO_PAD.encode(key.y),
            key_ops: None,
        }
    }

    /// The public key, if this JWK is one that may verify mandates.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        let usable = self.kty == "EC"
            && self.crv == "P-256"
            && self.alg == "ES256"
            && self.usage.as_deref().is_none_or(|usage| usage.is_empty() || usage == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !usable {
            return None;
        }
        Some(PublicKey { x: coordinate(&self.x)?, y: coordinate(&self.y)? })
    }
}

fn coordinate(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_gateway_e11_keys_that_may_not_verify() {
        let good = Jwk::new(KeyId::new("k").unwrap(), &PublicKey { x: [1; 32], y: [2; 32] });
        assert_eq!(good.public_key(), Some(PublicKey { x: [1; 32], y: [2; 32] }));
        let wrong: [fn(&mut Jwk); 7] = [
            |key| key.kty = "RSA".into(),
            |key| key.crv = "P-384".into(),
            |key| key.alg = "ES384".into(),
            |key| key.usage = Some("enc".into()),
            |key| key.key_ops = Some(vec!["sign".into()]),
            |key| key.x = "AQ".into(),
            |key| key.y = "****".into(),
        ];
        for change in wrong {
            let mut key = good.clone();
            change(&mut key);
            assert_eq!(key.public_key(), None, "{key:?}");
        }
    }
}

//! The public keys of an external issuer, as its key set gives them (RFC 7517, RFC 7518 §6).

use super::error::FederationError;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RsaParameters,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// Algorithms that an external token may be signed with. Symmetric ones are never accepted: their key would be a secret
/// that the issuer shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Es512,
    Rs256,
    Rs384,
    Rs512,
}

impl Algorithm {
    /// The algorithm of this exact name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            _ => return None,
        })
    }
}

/// A key of the issuer.
#[derive(Debug, Clone)]
pub(super) struct IssuerKey {
    id: String,
    /// The one algorithm that the key set names for it.
    only: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// With the algorithm that its curve goes with.
    Ec(Algorithm, ParsedPublicKey),
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// The usable keys of a key set. What cannot verify is left out; none at all is an error.
pub(super) fn usable_keys(document: &[u8]) -> Result<Vec<IssuerKey>, FederationError> {
    let document: Document = serde_json::from_slice(document).map_err(|_| FederationError::KeysUnusable)?;
    let keys: Vec<IssuerKey> = document.keys.into_iter().filter_map(IssuerKey::from_json).collect();
    if keys.is_empty() { Err(FederationError::KeysUnusable) } else { Ok(keys) }
}

impl IssuerKey {
    fn from_json(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let verifies = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if jwk.kid.is_empty() || !verifies {
            return None;
        }
        let kind = match jwk.kty.as_str() {
            "EC" => elliptic(&jwk)?,
            "RSA" => rsa(&jwk)?,
            _ => return None,
        };
        Some(Self { id: jwk.kid, only: jwk.alg, kind })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Is this the key's signature of `message`?
    pub(super) fn verifies(
        &self,
        algorithm: Algorithm,
        name: &str,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        if self.only.as_deref().is_some_and(|only| only != name) {
            return false;
        }
        match &self.kind {
            Kind::Ec(own, key) => *own == algorithm && key.verify_sig(message, signature).is_ok(),
            Kind::Rsa { modulus, exponent } => rsa_parameters(algorithm).is_some_and(|parameters| {
                PublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }),
        }
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

/// A point of one of three curves; one that is not on its curve is no key.
fn elliptic(jwk: &Jwk) -> Option<Kind> {
    let (algorithm, verification, length): (_, &'static EcdsaVerificationAlgorithm, _) =
        match jwk.crv.as_str() {
            "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
            "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
            "P-521" => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, 66),
            _ => return None,
        };
    let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
    if x.len() != length || y.len() != length {
        return None;
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    Some(Kind::Ec(algorithm, ParsedPublicKey::new(verification, point).ok()?))
}

/// 2048 to 8192 bits, with an odd exponent of 3 to 2^31 − 1.
fn rsa(jwk: &Jwk) -> Option<Kind> {
    let trimmed = |text: &str| {
        let bytes = decode(text)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes.into_iter().skip(zeros).collect::<Vec<u8>>())
    };
    let (modulus, exponent) = (trimmed(&jwk.n)?, trimmed(&jwk.e)?);
    let value =
        exponent.iter().fold(0_u64, |value, byte| value.saturating_mul(256).saturating_add(u64::from(*byte)));
    let sound = (3..=0x7fff_ffff).contains(&value) && value % 2 == 1 && (256..=1024).contains(&modulus.len());
    let parses = || {
        let components = PublicKeyComponents { n: &modulus, e: &exponent };
        components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).is_ok()
    };
    (sound && parses()).then_some(Kind::Rsa { modulus, exponent })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    fn ec() -> Value {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": part(1..33), "y": part(33..65) })
    }

    fn rsa() -> Value {
        json!({ "kty": "RSA", "kid": "k", "n": URL_SAFE_NO_PAD.encode([0xff; 256]), "e": "AQAB" })
    }

    fn usable(key: Value) -> bool {
        usable_keys(json!({ "keys": [key] }).to_string().as_bytes()).is_ok()
    }

    #[test]
    fn sts_21_which_keys_are_usable() {
        let with = |mut key: Value, member: &str, value: Value| {
            key[member] = value;
            key
        };
        let (ec, rsa) = (ec(), rsa());
        for key in [&ec, &rsa] {
            assert!(usable(key.clone()));
            assert!(usable(with(key.clone(), "use", "sig".into())));
            assert!(usable(with(key.clone(), "key_ops", json!(["verify"]))));
            let wrong = [
                ("use", json!("enc")),
                ("key_ops", json!(["sign"])),
                ("kid", json!("")),
                ("kid", json!(7)),
                ("kty", json!("oct")),
                ("kty", json!("OKP")),
            ];
            for (member, value) in wrong {
                assert!(!usable(with(key.clone(), member, value.clone())), "{member} = {value}");
            }
        }
        let wrong_ec = [
            ("crv", json!("P-384")),
            ("crv", json!("secp256k1")),
            ("x", json!(URL_SAFE_NO_PAD.encode([1; 32]))),
            ("x", json!("AQ")),
            ("y", json!("***")),
        ];
        for (member, value) in wrong_ec {
            assert!(!usable(with(ec.clone(), member, value.clone())), "{member} = {value}");
        }
        let even = URL_SAFE_NO_PAD.encode([2]);
        let huge = URL_SAFE_NO_PAD.encode([0x80, 0, 0, 1]);
        for exponent in ["AQ", &even, &huge, "", "***"] {
            assert!(!usable(with(rsa.clone(), "e", exponent.into())), "e = {exponent}");
        }
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        for modulus in [short.as_str(), ""] {
            assert!(!usable(with(rsa.clone(), "n", modulus.into())));
        }
        assert!(!usable(json!({ "kty": "oct", "kid": "k", "k": "c2VjcmV0" })));
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
            assert!(usable_keys(document.as_bytes()).is_err(), "{document}");
        }
    }
}

//! Signed assertions: a client that proves itself with a key (RFC 7523 §2.2), and a grant that is one (§2.1).

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};

/// Why a key or a certificate cannot be used. Nothing of it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The certificate is no PEM certificate.
    #[error("the certificate is no PEM certificate")]
    Certificate,
    /// The certificate is another key's.
    #[error("the certificate belongs to another key")]
    Mismatch,
    /// No PEM private key of RSA (2048 bits or more) or of P-256, P-384 or P-521.
    #[error("the private key is no PEM key of RSA with at least 2048 bits, P-256, P-384 or P-521")]
    PrivateKey,
    /// Signing failed.
    #[error("the assertion could not be signed")]
    Signing,
}

/// A key that signs assertions.
pub struct SigningKey {
    pair: Pair,
    key_id: Option<String>,
    /// SHA-1 and SHA-256 of the certificate.
    thumbprints: Option<(String, String)>,
}

enum Pair {
    Rsa(rsa::KeyPair),
    Ec(&'static str, EcdsaKeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// A key out of PEM: PKCS #8, PKCS #1 or SEC 1. A certificate has to be the key's own.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(
        private_key: &str,
        key_id: Option<&str>,
        certificate: Option<&str>,
    ) -> Result<Self, KeyError> {
        let pair = Pair::from_pem(private_key).ok_or(KeyError::PrivateKey)?;
        let thumbprints = certificate.map(|pem| thumbprints(pem, pair.public_key())).transpose()?;
        Ok(Self { pair, key_id: key_id.map(str::to_owned), thumbprints })
    }

    /// The compact JWS over these claims.
    ///
    /// # Errors
    /// [`KeyError::Signing`].
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let mut header = Map::new();
        header.insert("alg".into(), self.pair.algorithm().into());
        header.insert("typ".into(), "JWT".into());
        if let Some(id) = &self.key_id {
            header.insert("kid".into(), id.as_str().into());
        }
        if let Some((sha1, sha256)) = &self.thumbprints {
            header.insert("x5t".into(), sha1.as_str().into());
            header.insert("x5t#S256".into(), sha256.as_str().into());
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&Value::Object(header)), part(claims));
        let signature = self.pair.sign(input.as_bytes()).ok_or(KeyError::Signing)?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Pair {
    fn from_pem(pem: &str) -> Option<Self> {
        let ec = |der: &[u8]| {
            let curves = [
                ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
                ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
                ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
            ];
            let mut pairs = curves.into_iter().filter_map(|(name, curve)| {
                Some(Self::Ec(name, EcdsaKeyPair::from_private_key_der(curve, der).ok()?))
            });
            pairs.next()
        };
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()? {
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok().map(Self::Rsa),
            PrivateKeyDer::Sec1(der) => ec(der.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(der) => match rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()) {
                Ok(pair) => Some(Self::Rsa(pair)),
                Err(_) => ec(der.secret_pkcs8_der()),
            },
            _ => None,
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(name, _) => name,
        }
    }

    /// As it stands in a certificate: an `RSAPublicKey`, or an uncompressed point.
    fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ec(_, pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ec(_, pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
        }
    }
}

/// The thumbprints of a certificate (RFC 7515 §4.1.7, §4.1.8) that holds this public key. The key stands in it byte for
/// byte, so the certificate need not be taken apart to tell whose it is.
fn thumbprints(pem: &str, public_key: &[u8]) -> Result<(String, String), KeyError> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Certificate)?;
    if !certificate.windows(public_key.len().max(1)).any(|window| window == public_key) {
        return Err(KeyError::Mismatch);
    }
    let print = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &certificate).as_ref());
    Ok((print(&digest::SHA1_FOR_LEGACY_USE_ONLY), print(&digest::SHA256)))
}

/// Who an assertion is by, about and for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assertion<'a> {
    /// `iss`
    pub(super) issuer: &'a str,
    /// `sub`
    pub(super) subject: &'a str,
    /// `aud`
    pub(super) audience: &'a str,
    /// `scope`, joined by spaces; left out when empty.
    pub(super) scope: &'a str,
    /// How long it lives, seconds.
    pub(super) life: i64,
}

impl Assertion<'_> {
    /// The claims of one assertion that is issued now (unix seconds). Its `jti` is never used again.
    #[must_use]
    pub(super) fn claims(&self, now: i64) -> Value {
        let mut claims = json!({
            "iss": self.issuer,
            "sub": self.subject,
            "aud": self.audience,
            "iat": now,
            "exp": now.saturating_add(self.life),
            "jti": uuid::Uuid::new_v4().to_string(),
        });
        if let (Some(members), false) = (claims.as_object_mut(), self.scope.is_empty()) {
            members.insert("scope".to_owned(), self.scope.into());
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
        RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    };
    use base64::engine::general_purpose::STANDARD;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn rsa_pem() -> String {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        pem("PRIVATE KEY", der.as_ref())
    }

    fn verifies(algorithm: &'static dyn VerificationAlgorithm, key: &SigningKey, token: &str) {
        let (input, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(algorithm, key.pair.public_key());
        public.verify(input.as_bytes(), &signature).unwrap();
        assert!(public.verify(format!("{input}x").as_bytes(), &signature).is_err());
    }

    #[test]
    fn contract_sts_22_3_each_key_signs_with_its_algorithm() {
        let curves: [(_, _, &'static dyn VerificationAlgorithm); 3] = [
            ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED),
            ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED),
            ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING, &ECDSA_P521_SHA512_FIXED),
        ];
        let claims = Assertion { issuer: "c", subject: "c", audience: "a", scope: "", life: 60 }.claims(7);
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(7), &json!(67)));
        for (name, curve, verifying) in curves {
            let pair = EcdsaKeyPair::generate(curve).unwrap();
            let sec1 = pair.private_key().as_der().unwrap();
            for text in [
                pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
                pem("EC PRIVATE KEY", sec1.as_ref()),
            ] {
                let key = SigningKey::from_pem(&text, Some("k1"), None).unwrap();
                let token = key.sign(&claims).unwrap();
                let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
                let header: Value = serde_json::from_slice(&header).unwrap();
                assert_eq!(header, json!({ "alg": name, "kid": "k1", "typ": "JWT" }));
                verifies(verifying, &key, &token);
            }
        }
        let key = SigningKey::from_pem(&rsa_pem(), None, None).unwrap();
        verifies(&RSA_PKCS1_2048_8192_SHA256, &key, &key.sign(&claims).unwrap());
    }

    #[test]
    fn contract_admin_5_5_what_is_no_key_and_no_certificate_of_it() {
        let key = rsa_pem();
        for text in ["", "x", &pem("PRIVATE KEY", b"x"), &pem("CERTIFICATE", b"x")] {
            assert_eq!(SigningKey::from_pem(text, None, None).unwrap_err(), KeyError::PrivateKey, "{text}");
        }
        let cases = [("x".to_owned(), KeyError::Certificate), (pem("CERTIFICATE", b"x"), KeyError::Mismatch)];
        for (certificate, error) in cases {
            assert_eq!(SigningKey::from_pem(&key, None, Some(&certificate)).unwrap_err(), error);
        }
    }

    #[test]
    fn contract_sts_22_3_a_certificate_names_itself_in_the_header() {
        let text = rsa_pem();
        let public = SigningKey::from_pem(&text, None, None).unwrap().pair.public_key().to_vec();
        let der = [b"before", &public[..], b"after"].concat();
        let key = SigningKey::from_pem(&text, None, Some(&pem("CERTIFICATE", &der))).unwrap();
        let token = key.sign(&json!({})).unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        let print = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &der).as_ref());
        assert_eq!(header["x5t"], print(&digest::SHA1_FOR_LEGACY_USE_ONLY));
        assert_eq!(header["x5t#S256"], print(&digest::SHA256));
    }
}

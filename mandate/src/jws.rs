//! Compact JWS (RFC 7515 §7.1), bounded and strict: only what a mandate may look like gets through.

use crate::es256::Signature;
use crate::id::KeyId;
use crate::tree::Tree;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The longest mandate, in bytes (contract gateway A4).
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Why a token is not a compact JWS that could be a mandate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwsError {
    /// `alg` is not exactly `ES256`.
    #[error("the header's alg is not ES256")]
    Algorithm,
    /// The header names a critical extension, and none is known here (RFC 7515 §4.1.11).
    #[error("the header has crit")]
    Critical,
    /// A part is not base64url without padding, or not the JSON that it should be.
    #[error("the {0} is malformed")]
    Malformed(Part),
    /// `kid` is missing or no key id.
    #[error("the header's kid is missing or malformed")]
    KeyId,
    /// There are not exactly three non-empty parts.
    #[error("not three dot-separated parts")]
    Parts,
    /// The token is longer than [`MAX_TOKEN_BYTES`].
    #[error("longer than {MAX_TOKEN_BYTES} bytes")]
    TooLarge,
}

/// A part of a compact JWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The first part.
    Header,
    /// The second part.
    Payload,
    /// The third part.
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// The three parts of a token, still encoded.
#[derive(Debug, Clone, Copy)]
pub struct CompactJws<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    signing_input: &'a str,
}

impl<'a> CompactJws<'a> {
    /// Splits a token into its parts without decoding them.
    pub fn split(token: &'a [u8]) -> Result<Self, JwsError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwsError::TooLarge);
        }
        let token = std::str::from_utf8(token).map_err(|_| JwsError::Parts)?;
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Parts)?;
        if header.is_empty() || payload.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(JwsError::Parts);
        }
        Ok(Self { header, payload, signature, signing_input })
    }

    /// The key that the header names, once the header is known to be one of a mandate. Embedded keys (`jwk`, `jku`,
    /// `x5u`) are never looked at.
    pub fn key_id(&self) -> Result<KeyId, JwsError> {
        let bytes = decode(self.header, Part::Header)?;
        let header = Tree::parse(&bytes).map_err(|_| JwsError::Malformed(Part::Header))?;
        match header.text("alg") {
            Ok("ES256") => {}
            Ok(_) => return Err(JwsError::Algorithm),
            Err(_) => return Err(JwsError::Malformed(Part::Header)),
        }
        if header.get("crit").is_some() {
            return Err(JwsError::Critical);
        }
        match header.get("kid") {
            None | Some(Tree::Null) => Err(JwsError::KeyId),
            Some(Tree::Text(kid)) => kid.parse().map_err(|_| JwsError::KeyId),
            Some(_) => Err(JwsError::Malformed(Part::Header)),
        }
    }

    /// The decoded payload.
    pub fn payload(&self) -> Result<Vec<u8>, JwsError> {
        decode(self.payload, Part::Payload)
    }

    /// The decoded signature, which must be 64 bytes: r and s, no DER.
    pub fn signature(&self) -> Result<Signature, JwsError> {
        let bytes = decode(self.signature, Part::Signature)?;
        <[u8; 64]>::try_from(bytes).map(Signature).map_err(|_| JwsError::Malformed(Part::Signature))
    }

    /// The bytes that were signed.
    #[must_use]
    pub fn signing_input(&self) -> &'a [u8] {
        self.signing_input.as_bytes()
    }
}

/// The decoded payload of what was signed.
#[must_use]
pub fn payload_of(signing_input: &[u8]) -> Option<Vec<u8>> {
    let (_, payload) = std::str::from_utf8(signing_input).ok()?.split_once('.')?;
    decode(payload, Part::Payload).ok()
}

fn decode(text: &str, part: Part) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::Malformed(part))
}

/// Puts a token together: `base64url(header).base64url(payload)`, to which [`with_signature`] adds the last part.
#[must_use]
pub fn signing_input(key_id: &KeyId, payload: &[u8]) -> String {
    let header = format!(r#"{{"alg":"ES256","kid":"{key_id}","typ":"JWT"}}"#);
    let mut text = URL_SAFE_NO_PAD.encode(header);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut text);
    text
}

/// Appends the signature to what [`signing_input`] made.
#[must_use]
pub fn with_signature(mut signing_input: String, signature: &Signature) -> String {
    signing_input.push('.');
    URL_SAFE_NO_PAD.encode_string(signature.0, &mut signing_input);
    signing_input
}

/// What a fuzzer feeds: any bytes, every accessor. It must return, whatever comes in.
pub fn fuzz(token: &[u8]) {
    if let Ok(jws) = CompactJws::split(token) {
        let _ = jws.key_id();
        let _ = jws.signature();
        if let Ok(payload) = jws.payload() {
            let _ = crate::claims::Claims::from_json(&payload);
            let _ = crate::claims::Peek::from_json(&payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str) -> String {
        let head = URL_SAFE_NO_PAD.encode(header);
        format!("{head}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode([1u8; 64]))
    }

    #[test]
    fn contract_gateway_e7_e8_headers() {
        let cases = [
            (r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#, Ok("k1")),
            (r#"{"alg":"ES256","kid":"k1","jwk":{},"jku":"https://x","x5u":"y"}"#, Ok("k1")),
            (r#"{"alg":"none","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"alg":"None","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"alg":"HS256","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"alg":"RS256","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"alg":"ES256K","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"alg":"es256","kid":"k1"}"#, Err(JwsError::Algorithm)),
            (r#"{"kid":"k1"}"#, Err(JwsError::Malformed(Part::Header))),
            (r#"{"alg":"ES256","alg":"none","kid":"k1"}"#, Err(JwsError::Malformed(Part::Header))),
            (r#"{"alg":"ES256"}"#, Err(JwsError::KeyId)),
            (r#"{"alg":"ES256","kid":""}"#, Err(JwsError::KeyId)),
            (r#"{"alg":"ES256","kid":"../../etc"}"#, Err(JwsError::KeyId)),
            (r#"{"alg":"ES256","kid":"k' OR 1=1"}"#, Err(JwsError::KeyId)),
            (r#"{"alg":"ES256","kid":7}"#, Err(JwsError::Malformed(Part::Header))),
            (r#"{"alg":"ES256","kid":"k1","crit":["b64"]}"#, Err(JwsError::Critical)),
            (r#"{"alg":"ES256","kid":"k1","crit":null}"#, Err(JwsError::Critical)),
            (r#"["ES256"]"#, Err(JwsError::Malformed(Part::Header))),
        ];
        for (header, expected) in cases {
            let token = token(header);
            let got = CompactJws::split(token.as_bytes()).unwrap().key_id();
            assert_eq!(got.as_ref().map(KeyId::as_str), expected.as_ref().map(|kid| *kid), "{header}");
        }
    }

    #[test]
    fn contract_gateway_e5_e10_shapes() {
        for text in ["", ".", "..", "a.b", "a.b.c.d", "a..c", ".b.c", "a.b."] {
            assert!(CompactJws::split(text.as_bytes()).is_err(), "{text}");
        }
        assert!(matches!(CompactJws::split(&[b'a'; 4097]), Err(JwsError::TooLarge)));
        let signature = |bytes: &[u8]| {
            let text = format!("e30.e30.{}", URL_SAFE_NO_PAD.encode(bytes));
            CompactJws::split(text.as_bytes()).unwrap().signature()
        };
        assert!(signature(&[1; 64]).is_ok());
        assert!(signature(&[1; 63]).is_err());
        assert!(signature(&[1; 65]).is_err());
        for payload in ["e30=", "e3+", "e3/", "e"] {
            let text = format!("e30.{payload}.AA");
            assert!(CompactJws::split(text.as_bytes()).unwrap().payload().is_err(), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            fuzz(&bytes);
        }

        #[test]
        fn a_token_survives_the_round_trip(payload in proptest::collection::vec(any::<u8>(), 1..600), signature in any::<[u8; 32]>()) {
            let key = KeyId::new("k-1").unwrap();
            let mut both = [0u8; 64];
            both[..32].copy_from_slice(&signature);
            let token = with_signature(signing_input(&key, &payload), &Signature(both));
            let jws = CompactJws::split(token.as_bytes()).unwrap();
            prop_assert_eq!(jws.key_id().unwrap(), key);
            prop_assert_eq!(jws.payload().unwrap(), payload);
            prop_assert_eq!(jws.signature().unwrap().0, both);
        }
    }
}

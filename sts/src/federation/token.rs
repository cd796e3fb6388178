//! A token of an external issuer: a compact JWS with the claims of an ID token (contract sts §21).

use super::Vouched;
use super::error::FederationError;
use super::jwks::{Algorithm, IssuerKey};
use super::subject::UserSubject;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_store::model::SubjectIssuer;
use serde::{Deserialize, Deserializer};

/// The longest token, in bytes. Some issuers put many groups into theirs.
const MAX_BYTES: usize = 16_384;
/// How far clocks may be apart, seconds.
const LEEWAY: i64 = 60;

/// A token whose shape is good and of which nothing is believed yet.
#[derive(Debug)]
pub(crate) struct ExternalToken<'a> {
    algorithm: Algorithm,
    algorithm_name: String,
    key_id: String,
    claims: Claims,
    signing_input: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// The claims that count. One that stands twice is an error.
#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    #[serde(deserialize_with = "seconds")]
    exp: i64,
    #[serde(default, deserialize_with = "optional_seconds")]
    iat: Option<i64>,
    #[serde(default, deserialize_with = "optional_seconds")]
    nbf: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

impl<'a> ExternalToken<'a> {
    /// Takes a token apart and refuses what could never be accepted.
    pub(crate) fn parse(token: &'a str) -> Result<Self, FederationError> {
        let malformed = || FederationError::Malformed;
        if token.len() > MAX_BYTES {
            return Err(malformed());
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or_else(malformed)?;
        let header: Header = object(header)?;
        let algorithm = Algorithm::from_name(&header.alg).ok_or(FederationError::Algorithm)?;
        if header.crit {
            return Err(FederationError::Critical);
        }
        let key_id = header.kid.filter(|kid| !kid.is_empty()).ok_or(FederationError::KeyId)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        Ok(Self {
            algorithm,
            algorithm_name: header.alg,
            key_id,
            claims: object(payload)?,
            signing_input,
            signature,
        })
    }

    /// The issuer that it claims.
    pub(crate) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// The key that it names.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Is it signed by the key that it names?
    pub(super) fn verify_signature(&self, keys: &[IssuerKey]) -> Result<(), FederationError> {
        let mut named = keys.iter().filter(|key| key.id() == self.key_id).peekable();
        if named.peek().is_none() {
            return Err(FederationError::KeyUnknown);
        }
        let message = self.signing_input.as_bytes();
        if named.any(|key| key.verifies(self.algorithm, &self.algorithm_name, message, &self.signature)) {
            Ok(())
        } else {
            Err(FederationError::Signature)
        }
    }

    /// Does it vouch for somebody here and at `now` (unix seconds)?
    pub(super) fn check_claims(&self, issuer: &SubjectIssuer, now: i64) -> Result<Vouched, FederationError> {
        let claims = &self.claims;
        if claims.iss != issuer.issuer {
            return Err(FederationError::IssuerNotTrusted);
        }
        if !claims.aud.contains(&issuer.audience) {
            return Err(FederationError::Audience);
        }
        if claims.exp.saturating_add(LEEWAY) <= now {
            return Err(FederationError::Expired);
        }
        if claims.iat.max(claims.nbf).is_some_and(|start| start > now.saturating_add(LEEWAY)) {
            return Err(FederationError::NotYetValid);
        }
        let subject = UserSubject::new(claims.sub.clone()).ok_or(FederationError::Subject)?;
        Ok(Vouched { subject, issued_at: claims.iat })
    }
}

/// A base64url part that holds a JSON object. Serde alone would take an array for a struct.
fn object<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, FederationError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| FederationError::Malformed)?;
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(FederationError::Malformed);
    }
    serde_json::from_slice(&bytes).map_err(|_| FederationError::Malformed)
}

/// `true` for a member that is there, whatever its value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let whole = number.as_i64().or_else(|| {
        let fraction = number.as_f64().filter(|seconds| seconds.abs() < 1e12)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the bound is far within an i64; the fraction is meant to go"
        )]
        Some(fraction.floor() as i64)
    });
    whole.ok_or_else(|| serde::de::Error::custom("not a time"))
}

fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    seconds(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::id::ZoneId;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), URL_SAFE_NO_PAD.encode([1; 64]))
    }

    const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

    #[test]
    fn sts_21_headers() {
        let payload = r#"{"iss":"i","sub":"u","aud":"a","exp":10}"#;
        let cases = [
            (HEADER, None),
            (r#"{"alg":"RS512","kid":"k","typ":"JWT","jku":"https://evil"}"#, None),
            (r#"{"alg":"none","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"HS256","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"PS256","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"EdDSA","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"ES256K","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"es256","kid":"k"}"#, Some(FederationError::Algorithm)),
            (r#"{"alg":"ES256"}"#, Some(FederationError::KeyId)),
            (r#"{"alg":"ES256","kid":""}"#, Some(FederationError::KeyId)),
            (r#"{"alg":"ES256","kid":"k","crit":["b64"]}"#, Some(FederationError::Critical)),
            (r#"{"alg":"ES256","alg":"none","kid":"k"}"#, Some(FederationError::Malformed)),
            (r#"["ES256"]"#, Some(FederationError::Malformed)),
        ];
        for (header, expected) in cases {
            assert_eq!(ExternalToken::parse(&token(header, payload)).err(), expected, "{header}");
        }
        for text in ["", ".", "a.b", "a.b.c", "a.b.c.d", "...", &"a".repeat(MAX_BYTES + 1)] {
            assert_eq!(ExternalToken::parse(text).err(), Some(FederationError::Malformed));
        }
    }

    #[test]
    fn sts_21_claims() {
        let issuer = SubjectIssuer {
            id: "i1".into(),
            zone_id: ZoneId::new("z1").unwrap(),
            issuer: "https://idp".into(),
            jwks_url: "https://idp/keys".into(),
            audience: "app".into(),
        };
        let check = |payload: &str| {
            ExternalToken::parse(&token(HEADER, payload))
                .and_then(|token| token.check_claims(&issuer, 1000))
                .map(|vouched| vouched.subject.as_str().to_owned())
        };
        let cases = [
            (r#"{"iss":"https://idp","sub":"u","aud":"app","exp":1001}"#, Ok("u")),
            (
                r#"{"iss":"https://idp","sub":"u","aud":["x","app"],"exp":1001.9,"iat":1060,"nbf":1060}"#,
                Ok("u"),
            ),
            (r#"{"iss":"https://idp","sub":"u","aud":"app","exp":941}"#, Ok("u")),
            (r#"{"iss":"https://idp","sub":"u","aud":"app","exp":940}"#, Err(FederationError::Expired)),
            (
                r#"{"iss":"https://idp","sub":"u","aud":"app","exp":2000,"iat":1061}"#,
                Err(FederationError::NotYetValid),
            ),
            (
                r#"{"iss":"https://idp","sub":"u","aud":"app","exp":2000,"nbf":1061}"#,
                Err(FederationError::NotYetValid),
            ),
            (
                r#"{"iss":"https://idp/","sub":"u","aud":"app","exp":2000}"#,
                Err(FederationError::IssuerNotTrusted),
            ),
            (r#"{"iss":"https://idp","sub":"u","aud":"app2","exp":2000}"#, Err(FederationError::Audience)),
            (r#"{"iss":"https://idp","sub":"u","aud":[],"exp":2000}"#, Err(FederationError::Audience)),
            (r#"{"iss":"https://idp","sub":" u","aud":"app","exp":2000}"#, Err(FederationError::Subject)),
            (
                r#"{"iss":"https://idp","sub":"u\ud800","aud":"app","exp":2000}"#,
                Err(FederationError::Malformed),
            ),
            (r#"{"iss":"https://idp","sub":"u","aud":"app"}"#, Err(FederationError::Malformed)),
            (r#"{"iss":"https://idp","sub":"u","aud":"app","exp":"2000"}"#, Err(FederationError::Malformed)),
            (r#"{"iss":"https://idp","sub":"u","aud":"app","exp":1e300}"#, Err(FederationError::Malformed)),
            (
                r#"{"iss":"https://idp","sub":"u","aud":"app","exp":2000,"iat":null}"#,
                Err(FederationError::Malformed),
            ),
            (r#"{"iss":"https://idp","sub":7,"aud":"app","exp":2000}"#, Err(FederationError::Malformed)),
            (
                r#"{"iss":"https://idp","sub":"u","sub":"v","aud":"app","exp":2000}"#,
                Err(FederationError::Malformed),
            ),
            (r#"{"iss":"https://idp","aud":"app","exp":2000}"#, Err(FederationError::Malformed)),
            ("[]", Err(FederationError::Malformed)),
        ];
        for (payload, expected) in cases {
            assert_eq!(check(payload).as_deref(), expected.as_ref().map(|name| *name), "{payload}");
        }
    }
}

//! Token endpoints: what is asked, how the client proves itself, and what is taken for an answer (contract sts §22.3,
//! RFC 6749, RFC 7523).

use super::assertion::{Assertion, SigningKey};
use super::config::{ClientAuth, Endpoint, ServiceGrant, ServiceToken, UserToken};
use super::error::CredentialError;
use super::hidden::Hidden;
use super::secret::Secrets;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_mandate::header;
use caracal_store::egress::{Egress, Hosts, Limits, Reply};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 65_536;
/// How long an assertion of the client lives, seconds.
const CLIENT_ASSERTION_LIFE: i64 = 60;
/// How long an assertion that is a grant lives, seconds.
const GRANT_ASSERTION_LIFE: i64 = 300;
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// What is waited before a second attempt, in milliseconds; up to as much again is added at random.
const BACKOFF: u64 = 100;

/// What a token endpoint gave.
#[derive(Debug, Clone)]
pub struct TokenAnswer {
    /// The token.
    pub access_token: Hidden,
    /// What renews it.
    pub refresh_token: Option<Hidden>,
    /// How long it lives, seconds, where that was said.
    pub expires_in: Option<i64>,
}

/// May a request be sent twice?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempts {
    /// What it spends, a code or a refresh token, may be spent although no answer came: a second use would look like
    /// theft to the provider.
    Once,
    /// It spends nothing.
    Twice,
}

/// One client at one token endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenClient<'a> {
    pub(super) egress: &'a Egress,
    pub(super) endpoint: &'a Endpoint,
    pub(super) secrets: &'a Secrets,
    /// Unix milliseconds.
    pub(super) now: i64,
}

type Form = Vec<(String, String)>;

fn field(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

impl TokenClient<'_> {
    /// Fetches a token of the service itself.
    pub(super) async fn service(&self, service: &ServiceToken) -> Result<TokenAnswer, CredentialError> {
        let scope = service.scopes.join(" ");
        let mut form = match &service.grant {
            ServiceGrant::ClientCredentials { resource } => {
                let mut form = vec![field("grant_type", "client_credentials")];
                form.extend(resource.as_deref().map(|resource| field("resource", resource)));
                form
            }
            ServiceGrant::JwtBearer { subject, audience } => {
                let endpoint = self.endpoint.url.as_str();
                let assertion = Assertion {
                    issuer: &self.endpoint.client_id,
                    subject: subject.as_deref().unwrap_or(&self.endpoint.client_id),
                    audience: audience.as_deref().unwrap_or(endpoint),
                    scope: &scope,
                    life: GRANT_ASSERTION_LIFE,
                };
                vec![field("grant_type", JWT_BEARER), field("assertion", self.signed(assertion)?)]
            }
        };
        form.extend(service.audience.as_deref().map(|audience| field("audience", audience)));
        if !scope.is_empty() {
            form.push(field("scope", scope));
        }
        self.ask(form, Attempts::Twice).await
    }

    /// Exchanges the code that a browser brought back.
    pub(super) async fn code(
        &self,
        user: &UserToken,
        code: &str,
        verifier: &str,
    ) -> Result<TokenAnswer, CredentialError> {
        let form = vec![
            field("grant_type", "authorization_code"),
            field("code", code),
            field("redirect_uri", user.redirect_uri.as_str()),
            field("code_verifier", verifier),
        ];
        self.ask(form, Attempts::Once).await
    }

    /// Renews a token.
    pub(super) async fn refresh(&self, refresh_token: &str) -> Result<TokenAnswer, CredentialError> {
        let form = vec![field("grant_type", "refresh_token"), field("refresh_token", refresh_token)];
        self.ask(form, Attempts::Once).await
    }

    /// Gives a token back (RFC 7009).
    pub(super) async fn revoke(&self, at: &Url, token: &str, hint: &str) -> Result<(), CredentialError> {
        let form = vec![field("token", token), field("token_type_hint", hint)];
        let reply = self.send(at, form).await?;
        if reply.status == 200 { Ok(()) } else { Err(refused(&reply)) }
    }

    async fn ask(&self, form: Form, attempts: Attempts) -> Result<TokenAnswer, CredentialError> {
        let mut form = form;
        form.extend(self.endpoint.params.iter().cloned());
        let first = self.ask_once(form.clone()).await;
        match first {
            Err(error) if attempts == Attempts::Twice && error.is_transient() => {
                tokio::time::sleep(Duration::from_millis(BACKOFF + jitter(BACKOFF))).await;
                self.ask_once(form).await
            }
            first => first,
        }
    }

    async fn ask_once(&self, form: Form) -> Result<TokenAnswer, CredentialError> {
        let reply = self.send(&self.endpoint.url, form).await?;
        if reply.status != 200 {
            return Err(refused(&reply));
        }
        read(&reply, self.endpoint.any_token_type)
    }

    async fn send(&self, at: &Url, mut form: Form) -> Result<Reply, CredentialError> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let client_id = self.endpoint.client_id.as_str();
        match self.endpoint.client_auth {
            ClientAuth::ClientSecretBasic => {
                headers.push((AUTHORIZATION, basic(client_id, self.secrets.get("client_secret")?)?));
            }
            ClientAuth::ClientSecretPost => {
                form.push(field("client_id", client_id));
                form.push(field("client_secret", self.secrets.get("client_secret")?));
            }
            ClientAuth::PrivateKeyJwt => {
                let assertion = Assertion {
                    issuer: client_id,
                    subject: client_id,
                    audience: self.endpoint.url.as_str(),
                    scope: "",
                    life: CLIENT_ASSERTION_LIFE,
                };
                form.push(field("client_id", client_id));
                form.push(field("client_assertion_type", CLIENT_ASSERTION));
                form.push(field("client_assertion", self.signed(assertion)?));
            }
            ClientAuth::None => form.push(field("client_id", client_id)),
        }
        let fields: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let hosts = Hosts::Only(&self.endpoint.hosts);
        let sent =
            self.egress.post_form(at.as_str(), hosts, &headers, &fields, Limits::bytes(MAX_ANSWER)).await;
        Ok(sent?)
    }

    fn signed(&self, assertion: Assertion<'_>) -> Result<String, CredentialError> {
        let endpoint = self.endpoint;
        let key = SigningKey::from_pem(
            self.secrets.get("private_key")?,
            endpoint.key_id.as_deref(),
            endpoint.certificate.as_deref(),
        )?;
        Ok(key.sign(&assertion.claims(self.now / 1000))?)
    }
}

/// RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, CredentialError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let joined = STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {joined}"))
        .map_err(|_| CredentialError::Answer("the client's credential is no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn refused(reply: &Reply) -> CredentialError {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let word = |code: &&str| {
        (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let code = body.get("error").and_then(Value::as_str).filter(word).unwrap_or("unknown");
    CredentialError::Refused { status: reply.status, code: code.to_owned() }
}

fn read(reply: &Reply, any_type: bool) -> Result<TokenAnswer, CredentialError> {
    let body: Value =
        serde_json::from_slice(&reply.body).map_err(|_| CredentialError::Answer("it is no JSON"))?;
    let text = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if header::is_clean_value(text.as_bytes()) => {
            Ok(Some(text.as_str()).filter(|text| !text.is_empty()))
        }
        Some(_) => Err(CredentialError::Answer("a member is no usable text")),
    };
    let token = text("access_token")?.ok_or(CredentialError::Answer("access_token is missing or empty"))?;
    let bearer = text("token_type")?.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !bearer && !any_type {
        return Err(CredentialError::TokenType);
    }
    Ok(TokenAnswer {
        access_token: Hidden::new(token),
        refresh_token: text("refresh_token")?.map(Hidden::new),
        expires_in: seconds(body.get("expires_in")),
    })
}

/// A number, or a text that is one, as some providers send it. What is neither was not said.
fn seconds(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => {
            let whole = number.as_i64().or_else(|| number.as_u64().map(|_| i64::MAX));
            // A fraction is cut off; `as` saturates.
            whole.or_else(|| number.as_f64().map(|seconds| seconds as i64))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// At random from 0 to `most`, so that replicas do not come back together.
pub(super) fn jitter(most: u64) -> u64 {
    let random = caracal_store::ids::random_bytes::<8>().map_or(0, u64::from_le_bytes);
    random % most.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(status: u16, body: &Value) -> Reply {
        Reply { status, body: body.to_string().into_bytes() }
    }

    #[test]
    fn contract_sts_22_3_what_is_an_answer() {
        let cases = [
            (json!({ "access_token": "t" }), false, Ok(None)),
            (json!({ "access_token": "t", "token_type": "" }), false, Ok(None)),
            (json!({ "access_token": "t", "token_type": "BEARER", "expires_in": 60 }), false, Ok(Some(60))),
            (json!({ "access_token": "t", "expires_in": "60" }), false, Ok(Some(60))),
            (json!({ "access_token": "t", "expires_in": 59.9 }), false, Ok(Some(59))),
            (json!({ "access_token": "t", "expires_in": u64::MAX }), false, Ok(Some(i64::MAX))),
            (json!({ "access_token": "t", "expires_in": [] }), false, Ok(None)),
            (json!({ "access_token": "t", "token_type": "mac" }), true, Ok(None)),
            (json!({ "access_token": "t", "token_type": "mac" }), false, Err("token_type_unsupported")),
            (json!({ "access_token": "t", "token_type": 1 }), false, Err("token_response_invalid")),
            (json!({ "access_token": "" }), false, Err("token_response_invalid")),
            (json!({ "access_token": "a\r\nb" }), false, Err("token_response_invalid")),
            (json!({ "access_token": 1 }), false, Err("token_response_invalid")),
            (json!([]), false, Err("token_response_invalid")),
        ];
        for (body, any_type, expected) in cases {
            let found = read(&reply(200, &body), any_type);
            let found = found.map(|answer| answer.expires_in).map_err(|error| error.reason());
            assert_eq!(found, expected, "{body}");
        }
        let none = read(&Reply { status: 200, body: b"<html>".to_vec() }, false);
        assert_eq!(none.unwrap_err().reason(), "token_response_invalid");
    }

    #[test]
    fn what_a_provider_says_of_a_refusal_is_kept_as_one_word() {
        for (body, code) in [
            (json!({ "error": "invalid_grant" }), "invalid_grant"),
            (json!({ "error": "Secret: hunter2" }), "unknown"),
            (json!({ "error": "" }), "unknown"),
            (json!({}), "unknown"),
        ] {
            let expected = CredentialError::Refused { status: 400, code: code.to_owned() };
            assert_eq!(refused(&reply(400, &body)), expected);
        }
    }

    #[test]
    fn rfc_6749_2_3_1_halves_are_form_encoded() {
        let value = basic("a b:c", "p%&").unwrap();
        let text = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        assert_eq!(STANDARD.decode(text).unwrap(), b"a+b%3Ac:p%25%26");
        assert!(value.is_sensitive());
    }
}

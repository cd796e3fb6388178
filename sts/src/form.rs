//! The form rules that every token request meets before anything else (contract sts §4).

use crate::refusal::Denial;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use caracal_store::http::{BodyError, read_body};
use std::collections::BTreeMap;

/// The largest form, in bytes.
const MAX_FORM_BYTES: usize = 65_536;

/// A parsed form: every field once, `resource` as often as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form {
    fields: BTreeMap<String, String>,
    resources: Vec<String>,
}

impl Form {
    /// Parses a body whose query, media type and size were found good.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Denial> {
        let malformed = || Denial::malformed("the form is malformed");
        if !escapes_are_whole(body) || std::str::from_utf8(body).is_err() {
            return Err(malformed());
        }
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            if name == "resource" {
                form.resources.push(value.into_owned());
            } else if form.fields.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(Denial::malformed("a field stands more than once"));
            }
        }
        Ok(form)
    }

    /// A field's value as it stands; `None` where it is absent.
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field's value, trimmed; `None` where it is absent or blank.
    pub(crate) fn trimmed(&self, name: &str) -> Option<&str> {
        self.raw(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// Every resource, trimmed, each once, in byte order. An empty one is refused.
    pub(crate) fn resources(&self) -> Result<Vec<String>, Denial> {
        let mut resources: Vec<String> = self.resources.iter().map(|value| value.trim().to_owned()).collect();
        if resources.iter().any(String::is_empty) {
            return Err(Denial::malformed("a resource is empty"));
        }
        resources.sort_unstable();
        resources.dedup();
        Ok(resources)
    }
}

/// Reads a request that has to be a form: its head, and its body as it came.
pub(crate) async fn receive(request: Request) -> Result<(Parts, Vec<u8>), Denial> {
    let (parts, body) = request.into_parts();
    check_envelope(parts.uri.query(), &parts.headers)?;
    let body = read_body(body, MAX_FORM_BYTES).await.map_err(|error| match error {
        BodyError::TooLarge => {
            Denial::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "the form is larger than 64 KiB")
        }
        _ => Denial::malformed("the form could not be read"),
    })?;
    Ok((parts, body))
}

/// Is the request a plain form without a query?
fn check_envelope(query: Option<&str>, headers: &HeaderMap) -> Result<(), Denial> {
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Denial::malformed("parameters belong into the body"));
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Ok(())
    } else {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(Denial::new(status, "invalid_token", "the body has to be application/x-www-form-urlencoded"))
    }
}

fn escapes_are_whole(body: &[u8]) -> bool {
    let mut rest = body;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let Some(tail) = rest.get(at.saturating_add(1)..) else { return false };
        match tail.split_at_checked(2) {
            Some((digits, after)) if digits.iter().all(u8::is_ascii_hexdigit) => rest = after,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_sts_4_forms() {
        let cases: &[(&str, bool)] = &[
            ("a=1&b=2", true),
            ("a=1&a=1", false),
            ("resource=r&resource=s", true),
            ("a=%zz", false),
            ("a=%4", false),
            ("a=%", false),
            ("a=%25", true),
            ("", true),
        ];
        for (body, good) in cases {
            assert_eq!(Form::parse(body.as_bytes()).is_ok(), *good, "{body}");
        }
        let form = Form::parse(b"resource=+b+&resource=a&resource=b&x=+y+&z=").unwrap();
        assert_eq!(form.resources().unwrap(), ["a", "b"]);
        assert_eq!((form.raw("x"), form.trimmed("x"), form.trimmed("z")), (Some(" y "), Some("y"), None));
        assert!(Form::parse(b"resource=++").unwrap().resources().is_err());
    }

    #[test]
    fn contract_sts_4_media_type_and_query() {
        let headers = |media: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
            headers
        };
        let form = headers("application/x-www-form-urlencoded; charset=utf-8");
        assert!(check_envelope(None, &form).is_ok());
        assert_eq!(check_envelope(Some("x=1"), &form).unwrap_err().status, StatusCode::BAD_REQUEST);
        let json = check_envelope(None, &headers("application/json")).unwrap_err();
        assert_eq!(json.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}

//! Header rules: what is read from a request, what never travels on, and what may carry a credential
//! (contract gateway §A4, §A13, §A15, §A16).
//!
//! Header names are expected in lower case, as a proxy hands them over.

use crate::gateway_signature::to_hex;
use crate::jws::MAX_TOKEN_BYTES;
use sha2::{Digest as _, Sha256};

/// The longest request id that is kept.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Why no bearer token was found (contract gateway §A5 rows 2 to 4).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BearerError {
    /// No `Bearer ` scheme, or nothing after it.
    #[error("missing bearer token")]
    Missing,
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("bearer token too large")]
    TooLarge,
    /// Bytes that no compact JWS holds.
    #[error("malformed bearer token")]
    Malformed,
}

/// Takes the token out of an `Authorization` value: the first seven bytes are `Bearer ` in any case,
/// the rest is trimmed.
///
/// # Errors
/// Any [`BearerError`].
pub fn bearer(value: &[u8]) -> Result<&str, BearerError> {
    let token = bearer_bytes(value)?;
    if !token.is_ascii() {
        return Err(BearerError::Malformed);
    }
    std::str::from_utf8(token).map_err(|_| BearerError::Malformed)
}

/// The same, whatever bytes the token has: for whoever compares it with one that was verified.
///
/// # Errors
/// [`BearerError::Missing`] and [`BearerError::TooLarge`].
pub fn bearer_bytes(value: &[u8]) -> Result<&[u8], BearerError> {
    let (scheme, rest) = value.split_at_checked(7).ok_or(BearerError::Missing)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(BearerError::Missing);
    }
    let token = rest.trim_ascii();
    if token.is_empty() {
        return Err(BearerError::Missing);
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(BearerError::TooLarge);
    }
    Ok(token)
}

/// What evidence calls a token by, in hex: the first eight bytes of its SHA-256 (contract gateway §A18).
#[must_use]
pub fn fingerprint(token: &[u8]) -> [u8; 8] {
    Sha256::digest(token).first_chunk().copied().unwrap_or_default()
}

/// The caller's request id when it may be kept: 1 to 128 visible ASCII characters.
#[must_use]
pub fn accepted_request_id(value: &[u8]) -> Option<&str> {
    let fits = (1..=MAX_REQUEST_ID_BYTES).contains(&value.len());
    if fits && value.iter().all(u8::is_ascii_graphic) { std::str::from_utf8(value).ok() } else { None }
}

/// A version 4 UUID from 16 random bytes.
#[must_use]
pub fn uuid_v4(mut random: [u8; 16]) -> String {
    if let Some(version) = random.get_mut(6) {
        *version = *version & 0x0f | 0x40;
    }
    if let Some(variant) = random.get_mut(8) {
        *variant = *variant & 0x3f | 0x80;
    }
    let mut text = String::with_capacity(36);
    for (position, byte) in random.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        push_hex(&mut text, *byte);
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    for nibble in [byte >> 4, byte & 0x0f] {
        text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
    }
}

/// Whether a W3C `traceparent` is kept as it is (contract gateway §A15.6).
#[must_use]
pub fn valid_traceparent(value: &[u8]) -> bool {
    fn hex(field: Option<&[u8]>, length: usize) -> Option<&[u8]> {
        let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        field.filter(|field| field.len() == length && field.iter().all(lower_hex))
    }
    let non_zero = |field: &[u8]| field.iter().any(|byte| *byte != b'0');
    let mut fields = value.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(_flags)) =
        (hex(fields.next(), 2), hex(fields.next(), 32), hex(fields.next(), 16), hex(fields.next(), 2))
    else {
        return false;
    };
    version != b"ff" && non_zero(trace) && non_zero(parent) && (version != b"00" || fields.next().is_none())
}

/// A W3C `traceparent`, taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Traceparent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span that the sender was in.
    pub parent_id: [u8; 8],
    /// Whether the sender records the trace.
    pub sampled: bool,
}

impl Traceparent {
    /// Reads one that [`valid_traceparent`] keeps.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if !valid_traceparent(value) {
            return None;
        }
        let mut fields = value.split(|byte| *byte == b'-').skip(1);
        let trace_id = from_hex(fields.next()?)?;
        let parent_id = from_hex(fields.next()?)?;
        let [flags] = from_hex(fields.next()?)?;
        Some(Self { trace_id, parent_id, sampled: flags & 1 == 1 })
    }
}

/// Exactly so many bytes of lower-case hex.
fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A fresh sampled `traceparent` from 24 random bytes (16 of trace id, 8 of parent id).
#[must_use]
pub fn new_traceparent(mut random: [u8; 24]) -> String {
    // An all-zero id is invalid; force one bit in each.
    if let Some(byte) = random.get_mut(0) {
        *byte |= 0x01;
    }
    if let Some(byte) = random.get_mut(16) {
        *byte |= 0x01;
    }
    let (trace, parent) = random.split_at_checked(16).unwrap_or_default();
    format!("00-{}-{}-01", to_hex(trace), to_hex(parent))
}

/// Folds all `baggage` lines into one without the members that are ours (key starts `caracal.`).
/// `None` when nothing is left.
#[must_use]
pub fn strip_baggage<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut kept: Vec<u8> = Vec::new();
    for member in lines.into_iter().flat_map(|line| line.split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() || member.starts_with(b"caracal.") {
            continue;
        }
        if !kept.is_empty() {
            kept.push(b',');
        }
        kept.extend_from_slice(member);
    }
    if kept.is_empty() { None } else { Some(kept) }
}

/// Hop-by-hop headers, in both directions.
const HOP_BY_HOP: [&[u8]; 9] = [
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// Whether a request header never reaches an upstream (contract gateway §A15.3). `authorization` is
/// not here: a caller that lets the mandate through decides on it separately.
#[must_use]
pub fn stripped_from_request(name: &[u8]) -> bool {
    HOP_BY_HOP.contains(&name)
        || name.starts_with(b"x-caracal-")
        || name.starts_with(b"x-forwarded-")
        || name == b"forwarded"
        || name == b"x-real-ip"
        || overrides_request(name)
}

/// Whether a header asks the upstream to take the request for another one than was judged: many frameworks obey these.
#[must_use]
pub fn overrides_request(name: &[u8]) -> bool {
    const OVERRIDES: [&[u8]; 7] = [
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-rewrite-url",
    ];
    OVERRIDES.contains(&name)
}

/// Whether a response header never reaches the caller, whatever its value (contract gateway §A16).
/// `transfer-encoding` is Envoy's own framing and is left to it.
#[must_use]
pub fn stripped_from_response(name: &[u8]) -> bool {
    const IDENTIFYING: [&[u8]; 6] = [
        b"refresh",
        b"server",
        b"x-aspnet-version",
        b"x-aspnetmvc-version",
        b"x-caracal-identity",
        b"x-powered-by",
    ];
    (name != b"transfer-encoding" && HOP_BY_HOP.contains(&name)) || IDENTIFYING.contains(&name)
}

/// The names that a `connection` value nominates, in lower case.
#[must_use]
pub fn connection_nominated(value: &[u8]) -> Vec<Vec<u8>> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| is_token(name))
        .map(<[u8]>::to_ascii_lowercase)
        .collect()
}

/// Whether a `location` or `content-location` value stays: only a relative reference does. Absolute,
/// protocol-relative, scheme-bearing and unparsable ones would tell the caller where an upstream
/// lives, or send it there.
#[must_use]
pub fn location_stays(value: &[u8]) -> bool {
    if value.starts_with(b"//") || !value.iter().all(u8::is_ascii_graphic) || value.contains(&b'\\') {
        return false;
    }
    let head = value.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next().unwrap_or_default();
    !head.contains(&b':') && crate::path::percent_decode(value).is_ok()
}

/// Whether a header may carry a credential to an upstream (contract gateway §A13): an RFC 9110 token
/// that is none of the headers with a meaning of their own.
#[must_use]
pub fn may_carry_credential(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 18] = [
        b"baggage",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"te",
        b"traceparent",
        b"tracestate",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"x-real-ip",
        b"x-request-id",
    ];
    let name = name.to_ascii_lowercase();
    is_token(&name)
        && !FORBIDDEN.contains(&name.as_slice())
        && !name.starts_with(b"x-caracal-")
        && !name.starts_with(b"x-forwarded-")
        && !name.starts_with(b"proxy-")
}

/// Whether `name` is an RFC 9110 token.
#[must_use]
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether a secret may become (part of) a header value: no control character, which could end the
/// header and start another one.
#[must_use]
pub fn is_clean_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_bearer_forms() {
        for (value, expected) in [
            ("Bearer abc", Ok("abc")),
            ("bearer abc", Ok("abc")),
            ("BEARER abc  ", Ok("abc")),
            ("Bearer  abc", Ok("abc")),
            ("Token abc", Err(BearerError::Missing)),
            ("Bearerabc", Err(BearerError::Missing)),
            ("Bearer", Err(BearerError::Missing)),
            ("Bearer ", Err(BearerError::Missing)),
            ("Bearer    ", Err(BearerError::Missing)),
            ("Bearer\tabc", Err(BearerError::Missing)),
            ("Basic abc", Err(BearerError::Missing)),
            ("", Err(BearerError::Missing)),
            ("Bearer é", Err(BearerError::Malformed)),
        ] {
            assert_eq!(bearer(value.as_bytes()), expected, "{value}");
        }
        let exact = format!("Bearer {} ", "a".repeat(4096));
        assert!(bearer(exact.as_bytes()).is_ok());
        let long = format!("Bearer {}", "a".repeat(4097));
        assert_eq!(bearer(long.as_bytes()), Err(BearerError::TooLarge));
        assert_eq!(bearer(b"Bearer \xff\xfe"), Err(BearerError::Malformed));
    }

    #[test]
    fn a4_request_ids() {
        let longest = "a".repeat(128);
        let too_long = "a".repeat(129);
        for (value, kept) in [
            ("req-1", true),
            ("!~", true),
            (longest.as_str(), true),
            ("", false),
            ("a b", false),
            ("a\u{7f}", false),
            ("é", false),
            (too_long.as_str(), false),
        ] {
            assert_eq!(accepted_request_id(value.as_bytes()).is_some(), kept, "{value}");
        }
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid_v4([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn a15_traceparent() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for (value, valid) in [
            (format!("00-{trace}-{parent}-01"), true),
            (format!("00-{trace}-{parent}-01-extra"), false),
            (format!("01-{trace}-{parent}-01-extra"), true),
            (format!("cc-{trace}-{parent}-00"), true),
            (format!("ff-{trace}-{parent}-01"), false),
            (format!("00-{}-{parent}-01", trace.to_uppercase()), false),
            (format!("00-{}-{parent}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{trace}-{parent}"), false),
            (format!("0-{trace}-{parent}-01"), false),
            (String::new(), false),
        ] {
            assert_eq!(valid_traceparent(value.as_bytes()), valid, "{value}");
        }
        let parsed = |flags: &str| Traceparent::parse(format!("00-{trace}-{parent}-{flags}").as_bytes());
        let sampled = parsed("03").unwrap();
        assert_eq!(to_hex(&sampled.trace_id), trace);
        assert_eq!((to_hex(&sampled.parent_id).as_str(), sampled.sampled), (parent, true));
        assert!(!parsed("02").unwrap().sampled);
        assert_eq!(parsed("0x"), None);
        assert!(Traceparent::parse(format!("01-{trace}-{parent}-01-extra").as_bytes()).unwrap().sampled);
        for seed in [[0_u8; 24], [0xff; 24]] {
            assert!(valid_traceparent(new_traceparent(seed).as_bytes()));
        }
    }

    #[test]
    fn a15_baggage_over_several_lines() {
        for (lines, kept) in [
            (vec!["caracal.hop=1,tenant=a", "caracal.session=s;p=1, team=b"], Some("tenant=a,team=b")),
            (vec!["Caracal.hop=1"], Some("Caracal.hop=1")),
            (vec!["caracal.hop=1", " , "], None),
            (vec![], None),
            (vec!["a=1;caracal.x=2"], Some("a=1;caracal.x=2")),
        ] {
            let got = strip_baggage(lines.iter().map(|line| line.as_bytes()));
            assert_eq!(got.as_deref(), kept.map(str::as_bytes), "{lines:?}");
        }
    }

    #[test]
    fn a15_and_a16_strip_lists() {
        for (name, from_request, from_response) in [
            ("connection", true, true),
            ("proxy-connection", true, true),
            ("te", true, true),
            ("transfer-encoding", true, false),
            ("upgrade", true, true),
            ("x-caracal-resource", true, false),
            ("x-caracal-identity", true, true),
            ("x-forwarded-for", true, false),
            ("forwarded", true, false),
            ("x-real-ip", true, false),
            ("server", false, true),
            ("x-powered-by", false, true),
            ("refresh", false, true),
            ("set-cookie", false, false),
            ("cookie", false, false),
            ("via", false, false),
        ] {
            assert_eq!(stripped_from_request(name.as_bytes()), from_request, "{name}");
            assert_eq!(stripped_from_response(name.as_bytes()), from_response, "{name}");
        }
        assert_eq!(
            connection_nominated(b"close, X-Secret , ,a b"),
            vec![b"close".to_vec(), b"x-secret".to_vec()]
        );
    }

    #[test]
    fn a16_only_relative_locations_stay() {
        for (value, stays) in [
            ("/a/b?c=d#e", true),
            ("a/b", true),
            ("?x=http://a", true),
            ("../b", true),
            ("a/b:c", true),
            ("", true),
            ("http://a/", false),
            ("HTTPS://a/", false),
            ("//evil/x", false),
            ("///evil", false),
            ("/\\evil", false),
            ("javascript:x", false),
            ("a b", false),
            ("/a\u{7f}", false),
            ("/%zz", false),
        ] {
            assert_eq!(location_stays(value.as_bytes()), stays, "{value}");
        }
    }

    #[test]
    fn a13_credential_headers() {
        for (name, allowed) in [
            ("Authorization", true),
            ("X-Api-Key", true),
            ("Cookie", true),
            ("User-Agent", true),
            ("Host", false),
            ("HOST", false),
            ("X-Caracal-Identity", false),
            ("X-Forwarded-For", false),
            ("Proxy-Authorization", false),
            ("Proxy-Anything", false),
            ("Transfer-Encoding", false),
            ("X-Request-Id", false),
            ("baggage", false),
            ("bad name", false),
            ("bad:name", false),
            (":authority", false),
            ("", false),
        ] {
            assert_eq!(may_carry_credential(name.as_bytes()), allowed, "{name}");
        }
        for (value, clean) in
            [("secret", true), ("a\tb", false), ("a\r\nb: c", false), ("a\0", false), ("a\u{7f}", false)]
        {
            assert_eq!(is_clean_value(value.as_bytes()), clean, "{value:?}");
        }
    }
}

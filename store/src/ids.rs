//! New ids and secrets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A new time-ordered id (UUIDv7).
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A new id of the given kind.
///
/// A UUID's text always fits the pattern of ids; the error is there because nothing here may panic.
pub fn new<T: TryFrom<String>>() -> Result<T, T::Error> {
    T::try_from(new_id())
}

/// `prefix` and 256 random bits in base64url, as `cs_…` (contract admin §5.2).
pub fn new_secret(prefix: &str) -> Result<String, crate::StoreError> {
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()?)))
}

/// Random bytes from the operating system.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], crate::StoreError> {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| crate::StoreError::Random)?;
    Ok(bytes)
}

/// Is this a request id that is kept? (contract coordinator §2, admin §1)
#[must_use]
pub fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':'))
}

/// Is this a UUID, written with hyphens?
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

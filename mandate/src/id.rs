//! Identifiers as types, so that a zone can never be passed where a session is meant.
//!
//! Entity ids follow the pattern `^[A-Za-z0-9._:-]{1,128}$` everywhere (contract gateway A5 rows 8 and 9, coordinator
//! §2, admin §1.1). Resource identifiers are absolute URIs that operators choose (admin §5.4).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text holds a character that the pattern does not allow.
    #[error("has a character outside the allowed set")]
    Forbidden,
    /// The text is longer than the limit.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
}

/// The longest entity id, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// The longest resource identifier, in bytes (contract admin §5.4).
pub const MAX_RESOURCE_IDENTIFIER_BYTES: usize = 512;

fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(MAX_ID_BYTES));
    }
    if text.bytes().fold(true, |all, byte| all & is_in_ids(byte)) { Ok(()) } else { Err(IdError::Forbidden) }
}

/// Whether an entity id may have this byte. A mandate holds two dozen ids, so it is one look at a set of bits.
fn is_in_ids(byte: u8) -> bool {
    const LETTERS: u64 = (1 << 26) - 1;
    const LOW: u64 = (0x3ff << b'0') | (1 << b'-') | (1 << b'.') | (1 << b':');
    const HIGH: u64 = (LETTERS << (b'A' - 64)) | (1 << (b'_' - 64)) | (LETTERS << (b'a' - 64));
    let set = if byte < 64 { LOW } else { HIGH };
    byte < 128 && set >> (byte & 63) & 1 == 1
}

fn check_resource_identifier(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_RESOURCE_IDENTIFIER_BYTES {
        return Err(IdError::TooLong(MAX_RESOURCE_IDENTIFIER_BYTES));
    }
    if text.bytes().all(|b| b.is_ascii_graphic()) { Ok(()) } else { Err(IdError::Forbidden) }
}

/// A UUID as it is written: 32 lower-case hexadecimal digits in five groups. `None` for every other text, so that there is
/// one text for each.
pub(crate) fn uuid_of(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut uuid = [0; 16];
    let mut at = 0;
    for (index, byte) in uuid.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if text.get(at) != Some(&b'-') {
                return None;
            }
            at += 1;
        }
        for _ in 0..2 {
            let digit = match text.get(at)? {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = (*byte << 4) | digit;
            at += 1;
        }
    }
    Some(uuid)
}

/// The text of a UUID.
fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    text
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text over if it follows the pattern.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text.into()))
            }

            /// The id whose text is that of a UUID.
            #[allow(dead_code)]
            pub(crate) fn of_uuid(uuid: [u8; 16]) -> Self {
                Self(uuid_text(uuid).into())
            }

            /// The text, shared.
            #[allow(dead_code)]
            pub(crate) fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype!(
    /// A zone: the tenant boundary of policy, keys and epochs.
    ZoneId, check_id
);
text_newtype!(
    /// An application: who authenticates to the STS (JWT claim `client_id`).
    ApplicationId, check_id
);
text_newtype!(
    /// An authority record: one row per minted mandate (JWT claims `sid`, `root_sid`).
    AuthorityRecordId, check_id
);
text_newtype!(
    /// A governed agent session of the Coordinator (JWT claim `agent_session_id`).
    AgentSessionId, check_id
);
text_newtype!(
    /// One delegation from a session to another (JWT claim `delegation_edge_id`).
    DelegationEdgeId, check_id
);
text_newtype!(
    /// A mandate's own id (JWT claim `jti`), used once where mandates are single-use.
    MandateId, check_id
);
text_newtype!(
    /// A signing key's id (JWS header `kid`).
    KeyId, check_id
);
text_newtype!(
    /// A resource's row id.
    ResourceId, check_id
);
text_newtype!(
    /// A gateway: one Envoy that follows the feed.
    GatewayId, check_id
);
text_newtype!(
    /// What operators call a resource, an absolute URI such as `resource://orders` (contract admin §5.4).
    ResourceIdentifier, check_resource_identifier
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_gateway_a5_row_8_zone_pattern() {
        let long = "a".repeat(129);
        let cases: &[(&str, bool)] = &[
            ("z1", true),
            ("0199-aB.c_d:e", true),
            ("", false),
            ("../z1", false),
            ("a b", false),
            ("z?x", false),
            ("zöne", false),
            (&long, false),
        ];
        for (text, valid) in cases {
            assert_eq!(ZoneId::new(*text).is_ok(), *valid, "{text}");
        }
    }

    #[test]
    fn contract_gateway_a5_row_8_every_byte() {
        for byte in 0..=255_u8 {
            let expected = byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
            assert_eq!(is_in_ids(byte), expected, "{byte}");
        }
    }

    #[test]
    fn a_uuid_and_its_text_are_the_same() {
        let text = "0199c0de-7a3f-7000-8f00-0123456789ab";
        let uuid = uuid_of(text).unwrap();
        assert_eq!((uuid[0], uuid[15]), (0x01, 0xab));
        assert_eq!(AgentSessionId::of_uuid(uuid), AgentSessionId::new(text).unwrap());
        assert_eq!(uuid_of(uuid_text([0xff; 16]).as_str()), Some([0xff; 16]));
        let others = [
            "0199C0DE-7a3f-7000-8f00-0123456789ab",
            "0199c0de-7a3f-7000-8f00-0123456789a",
            "0199c0de-7a3f-7000-8f00-0123456789abc",
            "0199c0de07a3f-7000-8f00-0123456789ab",
            "0199c0de-7a3f-7000-8f00-0123456789ag",
            "0199c0de-7a3f-7000-8f00-0123456789-b",
            "{199c0de-7a3f-7000-8f00-0123456789a}",
            "session-1",
            "",
        ];
        for other in others {
            assert_eq!(uuid_of(other), None, "{other}");
        }
    }

    #[test]
    fn resource_identifiers_are_printable_ascii_of_bounded_length() {
        assert!(ResourceIdentifier::new("resource://orders").is_ok());
        assert_eq!(ResourceIdentifier::new("resource://a b"), Err(IdError::Forbidden));
        assert_eq!(ResourceIdentifier::new("x".repeat(513)), Err(IdError::TooLong(512)));
    }
}

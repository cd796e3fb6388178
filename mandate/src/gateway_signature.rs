//! How a gateway proves itself to the services (contract sts §7, gateway A10): an HMAC over time, nonce, method, path
//! and body.

use crate::id::GatewayId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Header with the unix seconds of signing, decimal.
pub const TIMESTAMP_HEADER: &str = "x-caracal-gateway-timestamp";
/// Header with the nonce.
pub const NONCE_HEADER: &str = "x-caracal-gateway-request";
/// Header with the signature, lower-case hex.
pub const SIGNATURE_HEADER: &str = "x-caracal-gateway-signature";
/// How far the signer's clock may be off, in seconds.
pub const MAX_SKEW_SECONDS: u64 = 60;
/// The shortest key, in bytes.
pub const MIN_KEY_BYTES: usize = 32;

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not an even number of hex digits.
    #[error("is not hexadecimal")]
    NotHex,
    /// Fewer bytes than [`MIN_KEY_BYTES`].
    #[error("is shorter than {MIN_KEY_BYTES} bytes")]
    TooShort,
}

/// The shared key, as what it makes of nothing yet. Never printed.
#[derive(Clone)]
pub struct GatewayKey(Hmac<Sha256>);

impl std::fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatewayKey(…)")
    }
}

/// What is signed besides the key.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Unix seconds, as text exactly as sent.
    pub timestamp: &'a str,
    /// The nonce, as sent.
    pub nonce: &'a str,
    /// The HTTP method; upper-cased before signing.
    pub method: &'a str,
    /// The escaped path with its query, as in the request line.
    pub path: &'a str,
    /// The exact body.
    pub body: &'a [u8],
}

impl GatewayKey {
    /// Reads a key from hex.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = from_hex(text.trim()).ok_or(KeyError::NotHex)?;
        Self::new(&bytes)
    }

    fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < MIN_KEY_BYTES {
            return Err(KeyError::TooShort);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| KeyError::TooShort)
    }

    /// The signature in lower-case hex.
    #[must_use]
    pub fn sign(&self, signed: &Signed<'_>) -> String {
        to_hex(&self.mac(signed))
    }

    /// Is `signature` (hex) right? Compares in constant time.
    #[must_use]
    pub fn verify(&self, signed: &Signed<'_>, signature: &str) -> bool {
        let Some(given) = from_hex(signature) else { return false };
        same(&given, &self.mac(signed))
    }

    /// What a gateway shows to whoever configures it, in lower-case hex. It is good for this gateway's id alone, and tells
    /// nothing of the key.
    #[must_use]
    pub fn configuration_credential(&self, gateway: &GatewayId) -> String {
        to_hex(&self.mac_of(&["caracal gateway configuration", gateway.as_str()]))
    }

    /// Is this the gateway's credential? Compares in constant time.
    #[must_use]
    pub fn verify_configuration_credential(&self, gateway: &GatewayId, credential: &str) -> bool {
        same(self.configuration_credential(gateway).as_bytes(), credential.as_bytes())
    }

    fn mac(&self, signed: &Signed<'_>) -> [u8; 32] {
        let digest = to_hex(&Sha256::digest(signed.body));
        let method = signed.method.to_ascii_uppercase();
        self.mac_of(&[signed.timestamp, signed.nonce, method.as_str(), signed.path, digest.as_str()])
    }

    /// Of these lines.
    fn mac_of(&self, lines: &[&str]) -> [u8; 32] {
        self.0.clone().chain_update(lines.join("\n")).finalize().into_bytes().into()
    }
}

/// Compares in a time that tells nothing of where they differ.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

/// Lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    text
}

/// Bytes from hex of either case; `None` for anything else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_gateway_a10_vector() {
        let key = GatewayKey::new(b"gateway-signing-key-with-entropy").unwrap();
        let signed = Signed {
            timestamp: "1700000000",
            nonce: "req-123",
            method: "post",
            path: "/oauth/token",
            body: br#"{"grant_id":"grant_123","scope":"read write"}"#,
        };
        let expected = "4d299b9ededc03aae1467f1d85502ee7c9399d05c9a46123a31d4a768d2e0925";
        assert_eq!(key.sign(&signed), expected);
        assert!(key.verify(&signed, expected));
        assert!(key.verify(&signed, &expected.to_uppercase()));
        assert!(!key.verify(&Signed { path: "/oauth/token?x", ..signed }, expected));
        assert!(!key.verify(&signed, ""));
        assert!(!key.verify(&signed, expected.get(..62).unwrap()));
    }

    #[test]
    fn a_configuration_credential_is_good_for_one_gateway_and_one_key() {
        let key = |byte: &str| GatewayKey::from_hex(&byte.repeat(32)).unwrap();
        let gateway = |id: &str| GatewayId::new(id).unwrap();
        let credential = key("ab").configuration_credential(&gateway("edge"));
        assert_eq!(credential.len(), 64);
        assert!(key("ab").verify_configuration_credential(&gateway("edge"), &credential));
        assert!(!key("ab").verify_configuration_credential(&gateway("edge2"), &credential));
        assert!(!key("cd").verify_configuration_credential(&gateway("edge"), &credential));
        for wrong in ["", credential.get(..63).unwrap(), &"ab".repeat(32)] {
            assert!(!key("ab").verify_configuration_credential(&gateway("edge"), wrong), "{wrong}");
        }
    }

    #[test]
    fn keys_are_hex_of_at_least_32_bytes() {
        assert!(GatewayKey::from_hex(&"ab".repeat(32)).is_ok());
        assert_eq!(GatewayKey::from_hex(&"ab".repeat(31)).unwrap_err(), KeyError::TooShort);
        assert_eq!(GatewayKey::from_hex("zz").unwrap_err(), KeyError::NotHex);
        assert_eq!(GatewayKey::from_hex("abc").unwrap_err(), KeyError::NotHex);
    }
}

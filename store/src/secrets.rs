//! Secrets at rest: CSS1 envelopes (contract sts §20, admin §8.1) and keyed hashes.
//!
//! A secret that must be read again is sealed. One that must only be recognised, as an application's client secret, is
//! 256 random bits and stored as a keyed hash: there is nothing to guess, so there is no slow derivation on the hot
//! path.

use crate::{StoreError, ids};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use caracal_mandate::gateway_signature::{from_hex, to_hex};

const MAGIC: &[u8; 4] = b"CSS1";
const DEK_AAD: &[u8] = b"caracal.css1.dek";
const NONCE: usize = 12;
const TAG: usize = 16;
const KEY: usize = 32;

/// Why a text cannot be the key that seals all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 64 hex digits.
    #[error("is not 64 hexadecimal digits")]
    Shape,
    /// All bytes alike, counting up or down, or alternating.
    #[error("is a weak key: it follows a simple pattern")]
    Weak,
}

/// Seals secrets and hashes them, under one key-encryption key (and reads what the previous one sealed).
#[derive(Clone)]
pub struct Vault {
    current: [u8; KEY],
    previous: Option<[u8; KEY]>,
    hashing: hmac::Key,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// A vault under `key` (64 hex digits); `previous` still opens what was sealed before a rotation. `hash_key` keys
    /// the hashes and must outlive rotations of the other.
    pub fn new(key: &str, previous: Option<&str>, hash_key: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            current: parse_key(key)?,
            previous: previous.map(parse_key).transpose()?,
            hashing: hmac::Key::new(hmac::HMAC_SHA256, hash_key),
        })
    }

    /// Seals `plain` for the place that `aad` names; the text is base64 of the envelope.
    pub fn seal(&self, plain: &[u8], aad: &str) -> Result<String, StoreError> {
        let sealed = self.envelope(plain, aad);
        crate::metrics::secret_sealed(sealed.is_ok());
        sealed
    }

    fn envelope(&self, plain: &[u8], aad: &str) -> Result<String, StoreError> {
        let dek: [u8; KEY] = ids::random_bytes()?;
        let (dek_nonce, sealed_dek) = encrypt(&self.current, &dek, DEK_AAD)?;
        let (value_nonce, sealed) = encrypt(&dek, plain, aad.as_bytes())?;
        let id = key_id(&self.current);
        let envelope = [&MAGIC[..], &id, &dek_nonce, &sealed_dek, &value_nonce, &sealed].concat();
        Ok(STANDARD_NO_PAD.encode(envelope))
    }

    /// Opens what [`Vault::seal`] made for the same place.
    pub fn open(&self, envelope: &str, aad: &str) -> Result<Vec<u8>, StoreError> {
        let opened = || {
            let bytes = STANDARD_NO_PAD.decode(envelope).ok()?;
            let (magic, rest) = bytes.split_at_checked(MAGIC.len())?;
            let (id, rest) = rest.split_at_checked(8)?;
            let (dek_nonce, rest) = rest.split_at_checked(NONCE)?;
            let (sealed_dek, rest) = rest.split_at_checked(KEY + TAG)?;
            let (value_nonce, sealed) = rest.split_at_checked(NONCE)?;
            let keys = [Some(&self.current), self.previous.as_ref()];
            let kek = keys.into_iter().flatten().find(|key| key_id(key) == id)?;
            if magic != MAGIC {
                return None;
            }
            let dek: [u8; KEY] = decrypt(kek, dek_nonce, sealed_dek, DEK_AAD)?.try_into().ok()?;
            decrypt(&dek, value_nonce, sealed, aad.as_bytes())
        };
        let opened = opened();
        crate::metrics::secret_opened(opened.is_some());
        opened.ok_or(StoreError::Seal("opened"))
    }

    /// Seals anew what the previous key sealed. `None` where the current key sealed it already.
    pub fn reseal(&self, envelope: &str, aad: &str) -> Result<Option<String>, StoreError> {
        let named = STANDARD_NO_PAD.decode(envelope).ok();
        let named = named.as_deref().and_then(|bytes| bytes.get(MAGIC.len()..MAGIC.len() + 8));
        if named == Some(&key_id(&self.current)[..]) {
            return Ok(None);
        }
        let plain = self.open(envelope, aad)?;
        self.seal(&plain, aad).map(Some)
    }

    /// The keyed hash of a server-generated secret, in hex. The same secret always has the same hash, so it can be
    /// looked up by it.
    #[must_use]
    pub fn hash(&self, secret: &str) -> String {
        to_hex(hmac::sign(&self.hashing, secret.as_bytes()).as_ref())
    }

    /// Is this the secret with that hash? Compares in constant time.
    #[must_use]
    pub fn matches(&self, secret: &str, hash: &str) -> bool {
        constant_time::verify_slices_are_equal(self.hash(secret).as_bytes(), hash.as_bytes()).is_ok()
    }
}

fn parse_key(text: &str) -> Result<[u8; KEY], KeyError> {
    let bytes: [u8; KEY] =
        from_hex(text.trim()).and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::Shape)?;
    // Of a pattern, every byte differs from the next-but-one by the same amount.
    let (first, second) = (bytes.iter(), bytes.iter().skip(2));
    let steps: Vec<u8> = first.zip(second).map(|(a, b)| b.wrapping_sub(*a)).collect();
    if steps.windows(2).all(|pair| pair.first() == pair.last()) { Err(KeyError::Weak) } else { Ok(bytes) }
}

fn key_id(key: &[u8; KEY]) -> [u8; 8] {
    let mut id = [0; 8];
    id.iter_mut().zip(digest::digest(&digest::SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
    id
}

fn cipher(key: &[u8; KEY]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn encrypt(key: &[u8; KEY], plain: &[u8], aad: &[u8]) -> Result<([u8; NONCE], Vec<u8>), StoreError> {
    let nonce: [u8; NONCE] = ids::random_bytes()?;
    let mut sealed = plain.to_vec();
    cipher(key)
        .and_then(|cipher| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            cipher.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).ok()
        })
        .ok_or(StoreError::Seal("sealed"))?;
    Ok((nonce, sealed))
}

fn decrypt(key: &[u8; KEY], nonce: &[u8], sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut plain = sealed.to_vec();
    let length = cipher(key)?.open_in_place(nonce, Aad::from(aad), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: &str = "8f3c1a5e77b2904dd1c6e8f0a4b35d29c07e91f2638ab4d5e6f70819a2b3c4d5";
    const OTHER: &str = "0f9e8d7c6b5a49382716a5b4c3d2e1f00112a3b4c5d6e7f8091a2b3c4d5e6f70";

    #[test]
    fn contract_admin_8_1_sealed_for_one_place_and_one_key() {
        let vault = Vault::new(CURRENT, None, b"h").unwrap();
        let envelope = vault.seal(b"secret", "zones/z/x").unwrap();
        assert!(!envelope.contains("secret"));
        assert_eq!(vault.open(&envelope, "zones/z/x").unwrap(), b"secret");
        assert!(vault.open(&envelope, "zones/z/y").is_err());
        assert!(Vault::new(OTHER, None, b"h").unwrap().open(&envelope, "zones/z/x").is_err());
        let rotated = Vault::new(OTHER, Some(CURRENT), b"h").unwrap();
        assert_eq!(rotated.open(&envelope, "zones/z/x").unwrap(), b"secret");
        let anew = rotated.reseal(&envelope, "zones/z/x").unwrap().unwrap();
        assert_eq!(Vault::new(OTHER, None, b"h").unwrap().open(&anew, "zones/z/x").unwrap(), b"secret");
        assert_eq!(rotated.reseal(&anew, "zones/z/x").unwrap(), None, "it is under the current key already");
        assert!(rotated.reseal(&envelope, "zones/z/y").is_err());
        for length in [0, 4, 40, envelope.len() - 1] {
            assert!(vault.open(envelope.get(..length).unwrap(), "zones/z/x").is_err());
        }
    }

    #[test]
    fn contract_sts_20_weak_keys_are_refused() {
        let bytes = |byte: fn(u8) -> u8| to_hex(&(0..32).map(byte).collect::<Vec<u8>>());
        let patterns: [fn(u8) -> u8; 5] =
            [|_| 0, |_| 0xaa, |i| i, |i| 255 - i, |i| if i % 2 == 0 { 0x12 } else { 0x34 }];
        for pattern in patterns {
            assert_eq!(Vault::new(&bytes(pattern), None, b"h").unwrap_err(), KeyError::Weak);
        }
        assert_eq!(Vault::new("abcd", None, b"h").unwrap_err(), KeyError::Shape);
    }

    #[test]
    fn hashes_are_keyed_and_compared_whole() {
        let vault = Vault::new(CURRENT, None, b"h").unwrap();
        let hash = vault.hash("cs_1");
        assert!(vault.matches("cs_1", &hash));
        assert!(!vault.matches("cs_2", &hash));
        assert!(!vault.matches("cs_1", ""));
        assert_ne!(Vault::new(CURRENT, None, b"other").unwrap().hash("cs_1"), hash);
    }
}

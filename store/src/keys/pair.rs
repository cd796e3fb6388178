//! A P-256 key pair of the platform's native library.

use crate::StoreError;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use caracal_mandate::es256::{Es256Verifier, PublicKey, Signature};

/// Verifies with the platform's native library.
#[derive(Debug, Clone, Copy, Default)]
pub struct NativeVerifier;

impl Es256Verifier for NativeVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.to_sec1()).verify(message, &signature.0).is_ok()
    }
}

/// A private key with its public one.
#[derive(Debug)]
pub(super) struct Pair {
    private: EcdsaKeyPair,
    public: PublicKey,
}

impl Pair {
    /// Reads a PKCS #8 document. `None` if it holds no P-256 key.
    pub(super) fn from_pkcs8(document: &[u8]) -> Option<Self> {
        let private = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).ok()?;
        let public = point(&private)?;
        Some(Self { private, public })
    }

    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs with ES256.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Signature, StoreError> {
        let signature = self.private.sign(&SystemRandom::new(), message).map_err(|_| StoreError::Random)?;
        let bytes = signature.as_ref().try_into();
        Ok(Signature(bytes.map_err(|_| StoreError::corrupt("a signature's length"))?))
    }
}

/// A new key: its PKCS #8 document and its public half.
pub(super) fn generate() -> Result<(Vec<u8>, PublicKey), StoreError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| StoreError::Random)?;
    let private = pair.to_pkcs8v1().map_err(|_| StoreError::Seal("made"))?;
    let public = point(&pair).ok_or(StoreError::Seal("made"))?;
    Ok((private.as_ref().to_vec(), public))
}

fn point(pair: &EcdsaKeyPair) -> Option<PublicKey> {
    let bytes = pair.public_key().as_ref();
    let (x, y) = bytes.strip_prefix(&[0x04])?.split_at_checked(32)?;
    Some(PublicKey { x: x.try_into().ok()?, y: y.try_into().ok()? })
}

//! ES256 in Rust inside the VM, for hosts without a verifier of their own.

use caracal_mandate::es256::{Es256Verifier, PublicKey, Signature};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;

/// Verifies with `p256`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PureVerifier;

impl Es256Verifier for PureVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = p256::ecdsa::VerifyingKey::from_sec1_bytes(&key.to_sec1()) else { return false };
        let Ok(signature) = p256::ecdsa::Signature::from_slice(&signature.0) else { return false };
        // The hash of the one SHA-256 that is in the module anyway.
        key.verify_prehash(&hmac_sha256::Hash::hash(message), &signature).is_ok()
    }
}

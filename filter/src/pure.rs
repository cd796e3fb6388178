//! ES256 in Rust inside the VM, for hosts without a verifier of their own.

use caracal_mandate::es256::{Es256Verifier, PublicKey, Signature};
use p256::AffinePoint;
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::elliptic_curve::point::AffineCoordinates as _;
use sha2::{Digest as _, Sha256};

/// Verifies with `p256`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PureVerifier;

impl Es256Verifier for PureVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        // Reading the point's encoded form would bring along what reads compressed ones.
        let point = Option::<AffinePoint>::from(AffinePoint::from_coordinates(&key.x.into(), &key.y.into()));
        let Some(key) = point.and_then(|point| VerifyingKey::from_affine(point).ok()) else { return false };
        let Ok(signature) = p256::ecdsa::Signature::from_slice(&signature.0) else { return false };
        // The hash of the one SHA-256 that is in the module anyway.
        key.verify_prehash(&Sha256::digest(message), &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::es256::known_answer;

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        assert!(known_answer::holds(&PureVerifier));
        let signature = Signature([1; 64]);
        for (x, y) in [([0; 32], [0; 32]), ([1; 32], [2; 32]), ([0xff; 32], [0xff; 32])] {
            assert!(!PureVerifier.verify(&PublicKey { x, y }, b"message", &signature));
            assert!(AffinePoint::from_coordinates(&x.into(), &y.into()).is_none().unwrap_u8() == 1);
        }
    }
}

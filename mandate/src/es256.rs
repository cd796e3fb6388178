//! ES256 keys and signatures, and the two ways to verify inside Envoy: the host's `verify_signature`, which wants DER,
//! and a pure-Rust verifier for hosts without it.

/// A signature as JOSE has it: r then s, 32 bytes each (RFC 7518 §3.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signature(…)")
    }
}

/// A P-256 public key. Whether the point is on the curve is the verifier's to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// Big-endian x coordinate.
    pub x: [u8; 32],
    /// Big-endian y coordinate.
    pub y: [u8; 32],
}

/// SubjectPublicKeyInfo of an uncompressed P-256 point up to and including the BIT STRING's first byte (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl PublicKey {
    /// The uncompressed point: `04`, x, y.
    #[must_use]
    pub fn to_sec1(&self) -> Vec<u8> {
        [&[0x04][..], &self.x, &self.y].concat()
    }

    /// SubjectPublicKeyInfo in DER, 91 bytes.
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &[0x04], &self.x, &self.y].concat()
    }
}

impl Signature {
    /// ASN.1 `ECDSA-Sig-Value` in DER, at most 72 bytes. Integers are minimal, as DER demands: a signature whose r or
    /// s begins with zero bytes would be refused otherwise. `None` where r or s is zero, which no signer makes.
    #[must_use]
    pub fn to_der(&self) -> Option<Vec<u8>> {
        let (r, s) = self.0.split_at(32);
        let body = [der_integer(r)?, der_integer(s)?].concat();
        let length = u8::try_from(body.len()).ok()?;
        Some([&[0x30, length][..], &body].concat())
    }
}

fn der_integer(bytes: &[u8]) -> Option<Vec<u8>> {
    let start = bytes.iter().position(|byte| *byte != 0)?;
    let digits = bytes.get(start..)?;
    let sign = digits.first().filter(|byte| **byte & 0x80 != 0).map(|_| 0u8);
    let length = u8::try_from(digits.len().saturating_add(usize::from(sign.is_some()))).ok()?;
    Some([0x02, length].into_iter().chain(sign).chain(digits.iter().copied()).collect())
}

/// Verifies an ES256 signature over `message`.
pub trait Es256Verifier {
    /// Is it good? Anything that is not proved is `false`.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Arguments and result of Envoy's foreign function `verify_signature`, in their protobuf form.
pub mod envoy {
    use super::{PublicKey, Signature};

    /// The name of the foreign function.
    pub const FUNCTION: &str = "verify_signature";

    /// `VerifySignatureArguments`: hash function (1), public key in DER (2), signature in DER (3), text (4). `None`
    /// where the signature has no DER form.
    #[must_use]
    pub fn arguments(key: &PublicKey, message: &[u8], signature: &Signature) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(message.len().saturating_add(200));
        field(&mut bytes, 1, b"sha256");
        field(&mut bytes, 2, &key.to_spki_der());
        field(&mut bytes, 3, &signature.to_der()?);
        field(&mut bytes, 4, message);
        Some(bytes)
    }

    /// `VerifySignatureResult` with `result = true` and nothing else. Every other answer is a no.
    #[must_use]
    pub fn is_verified(result: &[u8]) -> bool {
        result == [0x08, 0x01]
    }

    fn field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
        out.push((number << 3) | 2);
        let mut rest = value.len();
        while rest >= 0x80 {
            out.push(u8::try_from(rest & 0x7f).unwrap_or(0x7f) | 0x80);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).unwrap_or(0x7f));
        out.extend_from_slice(value);
    }
}

/// The pure-Rust verifier.
#[cfg(any(feature = "jwt-simple", test))]
pub mod pure {
    use super::{Es256Verifier, PublicKey, Signature};
    use jwt_simple::algorithms::{ECDSAP256PublicKeyLike, ES256PublicKey};
    use jwt_simple::claims::NoCustomClaims;
    use jwt_simple::common::VerificationOptions;
    use jwt_simple::prelude::UnixTimeStamp;

    /// Verifies with `jwt-simple`. It looks at the signature only: times and all other claims are judged elsewhere,
    /// the same way for every verifier.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct PureVerifier;

    impl Es256Verifier for PureVerifier {
        fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
            let Ok(key) = ES256PublicKey::from_bytes(&key.to_sec1()) else { return false };
            let Ok(message) = std::str::from_utf8(message) else { return false };
            let token = crate::jws::with_signature(message.to_owned(), signature);
            let options = VerificationOptions {
                accept_future: true,
                artificial_time: Some(UnixTimeStamp::from_secs(0)),
                max_token_length: Some(crate::jws::MAX_TOKEN_BYTES),
                time_tolerance: None,
                ..VerificationOptions::default()
            };
            key.verify_token::<NoCustomClaims>(&token, Some(options)).is_ok()
        }
    }
}

/// A token with a good signature and its key, to try a verifier with before anything depends on it.
pub mod known_answer {
    use super::{Es256Verifier, PublicKey};
    use crate::jws::CompactJws;

    /// The key that signed [`TOKEN`].
    pub const KEY: PublicKey =
        PublicKey { x: *include_bytes!("known_answer_x.bin"), y: *include_bytes!("known_answer_y.bin") };
    /// A token signed by [`KEY`] once and for all.
    pub const TOKEN: &str = include_str!("known_answer.jwt");

    /// Does the verifier accept the known token, and refuse it with one changed byte?
    #[must_use]
    pub fn holds(verifier: &impl Es256Verifier) -> bool {
        let Ok(jws) = CompactJws::split(TOKEN.trim_ascii().as_bytes()) else { return false };
        let Ok(signature) = jws.signature() else { return false };
        let mut forged = signature;
        if let Some(byte) = forged.0.last_mut() {
            *byte ^= 1;
        }
        verifier.verify(&KEY, jws.signing_input(), &signature)
            && !verifier.verify(&KEY, jws.signing_input(), &forged)
    }
}

#[cfg(test)]
mod tests {
    use super::pure::PureVerifier;
    use super::*;
    use jwt_simple::prelude::*;
    use proptest::prelude::*;

    fn public(pair: &ES256KeyPair) -> PublicKey {
        let bytes = pair.public_key().public_key().to_bytes_uncompressed();
        PublicKey { x: bytes[1..33].try_into().unwrap(), y: bytes[33..65].try_into().unwrap() }
    }

    fn parts(token: &str) -> (Vec<u8>, Signature) {
        let jws = crate::jws::CompactJws::split(token.as_bytes()).unwrap();
        (jws.signing_input().to_vec(), jws.signature().unwrap())
    }

    #[test]
    fn the_known_answer_holds() {
        assert!(known_answer::holds(&PureVerifier));
        struct Yes;
        impl Es256Verifier for Yes {
            fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
                true
            }
        }
        assert!(!known_answer::holds(&Yes));
    }

    #[test]
    fn expired_and_future_claims_do_not_matter_to_the_verifier() {
        let pair = ES256KeyPair::generate();
        for claims in [
            Claims::create(Duration::from_secs(1)),
            Claims::create(Duration::from_days(9999)).invalid_before(UnixTimeStamp::from_days(40000)),
        ] {
            let (message, signature) = parts(&pair.sign(claims).unwrap());
            assert!(PureVerifier.verify(&public(&pair), &message, &signature));
        }
    }

    #[test]
    fn contract_gateway_e10_signatures() {
        let pair = ES256KeyPair::generate();
        let (message, good) = parts(&pair.sign(Claims::create(Duration::from_secs(9))).unwrap());
        let key = public(&pair);
        for wrong in [Signature([0; 64]), Signature([0xff; 64])] {
            assert!(!PureVerifier.verify(&key, &message, &wrong));
        }
        assert!(!PureVerifier.verify(&PublicKey { x: [1; 32], y: [1; 32] }, &message, &good));
        assert_eq!(Signature([0; 64]).to_der(), None);
        let mut short = [0u8; 64];
        short[31] = 0x80;
        short[63] = 0x7f;
        assert_eq!(Signature(short).to_der().unwrap(), [0x30, 7, 2, 2, 0, 0x80, 2, 1, 0x7f]);
        assert_eq!(Signature([0xff; 64]).to_der().unwrap().len(), 72);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a second implementation: what jwt-simple signs and encodes is what the transcoder makes.
        #[test]
        fn der_agrees_with_a_second_implementation(zeros_r in 0usize..4, zeros_s in 0usize..4, bytes in any::<[u8; 32]>()) {
            let mut raw = [0u8; 64];
            raw[..32].copy_from_slice(&bytes);
            raw[32..].copy_from_slice(&bytes);
            raw[..zeros_r].fill(0);
            raw[32..32 + zeros_s].fill(0);
            raw[31] |= 1;
            raw[63] |= 1;
            // Below the group order, or the other side refuses to hold it.
            raw[0] &= 0x7f;
            raw[32] &= 0x7f;
            let other = p256_der(&raw);
            prop_assert_eq!(Signature(raw).to_der().unwrap(), other);
        }

        #[test]
        fn tokens_signed_elsewhere_verify_and_changed_ones_do_not(flip in 0usize..512) {
            let pair = ES256KeyPair::generate();
            let (message, signature) = parts(&pair.sign(Claims::create(Duration::from_secs(9))).unwrap());
            let key = public(&pair);
            prop_assert!(PureVerifier.verify(&key, &message, &signature));
            let mut changed = signature;
            changed.0[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!PureVerifier.verify(&key, &message, &changed));
            let arguments = envoy::arguments(&key, &message, &signature).unwrap();
            prop_assert!(arguments.windows(message.len()).any(|window| window == message.as_slice()));
        }
    }

    /// The DER of r and s through the `der` rules of ASN.1 libraries: INTEGER of a positive big-endian number.
    fn p256_der(raw: &[u8; 64]) -> Vec<u8> {
        p256::ecdsa::Signature::from_slice(raw).unwrap().to_der().as_bytes().to_vec()
    }
}

//! Which code verifies signatures: Envoy's own where a known answer shows that it works, else Rust
//! inside the VM, which is about ten times slower.

use std::rc::Rc;

use caracal_mandate::es256::{Es256Verifier, PublicKey, Signature, envoy, known_answer};
use caracal_mandate::verdict::Judged;

use crate::host::Host;
use crate::jwt_authn;
use crate::pure::PureVerifier;

/// Neither verifier passes its known-answer test.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no ES256 verifier passes its known-answer test")]
pub struct NoVerifier;

/// The verifier of this VM.
pub enum Verifier {
    /// Envoy's foreign function `verify_signature`.
    Host(Rc<dyn Host>),
    /// Rust inside the VM.
    Pure,
    /// Envoy's `jwt_authn`, which ran before and left the payload under this key.
    JwtAuthn(Rc<dyn Host>, String),
}

impl Verifier {
    /// Tries the host first, then Rust.
    ///
    /// # Errors
    /// [`NoVerifier`].
    pub fn choose(host: &Rc<dyn Host>) -> Result<Self, NoVerifier> {
        let candidates = [Self::Host(Rc::clone(host)), Self::Pure];
        candidates.into_iter().find(known_answer::holds).ok_or(NoVerifier)
    }

    /// Whether what was verified counts for this request too. A signature stays good; `jwt_authn` has to say so each time.
    #[must_use]
    pub fn stands(&self, claims: &Judged) -> bool {
        match self {
            Self::Host(_) | Self::Pure => true,
            Self::JwtAuthn(host, payload) => jwt_authn::ran(host.as_ref(), payload, claims),
        }
    }

    /// A word for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "verify_signature of the host",
            Self::Pure => "Rust inside the VM",
            Self::JwtAuthn(..) => "jwt_authn of the host",
        }
    }
}

impl Es256Verifier for Verifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        match self {
            Self::Host(host) => envoy::arguments(key, message, signature)
                .and_then(|arguments| host.foreign(envoy::FUNCTION, &arguments))
                .is_some_and(|result| envoy::is_verified(&result)),
            Self::Pure => PureVerifier.verify(key, message, signature),
            Self::JwtAuthn(host, payload) => jwt_authn::verified(host.as_ref(), payload, message),
        }
    }
}

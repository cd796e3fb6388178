//! Why a token of an external issuer is not accepted. One variant, one reason code.

use caracal_store::egress::EgressError;

/// Why nobody is vouched for. The caller is told only that the token is not accepted; the reason goes into the audit
/// event. No variant holds a part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FederationError {
    /// `alg` is not one of RS256, RS384, RS512, ES256, ES384, ES512.
    #[error("the token's alg is not allowed")]
    Algorithm,
    /// `aud` does not contain the audience that the zone expects.
    #[error("the token is for another audience")]
    Audience,
    /// `crit` is there, and no extension is understood.
    #[error("the token has critical extensions")]
    Critical,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The user was revoked after the token was issued.
    #[error("the token was issued before its user was revoked")]
    IssuedBeforeRevocation,
    /// `iat` or `nbf` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The zone does not trust the token's issuer.
    #[error("the token's issuer is not trusted")]
    IssuerNotTrusted,
    /// Another issuer that the zone trusts vouched for a user of this name.
    #[error("another issuer vouches for this subject")]
    IssuerConflict,
    /// `kid` is missing or empty.
    #[error("the token names no key")]
    KeyId,
    /// The issuer has no key of this name, also not after asking again.
    #[error("the issuer has no such key")]
    KeyUnknown,
    /// The issuer's keys could not be fetched.
    #[error("the issuer's keys cannot be fetched: {0}")]
    Keys(#[from] EgressError),
    /// The issuer's keys were answered with another status than 200.
    #[error("the issuer answered {0} instead of its keys")]
    KeysStatus(u16),
    /// What the issuer answered holds no key that could verify a token.
    #[error("the issuer's key set holds no usable key")]
    KeysUnusable,
    /// The keys were asked for too often just now.
    #[error("the issuer was asked for its keys too often just now")]
    KeysTooOften,
    /// Not a compact JWS with the claims of an ID token.
    #[error("the token is malformed")]
    Malformed,
    /// The signature is not the named key's.
    #[error("the token's signature is not good")]
    Signature,
    /// `sub` is not one that is accepted.
    #[error("the token's subject is not accepted")]
    Subject,
}

impl FederationError {
    /// The reason code.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Algorithm => "algorithm_not_allowed",
            Self::Audience => "audience_mismatch",
            Self::Critical => "critical_extension",
            Self::Expired => "token_expired",
            Self::IssuedBeforeRevocation => "issued_before_revocation",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuerNotTrusted => "issuer_not_trusted",
            Self::IssuerConflict => "issuer_conflict",
            Self::KeyId => "key_id_missing",
            Self::KeyUnknown => "key_unknown",
            Self::Keys(error) => error.reason(),
            Self::KeysStatus(_) => "keys_status",
            Self::KeysUnusable => "keys_unusable",
            Self::KeysTooOften => "keys_too_often",
            Self::Malformed => "token_malformed",
            Self::Signature => "signature_invalid",
            Self::Subject => "subject_not_accepted",
        }
    }
}

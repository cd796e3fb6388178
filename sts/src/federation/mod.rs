//! Users whom a trusted external issuer vouches for (contract sts §21).
//!
//! [`Issuer::read`] tells which issuer a token claims, without believing any of it; [`Federation::verify`] then checks
//! it against the keys that this issuer publishes. Nothing here knows of applications or mandates.

mod error;
mod jwks;
mod keys;
mod subject;
mod token;

pub(crate) use error::FederationError;
pub(crate) use subject::UserSubject;
pub(crate) use token::ExternalToken;

use caracal_store::egress::Egress;
use caracal_store::model::SubjectIssuer;
use keys::IssuerKeys;

/// Verifies tokens of external issuers. Their keys are kept in memory, bounded.
#[derive(Debug)]
pub(crate) struct Federation {
    keys: IssuerKeys,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vouched {
    /// For whom.
    pub(crate) subject: UserSubject,
    /// When it was issued, unix seconds, where it says so.
    pub(crate) issued_at: Option<i64>,
}

impl Federation {
    pub(crate) fn new(egress: Egress) -> Self {
        Self { keys: IssuerKeys::new(egress) }
    }

    /// Checks a token of an issuer that the zone trusts, at `now` (unix milliseconds). Another service is asked for its
    /// keys here, so no connection to the store may be held meanwhile.
    pub(crate) async fn verify(
        &self,
        token: &ExternalToken<'_>,
        issuer: &SubjectIssuer,
        now: i64,
    ) -> Result<Vouched, FederationError> {
        let keys = self.keys.holding(issuer, token.key_id()).await?;
        token.verify_signature(&keys)?;
        token.check_claims(issuer, now.div_euclid(1000))
    }
}

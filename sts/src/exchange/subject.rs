//! On whose behalf: the mandate that is presented as subject token (contract sts §10).

use super::request::{ExchangeRequest, SubjectToken};
use crate::Sts;
use crate::refusal::Denial;
use caracal_mandate::claims::{Claims, MandateUse};
use caracal_mandate::id::ZoneId;
use caracal_store::keys::MandateError;
use caracal_store::model::{Application, AuthorityRecord};
use sqlx::AnyConnection;

/// A subject token that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Its claims.
    pub(super) claims: Claims,
    /// Its record.
    pub(super) record: AuthorityRecord,
}

/// The claims of the subject token, or why it is none; `None` where none is presented.
pub(super) type Presented = Option<Result<Claims, Denial>>;

impl Sts {
    /// Checks the signature and the claims of the subject token. Nothing here depends on live state, so it is done once
    /// and before a connection is held: the keys may have to be read over another one.
    pub(super) async fn present(&self, request: &ExchangeRequest) -> Presented {
        let token = match request.subject_token.as_ref()? {
            SubjectToken::Mandate(token) => token,
            SubjectToken::External => {
                return Some(Err(Denial::subject("the token's issuer is not trusted")));
            }
        };
        let zone = request.zone_id.as_deref().and_then(|zone| ZoneId::new(zone).ok());
        let Some(zone) = zone else { return Some(Err(Denial::unauthenticated())) };
        let usage = if request.gateway.is_some() { MandateUse::Gateway } else { MandateUse::Session };
        let mut verified = self.keys().verify(&zone, token, self.issuer(), usage).await;
        if matches!(verified, Err(MandateError::Signature)) && request.gateway.is_some() {
            // Another process may have made the key since the keys were read.
            self.keys().forget(&zone);
            verified = self.keys().verify(&zone, token, self.issuer(), usage).await;
        }
        Some(verified.map_err(|error| match error {
            MandateError::Store(error) => error.into(),
            other => Denial::subject(other.to_string()),
        }))
    }

    /// The subject of the request, if it presents one, with its record as it stands now.
    pub(super) async fn subject(
        &self,
        connection: &mut AnyConnection,
        request: &ExchangeRequest,
        presented: &Presented,
        application: &Application,
        now: i64,
    ) -> Result<Option<Subject>, Denial> {
        let Some(verified) = presented else { return Ok(None) };
        let claims = verified.clone()?;
        if request.session_id.as_deref().is_some_and(|id| id != claims.sid.as_str()) {
            return Err(Denial::forbidden("session_id is not the subject token's"));
        }
        let record = AuthorityRecord::find(connection, &application.zone_id, &claims.sid).await?;
        let record = record
            .filter(|record| record.is_live(now))
            .ok_or_else(|| Denial::forbidden("the subject token's authority record is not active"))?;
        if claims.sub.is_empty() || claims.sub != record.subject_id {
            return Err(Denial::forbidden("the subject token's subject is not its record's"));
        }
        if claims.client_id != application.id {
            return Err(Denial::forbidden("the subject token was minted for another application"));
        }
        for (form, claim) in [
            (&request.agent_session_id, claims.agent_session_id.as_ref().map(|id| id.as_str())),
            (&request.delegation_edge_id, claims.delegation_edge_id.as_ref().map(|id| id.as_str())),
        ] {
            if claim.is_some() && form.is_some() && form.as_deref() != claim {
                return Err(Denial::forbidden("session or delegation is not the subject token's"));
            }
        }
        Ok(Some(Subject { claims, record }))
    }
}

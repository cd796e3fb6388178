//! On whose behalf: the mandate that is presented as subject token (contract sts §10).

use super::request::{ExchangeRequest, SubjectToken};
use crate::Sts;
use crate::refusal::Denial;
use caracal_mandate::claims::{Claims, MandateUse};
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

impl Sts {
    /// The subject of the request, if it presents one: signature and claims first, then its record.
    pub(super) async fn subject(
        &self,
        connection: &mut AnyConnection,
        request: &ExchangeRequest,
        application: &Application,
        now: i64,
    ) -> Result<Option<Subject>, Denial> {
        let token = match &request.subject_token {
            None => return Ok(None),
            Some(SubjectToken::Mandate(token)) => token,
            Some(SubjectToken::External) => return Err(Denial::subject("the token's issuer is not trusted")),
        };
        let usage = if request.gateway.is_some() { MandateUse::Gateway } else { MandateUse::Session };
        let verified = self.keys().verify(&application.zone_id, token, self.issuer(), usage).await;
        let claims = verified.map_err(|error| match error {
            MandateError::Store(error) => error.into(),
            other => Denial::subject(other.to_string()),
        })?;
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

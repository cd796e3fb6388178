//! For whom a session is started: the bearer's own record, or a user's with proof (contract coordinator §3.3, §25).

use crate::caller::Caller;
use crate::config::Config;
use crate::failure::{Code, Failure};
use caracal_mandate::claims::{Claims, MandateUse, SubjectType};
use caracal_mandate::id::{ApplicationId, AuthorityRecordId};
use caracal_store::SqlConnection;
use caracal_store::keys::MandateError;
use caracal_store::model::AuthorityRecord;

/// The record that a session is started on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its id.
    pub(crate) record: AuthorityRecordId,
    /// What was asked for, as far as it does not come from the bearer: what makes two requests the same.
    pub(crate) requested: Option<AuthorityRecordId>,
    /// The user, where a proof was given.
    user: Option<String>,
}

/// Reads for whom a session is asked, and verifies the proof where one is given or needed.
pub(crate) async fn resolve(
    config: &Config,
    caller: &Caller,
    application: &ApplicationId,
    requested: Option<AuthorityRecordId>,
    proof: Option<&str>,
) -> Result<Subject, Failure> {
    if let Some(token) = proof {
        let claims = verify(config, caller, application, token).await?;
        if requested.is_some_and(|requested| requested != claims.sid) {
            let why = "subject_session_id is not the record of subject_token";
            return Err(Failure::because(Code::SubjectProofMismatch, why));
        }
        let record = claims.sid;
        return Ok(Subject { record: record.clone(), requested: Some(record), user: Some(claims.sub) });
    }
    let own = caller.record().ok_or(Code::SubjectSessionIdRequired)?.clone();
    if requested.as_ref().is_some_and(|requested| *requested != own) {
        let why = "subject_session_id is not the bearer's own record: send its mandate as subject_token";
        return Err(Failure::because(Code::SubjectProofRequired, why));
    }
    Ok(Subject { record: own, requested, user: None })
}

impl Subject {
    /// Is it the bearer's own record, which stands as long as the bearer does?
    pub(crate) fn is_bearers_own(&self) -> bool {
        self.user.is_none()
    }

    /// Does the record of a proof stand, and is it what the proof says? The bearer's own was found to stand with the
    /// bearer, in the same transaction.
    pub(crate) async fn check_stands(
        &self,
        connection: &mut SqlConnection,
        caller: &Caller,
        now: i64,
    ) -> Result<(), Failure> {
        let Some(user) = &self.user else { return Ok(()) };
        let record = AuthorityRecord::find(connection, &caller.zone, &self.record).await?;
        let Some(record) = record.filter(|record| record.is_live(now)) else {
            return Err(Failure::because(
                Code::SessionNotFound,
                "the subject's authority record does not stand",
            ));
        };
        if record.subject_type != SubjectType::User || record.subject_id != *user {
            return Err(Failure::because(Code::InvalidSubjectProof, "the record is another subject's"));
        }
        Ok(())
    }
}

async fn verify(
    config: &Config,
    caller: &Caller,
    application: &ApplicationId,
    token: &str,
) -> Result<Claims, Failure> {
    let invalid = |why: String| Failure::because(Code::InvalidSubjectProof, why);
    let verified = config.keys.verify(&caller.zone, token, &config.issuer, MandateUse::Session).await;
    let claims = verified.map_err(|error| match error {
        MandateError::Store(error) => Failure::Store(error),
        error => invalid(format!("subject_token: {error}")),
    })?;
    let is_user =
        claims.sub_type == SubjectType::User && !claims.sub.is_empty() && claims.root_sid == claims.sid;
    let is_bare = claims.scope.is_empty()
        && claims.target.is_empty()
        && claims.delegation_path.is_empty()
        && claims.agent_session_id.is_none()
        && claims.delegation_edge_id.is_none()
        && claims.source_session_id.is_none()
        && claims.target_session_id.is_none();
    if !is_user || !is_bare {
        return Err(invalid("subject_token is not a federated user's own mandate".to_owned()));
    }
    if claims.client_id != *application {
        return Err(Code::SubjectProofApplicationMismatch.into());
    }
    Ok(claims)
}

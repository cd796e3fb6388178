//! On whose behalf: the mandate that is presented as subject token (contract sts §10).

use super::live::Live;
use super::request::{ExchangeRequest, SubjectToken};
use crate::Sts;
use crate::refusal::Denial;
use caracal_mandate::claims::{Claims, MandateUse};
use caracal_mandate::epoch::AuthorityEpoch;
use caracal_mandate::id::ZoneId;
use caracal_store::keys::{Expected, MandateError};
use caracal_store::model::{Application, AuthorityRecord, Zone};

/// A subject token that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Its claims.
    pub(super) claims: Claims,
    /// Its record.
    pub(super) record: AuthorityRecord,
}

/// A subject token whose signature and claims were checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    /// Its claims, or why it is none.
    verified: Result<Claims, Denial>,
    /// The epoch of the zone's keys that it was checked with.
    keys: AuthorityEpoch,
}

/// The subject token; `None` where none is presented.
pub(super) type Presented = Option<Checked>;

impl Sts {
    /// Checks the signature and the claims of the subject token. Of live state, only the keys matter here, and they have
    /// an epoch: so it is done once, and before a connection is held.
    pub(super) async fn present(&self, request: &ExchangeRequest) -> Presented {
        let refused = |denial: Denial| Checked { verified: Err(denial), keys: AuthorityEpoch(u64::MAX) };
        let token = match request.subject_token.as_ref()? {
            SubjectToken::Mandate(token) => token,
            SubjectToken::External(_) => {
                return Some(refused(Denial::subject("the token's issuer is not trusted")));
            }
        };
        let zone = request.zone_id.as_deref().and_then(|zone| ZoneId::new(zone).ok());
        let Some(zone) = zone else { return Some(refused(Denial::unauthenticated())) };
        let checked = self.keys().verify_at_hand(token, self.expected(request, &zone)).await;
        Some(match checked {
            Ok((keys, verified)) => Checked { verified: verified.map_err(refusal), keys },
            Err(error) => refused(error.into()),
        })
    }

    fn expected<'a>(&'a self, request: &ExchangeRequest, zone: &'a ZoneId) -> Expected<'a> {
        let usage = request.gateway.as_ref().map_or(MandateUse::Session, |call| call.usage);
        Expected { zone, issuer: self.issuer(), usage }
    }

    /// The claims, checked with the keys of the zone as it was read: with no older ones.
    async fn claims_of(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        checked: &Checked,
        zone: &Zone,
    ) -> Result<Claims, Denial> {
        match &request.subject_token {
            Some(SubjectToken::Mandate(token)) if checked.keys < zone.epochs.keys => {
                let expected = self.expected(request, &zone.id);
                self.keys().verify_in(live.connection().await?, token, expected).await.map_err(refusal)
            }
            _ => checked.verified.clone(),
        }
    }

    /// The subject of the request, if it presents one, with its record as it stands now.
    pub(super) async fn subject(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        presented: &Presented,
        application: &Application,
        zone: &Zone,
        now: i64,
    ) -> Result<Option<Subject>, Denial> {
        let Some(checked) = presented else { return Ok(None) };
        let claims = self.claims_of(live, request, checked, zone).await?;
        if request.session_id.as_deref().is_some_and(|id| id != claims.sid.as_str()) {
            return Err(Denial::forbidden("session_id is not the subject token's"));
        }
        let record = live.record(&application.zone_id, &claims.sid).await?;
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

fn refusal(error: MandateError) -> Denial {
    match error {
        MandateError::Store(error) => error.into(),
        other => Denial::subject(other.to_string()),
    }
}

//! The grant: one transaction with the record, the used-up mandate, the budget and the audit events
//! (contract sts §17 to §19).

use super::approval::{Approval, Gate, Scribe, no_life_left};
use super::case::APPROVAL_REQUIRED;
use super::judge::{GrantedResource, Judgement, describe};
use super::provider::upstreams;
use super::request::ExchangeRequest;
use crate::Sts;
use crate::refusal::Denial;
use crate::upstream::Directive;
use axum::http::StatusCode;
use caracal_mandate::claims::{Claims, MandateUse, SubjectType};
use caracal_mandate::epoch::AuthorityEpoch;
use caracal_mandate::id::{AuthorityRecordId, MandateId};
use caracal_store::audit::AuditEvent;
use caracal_store::model::{AgentSession, AuthorityRecord, Lifecycle, NewAuthorityRecord, RecordStatus};
use caracal_store::once::OneUse;
use caracal_store::{StoreError, WriteTx, ids};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How long a mandate lives unless something says otherwise, in seconds.
const DEFAULT_TTL_SECONDS: i64 = 900;
/// The window of the mint budget, in milliseconds.
pub(super) const BUDGET_WINDOW: i64 = 60_000;

/// What was granted, committed but not yet signed.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(super) claims: Claims,
    pub(super) upstreams: BTreeMap<String, Directive>,
    /// The epoch of the zone's keys at the grant.
    pub(super) keys: AuthorityEpoch,
}

/// How a judgement that allows ended.
#[derive(Debug)]
pub(crate) enum Granted {
    /// In a mandate.
    Minted(Box<Minted>),
    /// In a hold: what was asked waits for an approval.
    Held(Denial),
    /// In nothing yet: credentials changed meanwhile, and it has to be judged anew.
    Stale,
}

impl Sts {
    /// Writes the grant. An error takes all of it back, and carries the event that tells of it.
    pub(super) async fn grant(
        &self,
        tx: &mut WriteTx<'_>,
        request: &ExchangeRequest,
        judgement: &Judgement,
    ) -> Result<Granted, Denial> {
        let now = tx.now();
        self.write_grant(tx, request, judgement).await.map_err(|denial| {
            let status = match denial.status {
                StatusCode::TOO_MANY_REQUESTS => "rate_limited",
                StatusCode::BAD_GATEWAY => "provider_credential_unavailable",
                _ => "exchange_denied",
            };
            if denial.events.is_empty() {
                describe(denial, request, &judgement.application, status, now)
            } else {
                denial
            }
        })
    }

    async fn write_grant(
        &self,
        tx: &mut WriteTx<'_>,
        request: &ExchangeRequest,
        judgement: &Judgement,
    ) -> Result<Granted, Denial> {
        let now = tx.now();
        if let Some(call) = &request.gateway {
            if !call.proof.spend(tx).await? {
                return Err(Denial::unauthenticated());
            }
            use_up_mandate(tx, request, judgement).await?;
        }
        let scribe = Scribe { request, application: &judgement.application };
        let approval = match &judgement.wanted {
            None => judgement.approval.clone(),
            Some(new) => match scribe.pass(tx, new, &judgement.events).await? {
                Gate::Open(approval) => approval,
                Gate::Waits(denial) => return Ok(Granted::Held(denial)),
            },
        };
        self.charge(tx, judgement).await?;
        let draft = self.draft(request, judgement, &approval, now)?;
        if !matches!(approval, Approval::Answered(..)) {
            draft.record(judgement).insert(tx).await?;
        }
        scribe.spend(tx, &approval, &draft.claims.sid).await?;
        let events: Vec<Cow<'_, AuditEvent>> = judgement.events.iter().map(opened).collect();
        tx.audit_all(&events).await?;
        Ok(Granted::Minted(Box::new(draft.minted(judgement.epochs.keys))))
    }

    /// What a grant comes to, before anything of it is written.
    pub(super) fn draft(
        &self,
        request: &ExchangeRequest,
        judgement: &Judgement,
        approval: &Approval,
        now: i64,
    ) -> Result<Draft, Denial> {
        let usage = usage(request, judgement);
        let mut expires_at = expiry(request, judgement, now)?;
        if let Approval::Answered(_, record) = approval {
            expires_at = expires_at.min(record.expires_at);
            if expires_at - now < 1000 {
                return Err(no_life_left());
            }
        }
        let mut claims = claims(self.issuer(), request, judgement, usage, now, expires_at)?;
        let mut upstreams = upstreams(request, judgement, now)?;
        if judgement.multi_use() {
            upstreams.values_mut().for_each(|directive| directive.keep_until(claims.exp));
        }
        if let Approval::Answered(_, record) = approval {
            if claims.root_sid == claims.sid {
                claims.root_sid = record.id.clone();
            }
            claims.sid = record.id.clone();
        }
        Ok(Draft { claims, upstreams, expires_at })
    }

    /// Takes one from the budget of every granted resource (contract sts §12.5). An exhausted budget is 429.
    async fn charge(&self, tx: &mut WriteTx<'_>, judgement: &Judgement) -> Result<(), Denial> {
        for granted in &judgement.granted {
            if tx.count(&budget_key(judgement, granted), BUDGET_WINDOW).await? > self.mint_limit_per_minute()
            {
                return Err(Denial::too_often("the mint budget of this minute is used up", 60));
            }
        }
        Ok(())
    }
}

/// A grant that is not written yet.
#[derive(Debug)]
pub(super) struct Draft {
    claims: Claims,
    upstreams: BTreeMap<String, Directive>,
    expires_at: i64,
}

impl Draft {
    /// Its record.
    pub(super) fn record(&self, judgement: &Judgement) -> NewAuthorityRecord {
        record(judgement, &self.claims, self.expires_at)
    }

    /// What is signed once it is written. `keys` is the epoch of the zone's keys.
    pub(super) fn minted(self, keys: AuthorityEpoch) -> Minted {
        Minted { claims: self.claims, upstreams: self.upstreams, keys }
    }
}

/// The counter of what an application mints for a resource.
pub(super) fn budget_key(judgement: &Judgement, granted: &GrantedResource) -> String {
    let application = &judgement.application;
    format!("mint:{}:{}:{}", application.zone_id, granted.resource.id, application.id)
}

/// What uses a mandate up. It is remembered for as long as the mandate says that it lives, and a minute more.
pub(super) fn mandate_use(claims: &Claims) -> OneUse {
    OneUse::new(format!("mandate:{}", claims.jti), claims.exp.saturating_add(60).saturating_mul(1000))
}

/// The event of a resource whose gate was found open.
pub(super) fn opened(event: &AuditEvent) -> Cow<'_, AuditEvent> {
    if event.evaluation_status != APPROVAL_REQUIRED {
        return Cow::Borrowed(event);
    }
    let mut event = event.clone();
    "complete".clone_into(&mut event.evaluation_status);
    "allow".clone_into(&mut event.decision);
    if let Some(metadata) = event.metadata_json.as_mut().and_then(serde_json::Value::as_object_mut) {
        metadata.remove("reason");
        metadata.remove("policy_input");
    }
    Cow::Owned(event)
}

/// A mandate for a single-use resource is used up, in the transaction of what it is used for.
async fn use_up_mandate(
    tx: &mut WriteTx<'_>,
    request: &ExchangeRequest,
    judgement: &Judgement,
) -> Result<(), Denial> {
    let Some(subject) = &judgement.subject else { return Err(Denial::unauthenticated()) };
    if judgement.multi_use() {
        return Ok(());
    }
    if tx.use_once(&mandate_use(&subject.claims)).await? {
        return Ok(());
    }
    let zone = judgement.application.zone_id.as_str();
    let event = AuditEvent::new(zone, "replay_detected", &request.request_id, "deny", tx.now())
        .with_status("anomaly")
        .with_metadata(serde_json::json!({
            "jti": subject.claims.jti.as_str(),
            "resource": request.resources.first(),
            "application_id": judgement.application.id.as_str(),
            "client_id": subject.claims.client_id.as_str(),
            "request_id": request.request_id,
        }));
    Err(Denial::subject("token replay detected").with_event(event))
}

fn usage(request: &ExchangeRequest, judgement: &Judgement) -> MandateUse {
    match (&request.gateway, &judgement.bound.delegation) {
        _ if judgement.control.is_some() => MandateUse::Resource,
        (Some(_), _) => MandateUse::Resource,
        (None, Some(_)) => MandateUse::Gateway,
        (None, None) => MandateUse::Session,
    }
}

/// When the mandate ends, unix milliseconds: never after the delegation, nor after the mandate it was exchanged for.
fn expiry(request: &ExchangeRequest, judgement: &Judgement, now: i64) -> Result<i64, Denial> {
    let wanted = if request.ttl_seconds == 0 { DEFAULT_TTL_SECONDS } else { request.ttl_seconds };
    let delegation = judgement.bound.delegation.as_ref();
    let seconds =
        delegation.and_then(|delegation| delegation.ttl_seconds).map_or(wanted, |most| wanted.min(most));
    let control = judgement.control.and_then(|key| key.max_ttl);
    let seconds = control.map_or(seconds, |most| seconds.min(most));
    let mut end = now.saturating_add(seconds.saturating_mul(1000));
    end = end.min(delegation.map_or(i64::MAX, |delegation| delegation.ends_at));
    end = end.min(judgement.application.expires_at.unwrap_or(i64::MAX));
    end = end.min(judgement.bound.session.as_ref().map_or(i64::MAX, task_end));
    end = end.min(judgement.bound.user.as_ref().map_or(i64::MAX, |user| user.ends_at));
    end = end.min(judgement.subject.as_ref().map_or(i64::MAX, |subject| subject.record.expires_at));
    if end - now < 1000 {
        return Err(Denial::forbidden("the authority that this rests on is about to expire"));
    }
    Ok(end)
}

/// When a task's time is up. A service renews its lease, and is checked whenever a mandate is used.
fn task_end(session: &AgentSession) -> i64 {
    match session.lifecycle {
        Lifecycle::Task => session.ends_at().unwrap_or(i64::MAX),
        Lifecycle::Service => i64::MAX,
    }
}

fn claims(
    issuer: &str,
    request: &ExchangeRequest,
    judgement: &Judgement,
    usage: MandateUse,
    now: i64,
    expires_at: i64,
) -> Result<Claims, Denial> {
    let id = |error: caracal_mandate::id::IdError| StoreError::corrupt(format!("a new id: {error}"));
    let sid: AuthorityRecordId = ids::new().map_err(id)?;
    let jti: MandateId = ids::new().map_err(id)?;
    let subject = judgement.subject.as_ref();
    let delegation = judgement.bound.delegation.as_ref();
    let target: Vec<String> =
        judgement.granted.iter().map(|granted| granted.resource.identifier.to_string()).collect();
    let carried = subject.map(|subject| subject.claims.scope.clone()).unwrap_or_default();
    let path = delegation.map(|delegation| delegation.path()).unwrap_or_default();
    let multi_use =
        usage == MandateUse::Gateway && judgement.granted.iter().all(|granted| granted.resource.multi_use);
    Ok(Claims {
        iss: issuer.to_owned(),
        sub: subject
            .map_or_else(|| judgement.application.id.to_string(), |subject| subject.claims.sub.clone()),
        aud: if usage == MandateUse::Resource { target.clone() } else { vec![issuer.to_owned()] },
        exp: expires_at / 1000,
        iat: now / 1000,
        jti,
        zone_id: judgement.application.zone_id.clone(),
        client_id: judgement.application.id.clone(),
        scope: if request.scope.is_empty() { carried } else { request.scope.clone() },
        root_sid: match (usage, subject) {
            (MandateUse::Session, _) => sid.clone(),
            (_, Some(subject)) => subject.claims.root_sid.clone(),
            // Whoever ends the user's record ends this, too.
            (_, None) => {
                judgement.bound.user.as_ref().map_or_else(|| sid.clone(), |user| user.record.clone())
            }
        },
        sid,
        usage,
        sub_type: subject.map_or(SubjectType::Application, |subject| subject.claims.sub_type),
        target,
        agent_session_id: judgement.bound.session.as_ref().map(|session| session.id.clone()),
        delegation_edge_id: delegation.map(|delegation| delegation.edge.id.clone()),
        source_session_id: delegation.map(|delegation| delegation.edge.source_session_id.clone()),
        target_session_id: delegation.map(|delegation| delegation.edge.target_session_id.clone()),
        hop_count: u64::try_from(path.len()).unwrap_or(u64::MAX),
        delegation_path: path,
        delegation_chain: delegation.map(|delegation| delegation.chain()).unwrap_or_default(),
        delegation_graph_epoch: if delegation.is_some() { judgement.epochs.graph } else { 0 },
        authority_epoch: judgement.epochs.authority,
        multi_use,
    })
}

fn record(judgement: &Judgement, claims: &Claims, expires_at: i64) -> NewAuthorityRecord {
    let parent = judgement.subject.as_ref().filter(|_| claims.usage == MandateUse::Resource);
    NewAuthorityRecord {
        record: AuthorityRecord {
            id: claims.sid.clone(),
            zone_id: claims.zone_id.clone(),
            subject_type: claims.sub_type,
            subject_id: claims.sub.clone(),
            application_id: claims.client_id.clone(),
            parent_id: parent.map(|subject| subject.claims.sid.clone()),
            status: RecordStatus::Active,
            expires_at,
        },
        claims_json: "{}".to_owned(),
    }
}

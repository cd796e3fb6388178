//! One credential for one variable (contract sts §23).
//!
//! It is judged on a reading connection, fetched while nothing is held, and given in one write: the approval is used up
//! and the event is there, or nothing is given. If the zone changed in between, it is judged anew inside that write.

use super::Call;
use super::admission::Door;
use super::approval::{Approval, add_hold, consumed, policy_changed, rejected};
use super::judge::{Judgement, Wish};
use crate::Sts;
use crate::approvals::{Hold, State, converge, use_up};
use crate::bundles::View;
use crate::providers::{Credential, CredentialError};
use crate::reasons::reason_of;
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_store::audit::AuditEvent;
use caracal_store::model::Zone;
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};

/// How often it is begun anew because what was fetched does not fit any more.
const ROUNDS: usize = 4;

/// How one round ended.
enum Round {
    Given(Value),
    /// What was fetched does not fit any more.
    Stale,
}

/// How a hold was met inside a write.
enum Gate {
    Open(Box<Hold>),
    Waits(Denial),
}

impl Sts {
    pub(super) async fn credential(
        &self,
        call: Call,
        env: String,
        approval_id: Option<String>,
    ) -> Result<Value, Denial> {
        let (sts, admitted) = (self.clone(), call.clone());
        let admitted: Result<_, StoreError> = self
            .store()
            .write(move |tx| {
                Box::pin(async move { sts.admit_workload(tx, &admitted, Door::Credential).await })
            })
            .await;
        admitted??;
        let wish = Wish { call, env, approval_id };
        for _ in 0..ROUNDS {
            match self.round(&wish).await {
                Ok(Round::Given(body)) => return Ok(body),
                Ok(Round::Stale) => {}
                Err(denial) => return self.note_refusal(denial).await,
            }
        }
        Err(Denial::unavailable())
    }

    async fn round(&self, wish: &Wish) -> Result<Round, Denial> {
        let mut judgement = {
            let mut connection = self.store().read().await?;
            self.judge_wish(&mut connection, wish, View::Committed).await?
        };
        if judgement.wanted.is_some() {
            match self.raise(wish, &judgement).await? {
                Gate::Open(hold) => judgement.approval = Approval::Granted(hold),
                Gate::Waits(denial) => return Err(denial),
            }
        }
        let zone = &judgement.workload.zone_id;
        let fetched = self.providers().credential(zone, &judgement.basis.provider, None).await;
        let fetched = match fetched {
            Ok(Some(credential)) => credential,
            Ok(None) => return Err(unavailable(&judgement, &CredentialError::Kind)),
            Err(CredentialError::Store) => return Err(Denial::unavailable()),
            Err(error) => return Err(unavailable(&judgement, &error)),
        };
        let (sts, wish) = (self.clone(), wish.clone());
        self.store()
            .write(move |tx| Box::pin(async move { sts.give(tx, &wish, judgement, &fetched).await }))
            .await
    }

    /// Makes the hold that is wanted or finds it again, in a write of its own: it has to be there whatever follows.
    async fn raise(&self, wish: &Wish, judgement: &Judgement) -> Result<Gate, Denial> {
        let Some(new) = judgement.wanted.clone() else { return Err(Denial::unavailable()) };
        let (event, workload, call) =
            (judgement.event.clone(), judgement.workload.clone(), wish.call.clone());
        self.store()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let (hold, created) = converge(tx, &new).await?;
                    match hold.state(now) {
                        State::Approved => return Ok(Gate::Open(Box::new(hold))),
                        State::Rejected => {
                            return Err(told(rejected(), &event, "approval_rejected", &hold));
                        }
                        State::Pending | State::Consumed | State::Expired => {}
                    }
                    tx.audit(&event).await?;
                    if created {
                        let mut issued = call.event(&workload, "step_up_issued", "pending", Value::Null, now);
                        add_hold(&mut issued, &hold);
                        tx.audit(&issued).await?;
                    }
                    Ok(Gate::Waits(Denial { reason: reason_of(&[event]), ..hold.to_denial(now) }))
                })
            })
            .await
    }

    /// Gives what was fetched, if it may still be given.
    async fn give(
        &self,
        tx: &mut WriteTx<'_>,
        wish: &Wish,
        judgement: Judgement,
        credential: &Credential,
    ) -> Result<Round, Denial> {
        let now = tx.now();
        let workload = self.still_admitted(tx.connection(), &wish.call).await?;
        let epochs = Zone::find(tx.connection(), &workload.zone_id).await?.map(|zone| zone.epochs);
        let unchanged = epochs == Some(judgement.epochs) && workload == judgement.workload;
        if !unchanged {
            let granted = matches!(judgement.approval, Approval::Granted(_));
            if granted && epochs.is_none_or(|epochs| epochs.policy != judgement.epochs.policy) {
                return Err(changed(policy_changed(), &judgement));
            }
            let anew = self.judge_wish(tx.connection(), wish, View::Uncommitted).await?;
            let binding = |judgement: &Judgement| judgement.wanted.as_ref().map(|new| new.binding.clone());
            let same = anew.basis == judgement.basis
                && anew.policy.manifest_sha == judgement.policy.manifest_sha
                && binding(&anew) == binding(&judgement);
            if !same {
                return Ok(Round::Stale);
            }
        }
        let mut event = judgement.event.clone();
        "complete".clone_into(&mut event.evaluation_status);
        "allow".clone_into(&mut event.decision);
        if let Approval::Granted(hold) = &judgement.approval {
            if !use_up(tx, hold, None).await? {
                return Err(told(consumed(), &event, "approval_already_consumed", hold));
            }
            let mut spent = wish.call.event(&workload, "step_up_consumed", "consumed", Value::Null, now);
            add_hold(&mut spent, hold);
            tx.audit(&spent).await?;
        }
        tx.audit(&event).await?;
        let mut body = json!({ "env": wish.env, "credential": credential.secret.expose() });
        if let (Some(end), Some(object)) = (credential.expires_at, body.as_object_mut()) {
            object.insert("expires_at".to_owned(), end.div_euclid(1000).into());
        }
        Ok(Round::Given(body))
    }
}

/// A denial that tells of a hold, in an event like the one that policy left.
fn told(denial: Denial, event: &AuditEvent, status: &str, hold: &Hold) -> Denial {
    let mut event = denied(event, status, status);
    add_hold(&mut event, hold);
    denial.with_event(event)
}

fn changed(denial: Denial, judgement: &Judgement) -> Denial {
    let status = "approval_policy_changed";
    denial.with_event(denied(&judgement.event, status, status))
}

/// What the caller is told is the cause alone: no host, no answer of the provider.
fn unavailable(judgement: &Judgement, error: &CredentialError) -> Denial {
    let event = denied(&judgement.event, "provider_credential_unavailable", error.reason());
    let text = format!("the provider's credential is not available ({})", error.reason());
    Denial::new(StatusCode::BAD_GATEWAY, "http_request_failed", text).with_event(event)
}

/// The event of what policy said, turned into a denial for another cause.
fn denied(event: &AuditEvent, status: &str, reason: &str) -> AuditEvent {
    let mut event = AuditEvent { id: caracal_store::ids::new_id(), ..event.clone() }.with_status(status);
    "deny".clone_into(&mut event.decision);
    if let Some(object) = event.metadata_json.as_mut().and_then(Value::as_object_mut) {
        object.insert("reason".to_owned(), reason.into());
    }
    event
}

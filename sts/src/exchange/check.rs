//! The check: does a mandate still stand that a gateway may use more than once?
//!
//! A gateway asks where it cannot know by itself: the mandate is newer than what it heard, or older than the policy.
//! The mandate is judged as in an exchange, against live state and policy, and nothing is minted or used up. So a
//! mandate that may be used once is never checked: only the exchange that uses it up says whether it may be used.

use super::case::POLICY_DENIED;
use super::current_epochs;
use super::judge::{Judgement, describe};
use super::live::Live;
use super::request::ExchangeRequest;
use super::subject::Presented;
use crate::Sts;
use crate::mandates::stands;
use crate::refusal::Denial;
use caracal_mandate::claims::MandateUse;
use caracal_store::WriteTx;

/// What the ledger calls it.
const EVENT: &str = "mandate_check";

impl Sts {
    /// Judges the mandate of a gateway's request. A refusal that stays as long as policy does says `lasting`.
    pub(crate) async fn check(&self, request: ExchangeRequest) -> Result<(), Denial> {
        match self.judge_and_note(&request).await {
            Ok(()) => Ok(()),
            Err(mut denial) => {
                for event in &mut denial.events {
                    EVENT.clone_into(&mut event.event_type);
                }
                if denial.description.starts_with(POLICY_DENIED) {
                    denial.extra.insert("lasting".to_owned(), true.into());
                }
                self.record_denial(&request, denial).await
            }
        }
    }

    async fn judge_and_note(&self, request: &ExchangeRequest) -> Result<(), Denial> {
        let presented = self.present(request).await;
        let mut live = Live::committed(self.store());
        let judgement = self.judge(&mut live, request, &presented).await?;
        drop(live);
        let (sts, request) = (self.clone(), request.clone());
        self.store()
            .write(move |tx| Box::pin(async move { sts.note(tx, &request, &presented, judgement).await }))
            .await
    }

    /// Writes down what was judged, judged anew if anything of the zone changed meanwhile.
    async fn note(
        &self,
        tx: &mut WriteTx<'_>,
        request: &ExchangeRequest,
        presented: &Presented,
        judgement: Judgement,
    ) -> Result<(), Denial> {
        let judgement = if current_epochs(tx, &judgement).await? == Some(judgement.epochs) {
            judgement
        } else {
            self.judge(&mut Live::in_transaction(tx.connection()), request, presented).await?
        };
        let now = tx.now();
        if let Err(denial) = reusable(&judgement) {
            return Err(describe(denial, request, &judgement.application, "check_denied", now));
        }
        let claims = judgement.subject.as_ref().map(|subject| &subject.claims);
        let claims = claims.ok_or_else(Denial::unauthenticated)?;
        if !stands(tx.connection(), claims, now).await? {
            let denial = Denial::forbidden("what the mandate rests on does not stand any more");
            return Err(describe(denial, request, &judgement.application, "check_denied", now));
        }
        let call = request.gateway.as_ref().ok_or_else(Denial::unauthenticated)?;
        if !call.proof.spend(tx).await? {
            return Err(Denial::unauthenticated());
        }
        for event in &judgement.events {
            let mut event = event.clone();
            EVENT.clone_into(&mut event.event_type);
            tx.audit(&event).await?;
        }
        Ok(())
    }
}

/// Only what may be used more than once, and waits for nobody, can stand without being used up.
fn reusable(judgement: &Judgement) -> Result<(), Denial> {
    let Some(subject) = &judgement.subject else { return Err(Denial::unauthenticated()) };
    if judgement.wanted.is_some() {
        return Err(Denial::forbidden("policy wants an approval for this mandate"));
    }
    match subject.claims.usage {
        MandateUse::Resource => Ok(()),
        MandateUse::Gateway if judgement.multi_use() => Ok(()),
        _ => Err(Denial::forbidden("a mandate that may be used once is exchanged, not checked")),
    }
}

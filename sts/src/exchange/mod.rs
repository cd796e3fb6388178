//! The token exchange: who asks, on whose behalf, for what, and what policy says (contract sts §8).
//!
//! A request is judged on a reading connection, then granted in one write: the record, the used-up mandate or nonce,
//! the budget and the audit events are there together or not at all. If the zone's epoch moved in between, the judgement
//! is made again inside the writing transaction, so nothing is ever granted on authority that was already taken away.

mod approval;
mod authenticate;
mod binding;
mod case;
mod check;
mod control;
mod federated;
mod grant;
mod judge;
mod live;
mod provider;
mod request;
mod subject;
mod together;

pub(crate) use grant::Granted;
pub(crate) use live::Known;
pub(crate) use request::ExchangeRequest;
pub(crate) use together::Piece;

use crate::Sts;
use crate::refusal::Denial;
use authenticate::count_failure;
use caracal_mandate::id::ApplicationId;
use caracal_store::StoreError;
use caracal_store::WriteTx;
use caracal_store::model::{Application, Epochs, Zone};
use grant::Minted;
use judge::Judgement;
use live::Live;
use provider::{ROUNDS, may_ask_outside};
use request::SubjectToken;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use subject::Presented;

/// The answer to a granted exchange (contract sts §6).
#[derive(Debug, Serialize)]
pub(crate) struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    issued_token_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    target_resources: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    upstreams: BTreeMap<String, crate::upstream::Directive>,
}

/// The type of every token that the STS issues.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

impl Sts {
    /// Runs one exchange to its end. Whatever is refused is written down too, where something is known of who asked.
    pub(crate) async fn exchange(&self, request: ExchangeRequest) -> Result<TokenResponse, Denial> {
        let request = Arc::new(request);
        match self.judge_and_grant(&request).await {
            Ok(Granted::Minted(minted)) => self.answer(*minted).await,
            // It is written down already.
            Ok(Granted::Held(denial)) => Err(denial),
            Ok(Granted::Stale) => Err(StoreError::Uncommitted("credentials kept changing".into()).into()),
            Err(denial) => self.record_denial(&request, denial).await,
        }
    }

    /// Begins anew where a connection has to be renewed first, or what was fetched does not fit any more.
    async fn judge_and_grant(&self, request: &Arc<ExchangeRequest>) -> Result<Granted, Denial> {
        if let (None, Some(SubjectToken::External(token))) = (&request.gateway, &request.subject_token) {
            self.check_lockout(request).await?;
            return self.federate(request, token).await;
        }
        for _ in 1..ROUNDS {
            match self.judge_and_grant_once(request).await {
                Ok(Granted::Stale) => {}
                Err(Denial { renewal: Some(renewal), .. }) => {
                    self.providers().renew(*renewal).await.map_err(|_| Denial::unavailable())?;
                }
                ended => return ended,
            }
        }
        self.judge_and_grant_once(request).await
    }

    async fn judge_and_grant_once(&self, request: &Arc<ExchangeRequest>) -> Result<Granted, Denial> {
        let presented = self.present(request).await;
        if let Some(granted) = self.grant_at_hand(request, &presented).await {
            return Ok(granted);
        }
        if request.gateway.is_none() {
            self.check_lockout(request).await?;
        }
        let mut live = Live::committed(self.store());
        let mut judgement = self.judge(&mut live, request, &presented).await?;
        drop(live);
        judgement.brokered = Arc::new(self.broker(request, &judgement).await);
        self.keys().prepare(&judgement.application.zone_id, judgement.epochs.keys).await?;
        let (sts, request) = (self.clone(), Arc::clone(request));
        self.store()
            .write(move |tx| Box::pin(async move { sts.grant_in(tx, &request, &presented, judgement).await }))
            .await
    }

    /// Judges by what is kept of the zone, and grants with the next group. `None` where that is not enough, whyever:
    /// nothing is written, and the request begins anew.
    async fn grant_at_hand(&self, request: &Arc<ExchangeRequest>, presented: &Presented) -> Option<Granted> {
        let facts = self.known().of(request)?;
        let mut live = Live::at_hand(self.store(), facts);
        let mut judgement = self.judge(&mut live, request, presented).await.ok()?;
        drop(live);
        if may_ask_outside(request, &judgement) {
            return None;
        }
        judgement.brokered = Arc::new(self.broker(request, &judgement).await);
        self.keys().prepare(&judgement.application.zone_id, judgement.epochs.keys).await.ok()?;
        self.grant_together(request, judgement).await
    }

    async fn grant_in(
        &self,
        tx: &mut WriteTx<'_>,
        request: &ExchangeRequest,
        presented: &Presented,
        judgement: Judgement,
    ) -> Result<Granted, Denial> {
        let epochs = current_epochs(tx, &judgement).await?;
        let judgement = if epochs == Some(judgement.epochs) {
            judgement
        } else {
            let brokered = judgement.brokered;
            let mut anew = self.judge(&mut Live::in_transaction(tx.connection()), request, presented).await?;
            if !self.still_fits(tx.connection(), &brokered, request, &anew).await? {
                return Ok(Granted::Stale);
            }
            anew.brokered = brokered;
            anew
        };
        self.grant(tx, request, &judgement).await
    }

    /// The application with this id and secret. Failures count as they do at the token endpoint.
    pub(crate) async fn authenticate_client(
        &self,
        id: &str,
        secret: &str,
        request_id: &str,
    ) -> Result<Application, Denial> {
        let mut request = ExchangeRequest {
            request_id: request_id.to_owned(),
            application_id: id.to_owned(),
            client_secret: Some(secret.to_owned()),
            ..ExchangeRequest::default()
        };
        self.check_lockout(&request).await?;
        let authenticated = {
            let now = self.store().now();
            let mut live = Live::committed(self.store());
            if let Ok(id) = ApplicationId::new(id) {
                let found = live.application(&id, now).await?;
                request.zone_id = found.map(|application| application.zone_id.to_string());
            }
            match self.authenticate(&mut live, &request, now).await {
                Ok(application) => match Zone::find(live.connection().await?, &application.zone_id).await? {
                    Some(_) => Ok(application),
                    None => Err(Denial::unauthenticated()),
                },
                refused => refused,
            }
        };
        match authenticated {
            Ok(application) => Ok(application),
            Err(denial) => self.record_denial(&request, denial).await,
        }
    }

    async fn answer(&self, minted: Minted) -> Result<TokenResponse, Denial> {
        let access_token = self.keys().sign_as_of(&minted.claims, minted.keys).await?;
        caracal_store::metrics::minted(crate::reasons::usage(minted.claims.usage));
        Ok(TokenResponse {
            access_token,
            token_type: "Bearer",
            expires_in: minted.claims.exp.saturating_sub(minted.claims.iat),
            scope: minted.claims.scope,
            issued_token_type: ACCESS_TOKEN,
            target_resources: minted.claims.target,
            upstreams: minted.upstreams,
        })
    }

    /// Writes a denial's events down, counts a failed authentication and uses the gateway's nonce up, all in one write.
    /// What cannot be written down is answered as 503.
    async fn record_denial<T>(&self, request: &ExchangeRequest, mut denial: Denial) -> Result<T, Denial> {
        denial.reason = crate::reasons::reason_of(&denial.events);
        let events = std::mem::take(&mut denial.events);
        let proof = request.gateway.as_ref().map(|call| call.proof.clone());
        let failed_to_authenticate = proof.is_none() && denial.counts_as_failure;
        if events.is_empty() && proof.is_none() && !failed_to_authenticate {
            return Err(denial);
        }
        let request = request.clone();
        let instead = self
            .store()
            .write(move |tx| {
                Box::pin(async move {
                    if let Some(proof) = proof
                        && !proof.spend(tx).await?
                    {
                        return Ok(Some(Denial::unauthenticated()));
                    }
                    for event in &events {
                        tx.audit(event).await?;
                    }
                    if failed_to_authenticate { count_failure(tx, &request).await } else { Ok(None) }
                })
            })
            .await
            .map_err(|error: StoreError| Denial::from(error))?;
        Err(instead.unwrap_or(denial))
    }
}

async fn current_epochs(tx: &mut WriteTx<'_>, judgement: &Judgement) -> Result<Option<Epochs>, StoreError> {
    let zone = Zone::find(tx.connection(), &judgement.application.zone_id).await?;
    Ok(zone.map(|zone| zone.epochs))
}

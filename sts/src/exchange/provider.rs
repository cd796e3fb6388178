//! Where an exchange meets the providers of credentials (contract sts §8 step 26, §12.8, §22).
//!
//! A person's connection is looked at before policy; one that has to be renewed first ends the judgement, and it is made
//! again afterwards. Credentials are fetched between judgement and grant, so that a failed fetch grants nothing and the
//! write waits for nobody.

use super::judge::{GrantedResource, Judgement};
use super::live::Live;
use super::request::ExchangeRequest;
use super::subject::Subject;
use crate::Sts;
use crate::providers::{Brokered, ConnectionRef, CredentialError, Kind, Renewal, Standing, Wanted};
use crate::refusal::Denial;
use crate::upstream::Directive;
use axum::http::StatusCode;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::audit::AuditEvent;
use caracal_store::model::Provider;
use serde_json::json;
use std::collections::BTreeMap;

/// How often an exchange is begun anew because a connection had to be renewed, or credentials changed meanwhile.
pub(super) const ROUNDS: usize = 4;

/// Why a person's connection does not serve: the evaluation status, its reason, and what the caller is told.
#[derive(Debug)]
pub(super) struct Unconnected {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) denial: Denial,
}

fn unconnected(status: &'static str, reason: &'static str, text: &'static str) -> Unconnected {
    Unconnected { status, reason, denial: Denial::forbidden(text) }
}

impl Sts {
    /// The connection that serves the subject at the provider; `None` where the kind needs none.
    pub(super) async fn connected(
        &self,
        live: &mut Live<'_>,
        zone: &ZoneId,
        provider: Option<&Provider>,
        (request, subject): (&ExchangeRequest, Option<&Subject>),
    ) -> Result<Result<Option<ConnectionRef>, Unconnected>, Denial> {
        let Some(provider) = provider.filter(|_| request.gateway.is_some()) else { return Ok(Ok(None)) };
        if !Standing::is_needed(provider) {
            return Ok(Ok(None));
        }
        let connection = live.connection().await?;
        let subject = subject.map(|subject| subject.claims.sub.as_str());
        let unprovided = "credential_not_provisioned";
        Ok(Err(match Standing::of(connection, zone, provider, subject, self.store().now()).await? {
            Standing::Unneeded => return Ok(Ok(None)),
            Standing::Usable(connection) => return Ok(Ok(Some(connection))),
            Standing::Stale(connection) => {
                let renewal = Renewal {
                    zone: zone.clone(),
                    provider: provider.clone(),
                    connection,
                    request_id: request.request_id.clone(),
                };
                return Err(Denial::renew_first(renewal));
            }
            Standing::NoUser => {
                unconnected(unprovided, "no_user_principal", "there is nobody whose connection it could be")
            }
            Standing::Missing => unconnected(
                unprovided,
                "no_provider_connection",
                "the subject has no connection at the resource's provider",
            ),
            Standing::Failed => {
                let code = "credential_expired_not_renewable";
                let text = "the provider connection has expired and was not renewed";
                let denial = Denial::new(StatusCode::FORBIDDEN, code, text);
                Unconnected { status: "credential_refresh_failed", reason: code, denial }
            }
        }))
    }

    /// Makes what a gateway needs of each granted resource ready.
    pub(super) async fn broker(&self, request: &ExchangeRequest, judgement: &Judgement) -> Brokered {
        if request.gateway.is_none() {
            return Brokered::default();
        }
        self.providers().broker(&judgement.application.zone_id, wanted(judgement)).await
    }

    /// Is what was made ready for one judgement also right for the other?
    pub(super) async fn still_fits(
        &self,
        connection: &mut SqlConnection,
        brokered: &Brokered,
        request: &ExchangeRequest,
        judgement: &Judgement,
    ) -> Result<bool, StoreError> {
        if request.gateway.is_none() {
            return Ok(true);
        }
        brokered.still_fit(connection, &judgement.application.zone_id, wanted(judgement)).await
    }
}

/// May a token endpoint have to be asked? What failed at one is not begun anew.
pub(super) fn may_ask_outside(request: &ExchangeRequest, judgement: &Judgement) -> bool {
    let outside = |provider: &Provider| Kind::parse(&provider.kind).is_some_and(Kind::is_fetched);
    request.gateway.is_some()
        && judgement.granted.iter().any(|granted| granted.provider.as_ref().is_some_and(outside))
}

fn wanted(judgement: &Judgement) -> impl Iterator<Item = Wanted<'_>> {
    judgement.granted.iter().map(|granted| Wanted {
        resource: &granted.resource,
        provider: granted.provider.as_ref(),
        connection: granted.connection.as_ref(),
    })
}

/// The directives of the granted resources, by identifier.
pub(super) fn upstreams(
    request: &ExchangeRequest,
    judgement: &Judgement,
    now: i64,
) -> Result<BTreeMap<String, Directive>, Denial> {
    if request.gateway.is_none() {
        return Ok(BTreeMap::new());
    }
    let directives = judgement.granted.iter().map(|granted| {
        let identifier = granted.resource.identifier.to_string();
        if granted.resource.upstream_url.is_none() {
            return Err(Denial::forbidden("resource upstream not configured"));
        }
        match judgement.brokered.directive(&identifier) {
            Ok(directive) => Ok((identifier, directive)),
            Err(CredentialError::Store) => Err(Denial::unavailable()),
            Err(error) => Err(unavailable(request, judgement, granted, &error, now)),
        }
    });
    directives.collect()
}

/// What the caller is told is the cause alone: no host, no answer of the provider.
fn unavailable(
    request: &ExchangeRequest,
    judgement: &Judgement,
    granted: &GrantedResource,
    error: &CredentialError,
    now: i64,
) -> Denial {
    let application = &judgement.application;
    let zone = application.zone_id.as_str();
    let event = AuditEvent::new(zone, "token_exchange", &request.request_id, "deny", now)
        .with_status("provider_credential_unavailable")
        .with_metadata(json!({
            "application_id": application.id.as_str(),
            "application_name": application.name,
            "application_registration_method": application.registration_method.as_str(),
            "resource": granted.resource.identifier.as_str(),
            "provider_id": granted.provider.as_ref().map(|provider| provider.id.as_str()),
            "reason": error.reason(),
        }));
    let text = format!("the provider's credential is not available ({})", error.reason());
    Denial::new(StatusCode::BAD_GATEWAY, "http_request_failed", text).with_event(event)
}

//! The judgement: authentication, subject, binding, then every resource with policy (contract sts §8.10 to §8.22, §12).

use super::approval::{Approval, Asker};
use super::binding::{Bound, Reader};
use super::case::{Case, add, policy_failed};
use super::control::{ControlKey, control_key};
use super::live::Live;
use super::provider::Unconnected;
use super::request::ExchangeRequest;
use super::subject::{Presented, Subject};
use crate::Sts;
use crate::approvals::NewHold;
use crate::policy::ApprovalGate;
use crate::providers::{Brokered, ConnectionRef};
use crate::refusal::Denial;
use caracal_mandate::scope::ScopeSet;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{Application, Epochs, Provider, Resource};
use serde_json::json;
use std::sync::Arc;

/// Everything that a grant needs, as of one moment.
#[derive(Debug, Clone)]
pub(super) struct Judgement {
    pub(super) application: Application,
    pub(super) subject: Option<Subject>,
    pub(super) bound: Bound,
    pub(super) granted: Vec<GrantedResource>,
    pub(super) epochs: Epochs,
    pub(super) events: Vec<AuditEvent>,
    /// The control key that it uses.
    pub(super) control: Option<ControlKey>,
    /// The approval that the request presents.
    pub(super) approval: Approval,
    /// The approval that it still needs.
    pub(super) wanted: Option<NewHold>,
    /// What was made ready for the gateway after it was judged.
    pub(super) brokered: Arc<Brokered>,
}

impl Judgement {
    /// May the presented mandate be used again after this request?
    pub(super) fn multi_use(&self) -> bool {
        self.subject.as_ref().is_some_and(|subject| subject.claims.multi_use)
            && self.granted.iter().all(|granted| granted.resource.multi_use)
    }
}

/// What the resources of a request came to, besides themselves.
#[derive(Default)]
struct Findings {
    events: Vec<AuditEvent>,
    gates: Vec<ApprovalGate>,
}

/// A resource that is granted, with the provider of its credential.
#[derive(Debug, Clone)]
pub(super) struct GrantedResource {
    pub(super) resource: Resource,
    pub(super) provider: Option<Provider>,
    /// The connection that serves the subject there.
    pub(super) connection: Option<ConnectionRef>,
}

/// What one resource came to.
enum Outcome {
    Granted(Box<GrantedResource>),
    /// Refused; the others go on.
    Skipped(Denial),
    /// Refused for want of a connection, which is told before all other refusals.
    Unconnected(Denial),
}

impl Sts {
    /// Judges a request against live state. Nothing is written.
    pub(super) async fn judge(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        presented: &Presented,
    ) -> Result<Judgement, Denial> {
        let now = self.store().now();
        // Before all else: whatever changes after the epochs were read makes the grant judge anew.
        let zone = self.zone_of(live, request, now).await?;
        let application = self.authenticate(live, request, now).await?;
        if request.resources.is_empty() && request.subject_token.is_none() {
            return Err(Denial::malformed("no resource is named"));
        }
        let zone = zone.ok_or_else(Denial::unauthenticated)?;
        check_ttl(request)?;
        let subject = self.subject(live, request, presented, &application, &zone, now).await;
        let subject =
            subject.map_err(|denial| describe(denial, request, &application, "subject_rejected", now))?;
        if request.resources.is_empty() {
            return Err(Denial::malformed("no resource is named"));
        }
        let scopes = ScopeSet::parse(&request.scope).map_err(|error| Denial::malformed(error.to_string()))?;
        let policy = self.policy(live, &zone).await;
        let policy = policy.map_err(|error| {
            tracing::error!(zone = %zone.id, %error, "the zone's policy cannot be used");
            describe(policy_failed(), request, &application, "policy_eval_failed", now)
        });
        let approval = match &policy {
            Ok(policy) => {
                let subject = subject.as_ref();
                Asker { request, application: &application, subject, policy, now }.presented(live).await?
            }
            // Whatever is presented, nothing comes of it: the request fails at its policy.
            Err(_) => Approval::Absent,
        };
        let mut reader = Reader { live: &mut *live, application: &application, now };
        let bound = reader.bind(request, subject.as_ref(), &scopes).await;
        let bound =
            bound.map_err(|denial| describe(denial, request, &application, "binding_rejected", now))?;
        let policy = policy?;
        let case = Case {
            request,
            application: &application,
            subject: subject.as_ref(),
            bound: &bound,
            policy,
            graph_epoch: zone.epochs.graph,
            resolved: !matches!(approval, Approval::Absent),
            control: control_key(request, &application, self.control_audience(), now),
            now,
        };
        let (granted, Findings { events, gates }) = self.resources(live, &case, &scopes).await?;
        let asker = Asker {
            request,
            application: &application,
            subject: subject.as_ref(),
            policy: &case.policy,
            now,
        };
        let wanted = asker.wanted(live, &bound, &gates).await?;
        if subject.is_some() && request.gateway.is_none() {
            let denial = Denial::forbidden("a subject token cannot be exchanged here");
            return Err(describe(denial, request, &application, "exchange_denied", now));
        }
        let control = case.control;
        Ok(Judgement {
            application,
            subject,
            bound,
            granted,
            epochs: zone.epochs,
            events,
            approval,
            wanted,
            control,
            brokered: Arc::default(),
        })
    }

    async fn resources(
        &self,
        live: &mut Live<'_>,
        case: &Case<'_>,
        scopes: &ScopeSet,
    ) -> Result<(Vec<GrantedResource>, Findings), Denial> {
        let mut granted: Vec<GrantedResource> = Vec::new();
        let mut found = Findings::default();
        let mut first_refusal: Option<Denial> = None;
        let mut first_unconnected: Option<Denial> = None;
        for name in &case.request.resources {
            match self.resource(live, case, name, scopes, &mut found).await {
                Ok(Outcome::Granted(resource)) => {
                    // It may be named by its identifier and by its row id.
                    if granted.iter().all(|other| other.resource.id != resource.resource.id) {
                        granted.push(*resource);
                    }
                }
                Ok(Outcome::Skipped(denial)) => first_refusal = first_refusal.or(Some(denial)),
                Ok(Outcome::Unconnected(denial)) => {
                    first_unconnected = first_unconnected.or(Some(denial));
                }
                Err(mut denial) => {
                    found.events.append(&mut denial.events);
                    denial.events = found.events;
                    return Err(denial);
                }
            }
        }
        match first_unconnected.or(first_refusal) {
            Some(mut denial) if granted.is_empty() => {
                denial.events = found.events;
                Err(denial)
            }
            _ => Ok((granted, found)),
        }
    }

    async fn resource(
        &self,
        live: &mut Live<'_>,
        case: &Case<'_>,
        name: &str,
        scopes: &ScopeSet,
        found: &mut Findings,
    ) -> Result<Outcome, Denial> {
        let Findings { events, gates } = found;
        let mut skip = |status: &str, description: &'static str| {
            let mut metadata = case.metadata(name);
            add(&mut metadata, "reason", description.into());
            events.push(case.event("deny").with_status(status).with_metadata(metadata));
            Ok(Outcome::Skipped(Denial::forbidden(description)))
        };
        let resource = live.resource(&case.application.zone_id, name).await?;
        let Some(resource) = resource else { return skip("resource_not_found", "the resource is not known") };
        if !scopes.iter().all(|scope| resource.may_mint(scope.as_str())) {
            return skip("scope_mismatch", "the resource does not declare a requested scope");
        }
        if case.bound.delegation.as_ref().is_some_and(|delegation| !delegation.reaches(&resource)) {
            return skip("resource_outside_delegation", "the resource is outside the delegation");
        }
        if resource.identifier.as_str() == self.control_audience() {
            if case.control.is_some() {
                let mut event = case.event("allow").with_metadata(case.metadata(name));
                event.determining_policies_json = json!([{ "policy": "control-key" }]);
                events.push(event);
                return Ok(granted(resource, None, None));
            }
            let event = case.event("deny").with_status("control_resource_requires_control_key");
            events.push(event.with_metadata(case.metadata(name)));
            return Err(Denial::forbidden("the control resource needs a control key"));
        }
        case.check_operation(&resource)?;
        let provider = match &resource.credential_provider_id {
            None => None,
            Some(id) => match live.provider(&case.application.zone_id, id).await? {
                Some(provider) => Some(provider),
                None => return skip("provider_unavailable", "the resource's provider is not available"),
            },
        };
        let asks = (case.request, case.subject);
        let zone = &case.application.zone_id;
        let own = match self.connected(live, zone, provider.as_ref(), asks).await? {
            Ok(own) => own,
            Err(Unconnected { status, reason, denial }) => {
                let mut metadata = case.metadata(name);
                if let Some(object) = metadata.as_object_mut() {
                    object.insert("reason".into(), reason.into());
                }
                events.push(case.event("deny").with_status(status).with_metadata(metadata));
                return Ok(Outcome::Unconnected(denial));
            }
        };
        case.consult_policy(&resource, events, gates)
            .map(|refused| refused.map_or_else(|| granted(resource, provider, own), Outcome::Skipped))
    }
}

fn granted(resource: Resource, provider: Option<Provider>, connection: Option<ConnectionRef>) -> Outcome {
    Outcome::Granted(Box::new(GrantedResource { resource, provider, connection }))
}

/// An out-of-range time to live is refused before anything is judged (contract sts §17).
fn check_ttl(request: &ExchangeRequest) -> Result<(), Denial> {
    let most = if request.subject_token.is_some() { 900 } else { 3600 };
    if (0..=most).contains(&request.ttl_seconds) {
        Ok(())
    } else {
        Err(Denial::malformed(format!("ttl_seconds has to be between 0 and {most}")))
    }
}

/// Adds the event that tells of a denial which concerns no single resource. What failed for want of the store is no
/// denial.
pub(super) fn describe(
    denial: Denial,
    request: &ExchangeRequest,
    application: &Application,
    status: &str,
    now: i64,
) -> Denial {
    if denial.code == "sts_unavailable" {
        return denial;
    }
    let reason = denial.description.clone().into_owned();
    let metadata = json!({
        "application_id": application.id.as_str(),
        "application_name": application.name,
        "application_registration_method": application.registration_method.as_str(),
        "requested": request.resources,
        "requested_scopes": request.requested_scopes(),
        "reason": reason,
    });
    let event =
        AuditEvent::new(application.zone_id.as_str(), "token_exchange", &request.request_id, "deny", now);
    denial.with_event(event.with_status(status).with_metadata(metadata))
}

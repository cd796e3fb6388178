//! May this workload have this credential? Read from live state; nothing is written (contract sts §23).

use super::Call;
use super::approval::{Approval, Asker};
use super::workload::{Binding, Workload};
use crate::Sts;
use crate::approvals::NewHold;
use crate::bundles::{ActivePolicy, View};
use crate::policy::Decision;
use crate::policy::input::{Action, Context, PolicyInput, Principal, Resource as ResourceInput};
use crate::providers::{CredentialError, Kind, ProviderConfig, SealedSecrets};
use crate::refusal::Denial;
use axum::http::StatusCode;
use caracal_store::SqlConnection;
use caracal_store::audit::AuditEvent;
use caracal_store::model::{Epochs, Provider, Resource, Zone};
use serde_json::{Value, json};
use std::sync::Arc;

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) call: Call,
    pub(super) env: String,
    pub(super) approval_id: Option<String>,
}

/// What a credential is made from. The same again gives the same credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) provider: Provider,
    secrets: SealedSecrets,
}

/// What may be given, as of one moment.
pub(super) struct Judgement {
    pub(super) workload: Workload,
    pub(super) epochs: Epochs,
    pub(super) basis: Basis,
    pub(super) policy: Arc<ActivePolicy>,
    /// The event of what policy said.
    pub(super) event: AuditEvent,
    /// The approval that is presented.
    pub(super) approval: Approval,
    /// The approval that is still needed.
    pub(super) wanted: Option<NewHold>,
}

/// One workload, one variable, one moment.
pub(super) struct Case<'a> {
    pub(super) wish: &'a Wish,
    pub(super) workload: &'a Workload,
    pub(super) binding: &'a Binding,
    pub(super) now: i64,
}

impl Case<'_> {
    pub(super) fn event(&self, decision: &str, status: &str, reason: Option<&str>) -> AuditEvent {
        let mut more = json!({
            "env": self.binding.env,
            "resource": self.binding.resource,
            "requested_scopes": self.binding.scopes,
        });
        if let (Some(reason), Some(object)) = (reason, more.as_object_mut()) {
            object.insert("reason".to_owned(), reason.into());
        }
        self.wish.call.event(self.workload, "token_exchange", decision, more, self.now).with_status(status)
    }

    pub(super) fn refuse(&self, denial: Denial, status: &str, reason: &str) -> Denial {
        denial.with_event(self.event("deny", status, Some(reason)))
    }

    fn not_injectable(&self, reason: &'static str, text: &'static str) -> Denial {
        self.refuse(Denial::forbidden(text), "credential_injection_denied", reason)
    }

    fn input(&self, resource: &Resource, resolved: bool) -> PolicyInput {
        let id = &self.workload.id;
        PolicyInput {
            principal: Principal {
                kind: "Workload".to_owned(),
                id: id.clone(),
                zone_id: self.workload.zone_id.to_string(),
                ..Principal::default()
            },
            resource: ResourceInput {
                id: resource.id.to_string(),
                identifier: resource.identifier.to_string(),
                scopes: resource.scopes.iter().map(ToString::to_string).collect(),
                ..ResourceInput::default()
            },
            action: Action { id: "CredentialInjection".to_owned(), ..Action::default() },
            context: Context {
                actor_claims: [("caracal_client_id".to_owned(), Value::from(id.as_str()))]
                    .into_iter()
                    .collect(),
                trace_id: self.wish.call.request_id.clone(),
                challenge_resolved: resolved,
                requested_scopes: self.binding.scopes.clone(),
                ..Context::default()
            },
            ..PolicyInput::default()
        }
    }
}

impl Sts {
    /// Judges a wish. `view` says whether what the connection reads is committed.
    pub(super) async fn judge_wish(
        &self,
        connection: &mut SqlConnection,
        wish: &Wish,
        view: View,
    ) -> Result<Judgement, Denial> {
        let now = self.store().now();
        let workload = self.still_admitted(connection, &wish.call).await?;
        // Before all else: whatever changes after the epochs were read makes it be judged anew.
        let zone =
            Zone::find(connection, &workload.zone_id).await?.ok_or_else(super::admission::unauthenticated)?;
        caracal_store::trace::zone(&zone.id);
        let bindings: Vec<Binding> = workload.bindings()?;
        let unknown = |text| Denial::new(StatusCode::NOT_FOUND, "resource_not_found", text);
        let binding = bindings.iter().find(|binding| binding.env == wish.env);
        let binding = binding.ok_or_else(|| unknown("the workload fills no such variable"))?;
        let case = Case { wish, workload: &workload, binding, now };
        let resource = Resource::find(connection, &workload.zone_id, &binding.resource).await?;
        let resource = resource.ok_or_else(|| {
            case.refuse(unknown("the resource is not known"), "resource_not_found", "resource_not_found")
        })?;
        let basis = basis(connection, &case, &resource).await?;
        let policy = match self.bundles().at(&zone.id, zone.epochs.policy) {
            Some(policy) => Ok(policy),
            None => self.bundles().load(connection, &zone.id, zone.epochs.policy, view).await,
        };
        let policy = policy.map_err(|error| {
            tracing::error!(zone = %zone.id, %error, "the zone's policy cannot be used");
            case.refuse(policy_failed(), "policy_eval_failed", "policy_unusable")
        })?;
        let asker = Asker { case: &case, policy: &policy };
        let approval = asker.presented(connection).await?;
        let resolved = !matches!(approval, Approval::Absent);
        let input = case.input(&resource, resolved);
        let decision = policy.bundle.evaluate(&input).map_err(|error| {
            let mut event = case.event("deny", "policy_eval_failed", None);
            event.diagnostics_json = json!([{ "error": error.to_string() }]);
            policy_failed().with_event(event)
        })?;
        let gates = if decision.is_allow() && !resolved { decision.approval_gates() } else { Vec::new() };
        let wanted = asker.wanted(&gates)?;
        let event = said(&case, &policy, &decision, &input, wanted.is_some());
        if !decision.is_allow() {
            let reason = decision.reason.unwrap_or_else(|| "policy".to_owned());
            return Err(Denial::forbidden(format!("policy denied ({reason})")).with_event(event));
        }
        Ok(Judgement { epochs: zone.epochs, basis, policy, event, approval, wanted, workload })
    }
}

/// The provider of the resource's credential, if it is one that may be put into an environment.
async fn basis(
    connection: &mut SqlConnection,
    case: &Case<'_>,
    resource: &Resource,
) -> Result<Basis, Denial> {
    let id = resource.credential_provider_id.as_ref();
    let id = id.ok_or_else(|| case.not_injectable("provider_missing", "the resource has no provider"))?;
    let provider = Provider::find(connection, &case.workload.zone_id, id).await?;
    let provider = provider.ok_or_else(|| {
        let denial = Denial::forbidden("the resource's provider is not available");
        case.refuse(denial, "provider_unavailable", "provider_unavailable")
    })?;
    let kind = Kind::parse(&provider.kind);
    let usable = kind.is_some_and(|kind| ProviderConfig::parse(kind, &provider.config).is_ok());
    if !usable {
        return Err(case.not_injectable("provider_config_invalid", "the provider cannot be used"));
    }
    if provider.config.get("allow_runtime_injection") != Some(&Value::Bool(true)) {
        let text = "the provider does not allow its credential to be injected";
        return Err(case.not_injectable("runtime_injection_not_allowed", text));
    }
    match kind {
        Some(Kind::ApiKey | Kind::BearerToken | Kind::ClientCredentials) => {}
        Some(Kind::AuthorizationCode) => {
            let text = "a person's connection is not injected";
            return Err(case.not_injectable("user_connection_not_injectable", text));
        }
        Some(Kind::None | Kind::CaracalMandate | Kind::HttpBasic) | None => {
            let text = "a provider of this kind has no credential to inject";
            return Err(case.not_injectable("provider_kind_not_injectable", text));
        }
    }
    let secrets = SealedSecrets::read(connection, &case.workload.zone_id, &provider.id).await;
    let secrets = secrets.map_err(|_: CredentialError| Denial::unavailable())?;
    Ok(Basis { provider, secrets })
}

fn policy_failed() -> Denial {
    Denial::new(StatusCode::SERVICE_UNAVAILABLE, "policy_eval_failed", "policy could not be evaluated")
}

fn said(
    case: &Case<'_>,
    policy: &ActivePolicy,
    decision: &Decision,
    input: &PolicyInput,
    gated: bool,
) -> AuditEvent {
    let open = decision.is_allow() && !gated;
    let reason = if gated { Some("approval_required") } else { decision.reason.as_deref() };
    let status = if gated { "approval_required" } else { "complete" };
    let mut event = case.event(if open { "allow" } else { "deny" }, status, reason.filter(|_| !open));
    event.policy_set_version_id.clone_from(&policy.policy_set_version_id);
    event.manifest_sha = Some(policy.manifest_sha.clone());
    event.determining_policies_json = decision.determining_policies_json();
    event.diagnostics_json = Value::Array(decision.diagnostics.clone());
    if !open && let Some(object) = event.metadata_json.as_mut().and_then(Value::as_object_mut) {
        // What an operator needs to evaluate it again.
        object.insert("policy_input".to_owned(), input.redacted());
    }
    event
}

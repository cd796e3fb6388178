//! Refusals: one code, one variant, one status (contract coordinator §2.1).

use crate::aliases;
use crate::counters::KeyUse;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use caracal_store::StoreError;
use caracal_store::http::{Refusal as HttpRefusal, TooMany};
use serde_json::Value;
use std::borrow::Cow;

macro_rules! codes {
    ($($variant:ident = $status:literal $word:literal),+ $(,)?) => {
        /// Why a request is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($variant,)+ }

        impl Code {
            /// The `error` member.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            fn status(self) -> StatusCode {
                let status: u16 = match self { $(Self::$variant => $status,)+ };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

codes! {
    ApplicationNotFound = 404 "application_not_found",
    ApplicationOwnershipRequired = 403 "application_ownership_required",
    AgentServiceNotFound = 404 "agent_service_not_found",
    AuthorityRecordRequired = 401 "authority_record_required",
    BodyTooLarge = 413 "body_too_large",
    BroadDelegationPermissionRequired = 403 "broad_delegation_permission_required",
    CoordinatorAdminRequired = 403 "coordinator_admin_required",
    DeadOutboxNotFound = 404 "dead_outbox_not_found",
    DcrApplicationAlreadyBound = 409 "dcr_application_already_bound",
    DcrApplicationCannotBeChild = 409 "dcr_application_cannot_be_child",
    DcrApplicationCannotHostService = 409 "dcr_application_cannot_host_service",
    DcrApplicationCannotStartChild = 409 "dcr_application_cannot_start_child",
    DelegationApplicationMismatch = 409 "delegation_application_mismatch",
    DelegationCycleDenied = 409 "delegation_cycle_denied",
    DelegationEndpointNotFound = 404 "delegation_endpoint_not_found",
    DelegationExceedsParentAuthority = 403 "delegation_exceeds_parent_authority",
    DelegationExpired = 400 "delegation_expired",
    DelegationExpiryRequired = 400 "delegation_expiry_required",
    DelegationNotFound = 404 "delegation_not_found",
    DelegationResourceScopeMismatch = 400 "delegation_resource_scope_mismatch",
    DelegationScopesExceedResource = 403 "delegation_scopes_exceed_resource",
    IdempotencyKeyConflict = 409 "idempotency_key_conflict",
    IdempotencyKeyInvalid = 400 "idempotency_key_invalid",
    IdempotencyKeyMultiple = 400 "idempotency_key_multiple",
    IdempotencyReceiptLimitExceeded = 429 "idempotency_receipt_limit_exceeded",
    IdempotencyResultInactive = 409 "idempotency_result_inactive",
    IdentityRevoked = 401 "identity_revoked",
    InheritParentEdgeAmbiguous = 409 "inherit_parent_edge_ambiguous",
    InheritParentEdgeNotActive = 409 "inherit_parent_edge_not_active",
    InvalidBody = 400 "invalid_body",
    InvalidBroadReason = 400 "invalid_broad_reason",
    InvalidBudget = 400 "invalid_budget",
    InvalidCursor = 400 "invalid_cursor",
    InvalidDelegationConstraint = 400 "invalid_delegation_constraint",
    InvalidExpiresAt = 400 "invalid_expires_at",
    InvalidMaxDepth = 400 "invalid_max_depth",
    InvalidMaxHops = 400 "invalid_max_hops",
    InvalidParams = 400 "invalid_params",
    InvalidPolicyApproved = 400 "invalid_policy_approved",
    InvalidQuery = 400 "invalid_query",
    InvalidResources = 400 "invalid_resources",
    InvalidSubjectProof = 401 "invalid_subject_proof",
    InvalidToken = 401 "invalid_token",
    InvalidTtlSeconds = 400 "invalid_ttl_seconds",
    InvocationNotCancelable = 409 "invocation_not_cancelable",
    InvocationNotCompletable = 409 "invocation_not_completable",
    InvocationNotFound = 404 "invocation_not_found",
    InvocationNotStartable = 409 "invocation_not_startable",
    InvokerOwnershipRequired = 403 "invoker_ownership_required",
    IssuerOwnershipRequired = 403 "issuer_ownership_required",
    LeaseGenerationRequired = 400 "lease_generation_required",
    MethodNotAllowed = 405 "method_not_allowed",
    MissingScope = 403 "missing_scope",
    MissingToken = 401 "missing_token",
    NotFound = 404 "not_found",
    OperatorTokenRequired = 403 "operator_token_required",
    ParentDelegationAmbiguous = 409 "parent_delegation_ambiguous",
    ParentDelegationNotActive = 403 "parent_delegation_not_active",
    ParentNotFound = 404 "parent_not_found",
    ParentOwnershipRequired = 403 "parent_ownership_required",
    RateLimited = 429 "rate_limited",
    ResourceNotFound = 404 "resource_not_found",
    SelfDelegationDenied = 400 "self_delegation_denied",
    SessionAncestorNotActive = 409 "session_ancestor_not_active",
    SessionChildrenLimitExceeded = 429 "session_children_limit_exceeded",
    SessionDepthLimitExceeded = 429 "session_depth_limit_exceeded",
    SessionLeaseExpired = 409 "session_lease_expired",
    SessionLeaseFenced = 409 "session_lease_fenced",
    SessionLimitExceeded = 429 "session_limit_exceeded",
    SessionNotFound = 404 "session_not_found",
    SessionNotFoundOrNotActive = 409 "session_not_found_or_not_active",
    SessionNotFoundOrNotSuspended = 409 "session_not_found_or_not_suspended",
    SessionNotLive = 409 "session_not_live",
    SessionNotService = 409 "session_not_service",
    SessionSubjectInactive = 409 "session_subject_inactive",
    SessionSuspended = 409 "session_suspended",
    SessionZoneLimitExceeded = 429 "session_zone_limit_exceeded",
    SubjectProofApplicationMismatch = 403 "subject_proof_application_mismatch",
    SubjectProofMismatch = 400 "subject_proof_mismatch",
    SubjectProofRequired = 401 "subject_proof_required",
    SubjectSessionIdRequired = 400 "subject_session_id_required",
    TaskSessionCannotStartService = 409 "task_session_cannot_start_service",
    ZoneMismatch = 403 "zone_mismatch",
}

/// A refused request: the code, a text for people, and the members that only some refusals have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) code: Code,
    why: Cow<'static, str>,
    details: Option<Box<Value>>,
}

/// Why a request is not answered with what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request is refused.
    #[error("{}: {}", .0.code.as_str(), .0.why)]
    Refused(Refusal),
    /// The store did not do its part; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::because(code, "")
    }
}

impl Failure {
    /// A refusal with a text for people.
    pub(crate) fn because(code: Code, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(Refusal { code, why: why.into(), details: None })
    }

    /// A body that does not follow its schema.
    pub(crate) fn body(why: impl Into<Cow<'static, str>>, issues: Vec<Value>) -> Self {
        let details = serde_json::json!({ "issues": issues });
        Self::Refused(Refusal { code: Code::InvalidBody, why: why.into(), details: Some(Box::new(details)) })
    }
}

/// The failure of a response, for [`render`].
#[derive(Clone)]
struct Pending(Refusal);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(refusal) => {
                let mut response = refusal.code.status().into_response();
                response.extensions_mut().insert(Pending(refusal));
                response
            }
            Self::Store(error) => {
                tracing::error!(%error, "the store failed");
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        }
    }
}

/// What a refusal tells of an idempotency key.
pub(crate) fn key_use(response: &Response) -> Option<KeyUse> {
    match response.extensions().get::<Pending>()?.0.code {
        Code::IdempotencyKeyConflict => Some(KeyUse::Conflicts),
        Code::IdempotencyKeyInvalid | Code::IdempotencyKeyMultiple => Some(KeyUse::Invalid),
        _ => None,
    }
}

/// Gives a failed response its body, which names the request in both spellings that clients read.
pub(crate) fn render(response: Response, request_id: &str) -> Response {
    let refusal = response.extensions().get::<Pending>().cloned();
    let body = match refusal {
        Some(Pending(refusal)) => {
            let code = refusal.code;
            let mut body = HttpRefusal::new(code.status(), code.as_str());
            if code == Code::RateLimited {
                body = body.retry_after(TooMany::at(caracal_store::clock::now()).retry_after);
            }
            if let Some(details) = refusal.details {
                body = body.with("details", *details);
            }
            if let Some(former) = aliases::former_code(code) {
                body = body.with("former_error", former);
            }
            let why = refusal.why;
            if !why.is_empty() {
                let member = if code.as_str().starts_with("idempotency_") { "message" } else { "detail" };
                body = body.with(member, why.as_ref()).because(why);
            }
            body
        }
        None if response.status() == StatusCode::SERVICE_UNAVAILABLE
            && response.headers().get(axum::http::header::CONTENT_TYPE).is_none() =>
        {
            HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "coordinator_unavailable")
                .because("state is not available; nothing was changed")
        }
        None => return response,
    };
    body.of_request(request_id).with("request_id", request_id).into_response()
}

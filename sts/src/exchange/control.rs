//! Control keys: applications that may mint for the control plane, by their traits alone (contract sts §13).

use super::request::ExchangeRequest;
use caracal_store::clock;
use caracal_store::model::Application;

/// The trait of every control key.
const INVOKE: &str = "control:invoke";
/// How every scope of the control plane begins.
const SCOPE: &str = "control:";

/// A control key that may be used for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ControlKey {
    /// The longest mandate, seconds.
    pub(super) max_ttl: Option<i64>,
}

/// Does the request ask for the control plane, for control scopes, and act for nobody else? Only such a request may leave
/// its zone out.
pub(super) fn is_control_request(request: &ExchangeRequest, audience: &str) -> bool {
    let scopes = request.requested_scopes();
    request.gateway.is_none()
        && request.subject_token.is_none()
        && request.session_id.is_none()
        && request.agent_session_id.is_none()
        && request.delegation_edge_id.is_none()
        && !request.resources.is_empty()
        && request.resources.iter().all(|resource| resource == audience)
        && !scopes.is_empty()
        && scopes.iter().all(|scope| scope.starts_with(SCOPE))
}

/// May the application be a control key at all?
pub(super) fn may_invoke(application: &Application) -> bool {
    application.traits.iter().any(|name| name == INVOKE)
}

/// The control key that this request uses, if its application has one for every scope that it asks for.
pub(super) fn control_key(
    request: &ExchangeRequest,
    application: &Application,
    audience: &str,
    now: i64,
) -> Option<ControlKey> {
    if !is_control_request(request, audience) || !may_invoke(application) {
        return None;
    }
    let values =
        |prefix: &'static str| application.traits.iter().filter_map(move |name| name.strip_prefix(prefix));
    // An end that cannot be read has passed.
    if values("control:expires:").any(|end| clock::parse_iso(end).is_none_or(|end| now >= end)) {
        return None;
    }
    let granted = |scope: &String| values("control:scope:").any(|allowed| allowed == scope);
    if !request.requested_scopes().iter().all(granted) {
        return None;
    }
    let seconds = |text: &str| text.parse::<i64>().ok().filter(|seconds| *seconds > 0);
    Some(ControlKey { max_ttl: values("control:max-ttl:").find_map(seconds) })
}

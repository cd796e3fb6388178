//! Old names, where the contract says that they changed (contract coordinator §24 row 9, §25, §26).
//!
//! All of them stand here. `docs/coordinator.md` tells callers of them.

use crate::failure::Code;

/// What a code was called before. A refusal says it in `former_error`, beside `error`.
pub(crate) fn former_code(code: Code) -> Option<&'static str> {
    match code {
        Code::DcrApplicationCannotStartChild => Some("dcr_application_cannot_spawn"),
        Code::TaskSessionCannotStartService => Some("task_agent_cannot_spawn_service"),
        _ => None,
    }
}

/// Routes of a short-lived version, and what does the same now.
const FORMER_ROUTES: [(&str, &str); 6] = [
    ("/v1/begin", "POST /zones/{zone}/agents"),
    ("/v1/delegate-to-existing-agent", "POST /zones/{zone}/delegations"),
    ("/v1/end", "DELETE /zones/{zone}/agents/{session}"),
    ("/v1/exchange", "POST /oauth/2/token of the STS"),
    ("/v1/revoke-delegation", "PATCH /zones/{zone}/delegations/{edge}/revoke"),
    ("/v1/spawn-child", "POST /zones/{zone}/agents with parent_id"),
];

/// What is asked instead of a route that was.
pub(crate) fn successor(path: &str) -> Option<&'static str> {
    FORMER_ROUTES.iter().find(|(former, _)| *former == path).map(|(_, now)| *now)
}

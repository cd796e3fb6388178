# The platform decision contract: the only rules that decide an exchange.
#
# One evaluation joins this module with the zone's data documents (`app_ids`, `grants`,
# `confinement`, `restrict`, `risk`, `approval_tiers`) and one input document, and reads `result`.
# Documents can name who owns a resource and which role holds which scope, and can narrow; nothing
# in them can emit a decision. What no rule allows is denied.
#
# Everything that leads to an allow is stated positively: a condition has to be shown, never merely
# not refuted, and a subset test is a set difference that comes out empty. Where an evaluation
# step fails, or a collection is absent or ill-typed, the condition is then not met.
package caracal.authz

import rego.v1

# ---------------------------------------------------------------------------
# Data documents, with what a missing one means
# ---------------------------------------------------------------------------

default bindings_document := {}

bindings_document := data.caracal.authz.app_ids

default grants_document := {}

grants_document := data.caracal.authz.grants

default confinement_document := []

confinement_document := data.caracal.authz.confinement

default restrict_document := []

restrict_document := data.caracal.authz.restrict

default risk_document := []

risk_document := data.caracal.authz.risk

default tiers_document := []

tiers_document := data.caracal.authz.approval_tiers

is_collection(value) if is_array(value)

is_collection(value) if is_set(value)

is_collection(value) if is_object(value)

# ---------------------------------------------------------------------------
# What the request carries
# ---------------------------------------------------------------------------

lifecycle_scope := "agent:lifecycle"

requested_scopes := {scope | some scope in input.context.requested_scopes}

principal_labels := {label | some label in input.principal.labels}

without_subject_claims if object.get(input.context, "subject_claims", null) == null

without_agent_session if object.get(input.context, "agent_session_id", null) == null

without_delegation_edge if object.get(input, "delegation_edge", null) == null

carried_scopes := {scope |
	text := input.context.subject_claims.scope
	is_string(text)
	some scope in split(text, " ")
	scope != ""
}

# ---------------------------------------------------------------------------
# Request shapes
# ---------------------------------------------------------------------------

# An application asks for its own lifecycle authority and for nothing else.
bootstrap_shape if {
	requested_scopes == {lifecycle_scope}
	without_subject_claims
	without_delegation_edge
	without_agent_session
}

# An agent session asks for business scopes under a delegation edge.
mint_shape if {
	is_string(input.delegation_edge.id)
	input.delegation_edge.id != ""
	is_string(input.context.agent_session_id)
	without_subject_claims
	count(requested_scopes) > 0
	count(requested_scopes & {lifecycle_scope}) == 0
}

# A workload has a stored credential binding injected.
workload_shape if {
	input.principal.type == "Workload"
	input.action.id == "CredentialInjection"
	without_subject_claims
	without_delegation_edge
	without_agent_session
}

# A mandate that was minted under a delegation edge is presented for use.
presented_shape if {
	is_string(input.context.subject_claims.delegation_edge_id)
	input.context.subject_claims.delegation_edge_id != ""
	count(requested_scopes) == 0
	count(carried_scopes) > 0
}

# ---------------------------------------------------------------------------
# Ownership, narrowing and roles
# ---------------------------------------------------------------------------

grant := grants_document[input.resource.identifier]

# A grant names a binding key, and the binding key leads to the application.
owns_resource if {
	is_string(grant.application)
	is_object(bindings_document)
	input.principal.id != ""
	bindings_document[grant.application] == input.principal.id
}

within_edge if count(requested_scopes - {scope | some scope in input.delegation_edge.scopes}) == 0

# One label has to carry the whole set: roles are never added up.
role_covers(label, scopes) if {
	held := grant.roles[label]
	is_collection(held)
	count(scopes - {scope | some scope in held}) == 0
}

role_allows_requested if {
	some label in principal_labels
	role_covers(label, requested_scopes)
}

role_allows_carried if {
	some label in principal_labels
	role_covers(label, carried_scopes)
}

target_matches if {
	is_array(input.context.subject_claims.target)
	input.resource.identifier in input.context.subject_claims.target
}

# ---------------------------------------------------------------------------
# Confinement and the zone freeze
# ---------------------------------------------------------------------------

confinement_holds if {
	is_collection(confinement_document)
	held := [entry | some entry in confinement_document; confinement_entry_holds(entry)]
	count(held) == count(confinement_document)
}

# An entry without a usable prefix does not say whom it confines, so it holds for nobody.
confinement_entry_holds(entry) if {
	is_object(entry)
	is_string(entry.label_prefix)
	count({label | some label in principal_labels; startswith(label, entry.label_prefix)}) == 0
}

confinement_entry_holds(entry) if {
	is_object(entry)
	is_string(entry.label_prefix)
	is_collection(entry.scopes)
	count(requested_scopes - {scope | some scope in entry.scopes}) == 0
}

zone_open if {
	is_collection(restrict_document)
	count(restrict_document) == 0
}

# ---------------------------------------------------------------------------
# Risk classification and approval tiers
# ---------------------------------------------------------------------------

risk_sound if {
	is_array(risk_document)
	count([entry | some entry in risk_document; risk_entry_sound(entry)]) == count(risk_document)
}

risk_entry_sound(entry) if {
	is_object(entry)
	is_string(entry.scope)
	entry.scope != ""
	is_string(entry.tier)
	entry.tier != ""
}

tiers_sound if {
	is_array(tiers_document)
	count([entry | some entry in tiers_document; tier_entry_sound(entry)]) == count(tiers_document)
}

tier_entry_sound(entry) if {
	is_object(entry)
	is_string(entry.tier)
	entry.tier != ""
	object.get(entry, "approver", "operator") in {"operator", "subject", "any"}
	object.get(entry, "privacy", "identified") in {"identified", "pseudonymous", "anonymous"}
	seconds := object.get(entry, "ttl_seconds", 1800)
	is_number(seconds)
	seconds > 0
	floor(seconds) == seconds
}

# Requested scope -> the tiers that the risk document gives it.
scope_tiers := {scope: tiers |
	some scope in requested_scopes
	tiers := {entry.tier | some entry in risk_document; entry.scope == scope}
	count(tiers) > 0
}

scopes_with_conflicting_tiers := {scope |
	some scope, tiers in scope_tiers
	count(tiers) > 1
}

matched_gates := {entry |
	some entry in tiers_document
	some tiers in scope_tiers
	entry.tier in tiers
}

classified_scopes := [{"scope": scope, "tier": tier} |
	some scope in sort(input.context.requested_scopes)
	some tier in scope_tiers[scope]
]

gate_diagnostics := [] if count(matched_gates) == 0

gate_diagnostics := [{"step_up_required": {"type": "human_approval", "tiers": [gate | some gate in matched_gates]}}] if {
	count(matched_gates) > 0
}

risk_diagnostics := [] if count(classified_scopes) == 0

risk_diagnostics := [{"risk": classified_scopes}] if count(classified_scopes) > 0

# ---------------------------------------------------------------------------
# Allow rules
# ---------------------------------------------------------------------------

bootstrap_allowed if {
	bootstrap_shape
	zone_open
	owns_resource
}

delegated_mint_allowed if {
	mint_shape
	zone_open
	risk_sound
	tiers_sound
	owns_resource
	within_edge
	confinement_holds
	role_allows_requested
}

workload_mint_allowed if {
	workload_shape
	zone_open
	risk_sound
	tiers_sound
}

use_allowed if {
	presented_shape
	zone_open
	target_matches
	owns_resource
	role_allows_carried
}

allowing_policies contains "caracal-bootstrap" if bootstrap_allowed

allowing_policies contains concat("", ["caracal-", grant.application, "-mint"]) if delegated_mint_allowed

allowing_policies contains "caracal-workload-mint" if workload_mint_allowed

allowing_policies contains concat("", ["caracal-", grant.application, "-use"]) if use_allowed

mint_allowed if delegated_mint_allowed

mint_allowed if workload_mint_allowed

allow_diagnostics := array.concat(gate_diagnostics, risk_diagnostics) if {
	mint_allowed
	count(scopes_with_conflicting_tiers) == 0
}

allow_diagnostics := [] if bootstrap_allowed

allow_diagnostics := [] if use_allowed

# ---------------------------------------------------------------------------
# The reason for a denial: the first that applies to the shape
# ---------------------------------------------------------------------------

deny_reason := "restriction_active" if {
	not zone_open
} else := mint_deny_reason if {
	mint_shape
} else := workload_deny_reason if {
	workload_shape
} else := presented_deny_reason if {
	presented_shape
} else := "no_rule_matched"

workload_deny_reason := "malformed_risk_data" if {
	not risk_sound
} else := "malformed_approval_data" if {
	not tiers_sound
}

mint_deny_reason := "malformed_risk_data" if {
	not risk_sound
} else := "malformed_approval_data" if {
	not tiers_sound
} else := "resource_not_granted" if {
	not owns_resource
} else := "delegation_scope_exceeded" if {
	not within_edge
} else := "confinement_violation" if {
	not confinement_holds
} else := "role_scope_mismatch" if {
	not role_allows_requested
}

presented_deny_reason := "mandate_target_mismatch" if {
	not target_matches
} else := "resource_not_granted" if {
	not owns_resource
} else := "role_scope_mismatch" if {
	not role_allows_carried
}

# ---------------------------------------------------------------------------
# The result document
# ---------------------------------------------------------------------------

# A status other than `complete` is an evaluation error, neither an allow nor a deny: two rules
# that claim one request, or a requested scope that the risk document puts in two tiers.
result := {
	"decision": "deny",
	"evaluation_status": "conflict",
	"determining_policies": [],
	"diagnostics": [{"reason": "conflicting_rules"}],
} if {
	count(allowing_policies) > 1
} else := {
	"decision": "deny",
	"evaluation_status": "conflict",
	"determining_policies": [],
	"diagnostics": [{"reason": "conflicting_risk_data"}],
} if {
	mint_allowed
	count(scopes_with_conflicting_tiers) > 0
} else := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": [{"policy": policy} | some policy in allowing_policies],
	"diagnostics": allow_diagnostics,
} if {
	count(allowing_policies) == 1
} else := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [{"reason": deny_reason}],
}

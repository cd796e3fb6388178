//! The shapes of what the Admin API answers.

use caracal_store::openapi::schema::{
    any, either, exactly, extended, flag, id, list, maybe, named, number, object, one_of, open_object,
    problem, text, time, without,
};
use serde_json::{Value, json};

/// An object that tells who made it and who changed it last (contract admin-audit §3.3).
fn authored(members: &[(&str, Value)]) -> Value {
    extended(
        &object(members),
        &[
            ("created_by", maybe(text())),
            ("created_via_operator", flag()),
            ("updated_by", maybe(text())),
            ("updated_via_operator", flag()),
            ("created_at", time()),
            ("updated_at", time()),
        ],
    )
}

/// All of them, by name.
pub(super) fn components() -> Vec<(&'static str, Value)> {
    let mut all = vec![("Problem", problem())];
    all.extend(of_configuration());
    all.extend(of_connections());
    all.extend(of_administration());
    all.extend(of_notifications());
    all.extend(of_policy());
    all.extend(of_runtime());
    all.extend(of_evidence());
    all
}

fn of_configuration() -> Vec<(&'static str, Value)> {
    let zone = authored(&[
        ("id", id()),
        ("name", text()),
        ("slug", text()),
        ("dcr_enabled", flag()),
        ("operator_coauthor_badge", flag()),
        ("operator_governed", flag()),
    ]);
    let application = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("registration_method", one_of(&["managed", "dcr"])),
        ("expires_at", maybe(time())),
        ("archived_at", maybe(time())),
        // For tokens of all zones only.
        ("traits?", list(text())),
    ]);
    let with_secret = extended(&application, &[("client_secret", text())]);
    let provider = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("identifier", text()),
        ("kind", text()),
        ("config_json", json!({ "type": "object" })),
        ("secret_config_keys", list(text())),
        ("connectivity_failed_at", maybe(time())),
        ("archived_at", maybe(time())),
        ("check?", named("ProviderCheck")),
    ]);
    let discovered = object(&[
        ("issuer", text()),
        ("token_endpoint", text()),
        ("authorization_endpoint?", text()),
        ("revocation_endpoint?", text()),
        ("scopes_supported?", list(text())),
        ("token_endpoint_auth_methods_supported?", list(text())),
    ]);
    let resource = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("identifier", text()),
        ("upstream_url", maybe(text())),
        ("scopes", list(text())),
        ("credential_provider_id", id()),
        ("operations", list(named("ResourceOperation"))),
        ("operation_enforcement", one_of(&["enforced", "transport_uniform"])),
        ("mandate_use", one_of(&["single", "multi"])),
        ("mcp", maybe(named("ResourceMcp"))),
        ("archived_at", maybe(time())),
    ]);
    let operation = object(&[
        ("method", text()),
        ("path", text()),
        ("scope", text()),
        ("match?", one_of(&["exact", "template", "prefix"])),
    ]);
    let overview = object(&[
        ("zone_id", id()),
        ("generated_at", time()),
        ("applications", object(&[("total", number()), ("expired", number()), ("expiring_soon", number())])),
        ("resources", object(&[("total", number()), ("unenforced", number())])),
        ("providers", object(&[("total", number())])),
        (
            "policy_sets",
            object(&[("total", number()), ("enforcing", number()), ("active_name", maybe(text()))]),
        ),
        ("sessions", object(&[("active", number())])),
        ("decisions_24h", object(&[("allowed", number()), ("denied", number())])),
        ("recent_events", list(open_object(&[("id", id()), ("occurred_at", time())]))),
    ]);
    vec![
        ("Zone", zone),
        ("ZoneOverview", overview),
        ("Application", application),
        ("ApplicationWithSecret", with_secret),
        ("Provider", provider),
        ("ProviderCheck", object(&[("status", text()), ("detail", text()), ("checked_at", time())])),
        ("DiscoveredProvider", discovered),
        ("Resource", resource),
        ("ResourceOperation", operation),
        ("ResourceMcp", super::mcp()),
    ]
}

fn of_connections() -> Vec<(&'static str, Value)> {
    let connection = object(&[
        ("id", id()),
        ("zone_id", id()),
        ("subject_id", text()),
        ("provider_id", id()),
        ("status", one_of(&["active", "expired", "revoked"])),
        ("expires_at", maybe(time())),
        ("refreshed_at", maybe(time())),
        ("renewable", flag()),
        ("created_at", time()),
        ("updated_at", time()),
    ]);
    let revoked = extended(&connection, &[("upstream_revocation", text())]);
    let imported = without(&connection, &["refreshed_at", "renewable"]);
    vec![
        ("ProviderConnection", connection),
        ("ImportedProviderConnection", imported),
        ("RevokedProviderConnection", revoked),
    ]
}

fn of_administration() -> Vec<(&'static str, Value)> {
    let token = object(&[
        ("id", id()),
        ("name", text()),
        ("scope", one_of(&["global", "zone"])),
        ("capability", one_of(&["admin", "approve", "read", "write"])),
        ("zone_id", maybe(id())),
        ("created_by", text()),
        ("created_at", time()),
        ("last_used_at", maybe(time())),
        ("revoked_at", maybe(time())),
    ]);
    let new_token = extended(&without(&token, &["last_used_at", "revoked_at"]), &[("token", text())]);
    let setting = |value, ceiling| {
        object(&[
            (value, number()),
            (ceiling, number()),
            ("updated_by", maybe(text())),
            ("updated_at", maybe(time())),
        ])
    };
    let finding = object(&[
        ("chain", one_of(&["changes", "events"])),
        ("zone_id", maybe(text())),
        ("chain_seq", text()),
        ("id", text()),
        ("fault", one_of(&["base", "content", "gap", "hmac", "link", "truncated"])),
        ("found_at", time()),
    ]);
    let integrity = object(&[
        ("status", one_of(&["intact", "tampered", "unchecked"])),
        ("chains", number()),
        ("rows", number()),
        ("checked_at", maybe(time())),
        ("open_findings", number()),
        ("findings", list(finding)),
    ]);
    let workload = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("bindings", list(named("WorkloadBinding"))),
    ]);
    let binding = object(&[
        ("env", text()),
        ("resource", text()),
        ("scopes?", list(text())),
        ("optional?", flag()),
        ("on_failure?", one_of(&["error", "warn"])),
    ]);
    let with_secret = extended(&workload, &[("secret", text())]);
    let grant = without(
        &authored(&[
            ("id", id()),
            ("zone_id", id()),
            ("application_id", id()),
            ("user_id", text()),
            ("resource_id", id()),
            ("provider_id", id()),
            ("scopes", list(text())),
            ("status", one_of(&["active", "revoked"])),
        ]),
        &["updated_at"],
    );
    let with_names = extended(
        &grant,
        &[
            ("application_name", text()),
            ("resource_name", text()),
            ("provider_name", text()),
            ("provider_kind", text()),
        ],
    );
    let issuer = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("issuer", text()),
        ("jwks_url", text()),
        ("audience", text()),
    ]);
    vec![
        ("AdminToken", token),
        ("NewAdminToken", new_token),
        ("AuditRetention", setting("retention_days", "max_days")),
        ("MintRateLimit", setting("limit_per_minute", "max_per_minute")),
        ("AuditIntegrity", integrity),
        ("Workload", workload),
        ("WorkloadBinding", binding),
        ("WorkloadWithSecret", with_secret),
        ("Grant", grant),
        ("GrantWithNames", with_names),
        ("SubjectIssuer", issuer),
    ]
}

fn of_notifications() -> Vec<(&'static str, Value)> {
    let sink = object(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("url", text()),
        ("event_types", list(text())),
        ("active", flag()),
        ("consecutive_failures", number()),
        ("last_success_at", maybe(time())),
        ("last_failure_at", maybe(time())),
        ("last_error", maybe(text())),
        ("created_at", time()),
        ("updated_at", time()),
    ]);
    let with_secret = extended(&sink, &[("secret", text())]);
    let delivery = object(&[
        ("id", id()),
        ("sink_id", id()),
        ("event_id", text()),
        ("event_type", text()),
        ("attempts", number()),
        ("available_at", time()),
        ("delivered_at", maybe(time())),
        ("abandoned_at", maybe(time())),
        ("response_status", maybe(number())),
        ("last_error", maybe(text())),
        ("created_at", time()),
    ]);
    vec![
        ("NotificationSink", sink),
        ("NotificationSinkWithSecret", with_secret),
        ("NotificationDelivery", delivery),
    ]
}

fn of_policy() -> Vec<(&'static str, Value)> {
    let policy =
        authored(&[("id", id()), ("zone_id", id()), ("name", text()), ("description", maybe(text()))]);
    let with_versions = extended(&policy, &[("versions", list(named("PolicyVersion")))]);
    let fresh = object(&[
        ("id", id()),
        ("policy_id", id()),
        ("version", number()),
        ("content_sha256", text()),
        ("schema_version", text()),
        ("created_at", time()),
    ]);
    let version = extended(
        &fresh,
        &[("content", text()), ("created_by", maybe(text())), ("created_via_operator", flag())],
    );
    let set = authored(&[
        ("id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("description", maybe(text())),
        ("active_version_id", maybe(id())),
    ]);
    let set_version = object(&[
        ("id", id()),
        ("policy_set_id", id()),
        ("version", number()),
        ("manifest_sha256", text()),
        ("schema_version", text()),
        ("created_by", maybe(text())),
        ("created_via_operator", flag()),
        ("created_at", time()),
    ]);
    let new_set_version =
        extended(&without(&set_version, &["created_by", "created_via_operator"]), &[("version_id", id())]);
    let with_manifest = extended(
        &set_version,
        &[("manifest_json", list(object(&[("policy_version_id", id())]))), ("policies", list(id()))],
    );
    let created = object(&[
        ("id", id()),
        ("version_id", id()),
        ("zone_id", id()),
        ("name", text()),
        ("description", maybe(text())),
        ("version", fresh.clone()),
    ]);
    vec![
        ("Policy", policy),
        ("PolicyWithVersions", with_versions),
        ("PolicyVersion", version),
        ("NewPolicy", created),
        ("NewPolicyVersion", extended(&fresh, &[("version_id", id())])),
        ("PolicySet", set),
        ("PolicySetVersion", set_version),
        ("NewPolicySetVersion", new_set_version),
        ("PolicySetVersionWithManifest", with_manifest),
        ("ActivationStatus", activation()),
    ]
}

fn activation() -> Value {
    let outbox = object(&[
        ("id", maybe(text())),
        ("state", one_of(&["dispatched", "missing", "mismatch"])),
        ("attempts", number()),
        ("last_error", exactly(Value::Null)),
        ("dispatched_at", maybe(time())),
    ]);
    let propagation = one_of(&["waiting_for_activation", "waiting_for_outbox", "failed", "loaded"]);
    object(&[
        ("zone_id", id()),
        ("policy_set_id", id()),
        ("version_id", id()),
        ("active", flag()),
        ("active_version_id", maybe(id())),
        ("manifest_sha256", text()),
        ("propagation_status", propagation),
        ("outbox", outbox),
        ("sts", open_object(&[("state", one_of(&["loaded", "not_loaded"])), ("loaded", flag())])),
    ])
}

fn of_runtime() -> Vec<(&'static str, Value)> {
    let session = object(&[
        ("session_id", id()),
        ("application_id", id()),
        ("parent_session_id", maybe(id())),
        ("status", one_of(&["active", "suspended", "terminated", "expired"])),
        ("lifecycle", one_of(&["task", "service"])),
        ("labels", list(text())),
        ("depth", number()),
        ("child_count", number()),
        ("subject_authority_record_id", id()),
        ("subject_id", text()),
        ("federated_user_id", maybe(text())),
        ("federated_user_issuer", any()),
        ("started_at", time()),
        ("last_active_at", time()),
        ("terminated_at", maybe(time())),
        ("termination_reason", maybe(text())),
        ("ttl_seconds", maybe(number())),
    ]);
    let record = object(&[
        ("authority_record_id", id()),
        ("zone_id", id()),
        ("authority_record_type", one_of(&["user", "application"])),
        ("subject_id", text()),
        ("federated_user_issuer", any()),
        ("parent_authority_record_id", maybe(id())),
        ("status", one_of(&["active", "revoked", "expired"])),
        ("expires_at", time()),
        ("authenticated_at", time()),
        ("created_at", time()),
        ("revoked_at", maybe(time())),
        ("revoked_reason", maybe(text())),
    ]);
    let subject = object(&[
        ("subject_id", text()),
        ("federated", flag()),
        ("application_name", maybe(text())),
        ("total_sessions", number()),
        ("active_sessions", number()),
        ("revoked_sessions", number()),
        ("first_seen", time()),
        ("last_seen", time()),
        ("last_revoked_at", maybe(time())),
        ("issuer", any()),
    ]);
    vec![
        ("Session", session),
        ("AuthorityRecord", record),
        ("Subject", subject),
        ("Selector", selector()),
        ("RevocationCounts", counts()),
        ("Revocation", revocation()),
    ]
}

fn selector() -> Value {
    let by = |kind: &str, member: &str, value: Value| object(&[("by", exactly(kind)), (member, value)]);
    let of_ids = ["session", "subtree", "edge", "authority_record", "application"];
    let mut shapes: Vec<Value> = of_ids.iter().map(|kind| by(kind, "id", id())).collect();
    shapes.extend(["subject", "resource"].map(|kind| by(kind, "id", text())));
    shapes.push(by("label", "label", text()));
    shapes.push(by(
        "age",
        "older_than_seconds",
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
    ));
    either(&shapes)
}

fn counts() -> Value {
    object(&[("sessions", number()), ("delegations", number()), ("authority_records", number())])
}

fn revocation() -> Value {
    let gateway =
        object(&[("id", text()), ("live", flag()), ("acknowledged", flag()), ("last_seen_at", time())]);
    object(&[
        ("id", id()),
        ("zone_id", id()),
        ("selector", named("Selector")),
        ("reason", text()),
        ("requested_by", text()),
        ("counts", named("RevocationCounts")),
        ("status", text()),
        ("generation", text()),
        ("committed_at", time()),
        ("closed_at", maybe(time())),
        ("time_to_closure_ms", maybe(number())),
        ("gateways", list(gateway)),
    ])
}

fn of_evidence() -> Vec<(&'static str, Value)> {
    let event = object(&[
        ("id", id()),
        ("zone_id", text()),
        ("event_type", text()),
        ("request_id", text()),
        ("decision", text()),
        ("policy_set_id", exactly(Value::Null)),
        ("policy_set_version_id", maybe(text())),
        ("manifest_sha", maybe(text())),
        ("evaluation_status", text()),
        ("determining_policies_json", any()),
        ("diagnostics_json", any()),
        ("metadata_json", any()),
        ("occurred_at", time()),
        ("ingested_at", time()),
        ("chain_seq", text()),
        ("content_sha256", text()),
    ]);
    let change = object(&[
        ("id", id()),
        ("request_id", text()),
        ("actor_id", text()),
        ("actor_name", text()),
        ("actor_scope", one_of(&["global", "zone"])),
        ("action", text()),
        ("method", text()),
        ("path", text()),
        ("entity_type", maybe(text())),
        ("entity_id", maybe(text())),
        ("status_code", number()),
        ("payload_json", any()),
        ("occurred_at", time()),
        ("chain_seq", text()),
        ("signed", flag()),
    ]);
    let states = ["consumed", "rejected", "expired", "approved", "pending"];
    let approval = object(&[
        ("id", id()),
        ("zone_id", id()),
        ("session_id", text()),
        ("principal_id", text()),
        ("application_id", maybe(id())),
        ("approval_type", exactly("human_approval")),
        ("tier", text()),
        ("approver_class", one_of(&["operator", "subject", "any"])),
        ("privacy_mode", text()),
        ("subject_anchor", maybe(text())),
        ("binding", text()),
        ("metadata_json", any()),
        ("decision_reason", maybe(text())),
        ("created_at", time()),
        ("expires_at", time()),
        ("satisfied_at", maybe(time())),
        ("rejected_at", maybe(time())),
        ("consumed_at", maybe(time())),
        ("approver_subject_id", maybe(text())),
        ("principal_federated", flag()),
        ("prior_approved", number()),
        ("prior_rejected", number()),
        ("state", one_of(&states)),
    ]);
    // With `fields`, an item has those and no others.
    let chosen = |of| either(&[named(of), open_object(&[])]);
    vec![
        ("Event", event),
        ("ChosenEvent", chosen("Event")),
        ("Change", change),
        ("ChosenChange", chosen("Change")),
        ("Approval", approval),
    ]
}

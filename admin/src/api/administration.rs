//! Settings, workloads, grants, issuers of users and approvals.

use super::{Refusing as _, Right, get, remove, send};
use crate::app::App;
use crate::subject_issuers::{self, SubjectIssuer};
use crate::{approvals, grants, integrity, object, settings, workloads};
use caracal_store::openapi::schema::{
    flag, id, list_of, matching, maybe, named, number, number_of, object, one_of, open_object, text, text_of,
    time,
};
use caracal_store::openapi::{Operation, Routes, Verb};
use serde_json::Value;

pub(super) fn routes() -> Routes<App> {
    settings().merge(integrity()).merge(workloads()).merge(grants()).merge(issuers()).merge(approvals())
}

fn settings() -> Routes<App> {
    let (retention, limit) = ("/v1/audit-retention", "/v1/mint-rate-limit");
    let body = |value: &'static str| object(&[(value, number_of(1, i64::MAX))]);
    Routes::default()
        .add(
            get(Right::Read, "get_audit_retention", retention, "How long events are kept")
                .answers(200, named("AuditRetention")),
            settings::retention,
        )
        .add(
            send(
                Verb::Put,
                Right::Administer,
                ("set_audit_retention", retention, "Lowers how long events are kept"),
                body("retention_days"),
            )
            .answers(200, named("AuditRetention")),
            settings::set_retention,
        )
        .add(
            get(Right::Read, "get_mint_rate_limit", limit, "How many mandates are minted a minute at most")
                .answers(200, named("MintRateLimit")),
            settings::mint_limit,
        )
        .add(
            send(
                Verb::Put,
                Right::Write,
                ("set_mint_rate_limit", limit, "Lowers how many mandates are minted a minute"),
                body("limit_per_minute"),
            )
            .answers(200, named("MintRateLimit")),
            settings::set_mint_limit,
        )
}

fn integrity() -> Routes<App> {
    let (all, zone) = ("/v1/audit-integrity", "/v1/zones/{zone}/audit-integrity");
    let summary = "Are the chains of events and changes as they were written";
    Routes::default()
        .add(
            get(Right::Read, "get_audit_integrity", all, summary).answers(200, named("AuditIntegrity")),
            integrity::all,
        )
        .add(
            super::act(
                Verb::Post,
                Right::Administer,
                "acknowledge_audit_findings",
                "/v1/audit-integrity/acknowledge",
                "Takes note of what was found, so that the ledger is ready again",
            )
            .answers(200, object(&[("acknowledged", number())])),
            integrity::take_note,
        )
        .add(
            get(Right::Read, "get_zone_audit_integrity", zone, summary).answers(200, named("AuditIntegrity")),
            integrity::of_zone,
        )
        .add(
            super::act(
                Verb::Post,
                Right::Write,
                "check_zone_audit_integrity",
                "/v1/zones/{zone}/audit-integrity/check",
                "Checks the chains of a zone now",
            )
            .answers(200, named("AuditIntegrity"))
            .or(&[404, 409]),
            integrity::check,
        )
}

fn workloads() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/workloads", "/v1/zones/{zone}/workloads/{id}");
    let binding = object(&[
        ("env", text_of(1, 200)),
        ("resource", text_of(1, 500)),
        ("scopes?", list_of(text_of(1, 200), 0, 32)),
        ("optional?", flag()),
        ("on_failure?", one_of(&["error", "warn"])),
    ]);
    let update = object(&[("name?", maybe(text_of(1, 200))), ("bindings?", maybe(list_of(binding, 0, 64)))]);
    Routes::default()
        .add(
            get(Right::Read, "list_workloads", all, "Workloads, newest first").paged(500, "Workload"),
            object::list::<workloads::Workload>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_workload", all, "Makes a workload"),
                object(&[("name", text_of(1, 200))]),
            )
            .answers(201, named("WorkloadWithSecret"))
            .or(&[404, 409, 502]),
            workloads::create,
        )
        .add(
            get(Right::Read, "get_workload", one, "A workload").answers(200, named("Workload")).or(&[404]),
            object::get::<workloads::Workload>,
        )
        .add(
            send(Verb::Put, Right::Write, ("change_workload", one, "Changes a workload"), update)
                .answers(200, named("Workload"))
                .or(&[404, 409]),
            workloads::update,
        )
        .add(remove("delete_workload", one, "Removes a workload"), workloads::remove)
        .add(
            super::act(
                Verb::Post,
                Right::Write,
                "rotate_workload_secret",
                "/v1/zones/{zone}/workloads/{id}/rotate-secret",
                "Gives a workload another secret",
            )
            .answers(200, named("WorkloadWithSecret"))
            .or(&[404, 502]),
            workloads::rotate,
        )
        .add(
            get(
                Right::Administer,
                "reveal_workload_secret",
                "/v1/zones/{zone}/workloads/{id}/secret",
                "Shows a workload's secret",
            )
            .answers(200, object(&[("secret", text())]))
            .or(&[404, 502]),
            workloads::reveal,
        )
}

fn grants() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/grants", "/v1/zones/{zone}/grants/{id}");
    let create = open_object(&[
        ("application_id", text_of(1, 128)),
        ("user_id", text_of(1, 512)),
        ("resource_id", text_of(1, 128)),
        ("scopes", list_of(matching("^[a-z0-9:_./-]{1,200}$"), 1, 64)),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_grants", all, "What persons let applications do, newest first")
                .query(&[
                    ("application_id?", text_of(0, 128)),
                    ("resource_id?", text_of(0, 128)),
                    ("provider_id?", text_of(0, 128)),
                    ("user_id?", text_of(0, 512)),
                    ("subject_id?", text_of(0, 512)),
                    ("status?", one_of(&["active", "revoked"])),
                    ("scopes?", text_of(0, 4096)),
                ])
                .paged(500, "GrantWithNames"),
            grants::list,
        )
        .add(
            send(Verb::Post, Right::Write, ("create_grant", all, "Records what a person allows"), create)
                .answers(201, named("Grant"))
                .or(&[404]),
            grants::create,
        )
        .add(
            get(Right::Read, "get_grant", one, "A grant").answers(200, named("Grant")).or(&[404]),
            grants::get,
        )
        .add(remove("revoke_grant", one, "Ends a grant, and all that stems from the person"), grants::revoke)
}

fn issuers() -> Routes<App> {
    let (all, one) = ("/v1/zones/{zone}/subject-issuers", "/v1/zones/{zone}/subject-issuers/{id}");
    let url = || text_of(1, 2048);
    let create = object(&[("issuer", url()), ("jwks_url", url()), ("audience", text_of(1, 512))]);
    let patch = object(&[("jwks_url?", maybe(url())), ("audience?", maybe(text_of(1, 512)))]);
    Routes::default()
        .add(
            get(Right::Read, "list_subject_issuers", all, "Issuers of users, newest first")
                .paged(500, "SubjectIssuer"),
            object::list::<SubjectIssuer>,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("create_subject_issuer", all, "Trusts an issuer of users"),
                create,
            )
            .answers(201, named("SubjectIssuer"))
            .or(&[404, 409]),
            subject_issuers::create,
        )
        .add(
            get(Right::Read, "get_subject_issuer", one, "An issuer of users")
                .answers(200, named("SubjectIssuer"))
                .or(&[404]),
            object::get::<SubjectIssuer>,
        )
        .add(
            send(Verb::Patch, Right::Write, ("change_subject_issuer", one, "Changes an issuer"), patch)
                .answers(200, named("SubjectIssuer"))
                .or(&[404]),
            subject_issuers::patch,
        )
        .add(
            remove("archive_subject_issuer", one, "Trusts an issuer no longer"),
            object::archive::<SubjectIssuer>,
        )
}

fn decision(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    let decided = object(&[
        ("id", id()),
        ("state", one_of(&["approved", "rejected"])),
        ("satisfied_at", maybe(time())),
        ("rejected_at", maybe(time())),
        ("approver_subject_id", text()),
    ]);
    let reason = object(&[("reason?", maybe(text_of(0, 500)))]);
    super::act(Verb::Post, Right::Decide, name, path, summary)
        .takes_as("application/json", reason, false)
        .answers(200, decided)
        .or(&[404, 409, 413, 415])
}

fn approvals() -> Routes<App> {
    let states = ["consumed", "rejected", "expired", "approved", "pending"];
    let counts: Vec<(&str, Value)> = states.iter().map(|state| (*state, number())).collect();
    Routes::default()
        .add(
            get(Right::Read, "list_approvals", "/v1/zones/{zone}/approvals", "Holds, newest first")
                .query(&[
                    ("state?", one_of(&states)),
                    ("tier?", text_of(0, 64)),
                    ("principal?", text_of(0, 128)),
                    ("since?", time()),
                    ("until?", time()),
                ])
                .paged(500, "Approval"),
            approvals::list,
        )
        .add(
            get(
                Right::Read,
                "count_approvals",
                "/v1/zones/{zone}/approvals/counts",
                "How many holds are in which state",
            )
            .answers(200, object(&counts)),
            approvals::counts,
        )
        .add(
            get(Right::Read, "get_approval", "/v1/zones/{zone}/approvals/{id}", "A hold")
                .answers(200, named("Approval"))
                .or(&[404]),
            approvals::one,
        )
        .add(
            decision("approve", "/v1/zones/{zone}/approvals/{id}/approve", "Lets a hold go on"),
            approvals::approve,
        )
        .add(decision("reject", "/v1/zones/{zone}/approvals/{id}/reject", "Ends a hold"), approvals::reject)
}

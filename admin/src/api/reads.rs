//! What happened and what runs: events, changes, sessions, records, revocations and subjects.

use super::{Refusing as _, Right, get, send};
use crate::app::App;
use crate::{events, explain, record, revocations, runtime, subjects};
use caracal_store::openapi::schema::{
    any, exactly, flag, id, list, maybe, named, number, object, one_of, text, text_of, time,
};
use caracal_store::openapi::{Operation, Routes, Verb};

pub(super) fn routes() -> Routes<App> {
    ledger().merge(running()).merge(revocations()).merge(subjects())
}

fn changes(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    get(Right::Read, name, path, summary)
        .query(&[
            ("fields?", text_of(0, 1000)),
            ("since?", time()),
            ("until?", time()),
            ("actor_id?", text_of(0, 128)),
            ("entity_type?", text_of(0, 128)),
            ("entity_id?", text_of(0, 128)),
            ("method?", one_of(&["POST", "PUT", "PATCH", "DELETE"])),
        ])
        .paged(1000, "ChosenChange")
        .csv()
}

fn ledger() -> Routes<App> {
    let decisions = ["allow", "deny", "partial", "pending", "approved", "rejected", "consumed", "expired"];
    let denied = object(&[
        ("event_id", id()),
        ("event_type", text()),
        ("evaluation_status", text()),
        ("determining_policies", any()),
        ("diagnostics", any()),
        ("metadata", any()),
        ("reason", text()),
        ("policy_input", any()),
    ]);
    let explanation = object(&[
        ("request_id", text()),
        ("zone_id", id()),
        ("final_decision", text()),
        ("denied", list(denied)),
        ("events", list(named("Event"))),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_events", "/v1/zones/{zone}/audit", "Events of the ledger, newest first")
                .query(&[
                    ("fields?", text_of(0, 1000)),
                    ("since?", time()),
                    ("until?", time()),
                    ("request_id?", text_of(0, 128)),
                    ("decision?", one_of(&decisions)),
                    ("event_type?", text_of(0, 512)),
                    ("application_id?", text_of(0, 128)),
                    ("session_id?", text_of(0, 128)),
                    ("authority_record_id?", text_of(0, 128)),
                    ("label?", text_of(0, 64)),
                ])
                .paged(1000, "ChosenEvent")
                .csv(),
            events::list,
        )
        .add(
            get(
                Right::Read,
                "events_of_request",
                "/v1/zones/{zone}/audit/by-request/{request}",
                "The events of one request",
            )
            .answers(200, list(named("Event")))
            .or(&[404]),
            events::by_request,
        )
        .add(
            get(
                Right::Read,
                "explain_request",
                "/v1/zones/{zone}/audit/by-request/{request}/explain",
                "Why a request was denied, and what to simulate it with",
            )
            .answers(200, explanation)
            .or(&[404]),
            explain::explain,
        )
        .add(
            changes("list_changes", "/v1/zones/{zone}/admin-audit", "Who changed what in a zone"),
            record::list,
        )
        .add(
            changes("list_global_changes", "/v1/admin-audit", "Who changed what belongs to no zone"),
            record::list_global,
        )
}

fn sessions(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    get(Right::Read, name, path, summary)
        .query(&[
            ("status?", one_of(&["active", "suspended", "terminated", "expired"])),
            ("lifecycle?", one_of(&["task", "service"])),
            ("application_id?", text_of(0, 128)),
            ("parent_session_id?", text_of(0, 128)),
            ("parent_id?", text_of(0, 128)),
            ("subject_id?", text_of(0, 512)),
            ("label?", text_of(0, 64)),
        ])
        .paged(1000, "Session")
        .csv()
}

fn running() -> Routes<App> {
    Routes::default()
        .add(
            sessions("list_sessions", "/v1/zones/{zone}/sessions", "Agent sessions, newest first"),
            runtime::sessions,
        )
        // The old name (contract coordinator §21, §26).
        .add(
            sessions("list_agent_sessions", "/v1/zones/{zone}/agent-sessions", "The same, by its old name")
                .with("deprecated", true),
            runtime::sessions,
        )
        .add(
            get(
                Right::Read,
                "list_authority_records",
                "/v1/zones/{zone}/authority-records",
                "Authority records, newest first",
            )
            .query(&[
                ("authority_record_id?", text_of(0, 128)),
                ("status?", one_of(&["active", "revoked", "expired"])),
                ("subject_id?", text_of(0, 512)),
                ("kind?", one_of(&["user", "application"])),
            ])
            .paged(1000, "AuthorityRecord")
            .csv(),
            runtime::authority_records,
        )
}

fn revocations() -> Routes<App> {
    let all = "/v1/zones/{zone}/revocations";
    let create =
        object(&[("selector", named("Selector")), ("reason?", maybe(text_of(1, 256))), ("dry_run?", flag())]);
    let tried = object(&[
        ("dry_run", exactly(true)),
        ("zone_id", id()),
        ("selector", named("Selector")),
        ("counts", named("RevocationCounts")),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_revocations", all, "Revocations, newest first")
                .paged(1000, "Revocation")
                .or(&[404]),
            revocations::list,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("revoke", all, "Takes away what a selector selects, or says what that would be"),
                create,
            )
            .answers(200, tried)
            .answers(201, named("Revocation"))
            .or(&[404]),
            revocations::create,
        )
        .add(
            get(
                Right::Read,
                "get_revocation",
                "/v1/zones/{zone}/revocations/{id}",
                "A revocation, and whether every gateway has taken it",
            )
            .answers(200, named("Revocation"))
            .or(&[404]),
            revocations::get,
        )
}

fn subjects() -> Routes<App> {
    let session = object(&[
        ("session_id", id()),
        ("application_id", id()),
        ("application_name", text()),
        ("lifecycle", text()),
        ("status", text()),
        ("started_at", time()),
    ]);
    let connection = object(&[
        ("id", id()),
        ("provider_id", id()),
        ("provider_name", text()),
        ("status", text()),
        ("expires_at", maybe(time())),
        ("created_at", time()),
    ]);
    let overview = object(&[
        ("subject", named("Subject")),
        ("governed", object(&[("active", number()), ("total", number()), ("recent", list(session))])),
        ("connections", list(connection)),
    ]);
    let ended = object(&[
        ("subject_id", text()),
        ("authority_records", number()),
        ("sessions", number()),
        ("delegations", number()),
        ("connections", number()),
    ]);
    Routes::default()
        .add(
            get(Right::Read, "list_subjects", "/v1/zones/{zone}/subjects", "Whom authority stems from")
                .query(&[("kind?", one_of(&["user", "application"])), ("search?", text_of(0, 512))])
                .paged(200, "Subject"),
            subjects::list,
        )
        .add(
            get(
                Right::Read,
                "subject_overview",
                "/v1/zones/{zone}/subjects/overview",
                "A subject at a glance",
            )
            .query(&[("subject_id", text_of(1, 512))])
            .answers(200, overview)
            .or(&[404]),
            subjects::overview,
        )
        .add(
            send(
                Verb::Post,
                Right::Write,
                ("revoke_subject", "/v1/zones/{zone}/subjects/revoke", "Ends all that stems from a subject"),
                object(&[("subject_id", text_of(1, 512)), ("reason?", maybe(text_of(1, 512)))]),
            )
            .answers(200, ended)
            .or(&[404]),
            subjects::revoke,
        )
}

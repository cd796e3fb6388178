//! What the FAQ promises of sessions and delegations, each by its number, with a real STS beside the Coordinator.
//! `docs/conformance-coordinator.md` has the list.

use crate::mint::{Both, claims};
use crate::support::{World, text};
use caracal_coordinator::{expire_sessions, suspend_lost_services};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const READ: (&str, &str) = ("orders", "orders:read");
const WRITE: (&str, &str) = ("orders", "orders:write");

fn narrow(scopes: &[&str], hops: u32, ttl: u32) -> Value {
    json!({ "scopes": scopes, "constraints": { "max_hops": hops }, "ttl_seconds": ttl })
}

fn id(started: &Value) -> String {
    text(started, "agent_session_id")
}

#[tokio::test]
async fn faq_005_application_principal_and_session_are_three_things() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    let (child, edge) = both.narrowed(&token, &root, "reader", narrow(&["orders:read"], 1, 60)).await;
    let minted = both.mint("a", (&child, &edge), READ).await.ok();
    let claims = claims(&text(&minted, "access_token"));
    assert_eq!(
        (&claims["client_id"], &claims["sub"], &claims["sub_type"]),
        (&json!("a"), &json!("a"), &json!("application"))
    );
    assert_eq!((&claims["agent_session_id"], &claims["delegation_edge_id"]), (&json!(child), &json!(edge)));
    // A user's session: another principal under the same application.
    let user = both.world.claims("z1", "a", Some("ada@idp")).await;
    let proof = both.world.keys.sign(&user).await.unwrap();
    let for_user = both.start(&token, "a", json!({ "subject_token": proof })).await;
    assert_eq!(
        (&for_user["application_id"], &for_user["subject_authority_record_id"]),
        (&json!("a"), &json!(user.sid))
    );
    let grants = both.grants().await;
    let names =
        ["application_id", "agent_session_id", "resource", "requested_scopes"].map(|name| &grants[0][name]);
    assert_eq!(names, [&json!("a"), &json!(child), &json!("resource://orders"), &json!(["orders:read"])]);
}

#[tokio::test]
async fn faq_006_one_application_has_two_hundred_sessions_by_default() {
    let world = World::new().await;
    let (a, b) = (world.token("a", "").await, world.token("b", "").await);
    for _ in 0..200 {
        world.start(&a, json!({ "application_id": "a" })).await.ok();
    }
    let answer = world.start(&a, json!({ "application_id": "a" })).await;
    assert_eq!(answer.code(), (429, "session_limit_exceeded"), "and no limit of the zone comes before");
    assert_eq!(
        world.start(&b, json!({ "application_id": "b" })).await.status,
        201,
        "another application has room"
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM applications").await, 4, "no session makes an application");
}

#[tokio::test]
async fn faq_007_a_dcr_application_expires_with_its_session() {
    let both = Both::new().await;
    let token = both.bootstrap("d").await;
    let root = both.start(&token, "d", json!({ "labels": ["tenant"] })).await;
    assert_eq!((&root["lifecycle"], &root["depth"]), (&json!("task"), &json!(0)));
    let second = both.world.start(&token, json!({ "application_id": "d" })).await;
    assert_eq!(second.code(), (409, "dcr_application_already_bound"));
    both.world.sql("UPDATE applications SET expires_at = 1 WHERE id = 'd'").await;
    let path = format!("/zones/z1/agents/{}", id(&root));
    let late = both.world.ask(Method::GET, &path, &token, None).await;
    assert_eq!(late.code(), (401, "identity_revoked"));
    let managed = both.bootstrap("a").await;
    let parent = id(&both.start(&managed, "a", json!({})).await);
    for _ in 0..3 {
        both.start(&managed, "a", json!({ "parent_id": parent })).await;
    }
}

#[tokio::test]
async fn faq_008_agents_of_one_application_are_told_apart() {
    let both = Both::new().await;
    let (token, b) = (both.bootstrap("a").await, both.bootstrap("b").await);
    let root = id(&both.start(&token, "a", json!({})).await);
    let scopes = ["orders:read", "orders:write"];
    let reader = both.narrowed(&token, &root, "reader", narrow(&scopes, 1, 60)).await;
    let clerk = both.narrowed(&token, &root, "clerk", narrow(&scopes, 1, 60)).await;
    let stranger = both.narrowed(&token, &root, "stranger", narrow(&scopes, 1, 60)).await;
    let mint = |(session, edge): (String, String), what: (&'static str, &'static str)| {
        let both = &both;
        async move { both.mint("a", (&session, &edge), what).await }
    };
    assert_eq!(mint(reader.clone(), READ).await.status, 200);
    assert_eq!(mint(clerk.clone(), WRITE).await.status, 200);
    // Policy reads the label.
    assert_eq!(mint(reader.clone(), WRITE).await.code(), (403, "access_denied"));
    assert_eq!(mint(stranger, READ).await.code(), (403, "access_denied"));
    // A session is bound to its application.
    let stolen = both.mint("b", (&reader.0, &reader.1), READ).await;
    assert_eq!(stolen.code(), (403, "access_denied"));
    let answer = both.world.ask(Method::DELETE, &format!("/zones/z1/agents/{}", reader.0), &b, None).await;
    assert_eq!(answer.code(), (403, "application_ownership_required"));
    let told: Vec<Value> = both
        .grants()
        .await
        .iter()
        .map(|grant| {
            let names = [
                "agent_session_id",
                "agent_lifecycle",
                "agent_labels",
                "agent_parent_id",
                "delegation_edge_id",
            ];
            Value::Array(names.iter().map(|name| grant[*name].clone()).collect())
        })
        .collect();
    let expected = [(&reader, "reader"), (&clerk, "clerk")]
        .map(|((session, edge), label)| json!([session, "task", [label], root, edge]));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn faq_020_the_session_id_tells_twins_apart() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    let mut twins = BTreeSet::new();
    for _ in 0..5 {
        let (session, edge) = both.narrowed(&token, &root, "reader", narrow(&["orders:read"], 1, 60)).await;
        both.mint("a", (&session, &edge), READ).await.ok();
        twins.insert(session);
    }
    assert_eq!(twins.len(), 5);
    let told: BTreeSet<String> =
        both.grants().await.iter().map(|grant| text(grant, "agent_session_id")).collect();
    assert_eq!(told, twins);
    // What is over keeps its row, and shows how it ended.
    let gone = twins.pop_first().unwrap();
    let path = format!("/zones/z1/agents/{gone}");
    both.world.ask(Method::DELETE, &path, &token, None).await.ok();
    let shown = both.world.ask(Method::GET, &path, &token, None).await.ok();
    assert_eq!((&shown["status"], &shown["termination_reason"]), (&json!("terminated"), &json!("requested")));
    let list = both
        .world
        .ask(Method::GET, "/zones/z1/agents?status=terminated&label=reader", &token, None)
        .await
        .ok();
    assert_eq!(list["items"][0]["agent_session_id"], json!(gone));
}

#[tokio::test]
async fn faq_021_policy_and_delegation_both_have_to_allow() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let root = id(&both.start(&token, "a", json!({})).await);
    let (wide, small): (&[&str], &[&str]) = (&["orders:read", "orders:write"], &["orders:read"]);
    // Label (what policy gives), scopes of the delegation, what is asked for, and whether it is granted.
    for (label, scopes, asked, granted) in [
        ("clerk", wide, WRITE, true),
        ("clerk", small, WRITE, false),
        ("reader", wide, WRITE, false),
        ("reader", small, READ, true),
        ("none", wide, READ, false),
        ("clerk", wide, ("invoices", "invoices:read"), false),
    ] {
        let (session, edge) = both.narrowed(&token, &root, label, narrow(scopes, 1, 60)).await;
        let answer = both.mint("a", (&session, &edge), asked).await;
        let expected = if granted { (200, "") } else { (403, "access_denied") };
        assert_eq!(answer.code(), expected, "{label} {scopes:?} {asked:?}: {}", answer.body);
    }
    // Nor is there a delegation of what the resource does not have.
    let (child, _) = both.narrowed(&token, &root, "clerk", narrow(wide, 1, 60)).await;
    let answer = both.world.delegate(&token, &root, &child, json!({ "scopes": ["orders:delete"] })).await;
    assert_eq!(answer.code(), (403, "delegation_scopes_exceed_resource"));
}

#[tokio::test]
async fn faq_022_a_dcr_application_acts_for_itself_as_policy_says() {
    let both = Both::new().await;
    let (token, managed) = (both.bootstrap("d").await, both.bootstrap("a").await);
    let root = both.start(&token, "d", json!({ "labels": ["tenant"] })).await;
    assert_eq!(
        (&root["parent_id"], &root["delegation_edge_id"], &root["lifecycle"]),
        (&Value::Null, &Value::Null, &json!("task"))
    );
    let service = both.world.start(&token, json!({ "application_id": "d", "lifecycle": "service" })).await;
    assert_eq!(service.code(), (409, "dcr_application_cannot_host_service"));
    // What it is handed is bounded by what policy gives it: its own resource, and no other.
    let giver = id(&both.start(&managed, "a", json!({})).await);
    let offer = |resource: &str| {
        json!({ "receiver_application_id": "d", "resource_id": format!("resource://{resource}"),
            "scopes": [format!("{resource}:read")], "ttl_seconds": 60 })
    };
    for (resource, status) in [("drafts", 200), ("orders", 403)] {
        let edge = both.world.edge(&managed, &giver, &id(&root), offer(resource)).await;
        let scope = format!("{resource}:read");
        let answer = both.mint("d", (&id(&root), &edge), (resource, &scope)).await;
        assert_eq!(answer.status.as_u16(), status, "{resource}: {}", answer.body);
    }
    let grants = both.grants().await;
    assert_eq!(grants[0]["application_registration_method"], "dcr");
    assert_eq!(both.world.number("SELECT COUNT(*) FROM applications").await, 5, "no start registers one");
}

#[tokio::test]
async fn faq_023_an_orchestrator_its_managers_and_their_workers() {
    let both = Both::new().await;
    let (token, peer) = (both.bootstrap("a").await, both.bootstrap("b").await);
    let service =
        both.start(&token, "a", json!({ "lifecycle": "service", "labels": ["orchestrator"] })).await;
    let orchestrator = id(&service);
    // A manager inherits: from a root that is bound by nothing, there is nothing to record.
    let manager = both.start(&token, "a", json!({ "parent_id": orchestrator, "labels": ["manager"] })).await;
    assert_eq!((&manager["delegation_edge_id"], &manager["depth"]), (&Value::Null, &json!(1)));
    let manager = id(&manager);
    let (worker, edge) = both.narrowed(&token, &manager, "reader", narrow(&["orders:read"], 1, 60)).await;
    let mandate = text(&both.mint("a", (&worker, &edge), READ).await.ok(), "access_token");
    let life = claims(&mandate)["exp"].as_i64().unwrap() - claims(&mandate)["iat"].as_i64().unwrap();
    assert!(life <= 60, "no mandate outlives its delegation: {life}");
    assert_eq!(both.mint("a", (&worker, &edge), WRITE).await.code(), (403, "access_denied"));
    // To another application by delegation, which that one uses or does not.
    let theirs = id(&both.start(&peer, "b", json!({ "labels": ["reader"] })).await);
    let offer = json!({ "receiver_application_id": "b", "resource_id": "resource://invoices",
        "scopes": ["invoices:read"], "ttl_seconds": 60 });
    let offered = both.world.edge(&token, &manager, &theirs, offer).await;
    let probe = format!("/zones/z1/delegations/inbound/{theirs}/{offered}");
    assert_eq!(both.world.ask(Method::GET, &probe, &peer, None).await.ok()["status"], "active");
    assert_eq!(both.mint("b", (&theirs, &offered), ("invoices", "invoices:read")).await.status, 200);
    // The block ends: the worker is over, and so is what it could do.
    both.world.ask(Method::DELETE, &format!("/zones/z1/agents/{worker}"), &token, None).await.ok();
    assert_eq!(both.mint("a", (&worker, &edge), READ).await.code(), (403, "access_denied"));
    let fence = Some(json!({ "lease_generation": 1 }));
    both.world.ask(Method::DELETE, &format!("/zones/z1/agents/{orchestrator}"), &token, fence).await.ok();
    assert_eq!(both.world.status("sessions", &manager).await, "terminated");
    assert_eq!(
        both.world.status("sessions", &theirs).await,
        "active",
        "a peer lives on, without what it was given"
    );
    let answer = both.mint("b", (&theirs, &offered), ("invoices", "invoices:read")).await;
    assert_eq!(answer.code(), (403, "access_denied"));
}

#[tokio::test]
async fn faq_024_what_is_narrowed_stays_narrowed_below() {
    let both = Both::new().await;
    let token = both.bootstrap("a").await;
    let a = id(&both.start(&token, "a", json!({ "labels": ["clerk"] })).await);
    // By default a narrow allows one hop; its heirs can mint all the same, and hand on nothing.
    let (b, b_edge) =
        both.narrowed(&token, &a, "clerk", json!({ "scopes": ["orders:read"], "ttl_seconds": 60 })).await;
    let (mut parent, mut path) = (b.clone(), vec![b_edge.clone()]);
    for depth in 2..6 {
        let heir = both.start(&token, "a", json!({ "parent_id": parent, "labels": ["clerk"] })).await;
        let edge = text(&heir, "delegation_edge_id");
        path.push(edge.clone());
        let minted = both.mint("a", (&id(&heir), &edge), READ).await.ok();
        let claims = claims(&text(&minted, "access_token"));
        assert_eq!((&claims["delegation_path"], &claims["hop_count"]), (&json!(path), &json!(depth)));
        // Policy would give a clerk this; the narrow of long ago does not.
        assert_eq!(
            both.mint("a", (&id(&heir), &edge), WRITE).await.code(),
            (403, "access_denied"),
            "{depth}"
        );
        parent = id(&heir);
    }
    let mirrored = both
        .world
        .number("SELECT COUNT(DISTINCT resource_id || scopes_json || expires_at) FROM delegation_edges")
        .await;
    assert_eq!(mirrored, 1, "each heir has exactly what the first was given");
    // A narrow below is within what is above, in each respect.
    let (c, _) = both.narrowed(&token, &a, "clerk", narrow(&["orders:read"], 3, 60)).await;
    let child = id(&both.start(&token, "a", json!({ "parent_id": c, "parent_authority": "none" })).await);
    for wider in [
        narrow(&["orders:write"], 2, 30),
        narrow(&["orders:read"], 3, 30),
        narrow(&["orders:read"], 2, 61),
        json!({ "resource_id": "resource://invoices", "scopes": ["invoices:read"], "ttl_seconds": 30 }),
    ] {
        let answer = both.world.delegate(&token, &c, &child, wider.clone()).await;
        assert_eq!(answer.code(), (403, "delegation_exceeds_parent_authority"), "{wider}");
    }
    let within = both.world.edge(&token, &c, &child, narrow(&["orders:read"], 2, 30)).await;
    assert_eq!(both.world.status("delegation_edges", &within).await, "active");
    // A budget cannot be kept by who mints, so there is no delegation with one.
    let budget = json!({ "constraints": { "budget": 1 } });
    assert_eq!(both.world.delegate(&token, &c, &child, budget).await.code(), (400, "invalid_budget"));
    // Below a root, there is nothing narrower to hand on.
    let free = both.start(&token, "a", json!({ "parent_id": a })).await;
    assert_eq!(free["delegation_edge_id"], Value::Null);
    // And the heirs end with what they are heirs of.
    both.patch(&token, &format!("delegations/{b_edge}/revoke")).await;
    let answer = both.mint("a", (&parent, path.last().unwrap()), READ).await;
    assert_eq!(answer.code(), (403, "access_denied"));
}

#[tokio::test]
async fn faq_025_tasks_end_by_time_and_services_by_silence() {
    let world = World::new().await;
    let token = world.token("a", "").await;
    let timed = world.start(&token, json!({ "application_id": "a", "ttl_seconds": 60 })).await.ok();
    let lasting = world.start(&token, json!({ "application_id": "a", "lifecycle": "service" })).await.ok();
    assert_eq!((&timed["lifecycle"], &lasting["lifecycle"]), (&json!("task"), &json!("service")));
    let (timed, lasting) = (id(&timed), id(&lasting));
    // However old: a service that beats is not ended by any clock.
    world.sql("UPDATE sessions SET started_at = 1").await;
    assert_eq!(expire_sessions(&world.config).await.unwrap(), 1);
    assert_eq!(world.status("sessions", &timed).await, "expired");
    assert_eq!(world.status("sessions", &lasting).await, "active");
    let soon = world.store.now() + 1000;
    world.sql(&format!("UPDATE sessions SET heartbeat_deadline_at = {soon} WHERE id = '{lasting}'")).await;
    let beat = Some(json!({ "lease_generation": 1 }));
    let path = format!("/zones/z1/agents/{lasting}/heartbeat");
    world.ask(Method::POST, &path, &token, beat).await.ok();
    let deadline =
        world.number(&format!("SELECT heartbeat_deadline_at FROM sessions WHERE id = '{lasting}'")).await;
    assert!(deadline > soon, "a beat renews the lease");
    world.sql(&format!("UPDATE sessions SET heartbeat_deadline_at = 1 WHERE id = '{lasting}'")).await;
    assert_eq!(suspend_lost_services(&world.config).await.unwrap(), 1);
    assert_eq!(world.status("sessions", &lasting).await, "suspended");
}

#[tokio::test]
async fn faq_026_dcr_applications_have_their_own_policies_and_no_children() {
    let both = Both::new().await;
    let managed = both.bootstrap("a").await;
    let giver = id(&both.start(&managed, "a", json!({})).await);
    for (application, own, other) in [("d", "drafts", "files"), ("d2", "files", "drafts")] {
        let token = both.bootstrap(application).await;
        let leaf = id(&both.start(&token, application, json!({ "labels": ["tenant"] })).await);
        for (resource, status) in [(own, 200), (other, 403)] {
            let scope = format!("{resource}:read");
            let offer = json!({ "receiver_application_id": application, "resource_id": format!("resource://{resource}"),
                "scopes": [scope], "ttl_seconds": 60 });
            let edge = both.world.edge(&managed, &giver, &leaf, offer).await;
            let answer = both.mint(application, (&leaf, &edge), (resource, &scope)).await;
            assert_eq!(answer.status.as_u16(), status, "{application} at {resource}: {}", answer.body);
        }
        let own = json!({ "application_id": application, "parent_id": leaf });
        assert_eq!(both.world.start(&token, own).await.code(), (409, "dcr_application_cannot_be_child"));
        let under = both.world.token("a", &format!("coordinator.spawn_under:{application}")).await;
        let child = json!({ "application_id": "a", "parent_id": leaf });
        let answer = both.world.start(&under, child).await;
        assert_eq!(answer.code(), (409, "dcr_application_cannot_start_child"));
        assert_eq!(answer.body["former_error"], "dcr_application_cannot_spawn");
    }
    let service = json!({ "application_id": "a", "parent_id": giver, "lifecycle": "service" });
    let answer = both.world.start(&managed, service).await;
    assert_eq!(answer.code(), (409, "task_session_cannot_start_service"));
    assert_eq!(answer.body["former_error"], "task_agent_cannot_spawn_service");
}

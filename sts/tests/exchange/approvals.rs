//! Contract sts §16: hold, wait, decision, use, and the answer once more.

use crate::support::{Answer, Form, SECRET, World, zone};
use axum::body::Body;
use axum::http::Request;
use caracal_mandate::claims::Claims;
use caracal_sts::Swept;
use serde_json::{Value, json};

/// The policy of the seed, with a gate before `orders:read`.
pub(crate) fn gated(gate: &str) -> String {
    let rest =
        format!("risk := [{{\"scope\": \"orders:read\", \"tier\": \"high\"}}]\napproval_tiers := [{gate}]\n");
    format!(
        "package caracal.authz\nimport rego.v1\napp_ids := {{\"orders-app\": \"a1\"}}\ngrants := {{\"resource://orders\": \
         {{\"application\": \"orders-app\", \"roles\": {{\"reader\": [\"orders:read\"]}}}}}}\n{rest}"
    )
}

pub(crate) const OPERATOR: &str = r#"{"tier": "high"}"#;
pub(crate) const SUBJECT: &str = r#"{"tier": "high", "approver": "subject"}"#;

impl World {
    pub(crate) async fn gated(gate: &str) -> Self {
        let world = Self::new().await;
        world.activate("2", &gated(gate)).await;
        world
    }

    pub(crate) async fn held(&self) -> (String, String) {
        let answer = self.exchange(&Form::mint()).await;
        assert_eq!(answer.error(), (401, "interaction_required"), "{}", answer.body);
        let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
        (text("approval_id"), text("binding"))
    }

    /// What the Admin API does.
    pub(crate) async fn operator(&self, column: &str) {
        self.sql(&format!("UPDATE approvals SET {column} = 1, approver_subject_id = 'admin:t'")).await;
    }

    pub(crate) async fn state(&self, id: &str, query: &str) -> Answer {
        self.send(Request::get(format!("/approvals/{id}{query}")).body(Body::empty()).unwrap()).await
    }

    /// A session mandate; `changes` are claims in place of those of the application's own.
    async fn session_mandate(&self, changes: Value) -> String {
        let mut claims = self.exchange(&Form::bootstrap()).await.claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims = Claims::from_json(claims.to_string().as_bytes()).unwrap();
        assert_eq!(claims.zone_id, zone());
        self.keys.sign(&claims).await.unwrap()
    }

    pub(crate) async fn user(&self) -> String {
        self.session_mandate(json!({ "sub": "idp|u1", "sub_type": "user", "sid": "rec-user" })).await
    }

    pub(crate) async fn decide(&self, id: &str, token: &str, body: Value) -> Answer {
        self.send(decision(id, token, body)).await
    }
}

fn decision(id: &str, token: &str, body: Value) -> Request<Body> {
    let request =
        Request::post(format!("/approvals/{id}/decision")).header("content-type", "application/json");
    let request =
        if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) };
    request.body(Body::from(body.to_string())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_5_the_hold_and_what_is_told_of_it() {
    let world = World::gated(OPERATOR).await;
    let answer = world.send(Form::mint().request_as("first")).await;
    assert_eq!(answer.error(), (401, "interaction_required"));
    assert_eq!(answer.header("www-authenticate"), "Bearer error=\"interaction_required\"");
    let body = &answer.body;
    assert_eq!(
        (body["approval_type"].as_str(), body["state"].as_str(), body["tier"].as_str()),
        (Some("human_approval"), Some("pending"), Some("high"))
    );
    assert_eq!(body["requestId"], "first");
    assert_eq!(body["binding"].as_str().unwrap().len(), 64);
    let expires = body["approval_expires_at"].as_str().unwrap();
    assert!(expires.len() == 20 && expires.ends_with('Z'), "{expires}");
    assert_eq!(
        world.verdicts("first").await,
        ["token_exchange deny/approval_required", "step_up_issued pending/complete"]
    );

    let again = world.send(Form::mint().request_as("again")).await;
    assert_eq!(again.body["approval_id"], body["approval_id"], "the same request finds its hold");
    assert_eq!(world.verdicts("again").await, ["token_exchange deny/approval_required"]);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals").await, 1);
    assert_eq!(world.number("SELECT COUNT(*) FROM counters WHERE key LIKE 'auth-failures:%'").await, 0);

    let id = body["approval_id"].as_str().unwrap();
    let state = world.state(id, "").await;
    assert_eq!(state.status, 200);
    assert_eq!(state.body, json!({ "id": id, "state": "pending", "expires_at": expires }));
    for (id, query, status) in [
        (id, "?wait=x", 400),
        (id, "?wait=-1", 400),
        ("nothing", "", 404),
        ("0190f0c1-7d1e-4a57-8f0e-1c2d3e4f5a6b", "", 404),
    ] {
        assert_eq!(world.state(id, query).await.status, status, "{id}{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_16_contract_16_4_approved_once_used_once_and_answered_again() {
    let world = World::gated(OPERATOR).await;
    let (id, _) = world.held().await;
    world.operator("satisfied_at").await;
    assert_eq!(world.state(&id, "?wait=25").await.body["state"], "approved");
    let retry = Form::mint().with("approval_id", &id);
    for (name, value) in [
        ("scope", "orders:write"),
        ("agent_session_id", "P"),
        ("delegation_edge_id", "F"),
        ("resource", "resource://ledger"),
        ("session_id", "rec-a1"),
    ] {
        let other = world.exchange(&retry.clone().with(name, value)).await;
        assert_eq!(other.error(), (401, "access_denied"), "{name}: {}", other.body);
    }
    let first = world.send(retry.request_as("used")).await.claims();
    assert_eq!(first["use"], "gateway");
    assert_eq!(
        world.verdicts("used").await,
        ["step_up_consumed consumed/complete", "token_exchange allow/complete"]
    );
    assert_eq!(world.state(&id, "").await.body["state"], "consumed");
    let records = world.number("SELECT COUNT(*) FROM authority_records").await;

    let again = world.exchange(&retry).await.claims();
    assert_eq!((&again["sid"], &again["root_sid"]), (&first["sid"], &first["sid"]));
    assert_ne!(again["jti"], first["jti"]);
    assert_eq!(world.number("SELECT COUNT(*) FROM authority_records").await, records);

    let sid = first["sid"].as_str().unwrap();
    world.sql(&format!("UPDATE authority_records SET status = 'revoked' WHERE id = '{sid}'")).await;
    assert_eq!(world.exchange(&retry).await.error(), (409, "approval_consumed"));
    world.sql(&format!("UPDATE authority_records SET status = 'active' WHERE id = '{sid}'")).await;
    world.exchange(&retry).await.granted();
    world.sql("UPDATE approvals SET consumed_at = consumed_at - 120001").await;
    assert_eq!(world.exchange(&retry).await.error(), (409, "approval_consumed"));
    assert_ne!(world.held().await.0, id, "without the id it is a new request");
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_16_contract_16_3_a_granted_hold_releases_without_its_id_and_only_once() {
    let world = World::gated(OPERATOR).await;
    world.held().await;
    world.operator("satisfied_at").await;
    let answers = [world.spawn(Form::mint().request()), world.spawn(Form::mint().request())];
    let mut statuses = Vec::new();
    for answer in answers {
        statuses.push(answer.await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE consumed_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_16_contract_16_4_what_was_rejected_or_expired_or_is_for_another_policy() {
    let world = World::gated(OPERATOR).await;
    let (id, _) = world.held().await;
    let retry = Form::mint().with("approval_id", &id);
    assert_eq!(world.exchange(&retry).await.error(), (401, "interaction_required"));
    world.operator("rejected_at").await;
    assert_eq!(world.send(retry.request_as("no")).await.error(), (403, "access_denied"));
    assert_eq!(world.verdicts("no").await, ["token_exchange deny/approval_rejected"]);
    assert_eq!(world.exchange(&Form::mint()).await.error(), (403, "access_denied"), "a rejection stands");
    world.sql("UPDATE approvals SET rejected_at = NULL, satisfied_at = 1, expires_at = 1").await;
    assert_eq!(world.state(&id, "?wait=25").await.body["state"], "expired");
    assert_eq!(world.exchange(&retry).await.error(), (401, "access_denied"));
    let (id, _) = world.held().await;
    world.operator("satisfied_at").await;
    world.activate("3", &gated(OPERATOR)).await;
    let retry = Form::mint().with("approval_id", &id);
    assert_eq!(world.exchange(&retry).await.error(), (401, "access_denied"), "another policy version");
    let (other, _) = world.held().await;
    assert_ne!(other, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_16_contract_16_9_a_denial_leaves_the_approval_spendable() {
    let world = World::gated(OPERATOR).await;
    let (id, _) = world.held().await;
    world.operator("satisfied_at").await;
    let retry = Form::mint().with("approval_id", &id);
    world.sql("UPDATE sessions SET labels_json = '[]' WHERE id = 'T'").await;
    assert_eq!(world.exchange(&retry).await.description(), "policy denied (role_scope_mismatch)");
    assert_eq!(
        world.exchange(&retry.clone().with("ttl_seconds", "3601")).await.error(),
        (400, "invalid_token")
    );
    world.sql("UPDATE sessions SET labels_json = '[\"reader\"]' WHERE id = 'T'").await;
    world.exchange(&retry).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_17_contract_16_1_gates_that_contradict_each_other_deny() {
    let world = World::gated(&format!("{OPERATOR}, {SUBJECT}")).await;
    let answer = world.send(Form::mint().request_as("conflict")).await;
    assert_eq!(answer.error(), (403, "access_denied"));
    assert_eq!(world.verdicts("conflict").await, ["token_exchange deny/approval_class_conflict"]);
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_18_contract_16_7_the_guards_in_their_order() {
    let world = World::gated(SUBJECT).await;
    let (id, binding) = world.held().await;
    let user = world.user().await;
    let application = world.exchange(&Form::bootstrap()).await.granted();
    let peer = json!({ "sub": "idp|u1", "sub_type": "user", "sid": "rec-user", "client_id": "a2" });
    let peer = world.session_mandate(peer).await;
    let stranger = json!({ "sub": "idp|u2", "sub_type": "user", "sid": "rec-user" });
    let stranger = world.session_mandate(stranger).await;
    let yes = || json!({ "decision": "approved", "binding": binding });
    let none = "0190f0c1-7d1e-4a57-8f0e-1c2d3e4f5a6b";
    let long = json!({ "decision": "approved", "binding": binding, "reason": "x".repeat(501) });
    let cases: Vec<(&str, &str, &str, Value, u16)> = vec![
        ("no UUID", "x", &user, yes(), 404),
        ("no bearer", &id, "", yes(), 401),
        ("bad decision", &id, &user, json!({ "decision": "maybe", "binding": binding }), 400),
        ("long reason", &id, &user, long, 400),
        ("unknown hold", none, &user, yes(), 404),
        ("no mandate", &id, "a.b.c", yes(), 401),
        ("an application", &id, &application, yes(), 403),
        ("through another application", &id, &peer, yes(), 403),
        ("not the record's subject", &id, &stranger, yes(), 403),
        ("another binding", &id, &user, json!({ "decision": "approved", "binding": "00" }), 409),
    ];
    for (name, id, token, body, status) in cases {
        let answer = world.decide(id, token, body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        let challenge = if status == 401 { "Bearer realm=\"caracal-sts\"" } else { "" };
        assert_eq!(answer.header("www-authenticate"), challenge, "{name}");
    }
    for (name, sql) in [
        ("operator only", "approver_class = 'operator'"),
        ("anchored to another", "approver_class = 'subject', subject_anchor = 'idp|u9'"),
        ("same record", "subject_anchor = NULL, session_id = 'rec-user'"),
        ("no application", "session_id = '', application_id = NULL"),
    ] {
        world.sql(&format!("UPDATE approvals SET {sql}")).await;
        assert_eq!(world.decide(&id, &user, yes()).await.error(), (403, "access_denied"), "{name}");
    }
    world
        .sql(
            "UPDATE approvals SET application_id = 'a1', session_id = 'rec-child'; \
             INSERT INTO authority_records (id, zone_id, session_type, subject_id, application_id, parent_id, status, \
             expires_at, authenticated_at, created_at) \
             VALUES ('rec-child', 'z1', 'user', 'idp|u1', 'a1', 'rec-user', 'active', 9, 0, 0)",
        )
        .await;
    assert_eq!(world.decide(&id, &user, yes()).await.error(), (403, "access_denied"), "below it");
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE satisfied_at IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_18_contract_16_7_a_decision_ends_the_wait_and_stands() {
    let cases = [
        ("identified", "approved", "subject:idp|u1", 200),
        ("pseudonymous", "approved", "subject:pseudonym:", 200),
        ("anonymous", "rejected", "subject:redacted", 403),
    ];
    for (privacy, verdict, approver, status) in cases {
        let gate = format!(r#"{{"tier": "high", "approver": "any", "privacy": "{privacy}"}}"#);
        let world = World::gated(&gate).await;
        let (id, binding) = world.held().await;
        let user = world.user().await;
        let waiting = Request::get(format!("/approvals/{id}?wait=25")).body(Body::empty()).unwrap();
        let waiting = world.spawn(waiting);
        let body = json!({ "decision": verdict, "binding": binding, "reason": "checked" });
        let decided = world.decide(&id, &user, body.clone()).await;
        assert_eq!((decided.status, decided.body["state"].as_str()), (200, Some(verdict)), "{privacy}");
        let told = waiting.await.unwrap();
        assert_eq!(told.body, decided.body, "{privacy}");
        assert_eq!(told.body.as_object().unwrap().len(), 3, "who approved is told to nobody");
        assert_eq!(world.decide(&id, &user, body).await.error(), (409, "access_denied"), "{privacy}");
        assert_eq!(world.verdicts(&id).await, [format!("step_up_decided {verdict}/complete")]);
        let recorded = format!("SELECT COUNT(*) FROM approvals WHERE approver_subject_id LIKE '{approver}%'");
        assert_eq!(world.number(&recorded).await, 1, "{privacy}");
        let stored = world.everything_stored().await;
        let approvals: Vec<_> = stored.lines().filter(|line| line.starts_with("approvals:")).collect();
        let named = approvals.iter().any(|line| line.contains("idp|u1") || line.contains("rec-user"));
        assert_eq!(named, privacy == "identified", "{privacy}: {approvals:?}");
        assert!(!stored.contains(SECRET) && !stored.contains(&user));
        let retry = world.exchange(&Form::mint().with("approval_id", &id)).await;
        assert_eq!(retry.status, status, "{privacy}: {}", retry.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_3_a_session_of_a_user_anchors_its_hold() {
    let world = World::gated(SUBJECT).await;
    world.sql("UPDATE sessions SET subject_authority_record_id = 'rec-user' WHERE id = 'T'").await;
    world.held().await;
    assert_eq!(world.number("SELECT COUNT(*) FROM approvals WHERE subject_anchor = 'idp|u1'").await, 1);
}

impl World {
    /// The holds' time is up.
    async fn let_lapse(&self) {
        self.sql("UPDATE approvals SET expires_at = 1").await;
    }

    /// What `step_up_expired` events say.
    async fn lapses(&self) -> Vec<Value> {
        let events = self.events().await;
        events.into_iter().filter(|event| event["event_type"] == "step_up_expired").collect()
    }
}

fn swept(lapsed: u64, forgotten: u64) -> Swept {
    Swept { lapsed, forgotten }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_9_what_nobody_used_is_written_down_once_and_forgotten_a_day_later() {
    let gate = r#"{"tier": "high", "approver": "any", "privacy": "pseudonymous"}"#;
    let world = World::gated(gate).await;
    world.sql("UPDATE sessions SET subject_authority_record_id = 'rec-user' WHERE id = 'T'").await;
    let (id, _) = world.held().await;
    assert_eq!(world.sts().sweep_approvals().await.unwrap(), Swept::default(), "it is pending");
    world.operator("satisfied_at").await;
    world.let_lapse().await;
    let other = world.opened_again().await;
    let services = (world.sts(), other.sts());
    let (one, two) = tokio::join!(services.0.sweep_approvals(), services.1.sweep_approvals());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.lapsed + two.lapsed, one.forgotten + two.forgotten), (1, 1), "{one:?} {two:?}");
    let lapses = world.lapses().await;
    assert_eq!(lapses.len(), 1);
    let (event, facts) = (&lapses[0], &lapses[0]["metadata_json"]);
    assert_eq!((event["decision"].as_str(), event["request_id"].as_str()), (Some("expired"), Some(&*id)));
    assert_eq!((facts["challenge_id"].as_str(), facts["approved"].as_bool()), (Some(&*id), Some(true)));
    assert!(facts.get("subject_anchor").is_none(), "the subject stays a pseudonym");
    assert_eq!(world.state(&id, "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_9_a_settled_hold_is_kept_for_a_day() {
    let day = 86_400_000;
    // Whether it is used, rejected or lapsed; how long ago that was and its time was up; what a sweep does.
    let cases = [
        ("lapsed", day - 60_000, swept(1, 0)),
        ("lapsed", day + 60_000, swept(1, 1)),
        ("rejected_at", day - 60_000, swept(0, 0)),
        ("rejected_at", day + 60_000, swept(0, 1)),
        ("consumed_at", day - 60_000, swept(0, 0)),
        ("consumed_at", day + 60_000, swept(0, 1)),
    ];
    for (settled, ago, expected) in cases {
        let world = World::gated(OPERATOR).await;
        world.held().await;
        let at = world.store.now() - ago;
        let sql = match settled {
            "lapsed" => String::new(),
            "rejected_at" => format!("rejected_at = {at}, approver_subject_id = 'admin:t', "),
            _ => format!(
                "consumed_at = {at}, consumed_authority_record_id = 'rec-a1', satisfied_at = {at}, \
                 approver_subject_id = 'admin:t', "
            ),
        };
        world.sql(&format!("UPDATE approvals SET {sql} expires_at = {at}")).await;
        assert_eq!(world.sts().sweep_approvals().await.unwrap(), expected, "{settled} {ago}");
        assert_eq!(world.lapses().await.len(), usize::from(settled == "lapsed"), "{settled} {ago}");
        assert_eq!(world.sts().sweep_approvals().await.unwrap().lapsed, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_3_a_new_hold_tells_of_the_lapsed_one_in_its_place() {
    let world = World::gated(OPERATOR).await;
    let (old, _) = world.held().await;
    world.let_lapse().await;
    let (new, _) = world.held().await;
    assert_ne!(old, new);
    let lapses = world.lapses().await;
    assert_eq!(lapses.len(), 1);
    assert_eq!(
        (&lapses[0]["request_id"], &lapses[0]["metadata_json"]["approved"]),
        (&old.into(), &false.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_6_waiters_learn_of_decisions_and_not_of_every_event() {
    let world = World::gated(r#"{"tier": "high", "approver": "any"}"#).await;
    let (id, binding) = world.held().await;
    let mut decisions = world.store.decisions();
    decisions.mark_unchanged();
    world.exchange(&Form::bootstrap()).await.granted();
    assert!(!decisions.has_changed().unwrap(), "a mint is no decision");
    // Another process decides: the poll finds it.
    let waiting = world.spawn(Request::get(format!("/approvals/{id}?wait=25")).body(Body::empty()).unwrap());
    let other = world.opened_again().await;
    let body = json!({ "decision": "approved", "binding": binding });
    assert_eq!(other.decide(&id, &world.user().await, body).await.status, 200);
    assert_eq!(waiting.await.unwrap().body["state"], "approved");
    assert!(!decisions.has_changed().unwrap(), "another process wakes nobody here");
    assert!(other.store.decisions().has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_16_6_a_wait_ends_when_the_holds_time_is_up() {
    let world = World::gated(OPERATOR).await;
    let (id, _) = world.held().await;
    world.sql(&format!("UPDATE approvals SET expires_at = {}", world.store.now() + 300)).await;
    assert_eq!(world.state(&id, "?wait=25").await.body["state"], "expired");
}

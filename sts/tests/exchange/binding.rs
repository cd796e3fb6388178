//! Contract sts §11: session and delegation, read live.

use crate::support::{Form, PEER_SECRET, World};

/// Is the edge inherited, and its constraints.
type Terms<'a> = (bool, &'a str);

const LATER: &str = "32503680000000";

/// The mint of contract sts §31.2 after one statement that is undone again.
#[tokio::test(flavor = "multi_thread")]
async fn sts_28_14_contract_11_each_denial() {
    let hour_ago = "(started_at - 3600001)";
    let service = |deadline: &str| {
        format!(
            "UPDATE sessions SET lifecycle = 'service', ttl_seconds = NULL, heartbeat_deadline_at = {deadline} WHERE id = 'T'"
        )
    };
    let constraints =
        |json: &str| format!("UPDATE delegation_edges SET constraints_json = '{json}' WHERE id = 'E'");
    let cases: Vec<(&str, String)> = vec![
        ("§11.6 edge of another zone", "UPDATE delegation_edges SET zone_id = 'z2' WHERE id = 'E'".into()),
        (
            "§11.6 edge revoked",
            "UPDATE delegation_edges SET status = 'revoked', revoked_at = 1 WHERE id = 'E'".into(),
        ),
        ("§11.6 edge found expired", "UPDATE delegation_edges SET status = 'expired' WHERE id = 'E'".into()),
        ("§11.6 edge past its end", "UPDATE delegation_edges SET expires_at = 1 WHERE id = 'E'".into()),
        (
            "§11.6 edge to another session",
            "UPDATE delegation_edges SET target_session_id = 'Y' WHERE id = 'E'".into(),
        ),
        ("§11.7 source suspended", "UPDATE sessions SET status = 'suspended' WHERE id = 'P'".into()),
        (
            "§11.7 source terminated",
            "UPDATE sessions SET status = 'terminated', terminated_at = 1 WHERE id = 'P'".into(),
        ),
        ("§11.7 source past its time", format!("UPDATE sessions SET started_at = {hour_ago} WHERE id = 'P'")),
        ("§11.7 target suspended", "UPDATE sessions SET status = 'suspended' WHERE id = 'T'".into()),
        (
            "§11.7 target expired",
            "UPDATE sessions SET status = 'expired', terminated_at = 1 WHERE id = 'T'".into(),
        ),
        ("§11.7 target past its time", format!("UPDATE sessions SET started_at = {hour_ago} WHERE id = 'T'")),
        ("§11.7 target of a peer", "UPDATE sessions SET application_id = 'a2' WHERE id = 'T'".into()),
        ("§11.7 target in another zone", "UPDATE sessions SET zone_id = 'z2' WHERE id = 'T'".into()),
        ("§11 service without its lease", service("1")),
        (
            "§11 user's record revoked",
            "UPDATE sessions SET subject_authority_record_id = 'rec-user' WHERE id = 'T'; \
            UPDATE authority_records SET status = 'revoked' WHERE id = 'rec-user'"
                .into(),
        ),
        (
            "§11 user's record expired",
            "UPDATE sessions SET subject_authority_record_id = 'rec-user' WHERE id = 'P'; \
            UPDATE authority_records SET expires_at = 1 WHERE id = 'rec-user'"
                .into(),
        ),
        (
            "§11.8 issuer is another",
            "UPDATE delegation_edges SET issuer_application_id = 'a2' WHERE id = 'E'".into(),
        ),
        (
            "§11.8 receiver is another",
            "UPDATE delegation_edges SET receiver_application_id = 'a2' WHERE id = 'E'".into(),
        ),
        ("§11.9 unknown constraint", constraints(r#"{"budget":5}"#)),
        ("§11.9 negative constraint", constraints(r#"{"ttl_seconds":-1}"#)),
        ("§11.9 malformed constraints", constraints("{")),
        ("§11.9 constraints conflict", constraints(r#"{"max_depth":2,"max_hops":3}"#)),
        ("§11.12 too many hops", constraints(r#"{"max_hops":11}"#)),
        ("§17 end passed", constraints(r#"{"expires_at":"2020-01-01T00:00:00Z"}"#)),
        ("§17 end is no time", constraints(r#"{"expires_at":"soon"}"#)),
        (
            "§11.10 scope beyond the edge",
            r#"UPDATE delegation_edges SET scopes_json = '["orders:write"]' WHERE id = 'E'"#.into(),
        ),
    ];
    let world = World::new().await;
    for (name, sql) in cases {
        let before = world.rows_as_they_were().await;
        world.sql(&sql).await;
        let answer = world.exchange(&Form::mint()).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
        world.sql(&before).await;
    }
    world.exchange(&Form::mint()).await.granted();
}

impl World {
    /// Statements that put the sessions, edges and records of the seed back.
    async fn rows_as_they_were(&self) -> String {
        let started = self.number("SELECT started_at FROM sessions WHERE id = 'T'").await;
        let ends = self.number("SELECT expires_at FROM delegation_edges WHERE id = 'E'").await;
        format!(
            "UPDATE sessions SET zone_id = 'z1', application_id = 'a1', status = 'active', terminated_at = NULL, \
                 lifecycle = 'task', ttl_seconds = 3600, heartbeat_deadline_at = NULL, started_at = {started}, \
                 subject_authority_record_id = 'rec-a1' WHERE id IN ('P', 'T'); \
             UPDATE delegation_edges SET zone_id = 'z1', status = 'active', revoked_at = NULL, expires_at = {ends}, \
                 target_session_id = 'T', issuer_application_id = 'a1', receiver_application_id = 'a1', \
                 constraints_json = '{{\"ttl_seconds\":300}}', scopes_json = '[\"orders:read\"]' WHERE id = 'E'; \
             UPDATE authority_records SET status = 'active', expires_at = {LATER} WHERE id = 'rec-user'"
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_15_contract_11_references_in_the_form() {
    let world = World::new().await;
    let peer = |form: Form| form.with("application_id", "a2").with("client_secret", PEER_SECRET);
    let denied = [
        ("edge without session", Form::mint().without("agent_session_id")),
        ("no such session", Form::mint().with("agent_session_id", "none")),
        ("malformed session", Form::mint().with("agent_session_id", "a b")),
        ("no such edge", Form::mint().with("delegation_edge_id", "none")),
        ("the source uses the edge", Form::mint().with("agent_session_id", "P")),
        ("an unrelated session uses the edge", Form::mint().with("agent_session_id", "Y")),
        ("a peer uses the edge", peer(Form::mint())),
        ("a peer's session alone", Form::mint().without("delegation_edge_id").with("agent_session_id", "X")),
        ("business scope without delegation", Form::mint().without("delegation_edge_id")),
        ("business scope without session", Form::bootstrap().with("scope", "orders:read")),
        ("a record that is not there", Form::bootstrap().with("session_id", "none")),
        ("a record of a peer", Form::bootstrap().with("session_id", "rec-a2")),
        ("a record of a user", Form::bootstrap().with("session_id", "rec-user")),
        ("an expired record", Form::bootstrap().with("session_id", "rec-over")),
        ("more time than the edge gives", Form::mint().with("ttl_seconds", "301")),
    ];
    for (name, form) in denied {
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
    }
    world.exchange(&Form::bootstrap().with("session_id", "rec-a1")).await.granted();
    world.exchange(&Form::mint().with("ttl_seconds", "300")).await.granted();
    // A service within its lease acts; a user's standing record carries.
    world
        .sql(&format!(
            "UPDATE sessions SET lifecycle = 'service', ttl_seconds = NULL, heartbeat_deadline_at = {LATER}, \
             subject_authority_record_id = 'rec-user' WHERE id = 'T'"
        ))
        .await;
    world.exchange(&Form::mint()).await.granted();
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_15_contract_11_13_lineage_and_hops() {
    let world = World::new().await;
    let (own, inherited) = (false, true);
    let two = r#"{"max_hops":2}"#;
    let cases: &[(&str, &[Terms<'_>], bool)] = &[
        ("one hop by default", &[(own, "{}")], true),
        ("a second hop that nobody allowed", &[(own, "{}"), (own, "{}")], false),
        ("a second hop", &[(own, two), (own, "{}")], true),
        ("a third under two", &[(own, two), (own, two), (own, "{}")], false),
        ("the old name", &[(own, r#"{"max_depth":2}"#), (own, "{}")], true),
        ("zero is one", &[(own, r#"{"max_hops":0}"#), (own, "{}")], false),
        ("an inherited edge spends no hop", &[(own, "{}"), (inherited, "{}")], true),
        ("inherited, then another hop", &[(own, "{}"), (inherited, "{}"), (own, "{}")], false),
        ("inherited in between", &[(own, two), (inherited, two), (own, "{}")], true),
        ("ten deep", &[(own, r#"{"max_hops":10}"#); 10], true),
        ("eleven deep", &[(own, r#"{"max_hops":10}"#); 11], false),
    ];
    for (number, (name, terms, granted)) in cases.iter().enumerate() {
        let last = world.add_chain(&format!("chain{number}-"), terms).await;
        let form = Form::mint().with("agent_session_id", &last).with("delegation_edge_id", &last);
        let answer = world.exchange(&form).await;
        assert_eq!(answer.status == 200, *granted, "{name}: {}", answer.body);
        if *granted {
            assert_eq!(answer.claims()["hop_count"], terms.len(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_28_15_contract_11_13_every_edge_and_session_of_the_path_has_to_stand() {
    let world = World::new().await;
    let three = r#"{"max_hops":3}"#;
    let last = world.add_chain("c", &[(false, three), (false, three), (false, three)]).await;
    let form = Form::mint().with("agent_session_id", &last).with("delegation_edge_id", &last);
    let breaks = [
        (
            "the root edge",
            "UPDATE delegation_edges SET status = 'expired' WHERE id = 'c0'",
            "UPDATE delegation_edges SET status = 'active' WHERE id = 'c0'",
        ),
        (
            "the edge between",
            "UPDATE delegation_edges SET expires_at = expires_at - 9999999999 WHERE id = 'c1'",
            "UPDATE delegation_edges SET expires_at = expires_at + 9999999999 WHERE id = 'c1'",
        ),
        (
            "the root session",
            "UPDATE sessions SET status = 'suspended' WHERE id = 'P'",
            "UPDATE sessions SET status = 'active' WHERE id = 'P'",
        ),
        (
            "the session between",
            "UPDATE sessions SET status = 'suspended' WHERE id = 'c0'",
            "UPDATE sessions SET status = 'active' WHERE id = 'c0'",
        ),
        (
            "an edge that begins elsewhere",
            "UPDATE delegation_edges SET source_session_id = 'Y' WHERE id = 'c1'",
            "UPDATE delegation_edges SET source_session_id = 'c0' WHERE id = 'c1'",
        ),
        (
            "a circle",
            "UPDATE delegation_edges SET parent_edge_id = 'c2' WHERE id = 'c0'",
            "UPDATE delegation_edges SET parent_edge_id = NULL WHERE id = 'c0'",
        ),
        (
            "a root edge of another zone",
            "UPDATE delegation_edges SET zone_id = 'z2' WHERE id = 'c0'",
            "UPDATE delegation_edges SET zone_id = 'z1' WHERE id = 'c0'",
        ),
        (
            "scopes of the root edge",
            r#"UPDATE delegation_edges SET scopes_json = '["orders:write"]' WHERE id = 'c0'"#,
            r#"UPDATE delegation_edges SET scopes_json = '["orders:read"]' WHERE id = 'c0'"#,
        ),
        (
            "the resource of the root edge",
            "UPDATE delegation_edges SET resource_id = 'R2' WHERE id = 'c0'",
            "UPDATE delegation_edges SET resource_id = 'R1' WHERE id = 'c0'",
        ),
    ];
    for (name, broken, mended) in breaks {
        world.exchange(&form).await.granted();
        world.sql(broken).await;
        let answer = world.exchange(&form).await;
        assert_eq!(answer.error(), (403, "access_denied"), "{name}: {}", answer.body);
        world.sql(mended).await;
    }
    let claims = world.exchange(&form).await.claims();
    assert_eq!(claims["delegation_path"], serde_json::json!(["c0", "c1", "c2"]));
    let sessions: Vec<_> = claims["delegation_chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["agent_session_id"].clone())
        .collect();
    assert_eq!(sessions, ["P", "c0", "c1", "c2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_sts_11_authority_crosses_to_a_peer_on_an_edge() {
    let world = World::new().await;
    let ends = world.store.now() + 600_000;
    let terms =
        format!("NULL, '[\"peer:read\"]', '{{\"resources\":[\"resource://peer\"]}}', 'active', {ends}");
    world.add_edge("EX", "P", "X", &terms).await;
    let form = Form::mint()
        .with("application_id", "a2")
        .with("client_secret", PEER_SECRET)
        .with("scope", "peer:read")
        .with("resource", "resource://peer")
        .with("agent_session_id", "X")
        .with("delegation_edge_id", "EX");
    let claims = world.exchange(&form).await.claims();
    assert_eq!((claims["client_id"].as_str(), claims["sub"].as_str()), (Some("a2"), Some("a2")));
    let chain = claims["delegation_chain"].as_array().unwrap();
    assert_eq!(
        (chain[0]["application_id"].as_str(), chain[1]["application_id"].as_str()),
        (Some("a1"), Some("a2"))
    );
    let other = form.clone().with("resource", crate::support::ORDERS).with("scope", "orders:read");
    assert_eq!(world.exchange(&other).await.status, 403);

    // What an archived application had handed over is gone with it.
    world.sql("UPDATE applications SET archived_at = 1 WHERE id = 'a1'").await;
    assert_eq!(world.exchange(&form).await.error(), (403, "access_denied"));
}

//! The ordered checks, row by row.

use caracal_filter_bed::issuer::forge;
use caracal_tests::{Feeding, Raw, Reply, now_ms};
use serde_json::json;
use tokio::net::TcpListener;

use crate::real::real;
use crate::stand_in::{MAX_BODY, OPEN, ORDERS, stand_in};
use crate::{
    ADDRESS, BODY, BUILD, CIRCUIT_OPEN, CLIENT_ID, EXPIRING, HOST, MALFORMED, MISSING, NO_CLIENT,
    NO_RESOURCE, NO_ZONE, OPERATION, REPLAY, REVOKED, Refusal, SIGNATURE, STALE, STS_AWAY, STS_INVALID,
    TOO_LARGE, TRAVERSAL, UNREACHABLE, eventually, is,
};

#[test]
fn gateway_a5_01_without_a_fresh_feed_nobody_is_heard() {
    stand_in(async |bed| {
        bed.sts.feed_like(Feeding::Badly(Reply::new(500, "text/plain", "no")));
        bed.clock.step(40);
        let bare = Raw::new("GET", "/");
        eventually("a feed that is too old", async || (bed.send(&bare).await.status == 503).then_some(()))
            .await;
        for (what, raw) in [
            ("nothing", bare),
            ("a bad token", bed.request("Bearer x")),
            ("a good one", bed.bearer(&bed.mandate())),
            ("a path that is refused", Raw::new("GET", "/../x")),
        ] {
            bed.refuses(what, &raw, STALE, "feed_stale").await;
        }
    });
}

#[test]
fn gateway_a5_02_a_bearer() {
    stand_in(async |bed| {
        bed.refuses("none", &Raw::new("GET", "/v1/orders"), MISSING, "missing_bearer").await;
        bed.refuses("another scheme", &bed.request("Token x"), MISSING, "missing_bearer").await;
    });
}

#[test]
fn gateway_a5_03_its_length() {
    stand_in(async |bed| {
        let long = bed.request(&format!("Bearer {}", "a".repeat(4_097)));
        bed.refuses("4097 bytes", &long, TOO_LARGE, "bearer_too_large").await;
        let longest = bed.request(&format!("Bearer {}", "a".repeat(4_096)));
        bed.refuses("4096 bytes", &longest, MALFORMED, "malformed_bearer").await;
    });
}

#[test]
fn gateway_a5_04_its_form() {
    stand_in(async |bed| {
        bed.refuses("two parts", &bed.request("Bearer a.b"), MALFORMED, "malformed_bearer").await;
        let endless = bed.signed(|claims| claims["exp"] = json!("soon"));
        bed.refuses("exp", &bed.bearer(&endless), MALFORMED, "malformed_bearer").await;
    });
}

#[test]
fn gateway_a5_05_time_to_live() {
    stand_in(async |bed| {
        let ending =
            |seconds: i64| bed.signed(|claims| claims["exp"] = json!(now_ms() as i64 / 1_000 + seconds));
        bed.refuses("34 s", &bed.bearer(&ending(34)), EXPIRING, "expiring").await;
        bed.refuses("past", &bed.bearer(&ending(-1)), EXPIRING, "expiring").await;
        // The exact second is for a test whose clock stands still; this leaves room for the seconds that pass.
        bed.passes("40 s", &bed.bearer(&ending(40))).await;
    });
}

#[test]
fn gateway_a5_06_no_client_id() {
    stand_in(async |bed| {
        let raw = bed.bearer(&bed.mandate()).with("x-caracal-client-id", "app");
        bed.refuses("the right one", &raw, CLIENT_ID, "client_id_header").await;
    });
}

#[test]
fn gateway_a5_07_a_resource() {
    stand_in(async |bed| {
        let authorization = format!("Bearer {}", bed.mandate());
        let without = Raw::new("GET", "/v1/orders").with("authorization", &authorization);
        bed.refuses("none", &without, NO_RESOURCE, "missing_resource").await;
        bed.refuses("blank", &without.with("x-caracal-resource", "  "), NO_RESOURCE, "missing_resource")
            .await;
    });
}

#[test]
fn gateway_a5_08_a_zone() {
    stand_in(async |bed| {
        for zone in [json!("../z1"), json!(""), json!(1), json!(null)] {
            let mandate = bed.signed(|claims| claims["zone_id"] = zone.clone());
            bed.refuses(&zone.to_string(), &bed.bearer(&mandate), NO_ZONE, "zone_missing").await;
        }
    });
}

#[test]
fn gateway_a5_09_a_client() {
    stand_in(async |bed| {
        for client in [json!("a b"), json!(""), json!([]), json!(null)] {
            let mandate = bed.signed(|claims| claims["client_id"] = client.clone());
            bed.refuses(&client.to_string(), &bed.bearer(&mandate), NO_CLIENT, "client_missing").await;
        }
    });
}

#[test]
fn gateway_a5_10_the_path() {
    stand_in(async |bed| {
        for path in ["/v1/../orders", "/v1/%2e%2e/orders"] {
            bed.refuses(path, &bed.open("GET", path), TRAVERSAL, "path_traversal").await;
        }
    });
}

#[test]
fn gateway_a5_11_the_signature() {
    stand_in(async |bed| {
        let forged = forge(&bed.mandate(), |claims| claims["scope"] = json!("orders:write"));
        bed.refuses("other claims", &bed.bearer(&forged), SIGNATURE, "signature_invalid").await;
        let elsewhere = bed.signed(|claims| claims["zone_id"] = json!("z9"));
        bed.refuses("a zone that is not known", &bed.bearer(&elsewhere), SIGNATURE, "signature_invalid")
            .await;
    });
}

#[test]
fn gateway_a5_12_the_first_use() {
    real(async |real| {
        let mandate = real.mint().await;
        real.passes("the first time", &real.bearer(&mandate)).await;
        let (asked, seen) = (real.asked().await, real.upstream.seen().len());
        is("the second time", &real.send(&real.bearer(&mandate)).await, REPLAY);
        // Only the STS knows, so it is asked.
        assert_eq!(real.asked().await, asked + 1);
        assert_eq!(real.upstream.seen().len(), seen);
    });
}

#[test]
fn gateway_a5_13_nothing_revoked() {
    real(async |real| {
        let agent = real.world.agent().await;
        let mandates = [real.world.mint(&agent).await, real.world.mint(&agent).await];
        real.passes("before", &real.bearer(&mandates[0])).await;
        real.revoke("session", &agent.session).await;
        let used = real.bearer(&mandates[0]);
        real.refuses(&[("after", real.bearer(&mandates[1]), REVOKED), ("used already", used, REVOKED)]).await;
    });
}

#[test]
fn gateway_a5_14_the_circuit() {
    stand_in(async |bed| {
        for _ in 0..3 {
            bed.sts.answer(Reply::new(503, "text/plain", "no healthy upstream"));
            bed.refuses_after_asking("a failure", &bed.bearer(&bed.mandate()), STS_AWAY).await;
        }
        bed.grant(&bed.plain());
        bed.refuses("open", &bed.bearer(&bed.mandate()), CIRCUIT_OPEN, "sts_circuit_open").await;
        bed.clock.step(11);
        eventually("the end of the pause", async || {
            (bed.send(&bed.bearer(&bed.mandate())).await.status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn gateway_a5_15_the_exchange() {
    stand_in(async |bed| {
        let cases: [(&str, Reply, Refusal); 3] = [
            (
                "passed through",
                Reply::json(
                    403,
                    &json!({ "error": "access_denied", "error_description": "policy denied (x)" }),
                ),
                (403, "access_denied", "policy denied (x)"),
            ),
            ("no answer", Reply::new(200, "text/html", "<h1>"), STS_INVALID),
            ("no token", Reply::json(200, &json!({})), STS_INVALID),
        ];
        for (what, reply, refusal) in cases {
            bed.sts.answer(reply);
            bed.refuses_after_asking(what, &bed.bearer(&bed.mandate()), refusal).await;
        }
    });
}

#[test]
fn gateway_a5_16_the_upstreams_address() {
    stand_in(async |bed| {
        for url in ["http://169.254.169.254/", "ftp://x", "http://u@127.0.0.1/"] {
            bed.grant(&json!({ "url": url, "auth_mode": "none" }));
            bed.refuses_after_asking(url, &bed.bearer(&bed.mandate()), ADDRESS).await;
        }
    });
}

#[test]
fn gateway_a5_17_the_credentials_host() {
    stand_in(async |bed| {
        let mut directive = bed.plain();
        directive["allowed_token_hosts"] = json!(["api.example.com"]);
        bed.grant(&directive);
        bed.refuses_after_asking("another host", &bed.bearer(&bed.mandate()), HOST).await;
    });
}

#[test]
fn gateway_a5_18_the_request_can_be_built() {
    stand_in(async |bed| {
        let mut directive = bed.plain();
        directive["auth_mode"] = json!("telepathy");
        bed.grant(&directive);
        bed.refuses_after_asking("unknown mode", &bed.bearer(&bed.mandate()), BUILD).await;
        bed.grant(&bed.plain());
        bed.refuses_after_asking("a query that does not parse", &bed.open("GET", "/v1?a;b"), BUILD).await;
    });
}

#[test]
fn gateway_a5_19_the_upstream_answers() {
    stand_in(async |bed| {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        bed.grant(&json!({ "url": format!("http://{closed}"), "auth_mode": "none" }));
        bed.refuses_after_asking("nobody listens", &bed.bearer(&bed.mandate()), UNREACHABLE).await;
        bed.grant(&json!({ "url": "http://no-such-host.invalid", "auth_mode": "none" }));
        bed.refuses_after_asking("no such name", &bed.bearer(&bed.mandate()), ADDRESS).await;
        bed.grant(&bed.plain());
        let large = bed.open("POST", "/v1").body(&vec![b'x'; MAX_BODY + 1]);
        bed.refuses_after_asking("a large body", &large, BODY).await;
    });
}

#[test]
fn the_first_failure_of_a5_wins() {
    stand_in(async |bed| {
        // All is wrong; then one thing after the other is put right, and the next row speaks.
        let wrong = |claims: &mut serde_json::Value, right: usize| {
            claims["sub"] = json!("another");
            if right < 5 {
                claims["exp"] = json!(1);
            }
            if right < 8 {
                claims["zone_id"] = json!("/");
            }
            if right < 9 {
                claims["client_id"] = json!("/");
            }
        };
        let rows: [(usize, Refusal); 10] = [
            (1, MISSING),
            (2, TOO_LARGE),
            (3, MALFORMED),
            (4, EXPIRING),
            (5, CLIENT_ID),
            (6, NO_RESOURCE),
            (7, NO_ZONE),
            (8, NO_CLIENT),
            (9, TRAVERSAL),
            (10, SIGNATURE),
        ];
        let asked = bed.sts.exchanges().len();
        for (right, refusal) in rows {
            let forged = forge(&bed.mandate(), |claims| wrong(claims, right));
            let authorization = match right {
                1 => "Basic x".to_owned(),
                2 => format!("Bearer {}", "x".repeat(5_000)),
                3 => "Bearer x".to_owned(),
                _ => format!("Bearer {forged}"),
            };
            let mut raw =
                Raw::new("GET", if right < 10 { "/../x" } else { "/x" }).with("authorization", authorization);
            if right < 6 {
                raw = raw.with("x-caracal-client-id", "app");
            }
            if right >= 7 {
                raw = raw.with("x-caracal-resource", ORDERS);
            }
            is(&format!("{right} rows are right"), &bed.send(&raw).await, refusal);
        }
        assert_eq!(bed.sts.exchanges().len(), asked);
        // After the signature come revocation, the operation, and then the STS.
        let [mut zone, other] = bed.zones();
        let until = now_ms() + 60_000;
        zone["revoked"] = json!([{ "kind": "agent_session", "id": "gone", "until": until }]);
        let revoked = bed.signed(|claims| claims["agent_session_id"] = json!("gone"));
        bed.fed("the revocation", vec![zone, other], &revoked, REVOKED).await;
        let undeclared = Raw { target: b"/v2".to_vec(), ..bed.bearer(&bed.mandate()) };
        bed.refuses("an operation", &undeclared, OPERATION, "operation_not_permitted").await;
        let unnamed = bed.bearer(&bed.signed(|claims| claims["target"] = json!([OPEN])));
        bed.refuses("a target", &unnamed, crate::NOT_TARGETED, "target_mismatch").await;
    });
}

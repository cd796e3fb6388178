//! Cases 11, 18 and 19: what the feed tells.

use caracal_tests::{Feeding, Raw, Reply, now_ms};
use serde_json::{Value, json};

use crate::real::real;
use crate::stand_in::stand_in;
use crate::{REVOKED, SIGNATURE, STALE, eventually};

#[test]
fn gateway_e_11_keys_that_are_none() {
    stand_in(async |bed| {
        let good = bed.sts.issuer.jwk();
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            json!([key])
        };
        let p384 = json!([{ "kty": "EC", "crv": "P-384", "alg": "ES384", "kid": "k1", "x": "A".repeat(64), "y": "A".repeat(64) }]);
        for (what, keys) in [
            ("none", json!([])),
            ("for encryption", with("use", json!("enc"))),
            ("not to verify with", with("key_ops", json!(["sign"]))),
            ("off the curve", with("x", json!("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"))),
            ("another algorithm", with("alg", json!("ES384"))),
            ("another curve", p384),
            ("half of it", with("y", json!("AQ"))),
        ] {
            let [mut zone, other] = bed.zones();
            zone["keys"] = keys;
            bed.fed(what, vec![zone, other], &bed.mandate(), SIGNATURE).await;
            bed.sts.feed(bed.zones().to_vec());
            eventually("the right key", async || {
                (bed.send(&bed.bearer(&bed.mandate())).await.status == 200).then_some(())
            })
            .await;
        }
    });
    // What is no feed changes nothing: what was known stays known until it is too old, and the next good answer counts.
    stand_in(async |bed| {
        let endless = bed.zones()[0].to_string().replace("\"z1\"", "\"../z1\"");
        let malformed = format!(
            r#"{{"previous":0,"generation":9,"snapshot":true,"issuer":"x","time":1,"zones":[{endless}]}}"#
        );
        for reply in [
            Reply::new(500, "text/plain", "no"),
            Reply::new(404, "application/json", "{}"),
            Reply::new(302, "text/html", ""),
            Reply::new(200, "text/html", "<h1>"),
            Reply::new(200, "application/json", "{"),
            Reply::json(200, &json!({ "zones": [] })),
            Reply::new(200, "application/json", malformed),
        ] {
            bed.sts.feed_like(Feeding::Badly(reply));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            bed.passes("with what was known", &bed.bearer(&bed.mandate())).await;
        }
        bed.sts.feed_like(Feeding::Well);
        let [mut zone, other] = bed.zones();
        zone["keys"] = json!([]);
        bed.fed("the next good answer", vec![zone, other], &bed.mandate(), SIGNATURE).await;
        assert!(bed.sts.strangers().is_empty(), "no redirect is followed: {:?}", bed.sts.strangers());
    });
}

#[test]
fn gateway_e_18_every_anchor_alone() {
    stand_in(async |bed| {
        for (kind, claim) in [
            ("authority_record", "sid"),
            ("authority_record", "root_sid"),
            ("agent_session", "agent_session_id"),
            ("delegation_edge", "delegation_edge_id"),
            ("application", "client_id"),
        ] {
            let name = |claims: &mut Value, id: &str| {
                claims[claim] = json!(id);
                if claim == "delegation_edge_id" {
                    claims["delegation_path"] = json!([id]);
                }
            };
            let gone = format!("gone-{claim}");
            let [mut zone, other] = bed.zones();
            zone["revoked"] = json!([{ "kind": kind, "id": gone, "until": now_ms() + 60_000 }]);
            let mandate = bed.signed(|claims| name(claims, &gone));
            bed.fed(claim, vec![zone, other], &mandate, REVOKED).await;
            let again = bed.signed(|claims| name(claims, &gone));
            bed.refuses(claim, &bed.bearer(&again), REVOKED, "revoked").await;
            // Its like passes, and so does the same id in another place.
            bed.passes(claim, &bed.bearer(&bed.signed(|claims| name(claims, "another")))).await;
            bed.passes(claim, &bed.bearer(&bed.signed(|claims| claims["sub"] = json!(gone)))).await;
            // Where nothing is named, nothing is revoked.
            if matches!(claim, "agent_session_id" | "delegation_edge_id") {
                let without = bed.signed(|claims| {
                    let members = claims.as_object_mut().unwrap();
                    for name in ["agent_session_id", "delegation_edge_id", "delegation_path", "hop_count"] {
                        members.remove(name);
                    }
                });
                bed.passes("without", &bed.bearer(&without)).await;
            }
        }
    });
    // The same, as operators revoke, and each alone.
    real(async |real| {
        for by in ["authority_record", "session", "edge"] {
            let agent = real.world.agent().await;
            let mandates = [real.world.mint(&agent).await, real.world.mint(&agent).await];
            real.passes(by, &real.bearer(&mandates[0])).await;
            let claims = caracal_tests::claims(&mandates[1]);
            let id = match by {
                "authority_record" => claims["sid"].as_str().unwrap(),
                "session" => &agent.session,
                _ => &agent.edge,
            };
            real.revoke(by, id).await;
            real.refuses(&[(by, real.bearer(&mandates[1]), REVOKED)]).await;
        }
    });
}

#[test]
fn gateway_e_19_feeds_that_are_old_or_from_strangers() {
    stand_in(async |bed| {
        for seconds in [40, -40] {
            bed.sts.feed_like(Feeding::Badly(Reply::new(500, "text/plain", "no")));
            bed.clock.step(seconds);
            let bare = Raw::new("GET", "/");
            eventually("a feed of another time", async || {
                (bed.send(&bare).await.status == 503).then_some(())
            })
            .await;
            for (what, raw) in [("nobody", bare), ("somebody", bed.bearer(&bed.mandate()))] {
                bed.refuses(&format!("{what} at {seconds} s"), &raw, STALE, "feed_stale").await;
            }
            bed.clock.step(0);
            bed.sts.feed_like(Feeding::Well);
            eventually("a feed of this time", async || {
                (bed.send(&bed.bearer(&bed.mandate())).await.status == 200).then_some(())
            })
            .await;
        }
    });
    // Nobody but a gateway is fed.
    real(async |real| {
        let path = "/internal/gateway/feed?gateway=edge&since=0&wait=1";
        let url = format!("{}{path}", real.stack.url("sts"));
        let now = (now_ms() / 1_000).to_string();
        let signed = |signature: &str| {
            let request = real.world.http.get(&url).header("x-caracal-gateway-timestamp", &now);
            request
                .header("x-caracal-gateway-request", "ab".repeat(32))
                .header("x-caracal-gateway-signature", signature)
        };
        for request in [real.world.http.get(&url), signed(""), signed(&"cd".repeat(32))] {
            let status = request.send().await.unwrap().status().as_u16();
            assert_eq!(status, 401);
        }
    });
}

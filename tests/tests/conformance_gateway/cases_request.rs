//! Cases 12 to 16, 21 and 22: what surrounds the bearer, and how often it counts.

use caracal_envoy::{BootstrapOptions, GatewayOptions, Shape, render};
use caracal_mandate::id::GatewayId;
use caracal_tests::{Raw, Reply, change_filter, filter_module, gateway_key, refused};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;

use crate::real::real;
use crate::stand_in::stand_in;
use crate::{CLIENT_ID, NO_RESOURCE, NOT_TARGETED, REPLAY, Refusal, TRAVERSAL, TWO_RESOURCES, is};

#[test]
fn gateway_e_12_the_resources_name() {
    real(async |real| {
        let authorization = format!("Bearer {}", real.mint().await);
        let bare = Raw::new("GET", "/v1/orders").with("authorization", &authorization);
        let named = |name: &[u8]| bare.clone().with("x-caracal-resource", name);
        let list = real.world.operate(Method::GET, &real.world.path("resources"), Value::Null).await;
        let row = list["items"][0]["id"].as_str().unwrap();
        let good = real.world.resource.as_bytes();
        // Envoy joins two lines with a comma, which makes a name that no mandate holds.
        let joined: Refusal = NOT_TARGETED;
        real.refuses(&[
            ("none", bare.clone(), NO_RESOURCE),
            ("blank", named(b" "), NO_RESOURCE),
            ("empty", named(b""), NO_RESOURCE),
            ("513 bytes", named(&[b'r'; 513]), NO_RESOURCE),
            ("not ASCII", named("resource://örders".as_bytes()), NO_RESOURCE),
            ("no text", named(&[0xff, 0xfe]), NO_RESOURCE),
            ("the row's id", named(row.as_bytes()), NOT_TARGETED),
            ("unknown", named(b"resource://nothing"), NOT_TARGETED),
        ])
        .await;
        let (asked, seen) = (real.asked().await, real.upstream.seen().len());
        let twice = real.send(&named(good).with("x-caracal-resource", good)).await.refusal();
        let told = (twice.0, twice.1.as_str(), twice.2.as_str());
        assert!(told == TWO_RESOURCES || told == joined, "{told:?}");
        assert_eq!((real.asked().await, real.upstream.seen().len()), (asked, seen));
        real.passes("its name with blanks around", &named(&[b" ", good, b"  "].concat())).await;
    });
}

#[test]
fn gateway_e_13_a_client_id_of_the_callers_own() {
    real(async |real| {
        let raw = real.bearer(&real.mint().await);
        let named = |name: &str| raw.clone().with("x-caracal-client-id", name);
        real.refuses(&[
            ("the right one", named(&real.world.application), CLIENT_ID),
            ("another", named("x"), CLIENT_ID),
            ("two", named("").with("x-caracal-client-id", "x"), CLIENT_ID),
        ])
        .await;
        real.passes("an empty one", &named("")).await;
    });
}

#[test]
fn gateway_e_14_paths() {
    stand_in(async |bed| {
        for path in [
            "/a/../b",
            "/..",
            "/%2e%2e/b",
            "/%2E%2e",
            "/%252e%252e/b",
            "/..%2f",
            "/..%2fb",
            "/%5c..",
            "/%255c",
            "/a\\b",
            "/%zz",
            "/a%",
            "/a%2",
            "/.",
            "/a/./b",
            "/./a",
            "/100%25",
        ] {
            bed.refuses(path, &bed.open("GET", path), TRAVERSAL, "path_traversal").await;
        }
        for path in [
            "/.env",
            "/.well-known/x",
            "/a..b",
            "/...",
            "/%E2%80%8B",
            "/%EF%BC%8E%EF%BC%8E/x",
            "/a;b=1/c",
            "/a/",
            "//a",
        ] {
            bed.passes(path, &bed.open("GET", path)).await;
            assert_eq!(bed.upstream.seen().last().unwrap().target, path);
        }
        // Decoded once and escaped anew: what was judged is what is sent.
        bed.passes("an encoded slash", &bed.open("GET", "/a%2Fb")).await;
        assert_eq!(bed.upstream.seen().last().unwrap().target, "/a/b");
    });
}

#[test]
fn gateway_e_15_a_mandate_counts_once() {
    real(async |real| {
        let first: SocketAddr = real.world.gateway.strip_prefix("http://").unwrap().parse().unwrap();
        let replays = real.world.audit("event_type=replay_detected").await.len();
        let mandate = real.mint().await;
        real.passes("the first time", &real.bearer(&mandate)).await;
        is("the second time", &real.send(&real.bearer(&mandate)).await, REPLAY);
        is("elsewhere", &real.bearer(&mandate).send(real.second.address()).await, REPLAY);
        // Fifty at a time, through two Envoys.
        let seen = real.upstream.seen().len();
        let raw = real.bearer(&real.mint().await);
        let calls: Vec<_> = (0..50)
            .map(|number| {
                let (raw, to) = (raw.clone(), if number % 2 == 0 { first } else { real.second.address() });
                tokio::spawn(async move { raw.send(to).await })
            })
            .collect();
        let mut passed = 0;
        for call in calls {
            let answered = call.await.unwrap();
            if answered.status == 200 {
                passed += 1;
            } else {
                is("one of fifty", &answered, REPLAY);
            }
        }
        assert_eq!((passed, real.upstream.seen().len()), (1, seen + 1));
        assert_eq!(real.world.audit("event_type=replay_detected").await.len(), replays + 51);
    });
}

#[test]
fn gateway_e_16_where_a_use_cannot_be_recorded_nothing_passes() {
    stand_in(async |bed| {
        let away = json!({ "error": "sts_unavailable", "error_description": "storage unavailable" });
        for reply in [Reply::json(503, &away), Reply::json(401, &json!({ "error": "invalid_token" }))] {
            let status = reply.status;
            let text = if status == 503 { "storage unavailable" } else { "" };
            let error = if status == 503 { "sts_unavailable" } else { "invalid_token" };
            bed.sts.answer(reply);
            bed.refuses_after_asking("it cannot", &bed.bearer(&bed.mandate()), (status, error, text)).await;
        }
        let asked = bed.sts.exchanges();
        assert_eq!(asked.last().unwrap()["gateway_burn_jti"], "1", "the STS is asked to record the use");
    });
    // There is no option by which it could be otherwise.
    real(async |real| {
        let shape = Shape::Gateway(GatewayOptions::default());
        let options = BootstrapOptions::new(GatewayId::new("open").unwrap(), shape, filter_module());
        let mut bootstrap = render(&options);
        change_filter(&mut bootstrap, |filter| filter["jti_fail_open"] = json!(true));
        let output = refused(&bootstrap, &gateway_key(&real.stack)).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("jti_fail_open"), "{errors}");
    });
}

#[test]
fn gateway_e_21_every_mandate_is_exchanged_for_itself() {
    real(async |real| {
        let mut raws = Vec::new();
        for _ in 0..25 {
            raws.push(real.bearer(&real.mint().await));
        }
        let gateway: SocketAddr = real.world.gateway.strip_prefix("http://").unwrap().parse().unwrap();
        let (asked, seen) = (real.asked().await, real.upstream.seen().len());
        let calls: Vec<_> =
            raws.into_iter().map(|raw| tokio::spawn(async move { raw.send(gateway).await.status })).collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), 200);
        }
        assert_eq!(real.asked().await, asked + 25);
        let carried: HashSet<String> = real.upstream.seen()[seen..]
            .iter()
            .map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned())
            .collect();
        assert_eq!(carried.len(), 25, "each has a derived mandate of its own");
    });
}

#[test]
fn gateway_e_22_headers_that_are_not_the_callers() {
    real(async |real| {
        let good = real.bearer(&real.mint().await);
        let raw = good
            .with("x-caracal-identity", "me")
            .with("x-caracal-upstream", "sts")
            .with("x-forwarded-for", "1.2.3.4")
            .with("x-forwarded-host", "evil.example")
            .with("x-forwarded-proto", "https")
            .with("forwarded", "for=1.2.3.4")
            .with("x-real-ip", "1.2.3.4")
            .with("proxy-authorization", "Basic x")
            .with("te", "trailers")
            .with("x-http-method-override", "DELETE")
            .with("connection", "x-nominated")
            .with("x-nominated", "1")
            .with("cookie", "kept=1")
            .with("baggage", "caracal.session=x, tenant=1")
            .with("baggage", "caracal.hop=1,other=2;p=3")
            .with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        real.passes("all at once", &raw).await;
        let seen = real.upstream.seen();
        let headers = &seen.last().unwrap().headers;
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        for name in [
            "x-caracal-identity",
            "x-caracal-upstream",
            "x-caracal-resource",
            "forwarded",
            "x-real-ip",
            "proxy-authorization",
            "te",
            "x-http-method-override",
            "connection",
            "x-nominated",
        ] {
            assert_eq!(text(name), None, "{name}");
        }
        assert_eq!(text("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(text("x-forwarded-host").as_deref(), Some("gateway"));
        assert_eq!(text("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(text("baggage").as_deref(), Some("tenant=1,other=2;p=3"));
        assert_eq!(text("cookie").as_deref(), Some("kept=1"));
        let trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(text("traceparent").as_deref(), trace);
        // Nominated away, a bearer is not there; and requests that two servers could cut differently go nowhere.
        let (asked, seen) = (real.asked().await, real.upstream.seen().len());
        let mandate = real.mint().await;
        let asked = asked + 1;
        let nominated = real.bearer(&mandate).with("connection", "authorization, x-api-key");
        is("a nominated bearer", &real.send(&nominated).await, crate::MISSING);
        for (what, raw) in [
            (
                "a length and chunks",
                real.bearer(&mandate).with("transfer-encoding", "chunked").with("content-length", "3"),
            ),
            ("two lengths", real.bearer(&mandate).with("content-length", "3").with("content-length", "4")),
            ("an underscore", real.bearer(&mandate).with("x_caracal_resource", "resource://other")),
        ] {
            let answered = real.send(&raw).await;
            assert!(answered.status == 400 || answered.status == 0, "{what}: {answered:?}");
        }
        assert_eq!((real.asked().await, real.upstream.seen().len()), (asked, seen));
    });
}

//! Decisions that the filter makes alone, the doubts in which it asks the STS, and what it remembers of the answers.

// Helpers of tests may fail loudly, like the tests themselves.

use crate::support::{
    ANSWERED, FAILED, ISSUER, NOW, World, anchor, gateway_configuration, json_answer, poller,
    sidecar_configuration,
};
use caracal_filter::host::Answer;
use caracal_filter::request::{Flow, Request};
use serde_json::{Value, json};

const SECOND: u64 = 1_000;

/// A request for this resource at a gateway.
fn stream(world: &World, resource: &str, token: &str) -> Request {
    let authorization = format!("Bearer {token}");
    let mut headers = world.good(&authorization);
    headers.retain(|(name, _)| *name != "x-caracal-resource");
    headers.push(("x-caracal-resource", resource));
    world.stream(&headers)
}

/// Sends a request that has to be forwarded without a call.
fn passes_alone(world: &World, resource: &str, token: &str) {
    let calls = world.calls();
    let mut request = stream(world, resource, token);
    assert_eq!(request.on_request_headers(), Flow::Continue, "{resource}");
    assert_eq!(world.calls(), calls, "{resource}: the STS was asked");
    request.on_end();
}

fn upstream_of(world: &World) -> (String, Vec<String>) {
    (world.host.request_header(":authority").concat(), world.host.request_header("authorization"))
}

/// What an exchange grants for `resource`: a derived mandate with this `sid`.
fn granted(world: &World, resource: &str, sid: &str, directive: Value) -> (Option<Answer>, String) {
    let derived = world.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!([resource]);
        claims["sid"] = json!(sid);
    });
    let answer = json_answer(200, &json!({"access_token": derived, "upstreams": {resource: directive}}));
    (Some(answer), format!("Bearer {derived}"))
}

/// The zone as it is, under a policy of this epoch.
fn policy(epoch: u64) -> Value {
    json!({"zone_id": "z1", "authority_epoch": epoch, "policy_epoch": epoch})
}

#[test]
fn an_upstream_without_a_credential_needs_nobody() {
    let mut world = World::new(&gateway_configuration());
    let token = world.multi_use_token(|_| {});
    for _ in 0..3 {
        passes_alone(&world, "resource://open", &token);
        assert_eq!(
            upstream_of(&world),
            ("open.example:9000".into(), vec![]),
            "no credential, and no mandate"
        );
        assert_eq!(world.host.request_header("x-caracal-upstream"), ["dfp_plain"]);
    }
    let single = world.token(|_| {});
    assert_eq!(stream(&world, "resource://open", &single).on_request_headers(), Flow::Pause);
    assert!(world.host.last_sent().form().contains_key("gateway_burn_jti"), "single use stays single use");
    world.revoke("T");
    assert_eq!(stream(&world, "resource://open", &token).on_request_headers(), Flow::Pause);
    assert_eq!(world.last_refusal().2, "session revoked");
}

#[test]
fn d4_each_resource_may_have_a_cluster_of_its_own() {
    let mut configuration = gateway_configuration();
    configuration["clusters"] = json!("resource");
    let world = World::new(&configuration);
    passes_alone(&world, "resource://open", &world.multi_use_token(|_| {}));
    let cluster = "upstream|z1|resource://open|http|open.example|9000";
    assert_eq!(world.host.request_header("x-caracal-upstream"), [cluster]);
    assert_eq!(world.host.request_header(":authority"), ["open.example:9000"]);
}

#[test]
fn a_derived_mandate_is_kept_as_long_as_the_sts_allows() {
    let until = NOW / 1000 + 100;
    let directive =
        json!({"url": "http://derived.example", "auth_mode": "caracal_jwt", "cache_until": until});
    let world = World::new(&gateway_configuration());
    let token = world.multi_use_token(|_| {});
    let mut request = stream(&world, "resource://derived", &token);
    assert_eq!(request.on_request_headers(), Flow::Pause);
    assert_eq!(world.host.last_sent().header(":path"), "/oauth/2/token");
    assert!(!world.host.last_sent().form().contains_key("gateway_burn_jti"));
    let (answer, derived) = granted(&world, "resource://derived", "D1", directive.clone());
    world.answer(&mut request, answer);
    assert_eq!(world.host.resumed.get(), 1);
    for _ in 0..3 {
        passes_alone(&world, "resource://derived", &token);
        assert_eq!(upstream_of(&world), ("derived.example".into(), vec![derived.clone()]));
    }
    let other = world.multi_use_token(|claims| claims["jti"] = json!("j2"));
    assert_eq!(
        stream(&world, "resource://derived", &other).on_request_headers(),
        Flow::Pause,
        "nobody else's"
    );

    // A new entry for the resource, the end that the STS set, and the end of the derived mandate itself.
    let entry = json!({"identifier": "resource://derived", "enforcement": "transport_uniform", "multi_use": true,
                       "upstream": {"url": "http://moved.example", "credential": "mandate"}});
    let moved = json!({"zone_id": "z1", "authority_epoch": 3, "policy_epoch": 0, "resources": [entry]});
    let revoked = json!({"zone_id": "z1", "authority_epoch": 3, "policy_epoch": 0,
                         "revoked": [{"kind": "authority_record", "id": "D2", "until": NOW + 1_000_000}]});
    type Change<'a> = Box<dyn Fn(&mut World) + 'a>;
    let changes: [(&str, Change<'_>); 3] = [
        ("moved", Box::new(|world| world.share_delta(&moved))),
        ("revoked", Box::new(|world| world.share_delta(&revoked))),
        (
            "late",
            Box::new(|world| {
                world.host.now.set(NOW + 100 * SECOND);
                world.share_status();
            }),
        ),
    ];
    for (name, change) in changes {
        let mut world = World::new(&gateway_configuration());
        let token = world.multi_use_token(|_| {});
        let mut request = stream(&world, "resource://derived", &token);
        request.on_request_headers();
        let (answer, _) = granted(&world, "resource://derived", "D2", directive.clone());
        world.answer(&mut request, answer);
        passes_alone(&world, "resource://derived", &token);
        change(&mut world);
        assert_eq!(stream(&world, "resource://derived", &token).on_request_headers(), Flow::Pause, "{name}");
        assert_eq!(world.calls(), 2, "{name}");
    }
}

#[test]
fn without_a_word_of_the_sts_no_grant_is_kept() {
    let world = World::new(&gateway_configuration());
    let token = world.multi_use_token(|_| {});
    let secret =
        json!({"url": "http://keyed.example", "auth_mode": "provider_apikey", "provider_token": "s"});
    for calls in 1..4 {
        let mut request = stream(&world, "resource://keyed", &token);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        let (answer, _) = granted(&world, "resource://keyed", "D", secret.clone());
        world.answer(&mut request, answer);
        assert_eq!(world.host.resumed.get(), calls);
        assert_eq!(upstream_of(&world).1, ["s"]);
    }
    let mut kept = secret;
    kept["cache_until"] = json!(NOW / 1000 + 5);
    let mut request = stream(&world, "resource://keyed", &token);
    request.on_request_headers();
    let (answer, _) = granted(&world, "resource://keyed", "D", kept);
    world.answer(&mut request, answer);
    passes_alone(&world, "resource://keyed", &token);
    assert_eq!(upstream_of(&world).1, ["s"]);
}

/// At a gateway and at a resource's door: who asks, and a token of the class that is accepted there.
fn doors() -> [(World, String); 2] {
    let gateway = World::new(&gateway_configuration());
    let at_gateway = gateway.multi_use_token(|_| {});
    let mut configuration = sidecar_configuration();
    configuration["binding"]["fixed"]["resource"] = json!("resource://open");
    let door = World::new(&configuration);
    let at_door = door.token(|claims| {
        claims["use"] = json!("resource");
        claims["aud"] = json!(["resource://open"]);
    });
    [(gateway, at_gateway), (door, at_door)]
}

#[test]
fn after_a_change_of_policy_the_sts_is_asked_once() {
    for (mut world, token) in doors() {
        passes_alone(&world, "resource://open", &token);
        world.share_delta(&policy(4));
        let mut request = stream(&world, "resource://open", &token);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        let sent = world.host.last_sent();
        assert_eq!(sent.header(":path"), "/internal/gateway/check");
        let form = sent.form();
        assert_eq!(form["subject_token"], token);
        assert!(["gateway", "resource"].contains(&form["mandate_use"].as_str()));
        assert!(!form.contains_key("gateway_burn_jti"));
        assert_eq!((form["request_method"].as_str(), form["request_path"].as_str()), ("GET", "/v1/orders"));
        world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
        assert_eq!(world.host.resumed.get(), 1);
        for _ in 0..3 {
            passes_alone(&world, "resource://open", &token);
        }
        // Policy changes again: that answer was about another policy.
        world.share_delta(&policy(5));
        let mut request = stream(&world, "resource://open", &token);
        assert_eq!(request.on_request_headers(), Flow::Pause);
        let denied =
            json!({"error": "access_denied", "error_description": "policy denied (x)", "lasting": true});
        world.answer(&mut request, Some(json_answer(403, &denied)));
        assert_eq!(world.last_refusal(), (403, "access_denied".into(), "policy denied (x)".into()));
        let calls = world.calls();
        for _ in 0..3 {
            assert_eq!(stream(&world, "resource://open", &token).on_request_headers(), Flow::Pause);
            assert_eq!(world.last_refusal().2, "policy denied (x)");
        }
        assert_eq!((world.calls(), world.host.resumed.get()), (calls, 1));
    }
}

#[test]
fn a_refusal_that_may_pass_is_asked_for_again() {
    for (mut world, token) in doors() {
        world.share_delta(&policy(4));
        for (calls, status) in [(1, 403), (2, 429)] {
            let mut request = stream(&world, "resource://open", &token);
            assert_eq!(request.on_request_headers(), Flow::Pause);
            assert_eq!(world.calls(), calls);
            world.answer(
                &mut request,
                Some(json_answer(status, &json!({"error": "access_denied", "error_description": "no"}))),
            );
            assert_eq!(world.last_refusal().0, status);
        }
        let mut request = stream(&world, "resource://open", &token);
        request.on_request_headers();
        world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
        assert_eq!(world.host.resumed.get(), 1);
    }
}

#[test]
fn a_mandate_newer_than_the_filter_is_checked_every_time() {
    for (world, _) in doors() {
        let usage = if world.worker().config.role.name() == "gateway" { "gateway" } else { "resource" };
        let token = world.multi_use_token(|claims| {
            claims["authority_epoch"] = json!(9);
            claims["use"] = json!(usage);
            if usage == "resource" {
                claims["aud"] = json!(["resource://open"]);
            }
        });
        for round in 1..4 {
            let mut request = stream(&world, "resource://open", &token);
            assert_eq!(request.on_request_headers(), Flow::Pause);
            assert_eq!(world.calls(), usize::try_from(round).unwrap());
            world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
            assert_eq!(world.host.resumed.get(), round);
        }
    }
}

#[test]
fn in_doubt_and_without_the_sts_nothing_passes() {
    let behind = (503, "sts_unavailable".to_owned(), "authority state is being refreshed".to_owned());
    let changed =
        (401, "invalid_token".to_owned(), "policy changed since this mandate was minted".to_owned());
    for (epoch, expected) in [(9, &behind), (3, &changed)] {
        for (mut world, _) in doors() {
            world.share_delta(&policy(4));
            let usage = world.worker().config.role.name();
            let token = world.multi_use_token(|claims| {
                claims["authority_epoch"] = json!(epoch);
                claims["use"] = json!(usage);
                if usage == "resource" {
                    claims["aud"] = json!(["resource://open"]);
                }
            });
            let text = Answer { status: 503, media_type: "text/plain".into(), body: b"no".to_vec() };
            for answer in [None, Some(text), Some(json_answer(200, &json!({"active": false})))] {
                let mut request = stream(&world, "resource://open", &token);
                assert_eq!(request.on_request_headers(), Flow::Pause);
                world.answer(&mut request, answer);
                assert_eq!(world.last_refusal(), *expected);
            }
            let mut request = stream(&world, "resource://open", &token);
            request.on_request_headers();
            world.answer(&mut request, None);
            // The circuit is open by now, and a cluster that is not there is no better.
            for gone in [false, true] {
                world.host.no_clusters.set(gone);
                assert_eq!(stream(&world, "resource://open", &token).on_request_headers(), Flow::Pause);
                assert_eq!(world.last_refusal(), *expected);
            }
            assert_eq!(world.host.resumed.get(), 0);
        }
    }
}

#[test]
fn a_mandate_revoked_while_it_is_checked_is_refused() {
    for (mut world, token) in doors() {
        world.share_delta(&policy(4));
        let mut request = stream(&world, "resource://open", &token);
        request.on_request_headers();
        world.share_delta(
            &json!({"zone_id": "z1", "authority_epoch": 5, "policy_epoch": 4, "revoked": [anchor("T")]}),
        );
        world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
        assert_eq!(world.last_refusal().2, "session revoked");
        assert_eq!(world.host.resumed.get(), 0);
    }
}

#[test]
fn evidence_tells_who_decided_and_why_the_sts_was_asked() {
    let [(mut world, token), _] = doors();
    passes_alone(&world, "resource://open", &token);
    world.share_delta(&policy(4));
    let mut request = stream(&world, "resource://open", &token);
    request.on_request_headers();
    world.answer(&mut request, Some(json_answer(200, &json!({"active": true}))));
    request.on_end();
    passes_alone(&world, "resource://open", &token);
    world.host.now.set(NOW + 300);
    let host = std::rc::Rc::clone(&world.host);
    world.root.on_tick(host.as_ref());
    let batch: Value = serde_json::from_str(&host.last_sent().body).unwrap();
    let events = caracal_mandate::delivery::events(&batch).unwrap();
    let metadata = events.iter().map(|event| &event["metadata"]);
    let told: Vec<_> = metadata.map(|metadata| (&metadata["decided_by"], &metadata["doubt"])).collect();
    let (filter, sts, changed) = (&json!("filter"), &json!("sts"), &json!("policy_changed"));
    assert_eq!(told, [(filter, &Value::Null), (sts, changed), (filter, changed)]);
}

#[test]
fn a_clock_that_is_hours_off_loses_no_revocation() {
    const HOURS: u64 = 5 * 3_600 * SECOND;
    for stepped in [NOW + HOURS, NOW - HOURS] {
        let mut world = World::without_feed(&sidecar_configuration());
        let host = std::rc::Rc::clone(&world.host);
        let mut poller = poller(&host);
        let answer = |poller: &mut caracal_filter::feed::FeedPoller, body: &Value| {
            *host.answer.borrow_mut() = Some(json_answer(200, body));
            poller.on_answer(host.as_ref(), host.last_sent().token, ANSWERED);
        };
        poller.on_tick(host.as_ref());
        answer(&mut poller, &world.snapshot(&["T"]));
        let authorization = format!("Bearer {}", world.resource_token());
        assert_eq!(world.stream(&world.good(&authorization)).on_request_headers(), Flow::Pause);
        assert_eq!(world.last_refusal().2, "session revoked");
        host.now.set(stepped);
        // The STS answers, and has something to tell: the revoked session stays revoked, at the time of the STS.
        let delta = json!({"previous": 10, "generation": 11, "snapshot": false, "issuer": ISSUER, "time": NOW,
                           "zones": [{"zone_id": "z1", "authority_epoch": 4, "policy_epoch": 0, "revoked": [anchor("x")]}]});
        answer(&mut poller, &delta);
        host.now.set(NOW);
        world.generation = 11;
        let status = caracal_filter::snapshot::Status::from_bytes(&host.shared.borrow()["status"]).unwrap();
        world.lineage = status.lineage;
        world.share_status();
        assert_eq!(world.stream(&world.good(&authorization)).on_request_headers(), Flow::Pause);
        assert_eq!(world.last_refusal().2, "session revoked", "{stepped}");
    }
}

#[test]
fn where_an_anchor_is_forgotten_every_mandate_that_names_it_has_expired() {
    let mut world = World::without_feed(&sidecar_configuration());
    let host = std::rc::Rc::clone(&world.host);
    let mut poller = poller(&host);
    poller.on_tick(host.as_ref());
    let mut snapshot = world.snapshot(&["T"]);
    // The own clock stands still, hours ago; the STS's says that the anchor has outlived its mandates.
    snapshot["time"] = json!(NOW + 3_600 * SECOND);
    *host.answer.borrow_mut() = Some(json_answer(200, &snapshot));
    poller.on_answer(host.as_ref(), host.last_sent().token, ANSWERED);
    let authorization = format!("Bearer {}", world.resource_token());
    assert_eq!(world.refused(&world.good(&authorization)).1, "credential_expired_not_renewable");
    world.share_snapshot(&[]);
    assert_eq!(
        world.stream(&world.good(&authorization)).on_request_headers(),
        Flow::Continue,
        "by its own time"
    );
}

#[test]
fn a_clock_that_is_set_back_delays_neither_poll_nor_evidence() {
    let mut world = World::without_feed(&gateway_configuration());
    let host = std::rc::Rc::clone(&world.host);
    let mut poller = poller(&host);
    poller.on_tick(host.as_ref());
    poller.on_answer(host.as_ref(), host.last_sent().token, FAILED);
    world.refused(&[(":method", "GET"), (":path", "/")]);
    let calls = world.calls();
    host.now.set(NOW - 3_600 * SECOND);
    poller.on_tick(host.as_ref());
    world.root.on_tick(host.as_ref());
    assert_eq!(world.calls(), calls + 2);
}

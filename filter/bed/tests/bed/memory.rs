//! How much linear memory a worker takes. It never shrinks, so its size is the most that was ever needed.

use std::ops::Range;

use caracal_filter_bed::process::{Process, RESOURCE, gateway, sidecar};
use caracal_filter_bed::stream::Action;
use serde_json::{Value, json};

use crate::{fed, module};

const MEGABYTE: usize = 1024 * 1024;

/// An Envoy whose only worker knows so many revoked anchors and resources.
fn knowing(configuration: &Value, anchors: usize, resources: usize) -> Process<'static> {
    let mut process = Process::start(module(), configuration, 1).unwrap();
    for number in 0..anchors {
        process.revoke(&format!("0199c0de-0000-7000-8000-{number:012x}"));
    }
    let operation = |number: usize| json!({"method": "GET", "path": format!("/v1/items/{number}"), "scope": "items:read"});
    let resource = |number: usize| {
        json!({"identifier": format!("resource://service-{number}"), "enforcement": "enforced", "scopes": ["items:read"],
            "operations": [operation(1), operation(2), operation(3)],
            "upstream": {"url": format!("http://service-{number}.internal:8080"), "credential": "mandate"}})
    };
    process.more_resources = (0..resources).map(resource).collect::<Vec<Value>>();
    process.pass(300).unwrap();
    process
}

/// A worker that knows so many revoked anchors and resources; its memory in bytes.
fn worker_with(anchors: usize, resources: usize) -> usize {
    let mut process = knowing(&gateway(), anchors, resources);
    let request = process.request(&process.mandate());
    assert!(process.send(0, request).unwrap().forwarded);
    let mut claims = process.claims();
    claims["agent_session_id"] = json!(format!("0199c0de-0000-7000-8000-{:012x}", anchors / 2));
    let request = process.request(&process.issuer.token(&claims));
    assert!(anchors == 0 || !process.send(0, request).unwrap().forwarded, "it knows them");
    process.workers[0].memory()
}

#[test]
fn ten_thousand_anchors_and_a_thousand_resources_fit_into_four_megabytes() {
    for (anchors, resources) in [(0, 0), (10_000, 1_000), (100_000, 1_000)] {
        let memory = worker_with(anchors, resources);
        println!(
            "a worker with {anchors} revoked anchors and {resources} resources: {memory} bytes of memory"
        );
        if anchors <= 10_000 {
            assert!(memory <= 4 * MEGABYTE, "{anchors} anchors: {memory} bytes");
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_requests() {
    let mut configuration = gateway();
    configuration["signature_cache"] = json!(100);
    let mut process = fed(&configuration);
    let mut requests = |count: usize| {
        for number in 0..count {
            let mandate = if number % 3 == 0 { "no.mandate.x".to_owned() } else { process.mandate() };
            let request = process.request(&mandate);
            let id = process.workers[0].open(request).unwrap();
            if process.workers[0].request_headers(id, false).unwrap() == Action::Pause {
                process.serve().unwrap();
            }
            process.workers[0].request_body(id, &[b'x'; 500], true).unwrap();
            if process.workers[0].stream(id).forwarded {
                process.workers[0].response_headers(id, &[(":status", "200")]).unwrap();
                process.workers[0].response_body(id, &[b'x'; 5_000], true).unwrap();
            }
            process.workers[0].close(id).unwrap();
            if number % 50 == 0 {
                process.pass(100).unwrap();
                process.events.clear();
            }
        }
        process.workers[0].memory()
    };
    let warm = requests(600);
    let later = requests(1_500);
    assert!(later <= warm + MEGABYTE / 4, "{warm} bytes, and later {later}");
}

/// The claims of a mandate as the STS makes them: every id a UUID of its own.
fn usual(mut claims: Value, number: usize) -> Value {
    let id = |kind: usize| json!(format!("0199c0de-0000-7000-9{kind:03x}-{number:012x}"));
    for (kind, claim) in
        ["jti", "sid", "root_sid", "agent_session_id", "delegation_edge_id"].iter().enumerate()
    {
        claims[*claim] = id(kind);
    }
    let application = json!("0199c0de-0000-7000-8000-aaaaaaaaaaaa");
    (claims["sub"], claims["client_id"]) = (application.clone(), application.clone());
    (claims["source_session_id"], claims["target_session_id"]) = (id(9), claims["agent_session_id"].clone());
    claims["delegation_path"] = json!([claims["delegation_edge_id"]]);
    claims["delegation_chain"] = json!([
        {"application_id": application, "agent_session_id": id(9), "delegation_edge_id": claims["delegation_edge_id"]},
        {"application_id": application, "agent_session_id": claims["agent_session_id"]},
    ]);
    claims
}

/// Sends so many mandates of their own, which all have to pass; answers how many of them a worker still knows.
fn fill(process: &mut Process<'_>, numbers: Range<usize>, claims: &dyn Fn(&Process<'_>) -> Value) -> usize {
    let count = numbers.len();
    let token = |number| process.issuer.token(&usual(claims(process), number));
    let tokens: Vec<String> = numbers.map(token).collect();
    let mut send_all = || {
        for (number, token) in tokens.iter().enumerate() {
            let request = process.request(token);
            assert!(process.send(0, request).unwrap().forwarded);
            if number % 100 == 0 {
                process.pass(100).unwrap();
                process.events.clear();
            }
        }
        usize::try_from(process.world.calls_of("proxy_call_foreign_function")).unwrap()
    };
    let once = send_all();
    count - (send_all() - once)
}

fn for_the_resource(process: &Process<'_>) -> Value {
    let mut claims = process.claims();
    (claims["use"], claims["aud"]) = (json!("resource"), json!([RESOURCE]));
    claims
}

fn reusable(process: &Process<'_>) -> Value {
    let mut claims = process.claims();
    claims["multi_use"] = json!(true);
    claims
}

#[test]
fn everything_that_is_remembered_fits_into_four_megabytes() {
    let service: &dyn Fn(&Process<'_>) -> Value = &for_the_resource;
    // Where policy changed, the STS is asked about each mandate, and what it says is remembered too.
    let cases =
        [(sidecar(), 0, 3_400, service), (sidecar(), 9, 3_400, service), (gateway(), 0, 1_000, &reusable)];
    for (configuration, policy_epoch, many, claims) in cases {
        let role = configuration["role"].clone();
        let mut process = knowing(&configuration, 10_000, 1_000);
        (process.reusable, process.policy_epoch) = (role == "gateway", policy_epoch);
        process.lose_changes();
        process.pass(1_500).unwrap();
        let known = fill(&mut process, 0..many, claims);
        println!("{role}, policy {policy_epoch}: {} bytes with {many} mandates", process.workers[0].memory());
        assert_eq!(known, many, "it remembers all of them");
        if role == "gateway" {
            assert_eq!(process.exchanges, many as u64, "with what was granted");
        }
        fill(&mut process, 10_000..11_500, claims);
        let memory = process.workers[0].memory();
        println!("{role}, policy {policy_epoch}: {memory} bytes with more than it may remember");
        assert!(memory <= 4 * MEGABYTE, "{memory} bytes");
    }
}

#[test]
fn mandates_of_any_length_take_no_more_than_usual_ones() {
    let mut process = knowing(&sidecar(), 10_000, 1_000);
    for number in 0..3_000 {
        let mut claims = usual(for_the_resource(&process), number);
        // As long as a bearer may be.
        let others = (0..65).map(|other| json!(format!("resource://other-{number}-{other}")));
        claims["target"] = others.chain([json!(RESOURCE)]).collect();
        let request = process.request(&process.issuer.token(&claims));
        assert!(process.send(0, request).unwrap().forwarded);
        if number % 100 == 0 {
            process.pass(100).unwrap();
            process.events.clear();
        }
    }
    let memory = process.workers[0].memory();
    println!("a worker after long mandates: {memory} bytes");
    assert!(memory <= 4 * MEGABYTE, "{memory} bytes");
}

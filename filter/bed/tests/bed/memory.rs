//! How much linear memory a worker takes. It never shrinks, so its size is the most that was ever needed.

use caracal_filter_bed::process::{Process, gateway};
use caracal_filter_bed::stream::Action;
use serde_json::{Value, json};

use crate::{fed, module};

const MEGABYTE: usize = 1024 * 1024;

/// A worker that knows so many revoked anchors and resources; its memory in bytes.
fn worker_with(anchors: usize, resources: usize) -> usize {
    let mut process = Process::start(module(), &gateway(), 1).unwrap();
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

#[test]
fn remembered_signatures_take_what_their_number_says() {
    let mut configuration = gateway();
    configuration["signature_cache"] = json!(1_000);
    let mut process = fed(&configuration);
    let before = process.workers[0].memory();
    for number in 0..2_200 {
        let request = process.request(&process.mandate());
        assert!(process.send(0, request).unwrap().forwarded);
        if number % 100 == 0 {
            process.pass(300).unwrap();
            process.events.clear();
        }
    }
    let after = process.workers[0].memory();
    println!("a worker that remembers 1000 signatures takes {} bytes more", after - before);
    assert!(after - before <= 3 * MEGABYTE, "{before} bytes, and later {after}");
}

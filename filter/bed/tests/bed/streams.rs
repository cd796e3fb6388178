//! One stream from its headers to its end: bodies, responses, and what the upstream gets.

use caracal_filter_bed::process::{Services, gateway, sidecar};
use caracal_filter_bed::stream::Action;

use crate::{fed, refusal};

#[test]
fn what_goes_on_is_what_was_granted_and_nothing_of_the_callers() {
    let mut process = fed(&gateway());
    let request = process.request(&process.mandate());
    let stream = process.send(0, request).unwrap();
    assert!(stream.forwarded && stream.resumed == 1 && stream.replied.is_none());
    assert_eq!(stream.header("authorization").as_deref(), Some("Bearer derived"));
    assert_eq!(stream.header("x-caracal-identity"), None);
    assert_eq!(stream.header("x-caracal-resource"), None);
    assert_eq!(stream.header(":authority").as_deref(), Some("upstream.example:9000"));
    assert_eq!(stream.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    process.pass(1_000).unwrap();
    assert_eq!(process.events.len(), 1);
    assert_eq!(process.events[0]["decision"], "allow");
}

#[test]
fn signatures_are_verified_by_the_host_or_by_the_module_alike() {
    for verifies in [true, false] {
        let mut process =
            caracal_filter_bed::process::Process::start(crate::module(), &gateway(), 0).unwrap();
        process.world.verify(verifies);
        let worker = caracal_filter_bed::vm::Vm::start(
            crate::module(),
            &process.world,
            gateway().to_string().as_bytes(),
        );
        process.workers.push(worker.unwrap().unwrap());
        process.pass(300).unwrap();
        assert_eq!(process.world.metric("caracal_gateway_signatures_by_host"), i64::from(verifies));
        let good = process.mandate();
        let forged = caracal_filter_bed::issuer::forge(&good, |claims| claims["sub"] = "another".into());
        let request = process.request(&forged);
        assert_eq!(refusal(&process.send(0, request).unwrap()).1, "bearer signature invalid");
        let request = process.request(&good);
        assert!(process.send(0, request).unwrap().forwarded);
    }
}

#[test]
fn a_body_waits_for_the_decision_and_has_its_bound() {
    let mut process = fed(&gateway());
    process.sts = Services::Silent;
    let request = process.request(&process.mandate());
    let id = process.workers[0].open(request).unwrap();
    assert_eq!(process.workers[0].request_headers(id, false).unwrap(), Action::Pause);
    process.serve().unwrap();
    assert_eq!(process.workers[0].request_body(id, b"early", false).unwrap(), Action::Pause);
    assert_eq!(process.workers[0].request_trailers(id).unwrap(), Action::Pause);
    assert!(!process.workers[0].stream(id).forwarded);
    process.sts = Services::Good;
    process.serve().unwrap();
    assert!(process.workers[0].stream(id).forwarded);
    assert_eq!(process.workers[0].request_body(id, &[b'x'; 900], false).unwrap(), Action::Continue);
    assert_eq!(process.workers[0].request_body(id, &[b'x'; 200], false).unwrap(), Action::Pause);
    let stream = process.workers[0].close(id).unwrap();
    assert_eq!(refusal(&stream).0, 413);
}

#[test]
fn a_response_is_cleaned_and_cut_when_its_session_is_revoked() {
    let mut process = fed(&gateway());
    let request = process.request(&process.mandate());
    let id = process.workers[0].open(request).unwrap();
    process.workers[0].request_headers(id, true).unwrap();
    process.serve().unwrap();
    let headers =
        [(":status", "200"), ("server", "x"), ("connection", "x-hop"), ("x-hop", "1"), ("x-kept", "1")];
    assert_eq!(process.workers[0].response_headers(id, &headers).unwrap(), Action::Continue);
    let names: Vec<&str> =
        process.workers[0].stream(id).response.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains(&"x-kept") && !names.contains(&"server") && !names.contains(&"x-hop"),
        "{names:?}"
    );
    assert_eq!(process.workers[0].response_body(id, b"one", false).unwrap(), Action::Continue);
    process.revoke("session-1");
    process.pass(100).unwrap();
    assert_eq!(process.workers[0].response_body(id, b"two", false).unwrap(), Action::Pause);
    assert_eq!(process.workers[0].response_body(id, b"three", true).unwrap(), Action::Pause);
    assert!(process.workers[0].close(id).unwrap().reset);
    process.pass(1_000).unwrap();
    assert_eq!(process.events[0]["metadata"]["revocation_interrupted"], true);
}

#[test]
fn what_the_sts_answers_after_the_caller_left_changes_nothing() {
    let mut process = fed(&gateway());
    process.sts = Services::Silent;
    let request = process.request(&process.mandate());
    let id = process.workers[0].open(request).unwrap();
    process.workers[0].request_headers(id, true).unwrap();
    process.serve().unwrap();
    assert!(!process.workers[0].close(id).unwrap().forwarded);
    process.sts = Services::Good;
    process.serve().unwrap();
    process.pass(1_000).unwrap();
    assert_eq!(process.events[0]["evaluation_status"], "cancelled");
    let request = process.request(&process.mandate());
    assert!(process.send(0, request).unwrap().forwarded);
}

#[test]
fn a_sidecar_decides_alone() {
    let mut process = fed(&sidecar());
    process.sts = Services::Away;
    let request = process.request(&process.resource_mandate());
    let stream = process.send(1, request).unwrap();
    assert!(stream.forwarded && stream.resumed == 0);
    assert_eq!(stream.header("x-caracal-identity"), None);
    assert_eq!(process.exchanges, 0);
}

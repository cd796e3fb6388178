//! Two workers and the singleton: what is shared, and what happens when it is not there.

use caracal_filter_bed::process::{Process, Services, gateway, sidecar};
use serde_json::json;

use crate::{fed, module, refusal};

const STALE: (u32, &str) = (503, "revocation state unavailable");

fn is(stream: &caracal_filter_bed::stream::Stream, expected: (u32, &str)) {
    let (status, description) = refusal(stream);
    assert_eq!((status, description.as_str()), expected);
    assert!(!stream.forwarded);
}

/// Whether each worker lets a good request pass.
fn pass(process: &mut Process<'_>) -> Vec<bool> {
    let workers = 0..process.workers.len();
    workers
        .map(|worker| {
            let request = process.request(&process.mandate());
            process.send(worker, request).unwrap().forwarded
        })
        .collect()
}

#[test]
fn a_revocation_reaches_every_worker_with_the_next_request() {
    let mut process = fed(&gateway());
    assert_eq!(pass(&mut process), [true, true]);
    for number in 0..200 {
        // More changes than there are slots for deltas between two snapshots.
        process.revoke(&format!("session-of-another-{number}"));
        process.pass(50).unwrap();
    }
    assert_eq!(pass(&mut process), [true, true]);
    process.revoke("session-1");
    process.pass(50).unwrap();
    for worker in 0..2 {
        let exchanges = process.exchanges;
        let request = process.request(&process.mandate());
        is(&process.send(worker, request).unwrap(), (401, "session revoked"));
        assert_eq!(process.exchanges, exchanges, "the STS is not asked");
    }
}

/// Whether a sidecar's worker lets a request pass, and how often it read what is shared for it.
fn looks(process: &mut Process<'_>) -> (bool, u64) {
    let before = process.world.calls_of("proxy_get_shared_data");
    let request = process.request(&process.resource_mandate());
    let worker = &mut process.workers[0];
    let id = worker.open(request).unwrap();
    worker.request_headers(id, true).unwrap();
    let forwarded = worker.close(id).unwrap().forwarded;
    (forwarded, process.world.calls_of("proxy_get_shared_data") - before)
}

const MARK: &str = "caracal_gateway_feed_mark";

#[test]
fn a_status_is_read_again_once_another_was_shared() {
    let mut process = fed(&sidecar());
    assert!(looks(&mut process).0);
    assert_eq!(looks(&mut process), (true, 0), "the same status");
    let mark = process.world.metric(MARK);
    process.revoke("session-1");
    // No worker ticks meanwhile.
    process.serve().unwrap();
    let other = process.world.metric(MARK);
    assert!(mark > 0 && other > 0 && mark != other && other < 1 << 53, "{mark} {other}");
    assert_eq!(looks(&mut process), (false, 2), "the status, and one change");
    assert_eq!(looks(&mut process), (false, 0));
    process.workers[0].tick().unwrap();
    assert_eq!(looks(&mut process), (false, 1), "and once after every tick");
}

#[test]
fn a_mark_that_says_nothing_or_anything_hides_no_change() {
    for status in [1, 2, 10] {
        let mut process = fed(&sidecar());
        process.world.fail("proxy_get_metric", status);
        assert!(looks(&mut process).0);
        assert_eq!(looks(&mut process), (true, 1), "status {status}");
        process.revoke("session-1");
        process.serve().unwrap();
        assert!(!looks(&mut process).0);
    }
    let mut process = fed(&sidecar());
    for mark in [0, 7, 7, 8] {
        // Another installation in the same Envoy has a singleton too.
        process.world.set_metric(MARK, mark);
        assert!(looks(&mut process).0, "{mark}");
    }
    process.revoke("session-1");
    process.serve().unwrap();
    // The worst that anybody could do: the number from before, set again.
    process.world.set_metric(MARK, 8);
    process.workers[0].tick().unwrap();
    assert!(!looks(&mut process).0, "no later than the next tick");
    // Where the singleton has no random numbers, the mark says nothing.
    let mut process = fed(&sidecar());
    assert!(looks(&mut process).0);
    process.world.fail("random_get", 1);
    process.revoke("session-1");
    process.serve().unwrap();
    assert_eq!(process.world.metric(MARK), 0);
    process.world.heal();
    assert!(!looks(&mut process).0);
}

#[test]
fn a_worker_that_slept_catches_up_or_starts_over() {
    let mut process = fed(&sidecar());
    let request = process.request(&process.resource_mandate());
    assert!(process.send(0, request).unwrap().forwarded, "one worker has read the snapshot");
    process.revoke("session-1");
    process.lose_changes();
    process.pass(200).unwrap();
    // One knows the snapshot before the gap, the other never read any.
    for worker in 0..2 {
        let request = process.request(&process.resource_mandate());
        is(&process.send(worker, request).unwrap(), (401, "session revoked"));
    }
}

#[test]
fn a_gap_in_the_feed_is_noticed_and_closed_by_a_snapshot() {
    let mut process = fed(&gateway());
    let generation = process.world.metric("caracal_gateway_feed_generation");
    process.lose_changes();
    process.pass(200).unwrap();
    assert!(process.world.metric("caracal_gateway_feed_generation") > generation);
    assert_eq!(pass(&mut process), [true, true]);
}

#[test]
fn without_the_sts_the_feed_grows_old_and_then_nothing_passes() {
    for services in [Services::Away, Services::Silent] {
        let mut process = fed(&gateway());
        process.feed = services;
        process.pass(29_000).unwrap();
        assert_eq!(pass(&mut process), [true, true], "{services:?}");
        process.pass(2_000).unwrap();
        for worker in 0..2 {
            let request = process.request(&process.mandate());
            is(&process.send(worker, request).unwrap(), STALE);
        }
        process.feed = Services::Good;
        process.pass(6_000).unwrap();
        assert_eq!(pass(&mut process), [true, true], "{services:?}");
    }
}

#[test]
fn an_empty_worker_refuses_until_it_has_a_snapshot() {
    let mut process = Process::start(module(), &gateway(), 2).unwrap();
    for worker in 0..2 {
        let request = process.request(&process.mandate());
        is(&process.send(worker, request).unwrap(), STALE);
    }
    process.pass(300).unwrap();
    assert_eq!(pass(&mut process), [true, true]);
    process.revoke("session-1");
    process.pass(300).unwrap();
    // A VM that failed is made anew. It reads what is shared before it decides; the revocation is in it.
    process.reload(0).unwrap();
    let request = process.request(&process.mandate());
    is(&process.send(0, request).unwrap(), (401, "session revoked"));
    // Where nothing is shared any more, nothing passes from the next tick on, whatever a worker knew.
    process.world.forget_shared();
    for worker in 0..2 {
        process.workers[worker].tick().unwrap();
        let request = process.request(&process.mandate());
        is(&process.send(worker, request).unwrap(), STALE);
    }
}

#[test]
fn a_singleton_that_is_made_anew_shares_the_state_again() {
    let mut process = fed(&gateway());
    process.revoke("session-1");
    process.reload_singleton().unwrap();
    process.pass(300).unwrap();
    for worker in 0..2 {
        let request = process.request(&process.mandate());
        is(&process.send(worker, request).unwrap(), (401, "session revoked"));
    }
}

#[test]
fn a_clock_that_is_set_back_or_forth_lets_nothing_old_pass() {
    for seconds in [-40, 40, -86_400, 86_400] {
        let mut process = fed(&gateway());
        let mandate = process.mandate();
        process.world.step(seconds * 1_000);
        let request = process.request(&mandate);
        is(&process.send(0, request).unwrap(), STALE);
    }
}

#[test]
fn workers_that_poll_themselves_need_no_singleton() {
    let mut configuration = gateway();
    configuration["feed"] = json!("worker");
    let mut process = Process::start(module(), &configuration, 2).unwrap();
    process.world.forget_shared();
    process.pass(300).unwrap();
    process.world.forget_shared();
    assert_eq!(pass(&mut process), [true, true]);
    process.revoke("session-1");
    process.pass(300).unwrap();
    assert_eq!(pass(&mut process), [false, false]);
}

#[test]
fn evidence_that_cannot_be_delivered_closes_the_gateway_and_none_is_lost() {
    let mut configuration = gateway();
    configuration["audit"]["capacity"] = json!(10);
    let mut process = fed(&configuration);
    process.audit = Services::Away;
    let passed = (0..30).filter(|_| {
        let request = process.request(&process.mandate());
        process.send(0, request).unwrap().forwarded
    });
    let passed = passed.count();
    assert!(passed <= 10, "{passed}");
    let request = process.request(&process.mandate());
    is(&process.send(0, request).unwrap(), (503, "evidence cannot be recorded"));
    process.audit = Services::Good;
    process.pass(10_000).unwrap();
    let allowed = process.events.iter().filter(|event| event["decision"] == "allow").count();
    assert_eq!(allowed, passed);
    assert_eq!(pass(&mut process), [true, true]);
}

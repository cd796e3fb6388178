//! Host functions that answer with an error, each status, in each phase: no trap, and nothing passes that was not granted
//! and prepared.

use caracal_filter_bed::process::{Process, gateway, sidecar};
use caracal_filter_bed::stream::{Action, Stream};
use caracal_filter_bed::vm::Vm;
use serde_json::Value;

use crate::{fed, module};

/// Every status of the ABI but success.
const STATUSES: [u32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12];
/// The SDK keeps track of calls, and takes these two for an answer; Envoy gives no other.
const CALL_STATUSES: [u32; 2] = [2, 10];
/// The SDK calls it with contexts that it knows, for which Envoy gives no error, and takes none.
const OF_THE_SDK: &str = "proxy_set_effective_context";

#[derive(Clone, Copy, Debug)]
enum Phase {
    RequestHeaders,
    Answer,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    Log,
    Tick,
}

const PHASES: [Phase; 7] = [
    Phase::RequestHeaders,
    Phase::Answer,
    Phase::RequestBody,
    Phase::ResponseHeaders,
    Phase::ResponseBody,
    Phase::Log,
    Phase::Tick,
];

fn statuses(function: &str) -> &'static [u32] {
    match function {
        "proxy_http_call" => &CALL_STATUSES,
        OF_THE_SDK => &[],
        _ => &STATUSES,
    }
}

/// The functions that a whole good stream calls.
fn functions(configuration: &Value) -> Vec<&'static str> {
    let mut process = fed(configuration);
    life(&mut process, configuration, None);
    process.pass(1_000).unwrap();
    process.world.functions_called()
}

/// A stream from its headers to its end, with a function that fails in one phase.
fn life(process: &mut Process<'_>, configuration: &Value, fault: Option<(Phase, &str, u32)>) -> Stream {
    let mandate = if *configuration == gateway() { process.mandate() } else { process.resource_mandate() };
    let stream = process.request(&mandate);
    let id = process.workers[0].open(stream).unwrap();
    for phase in PHASES {
        match fault {
            Some((failing, function, status)) if failing as u8 == phase as u8 => {
                process.world.fail(function, status)
            }
            _ => process.world.heal(),
        }
        let forwarded = process.workers[0].stream(id).forwarded;
        match phase {
            Phase::RequestHeaders => _ = process.workers[0].request_headers(id, false).unwrap(),
            Phase::Answer => process.serve().unwrap(),
            Phase::RequestBody => {
                let action = process.workers[0].request_body(id, b"body", true).unwrap();
                // Granted and prepared, and only the host does not let it go on: then there is no body either.
                let held = fault.is_some_and(|(_, function, _)| function == "proxy_continue_stream");
                assert!(action == Action::Pause || forwarded || held, "{fault:?}");
            }
            Phase::ResponseHeaders if forwarded => {
                let headers = [(":status", "200"), ("server", "secret"), ("location", "http://far/")];
                if process.workers[0].response_headers(id, &headers).unwrap() == Action::Continue {
                    let stream = process.workers[0].stream(id);
                    let left = stream
                        .response
                        .iter()
                        .any(|(name, _)| matches!(name.as_str(), "server" | "location"));
                    assert!(!left || *configuration != gateway(), "{fault:?}: {:?}", stream.response);
                }
            }
            Phase::ResponseBody if forwarded => {
                _ = process.workers[0].response_body(id, b"body", true).unwrap()
            }
            Phase::ResponseHeaders | Phase::ResponseBody => {}
            Phase::Log => process.workers[0].log(id).unwrap(),
            Phase::Tick => process.pass(300).unwrap(),
        }
    }
    process.world.heal();
    process.workers[0].close(id).unwrap()
}

fn each_fault(configuration: &Value, check: impl Fn(&Stream, &str)) {
    let functions = functions(configuration);
    assert!(functions.len() > 15, "{functions:?}");
    let mut process = fed(configuration);
    let mut passed = 0;
    for phase in PHASES {
        for function in &functions {
            for status in statuses(function) {
                let stream = life(&mut process, configuration, Some((phase, function, *status)));
                check(&stream, &format!("{function} = {status} in {phase:?}"));
                passed += u32::from(stream.forwarded);
                if !stream.forwarded {
                    // Long enough for a circuit to close again that failures have opened.
                    process.world.step(11_000);
                }
                process.pass(200).unwrap();
            }
        }
    }
    assert!(passed > 100, "most faults hinder nothing");
    // A circuit that opened meanwhile closes again.
    process.pass(11_000).unwrap();
    assert!(life(&mut process, configuration, None).forwarded);
}

#[test]
fn a_gateway_lets_nothing_pass_that_it_could_not_prepare() {
    each_fault(&gateway(), |stream, what| {
        if stream.forwarded {
            assert_eq!(stream.header("authorization").as_deref(), Some("Bearer derived"), "{what}");
            for name in ["x-caracal-identity", "x-caracal-resource"] {
                assert_eq!(stream.header(name), None, "{what}");
            }
            assert_eq!(stream.header(":authority").as_deref(), Some("upstream.example:9000"), "{what}");
        }
    });
}

#[test]
fn a_sidecar_lets_nothing_pass_that_it_could_not_prepare() {
    each_fault(&sidecar(), |stream, what| {
        assert!(!stream.forwarded || stream.header("x-caracal-identity").is_none(), "{what}");
    });
}

#[test]
fn a_dry_run_lets_nothing_pass_that_names_us() {
    let mut configuration = sidecar();
    configuration["dry_run"] = true.into();
    for function in
        ["proxy_get_header_map_pairs", "proxy_remove_header_map_value", "proxy_replace_header_map_value"]
    {
        for status in STATUSES {
            let mut process = fed(&configuration);
            process.world.fail(function, status);
            let request = process.request("no.mandate.x");
            let stream = process.send(0, request).unwrap();
            assert!(!stream.forwarded, "{function} = {status}");
        }
    }
}

#[test]
fn a_host_that_fails_while_it_configures_gets_no_filter_or_one_that_refuses() {
    let functions = functions(&gateway());
    for function in functions.iter().filter(|function| **function != "random_get") {
        for status in statuses(function) {
            let process = Process::start(module(), &gateway(), 0).unwrap();
            process.world.fail(function, *status);
            if let Some(mut vm) =
                Vm::start(module(), &process.world, gateway().to_string().as_bytes()).unwrap()
            {
                let stream = process.request(&process.mandate());
                let id = vm.open(stream).unwrap();
                assert_eq!(vm.request_headers(id, true).unwrap(), Action::Pause, "{function} = {status}");
                assert!(!vm.close(id).unwrap().forwarded, "{function} = {status}");
            }
        }
    }
    // Without random bytes a worker has no name of its own.
    let world = caracal_filter_bed::world::World::new();
    world.fail("random_get", 1);
    assert!(Vm::start(module(), &world, gateway().to_string().as_bytes()).unwrap().is_none());
    let world = caracal_filter_bed::world::World::new();
    world.forget("CARACAL_GATEWAY_STS_HMAC_KEY");
    assert!(Vm::start(module(), &world, gateway().to_string().as_bytes()).unwrap().is_none());
}

#[test]
fn a_cluster_that_is_not_there_refuses() {
    let mut process = fed(&gateway());
    process.world.without_cluster("sts");
    let request = process.request(&process.mandate());
    let stream = process.send(0, request).unwrap();
    assert_eq!(crate::refusal(&stream), (502, "sts unavailable".to_owned()));
}

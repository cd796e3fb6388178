//! How much of its stack a VM needs. What needs more than there is traps, and Envoy then answers 503: so there has to be
//! far more than anything needs.

use caracal_filter_bed::issuer::signing_input;
use caracal_filter_bed::process::{Process, gateway, sidecar};
use caracal_filter_bed::vm::Vm;
use caracal_filter_bed::world::World;
use serde_json::{Value, json};

use crate::module;

/// What the linker was told (`xtask/src/filter.rs`).
const STACK: usize = 128 * 1024;
/// What has to be left of it.
const LEFT: usize = 64 * 1024;

fn assert_enough(what: &str, vm: &mut Vm) {
    let left = vm.untouched_stack();
    println!("{what} needs {} bytes of stack", STACK.saturating_sub(left));
    assert!((LEFT..STACK).contains(&left), "{what} leaves {left} bytes of stack");
}

/// JSON that is nested as deep as a reader may be asked to go.
fn nested(open: &str, close: &str) -> String {
    format!("{}0{}", open.repeat(4_000), close.repeat(4_000))
}

#[test]
fn a_worker_that_verifies_by_itself_and_is_told_nonsense_has_stack_to_spare() {
    let mut configuration = gateway();
    configuration["mcp"] = json!(true);
    for configuration in [configuration, sidecar()] {
        let mut process = Process::start(module(), &configuration, 1).unwrap();
        process.world.verify(false);
        process.reload(0).unwrap();
        process.pass(300).unwrap();
        let role = configuration["role"].as_str().unwrap().to_owned();
        let good = if role == "gateway" { process.mandate() } else { process.resource_mandate() };
        let request = process.request(&good);
        assert!(process.send(0, request).unwrap().forwarded, "{role}");
        let header = br#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;
        for deep in [nested("[", "]"), nested(r#"{"a":"#, "}"), nested(r#"{"delegation_chain":["#, "]}")] {
            let bytes = deep.as_bytes();
            let tokens = [signing_input(header, &bytes[..2_500]), signing_input(&bytes[..2_500], b"{}")];
            for token in tokens {
                let request = process.request(&format!("{token}.c2ln"));
                assert!(!process.send(0, request).unwrap().forwarded);
            }
            let request = process.request(&process.mandate());
            let id = process.workers[0].open(request).unwrap();
            process.workers[0].request_headers(id, false).unwrap();
            process.workers[0].request_body(id, bytes, true).unwrap();
            process.workers[0].close(id).unwrap();
        }
        assert_enough(&role, &mut process.workers[0]);
        assert_enough("the singleton", &mut process.singleton);
    }
}

#[test]
fn what_the_sts_answers_has_stack_to_spare() {
    // A worker that polls by itself reads all that a singleton reads, too.
    let mut configuration = gateway();
    configuration["feed"] = json!("worker");
    let mut process = Process::start(module(), &configuration, 1).unwrap();
    let many =
        |number: usize| json!({"identifier": format!("resource://r{number}"), "enforcement": "enforced"});
    process.more_resources = (0..2_000).map(many).collect::<Vec<Value>>();
    process.pass(300).unwrap();
    let request = process.request(&process.mandate());
    assert!(process.send(0, request).unwrap().forwarded);
    for deep in [nested("[", "]"), nested(r#"{"zones":["#, "]}")] {
        for call in process.workers[0].calls() {
            let mut answer = caracal_filter_bed::vm::Answer::json(200, &json!({}));
            answer.body = deep.clone().into_bytes();
            process.workers[0].answer(&call, answer).unwrap();
        }
        process.pass(50).unwrap();
        let shared = format!("        {deep}");
        process.world.share("snapshot", shared.as_bytes());
    }
    process.pass(300).unwrap();
    assert_enough("a worker with its own feed", &mut process.workers[0]);
}

#[test]
fn a_configuration_has_stack_to_spare() {
    let world = World::new();
    for deep in [nested("[", "]"), nested(r#"{"role":"#, "}")] {
        assert!(Vm::start(module(), &world, deep.as_bytes()).unwrap().is_none());
    }
    let mut vm = Vm::start(module(), &world, gateway().to_string().as_bytes()).unwrap().unwrap();
    assert_enough("a configuration", &mut vm);
}

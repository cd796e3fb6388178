//! The module itself on the bed: outcomes, whatever the order of callbacks and whatever the host answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod cost;
mod errors;
mod fuzzing;
mod memory;
mod order;
mod sharing;
mod stack;
mod streams;

use caracal_filter_bed::process::Process;
use caracal_filter_bed::stream::Stream;
use caracal_filter_bed::vm::Module;

static MODULE: std::sync::LazyLock<Module> = std::sync::LazyLock::new(Module::built);

/// The module, compiled once for all tests.
fn module() -> &'static Module {
    &MODULE
}

/// A fed Envoy with two workers.
fn fed(configuration: &serde_json::Value) -> Process<'static> {
    let mut process = Process::start(module(), configuration, 2).unwrap();
    process.pass(300).unwrap();
    process
}

/// The status of the answer in the upstream's place, and its description.
fn refusal(stream: &Stream) -> (u32, String) {
    let replied = stream.replied.as_ref().expect("no answer");
    let body: serde_json::Value = serde_json::from_slice(&replied.body).unwrap();
    (replied.status, body["error_description"].as_str().unwrap().to_owned())
}

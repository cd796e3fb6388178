//! Runs the module under `perf`: `perf record -e cpu-clock -- profile MODULE warm|never-seen|governed REQUESTS`, and then `perf report`.
//! Build the module with its names for it (`CARGO_PROFILE_WASM_STRIP=none`).
#![allow(clippy::expect_used)]

use caracal_filter_bed::cost::{self, Kind};
use caracal_filter_bed::vm::Module;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, kind, requests] =
        arguments.try_into().expect("MODULE, warm, never-seen or governed, and how many requests");
    let requests = requests.parse().expect("a number of requests");
    let module = Module::load_profiled(module.as_ref());
    let kind = match kind.as_str() {
        "warm" => Kind::Warm,
        "never-seen" => Kind::NeverSeen,
        _ => Kind::Governed,
    };
    cost::run(&module, requests, kind).expect("a module that does not trap");
}

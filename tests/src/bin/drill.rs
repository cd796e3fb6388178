//! `cargo xtask drill`: one drill, for as long as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::exit)]

use caracal_tests::drill::{Plan, run};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `drill NAME SECONDS [SEED]`.
#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds: u64 = arguments[2].parse().unwrap();
    let seed = match arguments.get(3) {
        Some(seed) => seed.parse().unwrap(),
        None => u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()),
    };
    println!("drill {} with seed {seed} for {seconds} s", arguments[1]);
    let plan = Plan { seed, length: Duration::from_secs(seconds) };
    match run(&arguments[1], plan).await {
        Ok(report) => println!("{report}Everything held."),
        Err(what) => {
            eprintln!("seed {seed}: {what}");
            std::process::exit(1);
        }
    }
}

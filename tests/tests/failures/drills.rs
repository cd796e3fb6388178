//! A short run of each drill. `cargo xtask drill` runs them longer, and any of them again by its seed.

use caracal_tests::drill::{Plan, run};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test(flavor = "multi_thread")]
async fn drill_kill_loses_nothing_and_revives_nothing() {
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let plan = Plan { seed, length: Duration::from_secs(20) };
    let report = run("kill", plan).await.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    println!("seed {seed}\n{report}");
    for what in ["kill", "session ended", "call made", "call refused", "act of the ended refused"] {
        assert!(report.of(what) > 0, "seed {seed}: no {what} in\n{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drill_fuzz_never_traps_and_passes_nothing_unproved() {
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let plan = Plan { seed, length: Duration::from_secs(5) };
    let report = run("fuzz", plan).await.unwrap_or_else(|what| panic!("{what}"));
    println!("seed {seed}\n{report}");
    for what in ["configuration refused", "feed spoiled", "shared data spoiled", "headers refused"] {
        assert!(report.of(what) > 0, "seed {seed}: no {what} in\n{report}");
    }
}

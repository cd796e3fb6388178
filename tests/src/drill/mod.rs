//! Drills: load, something that goes wrong, and what has to hold all the same. `cargo xtask drill` runs them for as long
//! as one likes; a short run of each is an end-to-end test.
//!
//! A drill is a module with a `run` that takes a [`Plan`] and answers a [`Report`], or what did not hold. To add one,
//! write its module, name it in [`run`], and list it in `xtask/src/drill.rs`.

mod client;
mod fuzz;
mod kill;
mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a drill is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What decides every choice of the drill. The same seed makes the same choices, at other moments.
    pub seed: u64,
    /// How long.
    pub length: Duration,
}

/// What a drill did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    counts: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Counts something that was done.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// How often something was done.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    fn add(&mut self, other: Self) {
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{what:<28} {count:>8}")?;
        }
        Ok(())
    }
}

/// Runs the drill of this name.
pub async fn run(name: &str, plan: Plan) -> Result<Report, String> {
    match name {
        "fuzz" => fuzz::run(plan),
        "kill" => kill::run(plan).await,
        other => Err(format!("there is no drill {other:?}")),
    }
}

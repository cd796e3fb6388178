//! The circuit of each provider's token endpoint: five failures within five minutes open it for thirty seconds
//! (contract sts §22.3).
//!
//! It is kept in the process. It spares an endpoint that is down and a caller who would wait for it; no decision about
//! authority rests on it. Kept in the database it would turn each failure into a write, and fail where the database does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures further apart than this do not add up, in milliseconds.
const WINDOW: i64 = 300_000;
/// So many open the circuit.
const FAILURES: u32 = 5;
/// For so long, in milliseconds.
const OPEN: i64 = 30_000;
/// How many providers are remembered. Where there are more, those that failed longest ago are forgotten.
const MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct State {
    /// When the window began.
    since: i64,
    failures: u32,
    open_until: i64,
}

/// The circuits of all providers.
#[derive(Debug, Default)]
pub(super) struct Circuits(Mutex<HashMap<String, State>>);

impl Circuits {
    /// Is the provider's circuit open now?
    pub(super) fn is_open(&self, provider: &str, now: i64) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(provider).is_some_and(|state| now < state.open_until)
    }

    /// Counts a failure, and answers whether the circuit is open with it. After an opening the next failure opens it
    /// again, until something succeeds or the window is over.
    pub(super) fn failed(&self, provider: &str, now: i64) -> bool {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !states.contains_key(provider) && states.len() >= MAX {
            let oldest = states.iter().min_by_key(|(_, state)| state.since).map(|(id, _)| id.clone());
            oldest.map(|id| states.remove(&id));
        }
        let fresh = State { since: now, failures: 0, open_until: 0 };
        let state = states.entry(provider.to_owned()).or_insert(fresh);
        if now.saturating_sub(state.since) >= WINDOW {
            *state = fresh;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.open_until = now.saturating_add(OPEN);
        }
        now < state.open_until
    }

    /// Forgets the failures.
    pub(super) fn succeeded(&self, provider: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_sts_22_3_opens_closes_and_forgets() {
        let circuits = Circuits::default();
        for at in 0..4 {
            assert!(!circuits.failed("p", at));
        }
        assert!(!circuits.is_open("p", 4));
        assert!(circuits.failed("p", 4));
        assert!(circuits.is_open("p", 4 + OPEN - 1) && !circuits.is_open("q", 4));
        // One attempt is let through, and its failure opens the circuit again.
        assert!(!circuits.is_open("p", 4 + OPEN));
        assert!(circuits.failed("p", 4 + OPEN));
        circuits.succeeded("p");
        assert!(!circuits.is_open("p", 5 + OPEN));
        for at in [0, 1, 2, 3, WINDOW, WINDOW + 1] {
            assert!(!circuits.failed("r", at), "{at}");
        }
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let circuits = Circuits::default();
        for number in 0..MAX + 10 {
            circuits.failed(&number.to_string(), i64::try_from(number).unwrap());
        }
        assert_eq!(circuits.0.lock().unwrap().len(), MAX);
    }
}

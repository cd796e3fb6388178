//! Stops asking an STS that keeps failing (contract gateway §A10).

use caracal_mandate::verdict::DenyReason;

use crate::pause::Pause;
use crate::reply::Refusal;

/// Counts failures, and opens after a few of them.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: u32,
    open: Pause,
}

/// Counted failures that open the circuit.
const FAILURES_TO_OPEN: u32 = 3;
/// How long it stays open, in milliseconds.
const OPEN_MS: u64 = 10_000;

impl Circuit {
    /// Whether nothing may be sent now (unix milliseconds).
    #[must_use]
    pub fn is_open(&self, now: u64) -> bool {
        !self.open.is_over(now)
    }

    /// A success closes the circuit for good.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A failure counts when the STS could not do its work; a refusal does not. `true` when the circuit
    /// opened. The count stays after the pause, so that the next failure opens it again.
    pub fn failed(&mut self, refusal: &Refusal, now: u64) -> bool {
        // An answer that cannot be read says nothing about the STS: one resource's must not close the way for all others.
        let unreadable = refusal.reason == DenyReason::StsInvalid;
        if unreadable || refusal.error != "sts_unavailable" || refusal.status < 500 {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_TO_OPEN {
            return false;
        }
        self.open = Pause::new(now, OPEN_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a10_circuit() {
        let failure = Refusal::from(DenyReason::StsUnreachable);
        let mut denial = Refusal::from(DenyReason::StsRefused);
        denial.status = 503;
        denial.error = "policy_eval_failed".to_owned();
        let mut circuit = Circuit::default();
        for _ in 0..5 {
            assert!(!circuit.failed(&denial, 0));
        }
        assert!(!circuit.failed(&failure, 0));
        assert!(!circuit.failed(&failure, 0));
        assert!(!circuit.is_open(0));
        assert!(circuit.failed(&failure, 0));
        assert!(circuit.is_open(9_999));
        assert!(!circuit.is_open(10_000));
        assert!(circuit.failed(&failure, 10_000), "the next single failure opens it again");
        circuit.succeeded();
        assert!(!circuit.is_open(10_001));
        assert!(!circuit.failed(&failure, 10_001));
    }
}

//! A pause by a clock that may be set back or forth while it lasts.

/// Something is not to be done for a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    from: u64,
    millis: u64,
}

impl Pause {
    /// A pause from now (unix milliseconds) on.
    #[must_use]
    pub fn new(now: u64, millis: u64) -> Self {
        Self { from: now, millis }
    }

    /// The pause after so many failures in a row: twice as long each time, and never longer than `longest`.
    #[must_use]
    pub fn after_failures(now: u64, failures: u32, longest: u64) -> Self {
        Self::new(now, (100_u64 << failures.min(10)).min(longest))
    }

    /// How long it lasts, in milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.millis
    }

    /// Is it over? A clock that shows less than when it began was set back, which ends it.
    #[must_use]
    pub fn is_over(self, now: u64) -> bool {
        now.checked_sub(self.from).is_none_or(|passed| passed >= self.millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let pause = Pause::new(1_000, 500);
        assert!(!pause.is_over(1_000) && !pause.is_over(1_499));
        assert!(pause.is_over(1_500) && pause.is_over(999) && pause.is_over(u64::MAX));
        assert!(Pause::default().is_over(0));
        assert_eq!(Pause::after_failures(0, 1, 5_000).millis(), 200);
        assert_eq!(Pause::after_failures(0, 99, 5_000).millis(), 5_000);
    }
}

//! Counters told apart by words: labels whose values are known when the program is compiled.

use prometheus::{IntCounter, IntCounterVec};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most labels of one metric here.
const MAX_LABELS: usize = 2;

/// A family of counters. A thread looks each of them up once and keeps it, so that counting takes no lock and
/// allocates nothing.
pub(super) struct Words {
    family: IntCounterVec,
    id: usize,
}

type Key = (usize, [&'static str; MAX_LABELS]);

thread_local! {
    static KNOWN: RefCell<HashMap<Key, IntCounter>> = RefCell::default();
}

impl Words {
    pub(super) fn new(family: IntCounterVec) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self { family, id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Counts one of what the label of the family says.
    pub(super) fn count(&self, word: &'static str) {
        self.add(&[word], 1);
    }

    /// How many of what the labels of the family say were counted.
    #[cfg(test)]
    pub(super) fn value(&self, words: &[&'static str]) -> u64 {
        self.family.get_metric_with_label_values(words).map_or(0, |counter| counter.get())
    }

    /// Counts `by` of what the labels of the family say.
    pub(super) fn add(&self, words: &[&'static str], by: u64) {
        let mut key = (self.id, [""; MAX_LABELS]);
        for (place, word) in key.1.iter_mut().zip(words) {
            *place = word;
        }
        KNOWN.with_borrow_mut(|known| {
            if let Some(counter) = known.get(&key) {
                counter.inc_by(by);
            } else if let Ok(counter) = self.family.get_metric_with_label_values(words) {
                counter.inc_by(by);
                known.insert(key, counter);
            }
        });
    }
}

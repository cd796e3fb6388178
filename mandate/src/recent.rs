//! A bounded memory by exact bytes: when it is full, the half that was not used since the last sweep goes.

use std::collections::HashMap;

/// What was learnt about the most recent keys: something that is cheap to clone.
#[derive(Debug)]
pub struct Recent<T> {
    entries: HashMap<Box<[u8]>, (T, bool)>,
    capacity: usize,
}

impl<T: Clone> Recent<T> {
    /// A memory for this many keys; 0 remembers nothing.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity }
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nothing remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known about a key, if it still `holds`; what does not is forgotten.
    pub fn find(&mut self, key: &[u8], holds: impl FnOnce(&T) -> bool) -> Option<T> {
        let (known, used) = self.entries.get_mut(key)?;
        if !holds(known) {
            self.entries.remove(key);
            return None;
        }
        *used = true;
        Some(known.clone())
    }

    /// Remembers something about a key, in place of what was known.
    pub fn remember(&mut self, key: &[u8], known: T) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity {
            self.entries.retain(|_, (_, used)| std::mem::take(used));
            if self.entries.len() >= self.capacity {
                self.entries.clear();
            }
        }
        self.entries.insert(key.into(), (known, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_outlives_a_sweep_and_what_does_not_hold_is_forgotten() {
        let mut recent = Recent::new(2);
        recent.remember(b"a", 1);
        recent.remember(b"b", 2);
        assert_eq!(recent.find(b"a", |_| true), Some(1));
        recent.remember(b"c", 3);
        assert_eq!(recent.len(), 2);
        assert!(recent.find(b"b", |_| true).is_none());
        assert!(recent.find(b"c", |known| *known != 3).is_none());
        assert!(recent.find(b"c", |_| true).is_none(), "it was forgotten");
        for key in 0..100_u8 {
            recent.remember(&[key], 0);
            recent.find(&[key], |_| true);
        }
        assert!(recent.len() <= 2);
        let mut nothing = Recent::new(0);
        nothing.remember(b"a", 1);
        assert!(nothing.is_empty());
    }
}

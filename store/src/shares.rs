//! How much of what all have in common one of them may hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who holds how many of something.
#[derive(Debug)]
pub struct Shares<K: Ord>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K: Ord> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Ord> Shares<K> {
    /// One more, unless this holder has `most` already.
    pub fn take(&self, holder: &K, most: usize) -> Option<Share<K>> {
        let mut held = lock(&self.0);
        let count = held.get(holder).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        held.insert(holder.clone(), count.saturating_add(1));
        drop(held);
        Some(Share { of: Arc::clone(&self.0), holder: holder.clone() })
    }
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub struct Share<K: Ord> {
    of: Arc<Mutex<BTreeMap<K, usize>>>,
    holder: K,
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.of);
        let Some(count) = held.get_mut(&self.holder) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            held.remove(&self.holder);
        }
    }
}

fn lock<K: Ord>(held: &Mutex<BTreeMap<K, usize>>) -> MutexGuard<'_, BTreeMap<K, usize>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holds_its_own_and_what_is_given_back_is_forgotten() {
        let shares = Shares::default();
        let held: Vec<_> = (0..2).map(|_| shares.take(&"a", 2).unwrap()).collect();
        assert!(shares.take(&"a", 2).is_none());
        assert!(shares.take(&"b", 0).is_none());
        let other = shares.take(&"b", 2).unwrap();
        drop(held);
        assert!(shares.take(&"a", 1).is_some());
        drop(other);
        assert!(lock(&shares.0).is_empty());
    }
}

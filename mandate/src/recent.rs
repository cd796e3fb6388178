//! A bounded memory: when it is full, the half that was not used since the last sweep goes.
//!
//! Keys are not kept, only 128 bits that stand for them: two outputs of a hash that is keyed anew in every process. Who
//! does not know a key that is remembered can find no other one that is taken for it, and who knows it needs none.

use crate::hash::Quick;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};

/// What an entry takes beside what it holds, in bytes: its place in the table, which is half empty at worst.
const PLACE: usize = 64;

/// What one allocation takes beside its content, in bytes; for a shared text its counters as well. For whoever says how
/// many bytes something takes.
pub const ALLOCATION: usize = 16;

/// The mark of an entry that was used.
const USED: u32 = 1;

/// What stands for a key, in one memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u64; 2]);

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

#[derive(Debug)]
struct Entry<T> {
    known: T,
    /// Its bytes; the lowest bit tells whether it was used. There are thousands of these.
    bytes_and_used: u32,
}

/// What was learnt about the most recent keys: something that is cheap to clone.
#[derive(Debug)]
pub struct Recent<T> {
    entries: HashMap<Digest, Entry<T>, Quick>,
    keyed: RandomState,
    capacity: usize,
    /// The most bytes.
    limit: usize,
    /// The bytes of all entries.
    taken: usize,
}

impl<T: Clone> Recent<T> {
    /// A memory for this many keys; 0 remembers nothing.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::within(capacity, usize::MAX)
    }

    /// A memory for this many keys, and no more than so many bytes altogether.
    #[must_use]
    pub fn within(capacity: usize, limit: usize) -> Self {
        Self { entries: HashMap::default(), keyed: RandomState::new(), capacity, limit, taken: 0 }
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

    /// How many bytes the entries take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.taken
    }

    /// What is known about a key, if it still `holds`; what does not is forgotten.
    pub fn find(&mut self, key: &[u8], holds: impl FnOnce(&T) -> bool) -> Option<T> {
        self.find_by(self.digest(key), holds)
    }

    /// The same, for whoever has what stands for the key already.
    pub fn find_by(&mut self, digest: Digest, holds: impl FnOnce(&T) -> bool) -> Option<T> {
        let entry = self.entries.get_mut(&digest)?;
        if !holds(&entry.known) {
            self.forget(&digest);
            return None;
        }
        entry.bytes_and_used |= USED;
        Some(entry.known.clone())
    }

    /// Remembers something that takes so many bytes about a key, in place of what was known. What is larger than all
    /// that may be remembered is not.
    pub fn remember(&mut self, key: &[u8], known: T, bytes: usize) {
        self.remember_by(self.digest(key), known, bytes);
    }

    /// The same, for whoever has what stands for the key already.
    pub fn remember_by(&mut self, digest: Digest, known: T, bytes: usize) {
        self.forget(&digest);
        let bytes = bytes.saturating_add(PLACE) & !1;
        let Ok(small) = u32::try_from(bytes) else { return };
        if self.capacity == 0 || bytes > self.limit {
            return;
        }
        if self.is_full(bytes) {
            self.entries.retain(|_, entry| entry.was_used());
            self.taken = self.entries.values().map(Entry::bytes).sum();
            if self.is_full(bytes) {
                self.entries.clear();
                self.taken = 0;
            }
        }
        self.taken = self.taken.saturating_add(bytes);
        self.entries.insert(digest, Entry { known, bytes_and_used: small });
    }

    fn is_full(&self, more: usize) -> bool {
        self.entries.len() >= self.capacity || self.taken.saturating_add(more) > self.limit
    }

    fn forget(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.taken = self.taken.saturating_sub(entry.bytes());
        }
    }

    /// What stands for a key: two hashes of inputs that only differ at their end, and that no two keys have in common.
    #[must_use]
    pub fn digest(&self, key: &[u8]) -> Digest {
        let mut first = self.keyed.build_hasher();
        first.write(key);
        let mut second = first.clone();
        first.write_u8(0);
        second.write_u8(1);
        Digest([first.finish(), second.finish()])
    }
}

impl<T> Entry<T> {
    fn bytes(&self) -> usize {
        usize::try_from(self.bytes_and_used & !USED).unwrap_or(usize::MAX)
    }

    /// Whether it was used since this was asked last.
    fn was_used(&mut self) -> bool {
        let used = self.bytes_and_used & USED != 0;
        self.bytes_and_used &= !USED;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_outlives_a_sweep_and_what_does_not_hold_is_forgotten() {
        let mut recent = Recent::new(2);
        recent.remember(b"a", 1, 0);
        recent.remember(b"b", 2, 0);
        assert_eq!(recent.find(b"a", |_| true), Some(1));
        recent.remember(b"c", 3, 0);
        assert_eq!(recent.len(), 2);
        assert!(recent.find(b"b", |_| true).is_none());
        assert!(recent.find(b"c", |known| *known != 3).is_none());
        assert!(recent.find(b"c", |_| true).is_none(), "it was forgotten");
        for key in 0..100_u8 {
            recent.remember(&[key], 0, 0);
            recent.find(&[key], |_| true);
        }
        assert!(recent.len() <= 2);
        let mut nothing = Recent::new(0);
        nothing.remember(b"a", 1, 0);
        assert!(nothing.is_empty());
    }

    #[test]
    fn it_never_takes_more_bytes_than_it_may() {
        let limit = 10 * (100 + PLACE);
        let mut recent = Recent::within(1_000, limit);
        for key in 0..200_u8 {
            recent.remember(&[key], key, if key % 3 == 0 { 100 } else { 300 });
            if key % 7 == 0 {
                recent.find(&[key], |_| true);
            }
            assert!(recent.bytes() <= limit && !recent.is_empty());
            assert_eq!(recent.find(&[key], |_| true), Some(key));
        }
        let before = recent.len();
        recent.remember(b"large", 0, limit);
        assert!(recent.find(b"large", |_| true).is_none(), "larger than everything");
        assert_eq!(recent.len(), before, "and nothing has to go for it");
        // The same key anew takes the place of what was there.
        let mut one = Recent::within(1_000, limit);
        for value in 0..50 {
            one.remember(b"a", value, 100);
        }
        assert_eq!((one.len(), one.bytes(), one.find(b"a", |_| true)), (1, 100 + PLACE, Some(49)));
        one.find(b"a", |_| false);
        assert_eq!((one.len(), one.bytes()), (0, 0));
    }

    #[test]
    fn keys_are_told_apart_to_the_last_bit() {
        let mut recent = Recent::new(100_000);
        let token = [b'x'; 1_000];
        recent.remember(&token, 0, 0);
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut other = token;
                other[at] ^= 1 << bit;
                assert!(recent.find(&other, |_| true).is_none());
            }
        }
        for end in 0..token.len() {
            assert!(recent.find(&token[..end], |_| true).is_none());
        }
        assert!(recent.find(&[&token[..], &[0]].concat(), |_| true).is_none());
        assert!(recent.find(&[&token[..], &[1]].concat(), |_| true).is_none());
        assert_eq!(recent.find(&token, |_| true), Some(0));
    }
}

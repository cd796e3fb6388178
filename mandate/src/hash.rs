//! A quick hash for tables whose keys no caller can choose: ids that services and operators make. It keeps nobody from
//! choosing keys that collide.

use std::hash::{BuildHasher, Hasher};

/// Builds [`QuickHasher`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quick;

impl BuildHasher for Quick {
    type Hasher = QuickHasher;

    fn build_hasher(&self) -> QuickHasher {
        QuickHasher(0)
    }
}

/// Takes eight bytes at a time.
#[derive(Debug, Clone, Copy)]
pub struct QuickHasher(u64);

/// Odd, with bits all over.
const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

impl QuickHasher {
    fn take(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        // What is left, and how much it is.
        let last = rest.iter().fold(rest.len() as u64, |last, byte| last << 8 | u64::from(*byte));
        self.take(last);
    }

    fn write_u8(&mut self, number: u8) {
        self.take(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.take(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.take(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.take(number as u64);
    }

    fn finish(&self) -> u64 {
        // Tables look at the lowest bits, and at the highest: the product is good in the upper ones only.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_that_differ_in_one_place_spread() {
        let ids: Vec<String> =
            (0..4096).map(|number| format!("0199c0de-5eed-7000-8000-{number:012}")).collect();
        for shown in [0x1fff_u64, 0xffff_ffff, 0x7f << 57 | 0xff] {
            let hashes: HashSet<u64> = ids.iter().map(|id| Quick.hash_one(id) & shown).collect();
            let most = usize::try_from(shown.count_ones()).map_or(0, |bits| 1_usize << bits.min(12));
            assert!(hashes.len() > most * 5 / 10, "{shown:x}: {}", hashes.len());
        }
        assert_ne!(Quick.hash_one([0_u8; 3].as_slice()), Quick.hash_one([0_u8; 4].as_slice()));
    }
}

//! Epochs: how a local decision knows whether it is as fresh as a central one.
//!
//! Every change that takes authority away raises the zone's [`AuthorityEpoch`] by one, in the transaction that makes
//! the change. Activating a policy set also moves the zone's [`PolicyEpoch`] to that value.

use serde::{Deserialize, Serialize};

/// How many authority-removing changes a zone has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthorityEpoch(pub u64);

/// The [`AuthorityEpoch`] at which a zone's policy changed last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyEpoch(pub u64);

/// Position in the change log of the whole installation; what a gateway acknowledges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What a mandate's epoch says against what the filter knows of its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// The mandate was minted after a change that the filter has not seen: only the STS knows.
    FilterBehind,
    /// Policy changed after the mandate was minted: the STS has to judge it again.
    PolicyChanged,
    /// The filter knows all that the mandate's minting knew, and policy is the same.
    Settled,
}

impl Freshness {
    /// Compares a mandate's epoch with the zone's.
    #[must_use]
    pub fn of(minted: AuthorityEpoch, known: AuthorityEpoch, policy: PolicyEpoch) -> Self {
        if minted > known {
            Self::FilterBehind
        } else if minted.0 < policy.0 {
            Self::PolicyChanged
        } else {
            Self::Settled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_table() {
        let cases = [
            (5, 5, 0, Freshness::Settled),
            (5, 9, 5, Freshness::Settled),
            (5, 9, 6, Freshness::PolicyChanged),
            (6, 5, 0, Freshness::FilterBehind),
            (6, 5, 7, Freshness::FilterBehind),
        ];
        for (minted, known, policy, expected) in cases {
            assert_eq!(
                Freshness::of(AuthorityEpoch(minted), AuthorityEpoch(known), PolicyEpoch(policy)),
                expected
            );
        }
    }
}

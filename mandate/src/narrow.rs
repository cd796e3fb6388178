//! Delegation as a lattice: a child's authority is never more than its parent's (contract coordinator §6.5).

use crate::scope::ScopeSet;
use std::collections::BTreeSet;

/// The most hops that any delegation may allow.
pub const MAX_HOPS: u32 = 10;

/// Which resources a delegation reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceBound {
    /// Every resource on which the scopes exist.
    Any,
    /// Only these resources, by row id.
    Only(BTreeSet<String>),
}

/// What one delegation hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The scopes.
    pub scopes: ScopeSet,
    /// The resources.
    pub resources: ResourceBound,
    /// When it ends, unix milliseconds.
    pub expires_at: u64,
    /// How many edges a path that begins with this one may have; at least 1.
    pub max_hops: u32,
    /// The longest mandate under it, in seconds.
    pub ttl_seconds: Option<u32>,
}

/// In which respect a child asks for more than its parent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Widening {
    /// It would outlive the parent.
    #[error("expires later than its parent")]
    Expiry,
    /// The parent allows no further hop, or fewer than the child asks for.
    #[error("allows more hops than its parent leaves")]
    Hops,
    /// It names a resource that the parent does not reach.
    #[error("reaches a resource that its parent does not")]
    Resources,
    /// It names a scope that the parent does not have.
    #[error("has a scope that its parent has not")]
    Scopes,
    /// Mandates under it could live longer than under the parent.
    #[error("allows longer mandates than its parent")]
    TtlSeconds,
}

impl ResourceBound {
    /// Is all that `self` reaches also reached by `other`?
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Any) => true,
            (Self::Any, Self::Only(_)) => false,
            (Self::Only(mine), Self::Only(theirs)) => mine.is_subset(theirs),
        }
    }

    fn meet(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, bound) | (bound, Self::Any) => bound.clone(),
            (Self::Only(mine), Self::Only(theirs)) => {
                Self::Only(mine.intersection(theirs).cloned().collect())
            }
        }
    }
}

impl Authority {
    /// Is `self`, as a delegation made by the holder of `parent`, within it? One hop is spent on the way.
    pub fn narrows(&self, parent: &Self) -> Result<(), Widening> {
        if !self.scopes.is_subset(&parent.scopes) {
            return Err(Widening::Scopes);
        }
        if !self.resources.is_within(&parent.resources) {
            return Err(Widening::Resources);
        }
        if self.expires_at > parent.expires_at {
            return Err(Widening::Expiry);
        }
        if self.max_hops == 0 || self.max_hops > parent.max_hops.saturating_sub(1) {
            return Err(Widening::Hops);
        }
        match (self.ttl_seconds, parent.ttl_seconds) {
            (_, None) => Ok(()),
            (Some(mine), Some(theirs)) if mine <= theirs => Ok(()),
            _ => Err(Widening::TtlSeconds),
        }
    }

    /// What a child gets that inherits: all of it, with one hop spent. `None` where no hop is left.
    #[must_use]
    pub fn inherited(&self) -> Option<Self> {
        let max_hops = self.max_hops.checked_sub(1).filter(|hops| *hops > 0)?;
        Some(Self { max_hops, ..self.clone() })
    }

    /// The greatest authority within both.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let ttl_seconds = match (self.ttl_seconds, other.ttl_seconds) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (one, None) | (None, one) => one,
        };
        Self {
            scopes: self.scopes.intersection(&other.scopes),
            resources: self.resources.meet(&other.resources),
            expires_at: self.expires_at.min(other.expires_at),
            max_hops: self.max_hops.min(other.max_hops),
            ttl_seconds,
        }
    }

    /// Is `self` within `other`, no hop spent? The order of the lattice.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.meet(other) == *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::Scope;
    use proptest::prelude::*;

    fn authority() -> impl Strategy<Value = Authority> {
        let scopes = proptest::collection::btree_set("[a-d]", 0..4);
        let resources = proptest::option::of(proptest::collection::btree_set("[r-u]", 0..4));
        (scopes, resources, 0u64..50, 1u32..=MAX_HOPS, proptest::option::of(1u32..50)).prop_map(
            |(scopes, resources, expires_at, max_hops, ttl_seconds)| Authority {
                scopes: scopes.into_iter().map(|scope| Scope::new(scope).unwrap()).collect(),
                resources: resources.map_or(ResourceBound::Any, ResourceBound::Only),
                expires_at,
                max_hops,
                ttl_seconds,
            },
        )
    }

    proptest! {
        #[test]
        fn meet_is_the_greatest_lower_bound(a in authority(), b in authority(), c in authority()) {
            let meet = a.meet(&b);
            prop_assert!(meet.is_within(&a) && meet.is_within(&b));
            prop_assert_eq!(&meet, &b.meet(&a));
            prop_assert_eq!(a.meet(&b.meet(&c)), a.meet(&b).meet(&c));
            prop_assert_eq!(&a.meet(&a), &a);
            if c.is_within(&a) && c.is_within(&b) {
                prop_assert!(c.is_within(&meet));
            }
        }

        #[test]
        fn a_child_is_within_its_parent_and_narrowing_is_transitive(a in authority(), b in authority(), c in authority()) {
            if b.narrows(&a).is_ok() {
                prop_assert!(b.is_within(&a));
                prop_assert!(b.max_hops < a.max_hops);
                if c.narrows(&b).is_ok() {
                    prop_assert!(c.narrows(&a).is_ok());
                }
            }
        }

        #[test]
        fn whatever_is_wider_in_one_respect_is_refused(a in authority(), b in authority()) {
            let child = Authority { max_hops: a.max_hops.saturating_sub(1), ..b.meet(&a) };
            if child.max_hops == 0 {
                prop_assert_eq!(child.narrows(&a), Err(Widening::Hops));
            } else {
                prop_assert_eq!(child.narrows(&a), Ok(()));
                let later = Authority { expires_at: a.expires_at + 1, ..child.clone() };
                prop_assert_eq!(later.narrows(&a), Err(Widening::Expiry));
                let longer = Authority { max_hops: a.max_hops, ..child.clone() };
                prop_assert_eq!(longer.narrows(&a), Err(Widening::Hops));
            }
        }

        #[test]
        fn however_a_tree_grows_each_is_within_all_above_it(
            root in authority(),
            steps in proptest::collection::vec((any::<prop::sample::Index>(), authority(), 0u8..3), 1..40),
        ) {
            let mut tree: Vec<(Authority, Option<usize>)> = vec![(root, None)];
            for (at, asked, how) in steps {
                let parent = at.index(tree.len());
                let held = &tree[parent].0;
                let child = match how {
                    0 => held.inherited(),
                    1 => Some(Authority { max_hops: held.max_hops.saturating_sub(1), ..asked.meet(held) }),
                    _ => Some(asked),
                };
                if let Some(child) = child.filter(|child| child.narrows(held).is_ok()) {
                    tree.push((child, Some(parent)));
                }
            }
            for (authority, parent) in &tree {
                let (mut above, mut depth) = (*parent, 0);
                while let Some(at) = above {
                    depth += 1;
                    prop_assert!(authority.is_within(&tree[at].0));
                    prop_assert!(authority.max_hops + depth <= tree[at].0.max_hops);
                    above = tree[at].1;
                }
            }
        }

        #[test]
        fn inheriting_spends_a_hop_and_widens_nothing(a in authority()) {
            match a.inherited() {
                Some(child) => prop_assert_eq!(child.narrows(&a), Ok(())),
                None => prop_assert_eq!(a.max_hops, 1),
            }
        }
    }
}

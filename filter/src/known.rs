//! What the STS said about a mandate at a resource, remembered for as long as it holds.
//!
//! Only of mandates that may be used more than once. An answer holds for the policy it was given under and for the
//! resource as it stood; a grant that came with it holds as long as the STS said, and no anchor of it is revoked.

use std::rc::Rc;

use caracal_mandate::anchor::Anchor;
use caracal_mandate::claims::Claims;
use caracal_mandate::decide::Decision;
use caracal_mandate::epoch::PolicyEpoch;
use caracal_mandate::feed::ResourceEntry;
use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::jws::CompactJws;
use caracal_mandate::recent::Recent;
use caracal_mandate::verdict::VerifiedMandate;

use crate::exchange::Granted;
use crate::reply::Refusal;

/// A mandate at a resource, as the feed told of it when it was decided.
pub struct Case {
    /// The mandate.
    pub mandate: Rc<VerifiedMandate>,
    /// The resource's identifier.
    pub resource: ResourceIdentifier,
    /// The resource.
    pub entry: Rc<ResourceEntry>,
    /// When policy changed last.
    pub policy_epoch: PolicyEpoch,
}

impl Case {
    /// The case of a request that was not refused.
    #[must_use]
    pub fn of(decision: Decision) -> Option<Self> {
        Some(Self {
            mandate: decision.mandate?,
            resource: decision.resource?,
            entry: decision.entry?,
            policy_epoch: decision.policy_epoch,
        })
    }

    /// Zone and `jti` name the mandate, whatever bytes it came in.
    fn key(&self) -> Vec<u8> {
        let claims = &self.mandate.claims;
        [claims.zone_id.as_str(), claims.jti.as_str(), self.resource.as_str()].join(" ").into_bytes()
    }
}

/// A grant that the STS allows to be kept.
pub struct Kept {
    /// What was granted.
    pub granted: Granted,
    anchors: Vec<Anchor>,
    until: i64,
}

impl Kept {
    /// The grant, if it may be kept at all: the STS says until when, and a derived mandate by which it can be taken back.
    /// What may not be kept holds a secret perhaps, so nothing of it stays.
    #[must_use]
    pub fn of(granted: &Granted) -> Option<Self> {
        if granted.directive.cache_until <= 0 {
            return None;
        }
        let token = granted.access_token.as_str();
        let claims = Claims::from_json(&CompactJws::split(token.as_bytes()).ok()?.payload().ok()?).ok()?;
        let until = granted.directive.cache_until.min(claims.exp);
        Some(Self { anchors: claims.anchors(), until, granted: granted.clone() })
    }

    /// Whether it still holds at `now` (unix seconds).
    #[must_use]
    pub fn holds(&self, now: i64, revoked: impl FnOnce(&[Anchor]) -> bool) -> bool {
        now < self.until && !revoked(&self.anchors)
    }
}

/// What is known of a case.
pub struct Known {
    policy_epoch: PolicyEpoch,
    entry: Rc<ResourceEntry>,
    /// The grant that may be used again, or the refusal that will not change.
    pub answer: Result<Option<Kept>, Refusal>,
}

/// All that one worker remembers.
pub struct Memory(Recent<Rc<Known>>);

impl Memory {
    /// A memory for this many cases.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Recent::new(capacity))
    }

    /// What is known of a case. Nothing that was said under another policy, or of the resource before it changed.
    pub fn find(&mut self, case: &Case) -> Option<Rc<Known>> {
        self.0.find(&case.key(), |known| {
            known.policy_epoch == case.policy_epoch && Rc::ptr_eq(&known.entry, &case.entry)
        })
    }

    /// Remembers what the STS said of a case.
    pub fn remember(&mut self, case: &Case, answer: Result<Option<Kept>, Refusal>) {
        let (policy_epoch, entry) = (case.policy_epoch, Rc::clone(&case.entry));
        self.0.remember(&case.key(), Rc::new(Known { policy_epoch, entry, answer }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::upstream::Directive;

    #[test]
    fn nothing_stays_of_what_may_not_be_kept() {
        let granted = |access_token: &str, cache_until| Granted {
            access_token: access_token.to_owned(),
            directive: Directive { cache_until, provider_token: "secret".to_owned(), ..Directive::default() },
        };
        for (token, until) in [("a.b.c", 0), ("a.b.c", -1), ("a.b.c", 99), ("opaque", 99), ("", 99)] {
            assert!(Kept::of(&granted(token, until)).is_none(), "{token} {until}");
        }
    }
}

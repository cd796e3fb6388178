//! What the STS said about a mandate at a resource, remembered for as long as it holds.
//!
//! Only of mandates that may be used more than once. An answer holds for the policy it was given under and for the
//! resource as it stood; a grant that came with it holds as long as the STS said, and no anchor of it is revoked.

use std::rc::Rc;

use caracal_mandate::anchor::AnchorKey;
use caracal_mandate::claims::Claims;
use caracal_mandate::decide::Decision;
use caracal_mandate::epoch::PolicyEpoch;
use caracal_mandate::feed::ResourceEntry;
use caracal_mandate::id::ResourceIdentifier;
use caracal_mandate::jws::CompactJws;
use caracal_mandate::recent::{ALLOCATION, Recent};
use caracal_mandate::upstream::Directive;
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
    anchors: Box<[AnchorKey]>,
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
        Some(Self { anchors: AnchorKey::of_all(&claims.anchors()), until, granted: granted.clone() })
    }

    /// How many bytes it takes beside its own, at most.
    fn more_bytes(&self) -> usize {
        let Directive {
            url,
            auth_mode,
            auth_location,
            auth_header,
            query_param_name,
            auth_scheme,
            allowed_token_hosts,
            provider_token,
            provider_id,
            connection_id,
            ..
        } = &self.granted.directive;
        let texts = [
            &self.granted.access_token,
            url,
            auth_mode,
            auth_location,
            auth_header,
            query_param_name,
            auth_scheme,
            provider_token,
            provider_id,
            connection_id,
        ];
        let texts = texts
            .into_iter()
            .chain(allowed_token_hosts)
            .map(|text| text.capacity().saturating_add(ALLOCATION));
        let anchors = self.anchors.iter().map(|key| size_of::<AnchorKey>().saturating_add(key.more_bytes()));
        texts.chain(anchors).fold(0, usize::saturating_add)
    }

    /// Whether it still holds at `now` (unix seconds).
    #[must_use]
    pub fn holds(&self, now: i64, revoked: impl FnOnce(&[AnchorKey]) -> bool) -> bool {
        now < self.until && !revoked(&self.anchors)
    }
}

/// What is known of a case.
pub struct Known {
    policy_epoch: PolicyEpoch,
    entry: Rc<ResourceEntry>,
    /// The grant that may be used again, or the refusal that will not change.
    pub answer: Result<Option<Box<Kept>>, Box<Refusal>>,
}

/// All that one worker remembers.
pub struct Memory(Recent<Rc<Known>>);

impl Memory {
    /// A memory for this many cases, and no more than so many bytes.
    #[must_use]
    pub fn within(capacity: usize, bytes: usize) -> Self {
        Self(Recent::within(capacity, bytes))
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
        let more = match &answer {
            Ok(Some(kept)) => size_of::<Kept>().saturating_add(ALLOCATION).saturating_add(kept.more_bytes()),
            Ok(None) => 0,
            Err(refusal) => {
                size_of::<Refusal>().saturating_add(ALLOCATION).saturating_add(refusal.more_bytes())
            }
        };
        let answer = answer.map(|kept| kept.map(Box::new)).map_err(Box::new);
        let bytes = size_of::<Known>().saturating_add(ALLOCATION).saturating_add(more);
        self.0.remember(&case.key(), Rc::new(Known { policy_epoch, entry, answer }), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

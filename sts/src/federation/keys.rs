//! The keys of external issuers in memory: fetched once for many, for ten minutes, and never served after that.

use super::error::FederationError;
use super::jwks::{IssuerKey, usable_keys};
use caracal_store::egress::{Egress, Hosts, Limits};
use caracal_store::model::SubjectIssuer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long keys are used before they are fetched again (contract sts §21).
const LIFE: Duration = Duration::from_secs(600);
/// The largest key set, in bytes (contract sts §21).
const MAX_BYTES: usize = 256 * 1024;
/// How many issuers are remembered. A zone has at most 20.
const MAX_ISSUERS: usize = 1024;
/// How often an issuer may be asked in a row, and how long it takes until it may be asked once more. A token that names
/// a key nobody knows costs its issuer no more than this.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_secs(12);

/// What is kept of each issuer, by row id and URL: another URL is another issuer.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    egress: Egress,
    issuers: Mutex<HashMap<(String, String), Arc<Issuer>>>,
}

/// One issuer. Whoever holds the lock fetches; the others wait for what comes of it.
#[derive(Debug, Default)]
struct Issuer(tokio::sync::Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    keys: Option<(Instant, Arc<[IssuerKey]>)>,
    last: Option<(Instant, Option<FederationError>)>,
    asked: Allowance,
}

/// A bucket of [`BURST`] requests that fills up by one every [`REFILL`].
#[derive(Debug, Default)]
struct Allowance {
    used: u32,
    since: Option<Instant>,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let back = now.saturating_duration_since(since).as_secs() / REFILL.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX).min(self.used);
        self.used -= back;
        self.since = if self.used == 0 { Some(now) } else { Some(since + REFILL * back) };
        let allowed = self.used < BURST;
        self.used += u32::from(allowed);
        allowed
    }
}

impl IssuerKeys {
    pub(super) fn new(egress: Egress) -> Self {
        Self { egress, issuers: Mutex::default() }
    }

    /// The keys of an issuer, of which one is named `key_id`. An unknown name makes the issuer be asked once more, as
    /// often as its allowance permits, so that a rotated key works at once.
    pub(super) async fn holding(
        &self,
        issuer: &SubjectIssuer,
        key_id: &str,
    ) -> Result<Arc<[IssuerKey]>, FederationError> {
        let asked_at = Instant::now();
        let entry = self.entry(issuer, asked_at);
        let mut known = entry.0.lock().await;
        let holds = |keys: &Arc<[IssuerKey]>| keys.iter().any(|key| key.id() == key_id);
        let fresh = known.fresh(Instant::now());
        if let Some(keys) = fresh.clone().filter(holds) {
            return Ok(keys);
        }
        // Somebody fetched while this one waited: it would get the same.
        if let Some((at, outcome)) = &known.last
            && *at >= asked_at
        {
            return Err(outcome.clone().unwrap_or(FederationError::KeyUnknown));
        }
        if !known.asked.take(Instant::now()) {
            let unknown = fresh.is_some();
            return Err(if unknown { FederationError::KeyUnknown } else { FederationError::KeysTooOften });
        }
        let fetched = self.fetch(issuer).await;
        known.last = Some((Instant::now(), fetched.as_ref().err().cloned()));
        let keys = fetched?;
        known.keys = Some((Instant::now(), Arc::clone(&keys)));
        if holds(&keys) { Ok(keys) } else { Err(FederationError::KeyUnknown) }
    }

    async fn fetch(&self, issuer: &SubjectIssuer) -> Result<Arc<[IssuerKey]>, FederationError> {
        let reply = self.egress.get(&issuer.jwks_url, Hosts::Any, Limits::bytes(MAX_BYTES)).await;
        let keys = reply.map_err(FederationError::from).and_then(|reply| match reply.status {
            200 => usable_keys(&reply.body),
            other => Err(FederationError::KeysStatus(other)),
        });
        keys.map(Arc::from).inspect_err(|error| {
            tracing::warn!(issuer = issuer.issuer, zone = %issuer.zone_id, %error, "an issuer's keys are not to be had");
        })
    }

    fn entry(&self, issuer: &SubjectIssuer, now: Instant) -> Arc<Issuer> {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (issuer.id.clone(), issuer.jwks_url.clone());
        if !issuers.contains_key(&key) && issuers.len() >= MAX_ISSUERS {
            make_room(&mut issuers, now);
        }
        Arc::clone(issuers.entry(key).or_default())
    }
}

/// Drops what is over, and anything that nobody uses where that is not enough.
fn make_room(issuers: &mut HashMap<(String, String), Arc<Issuer>>, now: Instant) {
    issuers.retain(|_, issuer| issuer.0.try_lock().map_or(true, |known| known.fresh(now).is_some()));
    if issuers.len() >= MAX_ISSUERS {
        let idle = issuers.iter().find(|(_, issuer)| Arc::strong_count(issuer) == 1);
        if let Some(key) = idle.map(|(key, _)| key.clone()) {
            issuers.remove(&key);
        }
    }
}

impl Known {
    fn fresh(&self, now: Instant) -> Option<Arc<[IssuerKey]>> {
        let (at, keys) = self.keys.as_ref()?;
        (now.saturating_duration_since(*at) < LIFE).then(|| Arc::clone(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::id::ZoneId;
    use caracal_store::egress::EgressOptions;

    #[test]
    fn sts_27_21_an_issuer_is_not_asked_more_often_than_its_allowance() {
        let start = Instant::now();
        let mut allowance = Allowance::default();
        let mut take = |seconds: u64| allowance.take(start + Duration::from_secs(seconds));
        assert!((0..BURST).all(|_| take(0)));
        assert!(!take(0) && !take(11));
        assert!(take(12) && !take(23));
        assert!(take(36) && take(36) && !take(36));
        assert!((0..BURST).all(|_| take(10_000)) && !take(10_000));
    }

    #[test]
    fn sts_21_keys_are_used_for_ten_minutes_and_not_longer() {
        let start = Instant::now();
        let known = Known { keys: Some((start, Arc::from([]))), ..Known::default() };
        assert!(known.fresh(start + LIFE - Duration::from_millis(1)).is_some());
        assert!(known.fresh(start + LIFE).is_none());
    }

    #[test]
    fn sts_21_the_memory_of_issuers_is_bounded() {
        let keys = IssuerKeys::new(Egress::new(EgressOptions::default()).unwrap());
        for number in 0..MAX_ISSUERS + 50 {
            let issuer = SubjectIssuer {
                id: number.to_string(),
                zone_id: ZoneId::new("z").unwrap(),
                issuer: "https://idp".to_owned(),
                jwks_url: "https://idp/keys".to_owned(),
                audience: "a".to_owned(),
            };
            let _ = keys.entry(&issuer, Instant::now());
        }
        assert!(keys.issuers.lock().unwrap().len() <= MAX_ISSUERS);
    }
}

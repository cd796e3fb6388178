//! What a judgement reads, and from where.
//!
//! A zone's state is kept in memory under the epochs that it was read at. Every change of authority raises the zone's
//! epoch in its own transaction (decision 0002), and every grant compares the epochs inside the transaction that writes
//! it (decision 0003): so what is kept can make a judgement quick, and never makes it wrong. Only what was found is kept:
//! something new is new without an epoch. A refusal never rests on what is kept: it is judged anew.

use super::request::ExchangeRequest;
use crate::Sts;
use crate::bundles::{ActivePolicy, LoadError, View};
use caracal_mandate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, DelegationEdgeId, ZoneId};
use caracal_store::Reader;
use caracal_store::SqlConnection;
use caracal_store::model::{
    AgentSession, Application, AuthorityRecord, DelegationEdge, Epochs, Provider, Resource, Zone,
};
use caracal_store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// How many zones are kept. One more makes room by starting over.
const ZONES: usize = 256;
/// How many rows are kept of all zones together, a path of delegations counted by its edges. A zone that wants more makes
/// room by starting over.
const ROWS: usize = 16_384;

/// Every zone's state, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    zones: RwLock<HashMap<ZoneId, Arc<Facts>>>,
    kept: Arc<AtomicUsize>,
}

/// A zone's state at its epochs.
#[derive(Debug)]
pub(super) struct Facts {
    zone: Zone,
    rows: Mutex<Rows>,
    /// How many rows are kept of all zones.
    kept: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Rows {
    applications: HashMap<ApplicationId, Arc<Application>>,
    records: HashMap<AuthorityRecordId, Arc<AuthorityRecord>>,
    sessions: HashMap<AgentSessionId, Arc<AgentSession>>,
    lineages: HashMap<DelegationEdgeId, Arc<Vec<DelegationEdge>>>,
    resources: HashMap<String, Arc<Resource>>,
    providers: HashMap<String, Arc<Provider>>,
    /// How many of those that are kept are these.
    count: usize,
}

impl Known {
    /// What is kept of the zone that the request names.
    pub(super) fn of(&self, request: &ExchangeRequest) -> Option<Arc<Facts>> {
        let zone = ZoneId::new(request.zone_id.as_deref()?).ok()?;
        self.zones.read().unwrap_or_else(PoisonError::into_inner).get(&zone).cloned()
    }

    /// Keeps a record that was just committed by a grant at these epochs: it will be asked for soon.
    pub(super) fn keep_record(&self, epochs: Epochs, record: AuthorityRecord) {
        let kept = self.zones.read().unwrap_or_else(PoisonError::into_inner).get(&record.zone_id).cloned();
        if let Some(facts) = kept.filter(|facts| facts.zone.epochs == epochs) {
            facts.keep(1, |rows| rows.records.insert(record.id.clone(), Arc::new(record)));
        }
    }

    /// What is kept of the zone at the epochs that were just read; what was kept at others is forgotten.
    pub(super) fn at(&self, zone: &Zone) -> Arc<Facts> {
        let kept = self.zones.read().unwrap_or_else(PoisonError::into_inner).get(&zone.id).cloned();
        if let Some(facts) = kept.filter(|facts| facts.zone == *zone) {
            return facts;
        }
        let facts =
            Arc::new(Facts { zone: zone.clone(), rows: Mutex::default(), kept: Arc::clone(&self.kept) });
        let mut zones = self.zones.write().unwrap_or_else(PoisonError::into_inner);
        if zones.len() >= ZONES {
            zones.clear();
        }
        zones.insert(zone.id.clone(), Arc::clone(&facts));
        facts
    }
}

/// Where a judgement reads from: what is kept, a connection to committed state, or a transaction under way.
pub(super) struct Live<'a> {
    origin: Origin<'a>,
    facts: Option<Arc<Facts>>,
    /// Whether what is kept may be judged by.
    at_hand: bool,
}

enum Origin<'a> {
    /// A connection is taken when it is first needed.
    Store(&'a Store, Option<Reader>),
    Transaction(&'a mut SqlConnection),
}

/// Looks among the rows that are kept, where it may, then in the database, and keeps what it finds there.
macro_rules! kept_or_read {
    ($self:ident, $rows:ident, $key:expr, $still_good:expr, $weight:expr, $read:expr) => {{
        if let Some(row) = $self.kept(|rows| rows.$rows.get($key).cloned())
            && $still_good(row.as_ref())
        {
            return Ok(Some(row.as_ref().clone()));
        }
        let found = $read($self.connection().await?).await?;
        if let (Some(facts), Some(row)) = (&$self.facts, &found) {
            let (weight, row) = ($weight(row), Arc::new(row.clone()));
            facts.keep(weight, |rows| rows.$rows.insert($key.to_owned(), row));
        }
        Ok(found)
    }};
}

impl<'a> Live<'a> {
    /// Reads everything from the database, and keeps it.
    pub(super) fn committed(store: &'a Store) -> Self {
        Self { origin: Origin::Store(store, None), facts: None, at_hand: false }
    }

    /// Reads what is kept, the zone's epochs too: whatever is granted has to compare them.
    pub(super) fn at_hand(store: &'a Store, facts: Arc<Facts>) -> Self {
        Self { origin: Origin::Store(store, None), facts: Some(facts), at_hand: true }
    }

    /// Reads what a transaction under way sees, and keeps nothing.
    pub(super) fn in_transaction(connection: &'a mut SqlConnection) -> Self {
        Self { origin: Origin::Transaction(connection), facts: None, at_hand: false }
    }

    /// Whether what it reads is committed.
    pub(super) fn view(&self) -> View {
        match self.origin {
            Origin::Store(..) => View::Committed,
            Origin::Transaction(_) => View::Uncommitted,
        }
    }

    /// Looks among what is kept, if that may be judged by.
    fn kept<T>(&self, look: impl FnOnce(&mut Rows) -> Option<T>) -> Option<T> {
        self.facts.as_ref().filter(|_| self.at_hand)?.rows(look)
    }

    /// For everything that is not kept.
    pub(super) async fn connection(&mut self) -> Result<&mut SqlConnection, StoreError> {
        match &mut self.origin {
            Origin::Transaction(connection) => Ok(connection),
            Origin::Store(_, Some(connection)) => Ok(connection),
            Origin::Store(store, none) => Ok(none.insert(store.read().await?)),
        }
    }

    /// The zone with this id, unless it is archived. From here on, rows are kept under its epochs.
    pub(super) async fn zone(&mut self, known: &Known, id: &ZoneId) -> Result<Option<Zone>, StoreError> {
        if let Some(facts) = self.facts.as_ref().filter(|facts| self.at_hand && facts.zone.id == *id) {
            return Ok(Some(facts.zone.clone()));
        }
        let zone = Zone::find(self.connection().await?, id).await?;
        if let (Some(zone), View::Committed) = (&zone, self.view()) {
            self.facts = Some(known.at(zone));
        }
        Ok(zone)
    }

    /// The application with this id, if it is neither archived nor expired at `now`.
    pub(super) async fn application(
        &mut self,
        id: &ApplicationId,
        now: i64,
    ) -> Result<Option<Application>, StoreError> {
        let lives = |application: &Application| application.expires_at.is_none_or(|end| end > now);
        if let Some(kept) = self.kept(|rows| rows.applications.get(id).cloned()).filter(|kept| lives(kept)) {
            return Ok(Some(kept.as_ref().clone()));
        }
        let found = Application::find_active(self.connection().await?, id, now).await?;
        if let (Some(facts), Some(found)) = (&self.facts, &found)
            // Another zone's epochs say nothing of it.
            && found.zone_id == facts.zone.id
        {
            let row = Arc::new(found.clone());
            facts.keep(1, |rows| rows.applications.insert(id.clone(), row));
        }
        Ok(found)
    }

    /// The record with this id in this zone, whatever its status.
    pub(super) async fn record(
        &mut self,
        zone: &ZoneId,
        id: &AuthorityRecordId,
    ) -> Result<Option<AuthorityRecord>, StoreError> {
        self.forget_unless(zone);
        kept_or_read!(self, records, id, |_| true, |_| 1, |connection| AuthorityRecord::find(
            connection, zone, id
        ))
    }

    /// The session with this id in this zone, whatever its status.
    pub(super) async fn session(
        &mut self,
        zone: &ZoneId,
        id: &AgentSessionId,
        now: i64,
    ) -> Result<Option<AgentSession>, StoreError> {
        self.forget_unless(zone);
        // A service that was heard since lives longer, and that is no change of authority.
        let current = |session: &AgentSession| session.is_within_time(now);
        kept_or_read!(self, sessions, id, current, |_| 1, |connection| AgentSession::find(
            connection, zone, id
        ))
    }

    /// The path from the root edge to this one, root first.
    pub(super) async fn lineage(
        &mut self,
        zone: &ZoneId,
        id: &DelegationEdgeId,
    ) -> Result<Option<Vec<DelegationEdge>>, StoreError> {
        self.forget_unless(zone);
        kept_or_read!(self, lineages, id, |_| true, Vec::len, |connection| DelegationEdge::lineage(
            connection, zone, id
        ))
    }

    /// The resource with this identifier or row id, unless it is archived.
    pub(super) async fn resource(
        &mut self,
        zone: &ZoneId,
        name: &str,
    ) -> Result<Option<Resource>, StoreError> {
        self.forget_unless(zone);
        kept_or_read!(self, resources, name, |_| true, |_| 1, |connection| Resource::find(
            connection, zone, name
        ))
    }

    /// The provider with this row id, unless it is archived.
    pub(super) async fn provider(&mut self, zone: &ZoneId, id: &str) -> Result<Option<Provider>, StoreError> {
        self.forget_unless(zone);
        kept_or_read!(self, providers, id, |_| true, |_| 1, |connection| Provider::find(connection, zone, id))
    }

    /// What is kept of one zone says nothing of another.
    fn forget_unless(&mut self, zone: &ZoneId) {
        self.facts = self.facts.take().filter(|facts| facts.zone.id == *zone);
    }
}

impl Sts {
    /// The zone that the request names, or that its application is in, unless it is archived.
    pub(super) async fn zone_of(
        &self,
        live: &mut Live<'_>,
        request: &ExchangeRequest,
        now: i64,
    ) -> Result<Option<Zone>, StoreError> {
        match request.zone_id.as_deref().map(ZoneId::new) {
            Some(Ok(id)) => live.zone(self.known(), &id).await,
            Some(Err(_)) => Ok(None),
            None => {
                let Ok(id) = ApplicationId::new(request.application_id.as_str()) else { return Ok(None) };
                match live.application(&id, now).await? {
                    Some(application) => live.zone(self.known(), &application.zone_id).await,
                    None => Ok(None),
                }
            }
        }
    }

    /// The zone's active policy.
    pub(super) async fn policy(
        &self,
        live: &mut Live<'_>,
        zone: &Zone,
    ) -> Result<Arc<ActivePolicy>, LoadError> {
        match self.bundles().at(&zone.id, zone.epochs.policy) {
            Some(active) => Ok(active),
            None => {
                let view = live.view();
                self.bundles().load(live.connection().await?, &zone.id, zone.epochs.policy, view).await
            }
        }
    }
}

impl Facts {
    fn rows<T>(&self, look: impl FnOnce(&mut Rows) -> T) -> T {
        look(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what counts as `weight` rows, if there is room.
    fn keep<T>(&self, weight: usize, insert: impl FnOnce(&mut Rows) -> T) {
        self.rows(|rows| {
            let is_full = || self.kept.load(Ordering::Relaxed).saturating_add(weight) > ROWS;
            if is_full() {
                self.kept.fetch_sub(rows.count, Ordering::Relaxed);
                *rows = Rows::default();
            }
            if !is_full() {
                self.kept.fetch_add(weight, Ordering::Relaxed);
                rows.count += weight;
                insert(rows);
            }
        });
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        let count = self.rows(|rows| rows.count);
        self.kept.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_mandate::epoch::{AuthorityEpoch, PolicyEpoch};

    fn zone(id: &str, epoch: u64) -> Zone {
        let (authority, keys) = (AuthorityEpoch(epoch), AuthorityEpoch(0));
        let epochs = Epochs { authority, policy: PolicyEpoch(0), keys, graph: 0 };
        Zone { id: ZoneId::new(id).unwrap(), epochs }
    }

    fn count(known: &Known) -> usize {
        known.kept.load(Ordering::Relaxed)
    }

    #[test]
    fn what_is_kept_of_all_zones_is_bounded_and_given_back() {
        let known = Known::default();
        let (one, two) = (known.at(&zone("z1", 1)), known.at(&zone("z2", 1)));
        (0..ROWS).for_each(|_| one.keep(1, |_| ()));
        assert_eq!(count(&known), ROWS);
        two.keep(1, |_| ());
        assert_eq!(count(&known), ROWS, "there is no room for another zone");
        one.keep(3, |_| ());
        assert_eq!(count(&known), 3, "it starts over");
        drop((one, two));
        known.at(&zone("z1", 2));
        assert_eq!(count(&known), 0, "with other epochs, what was kept is gone");
        for id in 0..ZONES + 2 {
            known.at(&zone(&format!("zone-{id}"), 1));
        }
        assert!(known.zones.read().unwrap().len() <= ZONES);
    }
}

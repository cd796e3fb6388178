//! Follows the store: a new snapshot whenever what gateways are told changes, and only then.

use std::sync::Arc;
use std::time::Duration;

use caracal_mandate::epoch::Generation;
use caracal_mandate::id::ZoneId;
use caracal_store::change::resources_changed_after;
use caracal_store::metrics;
use caracal_store::model::ResourceUpstream;
use caracal_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::content::Snapshot;
use super::names::{Lookup, Names};
use super::translate::{self, LeftOut, LeftOutReason, MAX_RESOURCES, Rules};

/// How often the database is asked, should another process have written.
const POLL: Duration = Duration::from_secs(1);
/// The time between two looks into the store: a change is told at once, and what follows it is told together.
const PAUSE: Duration = Duration::from_millis(20);
/// Resources whose omission is logged one by one.
const LOGGED: usize = 20;

/// Reads the store and tells of it.
pub(super) struct Follower {
    store: Store,
    /// The only zone that is served.
    zone: Option<ZoneId>,
    rules: Rules,
    names: Names,
    rows: Vec<ResourceUpstream>,
    seen: Option<Generation>,
    told: watch::Sender<Arc<Snapshot>>,
}

impl Follower {
    /// Reads for the first time.
    pub(super) async fn begin(
        store: Store,
        zone: Option<ZoneId>,
        rules: Rules,
        lookup: Lookup,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), StoreError> {
        let (told, snapshots) = watch::channel(Arc::default());
        let mut follower =
            Self { store, zone, rules, names: Names::new(lookup), rows: Vec::new(), seen: None, told };
        follower.reload().await?;
        follower.tell();
        Ok((follower, snapshots))
    }

    /// Goes on until it is dropped. While the store cannot be read, what was told last counts.
    pub(super) async fn run(mut self) {
        let mut changes = self.store.changes();
        let mut readable = true;
        loop {
            changes.mark_unchanged();
            let next = Instant::now() + PAUSE;
            let reloaded = self.reload().await;
            match &reloaded {
                Ok(_) if !readable => tracing::info!("the configuration of gateways can be read again"),
                Err(error) if readable => {
                    tracing::error!(%error, "the configuration of gateways cannot be read; they keep the last one");
                }
                _ => {}
            }
            readable = reloaded.is_ok();
            if reloaded.is_ok_and(|changed| changed) {
                self.tell();
            }
            tokio::select! {
                _ = tokio::time::timeout(POLL, changes.changed()) => {}
                () = self.names.changed() => self.tell(),
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Reads the resources anew if any of them may have changed.
    async fn reload(&mut self) -> Result<bool, StoreError> {
        let mut connection = self.store.read().await?;
        let seen = self.seen.unwrap_or_default();
        let (current, changed) = resources_changed_after(&mut connection, seen).await?;
        if !changed && self.seen.is_some() {
            self.seen = Some(current);
            return Ok(false);
        }
        // One more than is served, so that too many are noticed.
        let limit = i64::try_from(MAX_RESOURCES).unwrap_or(i64::MAX).saturating_add(1);
        self.rows = ResourceUpstream::all(&mut connection, self.zone.as_ref(), limit).await?;
        self.seen = Some(current);
        self.names.want(translate::names(&self.rows).collect());
        Ok(true)
    }

    /// Tells the sessions, if anything is other than it was.
    fn tell(&mut self) {
        let before = Arc::clone(&self.told.borrow());
        let snapshot = translate::translate(&self.rules, &self.rows, self.names.known(), &before);
        for reason in LeftOutReason::ALL {
            let count = snapshot.left_out.iter().filter(|left| left.reason == reason).count();
            metrics::resources_left_out(reason.as_str(), count);
        }
        metrics::resources_served(snapshot.clusters.len());
        self.told.send_if_modified(|last| {
            log_left_out(&last.left_out, &snapshot.left_out);
            let changed = last.version != snapshot.version || last.left_out != snapshot.left_out;
            if changed {
                *last = Arc::new(snapshot);
            }
            changed
        });
    }
}

fn log_left_out(before: &[LeftOut], now: &[LeftOut]) {
    // A name that cannot be looked up is logged as such; one that was not yet is no news.
    let told = |left: &&LeftOut| left.reason != LeftOutReason::Unresolved && !before.contains(left);
    for left in now.iter().filter(told).take(LOGGED) {
        tracing::warn!(
            zone = %left.zone, resource = %left.resource, reason = left.reason.as_str(),
            "a resource is left out of the configuration of gateways"
        );
    }
}

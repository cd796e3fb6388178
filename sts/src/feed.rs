//! The gateway feed: a long poll that answers the moment something changed (architecture, 'Epochs').

use crate::Sts;
use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::{FeedResponse, ZoneFeed};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use caracal_store::StoreError;
use caracal_store::change::{Change, changes_after, revoked_anchors};
use caracal_store::model::{Resource, Zone};
use sqlx::AnyConnection;
use std::collections::BTreeMap;
use std::time::Duration;

/// A gateway that is further behind than this many changes gets a snapshot.
const MAX_DELTA: usize = 4096;
/// How often the database is asked, should another replica have written.
const POLL: Duration = Duration::from_secs(1);
/// The longest wait, in seconds.
pub(crate) const MAX_WAIT_SECONDS: u64 = 30;

impl Sts {
    /// What changed since `since`; waits up to `wait` for something to. `since` also acknowledges: the gateway has
    /// applied everything up to it.
    pub(crate) async fn feed(
        &self,
        gateway: &GatewayId,
        since: Generation,
        wait: Duration,
    ) -> Result<FeedResponse, StoreError> {
        self.acknowledge(gateway, since).await?;
        let mut changes = self.store().changes();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            changes.mark_unchanged();
            let current = self.generation().await?;
            if since.0 == 0 || since > current || since != current {
                return self.answer_feed(since, current).await;
            }
            let next = deadline.min(tokio::time::Instant::now() + POLL);
            let moved = tokio::time::timeout_at(next, changes.changed()).await;
            let stopped = matches!(moved, Ok(Err(_)));
            if stopped || tokio::time::Instant::now() >= deadline {
                return self.answer_feed(since, self.generation().await?).await;
            }
        }
    }

    async fn generation(&self) -> Result<Generation, StoreError> {
        let mut connection = self.store().read().await?;
        let value: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
            .fetch_one(&mut *connection)
            .await?;
        Ok(Generation(u64::try_from(value).unwrap_or(0)))
    }

    async fn answer_feed(&self, since: Generation, current: Generation) -> Result<FeedResponse, StoreError> {
        let mut connection = self.store().read().await?;
        // One transaction, so that epochs, keys and resources are of one moment.
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let delta =
            if since.0 == 0 || since > current { None } else { self.delta(&mut transaction, since).await? };
        match delta {
            Some(delta) => Ok(delta),
            None => self.snapshot(&mut transaction).await,
        }
    }

    async fn snapshot(&self, connection: &mut AnyConnection) -> Result<FeedResponse, StoreError> {
        let value: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
            .fetch_one(&mut *connection)
            .await?;
        let now = self.store().now();
        let mut zones = Vec::new();
        for zone in Zone::all(connection).await? {
            let resources = Resource::all(connection, &zone.id).await?;
            zones.push(ZoneFeed {
                keys: Some(self.keys().verification_keys(&zone.id).await?),
                resources: resources.iter().map(Resource::to_entry).collect(),
                revoked: revoked_anchors(connection, &zone.id, now).await?,
                ..empty_feed(&zone)
            });
        }
        Ok(FeedResponse {
            previous: Generation(0),
            generation: Generation(u64::try_from(value).unwrap_or(0)),
            snapshot: true,
            issuer: self.issuer().to_owned(),
            zones,
            removed_zones: Vec::new(),
        })
    }

    /// The changes after `since`, folded; `None` where the log does not reach back that far or is too long to tell.
    async fn delta(
        &self,
        connection: &mut AnyConnection,
        since: Generation,
    ) -> Result<Option<FeedResponse>, StoreError> {
        let changes = changes_after(connection, since).await?;
        let reaches_back = changes.first().is_none_or(|(first, ..)| first.0 == since.0.saturating_add(1));
        if !reaches_back || changes.len() > MAX_DELTA {
            return Ok(None);
        }
        let generation = changes.last().map_or(since, |(last, ..)| *last);
        let mut zones: BTreeMap<ZoneId, Vec<(i64, Change)>> = BTreeMap::new();
        for (_, zone, at, change) in changes {
            zones.entry(zone).or_default().push((at, change));
        }
        let mut feeds = Vec::new();
        let mut removed_zones = Vec::new();
        for (id, changes) in zones {
            match Zone::find(connection, &id).await? {
                Some(zone) => feeds.push(self.fold(connection, &zone, changes).await?),
                None => removed_zones.push(id),
            }
        }
        let issuer = self.issuer().to_owned();
        Ok(Some(FeedResponse {
            previous: since,
            generation,
            snapshot: false,
            issuer,
            zones: feeds,
            removed_zones,
        }))
    }

    async fn fold(
        &self,
        connection: &mut AnyConnection,
        zone: &Zone,
        changes: Vec<(i64, Change)>,
    ) -> Result<ZoneFeed, StoreError> {
        let mut feed = empty_feed(zone);
        for (at, change) in changes {
            match change {
                Change::Revoked { anchors } => {
                    feed.restored.retain(|anchor| !anchors.contains(anchor));
                    let until =
                        u64::try_from(at + caracal_store::change::ANCHOR_RETENTION).unwrap_or(u64::MAX);
                    let revoked = |anchor| caracal_mandate::anchor::RevokedAnchor { anchor, until };
                    feed.revoked.extend(anchors.into_iter().map(revoked));
                }
                Change::Restored { anchors } => {
                    feed.revoked.retain(|revoked| !anchors.contains(&revoked.anchor));
                    feed.restored.extend(anchors);
                }
                Change::Keys => {
                    self.keys().forget(&zone.id);
                    feed.keys = Some(self.keys().verification_keys(&zone.id).await?);
                }
                Change::Resource { id } => {
                    if let Some(resource) = Resource::find(connection, &zone.id, &id).await? {
                        feed.resources.push(resource.to_entry());
                    }
                }
                Change::ResourceGone { identifier } => {
                    let still = Resource::find(connection, &zone.id, &identifier).await?;
                    match (ResourceIdentifier::new(identifier), still) {
                        (Ok(identifier), None) => feed.removed_resources.push(identifier),
                        (_, Some(resource)) => feed.resources.push(resource.to_entry()),
                        (Err(_), None) => {}
                    }
                }
                _ => {}
            }
        }
        Ok(feed)
    }

    /// Notes how far a gateway has come, whenever that changed.
    async fn acknowledge(&self, gateway: &GatewayId, since: Generation) -> Result<(), StoreError> {
        if !self.note_gateway(gateway, since) {
            return Ok(());
        }
        let gateway = gateway.clone();
        self.store()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    sqlx::query(
                        "INSERT INTO gateways (id, acknowledged, acknowledged_at, last_seen_at) VALUES ($1, $2, $3, $3) \
                         ON CONFLICT (id) DO UPDATE SET acknowledged = excluded.acknowledged, \
                         acknowledged_at = excluded.acknowledged_at, last_seen_at = excluded.last_seen_at",
                    )
                    .bind(gateway.as_str())
                    .bind(i64::try_from(since.0).unwrap_or(i64::MAX))
                    .bind(now)
                    .execute(&mut *tx.connection())
                    .await?;
                    Ok(())
                })
            })
            .await
    }
}

fn empty_feed(zone: &Zone) -> ZoneFeed {
    ZoneFeed {
        zone_id: zone.id.clone(),
        authority_epoch: zone.epochs.authority,
        policy_epoch: zone.epochs.policy,
        keys: None,
        resources: Vec::new(),
        removed_resources: Vec::new(),
        revoked: Vec::new(),
        restored: Vec::new(),
    }
}

//! The gateway feed: a long poll that answers the moment something changed (architecture, 'Epochs').

use crate::Sts;
use caracal_mandate::epoch::Generation;
use caracal_mandate::feed::{CredentialKind, FeedResponse, ResourceEntry, UpstreamEntry, ZoneFeed};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::change::{Change, changes_after, revoked_anchors};
use caracal_store::internal::GatewayProof;
use caracal_store::model::{Provider, Resource, Zone};
use std::collections::BTreeMap;
use std::time::Duration;

/// A gateway that is further behind than this many changes gets a snapshot.
const MAX_DELTA: usize = 4096;
/// How often the database is asked, should another replica have written.
const POLL: Duration = Duration::from_secs(1);
/// How long changes gather for a gateway that is behind already when it asks. They come faster than it asks then, and an
/// answer with many costs it and us little more than one with a few. Who waits for a change is told at once.
const GATHER: Duration = Duration::from_millis(3);
/// A gateway that was silent for so long is forgotten, in milliseconds. It stopped counting long before.
const FORGET_GATEWAY: i64 = 24 * 3_600_000;
/// The longest wait, in seconds.
pub(crate) const MAX_WAIT_SECONDS: u64 = 30;

impl Sts {
    /// What changed since `since`; waits up to `wait` for something to.
    pub(crate) async fn feed(&self, since: Generation, wait: Duration) -> Result<FeedResponse, StoreError> {
        let gather = async move { tokio::time::sleep(GATHER.min(wait)).await };
        self.feed_gathering(since, wait, gather).await
    }

    /// The same; `gather` is waited for where the gateway is behind as it asks, and nowhere else.
    async fn feed_gathering(
        &self,
        since: Generation,
        wait: Duration,
        gather: impl Future<Output = ()>,
    ) -> Result<FeedResponse, StoreError> {
        let mut changes = self.store().changes();
        let deadline = tokio::time::Instant::now() + wait;
        let mut has_waited = since.0 == 0;
        loop {
            changes.mark_unchanged();
            let current = self.generation().await?;
            if since.0 == 0 || since != current {
                if !has_waited {
                    gather.await;
                }
                return self.answer_feed(since).await;
            }
            has_waited = true;
            let next = deadline.min(tokio::time::Instant::now() + POLL);
            let moved = tokio::time::timeout_at(next, changes.changed()).await;
            let stopped = matches!(moved, Ok(Err(_)));
            if stopped || tokio::time::Instant::now() >= deadline {
                return self.answer_feed(since).await;
            }
        }
    }

    async fn generation(&self) -> Result<Generation, StoreError> {
        let mut connection = self.store().read().await?;
        generation(&mut connection).await
    }

    async fn answer_feed(&self, since: Generation) -> Result<FeedResponse, StoreError> {
        let mut response = {
            // Epochs, changes and resources are of one moment.
            let mut connection = self.store().read().await?.of_one_moment().await?;
            let current = generation(&mut connection).await?;
            match self.delta(&mut connection, since, current).await? {
                Some(delta) => delta,
                None => self.snapshot(&mut connection, current).await?,
            }
        };
        // Keys are read over a connection of their own, so none is held meanwhile. They may be newer than the rest; the
        // next answer then tells of them again.
        for zone in &mut response.zones {
            if let Some(keys) = &mut zone.keys {
                self.keys().forget(&zone.zone_id);
                *keys = self.keys().verification_keys(&zone.zone_id).await?;
            }
        }
        Ok(response)
    }

    async fn snapshot(
        &self,
        connection: &mut SqlConnection,
        current: Generation,
    ) -> Result<FeedResponse, StoreError> {
        let now = self.store().now();
        let mut zones = Vec::new();
        for zone in Zone::all(connection).await? {
            let mut resources = Vec::new();
            for resource in Resource::all(connection, &zone.id).await? {
                resources.extend(entry(connection, &resource).await?);
            }
            zones.push(ZoneFeed {
                keys: Some(Vec::new()),
                resources,
                revoked: revoked_anchors(connection, &zone.id, now).await?,
                ..empty_feed(&zone)
            });
        }
        Ok(FeedResponse {
            previous: Generation(0),
            generation: current,
            snapshot: true,
            issuer: self.issuer().to_owned(),
            time: u64::try_from(now).unwrap_or(0),
            zones,
            removed_zones: Vec::new(),
        })
    }

    /// The changes after `since`, folded; `None` where the log does not reach back that far or is too long to tell.
    async fn delta(
        &self,
        connection: &mut SqlConnection,
        since: Generation,
        current: Generation,
    ) -> Result<Option<FeedResponse>, StoreError> {
        let Some(behind) = current.0.checked_sub(since.0).and_then(|behind| usize::try_from(behind).ok())
        else {
            return Ok(None);
        };
        if since.0 == 0 || behind > MAX_DELTA {
            return Ok(None);
        }
        let time = u64::try_from(self.store().now()).unwrap_or(0);
        let changes = changes_after(connection, since).await?;
        // Generations have no gaps, so where one is missing the log was cut.
        if changes.len() != behind {
            return Ok(None);
        }
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
            generation: current,
            snapshot: false,
            issuer,
            // Never later than what this transaction saw.
            time,
            zones: feeds,
            removed_zones,
        }))
    }

    async fn fold(
        &self,
        connection: &mut SqlConnection,
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
                    // Read after the transaction.
                    feed.keys = Some(Vec::new());
                }
                Change::Resource { id } => {
                    if let Some(resource) = Resource::find(connection, &zone.id, &id).await? {
                        tell(connection, &mut feed, &resource).await?;
                    }
                }
                Change::ResourceGone { identifier } => {
                    let still = Resource::find(connection, &zone.id, &identifier).await?;
                    match (ResourceIdentifier::new(identifier), still) {
                        (Ok(identifier), None) => feed.removed_resources.push(identifier),
                        (_, Some(resource)) => tell(connection, &mut feed, &resource).await?,
                        (Err(_), None) => {}
                    }
                }
                _ => {}
            }
        }
        Ok(feed)
    }

    /// Uses the nonce of a poll up and notes how far its gateway has come: it has applied everything up to `since`.
    /// `false` if the nonce was used before. A generation that does not exist yet acknowledges nothing.
    pub(crate) async fn acknowledge(
        &self,
        proof: GatewayProof,
        gateway: &GatewayId,
        since: Generation,
    ) -> Result<bool, StoreError> {
        let gateway = gateway.clone();
        self.store()
            .write(move |tx| {
                Box::pin(async move {
                    if !proof.spend(tx).await? {
                        return Ok(false);
                    }
                    let now = tx.now();
                    let current = generation(tx.connection()).await?;
                    let applied = if since > current { Generation(0) } else { since };
                    sqlx::query(
                        "INSERT INTO gateways (id, acknowledged, acknowledged_at, last_seen_at) VALUES ($1, $2, $3, $3) \
                         ON CONFLICT (id) DO UPDATE SET acknowledged = excluded.acknowledged, \
                         acknowledged_at = CASE WHEN gateways.acknowledged = excluded.acknowledged \
                           THEN gateways.acknowledged_at ELSE excluded.acknowledged_at END, \
                         last_seen_at = excluded.last_seen_at",
                    )
                    .bind(gateway.as_str())
                    .bind(i64::try_from(applied.0).unwrap_or(i64::MAX))
                    .bind(now)
                    .execute(&mut *tx.connection())
                    .await?;
                    if applied.0 == 0 {
                        // One begins anew: a moment to forget those that are long gone, as workers that were restarted.
                        sqlx::query("DELETE FROM gateways WHERE last_seen_at < $1")
                            .bind(now - FORGET_GATEWAY)
                            .execute(&mut *tx.connection())
                            .await?;
                    }
                    Ok(true)
                })
            })
            .await
    }
}

async fn generation(connection: &mut SqlConnection) -> Result<Generation, StoreError> {
    let value: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
        .fetch_one(connection)
        .await?;
    Ok(Generation(u64::try_from(value).unwrap_or(0)))
}

/// What gateways are told of a resource. One without its provider is not reachable: gateways do not know it
/// (contract sts §12.8).
async fn entry(
    connection: &mut SqlConnection,
    resource: &Resource,
) -> Result<Option<ResourceEntry>, StoreError> {
    let credential = match &resource.credential_provider_id {
        None => CredentialKind::Mandate,
        Some(id) => match Provider::find(connection, &resource.zone_id, id).await? {
            None => return Ok(None),
            Some(provider) => match provider.kind.as_str() {
                "none" => CredentialKind::None,
                "caracal_mandate" => CredentialKind::Mandate,
                _ => CredentialKind::Brokered,
            },
        },
    };
    let upstream = resource.upstream_url.clone().map(|url| UpstreamEntry { url, credential });
    Ok(Some(ResourceEntry { upstream, ..resource.to_entry() }))
}

/// Tells of a resource as it stands now.
async fn tell(
    connection: &mut SqlConnection,
    feed: &mut ZoneFeed,
    resource: &Resource,
) -> Result<(), StoreError> {
    match entry(connection, resource).await? {
        Some(entry) => feed.resources.push(entry),
        None => feed.removed_resources.push(resource.identifier.clone()),
    }
    Ok(())
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

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;

//! The active policy of each zone, compiled once and kept until another is activated (contract sts §14.4).

use crate::policy::{Bundle, manifest_sha256};
use caracal_mandate::epoch::PolicyEpoch;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A zone's active policy and what identifies it.
pub(crate) struct ActivePolicy {
    /// The compiled rules.
    pub(crate) bundle: Bundle,
    /// The active version; `None` where no policy set is active.
    pub(crate) policy_set_version_id: Option<String>,
    /// The manifest's hash; `no_active_policy_set` where none is active.
    pub(crate) manifest_sha: String,
    /// When it was loaded, unix milliseconds.
    pub(crate) loaded_at: i64,
    epoch: PolicyEpoch,
}

/// Why a zone's policy cannot be used. The exchange answers 503, never a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the active policy does not compile: {0}")]
    Compile(String),
    #[error("the active policy's manifest does not match its hash")]
    Manifest,
    #[error("the active policy names a version that does not exist")]
    Missing,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for LoadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[derive(Deserialize)]
struct ManifestEntry {
    policy_version_id: String,
}

/// Whether what a connection reads is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// It is, whoever else reads it.
    Committed,
    /// It may still be taken back: nothing may be remembered of it.
    Uncommitted,
}

/// All zones' active policies.
#[derive(Default)]
pub(crate) struct Bundles(RwLock<HashMap<ZoneId, Arc<ActivePolicy>>>);

impl Bundles {
    /// The zone's policy as of `epoch`, if it is loaded: an activation always moves the epoch, so one that was loaded at
    /// the same epoch is still the active one.
    pub(crate) fn at(&self, zone: &ZoneId, epoch: PolicyEpoch) -> Option<Arc<ActivePolicy>> {
        self.loaded(zone).filter(|active| active.epoch == epoch)
    }

    /// The zone's policy as of `epoch`, loaded where it is not.
    pub(crate) async fn load(
        &self,
        connection: &mut SqlConnection,
        zone: &ZoneId,
        epoch: PolicyEpoch,
        view: View,
    ) -> Result<Arc<ActivePolicy>, LoadError> {
        if let Some(active) = self.at(zone, epoch) {
            return Ok(active);
        }
        let active = Arc::new(load(connection, zone, epoch).await?);
        if view == View::Committed {
            let mut bundles = self.0.write().unwrap_or_else(PoisonError::into_inner);
            bundles.insert(zone.clone(), Arc::clone(&active));
        }
        Ok(active)
    }

    /// What is loaded of a zone. Nothing is read for it.
    pub(crate) fn loaded(&self, zone: &ZoneId) -> Option<Arc<ActivePolicy>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(zone).cloned()
    }
}

async fn load(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    epoch: PolicyEpoch,
) -> Result<ActivePolicy, LoadError> {
    let row: Option<(String, String, String)> = sqlx::query_as(
        "SELECT v.id, v.manifest_json, v.manifest_sha256 FROM policy_sets s \
         JOIN policy_set_versions v ON v.id = s.active_version_id \
         WHERE s.zone_id = $1 AND s.archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((version, manifest, sha)) = row else {
        let manifest_sha = crate::policy::bundle::NO_ACTIVE_POLICY_SET.to_owned();
        return Ok(ActivePolicy {
            bundle: Bundle::deny_all(),
            policy_set_version_id: None,
            manifest_sha,
            loaded_at: caracal_store::clock::now(),
            epoch,
        });
    };
    let entries: Vec<ManifestEntry> = serde_json::from_str(&manifest).map_err(|_| LoadError::Manifest)?;
    let ids: Vec<String> = entries.into_iter().map(|entry| entry.policy_version_id).collect();
    if manifest_sha256(&ids) != sha {
        return Err(LoadError::Manifest);
    }
    let mut documents = Vec::with_capacity(ids.len());
    for id in ids {
        let content: Option<String> =
            sqlx::query_scalar("SELECT content FROM policy_versions WHERE id = $1 AND zone_id = $2")
                .bind(id.as_str())
                .bind(zone.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        documents.push((id, content.ok_or(LoadError::Missing)?));
    }
    let begun = std::time::Instant::now();
    let compiled = Bundle::compile(&documents);
    caracal_store::metrics::policy_compiled(begun.elapsed(), compiled.is_ok());
    let bundle = compiled.map_err(|error| LoadError::Compile(error.to_string()))?;
    Ok(ActivePolicy {
        bundle,
        policy_set_version_id: Some(version),
        manifest_sha: sha,
        loaded_at: caracal_store::clock::now(),
        epoch,
    })
}

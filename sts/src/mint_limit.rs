//! How many mandates a minute an application may mint for one resource: what the process was started with, lowered by
//! what an operator set, never raised (contract sts §12).

use crate::Sts;
use caracal_store::settings::Setting;
use caracal_store::{Store, StoreError};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How often the setting is read.
const INTERVAL: Duration = Duration::from_secs(5);

/// The limit in force.
#[derive(Debug)]
pub(crate) struct MintLimit {
    ceiling: i64,
    lowered: AtomicI64,
}

impl MintLimit {
    pub(crate) fn new(ceiling: i64) -> Self {
        Self { ceiling, lowered: AtomicI64::new(ceiling) }
    }

    pub(crate) fn per_minute(&self) -> i64 {
        self.lowered.load(Ordering::Relaxed)
    }

    /// Reads the setting. Without one the ceiling is in force again; if it cannot be read, what was stays.
    async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let mut connection = store.read().await?;
        let set = Setting::MintLimitPerMinute.read(&mut connection).await?;
        let limit = set.filter(|limit| *limit > 0).map_or(self.ceiling, |limit| limit.min(self.ceiling));
        self.lowered.store(limit, Ordering::Relaxed);
        Ok(())
    }
}

impl Sts {
    /// Follows the settings of the installation until `stop` resolves.
    pub async fn follow_settings(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            if let Err(error) = self.refresh_settings().await {
                tracing::error!(%error, "the settings could not be read");
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Reads the settings of the installation once.
    pub async fn refresh_settings(&self) -> Result<(), StoreError> {
        self.0.mint_limit.refresh(self.store()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn contract_sts_12_the_limit_is_lowered_and_never_raised() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_file(&dir.path().join("caracal.db")).await.unwrap();
        let limit = MintLimit::new(1000);
        let set = async |value: i64| {
            let written = store.write(move |tx| {
                Box::pin(async move {
                    caracal_store::settings::set(tx, Setting::MintLimitPerMinute, value, "admin:a").await
                })
            });
            written.await.unwrap();
        };
        for (value, expected) in [(Some(7), 7), (Some(5000), 1000), (Some(0), 1000), (Some(-3), 1000)] {
            set(value.unwrap()).await;
            limit.refresh(&store).await.unwrap();
            assert_eq!(limit.per_minute(), expected, "{value:?}");
        }
        set(7).await;
        limit.refresh(&store).await.unwrap();
        let cleared = store.write(|tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM settings").execute(&mut *tx.connection()).await?;
                Ok::<_, StoreError>(())
            })
        });
        cleared.await.unwrap();
        limit.refresh(&store).await.unwrap();
        assert_eq!(limit.per_minute(), 1000, "without a setting");
        set(7).await;
        limit.refresh(&store).await.unwrap();
        store.close().await;
        assert!(limit.refresh(&store).await.is_err());
        assert_eq!(limit.per_minute(), 7, "what was stays");
    }
}

//! A workload, and the variables that it may fill (contract sts §23).

use axum::http::StatusCode;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::model::Zone;
use serde::Deserialize;

use crate::refusal::Denial;

/// The identity of a launcher. Its ids are unique over all zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) id: String,
    pub(super) zone_id: ZoneId,
    pub(super) name: String,
    pub(super) secret_hash: String,
    bindings: String,
}

/// Which credential goes into which variable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Binding {
    pub(super) env: String,
    pub(super) resource: String,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
}

impl Workload {
    /// The workload of this id, where its zone is not archived.
    pub(super) async fn find(connection: &mut SqlConnection, id: &str) -> Result<Option<Self>, StoreError> {
        let row: Option<(String, String, String, String, String)> = sqlx::query_as(
            "SELECT id, zone_id, name, secret_hash, bindings_json FROM workloads WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
        let Some((id, zone, name, secret_hash, bindings)) = row else { return Ok(None) };
        let zone_id =
            ZoneId::new(zone).map_err(|error| StoreError::corrupt(format!("workloads: {error}")))?;
        let zone = Zone::find(connection, &zone_id).await?;
        Ok(zone.map(|zone| Self { id, zone_id: zone.id, name, secret_hash, bindings }))
    }

    /// Its bindings as they are stored.
    pub(super) fn bindings<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<T>, Denial> {
        serde_json::from_str(&self.bindings).map_err(|error| {
            tracing::error!(workload = self.id, %error, "a workload's bindings cannot be read");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Denial::new(status, "internal_error", "the workload's bindings cannot be read")
        })
    }
}

//! Trying a provider's token endpoint: when it is made, and whenever an operator asks (contract admin-audit §5.5).

use crate::app::{App, Done, Kind, zone_id};
use crate::gate::Call;
use crate::problem::Problem;
use crate::providers::of_secrets;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use caracal_mandate::id::ZoneId;
use caracal_store::model::Provider;
use caracal_store::{StoreError, clock};
use caracal_sts::providers::{Kind as ProviderKind, Probe, ProviderConfig, SealedSecrets, Secrets};
use serde_json::{Value, json};
use std::sync::Arc;

/// How often a zone's endpoints are tried in a minute.
const MOST: i64 = 10;
const MINUTE: i64 = 60_000;

/// Counts one more trial of the zone.
async fn count(app: &App, zone: &ZoneId) -> Result<(), Problem> {
    let key = format!("provider-test:{zone}");
    let counted: Result<i64, StoreError> =
        app.store.write(move |tx| Box::pin(async move { tx.count(&key, MINUTE).await })).await;
    if counted? > MOST {
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "provider_test_rate_limited"));
    }
    Ok(())
}

/// Tries an endpoint. Nothing of its answer is told but a word.
pub(crate) async fn check(
    app: &App,
    zone: &ZoneId,
    config: &ProviderConfig,
    secrets: &Secrets,
) -> Result<(Probe, Value), Problem> {
    count(app, zone).await?;
    let tried = app.providers.probe(config, secrets).await;
    let (probe, detail) = tried.ok_or_else(|| Problem::invalid("provider_check_unsupported"))?;
    let checked_at = clock::iso(app.store.now());
    Ok((probe, json!({ "status": probe.as_str(), "detail": detail, "checked_at": checked_at })))
}

/// `POST /v1/zones/:z/providers/:id/test`
pub(crate) async fn test(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (provider, sealed) = {
        let mut connection = app.store.read().await?;
        let provider = Provider::find(&mut connection, &zone, &id).await?;
        let provider = provider.ok_or_else(|| Problem::absent("provider_not_found"))?;
        let sealed = SealedSecrets::read(&mut connection, &zone, &id).await.map_err(of_secrets)?;
        (provider, sealed)
    };
    let kind = ProviderKind::parse(&provider.kind).filter(|kind| kind.is_fetched());
    let kind = kind.ok_or_else(|| Problem::invalid("provider_check_unsupported"))?;
    let (probe, body) = match ProviderConfig::parse(kind, &provider.config) {
        Ok(config) => {
            let secrets = sealed.open(&app.vault).map_err(of_secrets)?;
            check(&app, &zone, &config, &secrets).await?
        }
        Err(error) => {
            let checked_at = clock::iso(app.store.now());
            let probe = Probe::ConfigError;
            (
                probe,
                json!({ "status": probe.as_str(), "detail": error.to_string(), "checked_at": checked_at }),
            )
        }
    };
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let failed_at = (probe != Probe::Ok).then(|| tx.now());
            sqlx::query("UPDATE providers SET connectivity_failed_at = $1 WHERE zone_id = $2 AND id = $3")
                .bind(failed_at)
                .bind(zone.as_str())
                .bind(id.as_str())
                .execute(&mut *tx.connection())
                .await?;
            Ok(Done::new(StatusCode::OK, Kind::Action, ("providers", &id), body))
        })
    })
    .await
}

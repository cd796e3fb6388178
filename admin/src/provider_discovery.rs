//! What an issuer says of itself, so that an operator need not look it up (contract admin-audit §5.5).

use crate::app::{App, zone_id};
use crate::body::{Body, Text};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use caracal_store::StoreError;
use caracal_sts::providers::{Discovered, DiscoveryError};
use serde::Deserialize;

/// How often a zone may ask in a minute.
const MOST: i64 = 10;
const MINUTE: i64 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    issuer: Text<2048>,
}

/// `POST /v1/zones/:z/providers/discovery`
pub(crate) async fn discover(
    State(app): State<App>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Json<Discovered>, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (_, request): (_, Request) = body.parse("invalid_issuer")?;
    let key = format!("provider-discovery:{zone}");
    let counted: Result<i64, StoreError> =
        app.store.write(move |tx| Box::pin(async move { tx.count(&key, MINUTE).await })).await;
    if counted? > MOST {
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "provider_discovery_rate_limited"));
    }
    app.providers.discover(&request.issuer.0).await.map(Json).map_err(|error| match error {
        DiscoveryError::Issuer => Problem::invalid("invalid_issuer").because(error.to_string()),
        error => Problem::unprocessable("provider_discovery_failed").because(error.to_string()),
    })
}

//! Issuers of users that a zone trusts (contract admin-audit §5.9).

use crate::app::{App, Done, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::gate::Call;
use crate::object::{Listed, Object, find};
use crate::problem::Problem;
use crate::row::Row;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use caracal_store::{StoreError, ids};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const COLUMNS: &str = "SELECT id, zone_id, issuer, jwks_url, audience, created_by, created_via_operator, updated_by, \
     updated_via_operator, created_at, updated_at FROM subject_issuers";
/// Live ones per zone.
const MAX_ISSUERS: i64 = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    issuer: HttpsUrl,
    jwks_url: HttpsUrl,
    audience: Text<512>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    jwks_url: Option<HttpsUrl>,
    audience: Option<Text<512>>,
}

/// An `https` URL without user information, query and fragment, of at most 2048 characters, verbatim.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct HttpsUrl(String);

impl TryFrom<String> for HttpsUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.len() <= 2048
            && !text.contains(['?', '#', '@', '\\'])
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        let uri: Option<Uri> = text.parse().ok().filter(|_| plain);
        let good = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
        });
        if good {
            Ok(Self(text))
        } else {
            Err("an https URL without credentials, query and fragment is expected".to_owned())
        }
    }
}

/// What would be stored of a body.
pub(crate) fn preview(body: &Body) -> Result<Value, Problem> {
    let (_, create): (_, Create) = body.parse("invalid_subject_issuer")?;
    Ok(json!({ "issuer": create.issuer.0, "jwks_url": create.jwks_url.0, "audience": create.audience.0 }))
}

/// Issuers of users.
pub(crate) struct SubjectIssuer;

impl Object for SubjectIssuer {
    const COLUMNS: &'static str = COLUMNS;
    const TABLE: &'static str = "subject_issuers";
    const ENTITY: &'static str = "subject-issuers";
    const ABSENT: &'static str = "subject_issuer_not_found";
    const LISTED: Listed = Listed::InUse;

    fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
        row.with_authors(json!({
            "id": row.text("id")?, "zone_id": row.text("zone_id")?, "issuer": row.text("issuer")?,
            "jwks_url": row.text("jwks_url")?, "audience": row.text("audience")?,
        }))
    }
}

/// `POST /v1/zones/:z/subject-issuers`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_subject_issuer")?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            let live: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM subject_issuers WHERE zone_id = $1 AND archived_at IS NULL",
            )
            .bind(zone.as_str())
            .fetch_one(&mut *tx.connection())
            .await?;
            if live >= MAX_ISSUERS {
                let why = format!("a zone trusts at most {MAX_ISSUERS} issuers");
                return Err(Problem::conflict("subject_issuer_limit_reached").because(why));
            }
            let (id, now) = (ids::new_id(), tx.now());
            sqlx::query(
                "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience, created_by, created_at, \
                 updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            )
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(create.issuer.0)
            .bind(create.jwks_url.0)
            .bind(create.audience.0)
            .bind(author)
            .bind(now)
            .execute(&mut *tx.connection())
            .await
            .map_err(|error| Problem::of_write(error, "subject_issuer_exists"))?;
            let row = find::<SubjectIssuer>(tx.connection(), zone.as_str(), &id).await?;
            Ok(Done::created((SubjectIssuer::ENTITY, &id), row))
        })
    })
    .await
}

/// `PATCH /v1/zones/:z/subject-issuers/:id`. The issuer itself never changes; a patch may be empty.
pub(crate) async fn patch(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, patch): (_, Patch) = body.parse("invalid_subject_issuer")?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find::<SubjectIssuer>(tx.connection(), &zone, &id).await?;
            let now = tx.now();
            sqlx::query(
                "UPDATE subject_issuers SET jwks_url = COALESCE($1, jwks_url), audience = COALESCE($2, audience), \
                 updated_by = $3, updated_at = $4 WHERE id = $5",
            )
            .bind(patch.jwks_url.map(|url| url.0))
            .bind(patch.audience.map(|audience| audience.0))
            .bind(author)
            .bind(now)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            let row = find::<SubjectIssuer>(tx.connection(), &zone, &id).await?;
            Ok(Done::updated((SubjectIssuer::ENTITY, &id), row))
        })
    })
    .await
}

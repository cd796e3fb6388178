//! Provider connections: what persons let us do at a provider (contract admin-audit §5.6). Their tokens go in, and never
//! come out here.

use crate::app::{App, Done, Kind, require_zone, zone_id};
use crate::body::{Body, Text};
use crate::cut;
use crate::gate::Call;
use crate::page::{CONFIGURATION, CREATED, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::model::Provider;
use caracal_store::revoke::Cause;
use caracal_store::{StoreError, WriteTx, clock};
use caracal_sts::providers::{self, GivenBack, Hidden, SHARED_SUBJECT, Tokens, Whose};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;

const COLUMNS: &str = "SELECT id, zone_id, subject_id, provider_id, status, expires_at, refreshed_at, renewable, \
     created_at, updated_at FROM provider_connections";
/// The longest token, in bytes.
const MAX_TOKEN: usize = 16_384;
/// How many connections a subject's overview shows.
const SHOWN: usize = 10;

#[derive(Deserialize)]
struct Create {
    provider_id: Text<128>,
    subject_id: Option<Text<512>>,
    access_token: Token,
    refresh_token: Option<Token>,
    expires_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    provider_id: Text<128>,
    subject_id: Option<Text<512>>,
}

/// 1 to 16384 bytes without control characters.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Token(Hidden);

impl TryFrom<String> for Token {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let text = text.trim();
        if (1..=MAX_TOKEN).contains(&text.len()) && !text.chars().any(char::is_control) {
            Ok(Self(Hidden::new(text)))
        } else {
            Err(format!("a token of 1 to {MAX_TOKEN} bytes without control characters is expected"))
        }
    }
}

/// Who is meant where nobody is named: everyone.
pub(crate) fn subject(given: Option<Text<512>>) -> String {
    given.map_or_else(|| SHARED_SUBJECT.to_owned(), |subject| subject.0)
}

fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
    Ok(json!({
        "id": row.text("id")?, "zone_id": row.text("zone_id")?, "subject_id": row.text("subject_id")?,
        "provider_id": row.text("provider_id")?, "status": row.text("status")?,
        "expires_at": row.opt_iso("expires_at")?, "refreshed_at": row.opt_iso("refreshed_at")?,
        "renewable": row.flag("renewable")?, "created_at": row.iso("created_at")?,
        "updated_at": row.iso("updated_at")?,
    }))
}

pub(crate) async fn find(connection: &mut SqlConnection, zone: &str, id: &str) -> Result<Value, Problem> {
    let select = Select::new(COLUMNS).and_text("zone_id = ?", zone).and_text("id = ?", id);
    let rows = select.all(connection, "").await?;
    match rows.first() {
        Some(row) => Ok(to_json(Row(row))?),
        None => Err(Problem::absent("provider_connection_not_found")),
    }
}

/// The provider, if persons can connect to it.
pub(crate) async fn connectable(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    provider: &str,
) -> Result<Provider, Problem> {
    let found = Provider::find(connection, zone, provider).await?;
    let found = found.ok_or_else(|| Problem::absent("provider_not_found"))?;
    if found.kind == providers::Kind::AuthorizationCode.as_str() {
        Ok(found)
    } else {
        let why = "persons connect to providers of kind oauth2_authorization_code alone";
        Err(Problem::invalid("provider_connection_unsupported").because(why))
    }
}

/// Keeps a subject's tokens, tells the ledger, and answers the row.
pub(crate) async fn connect(
    tx: &mut WriteTx<'_>,
    app: &App,
    cause: &Cause,
    (provider, subject): (&str, &str),
    tokens: &Tokens,
) -> Result<Value, Problem> {
    let id = providers::keep(tx, &app.vault, &cause.zone, (provider, subject), tokens, &cause.actor).await?;
    let metadata = json!({
        "provider_id": provider, "connection_id": id, "shared": subject == SHARED_SUBJECT, "actor": cause.actor,
        "reason": cause.reason,
    });
    cause.write(tx, "provider_connected", metadata).await?;
    find(tx.connection(), cause.zone.as_str(), &id).await
}

/// `GET /v1/zones/:z/provider-connections`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let mut select = Select::new(COLUMNS).and_text("zone_id = ?", zone);
    for (name, condition, most) in
        [("provider_id", "provider_id = ?", 128), ("subject_id", "subject_id = ?", 512)]
    {
        if let Some(value) = params.text(name, most)? {
            select = select.and_text(condition, value);
        }
    }
    if let Some(status) = params.one_of("status", &["active", "expired", "revoked"])? {
        select = select.and_text("status = ?", status);
    }
    page(&app, &params, CONFIGURATION, select, CREATED, to_json).await
}

/// `GET /v1/zones/:z/provider-connections/:id`
pub(crate) async fn get(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    find(&mut connection, &zone, &id).await.map(Json)
}

/// `POST /v1/zones/:z/provider-connections`: tokens that were obtained elsewhere.
pub(crate) async fn create(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let (value, create): (_, Create) = body.parse("invalid_provider_connection")?;
    let invalid = |why: &str| Problem::invalid("invalid_provider_connection").because(why);
    let expires_at = create.expires_at.as_deref().map(|text| {
        clock::parse_iso(text)
            .ok_or_else(|| invalid("expires_at: is no time such as 2026-11-21T09:00:00.000Z"))
    });
    let expires_at = expires_at.transpose()?;
    if create.refresh_token.is_none() && expires_at.is_some_and(|end| end <= app.store.now()) {
        return Err(invalid("expires_at: has passed, and there is no refresh_token"));
    }
    let tokens = Tokens {
        access: create.access_token.0,
        refresh: create.refresh_token.map(|token| token.0),
        expires_at,
    };
    let (provider, subject) = (create.provider_id.0, subject(create.subject_id));
    let cause = cut::cause(&call, &zone, "imported");
    let inner = app.clone();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            require_zone(tx.connection(), &zone).await?;
            connectable(tx.connection(), &zone, &provider).await?;
            let mut row = connect(tx, &inner, &cause, (&provider, &subject), &tokens).await?;
            let id = row.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(members) = row.as_object_mut() {
                members.remove("refreshed_at");
                members.remove("renewable");
            }
            Ok(Done::created(("provider-connections", &id), row))
        })
    })
    .await
}

/// `POST /v1/zones/:z/provider-connections/revoke`: ends it here, and then gives the tokens back as well as that goes.
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, revoke): (_, Revoke) = body.parse("invalid_provider_connection_revoke")?;
    let (provider, subject) = (revoke.provider_id.0, subject(revoke.subject_id));
    let cause = cut::cause(&call, &zone, "revoked_by_operator");
    let (hand_out, handed_out) = oneshot::channel();
    let inner = app.clone();
    let done = app
        .commit(&call, Some(&value), move |tx| {
            Box::pin(async move {
                let zone = &cause.zone;
                let row = Provider::find(tx.connection(), zone, &provider).await?;
                let found = inner.providers.tokens_in(tx.connection(), zone, (&provider, &subject)).await;
                let whose = Whose::One { provider: &provider, subject: &subject };
                let ended = providers::revoke(tx, zone, whose, &cause.actor).await?;
                let Some(id) = ended.first() else {
                    return Err(Problem::absent("provider_connection_not_found"));
                };
                tell_revoked(tx, &cause, &ended).await?;
                // Tokens that cannot be opened cannot be given back; that holds nothing up.
                let _ = hand_out.send(row.zip(found.ok().flatten()));
                let row = find(tx.connection(), zone.as_str(), id).await?;
                Ok(Done::new(StatusCode::OK, Kind::Action, ("provider-connections", id), row))
            })
        })
        .await?;
    let given_back = match handed_out.await {
        Ok(Some((provider, tokens))) => app.providers.give_back(&zone, &provider, &tokens).await,
        _ => GivenBack::Failed,
    };
    let mut row = done.body;
    if let Some(members) = row.as_object_mut() {
        members.insert("upstream_revocation".to_owned(), given_back.as_str().into());
    }
    Ok((done.status, Json(row)).into_response())
}

async fn tell_revoked(tx: &mut WriteTx<'_>, cause: &Cause, ended: &[String]) -> Result<(), StoreError> {
    for id in ended {
        let metadata = json!({ "connection_id": id, "actor": cause.actor, "reason": cause.reason });
        cause.write(tx, "provider_connection_revoked", metadata).await?;
    }
    Ok(())
}

/// Ends all connections of a subject that is cut off; answers how many.
pub(crate) async fn revoke_subject(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    subject: &str,
) -> Result<usize, StoreError> {
    let ended = providers::revoke(tx, &cause.zone, Whose::Subject(subject), &cause.actor).await?;
    tell_revoked(tx, cause, &ended).await?;
    Ok(ended.len())
}

/// The newest connections of a subject, for its overview.
pub(crate) async fn of_subject(
    connection: &mut SqlConnection,
    zone: &str,
    subject: &str,
) -> Result<Vec<Value>, StoreError> {
    let rows = Select::new(
        "SELECT c.id, c.provider_id, p.name, c.status, c.expires_at, c.created_at FROM provider_connections c \
         JOIN providers p ON p.id = c.provider_id",
    )
    .and_text("c.zone_id = ?", zone)
    .and_text("c.subject_id = ?", subject)
    .all(connection, &format!(" ORDER BY c.created_at DESC, c.id DESC LIMIT {SHOWN}"))
    .await?;
    let shown = rows.iter().map(Row).map(|row| {
        Ok(json!({
            "id": row.text("id")?, "provider_id": row.text("provider_id")?, "provider_name": row.text("name")?,
            "status": row.text("status")?, "expires_at": row.opt_iso("expires_at")?,
            "created_at": row.iso("created_at")?,
        }))
    });
    shown.collect()
}

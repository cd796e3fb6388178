//! Settings of the whole installation: how long events are kept, and how many mandates may be minted (contract
//! admin-audit §5.17).
//!
//! A setting only ever lowers what the process was started with. Nobody reads one that stands above it.

use crate::app::{App, Done};
use crate::body::Body;
use crate::gate::Call;
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use caracal_store::settings::{self, Setting};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How a setting is called on the wire.
struct Face {
    setting: Setting,
    value: &'static str,
    ceiling: &'static str,
    too_high: &'static str,
    entity: &'static str,
}

const RETENTION: Face = Face {
    setting: Setting::AuditRetentionDays,
    value: "retention_days",
    ceiling: "max_days",
    too_high: "retention_above_limit",
    entity: "audit-retention",
};
const MINT_LIMIT: Face = Face {
    setting: Setting::MintLimitPerMinute,
    value: "limit_per_minute",
    ceiling: "max_per_minute",
    too_high: "rate_limit_above_ceiling",
    entity: "mint-rate-limit",
};

impl Face {
    fn ceiling_of(&self, app: &App) -> i64 {
        match self.setting {
            Setting::AuditRetentionDays => app.rates.limits().retention_days,
            Setting::MintLimitPerMinute => app.rates.limits().mint_limit_per_minute,
        }
    }

    /// The setting as it stands. Without a row it is the ceiling, and so is one above it.
    async fn read(&self, connection: &mut SqlConnection, ceiling: i64) -> Result<Value, StoreError> {
        let row = sqlx::query("SELECT value, updated_by, updated_at FROM settings WHERE name = $1")
            .bind(self.setting.name())
            .fetch_optional(connection)
            .await?;
        let row = row.as_ref().map(Row);
        let value = row.as_ref().map(|row| row.int("value")).transpose()?;
        let updated_by = row.as_ref().map(|row| row.opt_text("updated_by")).transpose()?;
        let updated_at = row.as_ref().map(|row| row.iso("updated_at")).transpose()?;
        let mut object = Map::new();
        object.insert(self.value.to_owned(), value.unwrap_or(ceiling).min(ceiling).into());
        object.insert(self.ceiling.to_owned(), ceiling.into());
        object.insert("updated_by".to_owned(), updated_by.flatten().into());
        object.insert("updated_at".to_owned(), updated_at.into());
        Ok(Value::Object(object))
    }

    async fn get(&self, app: &App) -> Result<Json<Value>, Problem> {
        let mut connection = app.store.read().await?;
        Ok(Json(self.read(&mut connection, self.ceiling_of(app)).await?))
    }

    async fn put(
        &'static self,
        app: &App,
        call: &Call,
        body: &Value,
        value: i64,
    ) -> Result<Response, Problem> {
        let ceiling = self.ceiling_of(app);
        if value < 1 {
            let why = format!("{} is at least 1", self.value);
            return Err(Problem::invalid("invalid_body").because(why));
        }
        if value > ceiling {
            return Err(Problem::invalid(self.too_high).with(self.ceiling, ceiling));
        }
        let author = call.actor.author();
        app.change(call, Some(body), move |tx| {
            Box::pin(async move {
                settings::set(tx, self.setting, value, &author).await?;
                let now = self.read(tx.connection(), ceiling).await?;
                Ok(Done::updated(("settings", self.entity), now))
            })
        })
        .await
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retention {
    retention_days: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MintLimit {
    limit_per_minute: i64,
}

/// `GET /v1/audit-retention`
pub(crate) async fn retention(State(app): State<App>) -> Result<Json<Value>, Problem> {
    RETENTION.get(&app).await
}

/// `PUT /v1/audit-retention`. Whoever shortens it destroys evidence, so a token that may write is not enough: it takes
/// the capability `admin`.
pub(crate) async fn set_retention(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    body: Body,
) -> Result<Response, Problem> {
    call.require_admin()?;
    let (value, wanted): (_, Retention) = body.parse("invalid_body")?;
    RETENTION.put(&app, &call, &value, wanted.retention_days).await
}

/// `GET /v1/mint-rate-limit`
pub(crate) async fn mint_limit(State(app): State<App>) -> Result<Json<Value>, Problem> {
    MINT_LIMIT.get(&app).await
}

/// `PUT /v1/mint-rate-limit`
pub(crate) async fn set_mint_limit(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    body: Body,
) -> Result<Response, Problem> {
    let (value, wanted): (_, MintLimit) = body.parse("invalid_body")?;
    MINT_LIMIT.put(&app, &call, &value, wanted.limit_per_minute).await
}

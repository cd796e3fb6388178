//! Queries and pages of lists (contract admin-audit §3.1).

use crate::app::App;
use crate::problem::Problem;
use crate::row::Row;
use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use caracal_audit::keyset::{Cursor, Select};
use caracal_store::SqlConnection;
use caracal_store::{StoreError, clock};
use serde_json::{Value, json};
use std::collections::HashMap;

/// How long a page is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    default: usize,
    max: usize,
}

impl Bounds {
    pub(crate) const fn new(default: usize, max: usize) -> Self {
        Self { default, max }
    }
}

/// Lists of configuration.
pub(crate) const CONFIGURATION: Bounds = Bounds { default: 200, max: 500 };
/// Lists of events, sessions and records.
pub(crate) const EVENTS: Bounds = Bounds { default: 100, max: 1000 };

/// The columns that a list is sorted by, newest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) time: &'static str,
    pub(crate) id: &'static str,
}

/// Newest rows first.
pub(crate) const CREATED: Key = Key { time: "created_at", id: "id" };

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Params(HashMap<String, String>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<HashMap<String, String>>::try_from_uri(&parts.uri);
        query.map(|Query(query)| Self(query)).map_err(|error| invalid(error.to_string()))
    }
}

fn invalid(why: impl Into<String>) -> Problem {
    Problem::invalid("invalid_query").because(why)
}

impl Params {
    /// A parameter of at most `max` bytes; an empty one is absent.
    pub(crate) fn text(&self, name: &str, max: usize) -> Result<Option<&str>, Problem> {
        match self.0.get(name).filter(|value| !value.is_empty()) {
            Some(value) if value.len() > max => Err(invalid(format!("{name}: longer than {max} bytes"))),
            value => Ok(value.map(String::as_str)),
        }
    }

    /// A parameter that is one of these words.
    pub(crate) fn one_of(&self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, Problem> {
        let Some(value) = self.text(name, usize::MAX)? else { return Ok(None) };
        match words.iter().find(|word| **word == value) {
            Some(word) => Ok(Some(word)),
            None => Err(invalid(format!("{name}: is none of {}", words.join(", ")))),
        }
    }

    /// A time as ISO 8601 with `Z`, in unix milliseconds.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(value) = self.text(name, 64)? else { return Ok(None) };
        clock::parse_iso(value)
            .map(Some)
            .ok_or_else(|| invalid(format!("{name}: is no time such as 2026-11-21T09:00:00.000Z")))
    }

    pub(crate) fn limit(&self, bounds: Bounds) -> Result<usize, Problem> {
        let Some(text) = self.text("limit", 16)? else { return Ok(bounds.default) };
        match text.parse::<usize>() {
            Ok(limit) if (1..=bounds.max).contains(&limit) => Ok(limit),
            _ => Err(invalid(format!("limit: is no number from 1 to {}", bounds.max))),
        }
    }

    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, Problem> {
        let Some(text) = self.text("cursor", usize::MAX)? else { return Ok(None) };
        Cursor::parse(text).map(Some).ok_or_else(|| Problem::invalid("invalid_cursor"))
    }
}

/// One page of a list.
pub(crate) async fn page(
    app: &App,
    params: &Params,
    bounds: Bounds,
    select: Select,
    key: Key,
    item: impl Fn(Row<'_>) -> Result<Value, StoreError>,
) -> Result<Json<Value>, Problem> {
    let (limit, cursor) = (params.limit(bounds)?, params.cursor()?);
    let mut connection = app.store.read().await?;
    let rows = select.after(&mut connection, (key.time, key.id), cursor.as_ref(), limit + 1).await?;
    drop(connection);
    // A column is read by its bare name, whatever table it was selected from.
    let bare = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let next = if rows.len() > limit {
        let last = rows.get(limit - 1).map(Row).ok_or_else(|| StoreError::corrupt("a page without a row"))?;
        Some(Cursor { at: last.int(bare(key.time))?, id: last.text(bare(key.id))? })
    } else {
        None
    };
    let items = rows.iter().take(limit).map(|row| item(Row(row))).collect::<Result<Vec<_>, _>>()?;
    Ok(envelope(items, next.as_ref()))
}

/// The one row that is selected; 404 with this code where there is none.
pub(crate) async fn one(
    connection: &mut SqlConnection,
    select: Select,
    item: impl Fn(Row<'_>) -> Result<Value, StoreError>,
    absent: &'static str,
) -> Result<Value, Problem> {
    let rows = select.all(connection, "").await?;
    let row = rows.first().map(Row).ok_or_else(|| Problem::absent(absent))?;
    Ok(item(row)?)
}

/// `{"items", "next_cursor"}`.
pub(crate) fn envelope(items: Vec<Value>, next: Option<&Cursor>) -> Json<Value> {
    Json(json!({ "items": items, "next_cursor": next.map(Cursor::to_text) }))
}

/// Rows that are in use, or with `status=archived` those that no longer are.
pub(crate) fn by_status(select: Select, params: &Params) -> Result<Select, Problem> {
    let archived = params.one_of("status", &["active", "archived"])? == Some("archived");
    Ok(select.and(if archived { "archived_at IS NOT NULL" } else { "archived_at IS NULL" }))
}

//! The record of changes: who changed what, written in the transaction of the change (contract admin-audit §13).
//!
//! One chain per zone, and one for what belongs to none. Of a body only the names of its members are recorded, never a
//! value, and no name of a secret.

use crate::app::{App, Done};
use crate::csv;
use crate::events::{Times, redact};
use crate::gate::Call;
use crate::page::{EVENTS, Key, Params, page};
use crate::problem::Problem;
use crate::projection::{OF_CHANGES, Projection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use caracal_audit::chain::{ChainKey, Head};
use caracal_audit::changes::{COLUMNS, GLOBAL, RecordedChange};
use caracal_audit::keyset::Select;
use caracal_store::{StoreError, WriteTx, ids};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// How deep and how many names of members are recorded.
const MAX_DEPTH: usize = 3;
const MAX_FIELDS: usize = 64;
/// Members whose very name is not listed (contract admin-audit §13.2).
const SECRETS: [&str; 10] = [
    "access_token",
    "api_key",
    "assertion",
    "bearer_token",
    "client_secret",
    "password",
    "private_key",
    "refresh_token",
    "secret",
    "token",
];

/// What is known of a record before its change is made.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    request_id: String,
    actor: (String, String, &'static str),
    method: String,
    path: String,
    zone: Option<String>,
    fields: Vec<String>,
}

/// What a record says besides.
struct Said<'a> {
    zone: Option<&'a str>,
    entity: Option<(&'a str, &'a str)>,
    status: StatusCode,
    payload: Value,
}

impl Draft {
    pub(crate) fn of(call: &Call, fields: Vec<String>) -> Self {
        let scope = if call.actor.zone.is_some() { "zone" } else { "global" };
        Self {
            request_id: call.request_id.clone(),
            actor: (call.actor.id.clone(), call.actor.name.clone(), scope),
            method: call.method.to_string(),
            path: call.path.clone(),
            zone: call.zone().map(str::to_owned),
            fields,
        }
    }

    pub(crate) async fn write(
        self,
        tx: &mut WriteTx<'_>,
        key: &ChainKey,
        done: &Done,
    ) -> Result<(), StoreError> {
        let mut payload = Map::new();
        payload.insert("change_kind".to_owned(), done.kind.as_str().into());
        let (secrets, fields): (Vec<&String>, Vec<&String>) =
            self.fields.iter().partition(|field| is_secret(field));
        payload.insert("changed_fields".to_owned(), json!(fields));
        if !secrets.is_empty() || done.kind == crate::app::Kind::SecretRotation {
            payload.insert("secret_rotated".to_owned(), true.into());
        }
        let said = Said {
            zone: done.zone.as_deref().or(self.zone.as_deref()),
            entity: Some((done.entity.0, &done.entity.1)),
            status: done.status,
            payload: Value::Object(payload),
        };
        self.append(tx, key, said).await
    }

    pub(crate) async fn write_refusal(
        self,
        tx: &mut WriteTx<'_>,
        key: &ChainKey,
        status: StatusCode,
        code: Option<&str>,
    ) -> Result<(), StoreError> {
        // A zone that does not exist gets no chain of its own.
        let known: Option<String> = sqlx::query_scalar("SELECT id FROM zones WHERE id = $1")
            .bind(self.zone.as_deref().unwrap_or_default())
            .fetch_optional(&mut *tx.connection())
            .await?;
        let said = Said { zone: known.as_deref(), entity: None, status, payload: json!({ "error": code }) };
        self.append(tx, key, said).await
    }

    async fn append(&self, tx: &mut WriteTx<'_>, key: &ChainKey, said: Said<'_>) -> Result<(), StoreError> {
        let chain = said.zone.unwrap_or(GLOBAL);
        let head: Option<(i64, String)> = sqlx::query_as(
            "SELECT chain_seq, content_sha256 FROM admin_audit_events WHERE chain_key = $1 \
             ORDER BY chain_seq DESC LIMIT 1",
        )
        .bind(chain)
        .fetch_optional(&mut *tx.connection())
        .await?;
        let head = head.map(|(seq, content_sha256)| Head { seq, content_sha256 });
        let (actor_id, actor_name, actor_scope) = self.actor.clone();
        let (entity_type, entity_id) = said.entity.unzip();
        let change = RecordedChange {
            id: ids::new_id(),
            zone_id: said.zone.map(str::to_owned),
            request_id: self.request_id.clone(),
            actor_id,
            actor_name,
            actor_scope: actor_scope.to_owned(),
            action: format!("{} {}", self.method, self.path),
            method: self.method.clone(),
            path: self.path.clone(),
            entity_type: entity_type.map(str::to_owned),
            entity_id: entity_id.map(str::to_owned),
            status_code: i64::from(said.status.as_u16()),
            payload_json: Some(caracal_audit::canonical::to_text(&said.payload)),
            occurred_at: tx.now(),
        };
        let content =
            serde_json::to_value(&change).map_err(|error| StoreError::corrupt(error.to_string()))?;
        let link = key.link(head.as_ref(), &content);
        sqlx::query(
            "INSERT INTO admin_audit_events (id, chain_key, chain_seq, zone_id, request_id, actor_id, actor_name, \
             actor_scope, action, method, path, entity_type, entity_id, status_code, payload_json, occurred_at, \
             content_sha256, prev_content_sha256, chain_hmac) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        )
        .bind(change.id)
        .bind(chain)
        .bind(link.seq)
        .bind(change.zone_id)
        .bind(change.request_id)
        .bind(change.actor_id)
        .bind(change.actor_name)
        .bind(change.actor_scope)
        .bind(change.action)
        .bind(change.method)
        .bind(change.path)
        .bind(change.entity_type)
        .bind(change.entity_id)
        .bind(change.status_code)
        .bind(change.payload_json)
        .bind(change.occurred_at)
        .bind(link.content_sha256)
        .bind(link.prev)
        .bind(link.hmac)
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }
}

fn is_secret(field: &str) -> bool {
    field.rsplit('.').next().is_some_and(|name| SECRETS.contains(&name))
}

/// The dotted names of a body's members, sorted.
pub(crate) fn changed_fields(body: Option<&Value>) -> Vec<String> {
    let mut fields = BTreeSet::new();
    if let Some(body) = body {
        collect(&mut fields, body, "", 1);
    }
    fields.into_iter().take(MAX_FIELDS).collect()
}

fn collect(fields: &mut BTreeSet<String>, value: &Value, prefix: &str, depth: usize) {
    let Some(members) = value.as_object() else { return };
    for (name, member) in members {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match member {
            Value::Object(inner) if depth < MAX_DEPTH && !inner.is_empty() => {
                collect(fields, member, &path, depth + 1);
            }
            _ => {
                fields.insert(path);
            }
        }
    }
}

/// `GET /v1/zones/:z/admin-audit` (contract admin-audit §6.6).
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    of_chain(&app, &zone, &params).await
}

/// `GET /v1/admin-audit`: what belongs to no zone.
pub(crate) async fn list_global(State(app): State<App>, params: Params) -> Result<Response, Problem> {
    of_chain(&app, GLOBAL, &params).await
}

async fn of_chain(app: &App, chain: &str, params: &Params) -> Result<Response, Problem> {
    let csv = csv::wanted(params)?;
    let chosen = OF_CHANGES.chosen(params, csv)?;
    let times = Times::of(params)?;
    let select = format!("SELECT {COLUMNS} FROM admin_audit_events");
    let mut select = Select::new(&select).and_text("chain_key = ?", chain);
    if let Some(since) = times.since {
        select = select.and_number("occurred_at >= ?", since);
    }
    if let Some(until) = times.until {
        select = select.and_number("occurred_at < ?", until);
    }
    for (name, condition) in
        [("actor_id", "actor_id = ?"), ("entity_type", "entity_type = ?"), ("entity_id", "entity_id = ?")]
    {
        if let Some(value) = params.text(name, 128)? {
            select = select.and_text(condition, value);
        }
    }
    if let Some(method) = params.one_of("method", &["POST", "PUT", "PATCH", "DELETE"])? {
        select = select.and_text("method = ?", method);
    }
    let key = Key { time: "occurred_at", id: "id" };
    let page = page(app, params, EVENTS, select, key, |row| {
        let mut payload = row.json("payload_json")?;
        redact(&mut payload);
        let item = json!({
            "id": row.text("id")?, "request_id": row.text("request_id")?, "actor_id": row.text("actor_id")?,
            "actor_name": row.text("actor_name")?, "actor_scope": row.text("actor_scope")?,
            "action": row.text("action")?, "method": row.text("method")?, "path": row.text("path")?,
            "entity_type": row.opt_text("entity_type")?, "entity_id": row.opt_text("entity_id")?,
            "status_code": row.int("status_code")?, "payload_json": payload,
            "occurred_at": row.iso("occurred_at")?, "chain_seq": row.int("chain_seq")?.to_string(),
            "signed": !row.text("chain_hmac")?.is_empty(),
        });
        Ok(chosen.as_ref().map_or_else(|| item.clone(), |chosen| chosen.apply(&item)))
    })
    .await?;
    Ok(csv::answer(csv, &format!("admin-audit-{chain}"), chosen.iter().flat_map(Projection::names), page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_13_2_names_of_members_only() {
        let body = json!({
            "name": "x", "config_json": { "api_key": "s", "deep": { "er": { "est": 1 } }, "empty": {} }, "client_secret": "s",
        });
        let fields = changed_fields(Some(&body));
        assert_eq!(
            fields,
            ["client_secret", "config_json.api_key", "config_json.deep.er", "config_json.empty", "name"]
        );
        let secret: Vec<_> = fields.iter().filter(|field| is_secret(field)).collect();
        assert_eq!(secret, ["client_secret", "config_json.api_key"]);
    }
}

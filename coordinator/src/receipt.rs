//! Idempotency: the same key and the same request get the same answer (contract coordinator §10).
//!
//! The request's digest covers what was asked for, never what a mandate happened to carry, so a redelivery after the
//! mandate was renewed still replays (contract §24 row 2).

use crate::config::{Limits, millis};
use crate::counters::KeyUse;
use crate::failure::{Code, Failure};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use caracal_mandate::id::ZoneId;
use caracal_store::many::{list, pieces, placeholders};
use caracal_store::{StoreError, WriteTx, metrics};
use serde_json::Value;
use std::collections::HashSet;

/// An answer that can be replayed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: Value,
    /// What became of the caller's key, where there is one.
    key: Option<KeyUse>,
}

/// Stands with a response to a request that had a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipted(pub(crate) KeyUse);

impl Reply {
    /// Something was made.
    pub(crate) fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body, key: None }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body)).into_response();
        if let Some(what) = self.key {
            response.extensions_mut().insert(Receipted(what));
        }
        if self.key == Some(KeyUse::Replayed) {
            let yes = axum::http::HeaderValue::from_static("true");
            response.headers_mut().insert("idempotency-replayed", yes);
        }
        response
    }
}

/// A caller's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    digest: String,
    generated: bool,
}

impl Key {
    /// Reads `Idempotency-Key` and `Idempotency-Key-Kind`.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Failure::because(Code::IdempotencyKeyMultiple, "more than one Idempotency-Key"));
        }
        let mut key = Self::of(std::str::from_utf8(value.as_bytes()).unwrap_or_default())?;
        key.generated = headers.get("idempotency-key-kind").is_some_and(|kind| kind == "generated");
        Ok(Some(key))
    }

    /// Did the SDK make it up for one call?
    pub(crate) fn is_generated(&self) -> bool {
        self.generated
    }

    /// The key that a text is.
    pub(crate) fn of(key: &str) -> Result<Self, Failure> {
        let well_formed = (1..=255).contains(&key.len())
            && key.trim() == key
            && !key.chars().any(|c| c < ' ' || c == '\u{7f}');
        if !well_formed {
            let why =
                "an idempotency key has 1 to 255 bytes, no control characters and no white space around it";
            return Err(Failure::because(Code::IdempotencyKeyInvalid, why));
        }
        let digest = digest(format!("caracal:coordinator:idempotency:v1\0{key}").as_bytes());
        Ok(Self { digest, generated: false })
    }
}

/// A request that may have been answered before.
#[derive(Debug)]
pub(crate) struct Receipt<'a> {
    key: &'a Key,
    operation: &'static str,
    zone: &'a ZoneId,
    scope: &'a str,
    request: String,
}

/// What was answered before.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What was made.
    pub(crate) resource_id: String,
    /// The answer.
    pub(crate) reply: Reply,
}

impl<'a> Receipt<'a> {
    /// The receipt of `request`, whose members are all that makes it this request.
    pub(crate) fn new(
        key: &'a Key,
        operation: &'static str,
        zone: &'a ZoneId,
        scope: &'a str,
        mut request: Value,
    ) -> Self {
        request.sort_all_objects();
        Self { key, operation, zone, scope, request: digest(request.to_string().as_bytes()) }
    }

    /// Looks for an earlier answer. Another request under the same key, and too many receipts, are refused.
    pub(crate) async fn find(
        &self,
        tx: &mut WriteTx<'_>,
        limits: &Limits,
    ) -> Result<Option<Recorded>, Failure> {
        let now = tx.now();
        let row: Option<(String, String, i64, String, i64)> = sqlx::query_as(
            "SELECT request_digest, resource_id, response_status, response_json, expires_at \
             FROM idempotency_receipts \
             WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 AND key_digest = $4",
        )
        .bind(self.operation)
        .bind(self.zone.as_str())
        .bind(self.scope)
        .bind(self.key.digest.as_str())
        .fetch_optional(&mut *tx.connection())
        .await?;
        if row.as_ref().is_some_and(|(.., expires_at)| *expires_at <= now) {
            self.forget(tx).await?;
            metrics::idempotency("expired");
        }
        let row = row.filter(|(.., expires_at)| *expires_at > now);
        if let Some((request, resource_id, status, body, _)) = row {
            if request != self.request {
                let why = "this Idempotency-Key was used for another request";
                return Err(Failure::because(Code::IdempotencyKeyConflict, why));
            }
            let corrupt = || StoreError::corrupt("idempotency_receipts: the stored answer");
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            let body = serde_json::from_str(&body).map_err(|_| corrupt())?;
            let reply = Reply { status: status.ok_or_else(corrupt)?, body, key: Some(KeyUse::Replayed) };
            return Ok(Some(Recorded { resource_id, reply }));
        }
        // A generated key stands for one retry of one call: an application that starts many sessions must not be
        // refused for them.
        if self.is_generated() {
            return Ok(None);
        }
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM idempotency_receipts WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 \
             AND expires_at > $4 AND expires_at > created_at + $5",
        )
        .bind(self.operation)
        .bind(self.zone.as_str())
        .bind(self.scope)
        .bind(now)
        .bind(millis(limits.generated_receipt_retention))
        .fetch_one(&mut *tx.connection())
        .await?;
        if count >= limits.receipts {
            return Err(Code::IdempotencyReceiptLimitExceeded.into());
        }
        Ok(None)
    }

    /// Makes room for another receipt under the same key.
    async fn forget(&self, tx: &mut WriteTx<'_>) -> Result<(), Failure> {
        sqlx::query(
            "DELETE FROM idempotency_receipts WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 \
             AND key_digest = $4",
        )
        .bind(self.operation)
        .bind(self.zone.as_str())
        .bind(self.scope)
        .bind(self.key.digest.as_str())
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }

    fn is_generated(&self) -> bool {
        self.key.is_generated() && self.operation == SESSION_START
    }

    /// Those keys of one scope under which something was answered, or is being answered anew.
    pub(crate) async fn used(
        tx: &mut WriteTx<'_>,
        receipts: &[&Self],
    ) -> Result<HashSet<String>, StoreError> {
        let mut used = HashSet::new();
        for piece in pieces(receipts) {
            let Some(first) = piece.first() else { continue };
            let sql = format!(
                "SELECT key_digest FROM idempotency_receipts \
                 WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 AND key_digest IN {}",
                list(piece.len(), 3)
            );
            let query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql)).bind(first.operation);
            let mut query = query.bind(first.zone.as_str()).bind(first.scope);
            for receipt in piece {
                query = query.bind(receipt.key.digest.as_str());
            }
            used.extend(query.fetch_all(&mut *tx.connection()).await?);
        }
        Ok(used)
    }

    /// The key's digest.
    pub(crate) fn key_digest(&self) -> &str {
        &self.key.digest
    }

    /// Keeps an answer. Only what was made is ever kept.
    pub(crate) async fn keep(
        &self,
        tx: &mut WriteTx<'_>,
        resource_id: &str,
        reply: &mut Reply,
        limits: &Limits,
    ) -> Result<(), StoreError> {
        Self::keep_all(tx, &mut [(self, resource_id, reply)], limits).await
    }

    /// Keeps answers, each with the id of what was made.
    pub(crate) async fn keep_all(
        tx: &mut WriteTx<'_>,
        answers: &mut [(&Self, &str, &mut Reply)],
        limits: &Limits,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        for piece in pieces(answers) {
            let sql = format!(
                "INSERT INTO idempotency_receipts (operation, zone_id, scope_id, key_digest, request_digest, \
                 resource_id, response_status, response_json, created_at, expires_at) VALUES {}",
                placeholders(piece.len(), 10)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (receipt, resource_id, reply) in piece {
                let retention = match receipt.is_generated() {
                    true => limits.generated_receipt_retention,
                    false => limits.receipt_retention,
                };
                query = query
                    .bind(receipt.operation)
                    .bind(receipt.zone.as_str())
                    .bind(receipt.scope)
                    .bind(receipt.key.digest.as_str())
                    .bind(receipt.request.as_str())
                    .bind(*resource_id)
                    .bind(i64::from(reply.status.as_u16()))
                    .bind(reply.body.to_string())
                    .bind(now)
                    .bind(now.saturating_add(millis(retention)));
            }
            query.execute(&mut *tx.connection()).await?;
        }
        for (_, _, reply) in answers {
            reply.key = Some(KeyUse::Created);
        }
        Ok(())
    }
}

/// The operation of a session's start.
pub(crate) const SESSION_START: &str = "session.start.v2";
/// The operation of a call.
pub(crate) const INVOCATION_CREATE: &str = "invocation.create.v2";
/// The operation of a delegation.
pub(crate) const DELEGATION_CREATE: &str = "delegation.create.v2";

fn digest(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    caracal_mandate::gateway_signature::to_hex(hash.as_ref())
}

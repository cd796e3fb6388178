//! What the ledger holds, for those who read it (contract admin-audit §6.1 to §6.3).

use crate::chain::{ChainKey, Link, content_sha256};
use crate::ingest;
use crate::integrity::{Checker, Integrity};
use crate::keyset::{Cursor, Page, Select};
use crate::verify::{Chain, Pace};
use caracal_store::SqlConnection;
use caracal_store::audit::AuditEvent;
use caracal_store::{Store, StoreError};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// How many rows are read at once where the filter cannot be told to the database in full.
const CHUNK: usize = 1_000;

pub(crate) const COLUMNS: &str = "id, zone_id, chain_seq, event_type, request_id, decision, policy_set_id, \
     policy_set_version_id, manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, \
     metadata_json, occurred_at, ingested_at, content_sha256, prev_content_sha256, chain_hmac";

/// An event in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The event.
    pub event: AuditEvent,
    /// When the ledger took it, unix milliseconds.
    pub ingested_at: i64,
    /// How it is linked.
    pub link: Link,
}

/// Which events are wanted. Empty wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// From this time on, unix milliseconds.
    pub since: Option<i64>,
    /// Before this time, unix milliseconds.
    pub until: Option<i64>,
    /// Of this request.
    pub request_id: Option<String>,
    /// With this decision.
    pub decision: Option<String>,
    /// Of one of these types; empty for all.
    pub event_types: Vec<String>,
    /// Of this application.
    pub application_id: Option<String>,
    /// Of this agent session.
    pub session_id: Option<String>,
    /// Of this authority record.
    pub authority_record_id: Option<String>,
    /// Of agents with this label.
    pub label: Option<String>,
}

/// The ledger, for those who read it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
    key: ChainKey,
    checker: Checker,
}

impl Ledger {
    /// The ledger in this store, chained under this key.
    #[must_use]
    pub fn new(store: Store, hmac_key: Vec<u8>) -> Self {
        let key = ChainKey::new(hmac_key);
        Self { checker: Checker::new(store.clone(), key.clone()), store, key }
    }

    /// The key of the chains.
    #[must_use]
    pub fn key(&self) -> &ChainKey {
        &self.key
    }

    /// Takes every event into the ledger that waits at the time of the call. Whoever was answered before the call finds
    /// its event in the ledger afterwards.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        ingest::catch_up(&self.store, &self.key).await
    }

    /// Checks the chains of a zone, both that of its events and that of its changes, and says how it stands with them.
    pub async fn check(&self, zone: &str) -> Result<Integrity, StoreError> {
        self.catch_up().await?;
        for chain in [Chain::Events(zone.to_owned()), Chain::Changes(zone.to_owned())] {
            self.checker.check(&chain, Pace::Brisk).await?;
        }
        Integrity::read(&mut *self.store.read().await?, Some(zone)).await
    }

    /// A zone's events, newest first, after `cursor`.
    pub async fn list(
        &self,
        zone: &str,
        filter: &Filter,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<StoredEvent>, StoreError> {
        self.catch_up().await?;
        let mut connection = self.store.read().await?;
        let chunk = if filter.needs_a_look() { CHUNK } else { limit + 1 };
        let mut items = Vec::new();
        let mut from = cursor.cloned();
        loop {
            let select = filter.select(zone);
            let rows = select.after(&mut connection, ("occurred_at", "id"), from.as_ref(), chunk).await?;
            let last_chunk = rows.len() < chunk;
            for row in &rows {
                let event = StoredEvent::from_row(row)?;
                from = Some(Cursor { at: event.event.occurred_at, id: event.event.id.clone() });
                if !filter.accepts(&event.event) {
                    continue;
                }
                if items.len() == limit {
                    let last: Option<&StoredEvent> = items.last();
                    let next =
                        last.map(|last| Cursor { at: last.event.occurred_at, id: last.event.id.clone() });
                    return Ok(Page { items, next });
                }
                items.push(event);
            }
            if last_chunk {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// A request's events in a zone, oldest first.
    pub async fn by_request(&self, zone: &str, request_id: &str) -> Result<Vec<StoredEvent>, StoreError> {
        self.catch_up().await?;
        let mut connection = self.store.read().await?;
        let rows = Select::new(&format!("SELECT {COLUMNS} FROM audit_events"))
            .and_text("zone_id = ?", zone)
            .and_text("request_id = ?", request_id)
            .all(&mut connection, " ORDER BY occurred_at, id")
            .await?;
        rows.iter().map(StoredEvent::from_row).collect()
    }
}

impl Filter {
    fn select(&self, zone: &str) -> Select {
        let mut select =
            Select::new(&format!("SELECT {COLUMNS} FROM audit_events")).and_text("zone_id = ?", zone);
        if let Some(since) = self.since {
            select = select.and_number("occurred_at >= ?", since);
        }
        if let Some(until) = self.until {
            select = select.and_number("occurred_at < ?", until);
        }
        if let Some(request_id) = &self.request_id {
            select = select.and_text("request_id = ?", request_id);
        }
        if let Some(decision) = &self.decision {
            select = select.and_text("decision = ?", decision);
        }
        if !self.event_types.is_empty() {
            select = select.and_one_of("event_type", &self.event_types);
        }
        // Metadata is canonical JSON, so a member can be looked for as text; `accepts` has the last word.
        for (name, value) in self.members() {
            let member = format!("{}:{}", Value::from(name), Value::from(value.as_str()));
            select = select.and_text("metadata_json LIKE ? ESCAPE '!'", like(&member));
        }
        if let Some(label) = &self.label {
            let item = Value::from(label.as_str()).to_string();
            select = select.and_text("metadata_json LIKE ? ESCAPE '!'", like(&item));
        }
        select
    }

    fn members(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [
            ("application_id", &self.application_id),
            ("agent_session_id", &self.session_id),
            ("session_id", &self.authority_record_id),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| (name, value)))
    }

    fn needs_a_look(&self) -> bool {
        self.label.is_some() || self.members().next().is_some()
    }

    fn accepts(&self, event: &AuditEvent) -> bool {
        let metadata = event.metadata_json.as_ref();
        let has = |name: &str, value: &String| {
            metadata.and_then(|metadata| metadata.get(name)).and_then(Value::as_str) == Some(value)
        };
        let labelled = |label: &String| {
            let labels = metadata.and_then(|metadata| metadata.get("agent_labels")).and_then(Value::as_array);
            labels.is_some_and(|labels| labels.iter().any(|one| one.as_str() == Some(label)))
        };
        self.members().all(|(name, value)| has(name, value)) && self.label.iter().all(labelled)
    }
}

fn like(part: &str) -> String {
    let mut pattern = String::from("%");
    for character in part.chars() {
        if matches!(character, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// What the hash of an event covers, besides its place.
pub(crate) fn content_of(event: &AuditEvent, ingested_at: i64) -> Value {
    json!({
        "id": event.id,
        "zone_id": event.zone_id,
        "event_type": event.event_type,
        "request_id": event.request_id,
        "decision": event.decision,
        "policy_set_version_id": event.policy_set_version_id,
        "manifest_sha": event.manifest_sha,
        "evaluation_status": event.evaluation_status,
        "determining_policies_json": event.determining_policies_json,
        "diagnostics_json": event.diagnostics_json,
        "metadata_json": event.metadata_json,
        "occurred_at": event.occurred_at,
        "ingested_at": ingested_at,
    })
}

impl StoredEvent {
    /// Is this the very event that is stored here?
    pub(crate) fn has_content(&self, event: &AuditEvent) -> bool {
        let content = content_of(event, self.ingested_at);
        content_sha256(&content, self.link.seq, self.link.prev.as_deref()) == self.link.content_sha256
    }

    pub(crate) async fn find(connection: &mut SqlConnection, id: &str) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_events WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(connection).await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    pub(crate) fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        let id: String = row.try_get("id")?;
        let parse = |column: &str, text: &str| -> Result<Value, StoreError> {
            serde_json::from_str(text)
                .map_err(|error| StoreError::corrupt(format!("audit_events {id}: {column}: {error}")))
        };
        let value = |column: &str| -> Result<Value, StoreError> {
            let text: String = row.try_get(column)?;
            parse(column, &text)
        };
        let metadata: Option<String> = row.try_get("metadata_json")?;
        let event = AuditEvent {
            id: id.clone(),
            zone_id: row.try_get("zone_id")?,
            event_type: row.try_get("event_type")?,
            request_id: row.try_get("request_id")?,
            decision: row.try_get("decision")?,
            policy_set_version_id: row.try_get("policy_set_version_id")?,
            manifest_sha: row.try_get("manifest_sha")?,
            evaluation_status: row.try_get("evaluation_status")?,
            determining_policies_json: value("determining_policies_json")?,
            diagnostics_json: value("diagnostics_json")?,
            metadata_json: metadata.map(|text| parse("metadata_json", &text)).transpose()?,
            occurred_at: row.try_get("occurred_at")?,
        };
        Ok(Self { event, ingested_at: row.try_get("ingested_at")?, link: Link::from_row(row)? })
    }
}

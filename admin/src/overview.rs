//! A zone at a glance (contract admin-audit §5.1).

use crate::app::App;
use crate::events;
use crate::problem::Problem;
use crate::row::Row;
use axum::Json;
use axum::extract::{Path, State};
use caracal_audit::query::Filter;
use caracal_store::clock;
use serde_json::{Value, json};

const DAY: i64 = 86_400_000;
const RECENT: usize = 10;
/// `$1` is the zone, `$2` now, `$3` in a week, `$4` a day ago.
const COUNTS: &str = "SELECT \
     (SELECT COUNT(*) FROM applications WHERE zone_id = $1 AND archived_at IS NULL) AS applications, \
     (SELECT COUNT(*) FROM applications WHERE zone_id = $1 AND archived_at IS NULL AND expires_at <= $2) AS expired, \
     (SELECT COUNT(*) FROM applications WHERE zone_id = $1 AND archived_at IS NULL AND expires_at > $2 \
       AND expires_at <= $3) AS expiring, \
     (SELECT COUNT(*) FROM resources WHERE zone_id = $1 AND archived_at IS NULL) AS resources, \
     (SELECT COUNT(*) FROM resources WHERE zone_id = $1 AND archived_at IS NULL \
       AND operation_enforcement <> 'enforced') AS unenforced, \
     (SELECT COUNT(*) FROM providers WHERE zone_id = $1 AND archived_at IS NULL) AS providers, \
     (SELECT COUNT(*) FROM policy_sets WHERE zone_id = $1 AND archived_at IS NULL) AS policy_sets, \
     (SELECT COUNT(*) FROM policy_sets WHERE zone_id = $1 AND active_version_id IS NOT NULL) AS enforcing, \
     (SELECT MAX(name) FROM policy_sets WHERE zone_id = $1 AND active_version_id IS NOT NULL) AS active_name, \
     (SELECT COUNT(*) FROM authority_records WHERE zone_id = $1 AND status = 'active' AND expires_at > $2) AS sessions, \
     (SELECT COUNT(*) FROM audit_events WHERE zone_id = $1 AND occurred_at >= $4 AND decision = 'allow') AS allowed, \
     (SELECT COUNT(*) FROM audit_events WHERE zone_id = $1 AND occurred_at >= $4 AND decision = 'deny') AS denied";

/// `GET /v1/zones/:z/overview`
pub(crate) async fn overview(
    State(app): State<App>,
    Path(zone): Path<String>,
) -> Result<Json<Value>, Problem> {
    let now = app.store.now();
    // Before the counts: reading the ledger takes in what waits.
    let recent = app.ledger.list(&zone, &Filter::default(), None, RECENT).await?;
    let mut connection = app.store.read().await?;
    let row = sqlx::query(COUNTS)
        .bind(zone.as_str())
        .bind(now)
        .bind(now + 7 * DAY)
        .bind(now - DAY)
        .fetch_one(&mut *connection)
        .await?;
    drop(connection);
    let recent: Vec<Value> = recent.items.iter().map(events::to_json).map(brief).collect();
    let row = Row(&row);
    Ok(Json(json!({
        "zone_id": zone, "generated_at": clock::iso(now),
        "applications": {
            "total": row.int("applications")?, "expired": row.int("expired")?,
            "expiring_soon": row.int("expiring")?,
        },
        "resources": { "total": row.int("resources")?, "unenforced": row.int("unenforced")? },
        "providers": { "total": row.int("providers")? },
        "policy_sets": {
            "total": row.int("policy_sets")?, "enforcing": row.int("enforcing")?,
            "active_name": row.opt_text("active_name")?,
        },
        "sessions": { "active": row.int("sessions")? },
        "decisions_24h": { "allowed": row.int("allowed")?, "denied": row.int("denied")? },
        "recent_events": recent,
    })))
}

/// The members of an event that an overview shows.
fn brief(mut event: Value) -> Value {
    let shown = ["id", "event_type", "request_id", "decision", "metadata_json", "occurred_at"];
    if let Some(members) = event.as_object_mut() {
        members.retain(|name, _| shown.contains(&name.as_str()));
    }
    event
}

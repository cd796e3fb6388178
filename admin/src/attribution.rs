//! In whose name something is changed (contract admin-audit §3.3).
//!
//! A console acts with one token for many people, so it may say for whom. That is a remark beside the row; the record of
//! the change always names the token.

use crate::app::{Done, Kind};
use crate::gate::Call;
use axum::http::{HeaderMap, HeaderName};
use caracal_store::{StoreError, WriteTx};

const AUTHORIZED_BY: HeaderName = HeaderName::from_static("x-caracal-authorized-by");
const CREATED_VIA: HeaderName = HeaderName::from_static("x-caracal-created-via");
const CREATED_COLUMN: &str = "created_via_operator";
const UPDATED_COLUMN: &str = "updated_via_operator";
/// The longest name.
const MAX_NAME: usize = 256;

/// What a request says about who stands behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attribution {
    /// `X-Caracal-Authorized-By`, where its shape is allowed.
    pub(crate) authorized_by: Option<String>,
    /// `X-Caracal-Created-Via: operator`.
    pub(crate) via_operator: bool,
}

impl Attribution {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let name = headers.get(AUTHORIZED_BY).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        Self {
            authorized_by: name.filter(|name| is_name(name)).map(str::to_owned),
            via_operator: headers.get(CREATED_VIA).is_some_and(|via| via == "operator"),
        }
    }
}

/// Letters, numbers, and a few signs.
fn is_name(name: &str) -> bool {
    let allowed =
        |c: char| c.is_alphanumeric() || matches!(c, ' ' | '@' | '.' | '_' | '+' | ':' | '\'' | '-');
    (1..=MAX_NAME).contains(&name.chars().count()) && name.chars().all(allowed)
}

/// Marks what was made or changed through an operator's console, in the transaction of the change. A change by anyone
/// else takes the mark of the last change away.
pub(crate) async fn mark(tx: &mut WriteTx<'_>, call: &Call, done: &mut Done) -> Result<(), StoreError> {
    let (entity, id) = (done.entity.0, done.entity.1.as_str());
    let Some(table) = table_of(entity) else { return Ok(()) };
    let zone = if entity == "zones" { Some(id) } else { call.zone() };
    let marks = call.actor.attribution.via_operator && has_badge(tx, zone).await?;
    if let Some(version) = &done.version {
        set(tx, version.table, CREATED_COLUMN, &version.id, marks).await?;
    }
    // Who makes a further version changes what it is a version of.
    let further = done.version.as_ref().is_some_and(|version| !version.first);
    let column = match done.kind {
        Kind::Delete => return Ok(()),
        Kind::Create if !further => CREATED_COLUMN,
        _ => UPDATED_COLUMN,
    };
    set(tx, table, column, id, marks).await?;
    if let Some(member) = done.body.get_mut(column) {
        *member = marks.into();
    }
    Ok(())
}

async fn set(
    tx: &mut WriteTx<'_>,
    table: &str,
    column: &str,
    id: &str,
    marks: bool,
) -> Result<(), StoreError> {
    let sql = format!("UPDATE {table} SET {column} = $1 WHERE id = $2 AND {column} <> $1");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(marks)).bind(id);
    query.execute(&mut *tx.connection()).await?;
    Ok(())
}

async fn has_badge(tx: &mut WriteTx<'_>, zone: Option<&str>) -> Result<bool, StoreError> {
    let badge: Option<i64> = sqlx::query_scalar("SELECT operator_coauthor_badge FROM zones WHERE id = $1")
        .bind(zone.unwrap_or_default())
        .fetch_optional(&mut *tx.connection())
        .await?;
    Ok(badge.is_none_or(|badge| badge != 0))
}

/// The table that a kind of object is kept in, where its rows say who made them.
fn table_of(entity: &str) -> Option<&'static str> {
    match entity {
        "applications" => Some("applications"),
        "grants" => Some("delegated_grants"),
        "policies" => Some("policies"),
        "policy-sets" => Some("policy_sets"),
        "providers" => Some("providers"),
        "resources" => Some("resources"),
        "subject-issuers" => Some("subject_issuers"),
        "workloads" => Some("workloads"),
        "zones" => Some("zones"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_3_3_names_of_an_allowed_shape() {
        for name in ["Ada Lovelace", "ada@example.com", "o'neill", "Zoë +1:2_3-4", "李雷"] {
            assert!(is_name(name), "{name}");
        }
        let (long, longer) = ("x".repeat(256), "x".repeat(257));
        assert!(is_name(&long));
        for name in ["", "a\nb", "<b>", "a/b", "a,b", "\u{202e}x", longer.as_str()] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}

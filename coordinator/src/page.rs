//! Lists: newest first, page by page (contract coordinator §2).

use crate::failure::{Code, Failure};
use caracal_store::SqlConnection;
use caracal_store::StoreError;
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::collections::HashMap;

/// The query of a list.
pub(crate) type Query = HashMap<String, String>;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// How many rows at most.
    pub(crate) limit: i64,
    /// The last row of the page before.
    pub(crate) cursor: Option<String>,
}

impl Page {
    /// Reads `limit` (1 to 500, default 100) and `cursor`.
    pub(crate) fn parse(query: &Query) -> Result<Self, Failure> {
        let limit = match query.get("limit") {
            None => 100,
            Some(text) => text.parse().ok().filter(|limit| (1..=500).contains(limit)).ok_or_else(|| {
                Failure::because(Code::InvalidQuery, "limit is not an integer from 1 to 500")
            })?,
        };
        let cursor = query.get("cursor").cloned();
        if cursor.as_deref() == Some("") {
            return Err(Failure::because(Code::InvalidQuery, "cursor is empty"));
        }
        Ok(Self { limit, cursor })
    }

    /// The body of a page: `next_cursor` is there exactly when the page is full.
    pub(crate) fn body(&self, items: Vec<Value>, last: Option<&str>) -> Value {
        let full = i64::try_from(items.len()).is_ok_and(|length| length == self.limit);
        json!({ "items": items, "next_cursor": last.filter(|_| full) })
    }
}

/// One of the words that a query member may have.
pub(crate) fn word<T: TryFrom<String>>(query: &Query, name: &str) -> Result<Option<T>, Failure> {
    let parse = |text: &String| {
        let refuse = |_| Failure::because(Code::InvalidQuery, format!("{name} is none of its words"));
        T::try_from(text.clone()).map_err(refuse)
    };
    query.get(name).map(parse).transpose()
}

/// What a list is read from.
pub(crate) struct Table {
    /// The table.
    pub(crate) name: &'static str,
    /// The columns, `id` among them.
    pub(crate) columns: &'static str,
}

/// The rows of one page, newest first. Each condition stands with its values, in the order of its `?`.
pub(crate) async fn rows(
    connection: &mut SqlConnection,
    table: &Table,
    conditions: Vec<(String, Vec<String>)>,
    page: &Page,
) -> Result<Vec<AnyRow>, Failure> {
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    for (condition, of_condition) in conditions {
        let mut text = condition;
        for value in of_condition {
            values.push(value);
            text = text.replacen('?', &format!("${}", values.len()), 1);
        }
        texts.push(text);
    }
    let scope = texts.join(" AND ");
    let mut sql = format!("SELECT {} FROM {} WHERE {scope}", table.columns, table.name);
    if let Some(cursor) = &page.cursor {
        values.push(cursor.clone());
        let place = values.len();
        let count = format!("SELECT COUNT(*) FROM {} WHERE {scope} AND id = ${place}", table.name);
        let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count));
        for value in &values {
            query = query.bind(value.clone());
        }
        if query.fetch_one(&mut *connection).await? == 0 {
            return Err(Code::InvalidCursor.into());
        }
        sql.push_str(&format!(" AND id < ${place}"));
    }
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", page.limit));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for value in values {
        query = query.bind(value);
    }
    Ok(query.fetch_all(connection).await?)
}

/// The id of the last row, where the next page begins.
pub(crate) fn last_id(rows: &[AnyRow]) -> Result<Option<String>, Failure> {
    Ok(rows.last().map(|row| row.try_get("id")).transpose()?)
}

/// A column that holds JSON; null where it is null.
pub(crate) fn json_column(row: &AnyRow, column: &str) -> Result<Value, Failure> {
    let text: Option<String> = row.try_get(column)?;
    let Some(text) = text else { return Ok(Value::Null) };
    let parsed = serde_json::from_str(&text);
    Ok(parsed.map_err(|error| StoreError::corrupt(format!("{column}: {error}")))?)
}

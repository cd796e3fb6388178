//! Lists by key: newest first, a page at a time, in SQL that every database of ours runs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_store::SqlConnection;
use caracal_store::{StoreError, clock};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

/// The longest cursor, in bytes (contract admin-audit §3.1).
const MAX_CURSOR_BYTES: usize = 512;

/// Where a page ended: the row's time and id. Times are stored in milliseconds, so nothing is lost in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Unix milliseconds.
    pub at: i64,
    /// The row's id.
    pub id: String,
}

#[derive(Serialize, Deserialize)]
struct WireCursor {
    ts: String,
    id: String,
}

impl Cursor {
    /// Reads a cursor; `None` if it is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|_| text.len() <= MAX_CURSOR_BYTES)?;
        let wire: WireCursor = serde_json::from_slice(&bytes).ok()?;
        Some(Self { at: clock::parse_iso(&wire.ts)?, id: wire.id })
    }

    /// The text that a client hands back.
    #[must_use]
    pub fn to_text(&self) -> String {
        let wire = WireCursor { ts: clock::iso(self.at), id: self.id.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }
}

/// One page of something.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins; `None` on the last.
    pub next: Option<Cursor>,
}

#[derive(Debug, Clone)]
enum Argument {
    Number(i64),
    Text(String),
}

/// A `SELECT` that grows by conditions. Only texts of the program become part of the statement; values are bound.
#[derive(Debug, Clone)]
pub struct Select {
    sql: String,
    arguments: Vec<Argument>,
    conditions: usize,
}

impl Select {
    /// Begins with `SELECT … FROM …`.
    #[must_use]
    pub fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), arguments: Vec::new(), conditions: 0 }
    }

    /// One more condition without a value.
    #[must_use]
    pub fn and(mut self, condition: &str) -> Self {
        self.sql.push_str(if self.conditions == 0 { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
        self.conditions += 1;
        self
    }

    /// One more condition; every `?` in it stands for the text.
    #[must_use]
    pub fn and_text(mut self, condition: &str, value: impl Into<String>) -> Self {
        self.arguments.push(Argument::Text(value.into()));
        let placeholder = format!("${}", self.arguments.len());
        self.and(&condition.replace('?', &placeholder))
    }

    /// One more condition; every `?` in it stands for the number.
    #[must_use]
    pub fn and_number(mut self, condition: &str, value: i64) -> Self {
        self.arguments.push(Argument::Number(value));
        let placeholder = format!("${}", self.arguments.len());
        self.and(&condition.replace('?', &placeholder))
    }

    /// The column is one of these.
    #[must_use]
    pub fn and_one_of(mut self, column: &str, values: &[String]) -> Self {
        let mut placeholders = Vec::with_capacity(values.len());
        for value in values {
            self.arguments.push(Argument::Text(value.clone()));
            placeholders.push(format!("${}", self.arguments.len()));
        }
        self.and(&format!("{column} IN ({})", placeholders.join(", ")))
    }

    /// Runs it, as it is.
    pub async fn all(
        mut self,
        connection: &mut SqlConnection,
        order: &str,
    ) -> Result<Vec<AnyRow>, StoreError> {
        self.sql.push_str(order);
        self.run(connection).await
    }

    /// Runs it for the rows after `cursor`, newest first by `time` and `id`, at most `limit` of them.
    pub async fn after(
        self,
        connection: &mut SqlConnection,
        (time, id): (&str, &str),
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<AnyRow>, StoreError> {
        let mut select = self;
        if let Some(cursor) = cursor {
            select.arguments.push(Argument::Number(cursor.at));
            select.arguments.push(Argument::Text(cursor.id.clone()));
            let count = select.arguments.len();
            select = select.and(&format!("({time}, {id}) < (${}, ${count})", count - 1));
        }
        select.sql.push_str(&format!(" ORDER BY {time} DESC, {id} DESC LIMIT {limit}"));
        select.run(connection).await
    }

    async fn run(self, connection: &mut SqlConnection) -> Result<Vec<AnyRow>, StoreError> {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(self.sql));
        for argument in self.arguments {
            query = match argument {
                Argument::Number(number) => query.bind(number),
                Argument::Text(text) => query.bind(text),
            };
        }
        Ok(query.fetch_all(connection).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_3_1_cursors_both_ways() {
        let cursor = Cursor { at: 1_795_251_661_007, id: "0199-a".to_owned() };
        assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        let not_a_time = URL_SAFE_NO_PAD.encode(r#"{"ts":"yesterday","id":"x"}"#);
        for wrong in ["", "%%", "bm8", &not_a_time, &"A".repeat(600)] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}

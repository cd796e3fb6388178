//! Lists: newest first, page by page (contract coordinator §2).

use crate::failure::{Code, Failure};
use serde_json::{Value, json};
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

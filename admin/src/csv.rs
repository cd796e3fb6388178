//! Lists as CSV (contract admin-audit §3.2). A cell that a spreadsheet would take for a formula is defused.

use crate::page::Params;
use crate::problem::Problem;
use axum::Json;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

/// Where the next page begins, which the body has no place for.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// Is CSV asked for?
pub(crate) fn wanted(params: &Params) -> Result<bool, Problem> {
    Ok(params.one_of("format", &["json", "csv"])? == Some("csv"))
}

/// The page as it was asked for: as it is, or its columns as CSV in a file that is called `name`.
pub(crate) fn answer<'a>(
    csv: bool,
    name: &str,
    columns: impl IntoIterator<Item = &'a str>,
    Json(page): Json<Value>,
) -> Response {
    if !csv {
        return Json(page).into_response();
    }
    let columns: Vec<&str> = columns.into_iter().collect();
    let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut text = line(columns.iter().map(|column| (*column).to_owned()));
    for item in items {
        text.push_str(&line(columns.iter().map(|column| cell(item.get(*column).unwrap_or(&Value::Null)))));
    }
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.csv\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    let next = page.get("next_cursor").and_then(Value::as_str);
    if let Some(value) = next.and_then(|next| HeaderValue::from_str(next).ok()) {
        headers.insert(NEXT_CURSOR, value);
    }
    response
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let mut line = cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

/// A value as text: nothing for null, lists joined by a space, objects as JSON.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let defused =
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if defused.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", defused.replace('"', "\"\""))
    } else {
        defused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contract_admin_3_2_cells() {
        let cases = [
            (json!(null), ""),
            (json!("a"), "a"),
            (json!(7), "7"),
            (json!(true), "true"),
            (json!(["a", "b"]), "a b"),
            (json!("=1+1"), "'=1+1"),
            (json!(["=x", "y"]), "'=x y"),
            (json!("-1"), "'-1"),
            (json!("@a,b"), "\"'@a,b\""),
            (json!("say \"no\""), "\"say \"\"no\"\"\""),
            (json!("two\nlines"), "\"two\nlines\""),
            (json!({ "a": 1 }), "\"{\"\"a\"\":1}\""),
        ];
        for (value, expected) in cases {
            assert_eq!(quoted(&cell(&value)), expected, "{value}");
        }
    }
}

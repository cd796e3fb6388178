//! Asking a service how it is.

use serde_json::Value;
use std::time::Duration;

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) ok: bool,
    /// `200`, `503 <reason>`, `timeout` or `unreachable`.
    pub(crate) detail: String,
}

impl Probe {
    /// Was there an answer, whatever it said?
    pub(crate) fn answered(&self) -> bool {
        self.detail.starts_with(|first: char| first.is_ascii_digit())
    }
}

/// Asks once.
pub(crate) async fn probe(client: &reqwest::Client, url: &str) -> Probe {
    let answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_timeout() => return Probe { ok: false, detail: "timeout".to_owned() },
        Err(_) => return Probe { ok: false, detail: "unreachable".to_owned() },
    };
    let status = answer.status();
    if status.is_success() {
        return Probe { ok: true, detail: status.as_u16().to_string() };
    }
    let reason = reason_of(&answer.text().await.unwrap_or_default());
    Probe { ok: false, detail: format!("{} {reason}", status.as_u16()).trim_end().to_owned() }
}

/// A client that waits this long.
pub(crate) fn client(patience: Duration) -> Result<reqwest::Client, reqwest::Error> {
    crate::egress::local().no_proxy().timeout(patience).build()
}

/// The word that a service gives as its reason.
fn reason_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let reason = ["reason", "error"].iter().find_map(|name| body.get(name)?.as_str()).unwrap_or_default();
    reason.chars().filter(|character| !character.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_word_of_the_body() {
        for (body, expected) in [
            (r#"{"ready":false,"reason":"ledger_tampered"}"#, "ledger_tampered"),
            (r#"{"ok":false,"error":"database_unavailable"}"#, "database_unavailable"),
            ("<html>", ""),
            (r#"{"reason":"a\u001bb"}"#, "ab"),
        ] {
            assert_eq!(reason_of(body), expected);
        }
    }
}

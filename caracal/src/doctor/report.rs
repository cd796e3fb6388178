//! What a doctor's report holds (contract admin-audit §16.5). Nothing here asks anybody anything.

use serde::Serialize;
use serde_json::{Value, json};

/// The longest detail, in characters.
const MAX_DETAIL: usize = 240;
/// What tokens and secrets begin with.
const SECRET_PREFIXES: [&str; 5] = ["cat_", "cs_", "ws_", "nsk_", "eyJ"];

/// Which part of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Section {
    Health,
    Readiness,
    Zones,
    Preflight,
}

impl Section {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Readiness => "readiness",
            Self::Zones => "zones",
            Self::Preflight => "preflight",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) section: Section,
    pub(super) check: String,
    pub(super) status: Status,
    pub(super) detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Check {
    fn new(section: Section, check: &str, status: Status, detail: impl AsRef<str>) -> Self {
        Self { section, check: check.to_owned(), status, detail: scrub(detail.as_ref()), advice: None }
    }

    pub(super) fn ok(section: Section, check: &str, detail: impl AsRef<str>) -> Self {
        Self::new(section, check, Status::Ok, detail)
    }

    pub(super) fn warn(section: Section, check: &str, detail: impl AsRef<str>, advice: &str) -> Self {
        Self { advice: Some(advice.to_owned()), ..Self::new(section, check, Status::Warn, detail) }
    }

    pub(super) fn fail(section: Section, check: &str, detail: impl AsRef<str>, advice: &str) -> Self {
        Self { advice: Some(advice.to_owned()), ..Self::new(section, check, Status::Fail, detail) }
    }
}

/// A detail without what looks like a token, and not too long.
pub(super) fn scrub(detail: &str) -> String {
    let secret = |word: &str| {
        let word = word.trim_start_matches(|character: char| !character.is_alphanumeric());
        SECRET_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
    };
    let words: Vec<&str> =
        detail.split_whitespace().map(|word| if secret(word) { "[hidden]" } else { word }).collect();
    let text = words.join(" ");
    if text.chars().count() <= MAX_DETAIL {
        return text;
    }
    let cut: String = text.chars().take(MAX_DETAIL - 1).collect();
    format!("{cut}…")
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    System,
    Preflight,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) mode: Mode,
    pub(super) strict: bool,
    pub(super) api_url: Option<String>,
    /// `all`, `selected` or `none`.
    pub(super) zone_scope: &'static str,
    pub(super) zone_ids: Vec<String>,
    pub(super) checks: Vec<Check>,
}

impl Report {
    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Was something looked at, and is it good?
    pub(super) fn is_ready(&self) -> bool {
        let bad = self.count(Status::Fail) + if self.strict { self.count(Status::Warn) } else { 0 };
        !self.checks.is_empty() && bad == 0
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "command": "doctor", "mode": self.mode, "ready": self.is_ready(), "strict": self.strict,
            "context": { "apiUrl": self.api_url, "zoneScope": self.zone_scope, "zoneIds": self.zone_ids },
            "summary": {
                "ok": self.count(Status::Ok), "warn": self.count(Status::Warn), "fail": self.count(Status::Fail),
                "total": self.checks.len(),
            },
            "checks": self.checks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_16_5_a_report_is_ready_when_nothing_failed() {
        let ok = Check::ok(Section::Health, "a", "fine");
        let warn = Check::warn(Section::Zones, "b", "so so", "do this");
        let fail = Check::fail(Section::Preflight, "c", "broken", "do that");
        for (checks, strict, ready) in [
            (vec![], false, false),
            (vec![ok.clone()], true, true),
            (vec![ok.clone(), warn.clone()], false, true),
            (vec![ok.clone(), warn.clone()], true, false),
            (vec![ok, warn, fail], false, false),
        ] {
            let report = Report {
                mode: Mode::System,
                strict,
                api_url: None,
                zone_scope: "none",
                zone_ids: Vec::new(),
                checks,
            };
            assert_eq!(report.is_ready(), ready, "{report:?}");
            assert_eq!(report.to_json()["summary"]["total"], report.checks.len());
        }
    }

    #[test]
    fn contract_admin_16_5_details_hold_no_token_and_are_short() {
        let detail = scrub("refused (cat_abc) \"eyJhbGciOi\" Bearer cs_1\nwhat happened");
        assert_eq!(detail, "refused [hidden] [hidden] Bearer [hidden] what happened");
        assert_eq!(scrub(&"é".repeat(500)).chars().count(), 240);
    }
}

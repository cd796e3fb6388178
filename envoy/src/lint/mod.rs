//! Judges configurations before an Envoy runs with them (contract gateway §D4): a static bootstrap, Istio's
//! `WasmPlugin`, and Envoy Gateway's `EnvoyExtensionPolicy`. Whatever would let a request through without a decision is
//! refused, and so is what would refuse every request.
//!
//! A file in which nothing of ours is found is refused as well: a lint of the wrong file proves nothing.

mod bootstrap;
mod cluster;
mod code;
mod manager;
mod mesh;
mod place;
mod plugin;
mod route;

use serde::Serialize;
use serde_json::Value;

pub use code::Code;
use place::Place;

/// A mistake, and where it is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Which mistake.
    pub code: Code,
    /// The document in the file, from 1.
    pub document: usize,
    /// The path in the document, as `static_resources.listeners[0].name`; empty for the document itself.
    pub path: String,
    /// Why it is one.
    pub why: String,
    /// What to write instead.
    pub instead: &'static str,
}

/// Why a file cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It is no YAML, or no JSON.
    #[error("is neither YAML nor JSON: {0}")]
    Syntax(String),
}

/// Judges a file of YAML or JSON, which may hold several documents.
///
/// # Errors
/// [`LintError::Syntax`].
pub fn lint(text: &str) -> Result<Vec<Finding>, LintError> {
    // Envoy and Kubernetes read JSON by the rules of YAML too.
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| LintError::Syntax(error.to_string()))?;
    let mut report = Report::default();
    let mut judged = false;
    for document in documents.iter().filter(|document| !document.is_null()) {
        report.document += 1;
        judged |= judge(&Place::root(document), &mut report);
    }
    if !judged {
        report.document = 1;
        report.add(Code::FilterMissing, &Place::root(&Value::Null));
    }
    Ok(report.finish())
}

/// Judges a document; tells whether it holds anything of ours.
fn judge(root: &Place<'_>, report: &mut Report) -> bool {
    match root.text("kind") {
        Some("WasmPlugin") => return mesh::judge_istio(root, report),
        Some("EnvoyExtensionPolicy") => return mesh::judge_envoy_gateway(root, report),
        _ => {}
    }
    let plugins = plugin::find(root);
    for plugin in &plugins {
        plugin::judge(plugin, report);
    }
    if root.get("static_resources").is_some() || root.get("dynamic_resources").is_some() {
        return bootstrap::judge(root, report);
    }
    !plugins.is_empty()
}

/// The findings so far.
#[derive(Debug, Default)]
struct Report {
    document: usize,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, code: Code, place: &Place<'_>) {
        self.push(code, place, code.why().to_owned());
    }

    fn detail(&mut self, code: Code, place: &Place<'_>, detail: impl std::fmt::Display) {
        self.push(code, place, format!("{}: {detail}", code.why()));
    }

    fn push(&mut self, code: Code, place: &Place<'_>, why: String) {
        let path = place.path.clone();
        self.findings.push(Finding { code, document: self.document, path, why, instead: code.instead() });
    }

    /// Each finding once, in the order of the file.
    fn finish(mut self) -> Vec<Finding> {
        let mut seen = Vec::with_capacity(self.findings.len());
        for finding in self.findings.drain(..) {
            if !seen.contains(&finding) {
                seen.push(finding);
            }
        }
        seen.sort_by_key(|finding| finding.document);
        seen
    }
}

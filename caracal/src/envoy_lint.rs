//! `caracal envoy lint`: refuses configurations that would let requests through without a decision.

use crate::error::Error;
use crate::output::{failure, faint, success};
use caracal_envoy::lint::{Code, Finding, lint};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct LintOptions {
    /// The files, YAML or JSON.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A mistake that is meant: its code. Everything but `fail_open` can be.
    #[arg(long = "allow", value_name = "CODE", value_parser = allowed)]
    allowed: Vec<Code>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn allowed(name: &str) -> Result<Code, String> {
    let code: Code = name.parse()?;
    if code.may_be_allowed() { Ok(code) } else { Err(format!("{code} is never allowed")) }
}

/// Judges every file, prints what was found, and fails when that is anything.
pub(crate) fn run(options: &LintOptions) -> Result<ExitCode, Error> {
    let mut clean = true;
    let mut reports = Vec::new();
    for file in &options.files {
        let findings = judge(file, &options.allowed)?;
        clean &= findings.is_empty();
        if options.json {
            reports.push(json!({"file": file.to_string_lossy(), "findings": findings}));
        } else {
            print(file, &findings);
        }
    }
    if options.json {
        println!("{:#}", json!({"ok": clean, "files": reports}));
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(file: &Path, allowed: &[Code]) -> Result<Vec<Finding>, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::file(file))?;
    let mut findings =
        lint(&text).map_err(|error| Error::Lint { path: file.to_owned(), why: error.to_string() })?;
    findings.retain(|finding| !allowed.contains(&finding.code));
    Ok(findings)
}

fn print(file: &Path, findings: &[Finding]) {
    if findings.is_empty() {
        println!("{} {}", success("ok"), file.display());
    }
    for finding in findings {
        let place = if finding.path.is_empty() { "the document" } else { &finding.path };
        let document =
            if finding.document > 1 { format!(" (document {})", finding.document) } else { String::new() };
        println!("{} {}{document}: {place}", failure(finding.code.name()), file.display());
        println!("  {}", finding.why);
        println!("  {} {}", faint("instead:"), finding.instead);
    }
}

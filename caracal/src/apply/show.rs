//! What is printed: of a plan, of what was done, and of what is wrong with the files.

use super::execute::Outcome;
use super::item::{Fault, Kind};
use super::plan::{Act, Difference, Plan, Step};
use crate::output::{failure, faint, heading, success};
use serde_json::{Value, json};
use std::process::ExitCode;

/// The longest value that is shown whole, in characters.
const MAX_SHOWN: usize = 300;

/// Nothing was done because of these.
pub(super) fn faults(faults: &[Fault], as_json: bool) -> ExitCode {
    if as_json {
        let errors: Vec<Value> = faults.iter().map(Fault::to_json).collect();
        println!("{:#}", json!({ "command": "apply", "ok": false, "errors": errors }));
    } else {
        for fault in faults {
            eprintln!("{} {fault}", failure("error:"));
        }
        eprintln!("Nothing was changed.");
    }
    ExitCode::FAILURE
}

/// What would be done.
pub(super) fn plan(plan: &Plan, as_json: bool) {
    if as_json {
        println!("{:#}", report(plan, true, json!({})));
        return;
    }
    print_plan(plan);
    if plan.is_empty() {
        println!("{}", success("Nothing differs."));
    } else {
        println!("Nothing was changed: this was a dry run.");
    }
}

/// What was done, and what was not.
pub(super) fn outcome(plan: &Plan, outcome: &Outcome, as_json: bool) {
    let writing: Vec<&Step> = plan.steps.iter().filter(|step| step.writes()).collect();
    let (applied, remaining) = writing.split_at(outcome.done.min(writing.len()));
    if as_json {
        let names = |steps: &[&Step]| steps.iter().map(|step| full_name(step)).collect::<Vec<_>>();
        let secrets: Vec<Value> =
            outcome.secrets.iter().map(|(of, file)| json!({ "of": of, "file": file })).collect();
        let more = json!({
            "applied": names(applied), "remaining": names(remaining), "secrets": secrets,
            "error": outcome.error.as_ref().map(ToString::to_string),
        });
        println!("{:#}", report(plan, outcome.error.is_none(), more));
        return;
    }
    print_plan(plan);
    for (of, file) in &outcome.secrets {
        match file {
            Some(file) => println!("secret of {of}: {}", file.display()),
            None => println!("secret of {of}: not kept; rotate it through the Admin API, or use --secrets"),
        }
    }
    match &outcome.error {
        None if writing.is_empty() => println!("{}", success("Nothing to do.")),
        None => println!("{}", success(&format!("Applied {} of {}.", applied.len(), writing.len()))),
        Some(error) => {
            eprintln!("{} {error}", failure("error:"));
            eprintln!("Applied {} of {}:", applied.len(), writing.len());
            applied.iter().for_each(|step| eprintln!("  {} {}", mark(step.act), full_name(step)));
            eprintln!("Not applied:");
            remaining.iter().for_each(|step| eprintln!("  {} {}", mark(step.act), full_name(step)));
            eprintln!("Run the same command again to do the rest.");
        }
    }
}

fn report(plan: &Plan, ok: bool, more: Value) -> Value {
    let mut report = json!({
        "command": "apply", "ok": ok, "dry_run": more.get("applied").is_none(),
        "different": !plan.is_empty(), "summary": plan.summary(),
        "steps": plan.steps.iter().map(Step::to_json).collect::<Vec<_>>(),
    });
    if let (Some(report), Value::Object(more)) = (report.as_object_mut(), more) {
        report.extend(more);
    }
    report
}

fn full_name(step: &Step) -> String {
    match &step.zone {
        Some(zone) => format!("{} (zone {zone})", step.name()),
        None => step.name(),
    }
}

fn mark(act: Act) -> &'static str {
    match act {
        Act::Create => "+",
        Act::Change => "~",
        Act::Unchanged => "=",
        Act::Extra => "?",
        Act::Remove => "-",
    }
}

fn print_plan(plan: &Plan) {
    let mut zone = None;
    for step in plan.steps.iter().filter(|step| step.act != Act::Unchanged) {
        if step.zone.is_some() && step.zone != zone {
            println!("{}", heading(&format!("zone {}", step.zone.as_deref().unwrap_or_default())));
        }
        zone.clone_from(&step.zone);
        let indent = if step.zone.is_some() { "  " } else { "" };
        let why = if step.act == Act::Extra { "  is not in the files" } else { "" };
        let line = format!("{} {}{why}", mark(step.act), step.name());
        match step.act {
            Act::Create => println!("{indent}{}", success(&line)),
            Act::Remove => println!("{indent}{}", failure(&line)),
            _ => println!("{indent}{line}"),
        }
        step.differences.iter().for_each(|one| println!("{indent}    {}", describe(step.act, one)));
        if let Some(note) = step.note.as_deref().filter(|_| step.act != Act::Extra) {
            println!("{indent}    {}", faint(&format!("note: {note}")));
        }
    }
    let count = |act| plan.count(act);
    println!(
        "{} to create, {} to change, {} to remove, {} unchanged, {} not in the files",
        count(Act::Create),
        count(Act::Change),
        count(Act::Remove),
        count(Act::Unchanged),
        count(Act::Extra)
    );
    if plan.steps.iter().any(|step| step.act == Act::Extra && step.kind != Kind::Zone) {
        println!("What is not in the files is removed with --prune.");
    }
}

fn describe(act: Act, difference: &Difference) -> String {
    let Difference { field, from, to } = difference;
    if act == Act::Create {
        format!("{field}: {}", shown(to))
    } else {
        format!("{field}: {} -> {}", shown(from), shown(to))
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    let cut: String = text.chars().take(MAX_SHOWN).collect();
    format!("{cut}…")
}

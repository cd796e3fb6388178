//! `caracal apply`: configuration from files. Files are read and checked whole, then compared with what the Admin API has;
//! only a plan without a fault is done.

mod actual;
mod desire;
mod document;
mod draft;
mod execute;
mod item;
mod make;
mod plan;
mod plan_zone;
mod show;
mod template;

#[cfg(test)]
mod tests;

use crate::admin_client::{AdminClient, AdminOptions};
use crate::error::Error;
use caracal_admin::{Object, preview};
use clap::Args;
use desire::{Source, desire, read_secret};
use execute::{SecretTexts, execute, secret_file};
use item::{Desired, Fault, Item, Kind, Place};
use plan::{Act, Plan, Step, Wishes, plan};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The status of a dry run that found a difference. Two is what the command line answers to wrong options.
const DIFFERENT: u8 = 3;
/// The largest file of configuration, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// The longest name of a file, in bytes.
const MAX_FILE_NAME: usize = 255;

#[derive(Debug, Args)]
pub(crate) struct ApplyOptions {
    /// A file of configuration (YAML or JSON), or a folder of them.
    #[arg(short, long = "file", required = true, value_name = "FILE|FOLDER")]
    files: Vec<PathBuf>,
    /// Show what would be done and do nothing; the exit status says whether anything differs.
    #[arg(long)]
    dry_run: bool,
    /// Remove what the files do not name, in the lists that they write.
    #[arg(long)]
    prune: bool,
    /// The files name every zone: others are differences, and are removed with --prune.
    #[arg(long)]
    all_zones: bool,
    /// Send the secrets of all providers again; they cannot be compared.
    #[arg(long)]
    resend_secrets: bool,
    /// The folder for secrets that are generated for new applications, workloads and sinks.
    #[arg(long, value_name = "FOLDER")]
    secrets: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

/// Applies the files.
pub(crate) async fn apply(options: &ApplyOptions) -> Result<ExitCode, Error> {
    let desired = match read_files(&options.files) {
        Ok(desired) => desired,
        Err(faults) => return Ok(show::faults(&faults, options.json)),
    };
    let (client, actual) = match what_is_there(options, &desired).await {
        Ok(found) => found,
        Err(error) => return Ok(show::faults(&[Fault::of(error.to_string())], options.json)),
    };
    let wishes =
        Wishes { prune: options.prune, all_zones: options.all_zones, resend_secrets: options.resend_secrets };
    let planned = plan(&desired, &actual, wishes);
    let checked = planned.and_then(|plan| {
        let secrets = secrets_of(&plan)?;
        check_secret_files(&plan, options.secrets.as_deref())?;
        Ok((plan, secrets))
    });
    let (plan, secrets) = match checked {
        Ok(checked) => checked,
        Err(faults) => return Ok(show::faults(&faults, options.json)),
    };
    if options.dry_run {
        show::plan(&plan, options.json);
        return Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) });
    }
    carry_out(&client, options, &plan, &actual, &secrets).await
}

async fn what_is_there(
    options: &ApplyOptions,
    desired: &Desired,
) -> Result<(AdminClient, item::Actual), Error> {
    let client = options.admin.client()?;
    let actual = actual::read(&client, desired).await?;
    Ok((client, actual))
}

async fn carry_out(
    client: &AdminClient,
    options: &ApplyOptions,
    plan: &Plan,
    actual: &item::Actual,
    secrets: &SecretTexts,
) -> Result<ExitCode, Error> {
    let folder = options.secrets.as_deref();
    if let Some(folder) = folder {
        make_folders(plan, folder)?;
    }
    let outcome = execute(client, plan, actual, secrets, folder).await;
    show::outcome(plan, &outcome, options.json);
    Ok(if outcome.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that stands in the files and folders.
fn read_files(paths: &[PathBuf]) -> Result<Desired, Vec<Fault>> {
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        match files_of(path) {
            Ok(files) => {
                for file in files {
                    match read_source(file) {
                        Ok(source) => sources.push(source),
                        Err(fault) => faults.push(fault),
                    }
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    desire(sources, read_text)
}

/// The file itself, or the files of configuration in a folder, by name.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Fault> {
    let fault = |why: String| Fault::of(format!("{}: {why}", path.display()));
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| fault(error.to_string()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| fault(error.to_string()))?.path();
        let known = file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if known && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(fault("holds no .yaml, .yml or .json file".to_owned()));
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

fn read_source(path: PathBuf) -> Result<Source, Fault> {
    let text = read_text(&path).map_err(|why| Fault::of(format!("{}: {why}", path.display())))?;
    match document::parse(&text) {
        Ok(documents) => Ok(Source { path, documents }),
        Err(error) => {
            let place = Place { file: path.into(), line: error.line, column: error.column };
            Err(Fault::at(&place, error.why))
        }
    }
}

/// The secrets that the plan sends, read from where they are and checked together with what they belong to.
fn secrets_of(plan: &Plan) -> Result<SecretTexts, Vec<Fault>> {
    let (mut secrets, mut faults) = (SecretTexts::default(), Vec::new());
    for step in plan.steps.iter().filter(|step| step.send_secrets) {
        let Some(item) = &step.item else { continue };
        match secrets_of_provider(item) {
            Ok(texts) => secrets.insert(step.zone.as_deref().unwrap_or_default(), &item.key, texts),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(secrets) } else { Err(faults) }
}

fn secrets_of_provider(item: &Item) -> Result<Map<String, Value>, Fault> {
    let mut texts = Map::new();
    for (name, secret) in &item.secrets {
        texts.insert(name.clone(), read_secret(secret)?.into());
    }
    let mut config = item.fields.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    config.extend(texts.clone());
    let body = json!({ "identifier": item.key, "kind": item.text("kind"), "config_json": config });
    match preview(Object::Provider, &body) {
        Ok(_) => Ok(texts),
        Err(refused) => Err(Fault::at(item.place_of(&refused.why), refused.to_string())),
    }
}

/// The steps that generate a secret.
fn generating(plan: &Plan) -> impl Iterator<Item = &Step> {
    let generates = |kind| matches!(kind, Kind::Application | Kind::Workload | Kind::NotificationSink);
    plan.steps.iter().filter(move |step| step.act == Act::Create && generates(step.kind))
}

/// A secret that is there is not written over, and every name is one of a file.
fn check_secret_files(plan: &Plan, folder: Option<&Path>) -> Result<(), Vec<Fault>> {
    let Some(folder) = folder else { return Ok(()) };
    let mut faults = Vec::new();
    for step in generating(plan) {
        let file = secret_file(folder, step);
        let place = step.item.as_ref().map(|item| item.place.clone());
        let long = file.file_name().is_none_or(|name| name.len() > MAX_FILE_NAME - ".partial".len());
        if long {
            faults.push(Fault {
                place,
                why: "the name is too long for the name of the secret's file".to_owned(),
            });
        } else if file.exists() {
            let why = format!("{} is there already, and would be written over", file.display());
            faults.push(Fault { place, why });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Makes the folders that secrets are written to, their owner's alone, before anything else is done.
fn make_folders(plan: &Plan, folder: &Path) -> Result<(), Error> {
    for step in generating(plan) {
        let file = secret_file(folder, step);
        if let Some(parent) = file.parent() {
            crate::data::private_folder(parent)?;
        }
    }
    Ok(())
}

//! `caracal doctor`: everything that can be seen of an installation, and for what is not as it should be, what to do.

mod configuration;
mod metrics;
mod preflight;
mod report;
mod system;

use crate::admin_client::AdminOptions;
use crate::error::Error;
use crate::output::{failure, faint, heading, success};
use clap::Args;
use report::{Check, Mode, Report, Status};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Look at the data folder and the system alone, as before a start.
    #[arg(long, conflicts_with = "zones")]
    preflight: bool,
    /// A zone to look into, by its slug or id [default: all].
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<String>,
    /// Take warnings for failures.
    #[arg(long)]
    strict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

/// Looks at everything, prints it, and fails where something is not as it should be.
pub(crate) async fn doctor(options: &DoctorOptions) -> Result<ExitCode, Error> {
    let report = if options.preflight {
        Report {
            mode: Mode::Preflight,
            strict: options.strict,
            api_url: None,
            zone_scope: "none",
            zone_ids: Vec::new(),
            checks: preflight::preflight(&options.admin.data.folder()?),
        }
    } else {
        system::examine(&options.admin, &options.zones, options.strict).await?
    };
    if options.json {
        println!("{:#}", report.to_json());
    } else {
        print(&report);
    }
    Ok(if report.is_ready() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    let mut section = None;
    for check in &report.checks {
        if section != Some(check.section) {
            println!("{}", heading(check.section.name()));
            section = Some(check.section);
        }
        print_check(check);
    }
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let counts =
        format!("{} ok, {} warn, {} fail", count(Status::Ok), count(Status::Warn), count(Status::Fail));
    if report.is_ready() {
        println!("{}", success(&format!("Ready: {counts}.")));
    } else {
        println!("{}", failure(&format!("Not ready: {counts}.")));
    }
}

fn print_check(check: &Check) {
    let mark = match check.status {
        Status::Ok => success("ok  "),
        Status::Warn => "warn".to_owned(),
        Status::Fail => failure("FAIL"),
    };
    println!("  {mark} {}: {}", check.check, check.detail);
    if let Some(advice) = &check.advice {
        println!("       {} {advice}", faint("do:"));
    }
}

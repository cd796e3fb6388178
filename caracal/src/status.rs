//! `caracal status` and `caracal down`.

use crate::admin_client::reachable;
use crate::envoy::admin_client;
use crate::error::Error;
use crate::gateway;
use crate::output::{failure, success};
use crate::probe::{Probe, client, probe};
use crate::runtime::Running;
use caracal_envoy::xds::Status;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Report {
    mode: &'static str,
    services: Vec<Service>,
    memory: Memory,
    /// `null` where gateways hold their configuration themselves.
    gateway_configuration: Option<Configuration>,
}

/// What the xDS server says.
#[derive(Serialize)]
struct Configuration {
    ok: bool,
    detail: String,
    status: Option<Status>,
}

#[derive(Serialize)]
struct Service {
    name: &'static str,
    port: u16,
    url: String,
    ok: bool,
    detail: String,
}

/// Memory, in bytes; `null` where it cannot be told.
#[derive(Serialize)]
struct Memory {
    control_plane_resident: Option<u64>,
    envoy_resident: Option<u64>,
    filter_worker: Option<u64>,
}

/// Prints whether each service answers, and the memory that all of it takes.
///
/// Its JSON is the contract's (admin-audit §16.2), and `memory` beside it.
pub(crate) async fn status(folder: &Path, ready: bool, json: bool) -> Result<ExitCode, Error> {
    let running = Running::load(folder)?;
    let client = client(PATIENCE).map_err(|error| Error::Envoy(error.to_string()))?;
    let mode = if ready { "ready" } else { "health" };
    let mut services = Vec::new();
    for (name, address) in running.services() {
        let url = format!("http://{}/{mode}", reachable(address));
        let Probe { ok, detail } = probe(&client, &url).await;
        services.push(Service { name, port: address.port(), url, ok, detail });
    }
    let report = Report {
        mode,
        services,
        memory: Memory {
            control_plane_resident: resident(running.pid),
            envoy_resident: resident(running.envoy_pid),
            filter_worker: filter_memory(&running.envoy_admin).await,
        },
        gateway_configuration: match &running.xds {
            Some(socket) => Some(configuration(socket).await),
            None => None,
        },
    };
    let configured = report.gateway_configuration.as_ref().is_none_or(|configuration| configuration.ok);
    let ok = configured && report.services.iter().all(|service| service.ok);
    if json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        print(&report);
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks a running Caracal to stop and waits until it has.
pub(crate) fn down(folder: &Path) -> Result<ExitCode, Error> {
    let running = Running::load(folder)?;
    let pid = i32::try_from(running.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::NotRunning { folder: folder.to_owned() })?;
    if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_err() {
        Running::remove(folder);
        return Err(Error::NotRunning { folder: folder.to_owned() });
    }
    let since = Instant::now();
    while rustix::process::test_kill_process(pid).is_ok() && Running::load(folder).is_ok() {
        if since.elapsed() > STOP {
            return Err(Error::Ended {
                ended: "nothing",
                why: format!("process {} is still there", running.pid),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("Stopped.");
    Ok(ExitCode::SUCCESS)
}

/// A gateway that is not connected, or does not take what it is told, is what an operator has to see.
async fn configuration(socket: &Path) -> Configuration {
    let status = match gateway::status(socket, PATIENCE).await {
        Ok(status) => status,
        Err(detail) => return Configuration { ok: false, detail, status: None },
    };
    let connected: Vec<_> = status.connected().collect();
    let rejecting = connected.iter().filter(|(_, gateway)| !gateway.rejected.is_empty()).count();
    let detail = format!(
        "{} resources, {} left out; gateways: {} connected, {rejecting} rejecting",
        status.resources,
        status.left_out,
        connected.len()
    );
    Configuration { ok: !connected.is_empty() && rejecting == 0, detail, status: Some(status) }
}

/// The resident memory of a process, from the kernel.
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The linear memory of the largest worker, as the filter itself reports it.
async fn filter_memory(admin: &Path) -> Option<u64> {
    let client = admin_client(admin).ok()?;
    let answer = client.get("http://envoy/stats?filter=worker_memory_bytes").send().await.ok()?;
    let text = answer.text().await.ok()?;
    text.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse().ok()).max()
}

fn print(report: &Report) {
    for service in &report.services {
        let mark = if service.ok { success("ok") } else { failure("FAIL") };
        println!("{mark:<6} {:<12} {:<36} {}", service.name, service.url, service.detail);
    }
    if let Some(configuration) = &report.gateway_configuration {
        print_configuration(configuration);
    }
    let show = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1_048_576.0))
    };
    println!("memory of the control plane: {}", show(report.memory.control_plane_resident));
    println!("memory of Envoy:             {}", show(report.memory.envoy_resident));
    println!("memory of one worker VM:     {}", show(report.memory.filter_worker));
}

fn print_configuration(configuration: &Configuration) {
    let mark = if configuration.ok { success("ok") } else { failure("FAIL") };
    println!("{mark:<6} {:<12} {}", "xds", configuration.detail);
    let Some(status) = &configuration.status else { return };
    for left in &status.left_out_resources {
        println!("       left out: {} in zone {}: {}", left.resource, left.zone, left.reason);
    }
    for (id, gateway) in &status.gateways {
        for (kind, rejection) in &gateway.rejected {
            println!("       {id} rejects {kind}: {}", rejection.message);
        }
    }
}

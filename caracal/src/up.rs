//! `caracal up`: services, Envoy, the tour, and an orderly end on Ctrl-C or on the death of any part.

use crate::cli::UpOptions;
use crate::data::{DataFolder, Secrets, admin_token_file};
use crate::envoy::{Envoy, admin_socket};
use crate::error::Error;
use crate::gateway;
use crate::output::{failure, heading, success};
use crate::runtime::Running;
use crate::services::Services;
use crate::tour::{self, Tour};
use caracal_envoy::xds::NetworkListener;
use caracal_envoy::{Admin, BootstrapOptions, Endpoint, Shape};
use caracal_mandate::id::GatewayId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs everything until it is told to stop.
pub(crate) async fn up(options: UpOptions) -> Result<ExitCode, Error> {
    let root = options.data.folder()?;
    let filter = readable(&options.filter)?;
    // Whatever is written from here on, by Envoy too, is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let folder = DataFolder::open(&root)?;
    let secrets = folder.secrets()?;
    let network = options.gateway.open_network().await?;
    let xds_network = network.as_ref().map(NetworkListener::address);
    let mut services = Services::start(&options, &folder, &secrets).await?;
    let mut bootstrap = bootstrap(&options, &services, filter, &folder, &secrets)?;
    bootstrap.protected.extend(xds_network.map(reach));
    services.configure(&secrets, &bootstrap, network, options.gateway.xds_max_streams()).await?;
    let key = &secrets.gateway_sts_hmac_key;
    let started = tokio::select! {
        started = Envoy::start(&options.envoy, &folder, &bootstrap, key, options.envoy_workers) => started,
        (ended, why) = services.any_ended() => Err(Error::Ended { ended, why }),
    };
    let mut envoy = match started {
        Ok(envoy) => envoy,
        Err(error) => {
            services.stop().await;
            return Err(error);
        }
    };
    let xds = gateway::socket(&bootstrap).map(Path::to_owned);
    let running = Running { xds, xds_network, ..running(&services, &envoy, admin_socket(&folder)?) };
    let result = match running.save(&root) {
        Ok(()) => attend(&options, &root, &running, &secrets.admin_token, &mut services, &mut envoy).await,
        Err(error) => Err(error),
    };
    Running::remove(&root);
    envoy.stop().await;
    services.stop().await;
    result
}

/// The time in which everything runs.
async fn attend(
    options: &UpOptions,
    root: &Path,
    running: &Running,
    admin_token: &str,
    services: &mut Services,
    envoy: &mut Envoy,
) -> Result<ExitCode, Error> {
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let mut passed = true;
    if options.tour {
        let tour = Tour::new(running, admin_token)?;
        let outcome = tokio::select! {
            outcome = tour::run(tour) => outcome,
            () = &mut stop => return Ok(ExitCode::FAILURE),
            (ended, why) = services.any_ended() => return Err(Error::Ended { ended, why }),
            why = envoy.ended() => return Err(Error::Ended { ended: "Envoy", why }),
        };
        passed = outcome.is_ok();
        match outcome {
            Ok(()) => println!("\n{}", success("Every step did what it should.")),
            Err(error) => println!("\n{} {error}", failure("The tour ended early:")),
        }
        if options.exit_after_tour {
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    print_addresses(root, running);
    tokio::select! {
        () = &mut stop => {
            println!("\nStopping.");
            Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        (ended, why) = services.any_ended() => Err(Error::Ended { ended, why }),
        why = envoy.ended() => Err(Error::Ended { ended: "Envoy", why }),
    }
}

fn bootstrap(
    options: &UpOptions,
    services: &Services,
    filter: PathBuf,
    folder: &DataFolder,
    secrets: &Secrets,
) -> Result<BootstrapOptions, Error> {
    let id = GatewayId::new("embedded").map_err(|error| Error::Envoy(error.to_string()))?;
    let shape = Shape::Gateway(options.gateway.options(folder, secrets, &id)?);
    let mut bootstrap = BootstrapOptions::new(id, shape, filter);
    bootstrap.listener = Endpoint::new(options.bind.to_string(), options.gateway_port);
    bootstrap.sts = reach(services.addresses.sts);
    bootstrap.audit = reach(services.addresses.audit);
    bootstrap.admin = Admin::Socket(admin_socket(folder)?);
    bootstrap.mcp = options.mcp;
    bootstrap.upgrades.clone_from(&options.upgrades);
    let addresses = services.addresses;
    let own = [addresses.admin, addresses.sts, addresses.coordinator, addresses.audit];
    bootstrap.protected = own.into_iter().map(reach).collect();
    Ok(bootstrap)
}

/// Where this machine reaches what listens there.
fn reach(address: SocketAddr) -> Endpoint {
    if address.ip().is_unspecified() { Endpoint::loopback(address.port()) } else { address.into() }
}

fn running(services: &Services, envoy: &Envoy, envoy_admin: PathBuf) -> Running {
    let addresses = services.addresses;
    Running {
        pid: std::process::id(),
        envoy_pid: envoy.pid,
        admin: addresses.admin,
        sts: addresses.sts,
        gateway: envoy.gateway,
        coordinator: addresses.coordinator,
        audit: addresses.audit,
        envoy_admin,
        xds: None,
        xds_network: None,
    }
}

fn print_addresses(root: &Path, running: &Running) {
    println!("\n{}", heading("Caracal is up. Ctrl-C stops it."));
    for (name, address) in [
        ("Admin API", running.admin),
        ("STS", running.sts),
        ("Gateway", running.gateway),
        ("Coordinator", running.coordinator),
        ("Audit", running.audit),
    ] {
        println!("  {name:<12} http://{address}");
    }
    if let Some(address) = running.xds_network {
        println!("  {:<12} {address} (TLS)", "xDS");
    }
    let token = admin_token_file(root);
    println!("\n{}", heading("Try:"));
    println!(
        "  curl -s -H \"Authorization: Bearer $(cat {})\" http://{}/v1/zones",
        token.display(),
        running.admin
    );
    println!("  curl -si http://{}/v1/orders", running.gateway);
    let this = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("caracal"));
    println!("  {} status --data {}", this.display(), root.display());
}

async fn stopped_by(kind: SignalKind) -> Result<(), Error> {
    let mut signals = signal(kind).map_err(Error::Runtime)?;
    signals.recv().await;
    Ok(())
}

/// Resolves at the first Ctrl-C, SIGTERM or hang-up.
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [interrupt, terminate, hangup] = kinds.map(|kind| Box::pin(stopped_by(kind)));
    Ok(async move {
        let _ = tokio::select! {
            result = interrupt => result,
            result = terminate => result,
            result = hangup => result,
        };
    })
}

fn readable(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(Error::file(path))?;
    std::fs::File::open(&path).map_err(Error::file(&path))?;
    Ok(path)
}

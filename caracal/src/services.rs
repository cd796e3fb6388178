//! All services in one process: one store, one listener each, one way to end.

use crate::cli::UpOptions;
use crate::data::{DataFolder, Secrets};
use crate::error::Error;
use crate::gateway;
use crate::http::Faces;
use axum::Router;
use caracal_audit::Audit;
use caracal_envoy::BootstrapOptions;
use caracal_envoy::xds::{NetworkListener, listen as listen_on_socket};
use caracal_mandate::gateway_signature::{GatewayKey, from_hex};
use caracal_store::Store;
use caracal_store::http::identify_requests;
use caracal_store::keys::ZoneKeys;
use caracal_store::metrics::Service;
use caracal_store::secrets::Vault;
use caracal_store::trace::Traces;
use caracal_sts::Sts;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The resource identifier of the control plane (contract sts §13).
const CONTROL_AUDIENCE: &str = "caracal-control";
/// How often expired rows are forgotten.
const JANITOR: Duration = Duration::from_secs(10);
/// How many rows at a time.
const JANITOR_BATCH: i64 = 1000;

/// Where each service listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) admin: SocketAddr,
    pub(crate) sts: SocketAddr,
    pub(crate) coordinator: SocketAddr,
    pub(crate) audit: SocketAddr,
}

/// The running services.
pub(crate) struct Services {
    pub(crate) addresses: Addresses,
    store: Store,
    tasks: JoinSet<(&'static str, String)>,
    traces: Option<Traces>,
    stop: watch::Sender<bool>,
}

impl Services {
    /// Starts all of them.
    pub(crate) async fn start(
        options: &UpOptions,
        folder: &DataFolder,
        secrets: &Secrets,
    ) -> Result<Self, Error> {
        let traces = options.traces.start(options.egress.extra_ca_file())?;
        let admin = listen("the Admin API", options.bind, options.admin_port).await?;
        let sts = listen("the STS", options.bind, options.sts_port).await?;
        let coordinator = listen("the Coordinator", options.bind, options.coordinator_port).await?;
        let audit = listen("the audit service", options.bind, options.audit_port).await?;
        let addresses = Addresses { admin: admin.1, sts: sts.1, coordinator: coordinator.1, audit: audit.1 };
        let issuer = issuer(options, addresses.sts)?;
        let store = Store::open_file(&folder.file("caracal.db")).await?;
        let routers = Routers::new(options, secrets, &store, issuer).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let faces = Faces::new(&options.http, options.bind)?;
        let audit_router = routers.audit.router().layer(axum::middleware::from_fn(identify_requests));
        for (name, service, (listener, _), router) in [
            ("the Admin API", Service::Admin, admin, routers.admin),
            ("the STS", Service::Sts, sts, routers.sts),
            ("the Coordinator", Service::Coordinator, coordinator, routers.coordinator),
            ("the audit service", Service::Audit, audit, audit_router),
        ] {
            let (stop, faces) = (told(stopped.clone()), faces.clone());
            let mut metrics = faces.metrics(service, &store);
            if service == Service::Coordinator {
                metrics = metrics.with_operator_token(secrets.coordinator_token.clone());
            }
            if service == Service::Sts {
                metrics = caracal_sts::describe_policy(metrics);
            }
            let router = router.merge(metrics.routes());
            let tracer = traces.as_ref().and_then(|traces| traces.tracer(service));
            tasks.spawn(async move { (name, faces.serve(service, listener, router, tracer, stop).await) });
        }
        let ingester = routers.audit_ingester;
        let stop_ingester = told(stopped.clone());
        tasks.spawn(async move {
            ingester.run(stop_ingester).await;
            ("the audit ingester", String::new())
        });
        let notifier = routers.notifier;
        let stop_notifier = told(stopped.clone());
        tasks.spawn(async move {
            notifier.run(stop_notifier).await;
            ("the notifier", String::new())
        });
        let jobs = routers.jobs;
        let stop_jobs = told(stopped.clone());
        tasks.spawn(async move {
            caracal_coordinator::run_jobs(jobs, stop_jobs).await;
            ("the Coordinator's jobs", String::new())
        });
        let sts = routers.sts_jobs;
        let (stop_sts, stop_settings) = (told(stopped.clone()), told(stopped.clone()));
        tasks.spawn(async move {
            tokio::join!(sts.run_jobs(stop_sts), sts.follow_settings(stop_settings));
            ("the STS's jobs", String::new())
        });
        tasks.spawn(janitor(store.clone(), told(stopped)));
        Ok(Self { addresses, store, tasks, traces, stop })
    }

    /// Starts the server that gateways take their configuration from, where they do.
    pub(crate) async fn configure(
        &mut self,
        secrets: &Secrets,
        template: &BootstrapOptions,
        network: Option<NetworkListener>,
        max_streams: NonZeroU16,
    ) -> Result<(), Error> {
        let Some(socket) = gateway::socket(template) else { return Ok(()) };
        let server = gateway::server(&self.store, secrets, template.clone(), network, max_streams).await?;
        let listener = listen_on_socket(socket)?;
        let stop = told(self.stop.subscribe());
        self.tasks.spawn(async move {
            let served = server.serve(listener, stop).await;
            ("the xDS server", served.map_or_else(|error| error.to_string(), |()| String::new()))
        });
        Ok(())
    }

    /// Waits until any of them ends, which none should.
    pub(crate) async fn any_ended(&mut self) -> (&'static str, String) {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => ("a service", error.to_string()),
            None => ("everything", String::new()),
        }
    }

    /// Lets requests that are under way finish, then closes the store and sends what was recorded of them.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.send(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
        self.tasks.shutdown().await;
        self.store.close().await;
        if let Some(traces) = self.traces {
            traces.stop().await;
        }
    }
}

struct Routers {
    admin: Router,
    sts: Router,
    sts_jobs: Sts,
    coordinator: Router,
    audit: Audit,
    audit_ingester: Audit,
    jobs: caracal_coordinator::Config,
    notifier: caracal_admin::Notifier,
}

impl Routers {
    async fn new(
        options: &UpOptions,
        secrets: &Secrets,
        store: &Store,
        issuer: String,
    ) -> Result<Self, Error> {
        let hex = |name: &'static str, text: &str| {
            from_hex(text).ok_or_else(|| Error::Setting { name, why: "is not hexadecimal".into() })
        };
        let hash_key = hex("hashKey", &secrets.hash_key)?;
        let audit_key = hex("auditHmacKey", &secrets.audit_hmac_key)?;
        let vault =
            Vault::new(&secrets.secret_store_key, secrets.secret_store_key_previous.as_deref(), &hash_key)
                .map_err(|error| Error::Setting { name: "secretStoreKek", why: error.to_string() })?;
        let gateway_key = GatewayKey::from_hex(&secrets.gateway_sts_hmac_key)
            .map_err(|error| Error::Setting { name: "gatewayStsHmacKey", why: error.to_string() })?;
        let keys = ZoneKeys::new(store.clone(), vault.clone());
        let egress = options.egress.open()?;
        let notifier =
            caracal_admin::Notifier::new(store.clone(), vault.clone(), audit_key.clone(), egress.clone());
        let sts = Sts::new(caracal_sts::Config {
            store: store.clone(),
            keys: keys.clone(),
            vault: vault.clone(),
            issuer: issuer.clone(),
            gateway_key: gateway_key.clone(),
            mint_limit_per_minute: options.mint_limit,
            control_audience: CONTROL_AUDIENCE.to_owned(),
            max_grant_ttl_seconds: options.max_grant_ttl,
            admin_token: Some(caracal_sts::AdminToken::new(secrets.sts_admin_token.clone())),
            egress,
        });
        if secrets.secret_store_key_previous.is_some() {
            let (secrets, zone_keys) = (sts.providers().reseal().await?, keys.reseal().await?);
            tracing::info!(secrets, zone_keys, "sealed anew; secretStoreKekPrevious can be removed");
        }
        let jobs = caracal_coordinator::Config {
            store: store.clone(),
            keys: keys.clone(),
            issuer,
            operator_token: Some(secrets.coordinator_token.clone()),
            limits: options.coordinator.limits()?,
            counters: caracal_coordinator::Counters::default(),
            groups: caracal_coordinator::Groups::default(),
        };
        let admin = caracal_admin::Config {
            store: store.clone(),
            vault,
            keys,
            admin_token: secrets.admin_token.clone(),
            hmac_key: audit_key.clone(),
            providers: sts.providers().clone(),
        };
        caracal_admin::seed(&admin)
            .await
            .map_err(|error| Error::Setting { name: "adminToken", why: error.to_string() })?;
        let audit = Audit::new(store.clone(), audit_key, gateway_key)
            .with_retention_days(options.http.retention_days());
        Ok(Self {
            admin: caracal_admin::router_with(admin, options.http.admin_limits(options.mint_limit)),
            sts: sts.router(),
            sts_jobs: sts,
            coordinator: caracal_coordinator::limit_addresses(
                caracal_coordinator::router(jobs.clone()),
                options.http.coordinator_rates(),
            ),
            audit_ingester: audit.clone(),
            audit,
            jobs,
            notifier,
        })
    }
}

async fn listen(what: &'static str, ip: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let bind = |source| Error::Bind { what, address: SocketAddr::new(ip, port).to_string(), source };
    let listener = TcpListener::bind((ip, port)).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    Ok((listener, address))
}

/// The issuer: absolute, http or https, no user, query or fragment; used verbatim (contract sts §26.3).
fn issuer(options: &UpOptions, sts: SocketAddr) -> Result<String, Error> {
    let Some(text) = &options.issuer else { return Ok(format!("http://localhost:{}", sts.port())) };
    let wrong = |why: &str| Error::Setting { name: "--issuer", why: format!("{text:?} {why}") };
    let url = reqwest::Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("is no absolute http or https URL"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(wrong("has a user, a query or a fragment"));
    }
    Ok(text.clone())
}

async fn janitor(store: Store, stop: impl Future<Output = ()>) -> (&'static str, String) {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return ("the janitor", String::new()),
            () = tokio::time::sleep(JANITOR) => {}
        }
        if let Err(error) = store.forget_expired(JANITOR_BATCH).await {
            tracing::error!(%error, "expired rows could not be forgotten");
        }
        if let Err(error) = caracal_admin::archive_expired_registrations(&store).await {
            tracing::error!(%error, "expired registrations could not be archived");
        }
    }
}

/// Resolves once the channel says so, or is gone.
async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

//! A static bootstrap: administration, listeners, the singleton, and ways around the filter.

use std::collections::BTreeSet;

use caracal_filter::config::{Config, FeedSource, FilterConfig};

use super::code::Code;
use super::place::Place;
use super::{Report, cluster, manager, plugin};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const CONNECTION_LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";
const SERVICE: &str = "envoy.extensions.wasm.v3.WasmService";
const MAX_BUFFER: u64 = 1024 * 1024;

/// A filter of ours, and the clusters that its connection manager leads to.
pub(crate) struct Guarded<'a> {
    pub(crate) plugin: Place<'a>,
    /// `None` where its configuration is refused.
    pub(crate) filter: Option<FilterConfig>,
    pub(crate) clusters: BTreeSet<String>,
}

/// Judges a bootstrap; tells whether it holds a filter of ours.
pub(crate) fn judge(root: &Place<'_>, report: &mut Report) -> bool {
    judge_admin(root, report);
    let all_limited = monitors_connections(root);
    let (mut guarded, mut open) = (Vec::new(), Vec::new());
    for listener in root.get("static_resources").map(|all| all.items("listeners")).unwrap_or_default() {
        let chains = listener.items("filter_chains").into_iter().chain(listener.get("default_filter_chain"));
        let filters: Vec<_> = chains.flat_map(|chain| chain.items("filters")).collect();
        let before = guarded.len();
        for filter in &filters {
            let found = match filter.typed("typed_config") {
                Some((MANAGER, http)) => manager::judge(&http, report),
                _ => Vec::new(),
            };
            if found.is_empty() {
                open.push(filter.clone());
            }
            guarded.extend(found);
        }
        if guarded.len() > before {
            judge_listener(&listener, &filters, all_limited, report);
        }
    }
    for each in &guarded {
        judge_feed(root, each, report);
        cluster::judge_presence(root, each, report);
    }
    cluster::judge_tls(root, report);
    judge_ways(&guarded, &open, report);
    if guarded.is_empty() {
        report.add(Code::FilterMissing, root);
    }
    // Nothing found is a finding already.
    true
}

fn judge_admin(root: &Place<'_>, report: &mut Report) {
    let Some(address) = root.at(&["admin", "address", "socket_address"]) else { return };
    if !is_loopback(address.text("address").unwrap_or_default()) {
        report.add(Code::AdminExposed, &address);
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn monitors_connections(root: &Place<'_>) -> bool {
    let monitors = root.get("overload_manager").map(|manager| manager.items("resource_monitors"));
    monitors.unwrap_or_default().iter().any(|monitor| {
        monitor.typed("typed_config").is_some_and(|(kind, limit)| {
            kind == CONNECTIONS && limit.get("max_active_downstream_connections").is_some()
        })
    })
}

fn judge_listener(listener: &Place<'_>, filters: &[Place<'_>], all_limited: bool, report: &mut Report) {
    let limited = filters
        .iter()
        .any(|filter| filter.typed("typed_config").is_some_and(|(kind, _)| kind == CONNECTION_LIMIT));
    if !all_limited && !limited {
        report.add(Code::ConnectionLimit, listener);
    }
    // 1 MiB is Envoy's own default.
    if let Some(limit) = listener.get("per_connection_buffer_limit_bytes")
        && limit.value.as_u64().is_none_or(|bytes| bytes == 0 || bytes > MAX_BUFFER)
    {
        report.add(Code::BufferLimit, &limit);
    }
}

/// A filter that does not poll needs a singleton with the same `vm_id`, which is what shares data.
fn judge_feed(root: &Place<'_>, guarded: &Guarded<'_>, report: &mut Report) {
    if guarded.filter.as_ref().is_none_or(|filter| filter.feed != FeedSource::Singleton) {
        return;
    }
    let vm_id = |plugin: &Place<'_>| plugin.get("vm_config")?.text("vm_id").map(str::to_owned);
    let wanted = vm_id(&guarded.plugin);
    let follows = |extension: &Place<'_>| {
        let Some((SERVICE, service)) = extension.typed("typed_config") else { return false };
        let Some(config) = service.get("config") else { return false };
        service.is_true("singleton")
            && vm_id(&config) == wanted
            && matches!(plugin::parse(&config, &mut Report::default()), Some(Config::Feed(_)))
    };
    if !root.items("bootstrap_extensions").iter().any(follows) {
        report.add(Code::FeedMissing, &guarded.plugin);
    }
}

/// Whatever leads to a guarded cluster without a filter of ours.
fn judge_ways(guarded: &[Guarded<'_>], open: &[Place<'_>], report: &mut Report) {
    let clusters: BTreeSet<&str> =
        guarded.iter().flat_map(|each| each.clusters.iter().map(String::as_str)).collect();
    for place in open.iter().flat_map(Place::descendants) {
        let names_cluster = ["cluster", "name"]
            .iter()
            .any(|name| place.text(name).is_some_and(|cluster| clusters.contains(cluster)));
        if names_cluster {
            report.add(Code::WayAround, &place);
        }
    }
}

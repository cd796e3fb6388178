//! Routes: where a request may go, and where the filter may be switched off.

use std::collections::BTreeSet;

use caracal_filter::config::{Binding, FilterConfig, Role};
use caracal_mandate::upstream::CLUSTER_PREFIX;

use super::Report;
use super::code::Code;
use super::manager::judge_upgrades;
use super::place::Place;
use crate::connection_manager::SELECTOR;

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
/// Requests that need no mandate (contract gateway §D2), as exact paths.
const OPERATOR_PATHS: &[&str] =
    &["/health", "/ready", "/metrics", "/metrics.json", "/internal/revocations/reload"];

/// Judges the routes of a connection manager; returns the clusters that mandates lead to.
pub(crate) fn judge(
    manager: &Place<'_>,
    names: &[&str],
    filter: Option<&FilterConfig>,
    report: &mut Report,
) -> BTreeSet<String> {
    let mut clusters = BTreeSet::new();
    let Some(config) = manager.get("route_config") else {
        report.add(Code::RoutesElsewhere, manager);
        return clusters;
    };
    judge_scope(&config, names, report);
    if config.get("vhds").is_some() {
        report.add(Code::RoutesElsewhere, &config);
    }
    for host in config.items("virtual_hosts") {
        judge_scope(&host, names, report);
        if host.get("matcher").is_some() {
            report.add(Code::RoutesElsewhere, &host);
        }
        for route in host.items("routes") {
            if is_operator(&route) {
                continue;
            }
            judge_scope(&route, names, report);
            judge_route(&host, &route, filter, report);
            clusters.extend(leads_to(&route));
        }
    }
    clusters
}

/// Whether this is an exact operator path.
fn is_operator(route: &Place<'_>) -> bool {
    let path = route.get("match").and_then(|matching| matching.text("path"));
    path.is_some_and(|path| OPERATOR_PATHS.contains(&path))
}

/// The filter is not switched off here, nor in one of several weighted clusters.
fn judge_scope(scope: &Place<'_>, names: &[&str], report: &mut Report) {
    let weighted =
        scope.at(&["route", "weighted_clusters"]).map(|all| all.items("clusters")).unwrap_or_default();
    for each in std::iter::once(scope).chain(&weighted) {
        for name in names {
            // The name is a key of a map: it has one spelling.
            let Some(filters) = each.get("typed_per_filter_config") else { continue };
            let Some((FILTER_CONFIG, config)) = filters.typed(name) else { continue };
            if config.is_true("disabled") {
                report.add(Code::FilterDisabled, &config);
            }
        }
    }
}

fn judge_route(host: &Place<'_>, route: &Place<'_>, filter: Option<&FilterConfig>, report: &mut Report) {
    let Some(action) = route.get("route") else { return };
    if let Some(policy) =
        action.get("internal_redirect_policy").or_else(|| action.get("internal_redirect_action"))
    {
        report.add(Code::Redirects, &policy);
    }
    judge_upgrades(&action, filter, report);
    if action.text("timeout").is_none_or(|timeout| timeout != "0s") {
        report.add(Code::RouteTimeout, &action);
    }
    let Some(filter) = filter else { return };
    let names_resource = || route.at(&["metadata", "filter_metadata", "caracal", "resource"]).is_some();
    if filter.binding == Binding::Metadata && !names_resource() {
        report.add(Code::RouteUnbound, route);
    }
    if filter.role == Role::Gateway {
        judge_selector(host, route, &action, report);
    }
}

/// A gateway's filter alone chooses the cluster: without its header a route may lead nowhere.
fn judge_selector(host: &Place<'_>, route: &Place<'_>, action: &Place<'_>, report: &mut Report) {
    let headers = route.get("match").map(|matching| matching.items("headers")).unwrap_or_default();
    let selected = |test: &'static str| {
        headers.iter().find_map(|header| {
            if header.text("name")? != SELECTOR || header.is_true("invert_match") {
                return None;
            }
            header.get("string_match").filter(|test| !test.is_true("ignore_case"))?.text(test)
        })
    };
    let one = selected("exact").is_some_and(|cluster| action.text("cluster") == Some(cluster));
    let of_resources = selected("prefix").is_some_and(|prefix| {
        prefix.starts_with(CLUSTER_PREFIX) && action.text("cluster_header") == Some(SELECTOR)
    });
    if !one && !of_resources {
        report.add(Code::RouteOpen, route);
    }
    let removes = |scope: &Place<'_>| {
        scope.items("request_headers_to_remove").iter().any(|name| name.value == SELECTOR)
    };
    if !removes(route) && !removes(host) {
        report.add(Code::SelectorKept, route);
    }
}

fn leads_to(route: &Place<'_>) -> Vec<String> {
    let Some(action) = route.get("route") else { return Vec::new() };
    let weighted = action.get("weighted_clusters").map(|all| all.items("clusters")).unwrap_or_default();
    let weighted = weighted.iter().filter_map(|cluster| cluster.text("name"));
    action.text("cluster").into_iter().chain(weighted).map(str::to_owned).collect()
}

//! Where somebody else writes Envoy's configuration: Istio's `WasmPlugin` (`extensions.istio.io`) and Envoy Gateway's
//! `EnvoyExtensionPolicy` (`gateway.envoyproxy.io`).

use caracal_filter::config::{Config, FeedSource, FilterConfig};
use serde_json::Value;

use super::Report;
use super::code::Code;
use super::place::Place;
use super::plugin::{is_sha256, parse_text};
use crate::KEY_VARIABLE;

/// Judges a `WasmPlugin`; tells whether it is ours.
pub(crate) fn judge_istio(root: &Place<'_>, report: &mut Report) -> bool {
    let Some(spec) = root.get("spec") else { return false };
    if !is_ours(root, &spec, "plugin_config") {
        return false;
    }
    if spec.is_one_of("fail_strategy", &[("FAIL_OPEN", 1)]) {
        report.add(Code::FailOpen, spec.get("fail_strategy").as_ref().unwrap_or(&spec));
    }
    judge_source(&spec, &spec, report);
    if let Some(kind) =
        spec.get("type").filter(|kind| kind.value != "HTTP" && kind.value != "UNSPECIFIED_PLUGIN_TYPE")
    {
        report.detail(Code::FilterMissing, &kind, "the module is an HTTP filter");
    }
    for client in spec.items("match").into_iter().filter(|each| each.is_one_of("mode", &[("CLIENT", 1)])) {
        report.detail(Code::WayAround, &client, "only what the workload itself calls is matched");
    }
    judge_istio_key(&spec, report);
    if let Some(filter) = told(&spec, "plugin_config", report) {
        judge_clusters(&spec, &filter, report);
    }
    true
}

fn judge_istio_key(spec: &Place<'_>, report: &mut Report) {
    let variables = spec.get("vm_config").map(|vm| vm.items("env")).unwrap_or_default();
    match variables.iter().find(|variable| variable.text("name") == Some(KEY_VARIABLE)) {
        None => report.add(Code::KeyMissing, spec),
        Some(key) if key.get("value").is_some() => report.add(Code::KeyExposed, key),
        Some(key) if !key.is_one_of("value_from", &[("HOST", 1)]) => report.add(Code::KeyMissing, key),
        Some(_) => {}
    }
}

/// Istio names clusters after direction, port and host.
fn judge_clusters(spec: &Place<'_>, filter: &FilterConfig, report: &mut Report) {
    for cluster in [&filter.sts.cluster, &filter.audit.server.cluster] {
        if cluster.split('|').count() != 4 {
            report.detail(Code::ClusterMissing, spec, cluster);
        }
    }
}

/// Judges an `EnvoyExtensionPolicy`; tells whether one of its modules is ours.
pub(crate) fn judge_envoy_gateway(root: &Place<'_>, report: &mut Report) -> bool {
    let Some(spec) = root.get("spec") else { return false };
    let modules = spec.items("wasm");
    let Some(at) = modules.iter().position(|module| is_ours(root, module, "config")) else { return false };
    // Modules run in the order of the list.
    for later in modules.iter().skip(at.saturating_add(1)) {
        report.add(Code::FilterOrder, later);
    }
    let Some(ours) = modules.get(at) else { return false };
    if ours.is_true("fail_open") {
        report.add(Code::FailOpen, ours.get("fail_open").as_ref().unwrap_or(ours));
    }
    match ours.get("code") {
        Some(code) => {
            for source in [code.get("http"), code.get("image")].into_iter().flatten() {
                judge_source(&source, &source, report);
            }
        }
        None => report.add(Code::FilterMissing, ours),
    }
    let keys = ours.get("env").map(|env| env.items("host_keys")).unwrap_or_default();
    if !keys.iter().any(|key| key.value == KEY_VARIABLE) {
        report.add(Code::KeyMissing, ours);
    }
    told(ours, "config", report);
    true
}

/// Whether this is about us: by its name, or by what the module is told.
fn is_ours(root: &Place<'_>, module: &Place<'_>, configuration: &str) -> bool {
    let named = [root.get("metadata").and_then(|metadata| metadata.text("name")), module.text("name")];
    let named = named.into_iter().flatten().any(|name| name.contains("caracal"));
    let told = module.get(configuration).is_some_and(|config| config.get("gateway_id").is_some());
    named || told
}

/// The module's code is a file in the proxy's image, or has a digest.
fn judge_source(source: &Place<'_>, report_at: &Place<'_>, report: &mut Report) {
    let url = source.text("url").unwrap_or_default();
    let by_url = url.starts_with("file://")
        || url.rsplit_once("@sha256:").is_some_and(|(_, digest)| is_sha256(digest));
    if !by_url && !source.text("sha256").is_some_and(is_sha256) {
        report.add(Code::CodeUnpinned, report_at);
    }
}

/// What the module is told. There is no singleton here, so that workers have to follow the feed.
fn told(module: &Place<'_>, name: &str, report: &mut Report) -> Option<FilterConfig> {
    let Some(config) = module.get(name) else {
        report.detail(Code::PluginConfiguration, module, format!("{name} is missing"));
        return None;
    };
    let text = match config.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match parse_text(&config, &text, report)? {
        Config::Filter(filter) => {
            if filter.feed == FeedSource::Singleton {
                report.add(Code::FeedMissing, &config);
            }
            // Neither resource has a field for what reading needs.
            if filter.mcp {
                report.add(Code::McpBodies, &config);
            }
            Some(*filter)
        }
        Config::Feed(_) => {
            report.detail(Code::PluginConfiguration, &config, "this is the singleton's, not the filter's");
            None
        }
    }
}

//! The module in an Envoy configuration: `envoy.extensions.wasm.v3.PluginConfig`, wherever it stands.

use caracal_filter::config::{Config, FilterConfig};
use serde_json::Value;

use super::Report;
use super::code::Code;
use super::place::Place;
use crate::KEY_VARIABLE;

/// The plugins in a document that are ours.
pub(crate) fn find<'a>(root: &Place<'a>) -> Vec<Place<'a>> {
    root.descendants().into_iter().filter(is_ours).collect()
}

/// Whether this is a plugin's configuration and the plugin is ours: by name, or by what it is told.
pub(crate) fn is_ours(plugin: &Place<'_>) -> bool {
    let named = ["name", "root_id"]
        .iter()
        .any(|name| plugin.text(name).is_some_and(|name| name.to_ascii_lowercase().contains("caracal")));
    let told = || told(plugin).is_some_and(|(_, text)| text.contains("\"gateway_id\""));
    plugin.get("vm_config").is_some() && (named || told())
}

/// Judges one.
pub(crate) fn judge(plugin: &Place<'_>, report: &mut Report) {
    let open = plugin.is_one_of("failure_policy", &[("FAIL_OPEN", 3)]);
    if open || plugin.is_true("fail_open") {
        report.add(
            Code::FailOpen,
            plugin.get(if open { "failure_policy" } else { "fail_open" }).as_ref().unwrap_or(plugin),
        );
    } else if !plugin.is_one_of("failure_policy", &[("FAIL_RELOAD", 1), ("FAIL_CLOSED", 2)]) {
        report.add(Code::FailurePolicy, plugin);
    }
    if let Some(vm) = plugin.get("vm_config") {
        judge_vm(&vm, report);
    }
    let reads = matches!(parse(plugin, report), Some(Config::Filter(filter)) if filter.mcp);
    match (plugin.is_true("allow_on_headers_stop_iteration"), reads) {
        (true, false) => report.add(Code::HeadersStopIteration, plugin),
        (false, true) => report.add(Code::McpBodies, plugin),
        (true, true) | (false, false) => {}
    }
}

fn judge_vm(vm: &Place<'_>, report: &mut Report) {
    if vm.text("runtime") != Some("envoy.wasm.runtime.v8") {
        report.add(Code::Runtime, vm);
    }
    if let Some(remote) = vm.at(&["code", "remote"])
        && remote.text("sha256").is_none_or(|digest| !is_sha256(digest))
    {
        report.add(Code::CodeUnpinned, &remote);
    }
    if let Some(key) = vm.at(&["environment_variables", "key_values", KEY_VARIABLE]) {
        report.add(Code::KeyExposed, &key);
    } else if !hands_key_on(vm) {
        report.add(Code::KeyMissing, vm);
    }
}

fn hands_key_on(vm: &Place<'_>) -> bool {
    let keys = vm.get("environment_variables").map(|variables| variables.items("host_env_keys"));
    keys.is_some_and(|keys| keys.iter().any(|key| key.value == KEY_VARIABLE))
}

/// Whether this is a SHA-256 in hex.
pub(crate) fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the plugin is told, as text, and where that stands.
fn told<'a>(plugin: &Place<'a>) -> Option<(Place<'a>, String)> {
    let (kind, configuration) = plugin.typed("configuration")?;
    let value = configuration.get("value").unwrap_or(configuration);
    let text = match (kind, value.value) {
        ("google.protobuf.StringValue", Value::String(text)) => text.clone(),
        ("google.protobuf.Struct", Value::Object(_)) => value.value.to_string(),
        _ => return None,
    };
    Some((value, text))
}

/// What the plugin is told, read by the filter itself.
pub(crate) fn parse(plugin: &Place<'_>, report: &mut Report) -> Option<Config> {
    match told(plugin) {
        Some((place, text)) => parse_text(&place, &text, report),
        None => {
            report.detail(
                Code::PluginConfiguration,
                plugin,
                "configuration is neither StringValue nor Struct",
            );
            None
        }
    }
}

/// The filter's configuration as text, read by the filter itself.
pub(crate) fn parse_text(place: &Place<'_>, text: &str, report: &mut Report) -> Option<Config> {
    match Config::parse(text.as_bytes()) {
        Ok(config) => {
            if let Config::Filter(filter) = &config {
                judge_filter(place, filter, report);
            }
            Some(config)
        }
        Err(error) => {
            report.detail(Code::PluginConfiguration, place, error);
            None
        }
    }
}

fn judge_filter(place: &Place<'_>, filter: &FilterConfig, report: &mut Report) {
    if filter.dry_run {
        report.add(Code::DryRun, place);
    }
    if !filter.audit.deny_on_backlog {
        report.add(Code::EvidenceOptional, place);
    }
}

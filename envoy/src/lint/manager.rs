//! The HTTP connection manager: its limits, and what stands before and behind the filter.

use std::collections::BTreeSet;

use caracal_filter::config::{Clusters, Config, FilterConfig, Role};
use serde_json::Value;

use super::bootstrap::Guarded;
use super::code::Code;
use super::place::Place;
use super::{Report, plugin, route};
use crate::connection_manager::RESTRICTED;

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const JWT_AUTHN: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const FORWARD_PROXY: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// What a setting has to be.
enum Must {
    /// Set.
    BeTrue,
    /// Not set.
    NotBeTrue,
    /// There, and no more than this.
    BeAtMost(u64),
    /// No more than this, where it is there.
    BeAtMostIfThere(u64),
    /// One of these.
    BeOneOf(&'static [(&'static str, u64)]),
    /// None of these.
    NotBeOneOf(&'static [(&'static str, u64)]),
    /// There, and not zero seconds.
    BeBounded,
    /// Not zero seconds, where it is there.
    BeBoundedIfThere,
}

/// Contract gateway §D4, and the time limits of §D2.
const SETTINGS: &[(&[&str], Must, Code)] = &[
    (&["use_remote_address"], Must::BeTrue, Code::RemoteAddress),
    (&["normalize_path"], Must::NotBeTrue, Code::PathRewriting),
    (&["merge_slashes"], Must::NotBeTrue, Code::PathRewriting),
    (
        &["path_with_escaped_slashes_action"],
        Must::NotBeOneOf(&[("UNESCAPE_AND_REDIRECT", 3), ("UNESCAPE_AND_FORWARD", 4)]),
        Code::PathRewriting,
    ),
    (
        &["common_http_protocol_options", "headers_with_underscores_action"],
        Must::BeOneOf(&[("REJECT_REQUEST", 1)]),
        Code::Underscores,
    ),
    (&["max_request_headers_kb"], Must::BeAtMost(16), Code::HeaderLimits),
    (&["common_http_protocol_options", "max_headers_count"], Must::BeAtMostIfThere(100), Code::HeaderLimits),
    (&["http2_protocol_options", "max_concurrent_streams"], Must::BeAtMost(100), Code::StreamLimit),
    (&["request_headers_timeout"], Must::BeBounded, Code::RequestTimeouts),
    (&["request_timeout"], Must::BeBounded, Code::RequestTimeouts),
    (&["stream_idle_timeout"], Must::BeBoundedIfThere, Code::RequestTimeouts),
    (&["preserve_external_request_id"], Must::BeTrue, Code::RequestId),
    (&["always_set_request_id_in_response"], Must::BeTrue, Code::RequestId),
    (&["server_header_transformation"], Must::BeOneOf(&[("PASS_THROUGH", 2)]), Code::ServerHeader),
    (&["http_protocol_options", "allow_chunked_length"], Must::NotBeTrue, Code::ChunkedLength),
    (&["stream_error_on_invalid_http_message"], Must::NotBeTrue, Code::InvalidMessages),
    (
        &["http_protocol_options", "override_stream_error_on_invalid_http_message"],
        Must::NotBeTrue,
        Code::InvalidMessages,
    ),
];

/// Judges one that holds a filter of ours, and returns those; others are left alone.
pub(crate) fn judge<'a>(manager: &Place<'a>, report: &mut Report) -> Vec<Guarded<'a>> {
    let filters = manager.items("http_filters");
    let ours: Vec<(usize, Place<'a>)> =
        filters.iter().enumerate().filter_map(|(at, filter)| Some((at, our_plugin(filter)?))).collect();
    if ours.is_empty() {
        return Vec::new();
    }
    judge_settings(manager, report);
    let names: Vec<&str> = ours.iter().filter_map(|(at, _)| filters.get(*at)?.text("name")).collect();
    let mut guarded = Vec::new();
    for (at, plugin) in ours {
        let filter = match plugin::parse(&plugin, &mut Report::default()) {
            Some(Config::Filter(filter)) => Some(*filter),
            Some(Config::Feed(_)) => {
                report.detail(
                    Code::PluginConfiguration,
                    &plugin,
                    "this is the singleton's, not the filter's",
                );
                None
            }
            None => None,
        };
        judge_chain(&filters, at, filter.as_ref(), report);
        if filter.as_ref().is_some_and(|filter| filter.role == Role::Gateway)
            && !manager.is_true("skip_xff_append")
        {
            report.add(Code::XffAppend, manager);
        }
        judge_upgrades(manager, filter.as_ref(), report);
        let clusters = route::judge(manager, &names, filter.as_ref(), report);
        guarded.push(Guarded { plugin, filter, clusters });
    }
    guarded
}

fn our_plugin<'a>(filter: &Place<'a>) -> Option<Place<'a>> {
    let (WASM, wasm) = filter.typed("typed_config")? else { return None };
    wasm.get("config").filter(plugin::is_ours)
}

fn judge_settings(manager: &Place<'_>, report: &mut Report) {
    for (names, must, code) in SETTINGS {
        let place = manager.at(names);
        if !must.holds(place.as_ref()) {
            report.detail(*code, place.as_ref().unwrap_or(manager), names.join("."));
        }
    }
    let mapped = manager.get("local_reply_config").is_some_and(|config| {
        config.items("mappers").iter().any(|mapper| mapper.value.to_string().contains("wasm_fail_stream"))
    });
    if !mapped {
        report.add(Code::LocalReply, manager);
    }
}

impl Must {
    fn holds(&self, place: Option<&Place<'_>>) -> bool {
        let set = place.is_some_and(|place| place.value == &Value::Bool(true) || place.value == "true");
        let at_most =
            |most: u64| place.is_some_and(|place| number(place.value).is_some_and(|given| given <= most));
        let one_of = |values: &[(&str, u64)]| {
            place.is_some_and(|place| {
                values.iter().any(|(name, id)| place.value == *name || place.value.as_u64() == Some(*id))
            })
        };
        let bounded = place.is_some_and(|place| {
            let seconds = place.value.as_str().and_then(|text| text.strip_suffix('s')?.parse::<f64>().ok());
            seconds.is_some_and(|seconds| seconds > 0.0)
        });
        match self {
            Self::BeTrue => set,
            Self::NotBeTrue => !set,
            Self::BeAtMost(most) => at_most(*most),
            Self::BeAtMostIfThere(most) => place.is_none() || at_most(*most),
            Self::BeOneOf(values) => one_of(values),
            Self::NotBeOneOf(values) => !one_of(values),
            Self::BeBounded => bounded,
            Self::BeBoundedIfThere => place.is_none() || bounded,
        }
    }
}

/// Envoy takes numbers as text too.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Envoy lets nothing upgrade but what the filter is told of, and through no other filters.
pub(super) fn judge_upgrades(scope: &Place<'_>, filter: Option<&FilterConfig>, report: &mut Report) {
    for upgrade in scope.items("upgrade_configs") {
        let protocol = upgrade.text("upgrade_type").unwrap_or_default().to_ascii_lowercase();
        let governed = filter.is_some_and(|filter| filter.upgrades.contains(&protocol));
        if !governed || !upgrade.items("filters").is_empty() || upgrade.get("connect_config").is_some() {
            report.add(Code::Upgrades, &upgrade);
        }
    }
}

/// What stands before and behind the filter.
fn judge_chain(filters: &[Place<'_>], at: usize, filter: Option<&FilterConfig>, report: &mut Report) {
    if let Some(ours) = filters.get(at).filter(|ours| ours.is_true("disabled")) {
        report.add(Code::FilterDisabled, ours);
    }
    let mut guard = Guard::default();
    let trusted = filter.and_then(|filter| filter.jwt_authn_payload.as_ref());
    let mut providers = 0;
    for (position, each) in filters.iter().enumerate().filter(|(position, _)| *position != at) {
        let (kind, config) = each.typed("typed_config").unwrap_or(("", each.clone()));
        match kind {
            JWT_AUTHN if position < at => {
                providers += judge_jwt_authn(&config, filter, report);
            }
            _ if position < at && trusted.is_some() && writes_as_jwt_authn(&config) => {
                report.add(Code::JwtAuthnTrust, each);
            }
            ROUTER if position > at && config.is_true("suppress_envoy_headers") => {}
            ROUTER if position > at => report.add(Code::EnvoyHeaders, &config),
            FORWARD_PROXY if position > at => guard.resolves(&config),
            RBAC if position > at => guard.denies(&config),
            FORWARD_PROXY => report.add(Code::FilterOrder, each),
            _ if position > at => report.add(Code::FilterOrder, each),
            _ => {}
        }
    }
    if let (Some(_), Some(ours)) = (trusted, filters.get(at)) {
        match providers {
            0 => report.add(Code::JwtAuthnMissing, ours),
            1 => {}
            _ => report.add(Code::JwtAuthnTrust, ours),
        }
    }
    // Whoever makes the clusters of resources judges their addresses; a cluster that goes where the request says does not.
    let resolves =
        |filter: &FilterConfig| filter.role == Role::Gateway && filter.clusters == Clusters::Scheme;
    if let (true, Some(ours)) = (filter.is_some_and(resolves) || guard.there, filters.get(at)) {
        guard.judge(ours, report);
    }
}

/// Returns how many of the providers leave a payload where the filter looks.
fn judge_jwt_authn(config: &Place<'_>, filter: Option<&FilterConfig>, report: &mut Report) -> usize {
    let mut believed = 0;
    for provider in config.get("providers").map(|providers| providers.children()).unwrap_or_default() {
        if !provider.is_true("forward") {
            report.add(Code::BearerRemoved, &provider);
        }
        let Some(payload) = filter.and_then(|filter| filter.jwt_authn_payload.as_deref()) else { continue };
        if provider.text("payload_in_metadata") != Some(payload) {
            continue;
        }
        believed += 1;
        // Without an issuer, tokens of any are taken.
        if provider.text("issuer").is_none_or(str::is_empty) {
            report.add(Code::JwtAuthnTrust, &provider);
        }
    }
    believed
}

/// Whether a filter may write metadata in the name of `jwt_authn`.
fn writes_as_jwt_authn(config: &Place<'_>) -> bool {
    config.descendants().iter().any(|place| place.value == "envoy.filters.http.jwt_authn")
}

/// What a gateway does with the addresses that names resolve to.
#[derive(Default)]
struct Guard {
    /// Whether names are resolved while a request waits.
    there: bool,
    saves_address: bool,
    denied: BTreeSet<(String, u64)>,
}

impl Guard {
    fn resolves(&mut self, config: &Place<'_>) {
        self.there = true;
        self.saves_address |= config.is_true("save_upstream_address");
    }

    /// Takes note of the networks that are denied on every port. The address is known only behind the resolution.
    fn denies(&mut self, config: &Place<'_>) {
        let deny = config.get("rules").is_some_and(|rules| rules.is_one_of("action", &[("DENY", 1)]));
        if !deny || !self.saves_address {
            return;
        }
        for matcher in config.descendants().iter().filter(|place| place.get("upstream_port_range").is_none())
        {
            let Some(network) = matcher.get("upstream_ip") else { continue };
            let length = network.get("prefix_len").and_then(|length| number(length.value)).unwrap_or(0);
            self.denied.insert((network.text("address_prefix").unwrap_or_default().to_owned(), length));
        }
    }

    fn judge(&self, filter: &Place<'_>, report: &mut Report) {
        let missing: Vec<String> = RESTRICTED
            .iter()
            .filter(|(prefix, length)| !self.denied.contains(&((*prefix).to_owned(), u64::from(*length))))
            .map(|(prefix, length)| format!("{prefix}/{length}"))
            .collect();
        if !missing.is_empty() {
            report.detail(Code::AddressGuard, filter, format!("not denied: {}", missing.join(", ")));
        }
    }
}

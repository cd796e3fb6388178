//! Clusters: those that the filter calls are there, and TLS verifies whom it reaches.

use caracal_filter::config::{Clusters, Role};

use super::Report;
use super::bootstrap::Guarded;
use super::code::Code;
use super::place::Place;

const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const OLD: &[(&str, u64)] = &[("TLSv1_0", 1), ("TLSv1_1", 2)];

/// The clusters that the filter calls, or sends requests to, are there.
pub(crate) fn judge_presence(root: &Place<'_>, guarded: &Guarded<'_>, report: &mut Report) {
    let elsewhere =
        ["cds_config", "ads_config"].iter().any(|name| root.at(&["dynamic_resources", name]).is_some());
    let Some(filter) = guarded.filter.as_ref().filter(|_| !elsewhere) else { return };
    let mut wanted = vec![&filter.sts.cluster, &filter.audit.server.cluster];
    if filter.role == Role::Gateway && filter.clusters == Clusters::Scheme {
        wanted.extend([&filter.plain_cluster, &filter.tls_cluster]);
    }
    let present = clusters(root);
    for name in wanted {
        if !present.iter().any(|cluster| cluster.text("name") == Some(name)) {
            report.detail(Code::ClusterMissing, &guarded.plugin, name);
        }
    }
}

fn clusters<'a>(root: &Place<'a>) -> Vec<Place<'a>> {
    root.get("static_resources").map(|all| all.items("clusters")).unwrap_or_default()
}

/// TLS towards upstreams and from callers.
pub(crate) fn judge_tls(root: &Place<'_>, report: &mut Report) {
    for cluster in clusters(root) {
        let matches = cluster.items("transport_socket_matches").into_iter();
        let matches = matches.filter_map(|each| each.get("transport_socket"));
        for socket in cluster.get("transport_socket").into_iter().chain(matches) {
            if let Some((UPSTREAM, tls)) = socket.typed("typed_config") {
                judge_upstream(&cluster, &tls, report);
            }
        }
    }
    for place in root.descendants() {
        if place.is_one_of("tls_minimum_protocol_version", OLD)
            || place.is_one_of("tls_maximum_protocol_version", OLD)
        {
            report.add(Code::TlsVersion, &place);
        }
    }
}

fn judge_upstream(cluster: &Place<'_>, tls: &Place<'_>, report: &mut Report) {
    let contexts = validation(tls);
    let has = |name: &str| contexts.iter().any(|context| context.get(name).is_some());
    let pinned = has("verify_certificate_spki") || has("verify_certificate_hash");
    // Certificates from SDS and validators of one's own hold what this file does not.
    let delegated = has("custom_validator_config")
        || tls.at(&["common_tls_context", "validation_context_sds_secret_config"]).is_some()
        || tls.at(&["common_tls_context", "combined_validation_context"]).is_some();
    let untrusted = |context: &Place<'_>| {
        context.is_one_of("trust_chain_verification", &[("ACCEPT_UNTRUSTED", 1)])
            || context.is_true("allow_expired_certificate")
    };
    let chain = has("trusted_ca") || has("system_root_certs") || pinned || delegated;
    if !chain || contexts.iter().any(untrusted) {
        report.add(Code::UpstreamUnverified, tls);
        return;
    }
    let options = cluster.get("typed_extension_protocol_options").map(|options| options.descendants());
    let by_options = options.unwrap_or_default().iter().any(|place| place.is_true("auto_san_validation"));
    let by_socket = tls.is_true("auto_sni_san_validation")
        || has("match_typed_subject_alt_names")
        || has("match_subject_alt_names");
    let by_validator = pinned || has("custom_validator_config");
    if !(by_options || by_socket || by_validator) {
        report.add(Code::UpstreamNames, tls);
    }
}

fn validation<'a>(tls: &Place<'a>) -> Vec<Place<'a>> {
    let common = |names: &[&str]| tls.get("common_tls_context").and_then(|common| common.at(names));
    [common(&["validation_context"]), common(&["combined_validation_context", "default_validation_context"])]
        .into_iter()
        .flatten()
        .collect()
}

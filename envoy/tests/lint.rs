//! What the lint refuses, one case or more for each code (contract gateway §D4), and that what we render passes.

// Helpers of tests may fail loudly, like the tests themselves.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;

use caracal_envoy::lint::{Code, Finding, LintError, lint};
use caracal_envoy::{
    BootstrapOptions, Endpoint, FeedSource, GatewayOptions, KEY_VARIABLE, OnBacklog, Shape, SidecarOptions,
    render,
};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use serde_json::{Value, json};

fn options(shape: Shape) -> BootstrapOptions {
    BootstrapOptions::new(GatewayId::new("gateway-1").unwrap(), shape, "/opt/caracal/filter.wasm".into())
}

fn gateway() -> Value {
    render(&options(Shape::Gateway(GatewayOptions::default())))
}

fn sidecar_options() -> BootstrapOptions {
    options(Shape::Sidecar(SidecarOptions {
        zone: ZoneId::new("z1").unwrap(),
        resource: ResourceIdentifier::new("resource://orders").unwrap(),
        upstream: Endpoint::new("orders.internal", 9000),
        forward_mandate: false,
        dry_run: false,
    }))
}

fn sidecar() -> Value {
    render(&sidecar_options())
}

fn websocket() -> Value {
    let mut options = sidecar_options();
    options.upgrades = vec!["websocket".into()];
    render(&options)
}

/// What a module is told where workers follow the feed.
fn told() -> Value {
    json!({
        "role": "resource", "feed": "worker", "gateway_id": "mesh-1",
        "binding": {"fixed": {"zone": "z1", "resource": "resource://orders"}},
        "sts": {"cluster": "outbound|8080||sts.caracal.svc.cluster.local"},
        "audit": {"cluster": "outbound|9090||audit.caracal.svc.cluster.local"},
    })
}

fn istio() -> Value {
    json!({
        "apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": {"name": "caracal"},
        "spec": {
            "url": "oci://registry.example/caracal/filter:1", "sha256": "a".repeat(64), "failStrategy": "FAIL_RELOAD",
            "vmConfig": {"env": [{"name": KEY_VARIABLE, "valueFrom": "HOST"}]},
            "pluginConfig": told(),
        },
    })
}

fn envoy_gateway() -> Value {
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyExtensionPolicy", "metadata": {"name": "caracal"},
        "spec": {"wasm": [{
            "name": "caracal",
            "code": {"type": "Image", "image": {"url": "registry.example/caracal/filter:1", "sha256": "a".repeat(64)}},
            "env": {"hostKeys": [KEY_VARIABLE]},
            "config": told(),
        }]},
    })
}

fn found(document: &Value) -> Vec<Finding> {
    lint(&document.to_string()).unwrap()
}

#[test]
fn what_we_render_passes() {
    let mut workers = sidecar_options();
    workers.feed = FeedSource::Workers;
    let mut reads = sidecar_options();
    reads.mcp = true;
    for good in [
        gateway(),
        sidecar(),
        behind_jwt_authn(),
        websocket(),
        render(&workers),
        render(&reads),
        istio(),
        envoy_gateway(),
    ] {
        assert_eq!(found(&good), []);
    }
}

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// Where a case is made: a pointer below the document, or with `~` below the connection manager.
fn place<'a>(document: &'a mut Value, pointer: &str) -> &'a mut Value {
    let pointer = pointer.strip_prefix('~').map_or(pointer.to_owned(), |rest| format!("{MANAGER}{rest}"));
    match pointer.rsplit_once('/') {
        Some((above, key)) => {
            let parent = document.pointer_mut(above).unwrap_or_else(|| panic!("no {above}"));
            match parent {
                Value::Array(items) => {
                    let index: usize = key.parse().unwrap();
                    if index == items.len() {
                        items.push(Value::Null);
                    }
                    &mut items[index]
                }
                _ => &mut parent[key],
            }
        }
        None => document,
    }
}

const PLUGIN: &str = "~/http_filters/0/typed_config/config";
const ROUTES: &str = "~/route_config/virtual_hosts/0/routes";

/// The document with each change made: where, and what is put there (`null` takes it away).
fn changed(mut document: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let pointer =
            pointer.replace("PLUGIN", PLUGIN).replace("ROUTES", ROUTES).replace("PROVIDER", PROVIDER);
        *place(&mut document, &pointer) = value.clone();
    }
    document
}

fn behind_jwt_authn() -> Value {
    let mut document = sidecar();
    let filters = document.pointer_mut(&format!("{MANAGER}/http_filters")).unwrap().as_array_mut().unwrap();
    let told = filters[0].pointer_mut("/typed_config/config/configuration/value").unwrap();
    let mut changed: Value = serde_json::from_str(told.as_str().unwrap()).unwrap();
    changed["jwt_authn_payload"] = json!("caracal");
    *told = json!(changed.to_string());
    let mut jwt_authn = other_filter("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication");
    jwt_authn["typed_config"]["providers"] =
        json!({"caracal": {"issuer": "http://sts", "forward": true, "payload_in_metadata": "caracal"}});
    filters.insert(0, jwt_authn);
    document
}

/// The same behind a filter that takes metadata from headers of the caller.
fn behind_another_writer() -> Value {
    let mut document = behind_jwt_authn();
    let filters = document.pointer_mut(&format!("{MANAGER}/http_filters")).unwrap().as_array_mut().unwrap();
    let mut writer = other_filter("envoy.extensions.filters.http.header_to_metadata.v3.Config");
    writer["typed_config"]["request_rules"] = json!([{"header": "x", "on_header_present": {"metadata_namespace": "envoy.filters.http.jwt_authn", "key": "caracal"}}]);
    filters.insert(0, writer);
    document
}

const PROVIDER: &str = "~/http_filters/0/typed_config/providers/caracal";

fn told_text(change: impl FnOnce(&mut Value)) -> Value {
    let mut told = told();
    told["sts"]["cluster"] = json!("sts");
    told["audit"]["cluster"] = json!("audit");
    change(&mut told);
    json!(told.to_string())
}

fn tls(context: Value) -> Value {
    json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": context,
    }})
}

fn disabled() -> Value {
    json!({"caracal": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}})
}

fn other_filter(kind: &str) -> Value {
    json!({"name": "other", "typed_config": {"@type": format!("type.googleapis.com/{kind}")}})
}

/// A mistake: its code, the document, and what is changed in it.
type Case = (&'static str, fn() -> Value, Vec<(&'static str, Value)>);

fn plugin_cases() -> Vec<Case> {
    vec![
        ("fail_open", sidecar, vec![("PLUGIN/failure_policy", json!("FAIL_OPEN"))]),
        ("fail_open", sidecar, vec![("PLUGIN/failure_policy", json!(3))]),
        (
            "fail_open",
            sidecar,
            vec![("PLUGIN/failure_policy", json!(null)), ("PLUGIN/failOpen", json!(true))],
        ),
        (
            "fail_open",
            gateway,
            vec![("/bootstrap_extensions/0/typed_config/config/failure_policy", json!("FAIL_OPEN"))],
        ),
        ("failure_policy", sidecar, vec![("PLUGIN/failure_policy", json!(null))]),
        ("failure_policy", sidecar, vec![("PLUGIN/failure_policy", json!("UNSPECIFIED"))]),
        ("headers_stop_iteration", sidecar, vec![("PLUGIN/allow_on_headers_stop_iteration", json!(true))]),
        (
            "mcp_bodies",
            sidecar,
            vec![("PLUGIN/configuration/value", told_text(|told| told["mcp"] = json!(true)))],
        ),
        ("runtime", sidecar, vec![("PLUGIN/vm_config/runtime", json!("envoy.wasm.runtime.wamr"))]),
        ("code_unpinned", sidecar, vec![("PLUGIN/vm_config/code", json!({"remote": {"http_uri": {}}}))]),
        ("key_missing", sidecar, vec![("PLUGIN/vm_config/environment_variables", json!(null))]),
        (
            "key_exposed",
            sidecar,
            vec![("PLUGIN/vm_config/environment_variables", json!({"key_values": {KEY_VARIABLE: "00"}}))],
        ),
        ("plugin_configuration", sidecar, vec![("PLUGIN/configuration/value", json!("{\"rolle\": 1}"))]),
        ("plugin_configuration", sidecar, vec![("PLUGIN/configuration", json!(null))]),
        (
            "dry_run",
            sidecar,
            vec![("PLUGIN/configuration/value", told_text(|told| told["dry_run"] = json!(true)))],
        ),
        (
            "evidence_optional",
            sidecar,
            vec![(
                "PLUGIN/configuration/value",
                told_text(|told| told["audit"]["on_backlog"] = json!("allow")),
            )],
        ),
        ("jwt_authn_missing", behind_jwt_authn, vec![("PROVIDER/payload_in_metadata", json!("other"))]),
        ("jwt_authn_missing", behind_jwt_authn, vec![("~/http_filters/0/typed_config", json!(null))]),
        ("jwt_authn_trust", behind_jwt_authn, vec![("PROVIDER/issuer", json!(null))]),
        (
            "jwt_authn_trust",
            behind_jwt_authn,
            vec![(
                "~/http_filters/0/typed_config/providers/other",
                json!({"issuer": "http://other", "forward": true, "payload_in_metadata": "caracal"}),
            )],
        ),
        ("jwt_authn_trust", behind_another_writer, vec![]),
        ("feed_missing", sidecar, vec![("/bootstrap_extensions", json!(null))]),
        ("feed_missing", sidecar, vec![("PLUGIN/vm_config/vm_id", json!("another"))]),
        ("feed_missing", sidecar, vec![("/bootstrap_extensions/0/typed_config/singleton", json!(false))]),
        ("cluster_missing", sidecar, vec![("/static_resources/clusters/0/name", json!("other"))]),
        ("cluster_missing", gateway, vec![("/static_resources/clusters/3/name", json!("other"))]),
    ]
}

fn manager_cases() -> Vec<Case> {
    let lua = "envoy.extensions.filters.http.lua.v3.Lua";
    let jwt = json!({"name": "jwt", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"caracal": {"issuer": "https://sts"}},
    }});
    let filters = sidecar().pointer(&format!("{MANAGER}/http_filters")).unwrap().clone();
    let behind = json!([filters[0], other_filter(lua), filters[1]]);
    let before = json!([jwt, filters[0], filters[1]]);
    vec![
        ("remote_address", sidecar, vec![("~/use_remote_address", json!(null))]),
        ("xff_append", gateway, vec![("~/skip_xff_append", json!(null))]),
        ("path_rewriting", sidecar, vec![("~/normalize_path", json!(true))]),
        ("path_rewriting", sidecar, vec![("~/merge_slashes", json!(true))]),
        ("path_rewriting", sidecar, vec![("~/path_with_escaped_slashes_action", json!(4))]),
        (
            "underscores",
            sidecar,
            vec![("~/common_http_protocol_options/headers_with_underscores_action", json!("ALLOW"))],
        ),
        ("header_limits", sidecar, vec![("~/max_request_headers_kb", json!(null))]),
        ("header_limits", sidecar, vec![("~/common_http_protocol_options/max_headers_count", json!(1000))]),
        ("stream_limit", sidecar, vec![("~/http2_protocol_options/max_concurrent_streams", json!(null))]),
        ("request_timeouts", sidecar, vec![("~/request_headers_timeout", json!("0s"))]),
        ("request_timeouts", sidecar, vec![("~/request_timeout", json!(null))]),
        ("request_timeouts", sidecar, vec![("~/stream_idle_timeout", json!("0s"))]),
        ("request_id", sidecar, vec![("~/preserve_external_request_id", json!(false))]),
        ("server_header", sidecar, vec![("~/server_header_transformation", json!(null))]),
        ("upgrades", sidecar, vec![("~/upgrade_configs", json!([{"upgrade_type": "websocket"}]))]),
        ("upgrades", sidecar, vec![("ROUTES/0/route/upgrade_configs", json!([{"upgrade_type": "CONNECT"}]))]),
        (
            "upgrades",
            websocket,
            vec![("~/upgrade_configs", json!([{"upgrade_type": "websocket"}, {"upgrade_type": "spdy/3.1"}]))],
        ),
        (
            "upgrades",
            websocket,
            vec![("~/upgrade_configs", json!([{"upgrade_type": "websocket", "filters": [{"name": "x"}]}]))],
        ),
        ("chunked_length", sidecar, vec![("~/http_protocol_options", json!({"allow_chunked_length": true}))]),
        ("invalid_messages", sidecar, vec![("~/stream_error_on_invalid_http_message", json!(true))]),
        ("local_reply", sidecar, vec![("~/local_reply_config", json!(null))]),
        (
            "envoy_headers",
            sidecar,
            vec![("~/http_filters/1/typed_config/suppress_envoy_headers", json!(null))],
        ),
        ("filter_order", sidecar, vec![("~/http_filters", behind)]),
        ("bearer_removed", sidecar, vec![("~/http_filters", before)]),
        ("filter_disabled", sidecar, vec![("~/http_filters/0/disabled", json!(true))]),
        ("filter_disabled", sidecar, vec![("ROUTES/0/typed_per_filter_config", disabled())]),
        ("filter_disabled", sidecar, vec![("~/route_config/typed_per_filter_config", disabled())]),
        ("filter_disabled", gateway, vec![("ROUTES/0/match", json!({"prefix": "/health"}))]),
        ("filter_missing", sidecar, vec![("~/http_filters/0", other_filter(lua))]),
        (
            "address_guard",
            gateway,
            vec![("~/http_filters/1/typed_config/save_upstream_address", json!(false))],
        ),
        ("address_guard", gateway, vec![("~/http_filters/2/typed_config/rules/action", json!("ALLOW"))]),
        (
            "address_guard",
            gateway,
            vec![(
                "~/http_filters/2/typed_config/rules/policies/restricted_address/permissions/1",
                json!({"any": false}),
            )],
        ),
    ]
}

fn route_and_listener_cases() -> Vec<Case> {
    let open = json!({"match": {"prefix": "/"}, "route": {"cluster": "dfp_plain", "timeout": "0s"},
        "request_headers_to_remove": ["x-caracal-upstream"]});
    let metadata = told_text(|told| told["binding"] = json!("metadata"));
    let way = json!({"name": "side door", "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "upstream",
    }}]}]});
    vec![
        ("redirects", sidecar, vec![("ROUTES/0/route/internal_redirect_policy", json!({}))]),
        ("route_open", gateway, vec![("ROUTES/4", open)]),
        ("route_open", gateway, vec![("ROUTES/2/route/cluster", json!("sts"))]),
        ("route_timeout", sidecar, vec![("ROUTES/0/route/timeout", json!(null))]),
        ("route_unbound", sidecar, vec![("PLUGIN/configuration/value", metadata)]),
        ("routes_elsewhere", sidecar, vec![("~/route_config", json!(null)), ("~/rds", json!({}))]),
        ("selector_kept", gateway, vec![("ROUTES/2/request_headers_to_remove", json!(null))]),
        ("way_around", sidecar, vec![("/static_resources/listeners/1", way)]),
        ("admin_exposed", sidecar, vec![("/admin/address/socket_address/address", json!("0.0.0.0"))]),
        ("connection_limit", sidecar, vec![("/overload_manager", json!(null))]),
        (
            "buffer_limit",
            sidecar,
            vec![("/static_resources/listeners/0/per_connection_buffer_limit_bytes", json!(1 << 24))],
        ),
        (
            "upstream_unverified",
            sidecar,
            vec![("/static_resources/clusters/2/transport_socket", tls(json!({})))],
        ),
        (
            "upstream_unverified",
            gateway,
            vec![(
                "/static_resources/clusters/3/transport_socket/typed_config/common_tls_context/validation_context/trust_chain_verification",
                json!("ACCEPT_UNTRUSTED"),
            )],
        ),
        (
            "upstream_names",
            sidecar,
            vec![(
                "/static_resources/clusters/2/transport_socket",
                tls(json!({"validation_context": {"system_root_certs": {}}})),
            )],
        ),
        (
            "tls_version",
            gateway,
            vec![(
                "/static_resources/clusters/3/transport_socket/typed_config/common_tls_context/tls_params/tls_minimum_protocol_version",
                json!("TLSv1_0"),
            )],
        ),
    ]
}

fn mesh_cases() -> Vec<Case> {
    vec![
        ("fail_open", istio, vec![("/spec/failStrategy", json!("FAIL_OPEN"))]),
        ("code_unpinned", istio, vec![("/spec/sha256", json!(null))]),
        ("key_missing", istio, vec![("/spec/vmConfig", json!(null))]),
        ("key_exposed", istio, vec![("/spec/vmConfig/env/0", json!({"name": KEY_VARIABLE, "value": "00"}))]),
        ("feed_missing", istio, vec![("/spec/pluginConfig/feed", json!("singleton"))]),
        ("mcp_bodies", istio, vec![("/spec/pluginConfig/mcp", json!(true))]),
        ("mcp_bodies", envoy_gateway, vec![("/spec/wasm/0/config/mcp", json!(true))]),
        ("cluster_missing", istio, vec![("/spec/pluginConfig/sts/cluster", json!("sts"))]),
        ("plugin_configuration", istio, vec![("/spec/pluginConfig/role", json!("door"))]),
        ("way_around", istio, vec![("/spec/match", json!([{"mode": "CLIENT"}]))]),
        ("filter_missing", istio, vec![("/spec/type", json!("NETWORK"))]),
        ("fail_open", envoy_gateway, vec![("/spec/wasm/0/failOpen", json!(true))]),
        ("code_unpinned", envoy_gateway, vec![("/spec/wasm/0/code/image/sha256", json!(null))]),
        ("key_missing", envoy_gateway, vec![("/spec/wasm/0/env", json!(null))]),
        ("feed_missing", envoy_gateway, vec![("/spec/wasm/0/config/feed", json!("singleton"))]),
        ("plugin_configuration", envoy_gateway, vec![("/spec/wasm/0/config", json!(null))]),
        ("filter_order", envoy_gateway, vec![("/spec/wasm/1", json!({"name": "other"}))]),
    ]
}

#[test]
fn every_mistake_is_found_and_placed() {
    let mut covered = BTreeSet::new();
    for (code, document, changes) in
        [plugin_cases(), manager_cases(), route_and_listener_cases(), mesh_cases()].concat()
    {
        let found = found(&changed(document(), &changes));
        let code: Code = code.parse().unwrap();
        assert!(found.iter().any(|finding| finding.code == code), "{code}: {changes:?}\n{found:#?}");
        assert!(found.iter().all(|finding| finding.document == 1 && !finding.instead.is_empty()), "{code}");
        covered.insert(code);
    }
    assert_eq!(covered, Code::ALL.iter().copied().collect());
}

#[test]
fn the_reference_lists_every_code() {
    let reference = include_str!("../../docs/envoy.md");
    for code in Code::ALL {
        assert!(reference.contains(&format!("| `{code}` | {} | {} |", code.why(), code.instead())), "{code}");
    }
}

#[test]
fn a_finding_names_the_place() {
    let bad = changed(sidecar(), &[("PLUGIN/failure_policy", json!("FAIL_OPEN"))]);
    let found = found(&bad);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (found[0].code, found[0].path.as_str()),
        (
            Code::FailOpen,
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.\
             config.failure_policy"
        )
    );
}

#[test]
fn the_wrong_file_does_not_pass() {
    for text in ["", "---\n", "kind: Service\n", "a: [1, 2]\n", "static_resources: {}\n"] {
        let found = lint(text).unwrap();
        assert_eq!(
            found.iter().map(|finding| finding.code).collect::<Vec<_>>(),
            [Code::FilterMissing],
            "{text:?}"
        );
    }
    for text in ["a: [", "{\"a\": 1", "a: 1\na: 2\n"] {
        assert!(matches!(lint(text), Err(LintError::Syntax(_))), "{text:?}");
    }
}

#[test]
fn documents_are_counted() {
    let text = format!("kind: Service\n---\n{}\n---\n{}\n", istio(), {
        changed(istio(), &[("/spec/failStrategy", json!("FAIL_OPEN"))])
    });
    let found = lint(&text).unwrap();
    assert_eq!(
        found.iter().map(|finding| (finding.document, finding.code)).collect::<Vec<_>>(),
        [(3, Code::FailOpen)]
    );
}

#[test]
fn evidence_that_may_be_lost_is_found_in_rendered_options_too() {
    let mut options = sidecar_options();
    options.on_backlog = OnBacklog::Allow;
    let codes: BTreeSet<Code> = found(&render(&options)).iter().map(|finding| finding.code).collect();
    assert_eq!(codes, BTreeSet::from([Code::EvidenceOptional]));
}

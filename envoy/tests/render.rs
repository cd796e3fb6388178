//! What a rendered bootstrap must hold whatever the options are (contract gateway §D3 and §D4). Whether Envoy takes
//! it is tested end to end, with a real Envoy.

// Helpers of tests may fail loudly, like the tests themselves.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use caracal_envoy::{
    BootstrapOptions, ControlCredential, ControlPlace, ControlPlane, Endpoint, FeedSource, GatewayOptions,
    KEY_VARIABLE, OnBacklog, Shape, SidecarOptions, render,
};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use serde_json::{Value, json};

fn options(shape: Shape) -> BootstrapOptions {
    BootstrapOptions::new(GatewayId::new("gateway-1").unwrap(), shape, "/opt/caracal/filter.wasm".into())
}

fn gateway() -> BootstrapOptions {
    options(Shape::Gateway(GatewayOptions::default()))
}

fn sidecar() -> BootstrapOptions {
    options(Shape::Sidecar(SidecarOptions {
        zone: ZoneId::new("z1").unwrap(),
        resource: ResourceIdentifier::new("resource://orders").unwrap(),
        upstream: Endpoint::new("orders.internal", 9000),
        forward_mandate: false,
        dry_run: false,
    }))
}

fn manager(bootstrap: &Value) -> &Value {
    &bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
}

fn routes(bootstrap: &Value) -> &[Value] {
    manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap()
}

fn plugin(bootstrap: &Value) -> &Value {
    &manager(bootstrap)["http_filters"][0]["typed_config"]["config"]
}

fn configuration(plugin: &Value) -> Value {
    serde_json::from_str(plugin["configuration"]["value"].as_str().unwrap()).unwrap()
}

#[test]
fn the_module_fails_closed_and_shares_one_vm_id() {
    for options in [gateway(), sidecar()] {
        let bootstrap = render(&options);
        let singleton = &bootstrap["bootstrap_extensions"][0]["typed_config"];
        assert_eq!(singleton["singleton"], true);
        for plugin in [plugin(&bootstrap), &singleton["config"]] {
            assert_eq!(plugin["failure_policy"], "FAIL_RELOAD");
            assert_eq!(plugin["vm_config"]["vm_id"], "caracal");
            assert_eq!(plugin["vm_config"]["code"]["local"]["filename"], "/opt/caracal/filter.wasm");
            assert_eq!(plugin["vm_config"]["environment_variables"]["host_env_keys"], json!([KEY_VARIABLE]));
        }
        assert!(!bootstrap.to_string().contains("FAIL_OPEN"));
        assert_eq!(configuration(&singleton["config"])["service"], "feed");
    }
}

#[test]
fn the_filter_learns_role_and_binding() {
    let mut with_zone = options(Shape::Gateway(GatewayOptions {
        zone: Some(ZoneId::new("z1").unwrap()),
        ..GatewayOptions::default()
    }));
    with_zone.on_backlog = OnBacklog::Allow;
    let gateway = configuration(plugin(&render(&with_zone)));
    assert_eq!((&gateway["role"], &gateway["binding"]), (&json!("gateway"), &json!("header")));
    assert_eq!((&gateway["zone"], &gateway["audit"]["on_backlog"]), (&json!("z1"), &json!("allow")));
    let sidecar = configuration(plugin(&render(&sidecar())));
    assert_eq!(sidecar["role"], "resource");
    assert_eq!(sidecar["binding"], json!({"fixed": {"zone": "z1", "resource": "resource://orders"}}));
    assert_eq!(
        (&sidecar["forward_mandate"], &sidecar["audit"]["on_backlog"]),
        (&json!(false), &json!("deny"))
    );
}

#[test]
fn d3_only_the_filters_exact_word_selects_a_cluster() {
    let bootstrap = render(&gateway());
    for route in routes(&bootstrap) {
        let Some(cluster) = route["route"]["cluster"].as_str() else { continue };
        if cluster == "sts" {
            assert_eq!(route["match"], json!({"path": "/ready"}));
            continue;
        }
        let word = &route["match"]["headers"][0];
        assert_eq!(word, &json!({"name": "x-caracal-upstream", "string_match": {"exact": cluster}}));
        assert_eq!(route["request_headers_to_remove"], json!(["x-caracal-upstream"]));
        assert_eq!(route["route"]["timeout"], "0s");
    }
    let last = routes(&bootstrap).last().unwrap();
    assert_eq!((&last["match"], &last["direct_response"]["status"]), (&json!({"prefix": "/"}), &json!(404)));
    assert!(!bootstrap.to_string().contains("cluster_header"));
}

#[test]
fn d3_the_filter_is_off_on_operator_paths_only() {
    for (options, operator_paths) in [(gateway(), vec!["/health", "/ready"]), (sidecar(), vec![])] {
        let bootstrap = render(&options);
        let off: Vec<&str> = routes(&bootstrap)
            .iter()
            .filter(|route| route.get("typed_per_filter_config").is_some())
            .map(|route| route["match"]["path"].as_str().unwrap())
            .collect();
        assert_eq!(off, operator_paths);
    }
}

#[test]
fn d4_settings_that_security_rests_on() {
    for options in [gateway(), sidecar()] {
        let bootstrap = render(&options);
        let manager = manager(&bootstrap);
        for (name, value) in [
            ("use_remote_address", json!(true)),
            ("normalize_path", json!(false)),
            ("merge_slashes", json!(false)),
            ("path_with_escaped_slashes_action", json!("KEEP_UNCHANGED")),
            ("max_request_headers_kb", json!(16)),
        ] {
            assert_eq!(manager[name], value, "{name}");
        }
        assert_eq!(
            manager["common_http_protocol_options"]["headers_with_underscores_action"],
            "REJECT_REQUEST"
        );
        assert!(manager.get("upgrade_configs").is_none());
        let filters: Vec<&str> = manager["http_filters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|filter| filter["name"].as_str().unwrap())
            .collect();
        assert_eq!((filters.first(), filters.last()), (Some(&"caracal"), Some(&"envoy.filters.http.router")));
    }
}

#[test]
fn d4_upstream_certificates_are_verified_by_name() {
    let bootstrap = render(&gateway());
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let secured = clusters.iter().find(|cluster| cluster["name"] == "dfp_tls").unwrap();
    let context = &secured["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"];
    assert_eq!(context["trusted_ca"]["filename"], "/etc/ssl/certs/ca-certificates.crt");
    let protocol = &secured["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(
        protocol["upstream_http_protocol_options"],
        json!({"auto_sni": true, "auto_san_validation": true})
    );
}

#[test]
fn addresses_become_static_and_names_are_resolved() {
    let bootstrap = render(&sidecar());
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let kinds: Vec<(&str, &str)> = clusters
        .iter()
        .map(|cluster| (cluster["name"].as_str().unwrap(), cluster["type"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [("sts", "STATIC"), ("audit", "STATIC"), ("upstream", "STRICT_DNS")]);
}

#[test]
fn connections_to_our_own_services_end_before_the_services_end_them() {
    for options in [gateway(), sidecar()] {
        let bootstrap = render(&options);
        for cluster in bootstrap["static_resources"]["clusters"].as_array().unwrap() {
            let name = cluster["name"].as_str().unwrap();
            let protocol = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            let own = matches!(name, "sts" | "audit");
            let expected =
                if own { format!("{}s", caracal_envoy::SERVICE_IDLE_SECONDS) } else { "90s".into() };
            assert_eq!(protocol["common_http_protocol_options"]["idle_timeout"], expected, "{name}");
        }
    }
}

#[test]
fn reasons_become_labels_and_the_access_log_holds_no_path() {
    let mut options = gateway();
    let plain = render(&options);
    assert_eq!(manager(&plain)["access_log"], json!([]));
    assert!(plain.to_string().contains(r#"\"filter_state\":false"#), "nobody reads it");
    options.access_log = Some("/dev/stdout".into());
    let bootstrap = render(&options);
    let tag = &bootstrap["stats_config"]["stats_tags"][0];
    assert_eq!(tag["tag_name"], "reason");
    assert!(bootstrap.to_string().contains(r#"\"filter_state\":true"#));
    let log = &manager(&bootstrap)["access_log"][0]["typed_config"];
    assert_eq!(log["path"], "/dev/stdout");
    let format = &log["log_format"]["json_format"];
    assert_eq!(format["decision_id"], "%FILTER_STATE(wasm.caracal.decision_id:PLAIN)%");
    for secret in ["PATH", "AUTHORIZATION", "COOKIE"] {
        assert!(!format.to_string().contains(secret), "{secret}");
    }
}

#[test]
fn without_a_singleton_every_worker_polls() {
    let mut options = sidecar();
    options.feed = FeedSource::Workers;
    let bootstrap = render(&options);
    assert!(bootstrap.get("bootstrap_extensions").is_none());
    let filter = configuration(plugin(&bootstrap));
    assert_eq!((&filter["feed"], &filter["feed_wait_s"]), (&json!("worker"), &json!(10)));
}

#[test]
fn a_gateway_that_is_configured_by_xds_holds_its_services_alone() {
    let control = ControlPlane {
        place: ControlPlace::Socket("/data/xds.sock".into()),
        credential: ControlCredential::new("c0ffee"),
    };
    let options =
        options(Shape::Gateway(GatewayOptions { control: Some(control), ..GatewayOptions::default() }));
    assert!(!format!("{options:?}").contains("c0ffee"));
    let bootstrap = render(&options);
    assert!(bootstrap["static_resources"].get("listeners").is_none());
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let names: Vec<_> = clusters.iter().map(|cluster| cluster["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sts", "audit", "xds"]);
    assert_eq!(
        clusters[2].pointer("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address"),
        Some(&json!({"pipe": {"path": "/data/xds.sock"}}))
    );
    let dynamic = &bootstrap["dynamic_resources"];
    let source = json!({"ads": {}, "resource_api_version": "V3"});
    assert_eq!((&dynamic["lds_config"], &dynamic["cds_config"]), (&source, &source));
    let services = &dynamic["ads_config"]["grpc_services"];
    assert_eq!(
        services,
        &json!([{
            "envoy_grpc": {"cluster_name": "xds"},
            "initial_metadata": [{"key": "authorization", "value": "Bearer c0ffee"}],
        }])
    );
    assert_eq!(bootstrap["node"]["id"], "gateway-1");
    assert!(bootstrap.get("bootstrap_extensions").is_some(), "the singleton follows the feed as ever");
}

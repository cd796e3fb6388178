//! From rows to clusters: a golden file, and the table of what is left out.

use super::*;
use crate::lint::lint;
use crate::options::{
    BootstrapOptions, ControlCredential, ControlPlace, ControlPlane, GatewayOptions, Shape,
};
use crate::{bootstrap, connection_manager};
use caracal_mandate::id::GatewayId;
use serde_json::json;

fn row(zone: &str, resource: &str, url: &str) -> ResourceUpstream {
    ResourceUpstream {
        zone: ZoneId::new(zone).unwrap(),
        resource: ResourceIdentifier::new(resource).unwrap(),
        url: url.to_owned(),
    }
}

fn rules() -> Rules {
    Rules {
        trusted_ca: PathBuf::from("/etc/ssl/ca.pem"),
        protected: vec![Endpoint::loopback(8080), Endpoint::new("10.9.9.9", 3000)],
    }
}

fn addresses(names: &[(&str, &[&str])]) -> Addresses {
    let parsed = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
    names.iter().map(|(name, ips)| ((*name).to_owned(), parsed(ips))).collect()
}

fn known() -> Addresses {
    addresses(&[
        ("api.example", &["192.0.2.7", "192.0.2.3", "2001:db8::7", "169.254.169.254"]),
        ("six.example", &["2001:db8::1"]),
    ])
}

fn rows() -> Vec<ResourceUpstream> {
    vec![
        row("z1", "resource://address", "http://10.0.0.7:9000/base"),
        row("z1", "resource://tls-address", "https://[2001:db8::9]/"),
        row("z1", "resource://name", "https://API.example/v1?key=1"),
        row("z1", "resource://plain-name", "http://six.example:8443"),
        row("z2", "resource://name", "https://api.example:443"),
        row("z2", "resource://gone", "https://nowhere.example"),
    ]
}

/// A snapshot with nothing before it.
fn fresh(rows: &[ResourceUpstream], addresses: &Addresses) -> Snapshot {
    translate(&rules(), rows, addresses, &Snapshot::default())
}

#[test]
fn rows_become_clusters_and_addresses() {
    let planned = plan(&rules(), &rows(), &known());
    let clusters: BTreeMap<_, _> =
        planned.clusters.iter().map(|(name, cluster)| (name, cluster.render(name, &rules()))).collect();
    let endpoints: BTreeMap<_, _> =
        planned.endpoints.iter().map(|(name, found)| (name, clusters::endpoints(name, found))).collect();
    let shown = json!({
        "clusters": clusters,
        "endpoints": endpoints,
        "left_out": planned.left_out.iter().map(|left| format!("{} {} {}", left.zone, left.resource, left.reason.as_str())).collect::<Vec<_>>(),
    });
    let text = format!("{shown:#}\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/xds.json");
    if std::env::var_os("CARACAL_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "CARACAL_UPDATE_GOLDEN=1 writes {path} anew");
}

#[test]
fn the_same_rows_have_the_same_versions_and_another_address_changes_its_own_alone() {
    let first = fresh(&rows(), &known());
    let mut reversed = rows();
    reversed.reverse();
    let again = fresh(&reversed, &known());
    assert_eq!((&first.version, &first.clusters), (&again.version, &again.clusters));
    assert_eq!(first.endpoints, again.endpoints);
    let mut moved = known();
    moved.insert("six.example".to_owned(), vec!["2001:db8::2".parse().unwrap()]);
    let moved = translate(&rules(), &rows(), &moved, &first);
    assert_eq!(first.clusters, moved.clusters);
    let changed = moved.endpoints.iter().filter(|(name, piece)| first.endpoints[*name] != **piece);
    assert_eq!(
        changed.map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["upstream|z1|resource://plain-name|http|six.example|8443"]
    );
    assert_ne!(first.version, moved.version);
    // What is taken over from before is what would be made anew.
    let mut more = rows();
    more.push(row("z3", "resource://one-more", "https://10.0.0.9"));
    more.remove(0);
    let (kept, anew) = (translate(&rules(), &more, &known(), &first), fresh(&more, &known()));
    assert_eq!((kept.clusters, kept.endpoints, kept.version), (anew.clusters, anew.endpoints, anew.version));
}

#[test]
fn a14_what_may_be_no_upstream_is_left_out_and_blocks_no_other() {
    use LeftOutReason::{BadUrl, Protected, Restricted, Unresolved};
    let names = addresses(&[
        ("metadata.example", &["169.254.169.254"]),
        ("hidden.example", &["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]),
        ("local.example", &["127.0.0.1"]),
        ("none.example", &[]),
    ]);
    for (url, reason) in [
        ("ftp://10.0.0.1", Some(BadUrl)),
        ("http://user@10.0.0.1", Some(BadUrl)),
        ("http://2130706433", Some(BadUrl)),
        ("http://169.254.169.254/latest", Some(Restricted)),
        ("http://[fe80::1]", Some(Restricted)),
        ("http://0.0.0.0", Some(Restricted)),
        ("http://[::ffff:169.254.169.254]", Some(Restricted)),
        ("http://168.63.129.16", Some(Restricted)),
        ("http://metadata.example", Some(Restricted)),
        ("https://hidden.example", Some(Restricted)),
        ("http://127.0.0.1:8080", Some(Protected)),
        ("http://127.8.8.8:8080", Some(Protected)),
        ("http://[::1]:8080", Some(Protected)),
        ("http://[::ffff:127.0.0.1]:8080", Some(Protected)),
        ("http://[64:ff9b::127.0.0.1]:8080", Some(Protected)),
        ("http://10.9.9.9:3000", Some(Protected)),
        ("http://local.example:8080", Some(Protected)),
        ("http://none.example", Some(Unresolved)),
        ("http://unknown.example", Some(Unresolved)),
        ("http://127.0.0.1:8081", None),
        ("http://10.9.9.9:8080", None),
        ("http://local.example:9999", None),
        ("http://100.64.0.1", None),
    ] {
        let rows =
            [row("z1", "a", "http://10.0.0.1"), row("z1", "r", url), row("z1", "z", "http://10.0.0.2")];
        let snapshot = fresh(&rows, &names);
        let left: Vec<_> =
            snapshot.left_out.iter().map(|left| (left.resource.as_str(), left.reason)).collect();
        assert_eq!(left, reason.map(|reason| ("r", reason)).into_iter().collect::<Vec<_>>(), "{url}");
        assert_eq!(snapshot.clusters.len(), if reason.is_some() { 2 } else { 3 }, "{url}");
        assert!(reason.is_none() || snapshot.endpoints.is_empty(), "{url}");
    }
}

#[test]
fn resources_beyond_the_bound_are_left_out() {
    let many: Vec<_> =
        (0..MAX_RESOURCES + 1).map(|n| row("z2", &format!("r{n:05}"), "http://10.0.0.1")).collect();
    let snapshot = fresh(&many, &Addresses::new());
    assert_eq!(snapshot.clusters.len(), MAX_RESOURCES);
    assert_eq!(snapshot.left_out.len(), 1);
    assert_eq!(snapshot.left_out[0].reason, LeftOutReason::TooMany);
}

#[test]
fn addresses_of_a_name_are_bounded_and_judged_one_by_one() {
    let many: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let reachable = rules().reachable(&many, 80).unwrap();
    assert_eq!(reachable.len(), MAX_ADDRESSES);
    let mixed = addresses(&[("m", &["::1", "169.254.1.1", "10.0.0.1", "10.0.0.1"])]);
    assert_eq!(rules().reachable(&mixed["m"], 80).unwrap(), ["10.0.0.1:80".parse().unwrap()]);
    assert_eq!(rules().reachable(&mixed["m"], 8080).unwrap(), ["10.0.0.1:8080".parse().unwrap()]);
}

/// What is served has every guard that a static bootstrap has to have: the lint judges all of it in one document.
#[test]
fn d4_what_is_served_passes_the_lint() {
    let control = ControlPlane {
        place: ControlPlace::Socket("/run/xds.sock".into()),
        credential: ControlCredential::new("secret"),
    };
    let gateway = GatewayOptions { control: Some(control), ..GatewayOptions::default() };
    let id = GatewayId::new("gateway-1").unwrap();
    let options = BootstrapOptions::new(id, Shape::Gateway(gateway), "/opt/filter.wasm".into());
    let mut whole = bootstrap::render(&options);
    assert!(whole["static_resources"].get("listeners").is_none());
    let dynamic = whole.as_object_mut().unwrap().remove("dynamic_resources").unwrap();
    assert_eq!(dynamic["ads_config"]["api_type"], "DELTA_GRPC");
    let mut listener = bootstrap::listener(&options);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager.as_object_mut().unwrap().remove("rds").unwrap()["route_config_name"], "caracal");
    manager["route_config"] = connection_manager::routes(&options);
    whole["static_resources"]["listeners"] = json!([listener]);
    let planned = plan(&rules(), &rows(), &known());
    let clusters = whole["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.extend(planned.clusters.iter().map(|(name, cluster)| cluster.render(name, &rules())));
    assert_eq!(lint(&whole.to_string()).unwrap(), []);
    let cluster = |name: &str| {
        let clusters = whole["static_resources"]["clusters"].as_array().unwrap();
        clusters.iter().find(|cluster| cluster["name"].as_str().unwrap().contains(name)).unwrap().clone()
    };
    // The lint would notice if a guard were missing.
    let unverified = |name: &str, path: &str| {
        let mut whole = whole.clone();
        let mut broken = cluster(name);
        broken.pointer_mut(path).unwrap().take();
        whole["static_resources"]["clusters"] = json!([broken]);
        lint(&whole.to_string()).unwrap().into_iter().map(|finding| finding.path).collect::<String>()
    };
    let context = "/transport_socket/typed_config/common_tls_context/validation_context";
    assert!(unverified("|resource://name|", context).contains("transport_socket"));
    let names = format!("{context}/match_typed_subject_alt_names");
    assert!(unverified("|resource://name|", &names).contains("transport_socket"));
}

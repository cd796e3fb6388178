//! The way from files to a plan, without a server.

use super::desire::{Source, desire};
use super::document::parse;
use super::item::{Actual, ActualSetting, ActualZone, Desired, Fault, Kind, Row, SetVersion};
use super::plan::{Act, How, Plan, Wishes, plan};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const POLICY: &str = "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {\"agent\": \"${application:agent}\"}\n";

/// A whole zone, as a file has it.
const WHOLE: &str = r#"
zones:
  - slug: shop
    name: Shop
    applications:
      - name: agent
        traits: [b, a]
    providers:
      - identifier: provider://mandate
        kind: caracal_mandate
      - identifier: provider://weather
        kind: api_key
        config: { header_name: X-Key }
        secrets:
          api_key: { env: WEATHER }
    resources:
      - identifier: resource://orders
        upstream_url: http://orders.test
        provider: provider://mandate
        scopes: [orders:read, orders:write]
        operations:
          - { method: get, path: /orders, scope: orders:read }
        mandate_use: multi
    policies:
      - name: orders
        file: orders.rego
    policy_sets:
      - name: main
        policies: [orders]
        active: true
    workloads:
      - name: nightly
        bindings:
          - { env: KEY, resource: resource://orders }
    grants:
      - { application: agent, user: alice, resource: resource://orders, scopes: [orders:read] }
    subject_issuers:
      - { issuer: https://idp.test, jwks_url: https://idp.test/keys, audience: shop }
    notification_sinks:
      - { name: ops, url: https://ops.test/hook, active: true }
"#;

fn wanted(text: &str) -> Result<Desired, Vec<Fault>> {
    let documents = parse(text).unwrap_or_else(|error| panic!("{error:?}"));
    let source = Source { path: PathBuf::from("conf/a.yaml"), documents };
    desire(vec![source], |path| match path == Path::new("conf/orders.rego") {
        true => Ok(POLICY.to_owned()),
        false => Err("no such file".to_owned()),
    })
}

fn row(id: &str, key: &str, fields: Value) -> Row {
    let fields = fields.as_object().cloned().unwrap_or_default();
    Row { id: id.to_owned(), key: key.to_owned(), fields, ..Row::default() }
}

/// The same zone, as the Admin API has it.
fn whole() -> Actual {
    let mut zone = ActualZone { id: "z".to_owned(), ..ActualZone::default() };
    zone.fields =
        json!({ "slug": "shop", "name": "Shop", "dcr_enabled": false }).as_object().cloned().unwrap();
    let weather = Row {
        secret_keys: ["api_key".to_owned()].into(),
        ..row(
            "p2",
            "provider://weather",
            json!({
                "identifier": "provider://weather", "name": "provider://weather", "kind": "api_key",
                "config": { "header_name": "X-Key" },
            }),
        )
    };
    let version = SetVersion { id: "sv".to_owned(), policies: vec!["orders".to_owned()] };
    let set = Row { newest: Some(version.clone()), active: Some(version), ..row("s", "main", json!({})) };
    let content = POLICY.replace("${application:agent}", "A");
    zone.rows = [
        (Kind::Application, vec![row("A", "agent", json!({ "name": "agent", "traits": ["a", "b"] }))]),
        (Kind::Provider, vec![
            row("p1", "provider://mandate", json!({
                "identifier": "provider://mandate", "name": "x", "kind": "caracal_mandate", "config": {},
            })),
            weather,
        ]),
        (Kind::Resource, vec![row("r", "resource://orders", json!({
            "identifier": "resource://orders", "name": "resource://orders", "upstream_url": "http://orders.test",
            "provider": "provider://mandate", "scopes": ["orders:write", "orders:read"], "mandate_use": "multi",
            "operations": [{ "method": "GET", "path": "/orders", "scope": "orders:read" }],
            "operation_enforcement": "enforced",
        }))]),
        (Kind::Policy, vec![row("p", "orders", json!({ "content": content }))]),
        (Kind::PolicySet, vec![set]),
        (Kind::Workload, vec![row("w", "nightly", json!({
            "name": "nightly", "bindings": [{ "env": "KEY", "resource": "resource://orders" }],
        }))]),
        (Kind::Grant, vec![row("g", "alice to agent for resource://orders", json!({
            "application": "agent", "user": "alice", "resource": "resource://orders", "scopes": ["orders:read"],
        }))]),
        (Kind::SubjectIssuer, vec![row("i", "https://idp.test", json!({
            "issuer": "https://idp.test", "jwks_url": "https://idp.test/keys", "audience": "shop",
        }))]),
        (Kind::NotificationSink, vec![row("n", "ops", json!({
            "name": "ops", "url": "https://ops.test/hook", "active": true,
            "event_types": ["step_up_issued"],
        }))]),
    ]
    .into();
    Actual { zones: [("shop".to_owned(), zone)].into(), ..Actual::default() }
}

fn planned(text: &str, actual: &Actual, wishes: Wishes) -> Result<Plan, Vec<String>> {
    let faults = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    plan(&wanted(text).map_err(faults)?, actual, wishes).map_err(faults)
}

/// What is done with which object, and the fields that differ.
type Done<'a> = (Act, Kind, &'a str, Vec<&'a str>);

/// What is done, without what stays as it is.
fn acts(plan: &Plan) -> Vec<Done<'_>> {
    let steps = plan.steps.iter().filter(|step| step.act != Act::Unchanged);
    steps
        .map(|step| {
            let names = step.differences.iter().map(|one| one.field.as_str()).collect();
            (step.act, step.kind, step.key.as_str(), names)
        })
        .collect()
}

#[test]
fn everything_is_made_where_nothing_is_and_nothing_is_done_twice() {
    let plan = planned(WHOLE, &Actual::default(), Wishes::default()).unwrap();
    assert_eq!((plan.count(Act::Create), plan.steps.len()), (11, 11));
    let kinds: Vec<Kind> = plan.steps.iter().map(|step| step.kind).collect();
    let mut sorted = kinds.clone();
    sorted.sort();
    assert_eq!(kinds, sorted, "what is named is made before what names it");
    let plan =
        planned(WHOLE, &whole(), Wishes { prune: true, all_zones: true, ..Wishes::default() }).unwrap();
    assert!(plan.is_empty(), "{:?}", acts(&plan));
    assert_eq!(plan.count(Act::Unchanged), 11);
}

#[test]
fn what_differs_and_nothing_else_is_changed() {
    let cases: Vec<(&str, &str, Vec<Done<'_>>)> = vec![
        ("name: Shop", "name: Store", vec![(Act::Change, Kind::Zone, "shop", vec!["name"])]),
        ("traits: [b, a]", "traits: [b]", vec![(Act::Change, Kind::Application, "agent", vec!["traits"])]),
        ("X-Key", "X-Other", vec![(Act::Change, Kind::Provider, "provider://weather", vec!["config"])]),
        (
            "mandate_use: multi",
            "mandate_use: single",
            vec![(Act::Change, Kind::Resource, "resource://orders", vec!["mandate_use"])],
        ),
        (
            "path: /orders",
            "path: /orders2",
            vec![(Act::Change, Kind::Resource, "resource://orders", vec!["operations"])],
        ),
        ("mandate_use: multi", "operation_enforcement: enforced", vec![]),
        (
            "mandate_use: multi",
            "mcp: { path: /mcp, stream: [orders:read] }",
            vec![(Act::Change, Kind::Resource, "resource://orders", vec!["mcp"])],
        ),
        ("mandate_use: multi", "mcp: null", vec![]),
        ("env: KEY", "env: KEY2", vec![(Act::Change, Kind::Workload, "nightly", vec!["bindings"])]),
        (
            "scopes: [orders:read] }",
            "scopes: [orders:write] }",
            vec![(Act::Change, Kind::Grant, "alice to agent for resource://orders", vec!["scopes"])],
        ),
        (
            "audience: shop",
            "audience: other",
            vec![(Act::Change, Kind::SubjectIssuer, "https://idp.test", vec!["audience"])],
        ),
        (
            "active: true }",
            "active: false }",
            vec![(Act::Change, Kind::NotificationSink, "ops", vec!["active"])],
        ),
    ];
    for (before, after, expected) in cases {
        assert!(WHOLE.contains(before), "{before}");
        let plan = planned(&WHOLE.replace(before, after), &whole(), Wishes::default()).unwrap();
        assert_eq!(acts(&plan), expected, "{before} -> {after}");
    }
}

#[test]
fn another_text_of_a_policy_is_a_new_version_of_its_sets() {
    let mut actual = whole();
    let zone = actual.zones.get_mut("shop").unwrap();
    zone.rows.get_mut(&Kind::Policy).unwrap()[0].fields["content"] = json!("old");
    let plan = planned(WHOLE, &actual, Wishes::default()).unwrap();
    assert_eq!(
        acts(&plan),
        [
            (Act::Change, Kind::Policy, "orders", vec!["content"]),
            (Act::Change, Kind::PolicySet, "main", vec!["policies"]),
        ]
    );
    // It ended in between: the policy is new, the set still holds the old one.
    let mut actual = whole();
    let set = &mut actual.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::PolicySet).unwrap()[0];
    set.active.as_mut().unwrap().policies = vec!["orders (version 1)".to_owned()];
    set.newest = set.active.clone();
    let plan = planned(WHOLE, &actual, Wishes::default()).unwrap();
    assert_eq!(acts(&plan), [(Act::Change, Kind::PolicySet, "main", vec!["policies"])]);
    // It ended before the activation: that alone is left.
    let set = &mut actual.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::PolicySet).unwrap()[0];
    set.newest = Some(SetVersion { id: "next".to_owned(), policies: vec!["orders".to_owned()] });
    let plan = planned(WHOLE, &actual, Wishes::default()).unwrap();
    let how = plan.steps.iter().find(|step| step.act == Act::Change).map(|step| step.how.clone());
    assert_eq!(how, Some(How::Activate { version: "next".to_owned() }));
}

#[test]
fn what_is_not_named_is_told_and_removed_only_if_asked() {
    let mut actual = whole();
    let zone = actual.zones.get_mut("shop").unwrap();
    zone.rows.get_mut(&Kind::Application).unwrap().push(row("B", "old", json!({ "name": "old" })));
    zone.rows.get_mut(&Kind::PolicySet).unwrap().push(row("T", "old", json!({})));
    actual.zones.insert("other".to_owned(), ActualZone { id: "o".to_owned(), ..ActualZone::default() });
    let expected = |act| vec![(act, Kind::PolicySet, "old", vec![]), (act, Kind::Application, "old", vec![])];
    let plan = planned(WHOLE, &actual, Wishes::default()).unwrap();
    assert_eq!(acts(&plan), expected(Act::Extra));
    assert!(!plan.is_empty());
    let prune = Wishes { prune: true, ..Wishes::default() };
    assert_eq!(acts(&planned(WHOLE, &actual, prune).unwrap()), expected(Act::Remove));
    let all = planned(WHOLE, &actual, Wishes { all_zones: true, ..prune }).unwrap();
    assert_eq!(acts(&all).last(), Some(&(Act::Remove, Kind::Zone, "other", vec![])));
    // A list that is not written is none of the files' business; one that is empty is.
    for (lists, count) in [("", 0), ("applications: []", 2)] {
        let text = format!("zones:\n  - slug: shop\n    {lists}\n");
        assert_eq!(planned(&text, &actual, prune).unwrap().count(Act::Remove), count, "{lists:?}");
    }
}

#[test]
fn secrets_are_sent_when_they_are_new_or_asked_for() {
    let sends = |plan: &Plan| plan.steps.iter().filter(|step| step.send_secrets).count();
    assert_eq!(sends(&planned(WHOLE, &Actual::default(), Wishes::default()).unwrap()), 1);
    assert_eq!(sends(&planned(WHOLE, &whole(), Wishes::default()).unwrap()), 0);
    let again = planned(WHOLE, &whole(), Wishes { resend_secrets: true, ..Wishes::default() }).unwrap();
    assert_eq!((sends(&again), again.count(Act::Change)), (1, 1));
    let mut actual = whole();
    let providers = actual.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::Provider).unwrap();
    providers[1].secret_keys.clear();
    assert_eq!(sends(&planned(WHOLE, &actual, Wishes::default()).unwrap()), 1);
}

#[test]
fn settings_stay_within_what_the_installation_allows() {
    let mut actual = Actual::default();
    let setting = ActualSetting { value: 1000, most: 1000 };
    actual.settings.insert("mint_limit_per_minute".to_owned(), setting);
    for (value, expected) in
        [(1000, Ok(0)), (500, Ok(1)), (2000, Err("at most 1000")), (0, Err("at least 1"))]
    {
        let text = format!("settings:\n  mint_limit_per_minute: {value}\n");
        let planned = planned(&text, &actual, Wishes::default());
        match expected {
            Ok(count) => assert_eq!(planned.unwrap().count(Act::Change), count, "{value}"),
            Err(why) => assert!(planned.as_ref().unwrap_err()[0].contains(why), "{planned:?}"),
        }
    }
}

/// Every fault is found before anything is done, and names its place.
#[test]
fn faults_name_file_line_and_column() {
    let cases: Vec<(&str, &str, &str, &str)> = vec![
        // Found in the files alone.
        ("http://orders.test", "ftp://orders.test", "conf/a.yaml:18:23", "upstream_url"),
        ("path: /orders", "path: orders", "conf/a.yaml:22:13", "operation_path_must_be_absolute"),
        (
            "scope: orders:read }\n        mandate",
            "scope: x }\n        mandate",
            "conf/a.yaml:22:13",
            "operation_scope",
        ),
        ("mandate_use: multi", "mandate_use: twice", "conf/a.yaml:23:22", "unknown variant"),
        ("mandate_use: multi", "mcp: { path: mcp }", "conf/a.yaml:23:14", "mcp.path"),
        ("mandate_use: multi", "mcp: { paths: /mcp }", "conf/a.yaml:23:14", "paths"),
        ("kind: caracal_mandate", "kind: magic", "conf/a.yaml:10:15", "magic"),
        ("header_name: X-Key", "header_name: X-Key, colour: red", "conf/a.yaml:13:17", "colour"),
        ("header_name: X-Key", "header_name: X-Key, api_key: hunter2", "conf/a.yaml:13:17", "is a secret"),
        ("api_key: {", "password: {", "conf/a.yaml:15:21", "no secret of a provider"),
        ("orders.rego", "none.rego", "conf/a.yaml:26:15", "no such file"),
        ("file: orders.rego", "content: 'x := 1'", "conf/a.yaml:26:18", "missing_package_declaration"),
        ("file: orders.rego", "content: '${x}'", "conf/a.yaml:26:18", "${application:NAME}"),
        ("policies: [orders]", "policies: [orders, orders]", "conf/a.yaml:29:28", "twice"),
        ("env: KEY", "env: LD_PRELOAD", "conf/a.yaml:34:13", "LD_PRELOAD"),
        ("https://idp.test/keys", "http://idp.test/keys", "conf/a.yaml:38:47", "invalid_subject_issuer"),
        ("https://ops.test/hook", "https://127.0.0.1/", "conf/a.yaml:40:27", "invalid_sink_url"),
        ("name: agent\n", "name: agent\n      - name: AGENT\n", "conf/a.yaml:7:15", "is there already"),
        ("name: agent\n", "name: caracal.sys/x\n", "conf/a.yaml:6:15", "reserved_namespace"),
        // Found in the comparison.
        (
            "provider: provider://mandate",
            "provider: provider://none",
            "conf/a.yaml:19:19",
            "there is no provider",
        ),
        ("policies: [orders]", "policies: [other]", "conf/a.yaml:29:20", "there is no policy"),
        (
            "resource: resource://orders }",
            "resource: resource://x }",
            "conf/a.yaml:34:13",
            "there is no resource",
        ),
        ("application: agent, user", "application: x, user", "conf/a.yaml:36:24", "there is no application"),
        ("name: agent\n", "name: other\n", "conf/orders.rego:5:23", "there is no application \"agent\""),
        ("        secrets:\n          api_key: { env: WEATHER }\n", "", "conf/a.yaml:12:15", "needs api_key"),
    ];
    for (before, after, place, why) in cases {
        assert!(WHOLE.contains(before), "{before}");
        let faults = planned(&WHOLE.replacen(before, after, 1), &Actual::default(), Wishes::default());
        let faults = faults.expect_err(after);
        let found = faults.iter().any(|fault| fault.contains(place) && fault.contains(why));
        assert!(found, "{before} -> {after}: no {place} with {why:?} in {faults:#?}");
        assert!(!faults.join("").contains("hunter2"));
    }
}

#[test]
fn what_is_there_may_forbid_a_plan() {
    let prune = Wishes { prune: true, ..Wishes::default() };
    let mut registered = whole();
    let zone = registered.zones.get_mut("shop").unwrap();
    zone.live_registered = 2;
    zone.fields["dcr_enabled"] = json!(true);
    let mut cased = whole();
    cased.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::Application).unwrap()[0].key =
        "Agent".to_owned();
    let mut twins = whole();
    let sinks = twins.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::NotificationSink).unwrap();
    sinks.push(sinks[0].clone());
    let mut many = whole();
    let issuers = many.zones.get_mut("shop").unwrap().rows.get_mut(&Kind::SubjectIssuer).unwrap();
    *issuers = (0..20).map(|n| row("i", &format!("https://{n}.test"), json!({}))).collect();
    let unused = "zones:\n  - slug: shop\n    providers: []\n";
    let idle = WHOLE.replace("active: true\n", "active: false\n");
    let renamed = WHOLE.replace("name: Shop", "name: Shop\n    dcr_enabled: false");
    let cases = [
        (renamed.as_str(), &registered, "2 registered clients"),
        (WHOLE, &cased, "differs in case alone"),
        (WHOLE, &twins, "2 notification sinks have this name"),
        (WHOLE, &many, "at most 20"),
        (unused, &whole(), "needs it"),
        (idle.as_str(), &whole(), "cannot be made idle"),
    ];
    for (text, actual, why) in cases {
        let faults = planned(text, actual, prune).expect_err(why);
        assert!(faults.iter().any(|fault| fault.contains(why)), "no {why:?} in {faults:?}");
    }
}

#[test]
fn a_zone_may_stand_in_many_places_but_each_thing_in_one() {
    let split =
        "zones:\n  - slug: a\n    name: A\n---\nzones:\n  - slug: a\n    applications: [{ name: x }]\n";
    let desired = wanted(split).unwrap();
    assert_eq!((desired.zones.len(), desired.zones[0].items.len()), (1, 1));
    for (text, why) in [
        (format!("{split}---\nzones: [{{ slug: a, name: B }}]\n"), "given already"),
        (format!("{split}---\nzones: [{{ slug: a, applications: [{{ name: x }}] }}]\n"), "is there already"),
        (
            "settings: { mint_limit_per_minute: 1 }\n---\nsettings: { mint_limit_per_minute: 2 }\n"
                .to_owned(),
            "is set already",
        ),
    ] {
        let faults = wanted(&text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.why.contains(why)), "{faults:?}");
    }
}

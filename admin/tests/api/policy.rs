//! Policies and policy sets (contract admin-audit §5.10 to §5.12).

use crate::common::{BOOTSTRAP, Bench, bench, id};
use caracal_sts::policy::manifest_sha256;
use serde_json::{Value, json};

const DOCUMENT: &str = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\napp_ids := {\"billing\": \"app-1\"}\n";

/// A policy, and the id of its first version.
async fn policy(bench: &Bench, zone: &str, name: &str, content: &str) -> (String, String) {
    let body = json!({ "name": name, "content": content });
    let created = bench.post(&format!("/v1/zones/{zone}/policies"), body).await.ok();
    (id(&created), created["version_id"].as_str().unwrap().to_owned())
}

async fn set(bench: &Bench, zone: &str, name: &str) -> String {
    id(&bench.post(&format!("/v1/zones/{zone}/policy-sets"), json!({ "name": name })).await.ok())
}

fn manifest(versions: &[&str]) -> Value {
    let entries: Vec<_> =
        versions.iter().map(|id| json!({ "policy_version_id": id, "unknown": 1 })).collect();
    json!({ "manifest": entries })
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_10_policies() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let path = format!("/v1/zones/{zone}/policies");
    let created = bench.post(&path, json!({ "name": "p", "content": DOCUMENT })).await.ok();
    assert_eq!(created["version"]["version"], 1);
    assert_eq!(created["version"]["schema_version"], "2026-05-20");
    assert_eq!(created["version_id"], created["version"]["id"]);
    let one = format!("{path}/{}", id(&created));
    let added = bench.post(&format!("{one}/versions"), json!({ "content": DOCUMENT })).await.ok();
    assert_eq!((&added["version"], &added["version_id"]), (&json!(2), &added["id"]));
    let row = bench.get(&one).await.ok();
    let versions = row["versions"].as_array().unwrap();
    assert_eq!(versions.iter().map(|v| v["version"].as_i64().unwrap()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(versions[0]["content"], DOCUMENT);
    let wrong = "package caracal.authz\nrestrict := {}\n";
    let cases: &[(&str, &str, Value, (u16, &str))] = &[
        ("POST", &path, json!({ "content": DOCUMENT }), (400, "invalid_body")),
        ("POST", &path, json!({ "name": "x", "content": "" }), (400, "invalid_body")),
        ("POST", &path, json!({ "name": "p", "content": DOCUMENT }), (409, "policy_name_conflict")),
        ("POST", &path, json!({ "name": "x", "content": wrong }), (422, "invalid_rego")),
        ("POST", &format!("{one}/versions"), json!({ "content": wrong }), (422, "invalid_rego")),
        ("POST", &format!("{path}/x/versions"), json!({ "content": DOCUMENT }), (404, "policy_not_found")),
        ("GET", &format!("{path}/x"), json!({}), (404, "policy_not_found")),
        ("DELETE", &format!("{path}/x"), json!({}), (404, "policy_not_found")),
    ];
    for &(method, path, ref body, code) in cases {
        assert_eq!(
            bench.call(BOOTSTRAP, method, path, Some(body.clone())).await.code(),
            code,
            "{method} {path} {body}"
        );
    }
    assert_eq!(bench.delete(&one).await.status, 204);
    assert_eq!(bench.get(&path).await.ok()["items"], json!([]));
    bench.post(&path, json!({ "name": "p", "content": DOCUMENT })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_10_validate() {
    let bench = bench().await;
    let validate =
        async |content: &str| bench.post("/v1/policies/validate", json!({ "content": content })).await;
    let answer = validate(DOCUMENT).await.ok();
    assert_eq!((&answer["valid"], &answer["preview"]["rules"]), (&json!(true), &json!(["app_ids"])));
    assert_eq!(answer["output_contract"]["package"], "caracal.authz");
    let head = "# caracal:data-document\npackage caracal.authz\n";
    let cases = [
        ("package caracal.authz\nrestrict := {}".to_owned(), "must_be_data_document"),
        (
            "# caracal:data-document\npackage other\nrestrict := {}".to_owned(),
            "must_use_package_caracal_authz",
        ),
        (format!("{head}restrict := \"x"), "unterminated_string"),
        (format!("{head}restrict := {{"), "unbalanced_delimiters"),
        (format!("{head}other := {{}}"), "data_document_rule_not_allowed:other"),
        (format!("{head}restrict := http.send({{}})"), "forbidden_builtin:http.send"),
        (head.to_owned(), "data_document_must_define_data"),
    ];
    for (content, code) in cases {
        let answer = validate(&content).await;
        assert_eq!(answer.code(), (422, "invalid_rego"), "{content}");
        assert_eq!((&answer.body["valid"], &answer.body["error_description"]), (&json!(false), &json!(code)));
    }
    let templates = bench.get("/v1/policy-templates").await.ok();
    for template in templates.as_array().unwrap() {
        assert_eq!(
            validate(template["content"].as_str().unwrap()).await.ok()["valid"],
            true,
            "{}",
            template["id"]
        );
    }
    let ids: Vec<_> = templates.as_array().unwrap().iter().map(|template| &template["id"]).collect();
    let of_the_contract =
        ["application-bindings", "resource-grants", "label-confinement", "zone-restriction"];
    assert_eq!(ids[..4], of_the_contract);
    assert_eq!(ids[4..], ["risk-tiers", "approval-tiers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_10_what_is_wrong_is_shown_by_line_and_column() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let head = "# caracal:data-document\npackage caracal.authz\n";
    let cases: [(String, &str, Value); 7] = [
        (
            format!("{head}grants := {{\n  \"a\": 1,\n"),
            "unbalanced_delimiters",
            json!({ "line": 3, "column": 11 }),
        ),
        (format!("{head}\n  restrict := \"x\n"), "unterminated_string", json!({ "line": 4, "column": 15 })),
        (
            format!("{head}restrict := {{}}\nother := 1\n"),
            "data_document_rule_not_allowed:other",
            json!({ "line": 4, "column": 1 }),
        ),
        (
            format!("{head}restrict := {{}}\n\nrisk := [http.send({{}})]\n"),
            "forbidden_builtin:http.send",
            json!({ "line": 5, "column": 10 }),
        ),
        (
            format!("{head}restrict := {{}}\nresult := {{\"decision\": \"allow\"}}\n"),
            "data_document_must_not_define_result",
            json!({ "line": 4, "column": 1 }),
        ),
        (format!("{head}restrict := := {{}}\n"), "invalid_syntax", json!({ "line": 3, "column": 13 })),
        (
            "# caracal:data-document\npackage other\nrestrict := {}\n".to_owned(),
            "must_use_package_caracal_authz",
            json!({ "line": 2, "column": 9 }),
        ),
    ];
    let policies = format!("/v1/zones/{zone}/policies");
    for (content, code, position) in cases {
        let stored = json!({ "name": "p", "content": content });
        for (path, body) in
            [("/v1/policies/validate", json!({ "content": content })), (policies.as_str(), stored)]
        {
            let answer = bench.post(path, body).await;
            assert_eq!(
                (answer.code(), &answer.body["error_description"]),
                ((422, "invalid_rego"), &json!(code))
            );
            assert_eq!(answer.body["details"]["position"], position, "{content}");
            assert!(!answer.body["details"]["message"].as_str().unwrap().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_18_26_manifests() {
    let bench = bench().await;
    let (zone, other) = (bench.zone("z").await, bench.zone("other").await);
    let (_, version) = policy(&bench, &zone, "p", DOCUMENT).await;
    let (_, foreign) = policy(&bench, &other, "p", DOCUMENT).await;
    let set = set(&bench, &zone, "s").await;
    let path = format!("/v1/zones/{zone}/policy-sets/{set}/versions");
    let many: Vec<String> = (0..257).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let contract = (422, "invalid_policy_contract");
    let cases = [
        (json!({}), (400, "invalid_body")),
        (manifest(&[]), contract),
        (manifest(&[&version, &version]), contract),
        (manifest(&["nothing"]), contract),
        (manifest(&[&foreign]), contract),
        (manifest(&many), contract),
    ];
    for (body, code) in cases {
        assert_eq!(bench.post(&path, body.clone()).await.code(), code, "{body:.80}");
    }
    bench
        .execute(&format!("UPDATE policy_versions SET content = 'package other' WHERE id = '{version}'"))
        .await;
    assert_eq!(bench.post(&path, manifest(&[&version])).await.code(), (422, "invalid_policy_bundle"));
    let nowhere = format!("/v1/zones/{zone}/policy-sets/x/versions");
    assert_eq!(bench.post(&nowhere, manifest(&[&version])).await.code(), (404, "policy_set_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_12_activation() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let (_, version) = policy(&bench, &zone, "p", DOCUMENT).await;
    let (first, second) = (set(&bench, &zone, "first").await, set(&bench, &zone, "second").await);
    let path = |rest: &str| format!("/v1/zones/{zone}/policy-sets/{rest}");
    let taken = bench.post(&format!("/v1/zones/{zone}/policy-sets"), json!({ "name": "first" })).await;
    assert_eq!(taken.code(), (409, "policy_set_name_conflict"));
    let mut versions = Vec::new();
    for set in [&first, &second] {
        let added = bench.post(&path(&format!("{set}/versions")), manifest(&[&version])).await.ok();
        assert_eq!(added["manifest_sha256"], manifest_sha256(&[version.as_str()]));
        versions.push(added["version_id"].as_str().unwrap().to_owned());
    }
    let status = path(&format!("{first}/activation-status"));
    assert_eq!(bench.get(&status).await.code(), (404, "active_policy_set_version_not_found"));
    let before = bench.last_change().await;
    for (set, version) in
        [(&first, &versions[0]), (&second, &versions[1]), (&first, &versions[0]), (&first, &versions[0])]
    {
        let answer = bench.post(&path(&format!("{set}/activate")), json!({ "version_id": version })).await;
        assert_eq!(answer.status, 202);
        let answer = answer.ok();
        assert_eq!((&answer["activated"], &answer["version_id"]), (&json!(true), &json!(version)));
        let status = bench.get(answer["status_url"].as_str().unwrap()).await.ok();
        assert_eq!(
            (&status["propagation_status"], &status["outbox"]["state"], &status["sts"]["state"]),
            (&json!("loaded"), &json!("dispatched"), &json!("loaded"))
        );
        assert_eq!(
            bench.number("SELECT COUNT(*) FROM policy_sets WHERE active_version_id IS NOT NULL").await,
            1
        );
    }
    assert_eq!(bench.changes_after(before).await, vec![json!({ "kind": "policy" }); 4]);
    assert_eq!(bench.number("SELECT authority_epoch - policy_epoch FROM zones").await, 0);
    let other =
        bench.get(&path(&format!("{second}/activation-status?version_id={}", versions[1]))).await.ok();
    assert_eq!(
        (&other["active"], &other["propagation_status"]),
        (&json!(false), &json!("waiting_for_activation"))
    );
    let missing = bench.get(&format!("{status}?outbox_id=999")).await.ok();
    assert_eq!(missing["propagation_status"], "waiting_for_outbox");
    let wrong = bench.get(&format!("{status}?outbox_id=1")).await.ok();
    assert_eq!(wrong["propagation_status"], "failed", "the epoch of the zone's creation is no activation");
    let listed = bench.get(&path(&format!("{first}/versions"))).await.ok();
    assert_eq!(listed["items"][0]["id"], versions[0]);
    let one = bench.get(&path(&format!("{first}/versions/{}", versions[0]))).await.ok();
    assert_eq!(one["manifest_json"], json!([{ "policy_version_id": version }]));
    assert_eq!(one["policies"].as_array().unwrap().len(), 1);
    assert_eq!(bench.get(&path(&first)).await.ok()["active_version_id"], versions[0]);
    let cases = [
        (path("x/activate"), json!({ "version_id": versions[0] }), (404, "policy_set_binding_not_found")),
        (
            path(&format!("{second}/activate")),
            json!({ "version_id": versions[0] }),
            (404, "version_not_found"),
        ),
        (path(&format!("{second}/activate")), json!({}), (400, "invalid_body")),
    ];
    for (path, body, code) in cases {
        assert_eq!(bench.post(&path, body).await.code(), code, "{path}");
    }
    // What does not compile any more is not activated, and what is active stays.
    bench.execute("UPDATE policy_versions SET content = 'package other'").await;
    let answer = bench.post(&path(&format!("{second}/activate")), json!({ "version_id": versions[1] })).await;
    assert_eq!(answer.code(), (422, "invalid_policy_bundle"));
    let before = bench.last_change().await;
    assert_eq!(bench.delete(&path(&second)).await.status, 204);
    assert!(bench.changes_after(before).await.is_empty());
    assert_eq!(bench.delete(&path(&first)).await.status, 204);
    assert_eq!(bench.changes_after(before).await, [json!({ "kind": "policy" })], "the zone denies all");
    assert_eq!(bench.number("SELECT COUNT(*) FROM policy_sets WHERE active_version_id IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_12_simulation() {
    let bench = bench().await;
    let zone = bench.zone("z").await;
    let (_, version) = policy(&bench, &zone, "p", DOCUMENT).await;
    let set = set(&bench, &zone, "s").await;
    let path = format!("/v1/zones/{zone}/policy-sets/{set}");
    let added = bench.post(&format!("{path}/versions"), manifest(&[&version])).await.ok();
    let simulate = async |input: Value| {
        let mut body = json!({ "version_id": added["id"] });
        if !input.is_null() {
            body["input"] = input;
        }
        bench.post(&format!("{path}/simulate"), body).await.ok()
    };
    let without = simulate(Value::Null).await;
    assert_eq!(
        (&without["would_activate"], &without["explanation"]["evaluation"]),
        (&json!(true), &json!("not_executed"))
    );
    let input = json!({
        "schema_version": "2026-05-20", "principal": { "type": "Application", "id": "app-9", "zone_id": zone },
        "resource": { "identifier": "resource://x", "scopes": ["a"] }, "action": { "id": "TokenExchange" },
        "context": { "requested_scopes": ["a"] },
    });
    let denied = simulate(input).await;
    assert_eq!((&denied["result"]["decision"], &denied["warnings"]), (&json!("deny"), &json!([])));
    let poor = simulate(json!({})).await;
    assert_eq!(poor["would_activate"], false);
    assert!(poor["warnings"].as_array().unwrap().contains(&json!("principal_zone_mismatch")));
}

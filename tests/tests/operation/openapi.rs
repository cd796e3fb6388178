//! The running services are fuzzed by their own OpenAPI documents (schemathesis): no fault of the server, and no answer
//! that is not declared.
//!
//! `CARACAL_TEST_SEED` sets the seed; it is printed where something is found.

use caracal_tests::{Options, Stack, Upstream, World, python};
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use tokio::process::Command;

const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// How many cases an operation gets, beside those that cover its schema.
const EXAMPLES: &str = "4";

/// A stack that lets itself be asked as often as one likes.
async fn stack() -> Stack {
    let limits = [
        "API_V1_RATE_LIMIT_PER_MIN",
        "ADMIN_AUTH_FAIL_LIMIT_PER_MIN",
        "COORDINATOR_RATE_LIMIT_PER_MIN",
        "VERIFY_RATE_LIMIT_PER_MIN",
        "READY_RATE_LIMIT_PER_MIN",
    ];
    let environment = limits.map(|name| (name.to_owned(), "0".to_owned())).to_vec();
    Stack::start_with(Options { environment, ..Options::default() }).await
}

/// What a service's document says it is, which is what the repository says.
async fn document(world: &World, url: &str, name: &str) -> Value {
    let served: Value =
        world.http.get(format!("{url}/openapi.json")).send().await.unwrap().json().await.unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/openapi/{name}.json"));
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    // Not with assert_eq: nobody reads two documents.
    assert!(served == kept, "docs/openapi/{name}.json is out of date: run `cargo xtask openapi`");
    served
}

/// Every operation of a document: method, path and name.
fn operations(document: &Value) -> Vec<(String, String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let named = |(method, operation): (&String, &Value)| {
            (method.clone(), path.clone(), operation["operationId"].as_str().unwrap().to_owned())
        };
        methods.as_object().unwrap().iter().map(named).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Fuzzes one service. `values` are parameters of single operations, so that requests reach what is there.
async fn fuzz(
    (name, url, bearer): (&str, &str, &str),
    values: &[(String, &str, String)],
    zone: &str,
    left_out: &[&str],
) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = format!("[parameters]\n\"path.zone\" = {zone:?}\n");
    for (operation, parameter, value) in values {
        writeln!(
            config,
            "[[operations]]\ninclude-operation-id = {operation:?}\nparameters = {{ {parameter:?} = {value:?} }}"
        )
        .unwrap();
    }
    let file = folder.path().join("schemathesis.toml");
    std::fs::write(&file, config).unwrap();
    let seed = std::env::var("CARACAL_TEST_SEED").unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.subsec_nanos().to_string()
    });
    let mut command = Command::new(python());
    command
        .current_dir(folder.path())
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(&file)
        .args(["run", &format!("{url}/openapi.json"), "--no-color", "--continue-on-failure"])
        .args(["--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES])
        .args(["--seed", &seed, "--workers", "2", "--generation-database", "none", "--warnings", "off"]);
    if !bearer.is_empty() {
        command.args(["-H", &format!("Authorization: Bearer {bearer}")]);
    }
    for operation in left_out {
        command.args(["--exclude-operation-id", operation]);
    }
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{name}: seed {seed}\n{said}");
    assert!(output.status.success(), "{name}, seed {seed}:\n{said}\n{errors}");
    assert!(operations_tested(&said) > 0, "{name}: nothing was tested\n{said}");
}

/// How many operations a run tells that it tested.
fn operations_tested(said: &str) -> usize {
    let rest = said.split_once("Tested: ").map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// One of everything, so that there is something to read and to change.
async fn furnish(world: &World) {
    let post = async |rest: &str, body: Value| world.operate(Method::POST, &world.path(rest), body).await;
    post("workloads", json!({ "name": "launcher" })).await;
    let issuer = json!({ "issuer": "https://i.example", "jwks_url": "https://i.example/k", "audience": "a" });
    post("subject-issuers", issuer).await;
    let resources = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let grant = json!({
        "application_id": world.application, "user_id": "ada", "resource_id": resources["items"][0]["id"],
        "scopes": ["orders:read"],
    });
    post("grants", grant).await;
    let selector = json!({ "by": "subject", "id": "nobody" });
    post("revocations", json!({ "selector": selector, "reason": "test" })).await;
}

/// Per operation with an `{id}`, `{request}` or `{version}`: one that is there. What removes things gets none.
async fn ids(world: &World, document: &Value) -> Vec<(String, &'static str, String)> {
    let mut values = Vec::new();
    let first = async |path: &str, member: &str| {
        let list = world.operate(Method::GET, path, Value::Null).await;
        list["items"][0][member].as_str().map(str::to_owned)
    };
    for (method, path, operation) in operations(document) {
        let removes = method == "delete" || operation.starts_with("activate");
        let (collection, parameter, member) = match path.split_once("/{id}") {
            _ if removes => continue,
            Some((collection, _)) => (collection, "path.id", "id"),
            None if path.contains("/by-request/") => ("/v1/zones/{zone}/audit", "path.request", "request_id"),
            None => continue,
        };
        let collection = collection.replace("{zone}", &world.zone);
        if let Some(id) = first(&collection, member).await {
            values.push((operation, parameter, id));
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_the_admin_api_answers_as_its_document_says() {
    let (stack, upstream) = (stack().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let mandate = world.mint(&agent).await;
    assert_eq!(world.read(&mandate).await.status(), 200);
    world.audit("").await;
    furnish(&world).await;
    let document = document(&world, &world.admin, "admin").await;
    let values = ids(&world, &document).await;
    assert!(values.len() > 25, "{values:?}");
    // Without its zone, all else would only say that there is none.
    let service = ("admin", world.admin.as_str(), world.admin_token.as_str());
    fuzz(service, &values, &world.zone, &["archive_zone"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_the_sts_audit_and_the_coordinator_answer_as_their_documents_say() {
    let (stack, upstream) = (stack().await, Upstream::start().await);
    let world = World::configure(&stack, &upstream).await;
    let agent = world.agent().await;
    let operator = stack.coordinator_token();
    for (name, bearer) in
        [("sts", stack.sts_admin_token()), ("audit", String::new()), ("coordinator", operator)]
    {
        let url = stack.url(name);
        let document = document(&world, &url, name).await;
        // Reads of the session and the delegation that are there; the rest asks for ids that are not.
        let mut values = Vec::new();
        for (method, path, operation) in operations(&document) {
            if name != "coordinator" || method != "get" {
                continue;
            }
            if path.contains("{session}") {
                values.push((operation.clone(), "path.session", agent.session.clone()));
            } else if path.contains("{edge}") {
                values.push((operation, "path.edge", agent.edge.clone()));
            }
        }
        // Its path has an empty part, which the client that fuzzes takes away.
        let left_out: &[&str] = if name == "sts" { &["rotate_signing_key_of_none"] } else { &[] };
        fuzz((name, &url, &bearer), &values, &world.zone, left_out).await;
    }
}

//! `caracal apply` against a running Caracal: what files say is made, once, and only that.

use caracal_tests::{Stack, Upstream, World, binary};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

const POLICY: &str = r#"# caracal:data-document
package caracal.authz
import rego.v1

app_ids := {"agent": "${application:agent}"}

grants := {"resource://orders": {"application": "agent", "roles": {"reader": ["orders:read"], "clerk": ["orders:read", "orders:write"]}}}
"#;
const KEY: &str = "key-of-the-weather-service";

/// A folder of configuration, and the Caracal that it is for.
struct Config<'a> {
    folder: tempfile::TempDir,
    stack: &'a Stack,
}

impl<'a> Config<'a> {
    fn new(stack: &'a Stack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf")).unwrap();
        Self { folder, stack }
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("conf")
    }

    fn secrets(&self) -> PathBuf {
        self.folder.path().join("secrets")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.conf().join(name), text).unwrap();
    }

    async fn apply(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("apply").arg("-f").arg(self.conf()).arg("--data").arg(self.stack.folder());
        let output = command.args(arguments).env("WEATHER_KEY", KEY).output().await.unwrap();
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(
            !told.contains(KEY) && !told.contains(&self.stack.admin_token()),
            "a secret is told:\n{told}"
        );
        output
    }

    /// Applies, and answers the report.
    async fn report(&self, status: i32, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend_from_slice(arguments);
        let output = self.apply(&all).await;
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{told}\n{}", text(&output.stderr));
        serde_json::from_str(&told).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn whole(upstream: &str) -> String {
    format!(
        r#"
settings:
  mint_limit_per_minute: 900
zones:
  - slug: shop
    name: Shop
    operator_governed: true
    applications:
      - name: agent
        traits: [team-orders]
    providers:
      - identifier: provider://mandate
        kind: caracal_mandate
      - identifier: provider://weather
        kind: api_key
        config: {{ header_name: X-Key, allow_runtime_injection: true }}
        secrets:
          api_key: {{ env: WEATHER_KEY }}
      - identifier: provider://idp
        kind: oauth2_client_credentials
        config: {{ token_endpoint: "https://IDP.example.com/token", client_id: caracal, scopes: [b, a] }}
        secrets:
          client_secret: {{ file: idp.txt }}
    resources:
      - identifier: resource://orders
        upstream_url: {upstream}
        provider: provider://mandate
        scopes: [orders:read, orders:write]
        operations:
          - {{ method: get, path: /v1/orders, scope: orders:read }}
          - {{ method: POST, path: /v1/orders, scope: orders:write }}
      - identifier: resource://tools
        upstream_url: {upstream}
        provider: provider://mandate
        scopes: [tools:list]
        operation_enforcement: transport_uniform
        mcp:
          path: /mcp
          methods: [{{ name: tools/list, scopes: [tools:list] }}]
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
          - {{ env: ORDERS_KEY, resource: resource://orders, scopes: [orders:read], optional: false }}
    grants:
      - {{ application: agent, user: alice, resource: resource://orders, scopes: [orders:read] }}
    subject_issuers:
      - {{ issuer: "https://idp.example.com", jwks_url: "https://idp.example.com/keys", audience: shop }}
    notification_sinks:
      - {{ name: ops, url: "https://hooks.example.com/x", event_types: [step_up_decided, step_up_issued], active: false }}
"#
    )
}

/// A world over what was applied, with the secret that was put into a file.
async fn world_of(stack: &Stack, secrets: &Path) -> World {
    let mut world = World::bare(stack);
    world.secret = fs::read_to_string(secrets.join("shop/applications/agent")).unwrap().trim().to_owned();
    let zones = world.operate(Method::GET, "/v1/zones", Value::Null).await;
    let zone = zones["items"].as_array().unwrap().iter().find(|zone| zone["slug"] == "shop").unwrap();
    world.zone = zone["id"].as_str().unwrap().to_owned();
    let applications = world.operate(Method::GET, &world.path("applications"), Value::Null).await;
    world.application = applications["items"][0]["id"].as_str().unwrap().to_owned();
    world
}

async fn changes(world: &World) -> usize {
    let list = world.operate(Method::GET, &world.path("admin-audit?limit=1000"), Value::Null).await;
    list["items"].as_array().unwrap().len()
}

/// Action, kind, key and fields of every step that is no `unchanged`.
fn steps(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap().iter().filter(|step| step["action"] != "unchanged");
    let fields = |step: &Value| {
        let names =
            step["fields"].as_array().unwrap().iter().map(|one| one["field"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>().join(",")
    };
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    steps
        .map(|step| {
            let line =
                [word(&step["action"]), word(&step["kind"]), word(&step["key"]), fields(step)].join(" ");
            line.trim_end().to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_make_a_zone_that_works_and_nothing_is_done_twice() {
    let (stack, upstream) = (Stack::start().await, Upstream::start().await);
    let config = Config::new(&stack);
    let file = whole(&format!("http://{}", upstream.address));
    config.write("caracal.yaml", &file);
    config.write("orders.rego", POLICY);
    config.write("idp.txt", "secret-of-the-idp\n");
    let secrets = config.secrets();
    let keep = ["--secrets", secrets.to_str().unwrap()];

    // A dry run does nothing.
    let dry = config.report(3, &["--dry-run"]).await;
    assert_eq!((&dry["dry_run"], &dry["summary"]["create"]), (&json!(true), &json!(13)), "{dry:#}");
    let again = config.report(3, &["--dry-run"]).await;
    assert_eq!(dry, again);

    // The first run makes everything, and it works: an agent calls through the gateway.
    let made = config.report(0, &keep).await;
    assert_eq!((&made["error"], made["applied"].as_array().unwrap().len()), (&Value::Null, 14), "{made:#}");
    assert!(made["remaining"].as_array().unwrap().is_empty());
    for name in ["applications/agent", "workloads/nightly", "notification-sinks/ops"] {
        let file = secrets.join("shop").join(name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert!(!made.to_string().contains(fs::read_to_string(&file).unwrap().trim()), "{name} is told");
    }
    let world = world_of(&stack, &secrets).await;
    let agent = world.agent().await;
    assert_eq!(world.read(&world.mint(&agent).await).await.status(), 200);

    // The second run does nothing at all.
    let before = changes(&world).await;
    let second = config.report(0, &keep).await;
    assert_eq!(steps(&second), Vec::<String>::new(), "{second:#}");
    assert_eq!((&second["different"], &second["summary"]["unchanged"]), (&json!(false), &json!(14)));
    config.report(0, &["--dry-run"]).await;
    assert_eq!(changes(&world).await, before);

    // An edit changes just that.
    config.write(
        "caracal.yaml",
        &file
            .replace("scope: orders:write }", "scope: orders:read }")
            .replace("active: false", "active: true"),
    );
    let edited = config.report(0, &[]).await;
    assert_eq!(
        steps(&edited),
        ["change resource resource://orders operations", "change notification_sink ops active"]
    );
    assert_eq!(changes(&world).await, before + 2);
    config.write("orders.rego", &POLICY.replace("\"reader\": [\"orders:read\"], ", ""));
    let edited = config.report(0, &[]).await;
    assert_eq!(steps(&edited), ["change policy orders content", "change policy_set main policies"]);
    assert_eq!(world.try_mint(&agent, "orders:read").await.status(), 403, "the new policy decides");
    assert_eq!(
        steps(&config.report(0, &["--resend-secrets"]).await),
        ["change provider provider://weather secrets", "change provider provider://idp secrets",]
    );

    // What others made is told, and stays until it is pruned.
    world.add_application("stray").await;
    let drift = config.report(3, &["--dry-run"]).await;
    assert_eq!(steps(&drift), ["extra application stray"]);
    let output = config.apply(&["--dry-run"]).await;
    assert!(
        text(&output.stdout).contains("? application stray  is not in the files"),
        "{}",
        text(&output.stdout)
    );
    assert_eq!(steps(&config.report(0, &[]).await), ["extra application stray"]);
    assert_eq!(steps(&config.report(0, &["--prune"]).await), ["remove application stray"]);
    assert_eq!(steps(&config.report(0, &["--prune"]).await), Vec::<String>::new());
    let emptied = file.replace("grants:\n      -", "grants: []\n    #");
    config.write("caracal.yaml", &emptied);
    let pruned = config.report(0, &["--prune"]).await;
    assert!(
        steps(&pruned).contains(&"remove grant alice to agent for resource://orders".to_owned()),
        "{pruned:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_name_their_place_and_nothing_is_written() {
    let stack = Stack::start().await;
    let config = Config::new(&stack);
    config.write("orders.rego", POLICY);
    config.write("idp.txt", "secret-of-the-idp\n");
    let file = whole("http://127.0.0.1:9");
    let cases = [
        ("    name: Shop", "    colour: red", "caracal.yaml:6:5", "colour"),
        ("traits: [team-orders]", "name: other", "caracal.yaml:10:9", "duplicate"),
        ("upstream_url: http", "upstream_url: ftp", "caracal.yaml:26:23", "upstream_url"),
        (
            "provider: provider://mandate",
            "provider: provider://none",
            "caracal.yaml:27:19",
            "there is no provider",
        ),
        ("env: WEATHER_KEY", "env: NO_SUCH_VARIABLE", "caracal.yaml:18:20", "NO_SUCH_VARIABLE is not set"),
        ("file: idp.txt", "file: none.txt", "caracal.yaml:23:26", "none.txt"),
        ("{ env: WEATHER_KEY }", "hunter2", "caracal.yaml:18:20", "never written"),
        ("mint_limit_per_minute: 900", "mint_limit_per_minute: 9000", "caracal.yaml:3:26", "at most 1000"),
        ("name: agent\n", "name: robot\n", "orders.rego:5:23", "there is no application"),
    ];
    for (before, after, place, why) in cases {
        assert!(file.contains(before), "{before}");
        config.write("caracal.yaml", &file.replacen(before, after, 1));
        let output = config.apply(&[]).await;
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{after}: {told}");
        assert!(told.contains(place) && told.contains(why) && !told.contains("hunter2"), "{after}: {told}");
        let report = config.report(1, &["--dry-run"]).await;
        let fault = report["errors"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["message"].as_str().unwrap().contains(why));
        let fault = fault.unwrap_or_else(|| panic!("{report:#}"));
        let file = Path::new(fault["file"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        assert_eq!(format!("{file}:{}:{}", fault["line"], fault["column"]), place);
    }
    let zones = reqwest::Client::new().get(format!("{}/v1/zones", stack.url("admin")));
    let zones: Value = zones.bearer_auth(stack.admin_token()).send().await.unwrap().json().await.unwrap();
    assert_eq!(zones["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_middle_is_told_and_done_the_next_time() {
    let stack = Stack::start().await;
    let config = Config::new(&stack);
    let client = reqwest::Client::new();
    let admin = |method: Method, path: &str| {
        client.request(method, format!("{}{path}", stack.url("admin"))).bearer_auth(stack.admin_token())
    };
    // An archived zone keeps its slug, and no list shows it.
    let old = admin(Method::POST, "/v1/zones")
        .json(&json!({ "name": "old", "slug": "second" }))
        .send()
        .await
        .unwrap();
    let old: Value = old.json().await.unwrap();
    let path = format!("/v1/zones/{}", old["id"].as_str().unwrap());
    assert_eq!(admin(Method::DELETE, &path).send().await.unwrap().status(), 204);
    let zone = |slug: &str| format!("  - slug: {slug}\n    applications: [{{ name: a }}]\n");
    config.write("a.yaml", &format!("zones:\n{}{}{}", zone("first"), zone("second"), zone("third")));
    let output = config.apply(&[]).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for line in [
        "409 zone_slug_conflict",
        "Applied 2 of 6",
        "+ application a (zone first)",
        "Not applied:",
        "+ zone second",
        "+ zone third",
    ] {
        assert!(told.contains(line), "no {line:?} in {told}");
    }
    let report = config.report(1, &[]).await;
    assert_eq!(report["applied"], json!([]), "{report:#}");
    assert_eq!(report["remaining"][0], "zone second");
    config.write("a.yaml", &format!("zones:\n{}{}{}", zone("first"), zone("next"), zone("third")));
    let report = config.report(0, &[]).await;
    assert_eq!(report["applied"].as_array().unwrap().len(), 4, "{report:#}");
    // Zones that no file names are nobody's business, unless the files name all.
    config.write("a.yaml", &format!("zones:\n{}{}", zone("first"), zone("next")));
    assert_eq!(steps(&config.report(0, &["--prune"]).await), Vec::<String>::new());
    assert_eq!(steps(&config.report(3, &["--dry-run", "--all-zones"]).await), ["extra zone third"]);
    assert_eq!(steps(&config.report(0, &["--prune", "--all-zones"]).await), ["remove zone third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_where_it_was_meant_and_reading_is_enough_to_plan() {
    let stack = Stack::start().await;
    let config = Config::new(&stack);
    config.write("a.yaml", "zones:\n  - slug: a\n");
    let token = reqwest::Client::new().post(format!("{}/v1/admin-tokens", stack.url("admin")));
    let body = json!({ "name": "reader", "scope": "global", "capability": "read" });
    let made: Value =
        token.bearer_auth(stack.admin_token()).json(&body).send().await.unwrap().json().await.unwrap();
    let reader = made["token"].as_str().unwrap();
    let elsewhere = config.folder.path().join("none");
    let url = stack.url("admin");
    let run = async |token: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("apply").arg("-f").arg(config.conf()).args(["--data", elsewhere.to_str().unwrap()]);
        command.args(arguments).env_remove("CARACAL_ADMIN_TOKEN");
        if let Some(token) = token {
            command.env("CARACAL_ADMIN_TOKEN", token);
        }
        let output = command.output().await.unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let there = ["--api-url", &url];
    for (token, arguments, status, word) in [
        (Some(reader), vec!["--api-url", &url, "--dry-run"], 3, "+ zone a"),
        (Some(reader), there.to_vec(), 1, "403"),
        (Some("cat_somebody-elses-token"), there.to_vec(), 1, "401 invalid_admin_token"),
        (None, there.to_vec(), 1, "a token has to be named"),
        (Some(reader), vec![], 1, "does not hold a running Caracal"),
        (Some(reader), vec!["--api-url", "ftp://x"], 1, "--api-url"),
        (Some(reader), vec!["--api-url", "http://127.0.0.1:9", "--dry-run"], 1, "no answer"),
        (Some(reader), vec!["--nonsense"], 2, "--nonsense"),
    ] {
        let (code, told) = run(token, &arguments).await;
        assert_eq!(code, Some(status), "{arguments:?}: {told}");
        assert!(told.contains(word) && !told.contains(token.unwrap_or("\u{0}")), "{arguments:?}: {told}");
    }
}

/// The page's files and commands, as they stand there.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_do_what_it_says() {
    let stack = Stack::start().await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/apply.md")).unwrap();
    let block = |kind: &str| {
        let (_, rest) = page.split_once(&format!("```{kind}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("caracal.yaml"), block("yaml")).unwrap();
    fs::write(folder.path().join("orders.rego"), block("rego")).unwrap();
    let mut statuses = Vec::new();
    for line in block("sh").lines() {
        let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
        let mut command = Command::new(binary());
        command.args(&arguments).current_dir(folder.path());
        command.env("CARACAL_DATA", stack.folder()).env("WEATHER_KEY", KEY);
        let output = command.output().await.unwrap();
        statuses.push(output.status.code().unwrap());
        assert!(output.stderr.is_empty(), "{line}: {}", text(&output.stderr));
    }
    assert_eq!(statuses, [3, 0, 0]);
    assert!(folder.path().join("generated/shop/applications/orders-agent").exists());
}

//! No secret and no token in a log, an error, a metric, an event or the database: everything is used and refused once,
//! then every place is searched for all of it.

use caracal_tests::{Agent, Options, Stack, Upstream, World};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// Stands in a request's id and in what an operator says, so it has to be found wherever there is anything to find.
const CANARY: &str = "canary-5e1f0c2d";
const API_KEY: &str = "pk_live_4fJ9sQ2xWv7LzRtB";
const OAUTH_SECRET: &str = "ocs_8mK3nQ7tYb2WxZpD";
const GATE: &str = "risk := [{\"scope\": \"orders:write\", \"tier\": \"high\"}]\n\
                    approval_tiers := [{\"tier\": \"high\", \"approver\": \"operator\"}]\n";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What must be nowhere, and what was answered and stored.
#[derive(Default)]
struct Search {
    /// Name and value.
    secrets: Vec<(String, String)>,
    /// Name and content.
    places: Vec<(String, Vec<u8>)>,
}

impl Search {
    fn secret(&mut self, name: &str, value: &str) {
        assert!(value.len() >= 12, "{name} is too short to be searched for");
        self.secrets.push((name.to_owned(), value.to_owned()));
    }

    /// The whole mandate, its payload and its signature.
    fn mandate(&mut self, name: &str, token: &str) {
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3, "{name} is no mandate");
        self.secret(name, token);
        self.secret(&format!("{name}'s payload"), parts[1]);
        self.secret(&format!("{name}'s signature"), parts[2]);
    }

    fn place(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.places.push((name.to_owned(), content.into()));
    }

    /// Sends a request; what comes back is a place to look at unless it is the secret itself that was asked for.
    async fn ask(&mut self, name: &str, request: RequestBuilder) -> (u16, String) {
        let answer = request.header("x-request-id", CANARY).send().await.unwrap();
        let status = answer.status().as_u16();
        let head = format!("{:?}", answer.headers());
        let body = answer.text().await.unwrap();
        self.place(&format!("the answer to {name}"), format!("{status} {head} {body}"));
        (status, body)
    }

    /// Like [`Self::ask`], where it has to be refused.
    async fn refused(&mut self, name: &str, request: RequestBuilder) {
        let (status, body) = self.ask(name, request).await;
        assert!((400..500).contains(&status), "{name}: {status} {body}");
    }

    /// Where this text stands.
    fn places_of(&self, text: &str) -> Vec<&str> {
        let holds = |content: &[u8]| content.windows(text.len()).any(|window| window == text.as_bytes());
        self.places.iter().filter(|(_, content)| holds(content)).map(|(name, _)| name.as_str()).collect()
    }

    fn all_found(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, value) in &self.secrets {
            for place in self.places_of(value) {
                found.push(format!("{name} in {place}"));
            }
        }
        found
    }

    /// Anything that has the form of a compact JWS, whoever made it.
    fn all_tokens(&self) -> Vec<String> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let mut found = Vec::new();
        for (name, content) in &self.places {
            for (at, _) in content.windows(3).enumerate().filter(|(_, window)| window == b"eyJ") {
                let rest = &content[at..];
                let end = rest.iter().position(|byte| !is_part(byte) && *byte != b'.').unwrap_or(rest.len());
                let parts: Vec<usize> = rest[..end].split(|byte| *byte == b'.').map(<[u8]>::len).collect();
                if parts.len() == 3 && parts.iter().all(|length| *length >= 20) {
                    found.push(format!("a token of {end} bytes in {name}"));
                }
            }
        }
        found
    }
}

/// A mint of that scope for the agent, with the request's own id.
fn mint(world: &World, agent: &Agent, secret: &str, scope: &str) -> RequestBuilder {
    let session = [
        ("scope", scope),
        ("agent_session_id", agent.session.as_str()),
        ("delegation_edge_id", agent.edge.as_str()),
    ];
    token(world, secret, &session)
}

fn token(world: &World, secret: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let form: Vec<(&str, &str)> = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", world.zone.as_str()),
        ("application_id", world.application.as_str()),
        ("client_secret", secret),
        ("resource", world.resource),
    ]
    .into_iter()
    .chain(fields.iter().copied())
    .collect();
    world.http.post(format!("{}/oauth/2/token", world.sts)).form(&form)
}

/// The text with its last character changed.
fn spoilt(text: &str) -> String {
    let mut spoilt = text.to_owned();
    let last = if spoilt.pop() == Some('A') { 'B' } else { 'A' };
    spoilt.push(last);
    spoilt
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged_told_measured_or_stored() {
    let environment = vec![("LOG_LEVEL".to_owned(), "debug".to_owned())];
    let stack = Stack::start_with(Options { environment, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let mut search = Search::default();
    for file in std::fs::read_dir(stack.folder().join("secrets")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        search.secret(&name, std::fs::read_to_string(&path).unwrap().trim());
    }
    assert!(search.secrets.len() >= 7, "the installation's own secrets are all here");
    search.secret("the client secret", &world.secret);

    through_the_sdk(&world).await;
    minting_and_using(&mut search, &stack, &world, &upstream).await;
    providers(&mut search, &world, &upstream).await;
    administration(&mut search, &stack, &world).await;
    everywhere_else(&mut search, &stack, &world).await;

    for (text, place) in [
        (CANARY, "caracal.db or its log"),
        (CANARY, "the answer to a wrong secret"),
        (CANARY, "the answer to a replay"),
        (CANARY, "the events"),
        ("a gateway could not be authenticated", "the log"),
        ("DEBUG", "the log"),
    ] {
        let found = search.places_of(text);
        assert!(found.contains(&place), "{text:?} is not in {place}: {found:?}");
    }
    assert_eq!(search.all_found(), Vec::<String>::new());
    assert_eq!(search.all_tokens(), Vec::<String>::new());
    the_search_finds_what_is_there();
}

/// The search itself can fail: a secret and a token that stand somewhere are found.
fn the_search_finds_what_is_there() {
    let mut search = Search::default();
    search.secret("a secret", API_KEY);
    let part = "a".repeat(30);
    search.place("a clean place", "nothing here, not even eyJ.eyJ.eyJ");
    assert_eq!((search.all_found().len(), search.all_tokens().len()), (0, 0));
    search.place("a log", format!("x {API_KEY} y"));
    search.place("an error", format!("token=eyJ{part}.{part}.{part}&"));
    assert_eq!(search.all_found(), ["a secret in a log"]);
    assert_eq!(search.all_tokens(), ["a token of 95 bytes in an error"]);
}

async fn through_the_sdk(world: &World) {
    let mut script = world.script(&["session.py"]);
    script.said().await;
    script.end().await;
}

async fn minting_and_using(search: &mut Search, stack: &Stack, world: &World, upstream: &Upstream) {
    let agent = world.agent().await;
    search.mandate("the bearer of the application", &agent.bearer);
    let mandate = world.mint(&agent).await;
    search.mandate("a gateway mandate", &mandate);
    assert_eq!(world.read(&mandate).await.status(), 200);
    let forwarded = upstream.seen().last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
    search.mandate("a resource mandate", forwarded.trim_start_matches("Bearer "));
    let call = |bearer: &str| {
        let request = world.http.get(format!("{}/v1/orders", world.gateway));
        request.header("x-caracal-resource", world.resource).bearer_auth(bearer)
    };
    search.refused("a replay", call(&mandate)).await;
    let unused = world.mint(&agent).await;
    search.mandate("an unused mandate", &unused);
    search.refused("a spoilt mandate", call(&spoilt(&unused))).await;
    search.refused("another class", call(&agent.bearer)).await;
    search
        .refused(
            "another operation",
            world
                .http
                .delete(format!("{}/v1/orders", world.gateway))
                .header("x-caracal-resource", world.resource)
                .bearer_auth(&unused),
        )
        .await;

    let wrong = spoilt(&world.secret);
    search.secret("a wrong client secret", &wrong);
    search.refused("a wrong secret", mint(world, &agent, &wrong, "orders:read")).await;
    search.refused("a wider scope", mint(world, &agent, &world.secret, "orders:fly")).await;
    let public = [("subject_token", unused.as_str()), ("subject_token_type", ACCESS_TOKEN)];
    search.refused("a mandate in public", token(world, &world.secret, &public)).await;
    let twice = [("client_secret", wrong.as_str())];
    search.refused("a secret that stands twice", token(world, &world.secret, &twice)).await;
    let query = format!("{}/oauth/2/token?client_secret={}", world.sts, world.secret);
    search.refused("a secret in the query", world.http.post(query).form(&[("x", "y")])).await;
    let signed = [public[0], public[1], ("gateway_request_id", CANARY)];
    let forged = token(world, &world.secret, &signed).header("x-caracal-gateway-signature", &wrong);
    search.refused("a forged gateway", forged).await;
    let json = json!({ "client_secret": world.secret, "subject_token": unused });
    search
        .refused("secrets in JSON", world.http.post(format!("{}/oauth/2/token", world.sts)).json(&json))
        .await;

    world.activate("gated", &world.policy(&world.application, "", GATE)).await;
    let writer = Agent { bearer: agent.bearer.clone(), ..world.agent().await };
    let (_, held) = search.ask("a held mint", mint(world, &writer, &world.secret, "orders:read")).await;
    if let Ok(held) = serde_json::from_str::<Value>(&held)
        && let Some(token) = held["access_token"].as_str()
    {
        // It was no gated scope: its answer is the mandate itself.
        search.mandate("a second mandate", token);
        search.places.pop();
    }
    for (name, path, fields) in [
        ("introspection", "introspect", [("token", unused.as_str())]),
        ("revocation", "revoke", [("token", unused.as_str())]),
    ] {
        let request = world.http.post(format!("{}/oauth/2/{path}", world.sts));
        let request = request.basic_auth(&world.application, Some(&world.secret)).form(&fields);
        let (status, body) = search.ask(name, request).await;
        assert_eq!(status, 200, "{name}: {body}");
        let request = world.http.post(format!("{}/oauth/2/{path}", world.sts));
        let request = request.basic_auth(&world.application, Some(&wrong)).form(&fields);
        search.refused(&format!("{name} with a wrong secret"), request).await;
    }
    let coordinator = format!("{}/zones/{}/agents", world.coordinator, world.zone);
    search
        .refused(
            "a spoilt bearer at the Coordinator",
            world.http.post(&coordinator).bearer_auth(spoilt(&agent.bearer)).json(&json!({})),
        )
        .await;
    search
        .refused(
            "a gateway mandate at the Coordinator",
            world
                .http
                .post(&coordinator)
                .bearer_auth(&mandate)
                .json(&json!({ "application_id": world.application, "note": world.secret })),
        )
        .await;
    let rotate = format!("{}/internal/zones/{}/signing-key/rotate", world.sts, world.zone);
    search
        .refused(
            "a rotation by nobody",
            world.http.post(&rotate).bearer_auth(spoilt(&stack.sts_admin_token())),
        )
        .await;
    let (status, _) =
        search.ask("a rotation", world.http.post(&rotate).bearer_auth(stack.sts_admin_token())).await;
    assert_eq!(status, 200);
}

async fn administration(search: &mut Search, stack: &Stack, world: &World) {
    let at = |path: &str| format!("{}{path}", world.admin);
    let wrong = spoilt(&stack.admin_token());
    search.secret("a wrong admin token", &wrong);
    search.refused("a wrong admin token", world.http.get(at("/v1/zones")).bearer_auth(&wrong)).await;
    let body = json!({ "name": "auditor", "scope": "global", "capability": "read" });
    let made = world.http.post(at("/v1/admin-tokens")).bearer_auth(&world.admin_token).json(&body);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let reader = made["token"].as_str().unwrap_or_else(|| panic!("no token in {made}"));
    search.secret("an admin token that was made", reader);
    let denied = json!({ "name": "x", "client_secret": world.secret, "registration_method": 7 });
    search
        .refused(
            "a change by a reader",
            world.http.post(at(&world.path("applications"))).bearer_auth(reader).json(&denied),
        )
        .await;
    search
        .refused(
            "a body that is none",
            world.http.post(at(&world.path("applications"))).bearer_auth(&world.admin_token).json(&denied),
        )
        .await;
    let rotated = world
        .operate(
            Method::POST,
            &world.path(&format!("applications/{}/rotate-secret", world.application)),
            Value::Null,
        )
        .await;
    search.secret("a rotated client secret", rotated["client_secret"].as_str().unwrap());
    let old = token(world, &world.secret, &[("scope", "agent:lifecycle")]);
    search.refused("the secret of before", old).await;
}

/// A provider with a key that is used, one with a secret whose service cannot be reached, and one that may not be.
async fn providers(search: &mut Search, world: &World, upstream: &Upstream) {
    search.secret("the provider's key", API_KEY);
    search.secret("the client secret at the provider", OAUTH_SECRET);
    let list = world.operate(Method::GET, &world.path("resources"), Value::Null).await;
    let resource = world.path(&format!("resources/{}", list["items"][0]["id"].as_str().unwrap()));
    let agent = world.agent().await;
    let keyed = json!({ "header_name": "X-Key", "api_key": API_KEY });
    let oauth = json!({
        "token_endpoint": "https://idp.invalid/token", "client_id": "caracal", "client_secret": OAUTH_SECRET,
    });
    for (kind, config, status) in [("oauth2_client_credentials", oauth, 502), ("api_key", keyed, 200)] {
        let provider = add_provider(search, world, kind, config).await;
        assert!((200..300).contains(&provider.0), "{kind}: {}", provider.1);
        let provider: Value = serde_json::from_str(&provider.1).unwrap();
        let change = json!({ "credential_provider_id": provider["id"] });
        world.operate(Method::PATCH, &resource, change).await;
        let mandate = world.mint(&agent).await;
        search.mandate(&format!("a mandate for {kind}"), &mandate);
        let request = world.http.get(format!("{}/v1/orders", world.gateway));
        let request = request.header("x-caracal-resource", world.resource).bearer_auth(&mandate);
        let (answered, body) = search.ask(&format!("a call with {kind}"), request).await;
        assert_eq!(answered, status, "{kind}: {body}");
    }
    let seen = upstream.seen();
    assert_eq!(seen.last().unwrap().headers["x-key"], API_KEY, "the key goes to the upstream alone");
    let bad = json!({ "header_name": "a b", "api_key": API_KEY });
    let (status, body) = add_provider(search, world, "api_key", bad).await;
    assert_eq!(status, 400, "{body}");
}

async fn add_provider(search: &mut Search, world: &World, kind: &str, config: Value) -> (u16, String) {
    let request = world.http.post(format!("{}{}", world.admin, world.path("providers")));
    let body = json!({ "name": kind, "kind": kind, "config_json": config });
    let request = request.bearer_auth(&world.admin_token).json(&body);
    search.ask(&format!("making a provider of kind {kind}"), request).await
}

/// Everything that can be read, and everything that was written.
async fn everywhere_else(search: &mut Search, stack: &Stack, world: &World) {
    let lists = [
        "applications",
        "providers",
        "resources",
        "policies",
        "policy-sets",
        "workloads",
        "approvals",
        "sessions",
        "authority-records",
        "audit?limit=1000",
        "admin-audit?limit=1000",
        "subject-issuers",
        "grants",
        "overview",
    ];
    for list in lists {
        let path = world.path(list);
        let request = world.http.get(format!("{}{path}", world.admin)).bearer_auth(&world.admin_token);
        let (status, body) = search.ask(&format!("the list {list}"), request).await;
        assert_eq!(status, 200, "{list}: {body}");
    }
    let events = world.audit("").await;
    assert!(events.iter().any(|event| event["event_type"] == "signing_key_rotated"));
    search.place("the events", serde_json::to_string(&events).unwrap());
    let explain = world.path(&format!("audit/by-request/{CANARY}/explain"));
    let explain = world.operate(Method::GET, &explain, Value::Null).await;
    search.place("the explanation", explain.to_string());
    for service in ["admin", "sts", "coordinator", "audit"] {
        for path in ["/metrics", "/metrics.json", "/health", "/ready"] {
            let (status, body) = search
                .ask(&format!("{path} of {service}"), world.http.get(format!("{}{path}", stack.url(service))))
                .await;
            assert_eq!(status, 200, "{path} of {service}: {body}");
            assert!(path != "/metrics" || body.contains("# TYPE caracal_"), "{service}: {body}");
        }
    }
    let (_, gateway) = search
        .ask("what the Gateway says of itself", world.http.get(format!("{}/health", world.gateway)))
        .await;
    drop(gateway);
    search.place("the log", stack.log());
    search.place("Envoy's log", stack.envoy_log());
    for name in ["envoy.json", "runtime.json"] {
        search.place(name, std::fs::read(stack.folder().join(name)).unwrap());
    }
    let mut database = Vec::new();
    for name in ["caracal.db", "caracal.db-wal", "caracal.db-shm"] {
        database.extend(std::fs::read(stack.folder().join(name)).unwrap_or_default());
    }
    search.place("caracal.db or its log", database);
}

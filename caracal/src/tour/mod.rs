//! The tour: one governed request from configuration to revocation, against what is really running.

mod client;
mod demo_upstream;

use crate::error::Error;
use crate::output::{faint, heading, success};
use crate::runtime::Running;
use client::{Answer, Caller};
use demo_upstream::DemoUpstream;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How many mandates are held ready when the session is revoked.
const HELD_MANDATES: usize = 40;
/// How long evidence may take to arrive.
const EVIDENCE: Duration = Duration::from_secs(10);
/// The resource of the tour.
const RESOURCE: &str = "resource://orders";

/// The way through.
pub(crate) struct Tour {
    caller: Caller,
    number: u32,
    /// What was called through the gateway: request id, what it was, expected decision.
    calls: Vec<(String, &'static str)>,
}

/// Who acts in the tour.
struct Actors {
    zone: String,
    application: String,
    secret: String,
}

impl Tour {
    /// A tour of a running Caracal.
    pub(crate) fn new(running: &Running, admin_token: &str) -> Result<Self, Error> {
        Ok(Self { caller: Caller::new(running, admin_token)?, number: 0, calls: Vec::new() })
    }

    fn step(&mut self, title: &str) {
        self.number = self.number.saturating_add(1);
        println!("\n{} {}", heading(&format!("{}.", self.number)), heading(title));
    }

    /// Calls the gateway, and notes the call for the audit trail.
    async fn call(
        &mut self,
        what: &'static str,
        method: Method,
        path: &str,
        mandate: Option<&str>,
    ) -> Result<Answer, Error> {
        let answer = self.caller.gateway(method, path, RESOURCE, mandate).await?;
        self.calls.push((answer.request_id.clone(), what));
        Ok(answer)
    }
}

/// Walks through it. An error names the step that did not do what it should.
pub(crate) async fn run(mut tour: Tour) -> Result<(), Error> {
    println!("{}", heading("A tour: what happens to one request of an agent."));
    tour.step("Start a demo upstream that answers with what it saw");
    let upstream = DemoUpstream::start().await?;
    tell(&format!("listening on http://{}", upstream.address));

    tour.step("Create a zone, an application, a resource and a policy");
    let actors = configure(&mut tour, &upstream).await?;

    tour.step("Call the gateway without a mandate");
    let answer = tour.call("no mandate", Method::GET, "/v1/orders", None).await?;
    expect(&answer, 401, "invalid_token")?;

    tour.step("Start a session, and a child that may only read");
    let lifecycle =
        tour.caller.bootstrap(&actors.zone, &actors.application, &actors.secret, RESOURCE).await?;
    let (child, edge) = start_sessions(&mut tour, &actors, &lifecycle).await?;

    tour.step("Mint a mandate for the child and call the gateway");
    let mandate = mint(&tour, &actors, &child, &edge).await?;
    let answer = tour.call("read", Method::GET, "/v1/orders", Some(&mandate)).await?;
    expect(&answer, 200, "")?;
    check_what_the_upstream_saw(&answer, &mandate)?;

    tour.step("Call outside the mandate's scope");
    let other = mint(&tour, &actors, &child, &edge).await?;
    let answer = tour.call("write", Method::POST, "/v1/orders", Some(&other)).await?;
    expect(&answer, 403, "operation_not_permitted")?;

    tour.step("Use the first mandate once more");
    let answer = tour.call("replay", Method::GET, "/v1/orders", Some(&mandate)).await?;
    expect(&answer, 401, "invalid_token")?;

    tour.step("End the session and see how soon the next call is refused");
    revoke(&mut tour, &actors, &child, &edge, &lifecycle).await?;

    tour.step("Read the audit trail of exactly these calls");
    read_trail(&tour, &actors).await?;
    upstream.stop().await;
    Ok(())
}

async fn configure(tour: &mut Tour, upstream: &DemoUpstream) -> Result<Actors, Error> {
    let admin = &tour.caller;
    let zone = admin.admin(Method::POST, "/v1/zones", json!({ "name": "tour" })).await?;
    let zone = text(&zone, "id")?;
    let path = |rest: &str| format!("/v1/zones/{zone}/{rest}");
    let body = json!({ "name": "orders-agent", "registration_method": "managed" });
    let application = admin.admin(Method::POST, &path("applications"), body).await?;
    let (application, secret) = (text(&application, "id")?, text(&application, "client_secret")?);
    let body = json!({ "name": "mandate", "kind": "caracal_mandate" });
    let provider = text(&admin.admin(Method::POST, &path("providers"), body).await?, "id")?;
    let body = json!({
        "identifier": RESOURCE,
        "upstream_url": format!("http://{}", upstream.address),
        "scopes": ["orders:read", "orders:write"],
        "credential_provider_id": provider,
        "operations": [
            { "method": "GET", "path": "/v1/orders", "scope": "orders:read" },
            { "method": "POST", "path": "/v1/orders", "scope": "orders:write" },
        ],
        "operation_enforcement": "enforced",
    });
    admin.admin(Method::POST, &path("resources"), body).await?;
    let document = policy(&application);
    let body = json!({ "name": "orders", "content": document });
    let version = text(&admin.admin(Method::POST, &path("policies"), body).await?, "version_id")?;
    let set = text(&admin.admin(Method::POST, &path("policy-sets"), json!({ "name": "tour" })).await?, "id")?;
    let body = json!({ "manifest": [{ "policy_version_id": version }] });
    let set_version = admin.admin(Method::POST, &path(&format!("policy-sets/{set}/versions")), body).await?;
    let body = json!({ "version_id": text(&set_version, "version_id")? });
    admin.admin(Method::POST, &path(&format!("policy-sets/{set}/activate")), body).await?;
    tell(&format!("zone {zone}, application {application}"));
    tell(&format!("{RESOURCE}: GET /v1/orders needs orders:read, POST needs orders:write"));
    tell("the policy, as data: sessions labelled `reader` may read, `clerk` may read and write");
    Ok(Actors { zone, application, secret })
}

fn policy(application: &str) -> String {
    format!(
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {{\"orders-agent\": \"{application}\"}}\n\n\
         grants := {{\"{RESOURCE}\": {{\n  \"application\": \"orders-agent\",\n  \"roles\": {{\n    \
         \"reader\": [\"orders:read\"],\n    \"clerk\": [\"orders:read\", \"orders:write\"]\n  }}\n}}}}\n"
    )
}

/// A root session and a child that got nothing but reading.
async fn start_sessions(tour: &mut Tour, actors: &Actors, bearer: &str) -> Result<(String, String), Error> {
    let agents = format!("/zones/{}/agents", actors.zone);
    let body = json!({ "application_id": actors.application, "labels": ["clerk"], "ttl_seconds": 600 });
    let root = tour.caller.coordinator(Method::POST, &agents, bearer, Some(body)).await?;
    let root = text(&root, "agent_session_id")?;
    let body = json!({
        "application_id": actors.application, "labels": ["reader"], "parent_id": root, "parent_authority": "none",
    });
    let child = tour.caller.coordinator(Method::POST, &agents, bearer, Some(body)).await?;
    let child = text(&child, "agent_session_id")?;
    let body = json!({
        "issuer_application_id": actors.application, "receiver_application_id": actors.application,
        "source_session_id": root, "target_session_id": child,
        "scopes": ["orders:read"], "resource_id": RESOURCE, "ttl_seconds": 300,
    });
    let delegations = format!("/zones/{}/delegations", actors.zone);
    let edge = tour.caller.coordinator(Method::POST, &delegations, bearer, Some(body)).await?;
    let edge = text(&edge, "delegation_edge_id")?;
    tell(&format!("session {root} delegated orders:read to its child {child}"));
    Ok((child, edge))
}

async fn mint(tour: &Tour, actors: &Actors, session: &str, edge: &str) -> Result<String, Error> {
    let form = [
        ("zone_id", actors.zone.as_str()),
        ("application_id", &actors.application),
        ("client_secret", &actors.secret),
        ("resource", RESOURCE),
        ("scope", "orders:read"),
        ("agent_session_id", session),
        ("delegation_edge_id", edge),
    ];
    tour.caller.mint(&form).await
}

fn check_what_the_upstream_saw(answer: &Answer, mandate: &str) -> Result<(), Error> {
    let seen: Value = serde_json::from_str(&answer.body)
        .map_err(|error| Error::Tour(format!("the upstream's answer is no JSON: {error}")))?;
    let authorization = seen.pointer("/headers/authorization").and_then(Value::as_str).unwrap_or_default();
    tell(&format!("the upstream saw {} {}", text(&seen, "method")?, text(&seen, "path")?));
    let claims = client::claims(authorization.strip_prefix("Bearer ").unwrap_or_default());
    let claims = claims.ok_or_else(|| Error::Tour("the upstream got no mandate of its own".into()))?;
    if authorization.ends_with(mandate) {
        return Err(Error::Tour("the caller's mandate reached the upstream".into()));
    }
    if seen.pointer("/headers/x-caracal-resource").is_some() {
        return Err(Error::Tour("a routing header reached the upstream".into()));
    }
    for claim in ["use", "aud", "scope", "sub", "agent_session_id", "hop_count"] {
        tell(&faint(&format!("  {claim} = {}", claims.get(claim).unwrap_or(&Value::Null))));
    }
    Ok(())
}

/// Ends the session while mandates that were minted before are held ready, and presents them one after the other.
async fn revoke(
    tour: &mut Tour,
    actors: &Actors,
    session: &str,
    edge: &str,
    bearer: &str,
) -> Result<(), Error> {
    let mut mandates = Vec::with_capacity(HELD_MANDATES);
    for _ in 0..HELD_MANDATES {
        mandates.push(mint(tour, actors, session, edge).await?);
    }
    let path = format!("/zones/{}/agents/{session}", actors.zone);
    tour.caller.coordinator(Method::DELETE, &path, bearer, None).await?;
    let ended = Instant::now();
    let mut passed = 0;
    for mandate in &mandates {
        let answer = tour.call("after the end", Method::GET, "/v1/orders", Some(mandate)).await?;
        let after = ended.elapsed();
        if answer.status == 200 {
            passed += 1;
            continue;
        }
        tell(&format!("{} {}", answer.status, answer.body.trim()));
        tell(&success(&format!(
            "refused {:.2} ms after the answer to the revocation; {passed} calls passed in between",
            after.as_secs_f64() * 1000.0
        )));
        return if passed == 0 {
            Ok(())
        } else {
            Err(Error::Tour(format!("{passed} calls passed after the session had ended")))
        };
    }
    Err(Error::Tour(format!("{passed} calls passed after the session had ended, and none was refused")))
}

async fn read_trail(tour: &Tour, actors: &Actors) -> Result<(), Error> {
    let since = Instant::now();
    loop {
        let mut missing = None;
        let mut lines = Vec::new();
        for (request_id, what) in &tour.calls {
            let events = tour.caller.trail(&actors.zone, request_id).await?;
            if events.is_empty() {
                missing = Some(*what);
            }
            for event in events {
                lines.push(client::describe(what, &event));
            }
        }
        match missing {
            None => {
                lines.iter().for_each(|line| tell(line));
                return Ok(());
            }
            Some(what) if since.elapsed() > EVIDENCE => {
                return Err(Error::Tour(format!("no evidence of the call {what:?} arrived")));
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn expect(answer: &Answer, status: u16, code: &str) -> Result<(), Error> {
    let got: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let error = got.get("error").and_then(Value::as_str).unwrap_or_default();
    if answer.status == status && (code.is_empty() || error == code) {
        let said = if code.is_empty() { String::new() } else { format!(" {}", answer.body.trim()) };
        tell(&format!("{}{said}", success(&answer.status.to_string())));
        return Ok(());
    }
    Err(Error::Tour(format!("expected {status} {code}, got {} {}", answer.status, answer.body.trim())))
}

fn text(value: &Value, member: &str) -> Result<String, Error> {
    let found = value.get(member).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Error::Tour(format!("an answer has no {member}: {value}")))
}

fn tell(line: &str) {
    println!("   {line}");
}

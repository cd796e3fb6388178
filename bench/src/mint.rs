//! `bench mint`: the token exchange of the real binary, with its database on disk and every event recorded.

use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::load::{Plan, Report, Worker, run};
use crate::machine::{Machine, memory};
use crate::stack::Stack;
use crate::world::{Agent, RESOURCE, World, good, refused, text};
use crate::{Options, policy};
use caracal_mandate::gateway_signature::{
    GatewayKey, NONCE_HEADER, SIGNATURE_HEADER, Signed, TIMESTAMP_HEADER,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TOKEN_PATH: &str = "/oauth/2/token";
/// More than any machine mints in a minute: the operator's own option, so that the budget is counted but not used up.
const MINT_LIMIT: &str = "1000000000";
const WARM_UP: Duration = Duration::from_secs(2);

const RATE: Goal = Goal::AtLeast(4000.0);
const P99_MS: Goal = Goal::AtMost(10.0);
const MEMORY_MIB: Goal = Goal::AtMost(64.0);

/// Measures everything.
pub(crate) async fn measure(options: &Options) -> Result<Figures, Error> {
    let mut figures = Figures::new("mint", Machine::look());
    policy::measure(&mut figures)?;
    let stack = Stack::start(&options.binaries, &["--mint-limit", MINT_LIMIT]).await?;
    let result = measure_on(&stack, options, &mut figures).await;
    stack.stop().await?;
    result.map(|()| figures)
}

async fn measure_on(stack: &Stack, options: &Options, figures: &mut Figures) -> Result<(), Error> {
    let pid = stack.addresses.pid;
    let world = World::configure(stack).await?;
    let key = GatewayKey::from_hex(&stack.gateway_key()?)
        .map_err(|error| Error::answer("the gateway's key", error.to_string()))?;
    let bearer = world.bootstrap().await?;
    let agent = world.agent(&bearer).await?;
    check_bootstrap(&world).await?;
    check_delegated(&world, &agent, &bearer).await?;
    check_gateway(&world, &agent, &key).await?;
    figures.push(Figure::new("memory_idle", memory(pid).0, "MiB"));

    let plan = Plan { address: stack.addresses.sts, pid, warm_up: WARM_UP, measured: options.measured() };
    let request = Rc::new(token_request(plan.address, &world.form(&[("scope", "agent:lifecycle")]), &[]));
    let report = run(plan, workers(options, || Repeated::new(&request, None))).await?;
    push_rates(figures, "bootstrap_mint", &report, true);

    let kept = Rc::new(RefCell::new(Vec::new()));
    let request = Rc::new(token_request(plan.address, &delegated_form(&world, &agent, "orders:read"), &[]));
    let report = run(plan, workers(options, || Repeated::new(&request, Some(&kept)))).await?;
    push_rates(figures, "delegated_mint", &report, true);
    figures.push(Figure::new("memory_after_mints", memory(pid).0, "MiB"));

    let signer = Rc::new(Signer { world: world.clone(), key, address: plan.address, mandates: kept });
    let report = run(plan, workers(options, || Exchange { signer: Rc::clone(&signer) })).await?;
    push_rates(figures, "gateway_exchange", &report, false);
    let (now, peak) = memory(pid);
    // The whole control plane: STS, Coordinator, Admin API, audit ledger and their store in one process, Envoy beside it.
    figures.push(Figure::new("memory_of_all_services", now, "MiB").with_goal(MEMORY_MIB));
    figures.push(Figure::new("memory_of_all_services_peak", peak, "MiB"));
    Ok(())
}

fn push_rates(figures: &mut Figures, kind: &str, report: &Report, has_rate_goal: bool) {
    let rate = Figure::new(format!("{kind}_rate"), report.rate, "1/s");
    figures.push(if has_rate_goal { rate.with_goal(RATE) } else { rate });
    figures.push(Figure::new(format!("{kind}_p50"), report.latency_ms(0.5), "ms"));
    figures.push(Figure::new(format!("{kind}_p99"), report.latency_ms(0.99), "ms").with_goal(P99_MS));
    figures.push(Figure::new(format!("{kind}_server_time"), report.server_us, "us"));
    figures.push(Figure::new(format!("{kind}_generator_time"), report.generator_us, "us"));
    figures.push(Figure::new(format!("{kind}_taken_by_others"), report.others_percent, "%"));
}

fn workers<W>(options: &Options, make: impl Fn() -> W) -> Vec<W> {
    (0..options.connections).map(|_| make()).collect()
}

pub(crate) fn delegated_form(world: &World, agent: &Agent, scope: &str) -> String {
    world.form(&[("scope", scope), ("agent_session_id", &agent.session), ("delegation_edge_id", &agent.edge)])
}

/// A whole request to the token endpoint.
pub(crate) fn token_request(address: SocketAddr, form: &str, headers: &[(String, String)]) -> Vec<u8> {
    let mut text = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n",
        form.len()
    );
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.push_str(form);
    text.into_bytes()
}

/// The same request again and again, each of which has to be granted.
struct Repeated {
    request: Rc<Vec<u8>>,
    /// Where the mandates are kept.
    kept: Option<Rc<RefCell<Vec<String>>>>,
}

impl Repeated {
    fn new(request: &Rc<Vec<u8>>, kept: Option<&Rc<RefCell<Vec<String>>>>) -> Self {
        Self { request: Rc::clone(request), kept: kept.cloned() }
    }
}

impl Worker for Repeated {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.request);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let token = granted_token(status, body)?;
        if let Some(kept) = &self.kept {
            kept.borrow_mut().push(token.to_owned());
        }
        Ok(())
    }
}

/// The token of a grant, found without reading the whole answer: base64url and dots need no escaping.
pub(crate) fn granted_token(status: u16, body: &[u8]) -> Result<&str, String> {
    let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let token = body.split_once("\"access_token\":\"").and_then(|(_, rest)| rest.split_once('"'));
    match (status, token) {
        (200, Some((token, _))) => Ok(token),
        _ => Err(format!("{status} {body}")),
    }
}

/// Makes the requests of a gateway, each with a mandate that was not used yet.
struct Signer {
    world: World,
    key: GatewayKey,
    address: SocketAddr,
    mandates: Rc<RefCell<Vec<String>>>,
}

struct Exchange {
    signer: Rc<Signer>,
}

impl Worker for Exchange {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(mandate) = self.signer.mandates.borrow_mut().pop() else { return false };
        let (form, headers) = gateway_call(&self.signer.world, &self.signer.key, &mandate, "/v1/orders");
        out.extend_from_slice(&token_request(self.signer.address, &form, &headers));
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        granted_token(status, body).map(|_| ())
    }
}

/// The form and the signed headers with which a gateway asks on behalf of a caller.
pub(crate) fn gateway_call(
    world: &World,
    key: &GatewayKey,
    mandate: &str,
    path: &str,
) -> (String, Vec<(String, String)>) {
    let request_id = uuid::Uuid::now_v7().to_string();
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("zone_id", &world.zone)
        .append_pair("application_id", &world.application)
        .append_pair("resource", RESOURCE)
        .append_pair("subject_token", mandate)
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
        .append_pair("request_method", "GET")
        .append_pair("request_path", path)
        .append_pair("gateway_request_id", &request_id)
        .finish();
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()).to_string();
    let nonce = uuid::Uuid::now_v7().to_string();
    let signed = Signed {
        timestamp: &timestamp,
        nonce: &nonce,
        method: "POST",
        path: TOKEN_PATH,
        body: form.as_bytes(),
    };
    let signature = key.sign(&signed);
    let headers = [
        ("x-request-id", request_id),
        (TIMESTAMP_HEADER, timestamp),
        (NONCE_HEADER, nonce),
        (SIGNATURE_HEADER, signature),
    ];
    (form, headers.map(|(name, value)| (name.to_owned(), value)).into())
}

/// An application's own mandate is granted; a wrong secret and an undeclared scope are not.
async fn check_bootstrap(world: &World) -> Result<(), Error> {
    world.bootstrap().await?;
    let wrong = world.with_secret("cs_wrong");
    let answer = wrong.token(wrong.form(&[("scope", "agent:lifecycle")]), &[]).await?;
    refused("a wrong secret", answer, StatusCode::UNAUTHORIZED).await?;
    let answer = world.token(world.form(&[("scope", "orders:delete")]), &[]).await?;
    refused("an undeclared scope", answer, StatusCode::FORBIDDEN).await
}

/// A delegated mandate is granted; a wider scope, and one of an edge that was revoked, are not.
async fn check_delegated(world: &World, agent: &Agent, bearer: &str) -> Result<(), Error> {
    let answer = world.token(delegated_form(world, agent, "orders:read"), &[]).await?;
    good("a delegated mandate", answer).await?;
    let answer = world.token(delegated_form(world, agent, "orders:write"), &[]).await?;
    refused("a wider scope", answer, StatusCode::FORBIDDEN).await?;
    let other = world.agent(bearer).await?;
    good("another's mandate", world.token(delegated_form(world, &other, "orders:read"), &[]).await?).await?;
    let path = format!("delegations/{}/revoke", other.edge);
    let answer = world.coordinate(Method::PATCH, &path, bearer, None).await?;
    good("revoking an edge", answer).await?;
    let answer = world.token(delegated_form(world, &other, "orders:read"), &[]).await?;
    refused("a revoked edge", answer, StatusCode::FORBIDDEN).await
}

/// A gateway's exchange is granted once; again, for another operation, or with another signature it is not.
async fn check_gateway(world: &World, agent: &Agent, key: &GatewayKey) -> Result<(), Error> {
    let mint = || async {
        let answer = world.token(delegated_form(world, agent, "orders:read"), &[]).await?;
        text(&good("a delegated mandate", answer).await?, "access_token")
    };
    let mandate = mint().await?;
    let (form, headers) = gateway_call(world, key, &mandate, "/v1/orders");
    let answer: Value = good("a gateway's exchange", world.token(form, &headers).await?).await?;
    if answer.pointer("/upstreams").is_none() {
        return Err(Error::answer("a gateway's exchange", format!("no upstream in {answer}")));
    }
    let (form, headers) = gateway_call(world, key, &mandate, "/v1/orders");
    let answer = world.token(form, &headers).await?;
    refused("a mandate that was used", answer, StatusCode::UNAUTHORIZED).await?;
    let mandate = mint().await?;
    let (form, headers) = gateway_call(world, key, &mandate, "/v1/secrets");
    let answer = world.token(form, &headers).await?;
    refused("an operation that is not permitted", answer, StatusCode::FORBIDDEN).await?;
    let (form, mut headers) = gateway_call(world, key, &mandate, "/v1/orders");
    headers.retain(|(name, _)| name != SIGNATURE_HEADER);
    headers.push((SIGNATURE_HEADER.to_owned(), "00".repeat(32)));
    let answer = world.token(form, &headers).await?;
    refused("a wrong signature", answer, StatusCode::UNAUTHORIZED).await
}

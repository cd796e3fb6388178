//! `bench sessions`: what agents do at the Coordinator, in a zone that is full of sessions.

use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::load::{Plan, Report, Worker, run};
use crate::machine::{Machine, ProcessorTime, memory};
use crate::revocation::{self, Caller};
use crate::stack::Stack;
use crate::upstream;
use crate::world::{Agent, RESOURCE, World, good, refused};
use crate::{Options, Parted};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How many sessions live in the zone meanwhile.
const SESSIONS: usize = 100_000;
/// How many live below the session that is revoked.
const DESCENDANTS: usize = 10_000;
/// How many children a session may have.
const CHILDREN: usize = 10;
/// How many edges a delegation path may have.
const HOPS: u32 = 10;
/// The operator's own options: the limits are counted, but not reached.
const LIMITS: [&str; 6] =
    ["--max-agents-per-zone", "10000000", "--max-agents-per-app", "10000000", "--mint-limit", "1000000000"];
const WARM_UP: Duration = Duration::from_secs(1);

const PAIRS: Goal = Goal::AtLeast(3000.0);
const DELEGATION_P50_MS: Goal = Goal::AtMost(1.0);
const REVOCATION_MS: Goal = Goal::AtMost(1000.0);
const ENFORCED_P99_MS: Goal = Goal::AtMost(10.0);

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// How soon the Gateway refuses what ended.
    Enforcement,
    /// Sessions that are started and ended.
    Pairs,
    /// Delegations at the full depth.
    Delegation,
    /// The end of a session with ten thousand below it.
    Revocation,
}

/// Measures what is wanted.
pub(crate) async fn measure(parted: &Parted<Part>) -> Result<Figures, Error> {
    let options = &parted.options;
    let mut figures = Figures::new("sessions", Machine::look());
    let upstream = format!("http://{}", upstream::start()?);
    let stack = Stack::start(&options.binaries, &LIMITS).await?;
    let result = measure_on(&stack, &upstream, parted, &mut figures).await;
    stack.stop().await?;
    result.map(|()| figures)
}

async fn measure_on(
    stack: &Stack,
    upstream: &str,
    parted: &Parted<Part>,
    figures: &mut Figures,
) -> Result<(), Error> {
    let world = World::configure_before(stack, upstream, "single").await?;
    let reused = World::configure_before(stack, upstream, "multi").await?;
    let bench = Bench { stack, world: &world, options: &parted.options };
    let bearer = world.bootstrap().await?;
    bench.check(&bearer).await?;
    if parted.wants(&Part::Enforcement) {
        bench.enforce(figures, "single_use", &world).await?;
        bench.enforce(figures, "multi_use", &reused).await?;
    }
    if parted.parts != [Part::Enforcement] {
        let targets = bench.fill(figures, &bearer).await?;
        if parted.wants(&Part::Pairs) {
            bench.start_and_end(figures, &bearer).await?;
        }
        if parted.wants(&Part::Delegation) {
            bench.delegate(figures, targets).await?;
        }
        if parted.wants(&Part::Revocation) {
            bench.revoke(figures).await?;
        }
    }
    figures.push(Figure::new("memory_of_all_services", memory(stack.addresses.pid).0, "MiB"));
    Ok(())
}

struct Bench<'a> {
    stack: &'a Stack,
    world: &'a World,
    options: &'a Options,
}

impl Bench<'_> {
    fn plan(&self, warm_up: Duration, measured: Duration) -> Plan {
        let addresses = &self.stack.addresses;
        Plan { address: addresses.coordinator, pid: addresses.pid, warm_up, measured }
    }

    fn connections<W>(&self, make: impl Fn() -> W) -> Vec<W> {
        (0..self.options.connections).map(|_| make()).collect()
    }

    /// Everything that is measured grants what it must and refuses what it must.
    async fn check(&self, bearer: &str) -> Result<(), Error> {
        let world = self.world;
        let post = |path: &'static str, body: Value| world.coordinate(Method::POST, path, bearer, Some(body));
        let mut caller = Caller::connect(self.stack).await?;
        let stranger = json!({ "application_id": "somebody-else" });
        refused("another's session", post("agents", stranger).await?, StatusCode::FORBIDDEN).await?;
        let agent = world.agent(bearer).await?;
        let (used, held) = (revocation::mint(world, &agent).await?, revocation::mint(world, &agent).await?);
        expect("a live mandate", caller.call(&used).await?, 200)?;
        let target = world.start_session(bearer, json!({})).await?;
        let wider = self.edge(&agent.session, &target, 1, &["orders:read", "orders:write"]);
        refused("a wider delegation", post("delegations", wider).await?, StatusCode::FORBIDDEN).await?;
        let deeper = self.edge(&agent.session, &target, 1, &["orders:read"]);
        refused("a hop too many", post("delegations", deeper).await?, StatusCode::FORBIDDEN).await?;
        let path = format!("agents/{}", agent.session);
        good("an end", world.coordinate(Method::DELETE, &path, bearer, None).await?).await?;
        let again = world.coordinate(Method::DELETE, &path, bearer, None).await?;
        refused("a second end", again, StatusCode::NOT_FOUND).await?;
        expect_refused("a mandate of an ended session", caller.call(&held).await?)?;
        let minted = revocation::mint(world, &agent).await;
        let is_refused = minted.is_err_and(|error| error.to_string().contains("403"));
        if is_refused { Ok(()) } else { Err(Error::answer("a mint for an ended session", "was not refused")) }
    }

    /// The body of a delegation of this zone's application.
    fn edge(&self, source: &str, target: &str, hops: u32, scopes: &[&str]) -> Value {
        let application = &self.world.application;
        // An edge ends before the one that it narrows, which is made earlier and has more hops.
        let ttl_seconds = 600 + 200 * hops;
        json!({
            "issuer_application_id": application, "receiver_application_id": application,
            "source_session_id": source, "target_session_id": target, "scopes": scopes,
            "resource_id": RESOURCE, "ttl_seconds": ttl_seconds,
            "constraints": { "max_hops": hops, "ttl_seconds": ttl_seconds },
        })
    }

    async fn enforce(&self, figures: &mut Figures, kind: &str, world: &World) -> Result<(), Error> {
        let bearer = world.bootstrap().await?;
        let enforced = revocation::measure(self.stack, world, &bearer, kind == "multi_use").await?;
        let refused = Figure::new(format!("{kind}_refused_after_answer_p99"), enforced.refused_p99(), "ms");
        figures.push(refused.with_goal(ENFORCED_P99_MS));
        figures.push(Figure::new(format!("{kind}_passed_after_answer_p99"), enforced.passed_p99(), "ms"));
        Ok(())
    }

    /// Fills the zone; answers the sessions.
    async fn fill(&self, figures: &mut Figures, bearer: &str) -> Result<Vec<String>, Error> {
        let body = json!({ "application_id": self.world.application, "ttl_seconds": 3600 }).to_string();
        let address = self.stack.addresses.coordinator;
        let path = format!("/zones/{}/agents", self.world.zone);
        let starts = Rc::new(Starts {
            request: request("POST", &path, address, bearer, &body),
            left: Cell::new(SESSIONS),
            sessions: RefCell::new(Vec::with_capacity(SESSIONS)),
        });
        let plan = self.plan(Duration::ZERO, Duration::from_secs(3600));
        let report = run(plan, self.connections(|| Start(Rc::clone(&starts)))).await?;
        push(figures, "session_create", &report, None);
        let sessions = starts.sessions.take();
        if sessions.len() < SESSIONS {
            return Err(Error::answer("filling the zone", format!("{} sessions", sessions.len())));
        }
        Ok(sessions)
    }

    /// Starts sessions and ends them.
    async fn start_and_end(&self, figures: &mut Figures, bearer: &str) -> Result<(), Error> {
        let address = self.stack.addresses.coordinator;
        let path = format!("/zones/{}/agents", self.world.zone);
        let body = json!({ "application_id": self.world.application }).to_string();
        let shared = Rc::new(Lives {
            start: request("POST", &path, address, bearer, &body),
            path,
            address,
            bearer: bearer.to_owned(),
            left: Cell::new(usize::MAX),
        });
        let plan = self.plan(WARM_UP, self.options.measured());
        let workers = self.connections(|| Life { shared: Rc::clone(&shared), session: None });
        let report = run(plan, workers).await?;
        // A start and an end are two answers.
        let pairs = Figure::new("session_create_and_close_rate", report.rate / 2.0, "1/s").with_goal(PAIRS);
        figures.push(pairs);
        push(figures, "session_create_or_close", &report, None);
        Ok(())
    }

    /// Delegates from the end of a path that leaves room for one more edge.
    async fn delegate(&self, figures: &mut Figures, mut targets: Vec<String>) -> Result<(), Error> {
        let bearer = self.world.bootstrap().await?;
        let mut source = self.world.start_session(&bearer, json!({})).await?;
        for hops in (2..=HOPS).rev() {
            let next = self.world.start_session(&bearer, json!({})).await?;
            let body = self.edge(&source, &next, hops, &["orders:read"]);
            let answer = self.world.coordinate(Method::POST, "delegations", &bearer, Some(body)).await?;
            good("an edge of the path", answer).await?;
            source = next;
        }
        let path = format!("/zones/{}/delegations", self.world.zone);
        let address = self.stack.addresses.coordinator;
        let rest = targets.split_off(targets.len() / 2);
        for (kind, connections, targets) in
            [("delegation", 1, targets), ("delegation_under_load", self.options.connections, rest)]
        {
            let shared = Rc::new(Edges {
                head: (path.clone(), address, bearer.clone()),
                body: self.edge(&source, "$target", 1, &["orders:read"]).to_string(),
                targets: RefCell::new(targets),
            });
            let workers = (0..connections).map(|_| Edge(Rc::clone(&shared))).collect();
            let report = run(self.plan(WARM_UP, self.options.measured()), workers).await?;
            push(figures, kind, &report, (connections == 1).then_some(DELEGATION_P50_MS));
        }
        Ok(())
    }

    /// Ends a session with ten thousand below it, each with a delegation of its own.
    async fn revoke(&self, figures: &mut Figures) -> Result<(), Error> {
        let bearer = self.world.bootstrap().await?;
        let top = self.world.start_session(&bearer, json!({ "labels": ["clerk"] })).await?;
        let child = json!({ "parent_id": top, "parent_authority": "none", "labels": ["reader"] });
        let root = self.world.start_session(&bearer, child).await?;
        let body = self.edge(&top, &root, HOPS, &["orders:read"]);
        good(
            "the root's edge",
            self.world.coordinate(Method::POST, "delegations", &bearer, Some(body)).await?,
        )
        .await?;
        let leaf = self.grow(&bearer, &root).await?;
        let held = revocation::mint(self.world, &leaf).await?;
        let mut caller = Caller::connect(self.stack).await?;
        let (before, begun) = (ProcessorTime::of(self.stack.addresses.pid), Instant::now());
        let path = format!("agents/{root}");
        let answer = self.world.coordinate(Method::DELETE, &path, &bearer, None).await?;
        let taken = begun.elapsed();
        good("the end of the root", answer).await?;
        let late = caller.call(&held).await?;
        let enforced = begun.elapsed().saturating_sub(taken);
        expect_refused("a mandate of a descendant", late)?;
        if revocation::mint(self.world, &leaf).await.is_ok() {
            return Err(Error::answer("a mint for a descendant", "was not refused"));
        }
        let used = ProcessorTime::of(self.stack.addresses.pid).since(before).process;
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        figures.push(Figure::new("revoke_10000_descendants", millis(taken), "ms").with_goal(REVOCATION_MS));
        figures.push(Figure::new("revoke_10000_descendants_server_time", millis(used), "ms"));
        figures.push(Figure::new("revoke_10000_refused_after_answer", millis(enforced), "ms"));
        Ok(())
    }

    /// Starts sessions below a root, as wide as a session may have children; answers the last one.
    async fn grow(&self, bearer: &str, root: &str) -> Result<Agent, Error> {
        let tree = Rc::new(Tree {
            head: (
                format!("/zones/{}/agents", self.world.zone),
                self.stack.addresses.coordinator,
                bearer.to_owned(),
            ),
            application: self.world.application.clone(),
            left: Cell::new(DESCENDANTS),
            parents: RefCell::new(vec![(root.to_owned(), CHILDREN)]),
            waiting: Cell::new(0),
            last: RefCell::new(None),
        });
        // One connection: a parent has to be there before its children.
        let plan = self.plan(Duration::ZERO, Duration::from_secs(3600));
        run(plan, vec![Branch(Rc::clone(&tree))]).await?;
        let last = tree.last.borrow_mut().take();
        last.ok_or_else(|| Error::answer("the tree", "nothing was started"))
    }
}

pub(crate) fn push(figures: &mut Figures, kind: &str, report: &Report, p50: Option<Goal>) {
    figures.push(Figure::new(format!("{kind}_rate"), report.rate, "1/s"));
    figures.push(Figure::new(format!("{kind}_p50"), report.latency_ms(0.5), "ms").with_goal(p50));
    figures.push(Figure::new(format!("{kind}_p99"), report.latency_ms(0.99), "ms"));
    figures.push(Figure::new(format!("{kind}_server_time"), report.server_us, "us"));
    figures.push(Figure::new(format!("{kind}_taken_by_others"), report.others_percent, "%"));
}

fn expect(what: &str, status: u16, expected: u16) -> Result<(), Error> {
    if status == expected {
        return Ok(());
    }
    Err(Error::answer(what, format!("{status} instead of {expected}")))
}

/// The filter refuses with 401 by its feed, the STS with 403 by what it reads: whichever hears of an end first.
fn expect_refused(what: &str, status: u16) -> Result<(), Error> {
    if status == 403 { Ok(()) } else { expect(what, status, 401) }
}

/// A whole request with a bearer.
pub(crate) fn request(method: &str, path: &str, address: SocketAddr, bearer: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A member that is text, of an answer that has to be 201, found without reading the whole answer.
pub(crate) fn created<'a>(status: u16, body: &'a [u8], member: &str) -> Result<&'a str, String> {
    let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let found = body
        .split_once(&format!("\"{member}\":\""))
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(text, _)| text);
    match (status, found) {
        (201, Some(text)) => Ok(text),
        _ => Err(format!("{status} {body}")),
    }
}

struct Starts {
    request: Vec<u8>,
    left: Cell<usize>,
    sessions: RefCell<Vec<String>>,
}

/// Starts sessions that stay.
struct Start(Rc<Starts>);

impl Worker for Start {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(left) = self.0.left.get().checked_sub(1) else { return false };
        self.0.left.set(left);
        out.extend_from_slice(&self.0.request);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let session = created(status, body, "agent_session_id")?;
        self.0.sessions.borrow_mut().push(session.to_owned());
        Ok(())
    }
}

struct Lives {
    start: Vec<u8>,
    path: String,
    address: SocketAddr,
    bearer: String,
    /// How many are still to be started.
    left: Cell<usize>,
}

/// Starts a session, ends it, and begins anew.
struct Life {
    shared: Rc<Lives>,
    session: Option<String>,
}

/// Starts so many sessions and ends each, so that so many are revoked.
pub(crate) async fn revoke_many(
    stack: &Stack,
    world: &World,
    bearer: &str,
    count: usize,
    connections: u16,
) -> Result<(), Error> {
    let address = stack.addresses.coordinator;
    let path = format!("/zones/{}/agents", world.zone);
    let body = json!({ "application_id": world.application }).to_string();
    let shared = Rc::new(Lives {
        start: request("POST", &path, address, bearer, &body),
        path,
        address,
        bearer: bearer.to_owned(),
        left: Cell::new(count),
    });
    let measured = Duration::from_secs(3600);
    let plan = Plan { address, pid: stack.addresses.pid, warm_up: Duration::ZERO, measured };
    let workers = (0..connections).map(|_| Life { shared: Rc::clone(&shared), session: None });
    run(plan, workers.collect()).await.map(|_| ())
}

impl Worker for Life {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Lives { start, path, address, bearer, left } = &*self.shared;
        match &self.session {
            None => {
                let Some(rest) = left.get().checked_sub(1) else { return false };
                left.set(rest);
                out.extend_from_slice(start);
            }
            Some(session) => {
                out.extend(request("DELETE", &format!("{path}/{session}"), *address, bearer, ""));
            }
        }
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        self.session = match (&self.session, status) {
            (None, _) => Some(created(status, body, "agent_session_id")?.to_owned()),
            (Some(_), 204) => None,
            (Some(_), status) => return Err(format!("{status} {}", String::from_utf8_lossy(body))),
        };
        Ok(())
    }
}

/// Where requests go, and with which bearer.
type Head = (String, SocketAddr, String);

struct Edges {
    head: Head,
    body: String,
    targets: RefCell<Vec<String>>,
}

/// Delegates to one session after another.
struct Edge(Rc<Edges>);

impl Worker for Edge {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Edges { head: (path, address, bearer), body, targets } = &*self.0;
        let Some(target) = targets.borrow_mut().pop() else { return false };
        out.extend(request("POST", path, *address, bearer, &body.replace("$target", &target)));
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        created(status, body, "delegation_edge_id").map(|_| ())
    }
}

struct Tree {
    head: Head,
    application: String,
    left: Cell<usize>,
    /// Who may still have children, and how many.
    parents: RefCell<Vec<(String, usize)>>,
    waiting: Cell<usize>,
    last: RefCell<Option<Agent>>,
}

/// Starts children, breadth first.
struct Branch(Rc<Tree>);

impl Worker for Branch {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let tree = &*self.0;
        let Some(left) = tree.left.get().checked_sub(1) else { return false };
        tree.left.set(left);
        let mut parents = tree.parents.borrow_mut();
        let at = tree.waiting.get();
        let Some((parent, room)) = parents.get_mut(at) else { return false };
        let body = json!({
            "application_id": tree.application, "parent_id": parent, "ttl_seconds": 1800, "labels": ["reader"],
        });
        *room -= 1;
        if *room == 0 {
            tree.waiting.set(at + 1);
        }
        let (path, address, bearer) = &tree.head;
        out.extend(request("POST", path, *address, bearer, &body.to_string()));
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let session = created(status, body, "agent_session_id")?.to_owned();
        let edge = created(status, body, "delegation_edge_id")?.to_owned();
        self.0.parents.borrow_mut().push((session.clone(), CHILDREN));
        *self.0.last.borrow_mut() = Some(Agent { session, edge });
        Ok(())
    }
}

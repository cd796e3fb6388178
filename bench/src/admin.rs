//! `bench admin`: what operators and their automation do at the Admin API, in a zone that is full of resources.

use crate::Options;
use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::load::{Plan, Worker, run};
use crate::machine::{Machine, memory};
use crate::sessions::{created, push, request};
use crate::stack::Stack;
use crate::world::{World, refused, text};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How many resources the zone has, as many as a zone may.
const RESOURCES: usize = 100_000;
/// How many of them are archived afterwards.
const ARCHIVED: usize = 1_000;
/// How many resources a page has, unless a figure says otherwise.
const PAGE: usize = 200;
/// How many pages at either end of the list are compared.
const ENDS: usize = 50;
const WARM_UP: Duration = Duration::from_secs(1);

const PAGE_P50_MS: Goal = Goal::AtMost(5.0);
const LAST_TO_FIRST: Goal = Goal::AtMost(1.25);

/// Measures everything.
pub(crate) async fn measure(options: &Options) -> Result<Figures, Error> {
    let mut figures = Figures::new("admin", Machine::look());
    let stack = Stack::start(&options.binaries, &[]).await?;
    let result = measure_on(&stack, options, &mut figures).await;
    stack.stop().await?;
    result.map(|()| figures)
}

async fn measure_on(stack: &Stack, options: &Options, figures: &mut Figures) -> Result<(), Error> {
    let world = World::configure(stack).await?;
    let bench = Bench { stack, options, zone: world.path(""), token: stack.admin_token()? };
    let provider = bench.check(&world).await?;
    let ids = bench.fill(figures, &provider).await?;
    let cursors = bench.walk(figures, ids.len() + 1).await?;
    bench.pages(figures, &cursors).await?;
    bench.by_id(figures, &ids).await?;
    bench.filtered(figures, &ids).await?;
    figures.push(Figure::new("memory_of_all_services", memory(stack.addresses.pid).0, "MiB"));
    Ok(())
}

struct Bench<'a> {
    stack: &'a Stack,
    options: &'a Options,
    /// The path of the zone, with a slash at its end.
    zone: String,
    token: String,
}

impl Bench<'_> {
    fn plan(&self, warm_up: Duration, measured: Duration) -> Plan {
        let addresses = &self.stack.addresses;
        Plan { address: addresses.admin, pid: addresses.pid, warm_up, measured }
    }

    /// A whole request below the zone.
    fn request(&self, method: &str, rest: &str, body: &str) -> Vec<u8> {
        let path = format!("{}{rest}", self.zone);
        request(method, &path, self.stack.addresses.admin, &self.token, body)
    }

    /// Everything that is measured grants what it must and refuses what it must. Answers the id of the provider.
    async fn check(&self, world: &World) -> Result<String, Error> {
        let list = world.path("resources");
        let ask = |method: Method, path: String, token: &str, body: Option<serde_json::Value>| {
            let url = format!("http://{}{path}", self.stack.addresses.admin);
            let request = reqwest::Client::new().request(method, url).bearer_auth(token);
            match body {
                Some(body) => request.json(&body),
                None => request,
            }
            .send()
        };
        let page = ask(Method::GET, list.clone(), &self.token, None).await?.text().await?;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let known = page.pointer("/items/0").cloned().unwrap_or_default();
        let provider = text(&known, "credential_provider_id")?;
        let one = format!("{list}/{}", text(&known, "id")?);
        let twice = json!({
            "identifier": text(&known, "identifier")?, "scopes": ["a"], "credential_provider_id": provider,
            "upstream_url": "http://upstream.bench.test:8000",
        });
        refused(
            "a second resource of its name",
            ask(Method::POST, list.clone(), &self.token, Some(twice)).await?,
            StatusCode::CONFLICT,
        )
        .await?;
        for path in [&list, &one] {
            let stranger = ask(Method::GET, path.clone(), "unknown", None).await?;
            refused("a token that is none", stranger, StatusCode::UNAUTHORIZED).await?;
        }
        let nowhere = ask(Method::GET, format!("{list}?cursor=x"), &self.token, None).await?;
        refused("a cursor that is none", nowhere, StatusCode::BAD_REQUEST).await?;
        let elsewhere = json!({ "name": "elsewhere", "slug": "elsewhere" });
        let other = text(&world.operate("/v1/zones", elsewhere).await?, "id")?;
        let bound = json!({ "name": "bound", "scope": "zone", "zone_id": other, "capability": "read" });
        let bound = text(&world.operate("/v1/admin-tokens", bound).await?, "token")?;
        refused(
            "a token of another zone",
            ask(Method::GET, list, &bound, None).await?,
            StatusCode::FORBIDDEN,
        )
        .await?;
        Ok(provider)
    }

    /// Fills the zone; answers the ids.
    async fn fill(&self, figures: &mut Figures, provider: &str) -> Result<Vec<String>, Error> {
        let shared = Rc::new(Creations {
            path: format!("{}resources", self.zone),
            address: self.stack.addresses.admin,
            token: self.token.clone(),
            provider: provider.to_owned(),
            // One is there already.
            left: Cell::new(RESOURCES - 1),
            ids: RefCell::new(Vec::with_capacity(RESOURCES)),
        });
        let workers = (0..self.options.connections).map(|_| Create(Rc::clone(&shared))).collect();
        let report = run(self.plan(Duration::ZERO, Duration::from_secs(3600)), workers).await?;
        push(figures, "resource_create", &report, None);
        let ids = shared.ids.take();
        if ids.len() + 1 < RESOURCES {
            return Err(Error::answer("filling the zone", format!("{} resources", ids.len())));
        }
        Ok(ids)
    }

    /// Walks all pages, one after the other, and compares the first with the last; answers where pages begin.
    async fn walk(&self, figures: &mut Figures, expected: usize) -> Result<Vec<String>, Error> {
        let walked = Rc::new(Walked::default());
        let walk = Walk {
            head: (
                format!("{}resources?limit={PAGE}", self.zone),
                self.stack.addresses.admin,
                self.token.clone(),
            ),
            walked: Rc::clone(&walked),
            cursor: Some(String::new()),
            begun: Instant::now(),
        };
        let begun = Instant::now();
        run(self.plan(Duration::ZERO, Duration::from_secs(3600)), vec![walk]).await?;
        let taken = begun.elapsed();
        let (ids, cursors) = (walked.ids.take(), walked.cursors.take());
        let different: HashSet<&String> = ids.iter().collect();
        if ids.len() != expected || different.len() != expected {
            let why = format!("{} rows, {} of them different, of {expected}", ids.len(), different.len());
            return Err(Error::answer("walking all pages", why));
        }
        let times = walked.times.take();
        let (first, last) = (middle(times.iter().take(ENDS)), middle(times.iter().rev().skip(1).take(ENDS)));
        figures.push(Figure::new("walk_all_pages", taken.as_secs_f64() * 1000.0, "ms"));
        figures.push(Figure::new("first_pages_p50", first, "ms").with_goal(PAGE_P50_MS));
        figures.push(Figure::new("last_pages_p50", last, "ms").with_goal(PAGE_P50_MS));
        figures.push(Figure::new("last_to_first_pages", last / first, "").with_goal(LAST_TO_FIRST));
        Ok(cursors)
    }

    /// Pages from anywhere in the list.
    async fn pages(&self, figures: &mut Figures, cursors: &[String]) -> Result<(), Error> {
        let pages: Vec<Vec<u8>> = cursors
            .iter()
            .map(|cursor| self.request("GET", &format!("resources?limit={PAGE}&cursor={cursor}"), ""))
            .collect();
        self.get(figures, "list_page", 1, &pages, Some(PAGE_P50_MS)).await?;
        self.get(figures, "list_page_under_load", self.options.connections, &pages, None).await?;
        let longest: Vec<Vec<u8>> = cursors
            .iter()
            .map(|cursor| self.request("GET", &format!("resources?limit=500&cursor={cursor}"), ""))
            .collect();
        self.get(figures, "list_page_of_500", 1, &longest, None).await
    }

    async fn by_id(&self, figures: &mut Figures, ids: &[String]) -> Result<(), Error> {
        let one: Vec<Vec<u8>> =
            ids.iter().map(|id| self.request("GET", &format!("resources/{id}"), "")).collect();
        self.get(figures, "get_by_id", 1, &one, None).await?;
        self.get(figures, "get_by_id_under_load", self.options.connections, &one, None).await
    }

    /// What is archived among what is in use, and one resource's changes among all changes.
    async fn filtered(&self, figures: &mut Figures, ids: &[String]) -> Result<(), Error> {
        // Spread over the whole list.
        let some: Vec<&String> = ids.iter().step_by((RESOURCES / ARCHIVED).max(1)).collect();
        let archive = some.iter().map(|id| self.request("DELETE", &format!("resources/{id}"), "")).collect();
        let left = Rc::new(RefCell::new(archive));
        let workers = (0..self.options.connections).map(|_| Archive(Rc::clone(&left))).collect();
        let report = run(self.plan(Duration::ZERO, Duration::from_secs(3600)), workers).await?;
        push(figures, "resource_archive", &report, None);
        let archived = vec![self.request("GET", &format!("resources?status=archived&limit={PAGE}"), "")];
        self.get(figures, "list_archived_page", 1, &archived, Some(PAGE_P50_MS)).await?;
        let active = vec![self.request("GET", &format!("resources?limit={PAGE}"), "")];
        self.get(figures, "list_first_page", 1, &active, Some(PAGE_P50_MS)).await?;
        let changes: Vec<Vec<u8>> =
            some.iter().map(|id| self.request("GET", &format!("admin-audit?entity_id={id}"), "")).collect();
        self.get(figures, "changes_of_one_resource", 1, &changes, Some(PAGE_P50_MS)).await?;
        let changes = vec![self.request("GET", "admin-audit?entity_type=resources&limit=100", "")];
        self.get(figures, "changes_of_resources", 1, &changes, Some(PAGE_P50_MS)).await
    }

    /// The same kind of request, over and over.
    async fn get(
        &self,
        figures: &mut Figures,
        kind: &str,
        connections: u16,
        requests: &[Vec<u8>],
        p50: Option<Goal>,
    ) -> Result<(), Error> {
        let shared = Rc::new((requests.to_vec(), Cell::new(0)));
        let workers = (0..connections).map(|_| Get(Rc::clone(&shared))).collect();
        let report = run(self.plan(WARM_UP, self.options.measured()), workers).await?;
        push(figures, kind, &report, p50);
        Ok(())
    }
}

/// The middle of some times, in milliseconds.
fn middle<'a>(times: impl Iterator<Item = &'a Duration>) -> f64 {
    let mut times: Vec<&Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

struct Creations {
    path: String,
    address: SocketAddr,
    token: String,
    provider: String,
    left: Cell<usize>,
    ids: RefCell<Vec<String>>,
}

/// Makes resources.
struct Create(Rc<Creations>);

impl Worker for Create {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Creations { path, address, token, provider, left, .. } = &*self.0;
        let Some(number) = left.get().checked_sub(1) else { return false };
        left.set(number);
        let body = json!({
            "name": format!("Orders {number}"), "identifier": format!("resource://orders/{number}"),
            "upstream_url": format!("http://orders-{number}.bench.test:8000"),
            "scopes": ["orders:read", "orders:write"], "credential_provider_id": provider,
            "operations": [
                { "method": "GET", "path": "/v1/orders", "scope": "orders:read" },
                { "method": "POST", "path": "/v1/orders", "scope": "orders:write" },
            ],
        });
        out.extend(request("POST", path, *address, token, &body.to_string()));
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let id = created(status, body, "id")?;
        self.0.ids.borrow_mut().push(id.to_owned());
        Ok(())
    }
}

/// Makes so many resources beside the one that the zone has.
pub(crate) async fn add_resources(
    stack: &Stack,
    world: &World,
    count: usize,
    connections: u16,
) -> Result<(), Error> {
    let provider = json!({ "name": "further mandates", "kind": "caracal_mandate" });
    let provider = text(&world.operate(&world.path("providers"), provider).await?, "id")?;
    let (address, pid) = (stack.addresses.admin, stack.addresses.pid);
    let shared = Rc::new(Creations {
        path: world.path("resources"),
        address,
        token: stack.admin_token()?,
        provider,
        left: Cell::new(count),
        ids: RefCell::default(),
    });
    let measured = Duration::from_secs(3600);
    let plan = Plan { address, pid, warm_up: Duration::ZERO, measured };
    run(plan, (0..connections).map(|_| Create(Rc::clone(&shared))).collect()).await.map(|_| ())
}

/// What was seen on the way.
#[derive(Default)]
struct Walked {
    ids: RefCell<Vec<String>>,
    cursors: RefCell<Vec<String>>,
    times: RefCell<Vec<Duration>>,
}

/// Walks from the first page to the last.
struct Walk {
    head: (String, SocketAddr, String),
    walked: Rc<Walked>,
    /// Where the next page begins: nowhere after the last, and the empty text before the first.
    cursor: Option<String>,
    begun: Instant,
}

impl Worker for Walk {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(cursor) = &self.cursor else { return false };
        let (path, address, token) = &self.head;
        out.extend(request("GET", &format!("{path}&cursor={cursor}"), *address, token, ""));
        self.begun = Instant::now();
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        self.walked.times.borrow_mut().push(self.begun.elapsed());
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("{status} {text}"));
        }
        let members = |name: &str| {
            let pattern = format!("\"{name}\":\"");
            text.split(&pattern)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned)
                .collect()
        };
        let ids: Vec<String> = members("id");
        let next: Vec<String> = members("next_cursor");
        self.walked.ids.borrow_mut().extend(ids);
        self.cursor = next.into_iter().next();
        self.walked.cursors.borrow_mut().extend(self.cursor.clone());
        Ok(())
    }
}

/// Requests of the same kind, in turn; each has to be answered with rows, or with one.
struct Get(Rc<(Vec<Vec<u8>>, Cell<usize>)>);

impl Worker for Get {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let (requests, next) = &*self.0;
        // A step that visits all of them, far from the one before.
        let at = next.get();
        next.set((at + 7_919) % requests.len().max(1));
        let Some(request) = requests.get(at) else { return false };
        out.extend_from_slice(request);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let has_rows = body.windows(5).any(|part| part == b"\"id\":");
        if status == 200 && has_rows {
            return Ok(());
        }
        Err(format!("{status} {}", String::from_utf8_lossy(body)))
    }
}

/// Archives one resource after another.
struct Archive(Rc<RefCell<Vec<Vec<u8>>>>);

impl Worker for Archive {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(request) = self.0.borrow_mut().pop() else { return false };
        out.extend(request);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        if status == 204 { Ok(()) } else { Err(format!("{status} {}", String::from_utf8_lossy(body))) }
    }
}

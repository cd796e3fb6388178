//! `bench gateway`: what a decision in Envoy costs, beside what Envoy offers by itself.
//!
//! All configurations run at once, each in an Envoy with one worker, before the same upstream. The rounds alternate, so
//! that whatever else the machine does meets all of them.

use crate::envoy::Envoy;
use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::gateway_load::{Fresh, Source, Warm, call, governed, status};
use crate::load::{Plan, Report, run};
use crate::machine::{Machine, memory};
use crate::stack::Stack;
use crate::world::{Agent, World, good};
use crate::{
    Options, Parted, envoy_config, gateway_authz, gateway_revocation, gateway_scale, least_module, upstream,
};
use reqwest::Method;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const ROUNDS: u32 = 5;
/// Mandates of each round that no Envoy has seen.
const FRESH: usize = 4_000;
/// Agents that send governed requests at once.
const AGENTS: usize = 3;
/// Events that Audit acknowledged.
pub(crate) const ACKNOWLEDGED: &str = "caracal_gateway_audit_persisted_total";
/// How long Audit may take for what a round made.
const DRAINED: Duration = Duration::from_secs(120);
/// Nothing was acknowledged for so long: all is. A worker waits less than that before it delivers.
const QUIET: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);
/// The operator's own options: the limits are counted, but not reached.
pub(crate) const LIMITS: [&str; 6] =
    ["--max-agents-per-zone", "10000000", "--max-agents-per-app", "10000000", "--mint-limit", "1000000000"];

/// A configuration that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Filter,
    NativeCached,
    Bare,
    Asking,
    FilterFresh,
    NativeUncached,
    Empty,
    Verifying,
}

impl Door {
    const ALL: [Self; 8] = [
        Self::Filter,
        Self::NativeCached,
        Self::Bare,
        Self::Asking,
        Self::FilterFresh,
        Self::NativeUncached,
        Self::Empty,
        Self::Verifying,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Filter => "local_decision",
            Self::NativeCached => "jwt_authn_cached",
            Self::Bare => "no_filter",
            Self::Asking => "ext_authz",
            Self::FilterFresh => "never_seen_mandate",
            Self::NativeUncached => "jwt_authn_uncached",
            Self::Empty => "empty_module",
            Self::Verifying => "verifying_module",
        }
    }

    /// Whether it lets everything pass: it is there to show what a filter could come to.
    fn is_open(self) -> bool {
        matches!(self, Self::Bare | Self::Empty | Self::Verifying)
    }
}

/// What one may be held against the other: a share of its rate, and where there is one its goal. What no filter at all
/// comes to bounds what any filter can, and what a module that does next to nothing comes to what any module can.
const SHARES: [(&str, Door, Door, Option<f64>); 9] = [
    ("local_decision_to_jwt_authn_cached", Door::Filter, Door::NativeCached, Some(1.0)),
    ("empty_module_to_jwt_authn_cached", Door::Empty, Door::NativeCached, None),
    ("local_decision_to_no_filter", Door::Filter, Door::Bare, Some(0.75)),
    ("empty_module_to_no_filter", Door::Empty, Door::Bare, None),
    ("local_decision_to_ext_authz", Door::Filter, Door::Asking, Some(3.0)),
    ("no_filter_to_ext_authz", Door::Bare, Door::Asking, None),
    ("never_seen_to_jwt_authn_uncached", Door::FilterFresh, Door::NativeUncached, Some(1.5)),
    ("verifying_module_to_jwt_authn_uncached", Door::Verifying, Door::NativeUncached, None),
    ("no_filter_to_jwt_authn_uncached", Door::Bare, Door::NativeUncached, None),
];

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Governed requests: mint, exchange and call.
    Governed,
    /// Decisions beside Envoy's own filters.
    Shares,
    /// How soon every worker refuses what ended.
    Workers,
    /// What revocations and resources in number cost.
    Sizes,
}

/// Measures what is wanted.
pub(crate) async fn measure(parted: &Parted<Part>) -> Result<Figures, Error> {
    let options = &parted.options;
    let mut figures = Figures::new("gateway", Machine::look());
    let upstream = upstream::start()?;
    if parted.parts != [Part::Sizes] {
        let stack = Stack::start(&options.binaries, &LIMITS).await?;
        let result = measure_on(&stack, upstream, parted, &mut figures).await;
        stack.stop().await?;
        result?;
    }
    if parted.wants(&Part::Sizes) {
        gateway_scale::measure(upstream, options, &mut figures).await?;
    }
    Ok(figures)
}

async fn measure_on(
    stack: &Stack,
    upstream: SocketAddr,
    parted: &Parted<Part>,
    figures: &mut Figures,
) -> Result<(), Error> {
    let options = &parted.options;
    let world = World::configure_before(stack, &format!("http://{upstream}"), "single").await?;
    let bearer = world.bootstrap().await?;
    let agent = world.agent(&bearer).await?;
    let source = Source::new(stack, &world, &agent)?;
    // Before the rounds, whose evidence the services have to take in.
    if parted.wants(&Part::Governed) {
        check_governed(stack.addresses.gateway, &source, &agent).await?;
        let report = governed(&source, stack.addresses.gateway, AGENTS, options.measured()).await?;
        let (rate, p50) = (report.rate, report.latency_ms(0.5));
        figures.push(Figure::new("governed_request_rate", rate, "1/s").with_goal(Goal::AtLeast(1500.0)));
        figures.push(Figure::new("governed_request_p50", p50, "ms").with_goal(Goal::AtMost(2.0)));
        figures.push(Figure::new("governed_request_p99", report.latency_ms(0.99), "ms"));
    }
    if parted.wants(&Part::Shares) {
        let doors = Doors::open(stack, &world, upstream, options, &source, &agent).await?;
        doors.check(&world, &bearer, &source, &agent).await?;
        let (mut rounds, mut evidence) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            rounds.push(doors.round(options, &source, &mut evidence).await?);
        }
        push(figures, &rounds);
        figures.push(Figure::new("evidence_delivered_rate", median(evidence), "1/s"));
    }
    figures.push(Figure::new("memory_of_all_services", memory(stack.addresses.pid).0, "MiB"));
    // Last: the evidence of its load goes on being delivered.
    if parted.wants(&Part::Workers) {
        gateway_revocation::measure(stack, &world, upstream, options, figures).await?;
    }
    Ok(())
}

/// What was used, and what is none, is refused where requests are governed.
async fn check_governed(gateway: SocketAddr, source: &Source, agent: &Agent) -> Result<(), Error> {
    let (used, _) = source.pair(agent, 0).await?;
    for (case, mandate) in
        [("no mandate", None), ("no token at all", Some("x")), ("a used mandate", Some(&*used))]
    {
        let request = call("GET", gateway, mandate);
        expect(&format!("governed: {case}"), gateway, &request, &[401, 403]).await?;
    }
    Ok(())
}

/// An Envoy for each configuration; the filter's serves warm and fresh mandates.
struct Doors {
    filter: Envoy,
    native_cached: Envoy,
    bare: Envoy,
    asking: Envoy,
    native_uncached: Envoy,
    empty: Envoy,
    verifying: Envoy,
    warm: String,
    _modules: TempDir,
}

impl Doors {
    async fn open(
        stack: &Stack,
        world: &World,
        upstream: SocketAddr,
        options: &Options,
        source: &Source,
        agent: &Agent,
    ) -> Result<Self, Error> {
        let binaries = &options.binaries;
        let (_, warm) = source.pair(agent, 0).await?;
        let keys = format!("http://{}/.well-known/jwks.json?zone_id={}", stack.addresses.sts, world.zone);
        let keys = reqwest::get(keys).await?.text().await?;
        let about = format!("http://{}/.well-known/oauth-authorization-server", stack.addresses.sts);
        let about = good("the issuer", reqwest::get(about).await?).await?;
        let issuer = crate::world::text(&about, "issuer")?;
        let filter = envoy_config::filter(binaries, stack, world, upstream)?;
        let native = |is_cached| envoy_config::native(&filter, &issuer, &keys, is_cached);
        let asking = envoy_config::asking(&filter, gateway_authz::start(&warm)?);
        let modules = tempfile::Builder::new().prefix("m").tempdir_in(&binaries.scratch)?;
        let module = |name: &str, code: Vec<u8>| {
            let file = modules.path().join(name);
            std::fs::write(&file, code).map_err(Error::file(&file))?;
            Ok::<_, Error>(envoy_config::module(&filter, &file))
        };
        let empty = module("empty.wasm", least_module::empty()?)?;
        let verifying = module("verifying.wasm", least_module::verifying(&warm, &keys)?)?;
        Ok(Self {
            filter: Envoy::start(binaries, stack, &filter).await?,
            native_cached: Envoy::start(binaries, stack, &native(true)).await?,
            bare: Envoy::start(binaries, stack, &envoy_config::bare(&filter)).await?,
            asking: Envoy::start(binaries, stack, &asking).await?,
            native_uncached: Envoy::start(binaries, stack, &native(false)).await?,
            empty: Envoy::start(binaries, stack, &empty).await?,
            verifying: Envoy::start(binaries, stack, &verifying).await?,
            warm,
            _modules: modules,
        })
    }

    fn envoy(&self, door: Door) -> &Envoy {
        match door {
            Door::Filter | Door::FilterFresh => &self.filter,
            Door::NativeCached => &self.native_cached,
            Door::Bare => &self.bare,
            Door::Asking => &self.asking,
            Door::NativeUncached => &self.native_uncached,
            Door::Empty => &self.empty,
            Door::Verifying => &self.verifying,
        }
    }

    /// Each grants what it must, and refuses what it can know.
    async fn check(&self, world: &World, bearer: &str, source: &Source, agent: &Agent) -> Result<(), Error> {
        let (for_gateway, expired) = source.pair(agent, 2).await?;
        let other = world.agent(bearer).await?;
        let (_, revoked) = source.pair(&other, 0).await?;
        // A mandate is good for its last second, and Envoy's own verification allows one of skew.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for door in Door::ALL {
            let address = self.envoy(door).address;
            let what = |case: &str| format!("{} {case}", door.name());
            expect_soon(&what("a good mandate"), address, &call("GET", address, Some(&self.warm)), &[200])
                .await?;
            if door.is_open() {
                continue;
            }
            let cases = [
                ("no mandate", "GET", None),
                ("no token at all", "GET", Some("x")),
                ("an expired mandate", "GET", Some(expired.as_str())),
                ("another audience", "GET", Some(for_gateway.as_str())),
                ("another scope", "POST", Some(self.warm.as_str())),
            ];
            for (case, method, mandate) in cases {
                expect(&what(case), address, &call(method, address, mandate), &[401, 403]).await?;
            }
        }
        // Only the filter hears of revocation: a service that is asked has to hear of it by itself.
        let address = self.filter.address;
        let request = call("GET", address, Some(&revoked));
        expect("a mandate of a live session", address, &request, &[200]).await?;
        let path = format!("agents/{}", other.session);
        good("an end", world.coordinate(Method::DELETE, &path, bearer, None).await?).await?;
        expect_soon("a revoked mandate", address, &request, &[401]).await
    }

    /// One round of every configuration.
    async fn round(
        &self,
        options: &Options,
        source: &Rc<Source>,
        evidence: &mut Vec<f64>,
    ) -> Result<Vec<Report>, Error> {
        let fresh = source.many(FRESH, options.connections).await?;
        let mut reports = Vec::new();
        for door in Door::ALL {
            let (before, begun) = (self.filter.statistic(ACKNOWLEDGED).await?, Instant::now());
            reports.push(self.load(door, options, &fresh).await?);
            if matches!(door, Door::Filter | Door::FilterFresh) {
                let (count, last) = drained(&self.filter, before, begun).await?;
                evidence.push(count / last.as_secs_f64().max(1e-9));
            }
        }
        Ok(reports)
    }

    async fn load(&self, door: Door, options: &Options, fresh: &Rc<Vec<String>>) -> Result<Report, Error> {
        let Envoy { address, pid, .. } = *self.envoy(door);
        let measured = options.measured() / ROUNDS;
        let plan = Plan { address, pid, warm_up: WARM_UP, measured };
        let connections = 0..options.connections;
        if matches!(door, Door::FilterFresh | Door::NativeUncached) {
            let next = Rc::new(Cell::new(0));
            let worker = |_| Fresh { mandates: Rc::clone(fresh), next: Rc::clone(&next), address };
            let plan = Plan { warm_up: Duration::ZERO, measured: Duration::from_secs(600), ..plan };
            return run(plan, connections.map(worker).collect()).await;
        }
        let request = Rc::new(call("GET", address, Some(&self.warm)));
        run(plan, connections.map(|_| Warm(Rc::clone(&request))).collect()).await
    }
}

/// Waits until Audit has acknowledged what it can; answers how many events since `before`, and how long the last of
/// them took since `begun`.
#[allow(clippy::cast_precision_loss)]
pub(crate) async fn drained(filter: &Envoy, before: u64, begun: Instant) -> Result<(f64, Duration), Error> {
    let (mut seen, mut last) = (before, Duration::ZERO);
    while last.is_zero() || begun.elapsed() < last + QUIET {
        let now = filter.statistic(ACKNOWLEDGED).await?;
        if now > seen {
            (seen, last) = (now, begun.elapsed());
        }
        if begun.elapsed() > DRAINED {
            return Err(Error::answer("evidence", "Audit does not acknowledge it"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((seen.saturating_sub(before) as f64, last))
}

/// The answer has to be one of these.
pub(crate) async fn expect(
    what: &str,
    address: SocketAddr,
    request: &[u8],
    allowed: &[u16],
) -> Result<(), Error> {
    let got = status(address, request).await?;
    if allowed.contains(&got) { Ok(()) } else { Err(Error::answer(what, format!("{got}, not {allowed:?}"))) }
}

/// The answer has to become one of these before long.
pub(crate) async fn expect_soon(
    what: &str,
    address: SocketAddr,
    request: &[u8],
    allowed: &[u16],
) -> Result<(), Error> {
    for _ in 0..500 {
        if expect(what, address, request, allowed).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect(what, address, request, allowed).await
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn push(figures: &mut Figures, rounds: &[Vec<Report>]) {
    let of = |door: Door, value: &dyn Fn(&Report) -> f64| -> Vec<f64> {
        let at = Door::ALL.iter().position(|other| *other == door).unwrap_or_default();
        rounds.iter().filter_map(|round| round.get(at)).map(value).collect()
    };
    let share = |one: Vec<f64>, other: Vec<f64>| median(one.iter().zip(&other).map(|(a, b)| a / b).collect());
    for (name, one, other, goal) in SHARES {
        let value = share(of(one, &|report| report.rate), of(other, &|report| report.rate));
        figures.push(Figure::new(name, value, "times").with_goal(goal.map(Goal::AtLeast)));
        // The same by Envoy's own processor time: what holds on a machine with something else to do.
        let value = share(of(other, &|report| report.server_us), of(one, &|report| report.server_us));
        figures.push(Figure::new(format!("{name}_by_time"), value, "times"));
    }
    for door in Door::ALL {
        let mut add = |what: &str, unit: &'static str, value: &dyn Fn(&Report) -> f64| {
            figures.push(Figure::new(format!("{}_{what}", door.name()), median(of(door, value)), unit));
        };
        add("rate", "1/s", &|report| report.rate);
        add("p50", "ms", &|report| report.latency_ms(0.5));
        add("p99", "ms", &|report| report.latency_ms(0.99));
        add("envoy_time", "us", &|report| report.server_us);
        add("taken_by_others", "%", &|report| report.others_percent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_in_the_middle() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}

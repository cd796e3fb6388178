//! How soon every worker of an Envoy refuses what was revoked, idle and under load.
//!
//! A worker serves the connections that it accepted, and Envoy counts them for each: so there is one connection to each
//! worker, and all of them are asked until all refuse.

use crate::envoy::Envoy;
use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::gateway::{expect, expect_soon};
use crate::gateway_load::{Source, call};
use crate::load::read_answer;
use crate::revocation::share;
use crate::stack::Stack;
use crate::steady::Steady;
use crate::world::{World, good};
use crate::{Options, envoy_config};
use reqwest::Method;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Workers of the Envoy.
const WORKERS: usize = 2;
/// Sessions that are ended, idle and under load each.
const TRIALS: usize = 100;
/// Requests per second meanwhile.
const RATE: u32 = 5_000;
/// Connections of that load; whoever accepts one decides which worker it is.
const LOAD_CONNECTIONS: u16 = 16;
/// The load goes on for so long before it counts.
const SETTLED: Duration = Duration::from_secs(1);
/// A worker that passed so many requests after the answer does not refuse at all.
const MOST_CALLS: usize = 20_000;
/// Connections that are opened until each worker has one.
const MOST_CONNECTIONS: usize = 200;

const REFUSED_P99_MS: Goal = Goal::AtMost(10.0);

/// Measures it before this upstream.
pub(crate) async fn measure(
    stack: &Stack,
    world: &World,
    upstream: SocketAddr,
    options: &Options,
    figures: &mut Figures,
) -> Result<(), Error> {
    let bootstrap = envoy_config::filter(&options.binaries, stack, world, upstream)?;
    let bootstrap = envoy_config::closing_at_once(bootstrap);
    let envoy = Envoy::start_with(&options.binaries, stack, &bootstrap, WORKERS).await?;
    let bearer = world.bootstrap().await?;
    let agent = world.agent(&bearer).await?;
    let source = Source::new(stack, world, &agent)?;
    let (_, warm) = source.pair(&agent, 0).await?;
    let address = envoy.address;
    expect_soon("a good mandate", address, &call("GET", address, Some(&warm)), &[200]).await?;
    expect("no mandate", address, &call("GET", address, None), &[401]).await?;
    expect("another scope", address, &call("POST", address, Some(&warm)), &[403]).await?;

    let trials = Trials { world, bearer: &bearer, source: &source, envoy: &envoy };
    let idle = trials.run().await?;
    push(figures, "every_worker_refused", &idle);

    let mut load = Steady::start(address, call("GET", address, Some(&warm)), RATE, LOAD_CONNECTIONS);
    tokio::time::sleep(SETTLED).await;
    load.count();
    let loaded = trials.run().await;
    let rate = load.stop()?;
    push(figures, "every_worker_refused_under_load", &loaded?);
    let goal = Goal::AtLeast(f64::from(RATE) * 0.99);
    figures.push(Figure::new("every_worker_refused_load_rate", rate, "1/s").with_goal(goal));
    Ok(())
}

/// Of each trial: from the answer until the last worker refused, and until the last request was sent that passed;
/// milliseconds.
#[derive(Default)]
struct Seen {
    refused: Vec<f64>,
    passed: Vec<f64>,
}

fn push(figures: &mut Figures, name: &str, seen: &Seen) {
    figures.push(Figure::new(format!("{name}_p50"), share(&seen.refused, 0.5), "ms"));
    let figure = Figure::new(format!("{name}_p99"), share(&seen.refused, 0.99), "ms");
    figures.push(figure.with_goal(REFUSED_P99_MS));
    figures.push(Figure::new(format!("{name}_passed_p99"), share(&seen.passed, 0.99), "ms"));
}

struct Trials<'a> {
    world: &'a World,
    bearer: &'a str,
    source: &'a Rc<Source>,
    envoy: &'a Envoy,
}

impl Trials<'_> {
    async fn run(&self) -> Result<Seen, Error> {
        let mut seen = Seen::default();
        let mut probes = probes(self.envoy).await?;
        for _ in 0..TRIALS {
            let (refused, passed, used) = self.trial(probes).await?;
            seen.refused.push(refused);
            seen.passed.push(passed);
            // A connection is closed where an answer was cut off.
            let is_whole = used.iter().all(|probe| probe.is_open);
            probes = if is_whole { used } else { self::probes(self.envoy).await? };
        }
        Ok(seen)
    }

    /// Ends a session whose mandate every worker let pass just before.
    async fn trial(&self, mut probes: Vec<Probe>) -> Result<(f64, f64, Vec<Probe>), Error> {
        let agent = self.world.agent(self.bearer).await?;
        let (_, mandate) = self.source.pair(&agent, 0).await?;
        let address = self.envoy.address;
        let request = Rc::new(call("GET", address, Some(&mandate)));
        for probe in &mut probes {
            probe.pass(&request).await?;
        }
        let path = format!("agents/{}", agent.session);
        let answer = self.world.coordinate(Method::DELETE, &path, self.bearer, None).await?;
        let answered = Instant::now();
        good("the end of a session", answer).await?;
        let local = LocalSet::new();
        let asked: Vec<_> = probes
            .into_iter()
            .map(|probe| local.spawn_local(probe.until_refused(Rc::clone(&request))))
            .collect();
        let all = async {
            let (mut refused, mut passed, mut probes) = (answered, answered, Vec::new());
            for task in asked {
                let ended = task.await.map_err(|error| Error::answer("a probe", error.to_string()))??;
                refused = refused.max(ended.refused);
                passed = passed.max(ended.last_passed.unwrap_or(answered));
                probes.push(ended.probe);
            }
            Ok::<_, Error>((refused, passed, probes))
        };
        let (refused, passed, probes) = local.run_until(all).await?;
        let millis = |moment: Instant| moment.duration_since(answered).as_secs_f64() * 1000.0;
        Ok((millis(refused), millis(passed), probes))
    }
}

/// A connection that one worker serves.
struct Probe {
    stream: TcpStream,
    input: Vec<u8>,
    is_open: bool,
}

/// What became of a probe that was refused in the end.
struct Ended {
    probe: Probe,
    refused: Instant,
    /// When the last request was sent that passed.
    last_passed: Option<Instant>,
}

impl Probe {
    /// The status; `None` where the answer was cut off.
    async fn ask(&mut self, request: &[u8]) -> Option<u16> {
        self.stream.write_all(request).await.ok()?;
        let answer = read_answer(&mut self.stream, &mut self.input).await.ok()?;
        self.input.drain(..answer.end.min(self.input.len()));
        Some(answer.status)
    }

    /// This worker has to let the request pass, as soon as it has heard of its session.
    async fn pass(&mut self, request: &[u8]) -> Result<(), Error> {
        let mut last = None;
        for _ in 0..500 {
            last = self.ask(request).await;
            if last == Some(200) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Err(Error::answer("a mandate of a live session", format!("{last:?}")))
    }

    async fn until_refused(mut self, request: Rc<Vec<u8>>) -> Result<Ended, Error> {
        let mut last_passed = None;
        for _ in 0..MOST_CALLS {
            let sent = Instant::now();
            match self.ask(&request).await {
                Some(200) => last_passed = Some(sent),
                Some(401) => return Ok(Ended { probe: self, refused: Instant::now(), last_passed }),
                None => {
                    self.is_open = false;
                    return Ok(Ended { probe: self, refused: Instant::now(), last_passed });
                }
                Some(status) => return Err(Error::answer("a revoked mandate", status.to_string())),
            }
        }
        Err(Error::answer("a revoked mandate", "a worker lets it pass"))
    }
}

/// One connection to each worker.
async fn probes(envoy: &Envoy) -> Result<Vec<Probe>, Error> {
    let mut probes: Vec<Option<Probe>> = std::iter::repeat_with(|| None).take(WORKERS).collect();
    let refused = call("GET", envoy.address, None);
    for _ in 0..MOST_CONNECTIONS {
        let before = envoy.accepted().await?;
        let stream = TcpStream::connect(envoy.address).await?;
        stream.set_nodelay(true)?;
        let mut probe = Probe { stream, input: Vec::new(), is_open: true };
        if probe.ask(&refused).await != Some(401) {
            return Err(Error::answer("no mandate", "was not refused"));
        }
        let after = envoy.accepted().await?;
        let more: Vec<u64> =
            before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).collect();
        // Where somebody else connected at the same time, nobody knows whose connection is whose.
        let is_certain = more.len() == WORKERS && more.iter().sum::<u64>() == 1;
        let worker = more.iter().position(|more| *more == 1).filter(|_| is_certain);
        if let Some(slot) = worker.and_then(|worker| probes.get_mut(worker)) {
            *slot = Some(probe);
        }
        if probes.iter().all(Option::is_some) {
            return Ok(probes.into_iter().flatten().collect());
        }
    }
    Err(Error::answer("the workers", "not every one accepts connections"))
}

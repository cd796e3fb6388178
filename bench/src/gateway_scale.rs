//! Whether a local decision costs the same however much was revoked and however many resources there are, and the memory
//! that it takes.
//!
//! There is a Caracal with an Envoy of its own for each size, all of them up at once, so that the rounds can alternate.

use crate::admin::add_resources;
use crate::envoy::Envoy;
use crate::error::Error;
use crate::figures::{Figure, Figures, Goal};
use crate::gateway::{ACKNOWLEDGED, LIMITS, ROUNDS, WARM_UP, drained, expect, expect_soon, median};
use crate::gateway_load::{Fresh, Source, Warm, call};
use crate::load::{Plan, Report, run};
use crate::sessions::revoke_many;
use crate::stack::Stack;
use crate::world::{World, good};
use crate::{Options, envoy_config};
use reqwest::Method;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Revoked anchors and resources of each. The first is what the others are held against.
const SIZES: [(usize, usize); 3] = [(10, 10), (10_000, 1_000), (100_000, 10_000)];
/// The size whose memory has a goal.
const MIDDLE: usize = 1;
/// Mandates that a worker remembers, and some more.
const MANDATES: usize = 4_300;
/// How long a gateway may take to hear of everything.
const HEARD: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

const FLAT: Goal = Goal::AtMost(1.1);
const MEMORY: Goal = Goal::AtMost(4_194_304.0);

/// Measures all sizes before this upstream.
pub(crate) async fn measure(
    upstream: SocketAddr,
    options: &Options,
    figures: &mut Figures,
) -> Result<(), Error> {
    let mut places = Vec::new();
    for (anchors, resources) in SIZES {
        places.push(Place::prepare(upstream, options, anchors, resources).await?);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut reports = Vec::new();
        for place in &places {
            reports.push(place.load(options).await?);
        }
        rounds.push(reports);
    }
    push(figures, &rounds);
    for (place, (anchors, resources)) in places.iter().zip(SIZES) {
        let name = format!("worker_memory_{anchors}_anchors_{resources}_resources");
        figures.push(place.memory(name, (anchors, resources) == SIZES[MIDDLE]).await?);
    }
    if let Some(place) = places.get(MIDDLE) {
        place.fill(options).await?;
        figures.push(place.memory("worker_memory_with_4096_mandates".to_owned(), true).await?);
    }
    for place in places {
        place.stack.stop().await?;
    }
    Ok(())
}

/// The rates have to be the same, so each is held against the first of its round.
fn push(figures: &mut Figures, rounds: &[Vec<Report>]) {
    let of = |at: usize, value: &dyn Fn(&Report) -> f64| -> Vec<f64> {
        rounds.iter().filter_map(|round| round.get(at)).map(value).collect()
    };
    let p50 = |report: &Report| report.latency_ms(0.5);
    let server = |report: &Report| report.server_us;
    let share = |at: usize, value: &dyn Fn(&Report) -> f64| {
        median(of(at, value).iter().zip(of(0, value)).map(|(large, small)| large / small).collect())
    };
    for (at, (anchors, _)) in SIZES.iter().enumerate() {
        let name = format!("local_decision_{anchors}_anchors");
        figures.push(Figure::new(format!("{name}_p50"), median(of(at, &p50)), "ms"));
        figures.push(Figure::new(format!("{name}_envoy_time"), median(of(at, &server)), "us"));
        if at > 0 {
            figures.push(Figure::new(format!("{name}_to_10"), share(at, &p50), "times").with_goal(FLAT));
            figures.push(Figure::new(format!("{name}_to_10_by_time"), share(at, &server), "times"));
        }
    }
}

/// A Caracal of one size, and the Envoy before its resource.
struct Place {
    stack: Stack,
    envoy: Envoy,
    source: Rc<Source>,
    warm: String,
}

impl Place {
    async fn prepare(
        upstream: SocketAddr,
        options: &Options,
        anchors: usize,
        resources: usize,
    ) -> Result<Self, Error> {
        let stack = Stack::start(&options.binaries, &LIMITS).await?;
        let world = World::configure_before(&stack, &format!("http://{upstream}"), "single").await?;
        // One is there already.
        add_resources(&stack, &world, resources.saturating_sub(1), options.connections).await?;
        let bearer = world.bootstrap().await?;
        let bootstrap = envoy_config::filter(&options.binaries, &stack, &world, upstream)?;
        let envoy = Envoy::start(&options.binaries, &stack, &bootstrap).await?;
        let agent = world.agent(&bearer).await?;
        let source = Source::new(&stack, &world, &agent)?;
        let (_, warm) = source.pair(&agent, 0).await?;
        let other = world.agent(&bearer).await?;
        let (_, revoked) = source.pair(&other, 0).await?;
        // The last of them is the one that is shown to be refused.
        revoke_many(&stack, &world, &bearer, anchors.saturating_sub(1), options.connections).await?;
        let address = envoy.address;
        let request = call("GET", address, Some(&revoked));
        expect_soon("a mandate of a live session", address, &request, &[200]).await?;
        let path = format!("agents/{}", other.session);
        good("an end", world.coordinate(Method::DELETE, &path, &bearer, None).await?).await?;
        expect_soon("a revoked mandate", address, &request, &[401]).await?;
        let place = Self { stack, envoy, source, warm };
        place.hears(anchors).await?;
        let warm = Some(place.warm.as_str());
        expect("a good mandate", address, &call("GET", address, warm), &[200]).await?;
        expect("another scope", address, &call("POST", address, warm), &[403]).await?;
        expect("no mandate", address, &call("GET", address, None), &[401]).await?;
        Ok(place)
    }

    /// Waits until the gateway knows all revoked anchors.
    async fn hears(&self, anchors: usize) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let known = self.envoy.statistic("caracal_gateway_revocations_active").await?;
            if usize::try_from(known).is_ok_and(|known| known >= anchors) {
                return Ok(());
            }
            if begun.elapsed() > HEARD {
                return Err(Error::answer("the gateway", format!("knows {known} of {anchors} anchors")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn load(&self, options: &Options) -> Result<Report, Error> {
        let Envoy { address, pid, .. } = self.envoy;
        let (before, begun) = (self.envoy.statistic(ACKNOWLEDGED).await?, Instant::now());
        let request = Rc::new(call("GET", address, Some(&self.warm)));
        let plan = Plan { address, pid, warm_up: WARM_UP, measured: options.measured() / ROUNDS };
        let report = run(plan, (0..options.connections).map(|_| Warm(Rc::clone(&request))).collect()).await?;
        drained(&self.envoy, before, begun).await?;
        Ok(report)
    }

    /// Lets the worker see more mandates than it remembers.
    async fn fill(&self, options: &Options) -> Result<(), Error> {
        let Envoy { address, pid, .. } = self.envoy;
        let mandates = self.source.many(MANDATES, options.connections).await?;
        let next = Rc::new(Cell::new(0));
        let worker = |_| Fresh { mandates: Rc::clone(&mandates), next: Rc::clone(&next), address };
        let plan = Plan { address, pid, warm_up: Duration::ZERO, measured: Duration::from_secs(600) };
        run(plan, (0..options.connections).map(worker).collect()).await.map(|_| ())
    }

    /// What the module says of its memory, once it has said so since the last request.
    #[allow(clippy::cast_precision_loss)]
    async fn memory(&self, name: String, has_goal: bool) -> Result<Figure, Error> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let bytes = self.envoy.statistic("caracal_gateway_worker_memory_bytes").await?;
        if bytes == 0 {
            return Err(Error::answer(name, "the module does not say"));
        }
        let figure = Figure::new(name, bytes as f64, "B");
        Ok(if has_goal { figure.with_goal(MEMORY) } else { figure })
    }
}

//! How soon the Gateway, a real Envoy with the filter, refuses what a session held, once its end was answered.

use crate::error::Error;
use crate::load::read_answer;
use crate::stack::Stack;
use crate::world::{Agent, RESOURCE, World, good, text};
use reqwest::Method;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// How many sessions are ended under live requests.
const TRIALS: usize = 100;
/// Requests that pass before the end is asked for.
const PASSED_BEFORE: usize = 6;
/// A caller gives up after so many calls.
const MOST_CALLS: usize = 2_000;
/// Requests that are sent once the end was answered, each on a connection of its own.
const PROBES: usize = 12;
/// How long after the one before each of them is sent.
const PROBE_EVERY: Duration = Duration::from_millis(1);
/// Single-use mandates that lie ready for a trial; it does not need all of them.
const READY: usize = 60;

/// In place of a status: the answer began, and was cut off.
pub(crate) const CUT: u16 = 0;
/// In place of a status: the connection was closed before an answer.
const CLOSED: u16 = 1;

/// What was observed over all trials of two callers each, milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    /// From the answer to the end until the first refusal was answered.
    refused_after: Vec<f64>,
    /// From the answer until the last request was sent that still passed; 0 if none was.
    passed_after: Vec<f64>,
}

impl Enforcement {
    pub(crate) fn refused_p99(&self) -> f64 {
        share(&self.refused_after, 0.99)
    }

    pub(crate) fn passed_p99(&self) -> f64 {
        share(&self.passed_after, 0.99)
    }
}

/// The value that this share of all values does not exceed.
pub(crate) fn share(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// Ends sessions under live requests. A mandate is used once, or for all requests of its trial.
pub(crate) async fn measure(
    stack: &Stack,
    world: &World,
    bearer: &str,
    is_reused: bool,
) -> Result<Enforcement, Error> {
    let mut enforcement = Enforcement::default();
    for _ in 0..TRIALS {
        let agent = world.agent(bearer).await?;
        let trial = Trial::prepare(world, &agent, is_reused).await?;
        let (refused, passed) = trial.run(stack, world, &agent, bearer).await?;
        enforcement.refused_after.push(refused);
        enforcement.passed_after.push(passed);
    }
    Ok(enforcement)
}

/// Mints a mandate for an agent.
pub(crate) async fn mint(world: &World, agent: &Agent) -> Result<String, Error> {
    let form = world.form(&[
        ("scope", "orders:read"),
        ("agent_session_id", &agent.session),
        ("delegation_edge_id", &agent.edge),
    ]);
    text(&good("a mandate", world.token(form, &[]).await?).await?, "access_token")
}

/// A caller of the resource, with one kept-alive connection to the Gateway.
pub(crate) struct Caller {
    stream: TcpStream,
    input: Vec<u8>,
    gateway: SocketAddr,
}

impl Caller {
    pub(crate) async fn connect(stack: &Stack) -> Result<Self, Error> {
        let gateway = stack.addresses.gateway;
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::new(), gateway })
    }

    /// Reads through the Gateway; answers the status, [`CUT`] or [`CLOSED`].
    pub(crate) async fn call(&mut self, mandate: &str) -> Result<u16, Error> {
        let gateway = self.gateway;
        let request = format!(
            "GET /v1/orders HTTP/1.1\r\nhost: {gateway}\r\nauthorization: Bearer {mandate}\r\n\
             x-caracal-resource: {RESOURCE}\r\n\r\n"
        );
        let answer = match self.stream.write_all(request.as_bytes()).await {
            Ok(()) => read_answer(&mut self.stream, &mut self.input).await,
            Err(error) => Err(error.into()),
        };
        if let Ok(answer) = answer {
            self.input.drain(..answer.end.min(self.input.len()));
            return Ok(answer.status);
        }
        // An answer that has begun is cut off when its mandate is revoked.
        let status = if self.input.starts_with(b"HTTP/1.1 200 ") { CUT } else { CLOSED };
        self.input.clear();
        self.stream = TcpStream::connect(gateway).await?;
        self.stream.set_nodelay(true)?;
        Ok(status)
    }
}

struct Trial {
    mandates: RefCell<Vec<String>>,
    is_reused: bool,
    passed: Cell<usize>,
    /// When the end was answered.
    answered: Cell<Option<Instant>>,
    /// When the last request was sent that passed.
    last_passed: Cell<Option<Instant>>,
    /// When the first refusal was answered of a request that was sent after the end was answered.
    refused: Cell<Option<Instant>>,
}

impl Trial {
    async fn prepare(world: &World, agent: &Agent, is_reused: bool) -> Result<Self, Error> {
        let mut mandates = Vec::new();
        for _ in 0..if is_reused { 1 } else { READY } {
            mandates.push(mint(world, agent).await?);
        }
        Ok(Self {
            mandates: RefCell::new(mandates),
            is_reused,
            passed: Cell::default(),
            answered: Cell::default(),
            last_passed: Cell::default(),
            refused: Cell::default(),
        })
    }

    /// Answers how long after the answer the first refusal was seen, and the last request sent that passed. Those who
    /// called before may be amid answers that are cut off then, and Envoy closes their connections a second later: so
    /// others begin to call when the end is answered.
    async fn run(
        &self,
        stack: &Stack,
        world: &World,
        agent: &Agent,
        bearer: &str,
    ) -> Result<(f64, f64), Error> {
        let (mut one, mut other) = (Caller::connect(stack).await?, Caller::connect(stack).await?);
        let mut probes = Vec::new();
        for _ in 0..PROBES {
            probes.push(Caller::connect(stack).await?);
        }
        let end = async {
            while self.passed.get() < PASSED_BEFORE {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let path = format!("agents/{}", agent.session);
            let answer = world.coordinate(Method::DELETE, &path, bearer, None).await?;
            self.answered.set(Some(Instant::now()));
            good("the end of a session", answer).await?;
            self.probe(&mut probes).await
        };
        let (one, other) = (self.call_until_refused(&mut one), self.call_until_refused(&mut other));
        tokio::try_join!(end, one, other)?;
        let (Some(answered), Some(refused)) = (self.answered.get(), self.refused.get()) else {
            return Err(Error::answer("live requests", "no refusal was seen"));
        };
        let late =
            self.last_passed.get().map_or(Duration::ZERO, |sent| sent.saturating_duration_since(answered));
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        Ok((millis(refused.duration_since(answered)), millis(late)))
    }

    /// Each begins to call a little later than the one before.
    async fn probe(&self, probes: &mut [Caller]) -> Result<(), Error> {
        let Some((probe, later)) = probes.split_first_mut() else { return Ok(()) };
        let later = async {
            tokio::time::sleep(PROBE_EVERY).await;
            Box::pin(self.probe(later)).await
        };
        tokio::try_join!(self.call_until_refused(probe), later).map(|_| ())
    }

    async fn call_until_refused(&self, caller: &mut Caller) -> Result<(), Error> {
        let mut seen = BTreeMap::<u16, usize>::new();
        for _ in 0..MOST_CALLS {
            let next = if self.is_reused {
                self.mandates.borrow().first().cloned()
            } else {
                self.mandates.borrow_mut().pop()
            };
            let Some(mandate) = next else {
                return Err(Error::answer("live requests", "all mandates were used and none was refused"));
            };
            let sent = Instant::now();
            let status = caller.call(&mandate).await?;
            *seen.entry(status).or_default() += 1;
            match (status, self.answered.get()) {
                (200, _) => {
                    self.passed.set(self.passed.get() + 1);
                    self.last_passed.set(self.last_passed.get().max(Some(sent)));
                }
                (401 | 403 | CUT, Some(answered)) if sent >= answered => {
                    let now = Instant::now();
                    self.refused.set(Some(self.refused.get().map_or(now, |first| first.min(now))));
                    return Ok(());
                }
                // Refused by an end that is committed and was not answered when this was sent.
                (401 | 403 | CUT, _) if self.passed.get() >= PASSED_BEFORE => {}
                // The Gateway is behind and cannot ask at this moment, or ended an idle connection: nothing passes, and
                // nothing is said of the session.
                (503 | CLOSED, _) => {}
                (status, _) => return Err(Error::answer("live requests", status.to_string())),
            }
        }
        Err(Error::answer("live requests", format!("no refusal was seen, but these statuses: {seen:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((share(&values, 0.99) - 99.0).abs() < 1e-9);
        assert!((share(&values, 0.5) - 50.0).abs() < 1e-9);
        assert!(share(&[], 0.5).is_nan());
    }
}

//! What callers send to an Envoy, and how they come by their mandates.

use crate::error::Error;
use crate::load::{Plan, Worker, read_answer, run};
use crate::mint::{delegated_form, gateway_call, granted_token, token_request};
use crate::stack::Stack;
use crate::world::{Agent, RESOURCE, World, good, text};
use caracal_mandate::gateway_signature::GatewayKey;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// A call of the resource with a bearer.
pub(crate) fn call(method: &str, address: SocketAddr, bearer: Option<&str>) -> Vec<u8> {
    let authorization = bearer.map(|bearer| format!("authorization: Bearer {bearer}\r\n"));
    format!(
        "{method} /v1/orders HTTP/1.1\r\nhost: {address}\r\n{}x-caracal-resource: {RESOURCE}\r\n\r\n",
        authorization.unwrap_or_default()
    )
    .into_bytes()
}

/// The status of one answer, on a connection of its own.
pub(crate) async fn status(address: SocketAddr, request: &[u8]) -> Result<u16, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    Ok(read_answer(&mut stream, &mut Vec::new()).await?.status)
}

/// The same request again and again; the resource has to answer it.
pub(crate) struct Warm(pub(crate) Rc<Vec<u8>>);

impl Worker for Warm {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.0);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        passed(status, body)
    }
}

/// Requests with a mandate each, which stay with whoever made them.
pub(crate) struct Fresh {
    pub(crate) mandates: Rc<Vec<String>>,
    pub(crate) next: Rc<Cell<usize>>,
    pub(crate) address: SocketAddr,
}

impl Worker for Fresh {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let at = self.next.get();
        let Some(mandate) = self.mandates.get(at) else { return false };
        self.next.set(at + 1);
        out.extend(call("GET", self.address, Some(mandate)));
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        passed(status, body)
    }
}

fn passed(status: u16, body: &[u8]) -> Result<(), String> {
    if status == 200 { Ok(()) } else { Err(format!("{status} {}", String::from_utf8_lossy(body))) }
}

/// Where mandates for the resource itself come from: what a gateway gets for what an agent minted.
pub(crate) struct Source {
    world: World,
    key: GatewayKey,
    address: SocketAddr,
    pid: u32,
    mint: Vec<u8>,
}

impl Source {
    pub(crate) fn new(stack: &Stack, world: &World, agent: &Agent) -> Result<Rc<Self>, Error> {
        let key = GatewayKey::from_hex(&stack.gateway_key()?)
            .map_err(|error| Error::answer("the gateway's key", error.to_string()))?;
        let address = stack.addresses.sts;
        let mint = token_request(address, &delegated_form(world, agent, "orders:read"), &[]);
        Ok(Rc::new(Self { world: world.clone(), key, address, pid: stack.addresses.pid, mint }))
    }

    /// One for the gateway that holds for so long, and one for the resource that rests on it.
    pub(crate) async fn pair(&self, agent: &Agent, seconds: u32) -> Result<(String, String), Error> {
        let seconds = format!("&ttl_seconds={seconds}");
        let form = delegated_form(&self.world, agent, "orders:read") + &seconds;
        let answer = good("a mandate", self.world.token(form, &[]).await?).await?;
        let minted = text(&answer, "access_token")?;
        let (form, headers) = gateway_call(&self.world, &self.key, &minted, "/v1/orders");
        let answer = good("an exchange", self.world.token(form, &headers).await?).await?;
        Ok((minted, text(&answer, "access_token")?))
    }

    /// So many for the resource.
    pub(crate) async fn many(
        self: &Rc<Self>,
        count: usize,
        connections: u16,
    ) -> Result<Rc<Vec<String>>, Error> {
        let made = Rc::new(RefCell::new(Vec::with_capacity(count)));
        let left = Rc::new(Cell::new(count));
        let worker = |_| Minter {
            source: Rc::clone(self),
            left: Rc::clone(&left),
            minted: None,
            made: Rc::clone(&made),
        };
        let measured = Duration::from_secs(600);
        let plan = Plan { address: self.address, pid: self.pid, warm_up: Duration::ZERO, measured };
        run(plan, (0..connections).map(worker).collect()).await?;
        let made = made.take();
        if made.len() == count {
            return Ok(Rc::new(made));
        }
        Err(Error::answer("minting beforehand", format!("{} mandates", made.len())))
    }
}

/// Mints and exchanges in turn.
struct Minter {
    source: Rc<Source>,
    left: Rc<Cell<usize>>,
    minted: Option<String>,
    made: Rc<RefCell<Vec<String>>>,
}

impl Worker for Minter {
    fn request(&mut self, out: &mut Vec<u8>) -> bool {
        let source = &self.source;
        if let Some(minted) = &self.minted {
            let (form, headers) = gateway_call(&source.world, &source.key, minted, "/v1/orders");
            out.extend(token_request(source.address, &form, &headers));
            return true;
        }
        let Some(left) = self.left.get().checked_sub(1) else { return false };
        self.left.set(left);
        out.extend_from_slice(&source.mint);
        true
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), String> {
        let token = granted_token(status, body)?.to_owned();
        match self.minted.take() {
            None => self.minted = Some(token),
            Some(_) => self.made.borrow_mut().push(token),
        }
        Ok(())
    }
}

/// What governed requests took: each is a mint at the STS and a call through the Gateway, as the SDK makes them.
pub(crate) struct Governed {
    /// Requests per second.
    pub(crate) rate: f64,
    latencies: Vec<Duration>,
}

impl Governed {
    /// The latency in milliseconds that this share (0 to 1) did not exceed.
    pub(crate) fn latency_ms(&self, share: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((self.latencies.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.latencies.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

/// Sends governed requests from so many agents at once, for so long.
#[allow(clippy::cast_precision_loss)]
pub(crate) async fn governed(
    source: &Rc<Source>,
    gateway: SocketAddr,
    agents: usize,
    measured: Duration,
) -> Result<Governed, Error> {
    let local = LocalSet::new();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..agents)
        .map(|_| local.spawn_local(one_agent(Rc::clone(source), gateway, begun + measured)))
        .collect();
    let all = async {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.map_err(|error| Error::answer("an agent", error.to_string()))??);
        }
        Ok::<_, Error>(all)
    };
    let mut latencies = local.run_until(all).await?;
    latencies.sort_unstable();
    Ok(Governed { rate: latencies.len() as f64 / begun.elapsed().as_secs_f64(), latencies })
}

async fn one_agent(source: Rc<Source>, gateway: SocketAddr, end: Instant) -> Result<Vec<Duration>, Error> {
    let (mut sts, mut door) = (TcpStream::connect(source.address).await?, TcpStream::connect(gateway).await?);
    sts.set_nodelay(true)?;
    door.set_nodelay(true)?;
    let (mut minted, mut passed, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    while Instant::now() < end {
        let begun = Instant::now();
        sts.write_all(&source.mint).await?;
        let answer = read_answer(&mut sts, &mut minted).await?;
        let token =
            granted_token(answer.status, &minted).map_err(|why| Error::answer("a mint", why))?.to_owned();
        minted.drain(..answer.end.min(minted.len()));
        door.write_all(&call("GET", gateway, Some(&token))).await?;
        let answer = read_answer(&mut door, &mut passed).await?;
        if answer.status != 200 {
            return Err(Error::answer("a governed request", String::from_utf8_lossy(&passed).into_owned()));
        }
        passed.drain(..answer.end.min(passed.len()));
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

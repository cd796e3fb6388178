//! One Envoy: the singleton that follows the feed, workers, and what they ask of their clusters.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::stream::{Action, Stream};
use crate::vm::{Answer, Call, Module, Trap, Vm};
use crate::world::World;

/// The resource of every feed here.
pub const RESOURCE: &str = "resource://orders";

/// How the services answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Services {
    /// As they should.
    Good,
    /// With a failure in transport.
    Away,
    /// Not at all: calls wait.
    Silent,
}

/// One Envoy with its services.
pub struct Process<'m> {
    module: &'m Module,
    /// What its VMs share.
    pub world: World,
    /// The zone that it serves.
    pub issuer: Issuer,
    /// The singleton.
    pub singleton: Vm,
    /// The workers.
    pub workers: Vec<Vm>,
    configuration: Value,
    /// Further resources that a snapshot tells of.
    pub more_resources: Vec<Value>,
    /// Whether the resource's mandates may be used more than once, and the STS lets its grants be kept.
    pub reusable: bool,
    /// When policy changed last, as the feed tells it.
    pub policy_epoch: u64,
    /// What the feed tells from now on: revoked sessions.
    revoked: Vec<String>,
    generation: u64,
    /// Generations that only a snapshot tells of.
    gap: bool,
    /// How the STS answers polls.
    pub feed: Services,
    /// How the STS answers exchanges.
    pub sts: Services,
    /// How Audit answers.
    pub audit: Services,
    waiting: VecDeque<(usize, Call)>,
    /// What the STS grants: the mandate for the resource.
    pub granted: String,
    /// How many exchanges were asked for.
    pub exchanges: u64,
    /// How many events Audit took.
    pub events: Vec<Value>,
}

/// The configuration of the filter in the gateway's role.
#[must_use]
pub fn gateway() -> Value {
    json!({
        "role": "gateway", "binding": "header", "gateway_id": "gw-1", "sts": {}, "audit": {"capacity": 1000},
        "max_body_bytes": 1000,
    })
}

/// The configuration of the filter in front of one service.
#[must_use]
pub fn sidecar() -> Value {
    json!({
        "role": "resource", "binding": {"fixed": {"zone": "z1", "resource": RESOURCE}}, "gateway_id": "gw-1",
        "sts": {}, "audit": {"capacity": 1000}, "max_body_bytes": 1000,
    })
}

impl<'m> Process<'m> {
    /// Starts an Envoy with so many workers. Nothing was fed yet.
    ///
    /// # Errors
    /// A [`Trap`].
    ///
    /// # Panics
    /// When the module refuses the configuration.
    pub fn start(module: &'m Module, configuration: &Value, workers: usize) -> Result<Self, Trap> {
        let world = World::new();
        let feed = json!({"service": "feed", "gateway_id": "gw-1", "sts": {}, "wait_s": 1});
        let singleton = Vm::start(module, &world, feed.to_string().as_bytes())?.expect("a singleton");
        let mut process = Self {
            module,
            world,
            issuer: Issuer::new("http://sts.test", "z1", "k1", 7),
            singleton,
            workers: Vec::new(),
            configuration: configuration.clone(),
            more_resources: Vec::new(),
            reusable: false,
            policy_epoch: 0,
            revoked: Vec::new(),
            generation: 1,
            gap: false,
            feed: Services::Good,
            sts: Services::Good,
            audit: Services::Good,
            waiting: VecDeque::new(),
            granted: "derived".to_owned(),
            exchanges: 0,
            events: Vec::new(),
        };
        for _ in 0..workers {
            let worker = process.new_worker()?;
            process.workers.push(worker);
        }
        Ok(process)
    }

    fn new_worker(&self) -> Result<Vm, Trap> {
        let worker = Vm::start(self.module, &self.world, self.configuration.to_string().as_bytes())?;
        Ok(worker.expect("a worker"))
    }

    /// What Envoy does with a worker's VM that failed: an empty one takes its place.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn reload(&mut self, worker: usize) -> Result<(), Trap> {
        self.workers[worker] = self.new_worker()?;
        self.waiting.retain(|(vm, _)| *vm != worker + 1);
        Ok(())
    }

    /// The same for the singleton.
    ///
    /// # Errors
    /// A [`Trap`].
    ///
    /// # Panics
    /// When the module refuses the configuration.
    pub fn reload_singleton(&mut self) -> Result<(), Trap> {
        let feed = json!({"service": "feed", "gateway_id": "gw-1", "sts": {}, "wait_s": 1});
        self.singleton =
            Vm::start(self.module, &self.world, feed.to_string().as_bytes())?.expect("a singleton");
        self.waiting.retain(|(vm, _)| *vm != 0);
        Ok(())
    }

    /// The STS revokes a session.
    pub fn revoke(&mut self, session: &str) {
        self.revoked.push(session.to_owned());
        self.generation += 1;
    }

    /// The STS no longer has the changes between here and there, and sends a snapshot.
    pub fn lose_changes(&mut self) {
        self.generation += 10;
        self.gap = true;
    }

    /// Lets so much time pass, with ticks and answers as they fall due.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn pass(&mut self, millis: u64) -> Result<(), Trap> {
        for _ in 0..millis.div_ceil(25) {
            self.world.step(25);
            self.singleton.tick()?;
            for worker in &mut self.workers {
                worker.tick()?;
            }
            self.serve()?;
        }
        Ok(())
    }

    /// Answers what was asked.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn serve(&mut self) -> Result<(), Trap> {
        self.take();
        // One round: a poll that is answered at once is followed by the next one, which has to wait for the next time.
        for _ in 0..self.waiting.len() {
            let Some((vm, call)) = self.waiting.pop_front() else { break };
            match self.reply(&call) {
                Some(answer) => self.vm(vm).answer(&call, answer)?,
                None => self.waiting.push_back((vm, call)),
            }
        }
        self.take();
        Ok(())
    }

    fn vm(&mut self, number: usize) -> &mut Vm {
        match number {
            0 => &mut self.singleton,
            number => &mut self.workers[number - 1],
        }
    }

    fn take(&mut self) {
        for vm in 0..=self.workers.len() {
            for call in self.vm(vm).calls() {
                self.waiting.push_back((vm, call));
            }
        }
    }

    /// The answer of a service, when it is there; `None` lets the call wait.
    fn reply(&mut self, call: &Call) -> Option<Answer> {
        let path = call.header(":path");
        let state = match (call.cluster.as_str(), path.starts_with("/internal/gateway/feed")) {
            ("audit", _) => self.audit,
            (_, true) => self.feed,
            (_, false) => self.sts,
        };
        match state {
            Services::Silent => return None,
            Services::Away => return Some(Answer::default()),
            Services::Good => {}
        }
        if call.cluster == "audit" {
            let batch: Value = serde_json::from_slice(&call.body).expect("JSON");
            let events = caracal_mandate::delivery::events(&batch).expect("events");
            let last = events.last().map_or(Value::Null, |event| event["seq"].clone());
            self.events.extend(events);
            return Some(Answer::json(200, &json!({"acknowledged": last})));
        }
        if path.starts_with("/internal/gateway/feed") {
            let since = path.split("since=").nth(1).and_then(|rest| rest.split('&').next());
            let since = since.and_then(|since| since.parse().ok()).expect("a generation");
            return Some(Answer::json(200, &self.told_since(since)));
        }
        if path == "/internal/gateway/check" {
            return Some(Answer::json(200, &json!({"active": true})));
        }
        self.exchanges += 1;
        let mut directive = json!({"url": "http://upstream.example:9000", "auth_mode": "caracal_jwt"});
        let mut token = self.granted.clone();
        if self.reusable {
            directive["cache_until"] = json!(self.world.now() / 1_000 + 200);
            token = self.resource_mandate();
        }
        Some(Answer::json(200, &json!({"access_token": token, "upstreams": {RESOURCE: directive}})))
    }

    /// What the feed answers: nothing new, what came since, or everything.
    #[must_use]
    pub fn told_since(&mut self, since: u64) -> Value {
        let anchor = |session: &String| json!({"kind": "agent_session", "id": session, "until": self.world.now() + 3_600_000});
        let snapshot = since == 0 || self.gap || since > self.generation;
        let mut zone = if snapshot {
            let mut zone = self.issuer.zone_feed(&resources());
            zone["resources"][0]["multi_use"] = json!(self.reusable);
            zone["policy_epoch"] = json!(self.policy_epoch);
            zone["resources"].as_array_mut().expect("resources").extend(self.more_resources.iter().cloned());
            zone["revoked"] = self.revoked.iter().map(anchor).collect();
            zone
        } else {
            let news = usize::try_from(self.generation - since).expect("few changes");
            let revoked: Vec<Value> = self.revoked.iter().rev().take(news).map(anchor).collect();
            json!({"zone_id": self.issuer.zone, "authority_epoch": 3, "policy_epoch": self.policy_epoch, "revoked": revoked})
        };
        if zone["revoked"].as_array().is_some_and(Vec::is_empty) {
            zone.as_object_mut().expect("an object").remove("revoked");
        }
        self.gap = false;
        let (previous, zones) = match (snapshot, since == self.generation) {
            (true, _) => (0, vec![zone]),
            (false, true) => (since, vec![]),
            (false, false) => (since, vec![zone]),
        };
        json!({
            "previous": previous, "generation": self.generation, "snapshot": snapshot, "issuer": self.issuer.url,
            "time": self.world.now(), "zones": zones,
        })
    }

    /// A mandate for the gateway.
    #[must_use]
    pub fn mandate(&self) -> String {
        self.issuer.token(&self.claims())
    }

    /// The claims of one.
    #[must_use]
    pub fn claims(&self) -> Value {
        self.issuer.claims(self.world.now() / 1_000, &[RESOURCE])
    }

    /// A mandate for the resource itself.
    #[must_use]
    pub fn resource_mandate(&self) -> String {
        let mut claims = self.claims();
        claims["use"] = json!("resource");
        claims["aud"] = json!([RESOURCE]);
        self.issuer.token(&claims)
    }

    /// The stream of a caller with this mandate.
    #[must_use]
    pub fn request(&self, mandate: &str) -> Stream {
        Stream::new(&[
            (":method", "GET"),
            (":path", "/v1/orders"),
            (":authority", "gateway.example"),
            (":scheme", "http"),
            ("authorization", &format!("Bearer {mandate}")),
            ("x-caracal-resource", RESOURCE),
            ("x-request-id", "req-1"),
            ("x-caracal-identity", "forged"),
        ])
    }

    /// Sends a request to a worker, answers what the worker asks, and tells what became of it.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn send(&mut self, worker: usize, stream: Stream) -> Result<Stream, Trap> {
        let id = self.workers[worker].open(stream)?;
        if self.workers[worker].request_headers(id, true)? == Action::Pause {
            self.serve()?;
        }
        self.workers[worker].close(id)
    }
}

/// The resources of the feed.
fn resources() -> Value {
    json!([{"identifier": RESOURCE, "enforcement": "enforced", "scopes": ["orders:read"], "operations": [
        {"method": "GET", "path": "/v1/orders", "scope": "orders:read"},
        {"method": "POST", "path": "/v1/orders", "scope": "orders:read"}]}])
}

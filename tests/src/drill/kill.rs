//! `kill -9` at any moment: nothing that was answered as ended ever acts again, and nothing that was answered as made is
//! lost.
//!
//! Agents start, delegate, mint, call, end and revoke through the real binary and a real Envoy. Meanwhile the process is
//! killed and started again. Each agent remembers what it was answered; what nobody answered may be either way.

use super::client::{Answer, Client, Place, text};
use super::model::{Edge, Mandate, Model, Session, State};
use super::{Plan, Report};
use crate::{Options, Stack, Upstream, World};
use caracal_filter_bed::chance::Chance;
use reqwest::Method;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

const AGENTS: u64 = 4;
/// How deep sessions go.
const DEPTH: usize = 4;
/// How many children of a session are answered for: fewer than it may have, as some may be there unanswered.
const CHILDREN: usize = 5;
/// After so many steps an agent looks at everything and begins anew, before what it holds expires.
const ROUND: u32 = 1000;
/// The longest time between two kills, milliseconds.
const QUIET: u64 = 2500;
/// How many of each kind are looked at in the end, the latest.
const LOOKED_AT: usize = 200;

/// The operator's own limits: the drill is not about them.
const OPTIONS: [&str; 6] =
    ["--max-agents-per-zone", "1000000", "--max-agents-per-app", "1000000", "--mint-limit", "1000000000"];

/// Runs the drill.
pub(super) async fn run(plan: Plan) -> Result<Report, String> {
    let chance = Chance::new(plan.seed);
    let arguments = OPTIONS.map(str::to_owned).to_vec();
    let stack = Stack::start_with(Options { arguments, ..Options::default() }).await;
    let upstream = Upstream::start().await;
    let world = World::configure(&stack, &upstream).await;
    let (tell, places) = watch::channel(Some(Arc::new(world.clone())));
    let end = Instant::now() + plan.length;
    let mut agents = JoinSet::new();
    for number in 0..AGENTS {
        let (chance, places) = (chance.branch(number), places.clone());
        agents.spawn(async move { Agent::new(chance, places).await?.work(end).await });
    }
    let mut report = Report::default();
    let stack = kill_now_and_then(stack, world, chance.branch(AGENTS), &tell, end, &mut report).await;
    while let Some(done) = agents.join_next().await {
        let done = done.map_err(|error| error.to_string())?;
        report.add(done?);
    }
    drop(stack);
    Ok(report)
}

async fn kill_now_and_then(
    mut stack: Stack,
    mut world: World,
    mut chance: Chance,
    tell: &watch::Sender<Place>,
    end: Instant,
    report: &mut Report,
) -> Stack {
    loop {
        tokio::time::sleep(Duration::from_millis(chance.bits() % QUIET)).await;
        if Instant::now() >= end {
            return stack;
        }
        tell.send_replace(None);
        stack.kill().await;
        report.count("kill");
        stack.restart().await;
        world.moved_to(&stack);
        tell.send_replace(Some(Arc::new(world.clone())));
    }
}

/// What may be done next, and how often it is chosen.
const CHOICES: [Choice; 18] = {
    use Choice::{ActOnEnded, Call, Delegate, End, Inherit, Look, Mint, Revoke, Start, StartBelow, UseAgain};
    [
        Start, Start, StartBelow, StartBelow, Delegate, Delegate, Delegate, Inherit, Mint, Mint, Mint, Call,
        Call, UseAgain, End, Revoke, ActOnEnded, Look,
    ]
};

#[derive(Debug, Clone, Copy)]
enum Choice {
    Start,
    StartBelow,
    Delegate,
    Inherit,
    Mint,
    Call,
    UseAgain,
    End,
    Revoke,
    ActOnEnded,
    Look,
}

/// Nobody answered, or something is not as it has to be.
enum Stop {
    Unanswered,
    Violation(String),
}

type Step = Result<(), Stop>;

struct Agent {
    chance: Chance,
    client: Client,
    model: Model,
    report: Report,
}

impl Agent {
    async fn new(chance: Chance, places: watch::Receiver<Place>) -> Result<Self, String> {
        let client = Client::new(places).await?;
        Ok(Self { chance, client, model: Model::default(), report: Report::default() })
    }

    /// Works until the end, then looks at everything once more.
    async fn work(mut self, end: Instant) -> Result<Report, String> {
        while Instant::now() < end {
            for _ in 0..ROUND {
                if Instant::now() >= end {
                    break;
                }
                let choice = self.chance.one_of(&CHOICES).unwrap_or(Choice::Start);
                match self.step(choice).await {
                    Ok(()) => {}
                    Err(Stop::Unanswered) => {
                        self.report.count("unanswered");
                        self.client.recover().await?;
                    }
                    Err(Stop::Violation(what)) => return Err(what),
                }
            }
            self.finish_round().await?;
        }
        Ok(self.report)
    }

    async fn finish_round(&mut self) -> Result<(), String> {
        loop {
            match self.look_at_all().await {
                Ok(()) => break,
                Err(Stop::Unanswered) => self.client.recover().await?,
                Err(Stop::Violation(what)) => return Err(what),
            }
        }
        self.model = Model::default();
        Ok(())
    }

    async fn step(&mut self, choice: Choice) -> Step {
        match choice {
            Choice::Start => self.start(None).await,
            Choice::StartBelow => {
                let live = self.model.sessions_that_are(State::Live);
                let parents: Vec<usize> =
                    live.into_iter().filter(|index| self.may_have_child(*index)).collect();
                match self.chance.one_of(&parents) {
                    Some(parent) => self.start(Some(parent)).await,
                    None => Ok(()),
                }
            }
            Choice::Delegate => self.delegate().await,
            Choice::Inherit => self.inherit().await,
            Choice::Mint => match self.any_edge(State::Live) {
                Some(edge) => self.mint(edge).await,
                None => Ok(()),
            },
            Choice::Call => self.call().await,
            Choice::UseAgain => self.call_refused().await,
            Choice::End => self.end().await,
            Choice::Revoke => self.revoke().await,
            Choice::ActOnEnded => self.act_on_ended().await,
            Choice::Look => match self.any_session() {
                Some(session) => self.look(session).await,
                None => Ok(()),
            },
        }
    }

    fn may_have_child(&self, index: usize) -> bool {
        self.model.depth(index) < DEPTH && self.model.children(index) < CHILDREN
    }

    fn any_edge(&mut self, state: State) -> Option<usize> {
        self.chance.one_of(&self.model.edges_that_are(state))
    }

    fn any_session(&mut self) -> Option<usize> {
        let all: Vec<usize> = (0..self.model.sessions.len()).collect();
        self.chance.one_of(&all)
    }

    async fn start(&mut self, parent: Option<usize>) -> Step {
        let id = parent.map(|parent| self.model.sessions[parent].id.clone());
        let answer = self.client.start(id.as_deref(), "none").await;
        let body = expected("a start", answer, 201)?;
        self.report.count("session started");
        let id = text(&body, "agent_session_id");
        self.model.sessions.push(Session { id, parent, state: State::Live });
        Ok(())
    }

    /// Starts a child that inherits a delegation.
    async fn inherit(&mut self) -> Step {
        let candidates: Vec<usize> = self
            .model
            .edges_that_are(State::Live)
            .into_iter()
            .filter(|edge| self.may_have_child(self.model.edges[*edge].target))
            .collect();
        let Some(edge) = self.chance.one_of(&candidates) else { return Ok(()) };
        let parent = self.model.edges[edge].target;
        let id = self.model.sessions[parent].id.clone();
        let body = expected("an inheriting start", self.client.start(Some(&id), "inherit").await, 201)?;
        self.report.count("session started, inheriting");
        let child = self.model.sessions.len();
        let id = text(&body, "agent_session_id");
        self.model.sessions.push(Session { id, parent: Some(parent), state: State::Live });
        let id = text(&body, "delegation_edge_id");
        if id.is_empty() {
            return Err(Stop::Violation(format!("an inheriting start got no delegation: {body}")));
        }
        let inherited = Edge { id, source: parent, target: child, parent: Some(edge), state: State::Live };
        self.model.edges.push(inherited);
        Ok(())
    }

    /// Delegates from a topmost session to one below it that nobody ever delegated to.
    async fn delegate(&mut self) -> Step {
        let candidates: Vec<usize> = self
            .model
            .sessions_that_are(State::Live)
            .into_iter()
            .filter(|session| self.model.depth(*session) == 1)
            .filter(|session| self.model.edges.iter().all(|edge| edge.target != *session))
            .collect();
        let Some(target) = self.chance.one_of(&candidates) else { return Ok(()) };
        let Some(source) = self.model.sessions[target].parent else { return Ok(()) };
        let ids = (self.model.sessions[source].id.clone(), self.model.sessions[target].id.clone());
        let answer = self.client.delegate(&ids.0, &ids.1).await;
        if answer.is_none() {
            // It may be bound by now, and then it inherits: nobody may say.
            self.model.sessions[target].state = State::Unknown;
        }
        let body = expected("a delegation", answer, 201)?;
        self.report.count("delegation made");
        let id = text(&body, "delegation_edge_id");
        self.model.edges.push(Edge { id, source, target, parent: None, state: State::Live });
        Ok(())
    }

    async fn mint(&mut self, edge: usize) -> Step {
        let Edge { id, target, .. } = &self.model.edges[edge];
        let answer = self.client.mint(&self.model.sessions[*target].id, id).await;
        let body = expected("a mint", answer, 200)?;
        self.report.count("mandate minted");
        let token = text(&body, "access_token");
        self.model.mandates.push(Mandate { token, edge, state: State::Live });
        Ok(())
    }

    async fn call(&mut self) -> Step {
        let live = self.model.mandates_that_are(State::Live);
        let Some(mandate) = self.chance.one_of(&live) else { return Ok(()) };
        let status = self.client.read(&self.model.mandates[mandate].token).await;
        self.model.mandates[mandate].state = match status {
            Some(200) => State::Ended,
            _ => State::Unknown,
        };
        match status {
            Some(200) => self.report.count("call made"),
            // The Gateway cannot ask, or the services died behind it.
            None | Some(500..) => return Err(Stop::Unanswered),
            Some(status) => {
                return Err(Stop::Violation(format!("a live mandate was refused with {status}")));
            }
        }
        Ok(())
    }

    /// A mandate that was used, or whose session or delegation was answered as ended, opens nothing.
    async fn call_refused(&mut self) -> Step {
        let ended = self.model.mandates_that_are(State::Ended);
        match self.chance.one_of(&ended) {
            Some(mandate) => self.check_mandate(mandate).await,
            None => Ok(()),
        }
    }

    async fn check_mandate(&mut self, mandate: usize) -> Step {
        match self.client.read(&self.model.mandates[mandate].token).await {
            None | Some(500..) => Err(Stop::Unanswered),
            Some(401 | 403) => {
                self.report.count("call refused");
                Ok(())
            }
            Some(status) => Err(Stop::Violation(format!(
                "a mandate whose {:?} was answered as ended was answered {status}",
                self.model.edges[self.model.mandates[mandate].edge]
            ))),
        }
    }

    async fn end(&mut self) -> Step {
        let live = self.model.sessions_that_are(State::Live);
        let Some(session) = self.chance.one_of(&live) else { return Ok(()) };
        let path = format!("agents/{}", self.model.sessions[session].id);
        self.model.sessions[session].state = State::Unknown;
        let answer = self.client.coordinate(Method::DELETE, &path, None).await;
        expected("an end", answer, 204)?;
        self.model.sessions[session].state = State::Ended;
        self.report.count("session ended");
        Ok(())
    }

    async fn revoke(&mut self) -> Step {
        let Some(edge) = self.any_edge(State::Live) else { return Ok(()) };
        let path = format!("delegations/{}/revoke", self.model.edges[edge].id);
        self.model.edges[edge].state = State::Unknown;
        let answer = self.client.coordinate(Method::PATCH, &path, None).await;
        expected("a revocation", answer, 200)?;
        self.model.edges[edge].state = State::Ended;
        self.report.count("delegation revoked");
        Ok(())
    }

    /// What was answered as ended mints nothing, starts nothing, and hands nothing over.
    async fn act_on_ended(&mut self) -> Step {
        if let Some(edge) = self.any_edge(State::Ended) {
            self.check_edge(edge).await?;
        }
        let ended = self.model.sessions_that_are(State::Ended);
        let Some(session) = self.chance.one_of(&ended) else { return Ok(()) };
        let id = self.model.sessions[session].id.clone();
        self.refused("a start below", self.client.start(Some(&id), "none").await)?;
        let live = self.model.sessions_that_are(State::Live);
        if let Some(target) = self.chance.one_of(&live) {
            let target = self.model.sessions[target].id.clone();
            self.refused("a delegation from", self.client.delegate(&id, &target).await)?;
        }
        Ok(())
    }

    async fn check_edge(&mut self, edge: usize) -> Step {
        let Edge { id, target, .. } = &self.model.edges[edge];
        let answer = self.client.mint(&self.model.sessions[*target].id, id).await;
        self.refused("a mint under", answer)
    }

    fn refused(&mut self, what: &str, answer: Option<Answer>) -> Step {
        match answer {
            None | Some((500.., _)) => Err(Stop::Unanswered),
            Some((400..500, _)) => {
                self.report.count("act of the ended refused");
                Ok(())
            }
            Some((status, body)) => {
                let why = format!("{what} what was answered as ended: {status} {body}");
                Err(Stop::Violation(why))
            }
        }
    }

    /// A session is there, and is as it was answered.
    async fn look(&mut self, session: usize) -> Step {
        let path = format!("agents/{}", self.model.sessions[session].id);
        let body = expected("a look", self.client.coordinate(Method::GET, &path, None).await, 200)?;
        let status = text(&body, "status");
        let holds = match self.model.session(session) {
            State::Live => status == "active",
            State::Ended => status == "terminated",
            State::Unknown => true,
        };
        self.report.count("session looked at");
        if holds {
            return Ok(());
        }
        Err(Stop::Violation(format!("{:?} is {status}", self.model.sessions[session])))
    }

    async fn look_at_all(&mut self) -> Step {
        let latest = |all: Vec<usize>| all.into_iter().rev().take(LOOKED_AT).collect::<Vec<_>>();
        for session in latest((0..self.model.sessions.len()).collect()) {
            self.look(session).await?;
        }
        for edge in latest(self.model.edges_that_are(State::Ended)) {
            self.check_edge(edge).await?;
        }
        for edge in latest(self.model.edges_that_are(State::Live)) {
            self.mint(edge).await?;
        }
        for mandate in latest(self.model.mandates_that_are(State::Ended)) {
            self.check_mandate(mandate).await?;
        }
        Ok(())
    }
}

/// The body of an answer with this status. A service that cannot do its part has not answered.
fn expected(what: &str, answer: Option<Answer>, status: u16) -> Result<serde_json::Value, Stop> {
    match answer {
        None | Some((500.., _)) => Err(Stop::Unanswered),
        Some((given, body)) if given == status => Ok(body),
        Some((given, body)) => {
            Err(Stop::Violation(format!("{what} was answered {given} {body} instead of {status}")))
        }
    }
}

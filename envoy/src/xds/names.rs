//! The addresses of upstreams' names, looked up again and again.
//!
//! A lookup that fails leaves what was known before, so that a name server that is away takes no upstream away.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::translate::Addresses;

/// How long an answer counts.
const REFRESH: Duration = Duration::from_secs(15);
/// How soon a name is tried again after a failure.
const RETRY: Duration = Duration::from_secs(3);
/// Lookups at the same time. The system's resolver takes a thread for each, and keeps it for as long as a name server is
/// silent.
const AT_ONCE: usize = 16;

/// A lookup under way.
type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// How names are looked up.
#[derive(Clone)]
pub struct Lookup(Arc<dyn Fn(String) -> Looking + Send + Sync>);

impl Lookup {
    /// By the system.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|name| async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// By a function.
    pub fn new<F, R>(look: F) -> Self
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(look(name))))
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

/// Names and what is known of them.
pub(super) struct Names {
    lookup: Lookup,
    wanted: BTreeSet<String>,
    known: Addresses,
    /// Those whose last lookup failed.
    failed: BTreeSet<String>,
    /// When each is due; those under way are not here.
    due: Vec<(Instant, String)>,
    under_way: JoinSet<(String, io::Result<Vec<IpAddr>>)>,
}

impl Names {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            wanted: BTreeSet::new(),
            known: Addresses::new(),
            failed: BTreeSet::new(),
            due: Vec::new(),
            under_way: JoinSet::new(),
        }
    }

    /// What is known.
    pub(super) fn known(&self) -> &Addresses {
        &self.known
    }

    /// Looks these up from now on, new ones at once, and forgets all others.
    pub(super) fn want(&mut self, names: BTreeSet<String>) {
        let now = Instant::now();
        self.known.retain(|name, _| names.contains(name));
        self.failed.retain(|name| names.contains(name));
        self.due.retain(|(_, name)| names.contains(name));
        // One that is under way while it is given up and wanted again is looked up twice, and that is all.
        self.due.extend(names.difference(&self.wanted).map(|name| (now, name.clone())));
        self.wanted = names;
        self.begin(now);
    }

    /// Waits until an answer changed what is known.
    pub(super) async fn changed(&mut self) {
        loop {
            self.begin(Instant::now());
            let next = self.due.iter().map(|(at, _)| *at).min();
            let full = self.under_way.len() >= AT_ONCE;
            tokio::select! {
                Some(ended) = self.under_way.join_next() => {
                    if ended.is_ok_and(|(name, found)| self.learn(name, found)) {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && !full => {}
                else => std::future::pending().await,
            }
        }
    }

    fn begin(&mut self, now: Instant) {
        while self.under_way.len() < AT_ONCE {
            let Some(at) = self.due.iter().position(|(due, _)| *due <= now) else { return };
            let (_, name) = self.due.swap_remove(at);
            let looking = (self.lookup.0)(name.clone());
            self.under_way.spawn(async move { (name, looking.await) });
        }
    }

    /// Takes an answer; tells whether it changed anything.
    fn learn(&mut self, name: String, found: io::Result<Vec<IpAddr>>) -> bool {
        if !self.wanted.contains(&name) {
            return false;
        }
        self.due.retain(|(_, other)| *other != name);
        match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                caracal_store::metrics::name_looked_up(true);
                self.failed.remove(&name);
                self.due.push((Instant::now() + REFRESH, name.clone()));
                addresses.sort_unstable();
                addresses.dedup();
                self.known.insert(name, addresses.clone()).is_none_or(|before| before != addresses)
            }
            outcome => {
                caracal_store::metrics::name_looked_up(false);
                let why = outcome.err().map_or_else(|| "no address".to_owned(), |error| error.to_string());
                if self.failed.insert(name.clone()) {
                    tracing::warn!(%name, %why, "the name of an upstream cannot be looked up");
                }
                self.due.push((Instant::now() + RETRY, name));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    type Answers = Arc<Mutex<Vec<io::Result<Vec<IpAddr>>>>>;

    fn names(answers: Vec<io::Result<&[&str]>>) -> (Names, Answers) {
        let parsed = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let answers: Vec<_> = answers.into_iter().rev().map(|answer| answer.map(parsed)).collect();
        let answers: Answers = Arc::new(Mutex::new(answers));
        let left = Arc::clone(&answers);
        let lookup = Lookup::new(move |_| {
            let answer = left.lock().unwrap().pop();
            async move { answer.unwrap_or_else(|| Err(io::Error::other("away"))) }
        });
        (Names::new(lookup), answers)
    }

    fn wanted(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_renewed_and_a_failure_keeps_it() {
        let (mut names, left) = names(vec![
            Ok(&["10.0.0.2", "10.0.0.1"]),
            Ok(&["10.0.0.1", "10.0.0.2"]),
            Err(io::Error::other("away")),
            Ok(&[]),
            Ok(&["10.0.0.3"]),
        ]);
        names.want(wanted(&["a.example"]));
        let begun = Instant::now();
        names.changed().await;
        assert_eq!(names.known()["a.example"].len(), 2);
        assert_eq!(begun.elapsed(), Duration::ZERO, "a new name is looked up at once");
        names.changed().await;
        assert_eq!(names.known()["a.example"], ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(begun.elapsed().as_secs(), 2 * REFRESH.as_secs() + 2 * RETRY.as_secs());
        assert!(left.lock().unwrap().is_empty());
        names.want(wanted(&[]));
        assert!(names.known().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_hangs_holds_up_no_other() {
        let lookup = Lookup::new(|name| async move {
            if name == "hangs.example" {
                std::future::pending::<()>().await;
            }
            Ok(vec!["10.0.0.1".parse().unwrap()])
        });
        let mut names = Names::new(lookup);
        names.want(wanted(&["hangs.example", "a.example"]));
        names.changed().await;
        assert_eq!(names.known().keys().collect::<Vec<_>>(), ["a.example"]);
    }
}

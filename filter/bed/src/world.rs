//! What all VMs of one Envoy share.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// The key that the gateway shares with its STS.
pub const KEY: &str = "abababababababababababababababababababababababababababababababab";
/// When every world begins, unix milliseconds.
pub const BEGINNING: u64 = 1_700_000_000_000;

/// How much a host function was used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Used {
    /// How often it was called.
    pub calls: u64,
    /// How often it had the module give it memory for what it answers: another call, into the module.
    pub allocations: u64,
    /// The bytes that it read and wrote.
    pub bytes: u64,
}

/// What all VMs of one Envoy share; a handle.
#[derive(Clone)]
pub struct World(pub(crate) Rc<RefCell<Inner>>);

pub(crate) struct Inner {
    /// Unix milliseconds.
    pub(crate) now: u64,
    pub(crate) shared: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    /// Kind, name and value.
    pub(crate) metrics: Vec<(u32, String, i64)>,
    pub(crate) logs: Vec<(u32, String)>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) clusters: HashSet<String>,
    /// Host functions that answer with a status instead of doing anything.
    faults: HashMap<String, u32>,
    /// Host functions that were called, with how often.
    pub(crate) called: BTreeMap<&'static str, Used>,
    /// The one that is being called.
    current: &'static str,
    /// What crosses between host and module, in order; `None` unless it is looked at.
    crossings: Option<Vec<&'static str>>,
    pub(crate) verifies: bool,
    pub(crate) random: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An Envoy with the clusters `sts` and `audit`, and the gateway's key in its environment.
    #[must_use]
    pub fn new() -> Self {
        let key = ("CARACAL_GATEWAY_STS_HMAC_KEY".to_owned(), KEY.to_owned());
        Self(Rc::new(RefCell::new(Inner {
            now: BEGINNING,
            shared: HashMap::new(),
            metrics: Vec::new(),
            logs: Vec::new(),
            environment: BTreeMap::from([key]),
            clusters: ["sts", "audit"].map(str::to_owned).into(),
            faults: HashMap::new(),
            called: BTreeMap::new(),
            current: "",
            crossings: None,
            verifies: true,
            random: 0x9e37_79b9_7f4a_7c15,
        })))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.borrow().now
    }

    /// Steps the clock; it may go back.
    pub fn step(&self, millis: i64) {
        let mut inner = self.0.borrow_mut();
        inner.now = inner.now.saturating_add_signed(millis);
    }

    /// From now on the host function of this name answers with this status and does nothing else.
    pub fn fail(&self, function: &str, status: u32) {
        self.0.borrow_mut().faults.insert(function.to_owned(), status);
    }

    /// Every host function works again.
    pub fn heal(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// Whether the host verifies signatures itself.
    pub fn verify(&self, verifies: bool) {
        self.0.borrow_mut().verifies = verifies;
    }

    /// Takes an environment variable away.
    pub fn forget(&self, variable: &str) {
        self.0.borrow_mut().environment.remove(variable);
    }

    /// Takes a cluster away.
    pub fn without_cluster(&self, cluster: &str) {
        self.0.borrow_mut().clusters.remove(cluster);
    }

    /// Shares a value, as another VM of the same `vm_id` could.
    pub fn share(&self, key: &str, value: &[u8]) {
        self.0.borrow_mut().shared.insert(key.as_bytes().to_vec(), (value.to_vec(), 1));
    }

    /// The keys that are shared, and their values.
    #[must_use]
    pub fn shared(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.0.borrow();
        let pairs = inner.shared.iter();
        pairs.map(|(key, (value, _))| (String::from_utf8_lossy(key).into_owned(), value.clone())).collect()
    }

    /// Envoy's last VM of the `vm_id` is gone, and with it what was shared.
    pub fn forget_shared(&self) {
        self.0.borrow_mut().shared.clear();
    }

    /// The value of a metric; 0 where there is none.
    #[must_use]
    pub fn metric(&self, name: &str) -> i64 {
        let inner = self.0.borrow();
        inner.metrics.iter().find(|(_, known, _)| known == name).map_or(0, |(_, _, value)| *value)
    }

    /// Sets a metric that is there, as any VM of the process could.
    pub fn set_metric(&self, name: &str, value: i64) {
        let mut inner = self.0.borrow_mut();
        for metric in inner.metrics.iter_mut().filter(|(_, known, _)| known == name) {
            metric.2 = value;
        }
    }

    /// Everything that was logged.
    #[must_use]
    pub fn logs(&self) -> Vec<String> {
        self.0.borrow().logs.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Every host function that was called so far.
    #[must_use]
    pub fn functions_called(&self) -> Vec<&'static str> {
        self.0.borrow().called.keys().copied().collect()
    }

    /// How often a host function was called so far.
    #[must_use]
    pub fn calls_of(&self, function: &str) -> u64 {
        self.0.borrow().called.get(function).map_or(0, |used| used.calls)
    }

    /// How much every host function was used since this was asked last.
    #[must_use]
    pub fn used(&self) -> BTreeMap<&'static str, Used> {
        std::mem::take(&mut self.0.borrow_mut().called)
    }

    /// Looks at what crosses between host and module from now on.
    pub fn watch(&self) {
        self.0.borrow_mut().crossings = Some(Vec::new());
    }

    /// What crossed since, in order: functions of the module, of the host, and memory that the host asked for.
    #[must_use]
    pub fn watched(&self) -> Vec<&'static str> {
        self.0.borrow_mut().crossings.take().unwrap_or_default()
    }

    /// Notes that something crosses.
    pub(crate) fn crosses(&self, function: &'static str) {
        if let Some(crossings) = &mut self.0.borrow_mut().crossings {
            crossings.push(function);
        }
    }

    /// Notes that a function is called; its status, where it is to fail.
    pub(crate) fn enter(&self, function: &'static str) -> Option<u32> {
        self.crosses(function);
        let mut inner = self.0.borrow_mut();
        inner.called.entry(function).or_default().calls += 1;
        inner.current = function;
        inner.faults.get(function).copied()
    }

    /// Notes that the function reads or writes so many bytes.
    pub(crate) fn moves(&self, bytes: usize) {
        self.note(|used| used.bytes += bytes as u64);
    }

    /// Notes that the function asks the module for memory.
    pub(crate) fn allocates(&self) {
        self.crosses("proxy_on_memory_allocate");
        self.note(|used| used.allocations += 1);
    }

    fn note(&self, change: impl FnOnce(&mut Used)) {
        let mut inner = self.0.borrow_mut();
        let current = inner.current;
        change(inner.called.entry(current).or_default());
    }

    /// Random bytes, the same in every run.
    pub(crate) fn random(&self, bytes: &mut [u8]) {
        let mut inner = self.0.borrow_mut();
        for byte in bytes {
            inner.random ^= inner.random << 13;
            inner.random ^= inner.random >> 7;
            inner.random ^= inner.random << 17;
            *byte = inner.random.to_le_bytes()[3];
        }
    }
}

//! One VM: an instance of the module, its contexts and its streams.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use wasmtime::{
    Config, Engine, Instance, Linker, OptLevel, ProfilingStrategy, Store, StoreLimits, StoreLimitsBuilder,
    TypedFunc,
};

use crate::abi;
use crate::stream::{Action, Headers, Stream};
use crate::wasi;
use crate::world::World;

/// The most linear memory that a VM gets here, in bytes: far beyond anything good.
const MEMORY_LIMIT: usize = 256 * 1024 * 1024;
/// The root context.
const ROOT: u32 = 1;

/// More fuel than anything here burns.
const TANK: u64 = u64::MAX / 2;

/// The module, compiled once.
pub struct Module {
    engine: Engine,
    module: wasmtime::Module,
    metered: bool,
}

/// What calls of one of the module's functions took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// How often it was called.
    pub calls: u64,
    /// The fuel that it burnt: about one unit for each instruction of WebAssembly. 0 where nothing is metered.
    pub fuel: u64,
}

/// The module trapped, or broke the ABI. Envoy then fails the VM.
#[derive(Debug)]
pub struct Trap(pub String);

/// A call to a cluster that waits for its answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its token.
    pub token: u32,
    /// The context that made it.
    pub context: u32,
    /// The cluster.
    pub cluster: String,
    /// All headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl Call {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }
}

/// The answer to a call. Without headers it is a failure in transport.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// JSON with a status.
    #[must_use]
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
        let headers = vec![
            header(":status", status.to_string()),
            header("content-type", "application/json".to_owned()),
        ];
        Self { headers, body: body.to_string().into_bytes() }
    }
}

/// What the host's functions work on.
pub(crate) struct State {
    pub(crate) world: World,
    pub(crate) configuration: Vec<u8>,
    /// The context that is being called.
    pub(crate) context: u32,
    pub(crate) streams: HashMap<u32, Stream>,
    pub(crate) calls: Vec<Call>,
    pub(crate) tokens: u32,
    /// The answer that is being delivered.
    pub(crate) answer: Option<Answer>,
    pub(crate) tick_ms: u32,
    limits: StoreLimits,
}

/// One of the module's functions, if it has it: Envoy calls what is there.
#[derive(Clone)]
struct Export<P, R> {
    name: &'static str,
    function: Option<TypedFunc<P, R>>,
}

struct Exports {
    create: Export<(u32, u32), ()>,
    configure: Export<(u32, u32), u32>,
    vm_start: Export<(u32, u32), u32>,
    tick: Export<u32, ()>,
    request_headers: Export<(u32, u32, u32), u32>,
    request_body: Export<(u32, u32, u32), u32>,
    request_trailers: Export<(u32, u32), u32>,
    response_headers: Export<(u32, u32, u32), u32>,
    response_body: Export<(u32, u32, u32), u32>,
    response_trailers: Export<(u32, u32), u32>,
    call_response: Export<(u32, u32, u32, u32, u32), ()>,
    log: Export<u32, ()>,
    done: Export<u32, u32>,
    delete: Export<u32, ()>,
}

/// One VM.
pub struct Vm {
    store: Store<State>,
    instance: Instance,
    exports: Exports,
    next: u32,
    metered: bool,
    spent: BTreeMap<&'static str, Spent>,
}

impl Module {
    /// Compiles a module.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        let mut config = Config::new();
        config.cranelift_opt_level(OptLevel::None);
        Self::compile(path, &config, false)
    }

    /// Compiles a module so that its fuel is counted ([`Vm::spent`]).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn load_metered(path: &Path) -> Self {
        let mut config = Config::new();
        config.cranelift_opt_level(OptLevel::None).consume_fuel(true);
        Self::compile(path, &config, true)
    }

    /// Compiles a module as fast as it gets, and names its functions to `perf` (in `/tmp/perf-<pid>.map`).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn load_profiled(path: &Path) -> Self {
        let mut config = Config::new();
        config.cranelift_opt_level(OptLevel::Speed).profiler(ProfilingStrategy::PerfMap);
        Self::compile(path, &config, false)
    }

    fn compile(path: &Path, config: &Config, metered: bool) -> Self {
        let engine = Engine::new(config).expect("an engine");
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let module = wasmtime::Module::new(&engine, bytes).expect("a module");
        Self { engine, module, metered }
    }

    /// The module that `cargo xtask` built.
    ///
    /// # Panics
    /// When it is not run by it.
    #[must_use]
    pub fn built() -> Self {
        Self::load(&built())
    }

    /// The same, metered.
    ///
    /// # Panics
    /// When it is not run by it.
    #[must_use]
    pub fn built_metered() -> Self {
        Self::load_metered(&built())
    }
}

fn built() -> PathBuf {
    let path = std::env::var_os("CARACAL_TEST_FILTER");
    path.expect("CARACAL_TEST_FILTER is not set: run these tests with `cargo xtask test --e2e`").into()
}

fn action(value: Option<u32>) -> Result<Action, Trap> {
    match value.unwrap_or(0) {
        0 => Ok(Action::Continue),
        1 => Ok(Action::Pause),
        other => Err(Trap(format!("action {other}"))),
    }
}

impl Vm {
    /// Starts a VM with a plugin configuration. `Ok(None)`: the module refuses the configuration.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn start(module: &Module, world: &World, configuration: &[u8]) -> Result<Option<Self>, Trap> {
        let state = State {
            world: world.clone(),
            configuration: configuration.to_vec(),
            context: ROOT,
            streams: HashMap::new(),
            calls: Vec::new(),
            tokens: 0,
            answer: None,
            tick_ms: 0,
            limits: StoreLimitsBuilder::new().memory_size(MEMORY_LIMIT).build(),
        };
        let mut store = Store::new(&module.engine, state);
        store.limiter(|state| &mut state.limits);
        if module.metered {
            store.set_fuel(TANK).expect("a meter");
        }
        let mut linker = Linker::new(&module.engine);
        abi::define(&mut linker).expect("the functions of the ABI");
        wasi::define(&mut linker).expect("the functions of WASI");
        // What is not there is not used: a call would trap, and a test would fail.
        linker.define_unknown_imports_as_traps(&module.module).expect("traps");
        let trap = |error: wasmtime::Error| Trap(format!("{error:?}"));
        let instance = linker.instantiate(&mut store, &module.module).map_err(trap)?;
        let exports = Exports::of(&instance, &mut store).expect("the exports of the ABI");
        let initialize = instance.get_typed_func::<(), ()>(&mut store, "_initialize").expect("_initialize");
        initialize.call(&mut store, ()).map_err(trap)?;
        let (metered, spent) = (module.metered, BTreeMap::new());
        let mut vm = Self { store, instance, exports, next: ROOT + 1, metered, spent };
        vm.run(ROOT, |exports| &exports.create, (ROOT, 0))?;
        let started = vm.run(ROOT, |exports| &exports.vm_start, (ROOT, 0))?;
        let size = u32::try_from(configuration.len()).expect("a small configuration");
        let configured = vm.run(ROOT, |exports| &exports.configure, (ROOT, size))?;
        Ok((started != Some(0) && configured != Some(0)).then_some(vm))
    }

    /// Calls one of the module's functions; `None` where it has none.
    fn run<P, R>(
        &mut self,
        context: u32,
        export: impl Fn(&Exports) -> &Export<P, R>,
        parameters: P,
    ) -> Result<Option<R>, Trap>
    where
        P: wasmtime::WasmParams,
        R: wasmtime::WasmResults,
    {
        self.store.data_mut().context = context;
        let Export { name, function: Some(function) } = export(&self.exports) else { return Ok(None) };
        let (name, function) = (*name, function.clone());
        self.store.data().world.crosses(name);
        if self.metered {
            self.store.set_fuel(TANK).expect("a meter");
        }
        let result = function.call(&mut self.store, parameters);
        let spent = self.spent.entry(name).or_default();
        spent.calls += 1;
        if self.metered {
            spent.fuel += TANK - self.store.get_fuel().expect("a meter");
        }
        result.map(Some).map_err(|error| Trap(format!("{error:?}")))
    }

    /// What the module's functions took since this was asked last.
    pub fn spent(&mut self) -> BTreeMap<&'static str, Spent> {
        std::mem::take(&mut self.spent)
    }

    /// The linear memory, in bytes.
    #[must_use]
    pub fn memory(&mut self) -> usize {
        self.instance.get_memory(&mut self.store, "memory").expect("a memory").data_size(&self.store)
    }

    /// How much of the stack was never needed, in bytes: it lies at the beginning of the memory and grows downwards.
    ///
    /// # Panics
    /// When there is no memory.
    #[must_use]
    pub fn untouched_stack(&mut self) -> usize {
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("a memory");
        memory.data(&self.store).iter().take_while(|byte| **byte == 0).count()
    }

    /// How often the root wants a tick, in milliseconds; 0 for never.
    #[must_use]
    pub fn tick_ms(&self) -> u32 {
        self.store.data().tick_ms
    }

    /// A tick of the root.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn tick(&mut self) -> Result<(), Trap> {
        self.run(ROOT, |exports| &exports.tick, ROOT).map(drop)
    }

    /// Takes the calls that were made since this was asked last.
    pub fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.store.data_mut().calls)
    }

    /// Delivers the answer to a call.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn answer(&mut self, call: &Call, answer: Answer) -> Result<(), Trap> {
        // Envoy delivers nothing to a stream that is gone.
        if call.context != ROOT && !self.store.data().streams.contains_key(&call.context) {
            return Ok(());
        }
        let headers = u32::try_from(answer.headers.len()).expect("few headers");
        let body = u32::try_from(answer.body.len()).expect("a body that fits");
        self.store.data_mut().answer = Some(answer);
        let parameters = (call.context, call.token, headers, body, 0);
        let result = self.run(call.context, |exports| &exports.call_response, parameters);
        self.store.data_mut().answer = None;
        self.settle(call.context);
        result.map(drop)
    }

    /// A new stream.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn open(&mut self, stream: Stream) -> Result<u32, Trap> {
        let id = self.next;
        self.next += 1;
        self.store.data_mut().streams.insert(id, stream);
        self.run(id, |exports| &exports.create, (id, ROOT))?;
        Ok(id)
    }

    /// A stream.
    ///
    /// # Panics
    /// When there is none of this id.
    #[must_use]
    pub fn stream(&self, id: u32) -> &Stream {
        &self.store.data().streams[&id]
    }

    /// A stream, to change what the host knows of it.
    ///
    /// # Panics
    /// When there is none of this id.
    pub fn stream_mut(&mut self, id: u32) -> &mut Stream {
        self.store.data_mut().streams.get_mut(&id).expect("a stream")
    }

    /// The request's headers are there.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn request_headers(&mut self, id: u32, end: bool) -> Result<Action, Trap> {
        let count = u32::try_from(self.stream(id).request.len()).expect("few headers");
        let value = self.run(id, |exports| &exports.request_headers, (id, count, u32::from(end)))?;
        let action = action(value)?;
        if action == Action::Continue && self.stream(id).replied.is_none() {
            self.stream_mut(id).forwarded = true;
        }
        self.settle(id);
        Ok(action)
    }

    /// Part of the request's body.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn request_body(&mut self, id: u32, body: &[u8], end: bool) -> Result<Action, Trap> {
        self.stream_mut(id).request_body = body.to_vec();
        let size = u32::try_from(body.len()).expect("a body that fits");
        let value = self.run(id, |exports| &exports.request_body, (id, size, u32::from(end)))?;
        self.settle(id);
        action(value)
    }

    /// The request's trailers.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn request_trailers(&mut self, id: u32) -> Result<Action, Trap> {
        action(self.run(id, |exports| &exports.request_trailers, (id, 0))?)
    }

    /// The response's headers are there.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn response_headers(&mut self, id: u32, headers: &[(&str, &str)]) -> Result<Action, Trap> {
        let headers: Headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        let count = u32::try_from(headers.len()).expect("few headers");
        self.stream_mut(id).response = headers;
        action(self.run(id, |exports| &exports.response_headers, (id, count, 0))?)
    }

    /// Part of the response's body.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn response_body(&mut self, id: u32, body: &[u8], end: bool) -> Result<Action, Trap> {
        self.stream_mut(id).response_body = body.to_vec();
        let size = u32::try_from(body.len()).expect("a body that fits");
        action(self.run(id, |exports| &exports.response_body, (id, size, u32::from(end)))?)
    }

    /// The response's trailers.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn response_trailers(&mut self, id: u32) -> Result<Action, Trap> {
        action(self.run(id, |exports| &exports.response_trailers, (id, 0))?)
    }

    /// The stream is written to the access log.
    ///
    /// # Errors
    /// A [`Trap`].
    pub fn log(&mut self, id: u32) -> Result<(), Trap> {
        self.run(id, |exports| &exports.log, id).map(drop)
    }

    /// The stream is over; answers with how it was.
    ///
    /// # Errors
    /// A [`Trap`].
    ///
    /// # Panics
    /// When there is none of this id.
    pub fn close(&mut self, id: u32) -> Result<Stream, Trap> {
        self.run(id, |exports| &exports.done, id)?;
        self.run(id, |exports| &exports.log, id)?;
        self.run(id, |exports| &exports.delete, id)?;
        Ok(self.store.data_mut().streams.remove(&id).expect("a stream"))
    }

    /// A paused request that was let go on, and was not answered, goes to the upstream.
    fn settle(&mut self, id: u32) {
        if let Some(stream) = self.store.data_mut().streams.get_mut(&id)
            && stream.resumed > 0
            && stream.replied.is_none()
        {
            stream.forwarded = true;
        }
    }
}

impl Exports {
    fn of(instance: &Instance, store: &mut Store<State>) -> wasmtime::Result<Self> {
        Ok(Self {
            create: export(instance, store, "proxy_on_context_create")?,
            configure: export(instance, store, "proxy_on_configure")?,
            vm_start: export(instance, store, "proxy_on_vm_start")?,
            tick: export(instance, store, "proxy_on_tick")?,
            request_headers: export(instance, store, "proxy_on_request_headers")?,
            request_body: export(instance, store, "proxy_on_request_body")?,
            request_trailers: export(instance, store, "proxy_on_request_trailers")?,
            response_headers: export(instance, store, "proxy_on_response_headers")?,
            response_body: export(instance, store, "proxy_on_response_body")?,
            response_trailers: export(instance, store, "proxy_on_response_trailers")?,
            call_response: export(instance, store, "proxy_on_http_call_response")?,
            log: export(instance, store, "proxy_on_log")?,
            done: export(instance, store, "proxy_on_done")?,
            delete: export(instance, store, "proxy_on_delete")?,
        })
    }
}

/// A function of the module. One of another type is an error.
fn export<P, R>(
    instance: &Instance,
    store: &mut Store<State>,
    name: &'static str,
) -> wasmtime::Result<Export<P, R>>
where
    P: wasmtime::WasmParams,
    R: wasmtime::WasmResults,
{
    let function = instance.get_func(&mut *store, name);
    let function = function.map(|function| function.typed(&*store)).transpose()?;
    Ok(Export { name, function })
}

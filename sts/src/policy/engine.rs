//! The one place that drives the Rego engine: compiling, evaluating within limits, and reading its messages.
//!
//! The virtual machine runs the decision contract and nothing else. Inside a rule it treats a failed step as a rule
//! that does not apply and conflicting values as no value at all; the contract is written so that both end in a denial.
//! Documents that people wrote are read by the interpreter instead, which reports such things as errors.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::{Program, RegoVM};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, PolicyLengthConfig, Value};
use thiserror::Error;

use super::contract::{DECISION_CONTRACT_SOURCE, POLICY_PACKAGE, POLICY_SCHEMA_VERSION};
use super::document::{MAX_DOCUMENT_UNITS, Position};
use super::input::PolicyInput;

/// Longest time that one evaluation may take before it is an error. Wall clock, so it leaves room for a busy machine.
const EVALUATION_TIME_LIMIT: Duration = Duration::from_secs(1);

/// Longest time that documents may take to read at compilation.
const COMPILATION_TIME_LIMIT: Duration = Duration::from_secs(2);

/// Instructions between two looks at the clock.
const CLOCK_INTERVAL: NonZeroU32 = NonZeroU32::new(256).unwrap();

/// A second bound beside the time limit; far above what the largest bundle needs.
const MAX_INSTRUCTIONS: usize = 20_000_000;

/// The rule that every evaluation reads.
const ENTRY_POINT: &str = "data.caracal.authz.result";

/// Why an evaluation has no decision. None of these is a denial (contract sts §14.3).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The engine gave up: conflicting documents, a limit, or an internal fault.
    #[error("policy evaluation failed: {0}")]
    Engine(String),
    /// The contract could not complete the evaluation.
    #[error("policy evaluation ended with status {status}: {reason}")]
    Incomplete {
        /// The `evaluation_status` of the result document.
        status: String,
        /// The reason among its diagnostics.
        reason: String,
    },
    /// The input could not be handed to the engine.
    #[error("policy input could not be written: {0}")]
    Input(String),
    /// The result document does not have the shape of contract sts §14.3.
    #[error("policy result is malformed: {what}")]
    MalformedResult {
        /// The offending part.
        what: &'static str,
    },
    /// An input of another schema version.
    #[error("policy input has schema version {0:?}; only {POLICY_SCHEMA_VERSION} is known")]
    SchemaVersion(String),
}

/// Refuses what the engine cannot compile: `modules` (name, source) together with the decision contract.
pub(super) fn check_compilation(modules: &[(&str, &str)]) -> Result<(), String> {
    let mut engine = engine_with(modules)?;
    guarded(|| {
        engine.compile_with_entrypoint(&regorus::Rc::from(ENTRY_POINT)).map_err(|error| error.to_string())
    })?;
    Ok(())
}

/// The decision contract for the virtual machine.
pub(super) fn compile_contract() -> Result<Arc<Program>, String> {
    let mut engine = engine_with(&[])?;
    guarded(|| {
        let policy = engine
            .compile_with_entrypoint(&regorus::Rc::from(ENTRY_POINT))
            .map_err(|error| error.to_string())?;
        Compiler::compile_from_policy(&policy, &[ENTRY_POINT]).map_err(|error| error.to_string())
    })
}

/// A machine for `program`, within the limits of an evaluation.
pub(super) fn machine(program: Arc<Program>) -> RegoVM {
    let mut machine = RegoVM::new();
    machine.load_program(program);
    machine.set_max_instructions(MAX_INSTRUCTIONS);
    machine.set_execution_timer_config(Some(timer(EVALUATION_TIME_LIMIT)));
    machine
}

/// Runs the decision contract over `data` and `input`.
pub(super) fn run(
    machine: &mut RegoVM,
    data: Value,
    input: Value,
) -> Result<Option<serde_json::Value>, EvaluationError> {
    let value = guarded(|| {
        machine.set_data(data).map_err(|error| error.to_string())?;
        machine.set_input(input);
        machine.execute().map_err(|error| error.to_string())
    })
    .map_err(EvaluationError::Engine)?;
    result_document(&value)
}

/// Documents and contract in one, for the interpreter.
pub(super) struct InterpretedProgram {
    engine: Engine,
}

impl InterpretedProgram {
    pub(super) fn new(modules: &[(&str, &str)]) -> Result<Self, String> {
        Ok(Self { engine: engine_with(modules)? })
    }

    pub(super) fn evaluate(&mut self, input: Value) -> Result<Option<serde_json::Value>, EvaluationError> {
        self.engine.set_execution_timer_config(timer(COMPILATION_TIME_LIMIT));
        let value = guarded(|| {
            self.engine.set_input(input);
            self.engine.eval_rule(ENTRY_POINT.to_owned()).map_err(|error| error.to_string())
        })
        .map_err(EvaluationError::Engine)?;
        result_document(&value)
    }
}

/// The rules of data documents, ready to be read.
#[derive(Clone)]
pub(super) struct DocumentRules {
    engine: Engine,
    /// The rules that exist, as paths.
    paths: Vec<(String, String)>,
}

impl DocumentRules {
    pub(super) fn new<'a>(
        modules: &[(&str, &str)],
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let mut engine = rego_engine();
        for (name, source) in modules {
            engine.add_policy((*name).to_owned(), (*source).to_owned()).map_err(|error| error.to_string())?;
        }
        let paths = names.map(|name| (name.to_owned(), format!("data.{POLICY_PACKAGE}.{name}"))).collect();
        Ok(Self { engine, paths })
    }

    /// The value of every rule for `input`, as the data that the contract reads; a rule without a value is left out.
    pub(super) fn values(&mut self, input: Option<Value>) -> Result<Value, String> {
        let limit = if input.is_some() { EVALUATION_TIME_LIMIT } else { COMPILATION_TIME_LIMIT };
        let deadline = Instant::now().checked_add(limit);
        let engine = &mut self.engine;
        let mut values = BTreeMap::new();
        engine.set_input(input.unwrap_or(Value::Undefined));
        for (name, path) in &self.paths {
            let left =
                deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())).unwrap_or(limit);
            engine.set_execution_timer_config(timer(left));
            let value = guarded(|| engine.eval_rule(path.clone()).map_err(|error| error.to_string()))?;
            if value != Value::Undefined {
                values.insert(Value::from(name.as_str()), value);
            }
        }
        let object = |key: &str, value: Value| Value::from(BTreeMap::from([(Value::from(key), value)]));
        Ok(object("caracal", object("authz", Value::from(values))))
    }
}

/// An engine that takes whole documents, also ones written on a single line.
pub(super) fn rego_engine() -> Engine {
    const MAX_BYTES: usize = MAX_DOCUMENT_UNITS.saturating_mul(4);
    const LIMITS: PolicyLengthConfig = PolicyLengthConfig {
        max_col: NonZeroU32::MAX,
        max_file_bytes: NonZeroUsize::new(MAX_BYTES).unwrap(),
        max_lines: NonZeroUsize::new(MAX_DOCUMENT_UNITS).unwrap(),
    };
    let mut engine = Engine::new();
    engine.set_policy_length_config(LIMITS);
    engine.set_strict_builtin_errors(false);
    engine
}

/// The policy input as the engine reads it.
pub(super) fn engine_input(input: &PolicyInput) -> Result<Value, EvaluationError> {
    if !input.schema_version.is_empty() && input.schema_version != POLICY_SCHEMA_VERSION {
        return Err(EvaluationError::SchemaVersion(input.schema_version.clone()));
    }
    let text = serde_json::to_string(input).map_err(|error| EvaluationError::Input(error.to_string()))?;
    Value::from_json_str(&text).map_err(|error| EvaluationError::Input(error.to_string()))
}

/// The place that an engine message names: `--> document:line:column`.
pub(super) fn parse_position(message: &str) -> Option<Position> {
    let place = message.lines().find_map(|line| line.trim_start().strip_prefix("--> "))?;
    let mut parts = place.trim().rsplit(':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    Some(Position { line, column })
}

/// The document that an engine message names.
pub(super) fn parse_document_name(message: &str) -> Option<&str> {
    let place = message.lines().find_map(|line| line.trim_start().strip_prefix("--> "))?;
    place.trim().rsplitn(3, ':').nth(2)
}

/// The sentence of an engine message, without the source excerpt around it.
pub(super) fn short_message(message: &str) -> String {
    let lines = || message.lines().map(str::trim).filter(|line| !line.is_empty());
    let sentence = lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| lines().next_back());
    sentence.unwrap_or("no message").to_owned()
}

fn engine_with(modules: &[(&str, &str)]) -> Result<Engine, String> {
    let mut engine = rego_engine();
    for (name, source) in modules.iter().chain(&[("decision.rego", DECISION_CONTRACT_SOURCE)]) {
        guarded(|| {
            engine.add_policy((*name).to_owned(), (*source).to_owned()).map_err(|error| error.to_string())
        })?;
    }
    Ok(engine)
}

fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: CLOCK_INTERVAL }
}

/// A fault inside the engine becomes an error: what serves must not fall over a document.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the policy engine failed internally".to_owned()))
}

fn result_document(value: &Value) -> Result<Option<serde_json::Value>, EvaluationError> {
    if *value == Value::Undefined {
        return Ok(None);
    }
    serde_json::to_value(value).map(Some).map_err(|error| EvaluationError::Engine(error.to_string()))
}

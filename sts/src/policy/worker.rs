//! What each worker thread keeps for itself: one virtual machine, and its own copy of the documents of each bundle.
//!
//! Values of the engine are reference-counted. Threads that shared them would fight for the same counters in every
//! evaluation, so each thread takes a deep copy at first use and keeps it for as long as the bundle lives.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Weak};

use regorus::Value;
use regorus::rvm::{Program, RegoVM};

use super::engine::{DocumentRules, EvaluationError, compile_contract, machine, run};

/// Bundles whose documents one thread keeps; the least recently used one makes room.
const BUNDLES_PER_THREAD: usize = 1_024;

/// The data documents of a bundle.
pub(super) enum Documents {
    /// The same values in every evaluation.
    Constant(Value),
    /// Values that depend on the input.
    Computed(Box<DocumentRules>),
    /// Documents that cannot be read together; every evaluation fails with this message.
    Contradictory(String),
}

/// Runs the decision contract over `documents` and `input` on this thread's machine.
pub(super) fn evaluate(
    documents: &Arc<Documents>,
    input: Value,
) -> Result<Option<serde_json::Value>, EvaluationError> {
    // Taken out for the time of the evaluation, and handed back only after a success.
    let (machine, own) = WORKER.with_borrow_mut(|worker| (worker.machine.take(), worker.take(documents)));
    let mut machine = match machine {
        Some(machine) => machine,
        None => own_machine().map_err(EvaluationError::Engine)?,
    };
    let mut own = match own {
        Some(own) => own,
        None => OwnDocuments::copy(documents).map_err(EvaluationError::Engine)?,
    };
    let data = own.values(&input).map_err(EvaluationError::Engine)?;
    let result = run(&mut machine, data, input)?;
    WORKER.with_borrow_mut(|worker| {
        worker.machine = Some(machine);
        worker.keep(documents, own);
    });
    Ok(result)
}

/// Compiles the decision contract if that has not happened yet.
pub(super) fn contract_program() -> Result<Arc<Program>, String> {
    static PROGRAM: LazyLock<Result<Arc<Program>, String>> = LazyLock::new(compile_contract);
    PROGRAM.clone()
}

fn own_machine() -> Result<Box<RegoVM>, String> {
    let mut program = Program::clone(&*contract_program()?);
    program.literals = program.literals.iter().map(unshared).collect();
    Ok(Box::new(machine(Arc::new(program))))
}

thread_local! {
    static WORKER: RefCell<Worker> = const { RefCell::new(Worker { machine: None, bundles: Vec::new() }) };
}

struct Worker {
    machine: Option<Box<RegoVM>>,
    /// Least recently used first.
    bundles: Vec<(Weak<Documents>, OwnDocuments)>,
}

impl Worker {
    fn take(&mut self, documents: &Arc<Documents>) -> Option<OwnDocuments> {
        let is_this = |owner: &Weak<Documents>| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(documents));
        match self.bundles.iter().rposition(|(owner, _)| is_this(owner)) {
            Some(index) => Some(self.bundles.remove(index).1),
            None => {
                self.bundles.retain(|(owner, _)| owner.strong_count() > 0);
                None
            }
        }
    }

    fn keep(&mut self, documents: &Arc<Documents>, own: OwnDocuments) {
        if self.bundles.len() >= BUNDLES_PER_THREAD {
            self.bundles.remove(0);
        }
        self.bundles.push((Arc::downgrade(documents), own));
    }
}

/// One thread's copy of a bundle's documents.
enum OwnDocuments {
    Constant(Value),
    Computed(Box<DocumentRules>),
}

impl OwnDocuments {
    fn copy(documents: &Documents) -> Result<Self, String> {
        match documents {
            Documents::Constant(values) => Ok(Self::Constant(unshared(values))),
            Documents::Computed(rules) => Ok(Self::Computed(rules.clone())),
            Documents::Contradictory(message) => Err(message.clone()),
        }
    }

    fn values(&mut self, input: &Value) -> Result<Value, String> {
        match self {
            Self::Constant(values) => Ok(values.clone()),
            Self::Computed(rules) => rules.values(Some(input.clone())),
        }
    }
}

/// A copy of `value` that shares no reference count with it.
fn unshared(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => value.clone(),
        Value::String(text) => Value::from(text.as_ref()),
        Value::Array(items) => Value::from(items.iter().map(unshared).collect::<Vec<Value>>()),
        Value::Set(items) => Value::from(items.iter().map(unshared).collect::<BTreeSet<Value>>()),
        Value::Object(fields) => Value::from(
            fields
                .iter()
                .map(|(key, value)| (unshared(key), unshared(value)))
                .collect::<BTreeMap<Value, Value>>(),
        ),
    }
}

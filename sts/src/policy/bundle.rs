//! Bundles: a zone's data documents and the decision contract, compiled once and evaluated often.
//!
//! Documents that do not read the input have the same values in every evaluation. They are read once, at compilation,
//! so that an evaluation costs the same with ten grants and with ten thousand.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::json;
use thiserror::Error;

use super::decision::Decision;
use super::document::{ValidationError, ValidationErrorKind, check_loadable};
use super::engine::{
    DocumentRules, EvaluationError, InterpretedProgram, check_compilation, engine_input, parse_document_name,
    parse_position, short_message,
};
use super::input::PolicyInput;
use super::sha256_hex;
use super::worker::{self, Documents, contract_program};

/// Most documents that one bundle may join (contract sts §14.1).
pub const MAX_DOCUMENTS: usize = 256;

/// The reason of every denial where no policy set is active, and the manifest hash that is recorded for it
/// (contract sts §14.4).
pub const NO_ACTIVE_POLICY_SET: &str = "no_active_policy_set";

/// Why documents do not make a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The engine refuses the documents together.
    #[error("policy bundle does not compile{}: {message}", in_document(.document))]
    Compilation {
        /// Id of the document to blame, where there is one.
        document: Option<String>,
        /// Where in that document.
        position: Option<super::document::Position>,
        /// What the engine said.
        message: String,
    },
    /// One document is not a data document.
    #[error("policy document {id}: {error}")]
    Document {
        /// Id of the document.
        id: String,
        /// What is wrong with it.
        error: ValidationError,
    },
    /// Two documents with one id.
    #[error("policy document {0} is listed twice")]
    DuplicateId(String),
    /// More than [`MAX_DOCUMENTS`].
    #[error("a policy bundle joins at most {MAX_DOCUMENTS} documents, not {0}")]
    TooManyDocuments(usize),
}

impl BundleError {
    /// The same finding as a fault of a document that is checked alone.
    pub(super) fn into_validation_error(self) -> ValidationError {
        match self {
            Self::Document { error, .. } => error,
            Self::Compilation { position, message, .. } => {
                ValidationError { kind: ValidationErrorKind::DoesNotCompile(message), position }
            }
            other @ (Self::DuplicateId(_) | Self::TooManyDocuments(_)) => ValidationError {
                kind: ValidationErrorKind::DoesNotCompile(other.to_string()),
                position: None,
            },
        }
    }
}

/// A compiled bundle. Cheap to clone; all clones share one program.
#[derive(Clone)]
pub struct Bundle {
    rules: Rules,
}

#[derive(Clone)]
enum Rules {
    /// No policy set is active: every request is denied.
    DenyAll,
    Compiled {
        documents: Arc<Documents>,
        sources: Arc<[(String, String)]>,
    },
}

impl Bundle {
    /// Compiles `(id, source)` documents with the decision contract; no documents make [`Bundle::deny_all`].
    ///
    /// # Errors
    ///
    /// The first document that fails the loading gate, or what the engine refuses about all of them together. Documents
    /// that give one name different values do compile, and every evaluation fails (contract sts §14.1).
    pub fn compile<I: AsRef<str>, S: AsRef<str>>(documents: &[(I, S)]) -> Result<Self, BundleError> {
        if documents.is_empty() {
            return Ok(Self::deny_all());
        }
        if documents.len() > MAX_DOCUMENTS {
            return Err(BundleError::TooManyDocuments(documents.len()));
        }
        let modules: Vec<(&str, &str)> =
            documents.iter().map(|(id, source)| (id.as_ref(), source.as_ref())).collect();
        let mut seen = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut reads_input = false;
        for (id, source) in &modules {
            if !seen.insert(*id) {
                return Err(BundleError::DuplicateId((*id).to_owned()));
            }
            let document = check_loadable(source)
                .map_err(|error| BundleError::Document { id: (*id).to_owned(), error })?;
            names.extend(document.names);
            reads_input |= document.reads_input;
        }
        let fault = |message: String| compilation_error(&message);
        contract_program().map_err(fault)?;
        check_compilation(&modules).map_err(fault)?;
        let mut rules = DocumentRules::new(&modules, names.iter().map(String::as_str)).map_err(fault)?;
        let values = if reads_input {
            Documents::Computed(Box::new(rules))
        } else {
            rules.values(None).map_or_else(Documents::Contradictory, Documents::Constant)
        };
        let sources = modules.iter().map(|(id, source)| ((*id).to_owned(), (*source).to_owned())).collect();
        Ok(Self { rules: Rules::Compiled { documents: Arc::new(values), sources } })
    }

    /// The bundle of a zone without an active policy set: denies everything with [`NO_ACTIVE_POLICY_SET`].
    #[must_use]
    pub fn deny_all() -> Self {
        Self { rules: Rules::DenyAll }
    }

    /// Whether this is the fallback that denies everything.
    #[must_use]
    pub fn is_deny_all(&self) -> bool {
        matches!(self.rules, Rules::DenyAll)
    }

    /// Decides one request. Runs on the calling thread, takes tens of microseconds and never waits.
    ///
    /// # Errors
    ///
    /// No decision was reached; the caller answers 503 (contract sts §14.3).
    pub fn evaluate(&self, input: &PolicyInput) -> Result<Decision, EvaluationError> {
        let input = engine_input(input)?;
        match &self.rules {
            Rules::DenyAll => Ok(Decision::deny(NO_ACTIVE_POLICY_SET)),
            Rules::Compiled { documents, .. } => {
                let step = caracal_store::trace::policy_evaluation();
                let begun = std::time::Instant::now();
                let result = worker::evaluate(documents, input);
                caracal_store::metrics::policy_evaluated(begun.elapsed(), result.is_ok());
                if result.is_err() {
                    step.failed("policy_eval_failed");
                }
                drop(step);
                Decision::from_result(result?)
            }
        }
    }

    /// The same rules for the engine's interpreter, straight from the sources: slow, and independent of the compiler,
    /// the virtual machine and the values read in advance. Tests hold the two against each other.
    ///
    /// # Errors
    ///
    /// The engine refuses the sources; not after [`Bundle::compile`] accepted them.
    pub fn interpreter(&self) -> Result<Interpreter, BundleError> {
        let program = match &self.rules {
            Rules::DenyAll => None,
            Rules::Compiled { sources, .. } => {
                let modules: Vec<(&str, &str)> =
                    sources.iter().map(|(id, source)| (id.as_str(), source.as_str())).collect();
                Some(InterpretedProgram::new(&modules).map_err(|message| compilation_error(&message))?)
            }
        };
        Ok(Interpreter { program })
    }
}

/// A bundle that the engine's interpreter evaluates; see [`Bundle::interpreter`].
pub struct Interpreter {
    program: Option<InterpretedProgram>,
}

impl Interpreter {
    /// Decides one request.
    ///
    /// # Errors
    ///
    /// As [`Bundle::evaluate`].
    pub fn evaluate(&mut self, input: &PolicyInput) -> Result<Decision, EvaluationError> {
        let input = engine_input(input)?;
        match &mut self.program {
            None => Ok(Decision::deny(NO_ACTIVE_POLICY_SET)),
            Some(program) => Decision::from_result(program.evaluate(input)?),
        }
    }
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Interpreter").finish_non_exhaustive()
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let documents: Vec<&str> = match &self.rules {
            Rules::DenyAll => Vec::new(),
            Rules::Compiled { sources, .. } => sources.iter().map(|(id, _)| id.as_str()).collect(),
        };
        formatter.debug_struct("Bundle").field("documents", &documents).finish_non_exhaustive()
    }
}

/// Lower-case hexadecimal SHA-256 of the compact manifest `[{"policy_version_id":"…"},…]` in the order given
/// (contract sts §14.4, step 3).
#[must_use]
pub fn manifest_sha256<I: AsRef<str>>(policy_version_ids: &[I]) -> String {
    let entries: serde_json::Value =
        policy_version_ids.iter().map(|id| json!({ "policy_version_id": id.as_ref() })).collect();
    sha256_hex(entries.to_string().as_bytes())
}

fn compilation_error(message: &str) -> BundleError {
    let document = parse_document_name(message).map(str::to_owned);
    BundleError::Compilation { document, position: parse_position(message), message: short_message(message) }
}

fn in_document(document: &Option<String>) -> String {
    document.as_ref().map(|id| format!(" (document {id})")).unwrap_or_default()
}

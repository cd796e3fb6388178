//! Data documents: the Rego text that an operator may activate, checked before it can reach an evaluation.
//!
//! Two gates share the checks. [`PolicyDocument::parse`] is the authoring gate, with the codes of contract
//! admin-audit §5.10. The loading gate, part of every bundle compilation, is laxer where the contract is (no marker,
//! no rules needed; sts §14.1) and stricter where an evaluation could be harmed: a document may read nothing of the
//! platform's own rules and may call nothing whose result or memory use is out of the document's control.

use std::collections::BTreeSet;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};
use serde::Serialize;
use thiserror::Error;

use super::bundle::Bundle;
use super::contract::{DATA_DOCUMENT_NAMES, DECISION_CONTRACT_SOURCE, POLICY_PACKAGE, POLICY_SCHEMA_VERSION};
use super::engine::{EvaluationError, parse_position, rego_engine, short_message};
use super::input::PolicyInput;
use super::sha256_hex;
use super::shape::{MAX_DEPTH, MAX_NESTING, check_delimiters, check_depth};
pub use super::source_text::Position;
use super::source_text::{Token, TokenKind, UnterminatedString, has_data_document_marker, tokens};

/// Largest document, in UTF-16 code units.
pub const MAX_DOCUMENT_UNITS: usize = 262_144;

/// Built-ins that the contract forbids by name (contract admin-audit §5.10).
const FORBIDDEN_BUILTINS: [&str; 9] = [
    "http.send",
    "net.cidr_contains",
    "net.cidr_expand",
    "net.cidr_intersects",
    "net.cidr_merge",
    "net.lookup_ip_addr",
    "opa.runtime",
    "rand.intn",
    "time.now_ns",
];

/// Built-ins whose result can be made arbitrarily large by a single call, which no time limit can interrupt.
const UNBOUNDED_BUILTINS: [&str; 4] = ["bits.lsh", "numbers.range", "numbers.range_step", "sprintf"];

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ValidationErrorKind {
    /// The evaluation engine refuses the document; only after all textual rules hold.
    #[error("the document does not compile: {0}")]
    DoesNotCompile(String),
    /// No text at all.
    #[error("the document is empty")]
    EmptyPolicy,
    /// Longer than [`MAX_DOCUMENT_UNITS`].
    #[error("the document is longer than {MAX_DOCUMENT_UNITS} characters")]
    ContentTooLarge,
    /// A call of a built-in that data documents may not use.
    #[error("a data document may not call `{0}`")]
    ForbiddenBuiltin(String),
    /// The text after `package` is not a package name.
    #[error("the package name is not valid")]
    InvalidPackageName,
    /// The text is not Rego.
    #[error("the document is not valid Rego: {0}")]
    InvalidSyntax(String),
    /// No `package` line.
    #[error("the document has no package declaration")]
    MissingPackageDeclaration,
    /// The marker comment is missing.
    #[error("the document needs the comment line `# caracal:data-document`")]
    MustBeDataDocument,
    /// No rule at all.
    #[error("the document defines no data")]
    MustDefineData,
    /// A rule with the name of the decision.
    #[error("only the platform decision contract may define `result`")]
    MustNotDefineResult,
    /// Another package than `caracal.authz`.
    #[error("the package must be `{POLICY_PACKAGE}`")]
    MustUsePackage,
    /// A reference to a name of the decision contract, or to data that does not exist.
    #[error("a data document may not refer to `{0}`")]
    ReferenceNotAllowed(String),
    /// A rule with a name that is not one of the six.
    #[error("a data document may define only {allowed}, not `{0}`", allowed = DATA_DOCUMENT_NAMES.join(", "))]
    RuleNotAllowed(String),
    /// An expression that is nested or chained too deep.
    #[error("the expression is more than {MAX_DEPTH} levels or {MAX_NESTING} brackets deep")]
    TooDeep,
    /// A bracket without its partner.
    #[error("a bracket has no partner")]
    UnbalancedDelimiters,
    /// A string literal without an end.
    #[error("a string is not closed")]
    UnterminatedString,
}

impl ValidationErrorKind {
    /// The code on the wire (contract admin-audit §5.10; the last four are our own).
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::EmptyPolicy => "empty_policy".to_owned(),
            Self::ContentTooLarge => "content_too_large".to_owned(),
            Self::UnterminatedString => "unterminated_string".to_owned(),
            Self::UnbalancedDelimiters => "unbalanced_delimiters".to_owned(),
            Self::MissingPackageDeclaration => "missing_package_declaration".to_owned(),
            Self::InvalidPackageName => "invalid_package_name".to_owned(),
            Self::ForbiddenBuiltin(name) => format!("forbidden_builtin:{name}"),
            Self::MustUsePackage => "must_use_package_caracal_authz".to_owned(),
            Self::MustBeDataDocument => "must_be_data_document".to_owned(),
            Self::MustNotDefineResult => "data_document_must_not_define_result".to_owned(),
            Self::MustDefineData => "data_document_must_define_data".to_owned(),
            Self::RuleNotAllowed(name) => format!("data_document_rule_not_allowed:{name}"),
            Self::ReferenceNotAllowed(name) => format!("data_document_reference_not_allowed:{name}"),
            Self::TooDeep => "expression_too_deep".to_owned(),
            Self::InvalidSyntax(_) => "invalid_syntax".to_owned(),
            Self::DoesNotCompile(_) => "does_not_compile".to_owned(),
        }
    }
}

/// Why a document is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind}{}", at(.position))]
pub struct ValidationError {
    /// What is wrong.
    pub kind: ValidationErrorKind,
    /// Where, as far as one place is to blame.
    pub position: Option<Position>,
}

impl ValidationError {
    /// The code on the wire; see [`ValidationErrorKind::code`].
    #[must_use]
    pub fn code(&self) -> String {
        self.kind.code()
    }
}

/// What the engine understood of a document (contract admin-audit §5.10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The package, `caracal.authz`.
    pub package: String,
    /// Names of the rules, sorted, each once.
    pub rules: Vec<String>,
    /// Whether `result` has a default; never, for a data document.
    pub default_result: bool,
    /// Decisions written out in the text.
    pub decisions: Vec<String>,
    /// Dotted paths into the input, sorted.
    pub inputs_referenced: Vec<String>,
    /// Dotted paths into other data, sorted.
    pub data_referenced: Vec<String>,
}

/// A data document that may be stored and activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDocument {
    source: String,
    preview: Preview,
    content_sha256: String,
}

impl PolicyDocument {
    /// Checks `source` against the document contract, down to a compilation and one evaluation together with
    /// the decision contract.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold, in the order of contract admin-audit §5.10.
    pub fn parse(source: &str) -> Result<Self, ValidationError> {
        let tokens = check_text(source)?;
        if !has_data_document_marker(source) {
            return Err(nowhere(ValidationErrorKind::MustBeDataDocument));
        }
        check_rules_in_text(&tokens)?;
        let rules = check_rules_in_module(&parse_module(source)?)?;
        if rules.is_empty() {
            return Err(nowhere(ValidationErrorKind::MustDefineData));
        }
        let bundle =
            Bundle::compile(&[("document", source)]).map_err(|error| error.into_validation_error())?;
        if let Err(EvaluationError::Engine(message)) = bundle.evaluate(&PolicyInput::default()) {
            return Err(does_not_compile(&message));
        }
        let preview = Preview {
            package: POLICY_PACKAGE.to_owned(),
            rules: rules.into_iter().collect(),
            default_result: false,
            decisions: decisions_in_text(source),
            inputs_referenced: paths_below(&tokens, "input."),
            data_referenced: paths_below(&tokens, "data."),
        };
        Ok(Self { source: source.to_owned(), preview, content_sha256: sha256_hex(source.as_bytes()) })
    }

    /// The text as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the engine understood.
    #[must_use]
    pub fn preview(&self) -> &Preview {
        &self.preview
    }

    /// Lower-case hexadecimal SHA-256 of the UTF-8 text.
    #[must_use]
    pub fn content_sha256(&self) -> &str {
        &self.content_sha256
    }

    /// Version of the document schema, always `2026-05-20`.
    #[must_use]
    pub fn schema_version(&self) -> &'static str {
        POLICY_SCHEMA_VERSION
    }
}

/// What a bundle needs to know about a document that passed the loading gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoadableDocument {
    /// The names that it defines.
    pub(super) names: BTreeSet<String>,
    /// Whether its values can depend on the input.
    pub(super) reads_input: bool,
}

/// The loading gate: what every document of a bundle has to hold, however it came into the store.
pub(super) fn check_loadable(source: &str) -> Result<LoadableDocument, ValidationError> {
    let tokens = check_text(source)?;
    check_rules_in_text(&tokens)?;
    let names = check_rules_in_module(&parse_module(source)?)?;
    check_references(&tokens)?;
    let reads_input = tokens.iter().filter_map(Token::path).any(|path| root_of(path) == "input");
    Ok(LoadableDocument { names, reads_input })
}

fn check_text(source: &str) -> Result<Vec<Token>, ValidationError> {
    if source.trim().is_empty() {
        return Err(nowhere(ValidationErrorKind::EmptyPolicy));
    }
    if source.encode_utf16().count() > MAX_DOCUMENT_UNITS {
        return Err(nowhere(ValidationErrorKind::ContentTooLarge));
    }
    let tokens = tokens(source)
        .map_err(|UnterminatedString(position)| here(ValidationErrorKind::UnterminatedString, position))?;
    check_delimiters(&tokens)?;
    check_depth(&tokens)?;
    let package = package_name(&tokens)?;
    check_builtins(&tokens)?;
    if package.path() != Some(POLICY_PACKAGE) {
        return Err(here(ValidationErrorKind::MustUsePackage, package.position));
    }
    Ok(tokens)
}

fn package_name(tokens: &[Token]) -> Result<&Token, ValidationError> {
    let declaration = tokens
        .iter()
        .position(|token| token.starts_line && token.path() == Some("package"))
        .ok_or_else(|| nowhere(ValidationErrorKind::MissingPackageDeclaration))?;
    tokens.get(declaration.saturating_add(1)).filter(|name| name.path().is_some()).ok_or_else(|| {
        let position = tokens.get(declaration).map(|token| token.position);
        ValidationError { kind: ValidationErrorKind::InvalidPackageName, position }
    })
}

fn check_builtins(tokens: &[Token]) -> Result<(), ValidationError> {
    for (token, next) in tokens.iter().zip(tokens.iter().skip(1)) {
        let Some(path) = token.path() else { continue };
        let called = next.is_symbol('(');
        let forbidden = FORBIDDEN_BUILTINS.contains(&path) || UNBOUNDED_BUILTINS.contains(&path);
        if called && forbidden {
            return Err(here(ValidationErrorKind::ForbiddenBuiltin(path.to_owned()), token.position));
        }
    }
    Ok(())
}

/// A document may read the input and the six names. Everything else in the shared package belongs to the decision
/// contract, and a built-in's family name cannot be spelled in a way that [`check_builtins`] would miss.
fn check_references(tokens: &[Token]) -> Result<(), ValidationError> {
    let mut previous_was_dot = false;
    for (token, next) in tokens.iter().zip(tokens.iter().skip(1).map(Some).chain([None])) {
        let after_dot = std::mem::replace(&mut previous_was_dot, token.is_symbol('.'));
        let Some(path) = token.path() else { continue };
        if after_dot {
            continue;
        }
        let refused = match root_of(path) {
            "data" => !names_a_document(path, next),
            root @ ("rand" | "numbers" | "bits") => path == root || !is_called(next),
            "sprintf" => true,
            root => contract_rule_names().contains(root),
        };
        if refused {
            return Err(here(ValidationErrorKind::ReferenceNotAllowed(path.to_owned()), token.position));
        }
    }
    Ok(())
}

fn names_a_document(path: &str, next: Option<&Token>) -> bool {
    let Some(below) = path.strip_prefix("data.").and_then(|path| path.strip_prefix(POLICY_PACKAGE)) else {
        return false;
    };
    let name = below.strip_prefix('.').map(root_of);
    let called = next.is_some_and(|next| next.is_symbol('('));
    name.is_some_and(|name| DATA_DOCUMENT_NAMES.contains(&name)) && !called
}

fn is_called(next: Option<&Token>) -> bool {
    next.is_some_and(|next| next.is_symbol('('))
}

fn root_of(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// The names of the decision contract's own rules.
fn contract_rule_names() -> &'static BTreeSet<String> {
    static NAMES: std::sync::LazyLock<BTreeSet<String>> = std::sync::LazyLock::new(|| {
        parse_module(DECISION_CONTRACT_SOURCE)
            .map(|module| rule_names(&module).into_iter().map(|(name, _)| name).collect())
            .unwrap_or_default()
    });
    &NAMES
}

/// Rules by their look: `[default] name [(arguments)]` at the start of a line, outside of all brackets, and then
/// `:=`, `=`, `contains`, `{` or `if`.
fn check_rules_in_text(tokens: &[Token]) -> Result<(), ValidationError> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        if token.starts_line && depth == 0 {
            check_name(rule_at(tokens.get(index..).unwrap_or_default()))?;
        }
        match token.kind {
            TokenKind::Symbol('(' | '[' | '{') => depth = depth.saturating_add(1),
            TokenKind::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn rule_at(tokens: &[Token]) -> Option<(&str, Position)> {
    let skip_default = usize::from(tokens.first().and_then(Token::path) == Some("default"));
    let head = tokens.get(skip_default)?;
    let name = head.path().filter(|name| !matches!(*name, "package" | "import" | "else"))?;
    let mut rest = tokens.get(skip_default.saturating_add(1)..)?;
    if rest.first().is_some_and(|next| next.is_symbol('(')) {
        let end = rest.iter().position(|token| token.is_symbol(')'))?;
        rest = rest.get(end.saturating_add(1)..)?;
    }
    let next = rest.first()?;
    let defines = match &next.kind {
        TokenKind::Assign | TokenKind::Symbol('=' | '{') => true,
        TokenKind::Path(keyword) => keyword == "contains" || keyword == "if",
        _ => false,
    };
    defines.then(|| (root_of(name), head.position))
}

fn check_name(rule: Option<(&str, Position)>) -> Result<(), ValidationError> {
    match rule {
        None => Ok(()),
        Some(("result", position)) => Err(here(ValidationErrorKind::MustNotDefineResult, position)),
        Some((name, _)) if DATA_DOCUMENT_NAMES.contains(&name) => Ok(()),
        Some((name, position)) => Err(here(ValidationErrorKind::RuleNotAllowed(name.to_owned()), position)),
    }
}

/// The same rule once more on the syntax tree, which no layout can deceive.
fn check_rules_in_module(module: &Ref<Module>) -> Result<BTreeSet<String>, ValidationError> {
    let mut names = BTreeSet::new();
    for (name, position) in rule_names(module) {
        check_name(Some((&name, position)))?;
        names.insert(name);
    }
    Ok(names)
}

fn rule_names(module: &Module) -> Vec<(String, Position)> {
    module
        .policy
        .iter()
        .map(|rule| {
            let span = rule.span();
            let reference = match rule.as_ref() {
                Rule::Default { refr, .. } => refr,
                Rule::Spec { head, .. } => match head {
                    RuleHead::Compr { refr, .. }
                    | RuleHead::Set { refr, .. }
                    | RuleHead::Func { refr, .. } => refr,
                },
            };
            (root_name(reference), Position { line: span.line, column: span.col })
        })
        .collect()
}

fn root_name(reference: &Expr) -> String {
    match reference {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => root_name(refr),
        other => other.span().text().to_owned(),
    }
}

fn parse_module(source: &str) -> Result<Ref<Module>, ValidationError> {
    let mut engine = rego_engine();
    let refused = |message: String| ValidationError {
        position: parse_position(&message),
        kind: ValidationErrorKind::InvalidSyntax(short_message(&message)),
    };
    engine
        .add_policy("document".to_owned(), source.to_owned())
        .map_err(|error| refused(error.to_string()))?;
    let module = engine.get_modules().first().ok_or_else(|| refused("no module".to_owned()))?;
    Ok(module.clone())
}

fn decisions_in_text(source: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rest in source.split("\"decision\"").skip(1) {
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start).unwrap_or_default();
        for decision in ["allow", "deny"] {
            if value
                .strip_prefix('"')
                .and_then(|value| value.strip_prefix(decision))
                .is_some_and(|r| r.starts_with('"'))
            {
                found.insert(decision.to_owned());
            }
        }
    }
    found.into_iter().collect()
}

fn paths_below(tokens: &[Token], prefix: &str) -> Vec<String> {
    let paths: BTreeSet<&str> =
        tokens.iter().filter_map(Token::path).filter(|path| path.starts_with(prefix)).collect();
    paths.into_iter().map(str::to_owned).collect()
}

/// The fault that an engine message describes.
pub(super) fn does_not_compile(message: &str) -> ValidationError {
    let kind = ValidationErrorKind::DoesNotCompile(short_message(message));
    ValidationError { kind, position: parse_position(message) }
}

pub(super) fn here(kind: ValidationErrorKind, position: Position) -> ValidationError {
    ValidationError { kind, position: Some(position) }
}

fn nowhere(kind: ValidationErrorKind) -> ValidationError {
    ValidationError { kind, position: None }
}

fn at(position: &Option<Position>) -> String {
    position.map(|position| format!(" ({position})")).unwrap_or_default()
}

//! Routes and their description as one declaration.
//!
//! [`Routes::add`] takes an [`Operation`] together with its handler: the router and the OpenAPI 3.1 document are made of
//! the same list, so no route exists without its documentation. Answers are built by hand as JSON, so their schemas are
//! declared here as well, with the functions of [`schema`]; fuzzing against the running services holds them to what is
//! really answered.

mod conformance;
mod document;
pub mod schema;

pub use conformance::violations;
pub use document::{Document, WRITE, components_used, hold};

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use serde_json::Value;

/// A method that a route can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `DELETE`
    Delete,
    /// `GET`, which answers `HEAD` too.
    Get,
    /// `PATCH`
    Patch,
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

impl Verb {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Self::Delete => MethodFilter::DELETE,
            Self::Get => MethodFilter::GET,
            Self::Patch => MethodFilter::PATCH,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
        }
    }
}

/// What a body is.
#[derive(Debug, Clone)]
pub struct Content {
    /// Such as `application/json`.
    pub media: &'static str,
    /// Its shape.
    pub schema: Value,
}

/// One kind of answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What it comes as; nothing where there is no body.
    pub content: Vec<Content>,
}

/// One method of one path.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The method.
    pub verb: Verb,
    /// The template, as axum and OpenAPI both write it: `/v1/zones/{zone}`.
    pub path: &'static str,
    /// What clients that are generated call it.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Parameters of the query, with their schemas.
    pub query: Vec<(&'static str, Value)>,
    /// What is sent; the flag says whether it has to be.
    pub body: Option<(Content, bool)>,
    /// What is answered.
    pub answers: Vec<Answer>,
    /// The name of the security scheme; `None` where nobody has to say who he is.
    pub security: Option<&'static str>,
    /// Further members of the description, such as `x-caracal-right`.
    pub extensions: Vec<(&'static str, Value)>,
}

impl Operation {
    /// An operation that answers nothing yet.
    #[must_use]
    pub fn new(verb: Verb, name: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            verb,
            path,
            name,
            summary,
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            security: None,
            extensions: Vec::new(),
        }
    }

    /// With these parameters of the query.
    #[must_use]
    pub fn query(mut self, parameters: &[(&'static str, Value)]) -> Self {
        self.query.extend(parameters.iter().cloned());
        self
    }

    /// With a body of JSON that has to be there.
    #[must_use]
    pub fn takes(self, schema: Value) -> Self {
        self.takes_as("application/json", schema, true)
    }

    /// With a body of this kind.
    #[must_use]
    pub fn takes_as(mut self, media: &'static str, schema: Value, required: bool) -> Self {
        self.body = Some((Content { media, schema }, required));
        self
    }

    /// Answers JSON with this status.
    #[must_use]
    pub fn answers(self, status: u16, schema: Value) -> Self {
        self.answers_as(status, "application/json", schema)
    }

    /// Answers with this status, also as that kind of content.
    #[must_use]
    pub fn answers_as(mut self, status: u16, media: &'static str, schema: Value) -> Self {
        let content = Content { media, schema };
        match self.answers.iter_mut().find(|answer| answer.status == status) {
            Some(answer) => answer.content.push(content),
            None => self.answers.push(Answer { status, content: vec![content] }),
        }
        self
    }

    /// Answers with this status and no body.
    #[must_use]
    pub fn answers_nothing(mut self, status: u16) -> Self {
        self.answers.push(Answer { status, content: Vec::new() });
        self
    }

    /// Refuses with these statuses, each with a body of this shape.
    #[must_use]
    pub fn refuses(self, statuses: &[u16], schema: &Value) -> Self {
        statuses.iter().fold(self, |operation, status| operation.answers(*status, schema.clone()))
    }

    /// Behind this security scheme.
    #[must_use]
    pub fn behind(mut self, scheme: &'static str) -> Self {
        self.security = Some(scheme);
        self
    }

    /// With one more member in its description.
    #[must_use]
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.extensions.push((member, value.into()));
        self
    }

    /// The names of the parameters in the path, in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// Routes, each with its description.
#[derive(Debug)]
pub struct Routes<S> {
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// Adds what answers an operation.
    #[must_use]
    pub fn add<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.router = self.router.route(operation.path, on(operation.verb.filter(), handler));
        self.operations.push(operation);
        self
    }

    /// Adds the routes of another list.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// What is described.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The router, and the description.
    pub fn into_parts(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

//! What spans are called and what they may hold. `docs/tracing.md` has the same, and a test holds the two together.

/// A step of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// A call that leaves the installation.
    Call,
    /// An evaluation of policy.
    PolicyEvaluation,
    /// A request as a whole.
    Request,
    /// A write, from its being asked for to the end of its commit.
    Write,
}

impl Span {
    const ALL: [Self; 4] = [Self::Call, Self::PolicyEvaluation, Self::Request, Self::Write];

    /// Its name, or how its name is made.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Call => "{method}",
            Self::PolicyEvaluation => "evaluate policy",
            Self::Request => "{method} {route}",
            Self::Write => "write",
        }
    }
}

/// What a span may hold, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// Why a step failed, as a word.
    ErrorType,
    /// The method, as far as it is a known one.
    Method,
    /// Why a request was refused: a reason code.
    Reason,
    /// The id of the request.
    RequestId,
    /// The template of the route.
    Route,
    /// `http` or `https`.
    Scheme,
    /// The host that is called.
    ServerAddress,
    /// The port that is called.
    ServerPort,
    /// The status of the answer.
    Status,
    /// How long a write waited for its turn, in microseconds.
    Waited,
    /// The zone.
    Zone,
}

impl Attribute {
    const ALL: [Self; 11] = [
        Self::Reason,
        Self::RequestId,
        Self::Waited,
        Self::Zone,
        Self::ErrorType,
        Self::Method,
        Self::Status,
        Self::Route,
        Self::ServerAddress,
        Self::ServerPort,
        Self::Scheme,
    ];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ErrorType => "error.type",
            Self::Method => "http.request.method",
            Self::Reason => "caracal.reason",
            Self::RequestId => "caracal.request_id",
            Self::Route => "http.route",
            Self::Scheme => "url.scheme",
            Self::ServerAddress => "server.address",
            Self::ServerPort => "server.port",
            Self::Status => "http.response.status_code",
            Self::Waited => "caracal.write.waited_us",
            Self::Zone => "caracal.zone_id",
        }
    }
}

/// The names of all spans, and of all that they may hold, each in their order.
#[must_use]
pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    let mut spans: Vec<_> = Span::ALL.into_iter().map(Span::name).collect();
    let mut attributes: Vec<_> = Attribute::ALL.into_iter().map(Attribute::name).collect();
    spans.sort_unstable();
    attributes.sort_unstable();
    (spans, attributes)
}

//! Requests that leave the installation: keys of identity providers, tokens of providers (contract sts §22.3).
//!
//! [`Egress`] is the only way out. It speaks HTTPS only; calls only hosts that the caller allows; connects only to
//! addresses that may be called, judged where names are resolved; follows no redirect; takes no proxy from the
//! environment; and bounds time and size. It logs no content, no header and no query.

mod address;
mod error;
mod options;
mod resolver;

pub use error::{EgressError, EgressSetupError};
pub use options::EgressOptions;

use crate::trace;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Response, Url};
use resolver::{Guard, Unresolved};
use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FORM: &str = "application/x-www-form-urlencoded";

/// The way out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress {
    client: Result<Client, Arc<str>>,
    guard: Guard,
}

/// Which hosts a call may go to.
#[derive(Debug, Clone, Copy)]
pub enum Hosts<'a> {
    /// Any host whose addresses may be called.
    Any,
    /// These alone, compared exactly but for case. An empty list allows none.
    Only(&'a [String]),
}

impl Hosts<'_> {
    fn allow(self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(hosts) => hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)),
        }
    }
}

/// How long and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the whole call: name, connection, TLS, answer.
    pub timeout: Duration,
    /// The longest body that is read, in bytes.
    pub max_bytes: usize,
}

impl Limits {
    /// Five seconds (contract sts §21, §22.3), and this many bytes.
    #[must_use]
    pub const fn bytes(max_bytes: usize) -> Self {
        Self { timeout: Duration::from_secs(5), max_bytes }
    }
}

/// An answer, of whatever status but a redirect.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    /// Without the body: it may be a credential.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Egress {
    /// A way out with these options.
    ///
    /// A system without certificate authorities of its own can start: its calls fail with
    /// [`EgressError::Connect`] until `CARACAL_TLS_EXTRA_CA_FILE` names some.
    pub fn new(options: EgressOptions) -> Result<Self, EgressSetupError> {
        let extra = options.extra_ca_file.as_deref().map(read_certificates).transpose()?.unwrap_or_default();
        let extra_ca_file = options.extra_ca_file.clone();
        for host in &options.loopback_hosts {
            tracing::warn!(
                host,
                "CARACAL_DEV_LOOPBACK_EGRESS_HOSTS allows calls to this machine; for development"
            );
        }
        let guard = Guard::new(options);
        let client = Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            // Each call resolves and judges anew.
            .pool_max_idle_per_host(0)
            .dns_resolver(guard.clone())
            .tls_certs_merge(extra)
            .build();
        match (client, extra_ca_file) {
            (Ok(client), _) => Ok(Self { client: Ok(client), guard }),
            (Err(error), Some(path)) => {
                Err(EgressSetupError::ExtraCaInvalid { path, why: innermost(&error) })
            }
            (Err(error), None) => {
                let why = innermost(&error);
                tracing::warn!(
                    why,
                    "nothing outside can be called: the system has no certificate authorities"
                );
                Ok(Self { client: Err(why.into()), guard })
            }
        }
    }

    /// Fetches `url`.
    pub async fn get(&self, url: &str, hosts: Hosts<'_>, limits: Limits) -> Result<Reply, EgressError> {
        let (client, request) = self.prepare(Method::GET, url, hosts)?;
        call(client, request, limits).await
    }

    /// Sends a form. `headers` may carry credentials.
    pub async fn post_form(
        &self,
        url: &str,
        hosts: Hosts<'_>,
        headers: &[(HeaderName, HeaderValue)],
        form: &[(&str, &str)],
        limits: Limits,
    ) -> Result<Reply, EgressError> {
        let fields: Vec<(&str, &[u8])> = form.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let body = (HeaderValue::from_static(FORM), caracal_mandate::upstream::form_encode(&fields));
        self.post(url, hosts, headers, body, limits).await
    }

    /// Sends a JSON text. `headers` may carry credentials.
    pub async fn post_json(
        &self,
        url: &str,
        hosts: Hosts<'_>,
        headers: &[(HeaderName, HeaderValue)],
        json: &str,
        limits: Limits,
    ) -> Result<Reply, EgressError> {
        let body = (HeaderValue::from_static("application/json"), json.to_owned());
        self.post(url, hosts, headers, body, limits).await
    }

    async fn post(
        &self,
        url: &str,
        hosts: Hosts<'_>,
        headers: &[(HeaderName, HeaderValue)],
        (media_type, body): (HeaderValue, String),
        limits: Limits,
    ) -> Result<Reply, EgressError> {
        let (client, mut request) = self.prepare(Method::POST, url, hosts)?;
        *request.body_mut() = Some(body.into());
        let sent: &mut HeaderMap = request.headers_mut();
        sent.insert(reqwest::header::CONTENT_TYPE, media_type);
        for (name, value) in headers {
            sent.insert(name.clone(), value.clone());
        }
        call(client, request, limits).await
    }

    fn prepare(
        &self,
        method: Method,
        url: &str,
        hosts: Hosts<'_>,
    ) -> Result<(&Client, Request), EgressError> {
        let (url, host) = self.checked(url, hosts)?;
        let client = self
            .client
            .as_ref()
            .map_err(|cause| EgressError::Connect { host, cause: (**cause).to_owned() })?;
        let mut request = Request::new(method, url);
        request.headers_mut().insert(reqwest::header::ACCEPT, HeaderValue::from_static("application/json"));
        Ok((client, request))
    }

    fn checked(&self, url: &str, hosts: Hosts<'_>) -> Result<(Url, String), EgressError> {
        let url = Url::parse(url).map_err(|_| EgressError::Url { why: "it does not parse" })?;
        if url.scheme() != "https" {
            return Err(EgressError::Url { why: "it is not https" });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::Url { why: "it holds user information" });
        }
        let host = url.host_str().ok_or(EgressError::Url { why: "it has no host" })?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if !hosts.allow(&host) {
            return Err(EgressError::HostNotAllowed { host });
        }
        if host.parse::<IpAddr>().is_ok_and(|address| !self.guard.allows(&host, address)) {
            return Err(EgressError::AddressRefused { host });
        }
        Ok((url, host))
    }
}

async fn call(client: &Client, request: Request, limits: Limits) -> Result<Reply, EgressError> {
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let method = if request.method() == Method::POST { "POST" } else { "GET" };
    let step = trace::call(method, request.url().scheme(), &host, request.url().port_or_known_default());
    let exchange = async {
        let response = client.execute(request).await.map_err(|error| failure(&host, &error))?;
        if response.status().is_redirection() {
            return Err(EgressError::Redirect { host: host.clone() });
        }
        let status = response.status().as_u16();
        let body = read(response, &host, limits.max_bytes).await?;
        Ok(Reply { status, body })
    };
    let reply = match tokio::time::timeout(limits.timeout, exchange).await {
        Ok(reply) => reply,
        Err(_) => Err(EgressError::Timeout { host: host.clone() }),
    };
    match &reply {
        Ok(reply) => step.answered(reply.status),
        Err(error) => step.failed(error.reason()),
    }
    reply
}

async fn read(mut response: Response, host: &str, limit: usize) -> Result<Vec<u8>, EgressError> {
    let too_large = || EgressError::ResponseTooLarge { host: host.to_owned(), limit };
    if response
        .content_length()
        .is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit))
    {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| EgressError::ResponseBroken {
            host: host.to_owned(),
            cause: innermost(&error),
        })?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
}

fn failure(host: &str, error: &reqwest::Error) -> EgressError {
    let host = host.to_owned();
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        match error.downcast_ref::<Unresolved>() {
            Some(Unresolved::NoAddress) => return EgressError::NotResolved { host },
            Some(Unresolved::Refused) => return EgressError::AddressRefused { host },
            None => cause = error.source(),
        }
    }
    let cause = innermost(error);
    if error.is_connect() {
        EgressError::Connect { host, cause }
    } else {
        EgressError::ResponseBroken { host, cause }
    }
}

/// The text of the innermost cause: what is around it repeats the URL.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, EgressSetupError> {
    let pem = std::fs::read(path)
        .map_err(|source| EgressSetupError::ExtraCaUnreadable { path: path.to_owned(), source })?;
    let invalid = |why: String| EgressSetupError::ExtraCaInvalid { path: path.to_owned(), why };
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| invalid(innermost(&error)))?;
    if certificates.is_empty() {
        return Err(invalid("there is none in PEM form".to_owned()));
    }
    Ok(certificates)
}

//! Calls of the Admin API by an operator's commands, and where they get their token from.

use crate::cli::DataOption;
use crate::data::admin_token_file;
use crate::error::Error;
use crate::runtime::Running;
use clap::Args;
use reqwest::{Method, StatusCode, Url, redirect};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a call is made again that was too early, or a question that was not answered.
const TRIES: u32 = 4;
/// The longest wait before a call is made again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most pages of one list.
const MAX_PAGES: usize = 1000;

/// Which Admin API, and who asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminOptions {
    #[command(flatten)]
    pub(crate) data: DataOption,
    /// The Admin API's address [default: the one that runs on the data folder].
    #[arg(long, env = "CARACAL_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// A file with the admin token [default: CARACAL_ADMIN_TOKEN or CARACAL_ADMIN_TOKEN_FILE, else the data folder's].
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// A token that is never printed.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl AdminOptions {
    /// A client. The data folder's token goes to the Caracal of that folder and to nobody else.
    pub(crate) fn client(&self) -> Result<AdminClient, Error> {
        let base = match &self.api_url {
            Some(url) => url.clone(),
            None => format!("http://{}", reachable(Running::load(&self.data.folder()?)?.admin)),
        };
        AdminClient::new(&base, self.token()?)
    }

    fn token(&self) -> Result<Token, Error> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(Error::file(path));
        let text = match &self.admin_token_file {
            Some(path) => read(path)?,
            None => match caracal_store::config::optional("CARACAL_ADMIN_TOKEN")? {
                Some(token) => token,
                None if self.api_url.is_some() => {
                    let why = "is not set: with --api-url a token has to be named, or its file with --admin-token-file";
                    return Err(Error::Setting { name: "CARACAL_ADMIN_TOKEN", why: why.to_owned() });
                }
                None => read(&admin_token_file(&self.data.folder()?))?,
            },
        };
        Ok(Token(text.trim().to_owned()))
    }
}

/// An address that can be connected to: whoever listens everywhere is here as well.
pub(crate) fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// A client for one of our services at `base`. It follows no redirect, so that a secret goes where it was sent.
pub(crate) fn service_client(name: &'static str, base: &str) -> Result<(reqwest::Client, String), Error> {
    let wrong = |why: String| Error::Setting { name, why };
    let url = Url::parse(base).map_err(|error| wrong(format!("{base:?} is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !url.username().is_empty() {
        return Err(wrong(format!("{base:?} is no http or https URL without a user")));
    }
    // Without TLS no certificate authorities are needed, and none may be there; and a proxy would read the token.
    let builder =
        if url.scheme() == "https" { reqwest::Client::builder() } else { crate::egress::local().no_proxy() };
    let client = builder.timeout(PATIENCE).redirect(redirect::Policy::none()).build();
    let client = client.map_err(|error| wrong(error.to_string()))?;
    Ok((client, base.trim_end_matches('/').to_owned()))
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{call}: the answer is not one of a Caracal: {why}")]
    Nonsense { call: String, why: String },
    #[error("{call}: {status} {code}{}{description}", if description.is_empty() { "" } else { ": " })]
    Refused { call: String, status: u16, code: String, description: String },
    #[error("{call}: no answer: {why}")]
    Unanswered { call: String, why: String },
}

/// A client of the Admin API.
#[derive(Debug, Clone)]
pub(crate) struct AdminClient {
    http: reqwest::Client,
    base: String,
    token: Token,
}

impl AdminClient {
    fn new(base: &str, token: Token) -> Result<Self, Error> {
        let (http, base) = service_client("--api-url", base)?;
        Ok(Self { http, base, token })
    }

    /// Where it is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Reads one thing.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None).await
    }

    /// Changes something; the answer is null where there is none.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        self.call(method, path, body).await
    }

    /// Reads a whole list.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, CallError> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let query = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            let join = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{join}limit=500{query}")).await?;
            let Value::Object(mut page) = page else { return Err(nonsense(path, "no page")) };
            let Some(Value::Array(rows)) = page.remove("items") else {
                return Err(nonsense(path, "no items"));
            };
            items.extend(rows);
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(items);
            }
        }
        Err(nonsense(path, "the list does not end"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let call = format!("{method} {path}");
        let mut tried = 0;
        loop {
            tried += 1;
            let request =
                self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token.0);
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            let again = tried < TRIES;
            let answer = match request.send().await {
                Ok(answer) => answer,
                // Asking once more does no harm; doing something once more might.
                Err(_) if again && method == Method::GET => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    continue;
                }
                Err(error) => return Err(CallError::Unanswered { call, why: causes(&error) }),
            };
            let status = answer.status();
            if status == StatusCode::TOO_MANY_REQUESTS && again {
                let seconds =
                    answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(1)).min(LONGEST_WAIT)).await;
                continue;
            }
            let text = answer.text().await;
            let text =
                text.map_err(|error| CallError::Unanswered { call: call.clone(), why: causes(&error) })?;
            return understood(call, status, &text);
        }
    }
}

fn nonsense(path: &str, why: &str) -> CallError {
    CallError::Nonsense { call: format!("GET {path}"), why: why.to_owned() }
}

fn understood(call: String, status: StatusCode, text: &str) -> Result<Value, CallError> {
    let body: Result<Value, _> = serde_json::from_str(text);
    if status.is_success() {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return body.map_err(|error| CallError::Nonsense { call, why: error.to_string() });
    }
    let body = body.unwrap_or_default();
    let member = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (code, mut description) = (member("error"), member("error_description"));
    if let Some(details) = body.get("details") {
        description = format!("{description} {details}").trim().to_owned();
    }
    Err(CallError::Refused { call, status: status.as_u16(), code, description })
}

/// An error with what is behind it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_code() {
        let refused = |status: u16, text: &str| {
            understood("PUT /x".to_owned(), StatusCode::from_u16(status).unwrap(), text)
                .unwrap_err()
                .to_string()
        };
        let cases = [
            (409, r#"{"error":"taken","error_description":"it is"}"#, "PUT /x: 409 taken: it is"),
            (400, r#"{"error":"bad","details":{"line":1}}"#, r#"PUT /x: 400 bad: {"line":1}"#),
            (502, "<html>", "PUT /x: 502 "),
        ];
        for (status, text, expected) in cases {
            assert_eq!(refused(status, text), expected);
        }
        let call = |text| understood("GET /x".to_owned(), StatusCode::OK, text);
        assert_eq!(call("").unwrap(), Value::Null);
        assert!(matches!(call("<html>"), Err(CallError::Nonsense { .. })));
    }

    #[test]
    fn a_token_is_never_shown_and_an_address_is_one() {
        assert_eq!(format!("{:?}", Token("abc".to_owned())), "Token(…)");
        for url in ["ftp://x", "x", "http://u@x", "http://"] {
            assert!(AdminClient::new(url, Token(String::new())).is_err(), "{url}");
        }
        assert_eq!(AdminClient::new("http://x/", Token(String::new())).unwrap().base(), "http://x");
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
    }
}

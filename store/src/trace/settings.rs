//! Where traces go, by the variables of the OpenTelemetry specification.

use crate::config::ConfigError;
use crate::metrics::Service;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector as _, TelemetryResourceDetector};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The base address of the collector.
pub(super) const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The address of the collector for traces.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
/// The one protocol that is spoken.
const HTTP_PROTOBUF: &str = "http/protobuf";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The collector's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(Url);

impl Endpoint {
    /// A base address: traces go to `/v1/traces` below it. `name` is what set it.
    fn base(name: &str, text: &str) -> Result<Self, ConfigError> {
        let Self(mut url) = Self::of_traces(name, text)?;
        let below = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&below);
        Ok(Self(url))
    }

    /// The very address that traces go to. `name` is what set it.
    fn of_traces(name: &str, text: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(text).map_err(|_| ConfigError::invalid(name, "is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(ConfigError::invalid(name, "is no http or https URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let why = "holds user information: put what proves you into OTEL_EXPORTER_OTLP_HEADERS";
            return Err(ConfigError::invalid(name, why));
        }
        Ok(Self(url))
    }

    pub(super) fn url(&self) -> Url {
        self.0.clone()
    }

    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

/// Where traces go, and how.
#[derive(Debug)]
pub struct Settings {
    pub(super) endpoint: Endpoint,
    pub(super) headers: HeaderMap,
    /// For one request to the collector.
    pub(super) timeout: Duration,
    /// The most spans that wait.
    pub(super) queue: usize,
    /// The most spans in one request.
    pub(super) batch: usize,
    /// How long a span waits for others.
    pub(super) delay: Duration,
    pub(super) version: String,
    /// Certificate authorities that are trusted beside the system's.
    pub(super) extra_ca_file: Option<PathBuf>,
    /// What the names of services begin with.
    name: Option<String>,
    /// What the operator says about all of them.
    attributes: Vec<KeyValue>,
}

impl Settings {
    /// Reads the environment, but for the base address of the collector, which may have come another way. `None`: nobody
    /// asked for traces.
    ///
    /// # Errors
    /// A variable has a value that it does not take.
    pub fn from_environment(
        endpoint: Option<&str>,
        version: &str,
        extra_ca_file: Option<PathBuf>,
    ) -> Result<Option<Self>, ConfigError> {
        // What goes along with each request may be a secret, so it may stand in a file.
        let headers_of = |name| Ok::<_, ConfigError>(crate::config::optional(name)?.map(|text| (name, text)));
        let headers = match headers_of("OTEL_EXPORTER_OTLP_TRACES_HEADERS")? {
            Some(headers) => Some(headers),
            None => headers_of("OTEL_EXPORTER_OTLP_HEADERS")?,
        };
        let variable = |name: &str| match name {
            ENDPOINT => endpoint.map(str::to_owned),
            other => std::env::var(other).ok(),
        };
        let Some(mut settings) = Self::read(variable, version)? else { return Ok(None) };
        if let Some((name, text)) = headers {
            let headers = parse_headers(&text);
            settings.headers =
                headers.ok_or_else(|| ConfigError::invalid(name, "is no list of NAME=VALUE"))?;
        }
        settings.extra_ca_file = extra_ca_file;
        settings.describe(EnvResourceDetector::new().detect().iter().map(owned).collect());
        Ok(Some(settings))
    }

    /// Takes what the operator says about all services.
    fn describe(&mut self, attributes: Vec<KeyValue>) {
        let called = attributes.iter().find(|attribute| attribute.key.as_str() == "service.name");
        if let (None, Some(called)) = (&self.name, called) {
            self.name = Some(called.value.to_string());
        }
        self.attributes = attributes;
    }

    pub(super) fn read(
        variable: impl Fn(&str) -> Option<String>,
        version: &str,
    ) -> Result<Option<Self>, ConfigError> {
        let text =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let is = |name: &str, word: &str| text(name).is_some_and(|text| text.eq_ignore_ascii_case(word));
        let endpoint = match (text(TRACES_ENDPOINT), text(ENDPOINT)) {
            (Some(address), _) => Endpoint::of_traces(TRACES_ENDPOINT, &address)?,
            (None, Some(address)) => Endpoint::base(ENDPOINT, &address)?,
            (None, None) => return Ok(None),
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let name = if text(TRACES_PROTOCOL).is_some() { TRACES_PROTOCOL } else { PROTOCOL };
        if let Some(protocol) = text(name).filter(|protocol| protocol != HTTP_PROTOBUF) {
            let why = format!("is {protocol:?}: only {HTTP_PROTOBUF} is spoken");
            return Err(ConfigError::invalid(name, why));
        }
        check_sampler(text("OTEL_TRACES_SAMPLER"), text("OTEL_TRACES_SAMPLER_ARG"))?;
        let timeout = match number(&text, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")? {
            Some(timeout) => Some(timeout),
            None => number(&text, "OTEL_EXPORTER_OTLP_TIMEOUT")?,
        };
        let queue = number(&text, "OTEL_BSP_MAX_QUEUE_SIZE")?.unwrap_or(2048).min(1 << 20);
        let batch = number(&text, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")?.unwrap_or(512).min(queue);
        let delay = number(&text, "OTEL_BSP_SCHEDULE_DELAY")?.unwrap_or(5_000);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Some(Self {
            endpoint,
            headers: HeaderMap::new(),
            timeout: Duration::from_millis(timeout.unwrap_or(10_000)),
            queue: size(queue),
            batch: size(batch),
            delay: Duration::from_millis(delay),
            version: version.to_owned(),
            extra_ca_file: None,
            name: text("OTEL_SERVICE_NAME"),
            attributes: Vec::new(),
        }))
    }

    /// What is said about a service. One process runs several, so what the operator calls it is what their names begin
    /// with.
    pub(super) fn resource(&self, service: Service) -> Resource {
        let name = self.name.as_deref().unwrap_or("caracal");
        Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attribute(KeyValue::new("service.version", self.version.clone()))
            .with_attributes(self.attributes.iter().cloned())
            .with_service_name(format!("{name}-{}", service.as_str()))
            .build()
    }
}

fn owned((key, value): (&opentelemetry::Key, &opentelemetry::Value)) -> KeyValue {
    KeyValue::new(key.clone(), value.clone())
}

/// A number that is more than 0.
fn number(text: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| ConfigError::invalid(name, "is no number above 0"))
}

/// The SDK samples, and takes whatever it does not know for the default. Here it is an error.
fn check_sampler(sampler: Option<String>, argument: Option<String>) -> Result<(), ConfigError> {
    let Some(sampler) = sampler else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(ConfigError::invalid(
            "OTEL_TRACES_SAMPLER",
            format!("is none of {}", SAMPLERS.join(", ")),
        ));
    }
    if !sampler.ends_with("traceidratio") {
        return Ok(());
    }
    let ratio = argument.and_then(|ratio| f64::from_str(&ratio).ok());
    if ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
        return Ok(());
    }
    Err(ConfigError::invalid(
        "OTEL_TRACES_SAMPLER_ARG",
        format!("is no number from 0 to 1, which {sampler} takes"),
    ))
}

/// `name=value,…`, where a value may be percent-encoded.
fn parse_headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = caracal_mandate::path::percent_decode(value.trim().as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_str(name.trim()).ok()?, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::read(variable, "1.2.3").map_err(|error| error.to_string())
    }

    #[test]
    fn contract_sts_26_3_traces_are_off_unless_there_is_a_collector() {
        for variables in [
            &[][..],
            &[(ENDPOINT, "")],
            &[(PROTOCOL, "grpc")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_SDK_DISABLED", "TRUE")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
        for (name, address, url) in [
            (ENDPOINT, "http://c:4318", "http://c:4318/v1/traces"),
            (ENDPOINT, "https://c/otlp/", "https://c/otlp/v1/traces"),
            (TRACES_ENDPOINT, "http://c:4318/here", "http://c:4318/here"),
        ] {
            let settings = read(&[(name, address), (PROTOCOL, HTTP_PROTOBUF)]).unwrap().unwrap();
            assert_eq!(settings.endpoint.url().as_str(), url);
        }
        let both = read(&[(ENDPOINT, "http://c:1"), (TRACES_ENDPOINT, "http://d:2/x")]).unwrap().unwrap();
        assert_eq!((both.endpoint.host(), both.timeout), ("d", Duration::from_secs(10)));
    }

    #[test]
    fn contract_sts_26_3_what_cannot_be_used_is_named() {
        for (name, value, what) in [
            (ENDPOINT, "collector:4318", "is no http or https URL"),
            (ENDPOINT, "nonsense", "is no URL"),
            (ENDPOINT, "http://user:secret@c", "user information"),
            (PROTOCOL, "grpc", "is \"grpc\": only http/protobuf is spoken"),
            (TRACES_PROTOCOL, "http/json", "is \"http/json\": only http/protobuf is spoken"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "is none of always_on"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "is no number above 0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is no number above 0"),
        ] {
            let error = read(&[(ENDPOINT, "http://c:4318"), (name, value)]).err();
            let error = error.or_else(|| read(&[(name, value), (ENDPOINT, "http://c:4318")]).err()).unwrap();
            assert!(error.starts_with(name) && error.contains(what), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for argument in [None, Some("2"), Some("x")] {
            let ratio = [(ENDPOINT, "http://c"), ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")];
            let argument = argument.map(|argument| ("OTEL_TRACES_SAMPLER_ARG", argument));
            let variables: Vec<_> = ratio.into_iter().chain(argument).collect();
            assert!(read(&variables).unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG"), "{variables:?}");
        }
    }

    #[test]
    fn a_service_is_called_by_what_the_operator_calls_all_of_them() {
        let name = |variables: &[(&str, &str)], attributes: Vec<KeyValue>| {
            let mut settings = read(variables).unwrap().unwrap();
            settings.describe(attributes);
            let resource = settings.resource(Service::Sts);
            let get = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
            (get("service.name"), get("service.version"), get("team"))
        };
        let some = |text: &str| Some(text.to_owned());
        let plain = name(&[(ENDPOINT, "http://c")], vec![]);
        assert_eq!(plain, (some("caracal-sts"), some("1.2.3"), None));
        let team = vec![KeyValue::new("team", "a"), KeyValue::new("service.name", "mine")];
        let mine = name(&[(ENDPOINT, "http://c")], team.clone());
        assert_eq!(mine, (some("mine-sts"), some("1.2.3"), some("a")));
        let named = name(&[(ENDPOINT, "http://c"), ("OTEL_SERVICE_NAME", "acme")], team);
        assert_eq!(named, (some("acme-sts"), some("1.2.3"), some("a")));
    }

    #[test]
    fn headers_are_pairs() {
        let headers = parse_headers("Authorization=Bearer%20x=, a=b").unwrap();
        assert_eq!(
            (headers["authorization"].as_bytes(), headers["a"].as_bytes()),
            (&b"Bearer x="[..], &b"b"[..])
        );
        for nonsense in ["a", "a=%zz", "a b=c", "a=%0a"] {
            assert!(parse_headers(nonsense).is_none(), "{nonsense}");
        }
    }
}

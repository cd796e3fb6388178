//! What sends spans to the collector: one task for all services of the process, one request for many spans
//! (OTLP over HTTP, protobuf).
//!
//! A batch is sent once. Whatever becomes of it, requests of the services do not wait for it: they go on while the queue
//! fills, and after that while spans are dropped.

use super::queue::{Ended, Loss, Lost, Tracer};
use super::settings::Settings;
use crate::metrics::{self, Service};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long the end of the process waits for spans that are under way.
const FLUSH: Duration = Duration::from_secs(2);
/// The least time between two log lines about spans that were lost.
const QUIET: Duration = Duration::from_secs(60);
/// The longest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Why spans cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The authorities that the collector's certificate is checked against cannot be read.
    #[error(transparent)]
    Authorities(#[from] crate::egress::EgressSetupError),
    /// There is no HTTP client, such as where the system has no certificate authorities.
    #[error("the collector of traces cannot be called: {0}")]
    Client(String),
}

/// The traces of a process: a tracer for each service, and the task that sends what they record.
#[derive(Debug)]
pub struct Traces {
    tracers: [Tracer; Service::ALL.len()],
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Traces {
    /// Starts to send. Needs a runtime.
    pub fn start(settings: Settings) -> Result<Self, TracesError> {
        let client = client(&settings)?;
        let (sender, queue) = mpsc::channel(settings.queue);
        let lost = Arc::new(Lost::default());
        let tracers = Service::ALL
            .map(|service| Tracer::new(service, sender.clone(), Arc::clone(&lost), &settings.version));
        let resources = Service::ALL.map(|service| (&settings.resource(service)).into());
        let (stop, stopped) = oneshot::channel();
        let exporter =
            Exporter { client, settings, resources, queue, batch: Vec::new(), lost, told_at: None };
        Ok(Self { tracers, stop, task: tokio::spawn(exporter.run(stopped)) })
    }

    /// The tracer of a service.
    #[must_use]
    pub fn tracer(&self, service: Service) -> Option<Tracer> {
        self.tracers.get(service as usize).cloned()
    }

    /// Sends what is there, for at most two seconds. What is recorded from now on is lost.
    pub async fn stop(self) {
        let Self { stop, mut task, .. } = self;
        let _ = stop.send(());
        if tokio::time::timeout(FLUSH, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("the last spans did not get to the collector in time");
        }
    }
}

fn client(settings: &Settings) -> Result<Client, TracesError> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, PROTOBUF)]);
    let agent = HeaderValue::from_str(&format!("caracal/{}", settings.version));
    headers.extend(agent.ok().map(|agent| (USER_AGENT, agent)));
    // The operator's own come last, and count.
    headers.extend(settings.headers.clone());
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(settings.timeout)
        .default_headers(headers);
    let client = if settings.endpoint.is_https() {
        let more = settings.extra_ca_file.as_deref().map(crate::egress::read_certificates).transpose()?;
        client.tls_certs_merge(more.unwrap_or_default())
    } else {
        client.tls_certs_only([])
    };
    client.build().map_err(|error| TracesError::Client(crate::egress::innermost(&error)))
}

struct Exporter {
    client: Client,
    settings: Settings,
    resources: [ResourceAttributesWithSchema; Service::ALL.len()],
    queue: mpsc::Receiver<Ended>,
    batch: Vec<Ended>,
    lost: Arc<Lost>,
    told_at: Option<Instant>,
}

/// Why the collector did not take all of a batch.
struct Failure {
    spans: usize,
    loss: Loss,
    why: String,
}

impl Exporter {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            let goes_on = tokio::select! {
                _ = &mut stop => false,
                more = self.gather() => more,
            };
            if !goes_on {
                break;
            }
            self.send().await;
        }
        self.queue.close();
        while self.queue.recv_many(&mut self.batch, self.settings.batch).await > 0 || !self.batch.is_empty() {
            self.send().await;
        }
    }

    /// Waits until there is a batch: enough spans, or one that has waited long enough. `false`: no more will come. What
    /// was gathered stays where this is broken off.
    async fn gather(&mut self) -> bool {
        let most = self.settings.batch;
        if self.batch.is_empty() && self.queue.recv_many(&mut self.batch, most).await == 0 {
            return false;
        }
        let enough = async {
            while self.batch.len() < most {
                let room = most - self.batch.len();
                if self.queue.recv_many(&mut self.batch, room).await == 0 {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(self.settings.delay, enough).await.unwrap_or(true)
    }

    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len();
        let body = self.encode(batch);
        let failure = self.post(body, spans).await.err();
        let lost = failure.as_ref().map_or(0, |failure| failure.spans.min(spans));
        metrics::spans_exported(number(spans - lost));
        if let Some(Failure { loss, why, .. }) = failure {
            self.lost.add(number(lost), loss);
            self.tell(&why);
        }
    }

    fn encode(&self, batch: Vec<Ended>) -> Vec<u8> {
        let mut by_service: [Vec<SpanData>; Service::ALL.len()] = Default::default();
        for Ended { service, span } in batch {
            if let Some(spans) = by_service.get_mut(service as usize) {
                spans.push(span);
            }
        }
        let of_services = by_service.into_iter().zip(&self.resources).filter(|(spans, _)| !spans.is_empty());
        let resource_spans: Vec<ResourceSpans> = of_services
            .flat_map(|(spans, resource)| group_spans_by_resource_and_scope(spans, resource))
            .collect();
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    async fn post(&self, body: Vec<u8>, spans: usize) -> Result<(), Failure> {
        let lost = |error: reqwest::Error| Failure {
            spans,
            loss: if error.is_timeout() { Loss::Timeout } else { Loss::Unreachable },
            // What is around it repeats the URL.
            why: crate::egress::innermost(&error),
        };
        let request = self.client.post(self.settings.endpoint.url()).body(body);
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure { spans, loss: Loss::Refused, why: format!("it answered {status}") });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(lost)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                // It took them; what else it has to say is not waited for.
                return Ok(());
            }
            body.extend_from_slice(&chunk);
        }
        let partial = ExportTraceServiceResponse::decode(body.as_slice()).ok();
        let partial = partial.and_then(|answer| answer.partial_success);
        let rejected = partial.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0));
        if rejected == 0 {
            return Ok(());
        }
        Err(Failure { spans: rejected, loss: Loss::Refused, why: "it did not take all of them".to_owned() })
    }

    /// Says that spans were lost, where nothing was said for a while.
    fn tell(&mut self, why: &str) {
        if self.told_at.is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        self.told_at = Some(Instant::now());
        let (spans, collector) = (self.lost.take(), self.settings.endpoint.host());
        tracing::warn!(spans, collector, why, "spans did not get to the collector of traces");
    }
}

fn number(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}

//! A gateway whose STS is a stand-in: it signs, answers and feeds whatever a test likes.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use caracal_envoy::{BootstrapOptions, Endpoint, GatewayOptions, Shape, render};
use caracal_filter_bed::issuer::Issuer;
use caracal_mandate::id::GatewayId;
use caracal_tests::{
    Answered, Clock, Feeding, Leash, Raw, Reply, Shared, Sidecar, StandIn, Upstream, change_filter,
    filter_module, now_ms,
};
use serde_json::{Value, json};

use crate::{Refusal, eventually, is};

/// A resource whose operations are declared one by one.
pub(crate) const ORDERS: &str = "resource://orders";
/// A resource that takes every operation.
pub(crate) const OPEN: &str = "resource://open";
/// The largest body, in bytes.
pub(crate) const MAX_BODY: usize = 50_000;
/// How long the gateway waits for the STS.
pub(crate) const STS_TIMEOUT: Duration = Duration::from_millis(1_500);

pub(crate) struct Bed {
    pub(crate) sts: StandIn,
    /// Another zone, with another key.
    pub(crate) other: Issuer,
    pub(crate) upstream: Upstream,
    pub(crate) gateway: Sidecar,
    pub(crate) clock: Clock,
    _leash: Leash,
}

static BED: Shared<Bed> = Shared::new();

/// Runs a test on the gateway that all tests here share, as it is in the beginning.
pub(crate) fn stand_in(test: impl AsyncFnOnce(&Bed)) {
    BED.run(Bed::start(), async |bed| {
        bed.reset().await;
        test(bed).await;
    });
}

fn upstream_routes() -> Router {
    let far = [
        ("location", "http://169.254.169.254/latest"),
        ("content-location", "//169.254.169.254/"),
        ("refresh", "0; url=http://169.254.169.254/"),
        ("server", "secret/1.0"),
        ("x-powered-by", "secret"),
        ("set-cookie", "kept=1"),
    ];
    let near = [("location", "/v1/orders/7")];
    Router::new()
        .route("/far", get(move || async move { (StatusCode::FOUND, far) }))
        .route("/near", get(move || async move { (StatusCode::SEE_OTHER, near) }))
}

impl Bed {
    async fn start() -> Self {
        let issuer = Issuer::new("http://sts.stand-in.test", "z1", "k1", 7);
        let other = Issuer::new("http://sts.stand-in.test", "z2", "k2", 8);
        let (sts, upstream) = (StandIn::start(issuer).await, Upstream::serving(upstream_routes()).await);
        let shape = Shape::Gateway(GatewayOptions::default());
        let mut options = BootstrapOptions::new(GatewayId::new("edge").unwrap(), shape, filter_module());
        options.listener = Endpoint::loopback(0);
        let asked = Endpoint::new(sts.address.ip().to_string(), sts.address.port());
        (options.sts, options.audit) = (asked.clone(), asked);
        (options.feed_wait_s, options.max_body_bytes) = (1, u64::try_from(MAX_BODY).unwrap());
        let mut bootstrap = render(&options);
        change_filter(&mut bootstrap, |filter| {
            filter["sts"]["timeout_ms"] = u64::try_from(STS_TIMEOUT.as_millis()).unwrap().into();
        });
        assert_eq!(shorten_idle_time(&mut bootstrap), 1, "what is idle for 60 s ends");
        let clock = Clock::build();
        sts.feed(vec![sts.issuer.zone_feed(&resources())]);
        let gateway = Sidecar::launch(&bootstrap, &"ab".repeat(32), 401, &clock.environment()).await;
        let leash = gateway.leash();
        Self { sts, other, upstream, gateway, clock, _leash: leash }
    }

    /// The zones that the feed tells of in the beginning; nothing is revoked.
    pub(crate) fn zones(&self) -> [Value; 2] {
        [self.sts.issuer.zone_feed(&resources()), self.other.zone_feed(&resources())]
    }

    /// As in the beginning: right time, good feed, both zones, and an STS that grants.
    async fn reset(&self) {
        self.clock.step(0);
        self.sts.feed_like(Feeding::Well);
        self.sts.feed(self.zones().to_vec());
        self.grant(&self.plain());
        eventually("a good beginning", async || {
            let mine = self.send(&self.bearer(&self.mandate())).await;
            let other = self.other.token(&self.other.claims(now_ms() / 1_000, &[ORDERS]));
            (mine.status == 200 && self.send(&self.bearer(&other)).await.status == 200).then_some(())
        })
        .await;
    }

    /// The directive that leads to the upstream with the derived mandate.
    pub(crate) fn plain(&self) -> Value {
        json!({ "url": format!("http://{}", self.upstream.address), "auth_mode": "caracal_jwt" })
    }

    /// Lets the STS grant, with this directive.
    pub(crate) fn grant(&self, directive: &Value) {
        let body = json!({ "access_token": "derived", "upstreams": { ORDERS: directive, OPEN: directive } });
        self.sts.answer(Reply::json(200, &body));
    }

    /// The claims of a good mandate for both resources.
    pub(crate) fn claims(&self) -> Value {
        self.sts.issuer.claims(now_ms() / 1_000, &[ORDERS, OPEN])
    }

    /// A good mandate, another one each time.
    pub(crate) fn mandate(&self) -> String {
        self.sts.issuer.token(&self.claims())
    }

    /// A mandate with something changed, and signed all the same.
    pub(crate) fn signed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.sts.issuer.token(&claims)
    }

    /// The request of a good caller.
    pub(crate) fn bearer(&self, mandate: &str) -> Raw {
        self.request(&format!("Bearer {mandate}"))
    }

    /// The same with any `Authorization`.
    pub(crate) fn request(&self, authorization: &str) -> Raw {
        Raw::new("GET", "/v1/orders").with("authorization", authorization).with("x-caracal-resource", ORDERS)
    }

    /// The request of a good caller for the resource that takes every operation.
    pub(crate) fn open(&self, method: &str, target: &str) -> Raw {
        let authorization = format!("Bearer {}", self.mandate());
        Raw::new(method, target).with("authorization", authorization).with("x-caracal-resource", OPEN)
    }

    pub(crate) async fn send(&self, raw: &Raw) -> Answered {
        raw.send(self.gateway.address()).await
    }

    /// The filter alone refuses it like this: neither the STS nor an upstream hears of it. `label` is the metric's.
    pub(crate) async fn refuses(&self, what: &str, raw: &Raw, refusal: Refusal, label: &str) {
        let (asked, seen) = (self.sts.exchanges().len(), self.upstream.seen().len());
        let counted = self.denials(label).await;
        is(what, &self.send(raw).await, refusal);
        assert_eq!(self.sts.exchanges().len(), asked, "{what}: the STS was asked");
        assert_eq!(self.upstream.seen().len(), seen, "{what}: something was forwarded");
        assert_eq!(self.denials(label).await, counted + 1, "{what}: counted as {label}");
    }

    /// It is refused like this after the STS was asked once; no upstream hears of it.
    pub(crate) async fn refuses_after_asking(&self, what: &str, raw: &Raw, refusal: Refusal) {
        let (asked, seen) = (self.sts.exchanges().len(), self.upstream.seen().len());
        is(what, &self.send(raw).await, refusal);
        assert_eq!(self.sts.exchanges().len(), asked + 1, "{what}");
        assert_eq!(self.upstream.seen().len(), seen, "{what}: something was forwarded");
    }

    /// It passes, and the STS is asked once.
    pub(crate) async fn passes(&self, what: &str, raw: &Raw) -> Answered {
        let (asked, seen) = (self.sts.exchanges().len(), self.upstream.seen().len());
        let answered = self.send(raw).await;
        assert_eq!(answered.status, 200, "{what}: {}", String::from_utf8_lossy(&answered.body));
        assert_eq!(self.sts.exchanges().len(), asked + 1, "{what}");
        assert_eq!(self.upstream.seen().len(), seen + 1, "{what}");
        answered
    }

    /// How often the filter refused for this reason.
    pub(crate) async fn denials(&self, label: &str) -> u64 {
        let text = reqwest::get(format!("{}/stats/prometheus", self.gateway.admin))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let name = format!("caracal_gateway_denials_total{{reason=\"{label}\"");
        let line = text.lines().find(|line| line.starts_with(&name));
        line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Feeds these zones, and waits until the gateway answers this mandate like this.
    pub(crate) async fn fed(&self, what: &str, zones: Vec<Value>, mandate: &str, refusal: Refusal) {
        self.sts.feed(zones);
        let raw = self.bearer(mandate);
        eventually(what, async || {
            let answered = self.send(&raw).await;
            (answered.status == refusal.0 && answered.refusal().2 == refusal.2).then_some(())
        })
        .await;
    }
}

/// The resources of every zone here.
fn resources() -> Value {
    json!([
        { "identifier": ORDERS, "enforcement": "enforced", "scopes": ["orders:read"], "operations": [
            { "method": "GET", "path": "/v1/orders", "scope": "orders:read" },
            { "method": "GET", "path": "/v1/a/b", "scope": "orders:read" },
            { "method": "POST", "path": "/v1/orders", "scope": "orders:write" },
        ] },
        { "identifier": OPEN, "enforcement": "transport_uniform" },
    ])
}

/// So that a test need not wait for a minute. Answers how many times there were to shorten.
fn shorten_idle_time(value: &mut Value) -> usize {
    match value {
        Value::Object(members) => {
            let mut changed = 0;
            if members.get("stream_idle_timeout") == Some(&json!("60s")) {
                members.insert("stream_idle_timeout".to_owned(), json!("5s"));
                changed = 1;
            }
            changed + members.values_mut().map(shorten_idle_time).sum::<usize>()
        }
        Value::Array(items) => items.iter_mut().map(shorten_idle_time).sum(),
        _ => 0,
    }
}

//! A whole Caracal, with one agent whose mandates are used up one by one.

use std::net::SocketAddr;

use caracal_envoy::{BootstrapOptions, Endpoint, GatewayOptions, Shape, render};
use caracal_mandate::id::GatewayId;
use caracal_tests::{
    Agent, Answered, Leash, Raw, Shared, Sidecar, Stack, Upstream, World, filter_module, gateway_key,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Refusal, is};

pub(crate) struct Real {
    pub(crate) stack: Stack,
    pub(crate) upstream: Upstream,
    pub(crate) world: World,
    pub(crate) agent: Agent,
    /// Another gateway of the same Caracal.
    pub(crate) second: Sidecar,
    _leashes: [Leash; 2],
}

/// Another gateway of the same Caracal.
async fn second_gateway(stack: &Stack) -> Sidecar {
    let shape = Shape::Gateway(GatewayOptions::default());
    let mut options = BootstrapOptions::new(GatewayId::new("second").unwrap(), shape, filter_module());
    let endpoint = |service: &str| {
        let address: SocketAddr = stack.running[service].as_str().unwrap().parse().unwrap();
        Endpoint::new(address.ip().to_string(), address.port())
    };
    options.listener = Endpoint::loopback(0);
    (options.sts, options.audit) = (endpoint("sts"), endpoint("audit"));
    Sidecar::launch(&render(&options), &gateway_key(stack), 401, &[]).await
}

static REAL: Shared<Real> = Shared::new();

/// Runs a test on the Caracal that all tests here share.
pub(crate) fn real(test: impl AsyncFnOnce(&Real)) {
    REAL.run(Real::start(), test);
}

impl Real {
    async fn start() -> Self {
        let (stack, upstream) = (Stack::start().await, Upstream::start().await);
        let second = second_gateway(&stack).await;
        let leashes = [stack.leash(), second.leash()];
        let world = World::configure(&stack, &upstream).await;
        let agent = world.agent().await;
        Self { stack, upstream, world, agent, second, _leashes: leashes }
    }

    /// How often the STS was asked for or about a mandate, by whomever, as it counts itself.
    pub(crate) async fn asked(&self) -> u64 {
        let url = format!("{}/metrics", self.stack.url("sts"));
        let text = self.world.http.get(url).send().await.unwrap().text().await.unwrap();
        let counted = |line: &&str| {
            line.starts_with("caracal_http_requests_total{")
                && line.contains("service=\"sts\"")
                && ["route=\"/oauth/2/token\"", "route=\"/internal/gateway/check\""]
                    .iter()
                    .any(|route| line.contains(route))
        };
        let values =
            text.lines().filter(counted).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.map(|value| value as u64).sum()
    }

    pub(crate) async fn mint(&self) -> String {
        self.world.mint(&self.agent).await
    }

    /// A request as the SDK makes it, with this `Authorization`.
    pub(crate) fn request(&self, authorization: &str) -> Raw {
        Raw::new("GET", "/v1/orders")
            .with("authorization", authorization)
            .with("x-caracal-resource", self.world.resource)
    }

    pub(crate) fn bearer(&self, mandate: &str) -> Raw {
        self.request(&format!("Bearer {mandate}"))
    }

    pub(crate) async fn send(&self, raw: &Raw) -> Answered {
        raw.send(self.world.gateway.strip_prefix("http://").unwrap().parse().unwrap()).await
    }

    /// Each of these is refused like this by the filter alone: the STS is not asked, and no upstream is.
    pub(crate) async fn refuses(&self, cases: &[(&str, Raw, Refusal)]) {
        let (asked, seen) = (self.asked().await, self.upstream.seen().len());
        for (what, raw, refusal) in cases {
            is(what, &self.send(raw).await, *refusal);
        }
        assert_eq!(self.asked().await, asked, "the STS was asked");
        assert_eq!(self.upstream.seen().len(), seen, "something was forwarded");
    }

    /// It passes, once.
    pub(crate) async fn passes(&self, what: &str, raw: &Raw) -> Answered {
        let seen = self.upstream.seen().len();
        let answered = self.send(raw).await;
        assert_eq!(answered.status, 200, "{what}: {}", String::from_utf8_lossy(&answered.body));
        assert_eq!(self.upstream.seen().len(), seen + 1, "{what}");
        answered
    }

    /// Revokes what the operator selects, and waits until every gateway has applied it.
    pub(crate) async fn revoke(&self, by: &str, id: &str) {
        let body = json!({ "selector": { "by": by, "id": id }, "reason": "test" });
        let revocation = self.world.operate(Method::POST, &self.world.path("revocations"), body).await;
        let path = self.world.path(&format!("revocations/{}", revocation["id"].as_str().unwrap()));
        crate::eventually("the acknowledgement", async || {
            let revocation = self.world.operate(Method::GET, &path, Value::Null).await;
            (revocation["status"] == "CLOSED").then_some(())
        })
        .await;
    }
}

//! What operators are shown: who is connected, what each has, and what was left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caracal_mandate::id::GatewayId;
use serde::{Deserialize, Serialize};

use super::content::{Kind, Snapshot};

/// Where it is read, by HTTP on the same socket.
pub const STATUS_PATH: &str = "/status";
/// Gateways that are remembered.
const MAX_GATEWAYS: usize = 256;
/// Resources that are named.
const MAX_NAMED: usize = 100;
/// Bytes of a reason that are kept.
const MAX_MESSAGE: usize = 512;

/// The state of the server.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The version of what all gateways are told alike.
    pub version: String,
    /// Resources with a cluster.
    pub resources: usize,
    /// How many were left out.
    pub left_out: usize,
    /// The first of them.
    pub left_out_resources: Vec<LeftOutStatus>,
    /// Gateways that came.
    pub gateways: BTreeMap<String, GatewayStatus>,
}

impl Status {
    /// The gateways that follow now.
    pub fn connected(&self) -> impl Iterator<Item = (&String, &GatewayStatus)> {
        self.gateways.iter().filter(|(_, gateway)| gateway.streams > 0)
    }
}

/// A resource that was left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LeftOutStatus {
    /// Its zone.
    pub zone: String,
    /// Its identifier.
    pub resource: String,
    /// Why.
    pub reason: String,
}

/// The state of a gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct GatewayStatus {
    /// Its open streams.
    pub streams: usize,
    /// The last version that it answered to as a whole.
    pub version: Option<String>,
    /// How often it rejected something.
    pub rejections: u64,
    /// What it rejected last, and not taken back since by accepting something of that type.
    pub rejected: BTreeMap<String, Rejection>,
}

/// Something that a gateway did not take.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Rejection {
    /// In the gateway's words.
    pub message: String,
    /// When, unix milliseconds.
    pub at: i64,
}

/// The gateways, as their sessions tell of them.
#[derive(Debug, Default)]
pub(super) struct Gateways(Mutex<BTreeMap<GatewayId, GatewayStatus>>);

impl Gateways {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GatewayId, GatewayStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self, gateway: &GatewayId) {
        let mut gateways = self.lock();
        if gateways.len() >= MAX_GATEWAYS {
            gateways.retain(|_, status| status.streams > 0);
        }
        gateways.entry(gateway.clone()).or_default().streams += 1;
    }

    pub(super) fn gone(&self, gateway: &GatewayId) {
        if let Some(status) = self.lock().get_mut(gateway) {
            status.streams = status.streams.saturating_sub(1);
        }
    }

    pub(super) fn accepted(&self, gateway: &GatewayId, kind: Kind) {
        if let Some(status) = self.lock().get_mut(gateway) {
            status.rejected.remove(kind.as_str());
        }
    }

    pub(super) fn rejected(&self, gateway: &GatewayId, kind: Kind, message: &str, at: i64) {
        if let Some(status) = self.lock().get_mut(gateway) {
            let message = message.chars().take(MAX_MESSAGE).collect();
            status.rejections = status.rejections.saturating_add(1);
            status.rejected.insert(kind.as_str().to_owned(), Rejection { message, at });
        }
    }

    pub(super) fn settled(&self, gateway: &GatewayId, version: &str) {
        if let Some(status) = self.lock().get_mut(gateway)
            && status.version.as_deref() != Some(version)
        {
            status.version = Some(version.to_owned());
        }
    }

    /// The state of all.
    pub(super) fn status(&self, snapshot: &Snapshot) -> Status {
        let named = snapshot.left_out.iter().take(MAX_NAMED).map(|left| LeftOutStatus {
            zone: left.zone.to_string(),
            resource: left.resource.to_string(),
            reason: left.reason.as_str().to_owned(),
        });
        Status {
            version: snapshot.version.clone(),
            resources: snapshot.clusters.len(),
            left_out: snapshot.left_out.len(),
            left_out_resources: named.collect(),
            gateways: self.lock().iter().map(|(id, status)| (id.to_string(), status.clone())).collect(),
        }
    }
}

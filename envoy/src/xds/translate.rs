//! From the resources of the store to clusters and addresses. Pure: the same rows and addresses give the same snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use caracal_mandate::id::{ResourceIdentifier, ZoneId};
use caracal_mandate::upstream::{Scheme, UpstreamError, UpstreamUrl, embedded_v4, restricted};
use caracal_store::model::ResourceUpstream;
use serde_json::Value;

use super::content::{Kind, Piece, Pieces, Snapshot};
use crate::clusters::{self, Destination};
use crate::options::Endpoint;

/// Resources that are served at most; further ones are left out.
pub const MAX_RESOURCES: usize = 10_000;
/// Addresses of one name that are served at most.
const MAX_ADDRESSES: usize = 16;

/// Why a resource has no cluster.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum LeftOutReason {
    /// Its URL cannot be used.
    BadUrl,
    /// It leads to the services behind the gateway.
    Protected,
    /// It leads where no upstream may be.
    Restricted,
    /// There are too many.
    TooMany,
    /// It cannot be written as Envoy reads it.
    Unwritable,
    /// Its name has no address, or none yet.
    Unresolved,
}

impl LeftOutReason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::BadUrl, Self::Protected, Self::Restricted, Self::TooMany, Self::Unwritable, Self::Unresolved];

    /// The label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadUrl => "bad_url",
            Self::Protected => "protected",
            Self::Restricted => "restricted",
            Self::TooMany => "too_many",
            Self::Unwritable => "unwritable",
            Self::Unresolved => "unresolved",
        }
    }
}

/// A resource without a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeftOut {
    /// Its zone.
    pub zone: ZoneId,
    /// Its identifier.
    pub resource: ResourceIdentifier,
    /// Why.
    pub reason: LeftOutReason,
}

/// What holds for all clusters.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) trusted_ca: PathBuf,
    /// Where no upstream may be.
    pub(crate) protected: Vec<Endpoint>,
}

/// What names resolved to, before any judgement.
pub(crate) type Addresses = BTreeMap<String, Vec<IpAddr>>;

/// The host names that have to be resolved for these rows.
pub(crate) fn names(rows: &[ResourceUpstream]) -> impl Iterator<Item = String> {
    rows.iter().take(MAX_RESOURCES).filter_map(|row| {
        let url = UpstreamUrl::parse(&row.url).ok()?;
        if url.host().parse::<IpAddr>().is_ok() { None } else { Some(url.host().to_owned()) }
    })
}

/// Makes the snapshot. What `before` has under the same name is taken from there: the name of a cluster holds all that
/// its content is made of.
pub(crate) fn translate(
    rules: &Rules,
    rows: &[ResourceUpstream],
    addresses: &Addresses,
    before: &Snapshot,
) -> Snapshot {
    let Planned { clusters, endpoints, mut left_out } = plan(rules, rows, addresses);
    let mut pieces = Pieces::new();
    for (name, cluster) in clusters {
        let known = before.clusters.get(&name).cloned();
        let piece = known.map_or_else(|| Piece::new(Kind::Cluster, &cluster.render(&name, rules)), Ok);
        match piece {
            Ok(piece) => drop(pieces.insert(name, piece)),
            Err(error) => {
                tracing::error!(%error, name, "a cluster cannot be written as Envoy reads it");
                left_out.push(LeftOut { reason: LeftOutReason::Unwritable, ..cluster.of });
            }
        }
    }
    // A cluster whose addresses are missing sends nothing anywhere.
    let endpoints = endpoints.into_iter().filter_map(|(name, addresses)| {
        let piece = Piece::new(Kind::Endpoints, &clusters::endpoints(&name, &addresses));
        let piece = piece.inspect_err(|error| tracing::error!(%error, name, "addresses cannot be written"));
        Some((name, piece.ok()?))
    });
    Snapshot::new(pieces, endpoints.collect(), left_out)
}

/// What is to be served.
#[derive(Debug, Default)]
struct Planned {
    clusters: BTreeMap<String, PlannedCluster>,
    endpoints: BTreeMap<String, Vec<SocketAddr>>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug)]
struct PlannedCluster {
    /// Whose it is, should it be left out after all.
    of: LeftOut,
    destination: Destination,
    /// The host that has to be there, with TLS.
    secured: Option<String>,
}

fn plan(rules: &Rules, rows: &[ResourceUpstream], addresses: &Addresses) -> Planned {
    let mut planned = Planned::default();
    for (position, row) in rows.iter().enumerate() {
        let outcome = if position < MAX_RESOURCES {
            planned.add(rules, row, addresses)
        } else {
            Err(LeftOutReason::TooMany)
        };
        if let Err(reason) = outcome {
            planned.left_out.push(left_out(row, reason));
        }
    }
    planned
}

fn left_out(row: &ResourceUpstream, reason: LeftOutReason) -> LeftOut {
    LeftOut { zone: row.zone.clone(), resource: row.resource.clone(), reason }
}

impl Planned {
    fn add(
        &mut self,
        rules: &Rules,
        row: &ResourceUpstream,
        addresses: &Addresses,
    ) -> Result<(), LeftOutReason> {
        let url = UpstreamUrl::parse(&row.url).map_err(|error| match error {
            UpstreamError::Restricted => LeftOutReason::Restricted,
            _ => LeftOutReason::BadUrl,
        })?;
        let name = url.cluster_name(&row.zone, &row.resource);
        let destination = match url.host().parse() {
            Ok(ip) => Destination::Address(rules.judge(SocketAddr::new(ip, url.port()))?),
            Err(_) => {
                let found = addresses.get(url.host()).map(Vec::as_slice).unwrap_or_default();
                // Each cluster has addresses of its own: Envoy asks for a name once, and a second cluster that waited for
                // the same would never be told.
                self.endpoints.insert(name.clone(), rules.reachable(found, url.port())?);
                Destination::Endpoints
            }
        };
        let secured = (url.scheme() == Scheme::Https).then(|| url.host().to_owned());
        let of = left_out(row, LeftOutReason::Unwritable);
        let cluster = PlannedCluster { of, destination, secured };
        self.clusters.insert(name, cluster);
        Ok(())
    }
}

impl PlannedCluster {
    fn render(&self, name: &str, rules: &Rules) -> Value {
        let tls = self.secured.as_deref().map(|host| (rules.trusted_ca.as_path(), host));
        clusters::resource(name, &statistics(&self.of), &self.destination, tls)
    }
}

impl Rules {
    /// Refuses an address that no upstream may have (contract gateway §A14), however it is written.
    fn judge(&self, address: SocketAddr) -> Result<SocketAddr, LeftOutReason> {
        if restricted(address.ip()) {
            return Err(LeftOutReason::Restricted);
        }
        let ip = match address.ip() {
            IpAddr::V6(ip) => embedded_v4(ip).map_or(IpAddr::V6(ip), IpAddr::V4),
            ip @ IpAddr::V4(_) => ip,
        };
        let is_protected = |endpoint: &Endpoint| {
            let here = endpoint.host.parse().is_ok_and(|own: IpAddr| own == ip);
            endpoint.port == address.port() && (ip.is_loopback() || here)
        };
        if self.protected.iter().any(is_protected) {
            return Err(LeftOutReason::Protected);
        }
        Ok(address)
    }

    /// Of the addresses of a name those that may be connected to: IPv4 where there is any, as the dynamic forward proxy
    /// has it. Where none is left, why.
    fn reachable(&self, found: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, LeftOutReason> {
        let mut refusal = LeftOutReason::Unresolved;
        let mut kept = Vec::new();
        for ip in found {
            match self.judge(SocketAddr::new(*ip, port)) {
                Ok(address) => kept.push(address),
                Err(reason) => refusal = reason,
            }
        }
        if kept.iter().any(SocketAddr::is_ipv4) {
            kept.retain(SocketAddr::is_ipv4);
        }
        kept.sort_unstable();
        kept.dedup();
        kept.truncate(MAX_ADDRESSES);
        if kept.is_empty() { Err(refusal) } else { Ok(kept) }
    }
}

/// How the cluster is called in statistics: without dots, which separate there.
fn statistics(of: &LeftOut) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '/') {
            character
        } else {
            '_'
        }
    };
    format!("upstream/{}/{}", of.zone, of.resource).chars().map(plain).collect()
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;

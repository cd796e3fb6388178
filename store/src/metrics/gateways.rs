//! What is counted of the configuration of gateways.

use super::catalogue::{ADMIN, Builder};
use super::words::Words;
use prometheus::{Error, IntGaugeVec};

/// What the xDS server counts.
pub(super) struct Xds {
    pub(super) certificate_loads: Words,
    pub(super) pushes: Words,
    pub(super) rejections: Words,
    pub(super) refused: Words,
    pub(super) lookups: Words,
    pub(super) streams: IntGaugeVec,
    pub(super) resources: IntGaugeVec,
    pub(super) left_out: IntGaugeVec,
}

impl Xds {
    pub(super) fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            certificate_loads: b.words(
                ADMIN,
                "caracal_xds_certificate_loads_total",
                "Changed certificates for gateways on other machines, by outcome.",
                &["outcome"],
            )?,
            pushes: b.words(
                ADMIN,
                "caracal_xds_pushes_total",
                "Answers to gateways with configuration, by type.",
                &["type"],
            )?,
            rejections: b.words(
                ADMIN,
                "caracal_xds_rejections_total",
                "Answers that a gateway did not take, by type.",
                &["type"],
            )?,
            refused: b.words(
                ADMIN,
                "caracal_xds_refused_streams_total",
                "Streams that were refused, by reason.",
                &["reason"],
            )?,
            lookups: b.words(
                ADMIN,
                "caracal_xds_lookups_total",
                "Lookups of the names of upstreams, by outcome.",
                &["outcome"],
            )?,
            streams: b.gauges(
                ADMIN,
                "caracal_xds_streams",
                "Gateways that follow their configuration.",
                &[],
            )?,
            resources: b.gauges(ADMIN, "caracal_xds_resources", "Resources with a cluster.", &[])?,
            left_out: b.gauges(
                ADMIN,
                "caracal_xds_resources_left_out",
                "Resources without a cluster, by reason.",
                &["reason"],
            )?,
        })
    }
}

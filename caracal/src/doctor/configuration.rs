//! Whether gateways follow the configuration that they are told (xDS).

use super::report::{Check, Section};
use crate::gateway;
use caracal_envoy::xds::Status;
use std::path::Path;
use std::time::Duration;

const FOLLOWED: &str = "gateway_configuration";
const LEFT_OUT: &str = "resources left out";

/// Asks the xDS server, which may take so long to answer.
pub(super) async fn examine(socket: &Path, patience: Duration) -> Vec<Check> {
    let why = match gateway::status(socket, patience).await {
        Ok(status) => return judge(&status),
        Err(why) => why,
    };
    let advice = "gateways keep what they had; the log of `caracal up` tells why its xDS server ended";
    vec![Check::fail(Section::Readiness, FOLLOWED, why, advice)]
}

fn judge(status: &Status) -> Vec<Check> {
    let connected: Vec<_> = status.connected().collect();
    let rejected = connected.iter().find_map(|(id, gateway)| {
        gateway.rejected.iter().next().map(|(kind, rejection)| (id, kind, &rejection.message))
    });
    let followed = match rejected {
        _ if connected.is_empty() => Check::fail(
            Section::Readiness,
            FOLLOWED,
            "no gateway is connected",
            "see whether Envoy runs, and whether it may open the server's socket",
        ),
        Some((id, kind, message)) => Check::fail(
            Section::Readiness,
            FOLLOWED,
            format!("{id} rejected {kind}: {message}"),
            "mend what the gateway's words name, as a file of authorities that is gone; it keeps what it had",
        ),
        None => Check::ok(Section::Readiness, FOLLOWED, format!("{} gateways follow", connected.len())),
    };
    let mut checks = vec![followed];
    if status.left_out > 0 {
        let first = status.left_out_resources.first();
        let first = first.map_or_else(String::new, |left| {
            format!("; first {} in zone {}: {}", left.resource, left.zone, left.reason)
        });
        let advice = "no gateway can reach them: docs/xds.md tells what each reason means";
        let detail = format!("{}{first}", status.left_out);
        checks.push(Check::warn(Section::Readiness, LEFT_OUT, detail, advice));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::*;
    use caracal_envoy::xds::{GatewayStatus, LeftOutStatus, Rejection};

    fn following(streams: usize, rejected: Option<&str>) -> Status {
        let rejected =
            rejected.map(|message| ("cluster".to_owned(), Rejection { message: message.to_owned(), at: 1 }));
        let gateway =
            GatewayStatus { streams, rejected: rejected.into_iter().collect(), ..Default::default() };
        Status { gateways: [("gw".to_owned(), gateway)].into(), ..Status::default() }
    }

    #[test]
    fn what_keeps_gateways_from_following_is_told() {
        let mut left_out = following(1, None);
        left_out.left_out = 2;
        let named = LeftOutStatus { zone: "z".into(), resource: "r".into(), reason: "restricted".into() };
        left_out.left_out_resources.push(named);
        let cases = [
            (Status::default(), vec![(report::Status::Fail, "no gateway is connected")]),
            (following(0, None), vec![(report::Status::Fail, "no gateway is connected")]),
            (following(1, None), vec![(report::Status::Ok, "1 gateways follow")]),
            (following(1, Some("no file")), vec![(report::Status::Fail, "gw rejected cluster: no file")]),
            (
                left_out,
                vec![
                    (report::Status::Ok, "1 gateways follow"),
                    (report::Status::Warn, "2; first r in zone z: restricted"),
                ],
            ),
        ];
        for (status, expected) in cases {
            let checks = judge(&status);
            let found: Vec<_> = checks.iter().map(|check| (check.status, check.detail.as_str())).collect();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told() {
        let checks = examine(Path::new("nowhere.sock"), Duration::from_secs(5)).await;
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].status, report::Status::Fail);
        assert!(checks[0].advice.is_some());
    }
}

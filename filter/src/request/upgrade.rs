//! Requests for another protocol (`Upgrade`), such as WebSocket: let through where the operator says so.

use caracal_mandate::verdict::DenyReason;

use super::Request;
use crate::config::FilterConfig;
use crate::forward::Inbound;

/// The status by which an upstream agrees to the other protocol.
pub(super) const SWITCHING_PROTOCOLS: u16 = 101;

impl Request {
    /// Refuses what asks for a protocol that is not allowed, or in a way that Envoy does not.
    pub(super) fn check_upgrade(&self) -> Result<(), DenyReason> {
        let inbound = &self.inbound;
        let tunnel = inbound.method() == b"CONNECT" || inbound.first(":protocol").is_some();
        if inbound.first("upgrade").is_none() && !tunnel {
            return Ok(());
        }
        let allowed = upgrade(&self.worker.config, inbound).is_some();
        if allowed && !tunnel { Ok(()) } else { Err(DenyReason::UpgradeRefused) }
    }
}

/// The one protocol that a request asks for, where it is allowed, in lower case. Envoy leaves the headers of such a request as they are, so that
/// `Connection` may nominate nothing else: what it nominates would reach the upstream.
pub(crate) fn upgrade(config: &FilterConfig, inbound: &Inbound) -> Option<String> {
    if config.upgrades.is_empty() {
        return None;
    }
    let [protocol] = inbound.all("upgrade")[..] else { return None };
    let [connection] = inbound.all("connection")[..] else { return None };
    let mut names = connection.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let plain = names
        .all(|name| [&b"upgrade"[..], b"keep-alive"].iter().any(|known| name.eq_ignore_ascii_case(known)));
    let protocol = std::str::from_utf8(protocol).ok()?.trim();
    let protocol = protocol.to_ascii_lowercase();
    (plain && config.upgrades.contains(&protocol)).then_some(protocol)
}

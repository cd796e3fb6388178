//! Names to addresses, where every address is judged before anything connects to it.
//!
//! The connection is made to exactly the addresses that are answered here, so a name that changes between a check and
//! the connection gains nothing. An address that is written in the URL passes through the same judgement.

use super::address::Reach;
use super::options::EgressOptions;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Resolves through the system and refuses a name as a whole if one of its addresses may not be called.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    options: Arc<EgressOptions>,
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    #[error("the name has no address")]
    NoAddress,
    #[error("the address may not be called")]
    Refused,
}

impl Guard {
    pub(super) fn new(options: EgressOptions) -> Self {
        Self { options: Arc::new(options) }
    }

    /// Whether `host` may be called at `address`. `host` is in lower case.
    pub(super) fn allows(&self, host: &str, address: IpAddr) -> bool {
        match Reach::of(address) {
            Reach::Public => true,
            Reach::Private => self.options.private_hosts.contains(host),
            Reach::Loopback => self.options.loopback_hosts.contains(host),
            Reach::Never => false,
        }
    }

    fn judge(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Unresolved> {
        if addresses.is_empty() {
            return Err(Unresolved::NoAddress);
        }
        if addresses.iter().all(|address| self.allows(host, address.ip())) {
            Ok(addresses)
        } else {
            Err(Unresolved::Refused)
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found = tokio::net::lookup_host((host.as_str(), 0))
                .await
                .map_err(|_| Unresolved::NoAddress)?
                .collect();
            let addresses: Addrs = Box::new(guard.judge(&host, found)?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(EgressOptions {
            private_hosts: ["idp.corp".to_owned(), "10.0.0.7".to_owned()].into(),
            loopback_hosts: ["localhost".to_owned()].into(),
            ..EgressOptions::default()
        })
    }

    #[test]
    fn sts_22_3_one_bad_address_refuses_the_name() {
        let table: &[(&str, &[&str], Result<usize, Unresolved>)] = &[
            ("idp.example", &["1.1.1.1", "2606:4700::1"], Ok(2)),
            ("idp.example", &["1.1.1.1", "10.0.0.7"], Err(Unresolved::Refused)),
            ("idp.example", &["127.0.0.1"], Err(Unresolved::Refused)),
            ("idp.example", &[], Err(Unresolved::NoAddress)),
            ("idp.corp", &["10.0.0.7", "1.1.1.1"], Ok(2)),
            ("idp.corp", &["10.0.0.7", "127.0.0.1"], Err(Unresolved::Refused)),
            ("idp.corp", &["169.254.169.254"], Err(Unresolved::Refused)),
            ("idp.corp", &["64:ff9b::a00:7"], Err(Unresolved::Refused)),
            ("localhost", &["127.0.0.1", "::1"], Ok(2)),
            ("localhost", &["10.0.0.7"], Err(Unresolved::Refused)),
            ("localhost", &["::ffff:127.0.0.1"], Err(Unresolved::Refused)),
        ];
        for (host, addresses, expected) in table {
            let parsed = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
            assert_eq!(guard().judge(host, parsed).map(|kept| kept.len()), *expected, "{host} {addresses:?}");
        }
    }
}

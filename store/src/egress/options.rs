//! What an operator says about requests that leave the installation.

use crate::config::ConfigError;
use std::collections::BTreeSet;
use std::path::PathBuf;

const PRIVATE_HOSTS: &str = "CARACAL_PRIVATE_EGRESS_HOSTS";
const LOOPBACK_HOSTS: &str = "CARACAL_DEV_LOOPBACK_EGRESS_HOSTS";

/// What may be called beyond the public internet, and who is trusted there. The default allows nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressOptions {
    /// `CARACAL_PRIVATE_EGRESS_HOSTS`: names, separated by commas, that may lead to private networks.
    pub private_hosts: BTreeSet<String>,
    /// `CARACAL_DEV_LOOPBACK_EGRESS_HOSTS`: names, separated by commas, that may lead to this machine. For development
    /// and tests: a loopback address of a service is seldom an identity provider, and often something that trusts
    /// whoever reaches it. It is off by default, does not cover private networks, and each use is logged at start-up.
    pub loopback_hosts: BTreeSet<String>,
    /// `CARACAL_TLS_EXTRA_CA_FILE`: certificate authorities in PEM form, trusted beside those of the system. A file that
    /// is named but cannot be read, or holds anything but certificates, stops the service at its start.
    pub extra_ca_file: Option<PathBuf>,
}

impl EgressOptions {
    /// The options as an operator gives them. An entry that is no host stops the start: a typing error must not look
    /// like a host that is never called.
    pub fn new(
        private_hosts: &[String],
        loopback_hosts: &[String],
        extra_ca_file: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            private_hosts: hosts(PRIVATE_HOSTS, private_hosts)?,
            loopback_hosts: hosts(LOOPBACK_HOSTS, loopback_hosts)?,
            extra_ca_file,
        })
    }
}

/// Host names or address literals, in lower case.
fn hosts(setting: &str, list: &[String]) -> Result<BTreeSet<String>, ConfigError> {
    let entries = list.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
            if entry.len() > 253 || !entry.bytes().all(plain) {
                return Err(ConfigError::invalid(setting, format!("names {entry:?}, which is no host name")));
            }
            Ok(entry.to_ascii_lowercase())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sts_26_3_private_hosts_are_a_list_in_lower_case() {
        let private = |list: &str| {
            let list: Vec<String> = list.split(',').map(str::to_owned).collect();
            EgressOptions::new(&list, &[], None).map(|options| Vec::from_iter(options.private_hosts))
        };
        assert_eq!(
            private(" IdP.Corp.example , 10.0.0.7,,::1 ").unwrap(),
            ["10.0.0.7", "::1", "idp.corp.example"]
        );
        assert!(private("").unwrap().is_empty());
        for wrong in ["https://idp", "idp/path", "*.corp", "a b"] {
            let error = private(wrong).unwrap_err().to_string();
            assert!(error.starts_with("CARACAL_PRIVATE_EGRESS_HOSTS names"), "{error}");
        }
    }
}

//! Why nothing came back, and why there is no way out at all.

use std::path::PathBuf;

/// Why a request that leaves the installation brought no answer. Never holds content, headers or a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The name leads to an address that may not be called.
    #[error("{host} leads to an address that may not be called")]
    AddressRefused {
        /// The host of the URL.
        host: String,
    },
    /// No connection, or no TLS with a certificate that is trusted.
    #[error("no connection to {host}: {cause}")]
    Connect {
        /// The host of the URL.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The host is not in the list of hosts that the call allows.
    #[error("{host} is not an allowed host")]
    HostNotAllowed {
        /// The host of the URL.
        host: String,
    },
    /// The name has no address.
    #[error("{host} cannot be resolved")]
    NotResolved {
        /// The host of the URL.
        host: String,
    },
    /// The answer is a redirect. None is followed.
    #[error("{host} answered with a redirect")]
    Redirect {
        /// The host of the URL.
        host: String,
    },
    /// The answer broke off or is no HTTP.
    #[error("the answer of {host} is broken: {cause}")]
    ResponseBroken {
        /// The host of the URL.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The answer is longer than the call allows.
    #[error("the answer of {host} is longer than {limit} bytes")]
    ResponseTooLarge {
        /// The host of the URL.
        host: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// No answer in time.
    #[error("{host} did not answer in time")]
    Timeout {
        /// The host of the URL.
        host: String,
    },
    /// Not an `https` URL with a host and without user information.
    #[error("the URL is not usable: {why}")]
    Url {
        /// What is wrong with it.
        why: &'static str,
    },
}

impl EgressError {
    /// The reason code, for audit events, metrics and the error reference.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AddressRefused { .. } => "egress_address_refused",
            Self::Connect { .. } => "egress_connect_failed",
            Self::HostNotAllowed { .. } => "egress_host_not_allowed",
            Self::NotResolved { .. } => "egress_name_not_resolved",
            Self::Redirect { .. } => "egress_redirect_refused",
            Self::ResponseBroken { .. } => "egress_response_broken",
            Self::ResponseTooLarge { .. } => "egress_response_too_large",
            Self::Timeout { .. } => "egress_timeout",
            Self::Url { .. } => "egress_url_invalid",
        }
    }

    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::NotResolved { .. }
                | Self::ResponseBroken { .. }
                | Self::Timeout { .. }
        )
    }
}

/// Why no request could ever leave: a fault of the configuration, told at start-up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressSetupError {
    /// The file holds no certificate in PEM form.
    #[error("CARACAL_TLS_EXTRA_CA_FILE: {} holds no usable certificate: {why}", path.display())]
    ExtraCaInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be read.
    #[error("CARACAL_TLS_EXTRA_CA_FILE: cannot read {}: {source}", path.display())]
    ExtraCaUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

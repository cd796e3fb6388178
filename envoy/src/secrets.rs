//! Files of certificates that Envoy follows: what a bootstrap names is read once, and what a secret names again whenever a
//! file is moved into its folder (SDS from files).

use std::path::Path;

use serde_json::{Value, json};

use crate::options::ControlNetwork;

const AUTHORITY: &str = "xds_authority";
const CERTIFICATE: &str = "xds_certificate";

/// What stands in the files of [`ControlSecrets`](crate::ControlSecrets), as Envoy reads them: paths alone.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedSecrets {
    /// Names the certificates that the control plane is verified against.
    pub authority: Value,
    /// Names the certificate that this Envoy shows, and its key.
    pub certificate: Value,
}

/// Renders the files that a gateway's bootstrap refers to.
#[must_use]
pub fn render_secrets(network: &ControlNetwork) -> RenderedSecrets {
    let file = |path: &Path| json!({"filename": path.to_string_lossy()});
    RenderedSecrets {
        authority: secret(AUTHORITY, "validation_context", &json!({"trusted_ca": file(&network.trusted_ca)})),
        certificate: secret(
            CERTIFICATE,
            "tls_certificate",
            &json!({"certificate_chain": file(&network.certificate), "private_key": file(&network.key)}),
        ),
    }
}

fn secret(name: &str, kind: &str, content: &Value) -> Value {
    json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        kind: content,
    }]})
}

/// The reference to the certificates that the control plane is verified against.
pub(crate) fn authority_source(network: &ControlNetwork) -> Value {
    source(AUTHORITY, &network.secrets.authority)
}

/// The reference to the certificate that is shown.
pub(crate) fn certificate_source(network: &ControlNetwork) -> Value {
    source(CERTIFICATE, &network.secrets.certificate)
}

fn source(name: &str, file: &Path) -> Value {
    json!({"name": name, "sds_config": {
        "path_config_source": {"path": file.to_string_lossy()},
        "resource_api_version": "V3",
    }})
}

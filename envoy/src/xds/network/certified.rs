//! Which gateways a certificate names.

use std::collections::BTreeSet;
use std::sync::Arc;

use caracal_mandate::id::GatewayId;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The ids of gateways that a verified certificate is good for: its DNS names, and the last segments of its URIs' paths.
/// Without a certificate, none.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Certified(Arc<BTreeSet<GatewayId>>);

impl Certified {
    /// Reads the subject's alternative names. The common name is none of them.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Self::default() };
        let of_uris = certificate.valid_uri_names().filter_map(last_segment);
        // A wildcard is no gateway's id.
        let names = certificate.valid_dns_names().chain(of_uris);
        Self(Arc::new(names.filter_map(|name| GatewayId::new(name).ok()).collect()))
    }

    /// How many are named.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether this gateway is named.
    pub(crate) fn names(&self, gateway: &GatewayId) -> bool {
        self.0.contains(gateway)
    }
}

/// `edge` of `spiffe://example.org/gateway/edge`. A URI without a path names nobody, and neither does one with a query or
/// a fragment.
fn last_segment(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://").filter(|_| !uri.contains(['?', '#']))?;
    let (_, path) = rest.split_once('/')?;
    path.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certified(names: &[SanType]) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "common");
        params.subject_alt_names = names.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certified::of(certificate.der())
    }

    #[test]
    fn a_certificate_names_gateways_by_dns_name_and_by_the_end_of_a_path() {
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let uri = |name: &str| SanType::URI(name.try_into().unwrap());
        let address = SanType::IpAddress([10, 0, 0, 1].into());
        for (names, named) in [
            (vec![], vec![]),
            (vec![dns("edge")], vec!["edge"]),
            (vec![dns("edge.example.org")], vec!["edge.example.org"]),
            (vec![dns("*.example.org")], vec![]),
            (vec![address], vec![]),
            (vec![uri("spiffe://example.org/ns/prod/gateway/edge")], vec!["edge"]),
            (vec![uri("spiffe://example.org/edge")], vec!["edge"]),
            (vec![uri("spiffe://edge")], vec![]),
            (vec![uri("spiffe://example.org/edge/")], vec![]),
            (vec![uri("spiffe://example.org/other?/edge")], vec![]),
            (vec![uri("spiffe://example.org/other#/edge")], vec![]),
            (vec![uri("spiffe://example.org/a%2Fedge")], vec![]),
            (vec![uri("urn:edge")], vec![]),
            (vec![dns("a"), uri("https://example.org/b"), dns("c")], vec!["a", "b", "c"]),
        ] {
            let certified = certified(&names);
            let read: Vec<_> = certified.0.iter().map(|id| id.as_str()).collect();
            assert_eq!(read, named, "{names:?}");
            for id in ["common", "example.org", "other", "10.0.0.1", "*", "Edge"] {
                assert!(!certified.names(&GatewayId::new(id.replace('*', "x")).unwrap()), "{names:?}: {id}");
            }
        }
        let nobody = Certified::default();
        assert!(!nobody.names(&GatewayId::new("edge").unwrap()));
        assert!(Certified::of(&CertificateDer::from(b"nonsense".as_slice())).0.is_empty());
    }
}

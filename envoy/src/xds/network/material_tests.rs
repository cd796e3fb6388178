use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

struct Files {
    folder: TempDir,
    files: NetworkFiles,
}

fn issued() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl Files {
    fn good() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files =
            NetworkFiles { certificate: at("cert"), key: at("key"), client_ca: at("ca"), client_crl: None };
        let this = Self { folder, files };
        let (certificate, key) = issued();
        for (name, text) in [("cert", &certificate), ("key", &key), ("ca", &issued().0)] {
            this.write(name, text);
        }
        this
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_its_fault() {
    let (certificate, key) = issued();
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    let unusable = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let unusable_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (name, text, file, why) in [
        ("cert", Some(""), NetworkFile::Certificate, "holds no certificate"),
        ("cert", Some(key.as_str()), NetworkFile::Certificate, "holds no certificate"),
        ("cert", Some(broken), NetworkFile::Certificate, "is not in PEM form"),
        ("cert", Some(unusable), NetworkFile::Certificate, "holds a certificate that cannot be used"),
        ("cert", None, NetworkFile::Certificate, "No such file"),
        ("cert", Some(certificate.as_str()), NetworkFile::Key, "the key does not fit the certificate"),
        ("key", Some(""), NetworkFile::Key, "holds no private key"),
        ("key", Some(certificate.as_str()), NetworkFile::Key, "holds no private key"),
        ("key", Some(key.as_str()), NetworkFile::Key, "the key does not fit the certificate"),
        ("key", Some(unusable_key), NetworkFile::Key, "holds a private key that cannot be used"),
        ("key", None, NetworkFile::Key, "No such file"),
        ("ca", Some(""), NetworkFile::ClientCa, "holds no certificate"),
        ("ca", Some(key.as_str()), NetworkFile::ClientCa, "holds no certificate"),
        ("ca", Some(broken), NetworkFile::ClientCa, "is not in PEM form"),
        ("ca", Some(unusable), NetworkFile::ClientCa, "holds a certificate that cannot be used"),
        ("ca", None, NetworkFile::ClientCa, "No such file"),
    ] {
        let files = Files::good();
        match text {
            Some(text) => files.write(name, text),
            None => std::fs::remove_file(files.folder.path().join(name)).unwrap(),
        }
        let error = Materials::begin(files.files).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.file, file, "{name}: {text}");
        assert!(text.contains(error.path.to_str().unwrap()) && text.contains(why), "{name}: {text}");
    }
}

/// A list of an authority, with nothing on it.
fn list() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority).unwrap().pem().unwrap()
}

#[tokio::test]
async fn lists_of_revoked_certificates_are_judged_as_the_other_files_are() {
    let mut files = Files::good();
    files.files.client_crl = Some(files.folder.path().join("crl"));
    let broken = "-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n";
    let unusable = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for (text, why) in [
        (None, "No such file"),
        (Some(""), "holds no list of revoked certificates"),
        (Some(issued().0.as_str()), "holds no list of revoked certificates"),
        (Some(broken), "is not in PEM form"),
        (Some(unusable), "holds a list of revoked certificates that cannot be used"),
    ] {
        if let Some(text) = text {
            files.write("crl", text);
        }
        let error = Materials::begin(files.files.clone()).await.unwrap_err();
        assert_eq!(error.file, NetworkFile::ClientCrl, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    files.write("crl", &list());
    let (mut materials, mut told) = Materials::begin(files.files.clone()).await.unwrap();
    let first = told.borrow_and_update().authorities;
    files.write("crl", broken);
    materials.look().await;
    std::fs::remove_file(files.folder.path().join("crl")).unwrap();
    materials.look().await;
    assert!(!told.has_changed().unwrap(), "the last good ones stay");
    // Several in one file.
    files.write("crl", &format!("{}{}", list(), list()));
    materials.look().await;
    assert_ne!(told.borrow_and_update().authorities, first, "connections are judged anew");
}

#[tokio::test]
async fn changed_files_are_taken_and_broken_ones_leave_what_was_there() {
    let files = Files::good();
    let (mut materials, mut told) = Materials::begin(files.files.clone()).await.unwrap();
    let first = told.borrow_and_update().authorities;
    materials.look().await;
    assert!(!told.has_changed().unwrap(), "nothing changed");
    let (certificate, key) = issued();
    // The certificate comes before its key.
    files.write("cert", &certificate);
    materials.look().await;
    assert!(!told.has_changed().unwrap(), "a certificate without its key");
    files.write("key", &key);
    materials.look().await;
    assert!(told.has_changed().unwrap());
    assert_eq!(told.borrow_and_update().authorities, first);
    files.write("ca", "nothing");
    materials.look().await;
    std::fs::remove_file(files.folder.path().join("ca")).unwrap();
    materials.look().await;
    assert!(!told.has_changed().unwrap(), "no authorities");
    files.write("ca", &issued().0);
    materials.look().await;
    assert!(told.has_changed().unwrap());
    assert_ne!(told.borrow_and_update().authorities, first);
}

//! Every certificate that is issued, looked at by the openssl command: it verifies, it is for its host, and it has what
//! RFC 5280 demands.

use std::fs;
use std::path::PathBuf;

use openssl::x509::X509;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use suite_tests::openssl::openssl;

use super::{Certs, Plant, chain, pem_of};
use crate::local::with_authority;
use crate::support::authority::{ec_key, pem, request};

const LOCAL: &str = "
[cert_issuance]
site-ca = { method = 'self_signed', expiry_days = 365 }
sub-ca = { method = 'local_ca', expiry_days = 100 }
leaf = { method = 'local_ca' }
local_ca = { cert = 'site-ca', pk = 'site-ca' }
";

fn file(plant: &Plant, name: &str, certificates: &[X509]) -> PathBuf {
    let path = plant.certd.setup().directory().join(name);
    fs::write(&path, pem(certificates)).unwrap();
    path
}

/// What must be so in each certificate that is issued.
fn lint(certificate: &X509, issuer: &X509) {
    assert_eq!(certificate.version(), 2);
    let serial = certificate.serial_number().to_bn().unwrap();
    assert!(!serial.is_negative() && (64..160).contains(&serial.num_bits()), "{serial}");
    assert!(certificate.not_before() >= issuer.not_before() && certificate.not_after() <= issuer.not_after());
    assert!(certificate.subject_key_id().is_some());
    let is_root = certificate == issuer;
    let akid = certificate.authority_key_id().map(|id| id.as_slice().to_vec());
    assert_eq!(akid, (!is_root).then(|| issuer.subject_key_id().unwrap().as_slice().to_vec()));
    assert!(certificate.verify(&issuer.public_key().unwrap()).unwrap());
    assert!(certificate.key_usage().is_some(), "what was asked for is there");
}

#[test]
fn certs_45_openssl_finds_nothing_wrong() {
    for algorithm in ["ec-p256:*", "rsa-2048:*"] {
        let (plant, root) = with_authority(LOCAL, algorithm);
        let handle = suite_tests::keys::Keys::create_pair(&plant.keyd.client(), "sub-ca", algorithm);
        let sub = chain(plant.client().issue("sub-ca", &crate::local::authority_request(&plant, "sub-ca")));
        let key = ec_key();
        let context = X509::builder().unwrap();
        let extensions = vec![
            BasicConstraints::new().critical().build().unwrap(),
            KeyUsage::new().critical().digital_signature().key_agreement().build().unwrap(),
            ExtendedKeyUsage::new().server_auth().build().unwrap(),
            SubjectAlternativeName::new()
                .dns("gateway.plant.example")
                .ip("10.1.2.3")
                .build(&context.x509v3_context(None, None))
                .unwrap(),
        ];
        let csr = pem_of(&request("gateway", &key, extensions));
        let leaf = chain(plant.client().issue_by("leaf", &csr, "sub-ca", &handle));
        assert_eq!(leaf.len(), 3, "leaf, sub, root");
        lint(&leaf[0], &leaf[1]);
        lint(&leaf[1], &leaf[2]);
        lint(&leaf[2], &leaf[2]);
        assert!(leaf[2] == root && leaf[1] == sub[0]);
        let (root, middle) = (file(&plant, "root.pem", &leaf[2..]), file(&plant, "middle.pem", &leaf[1..2]));
        let leaf = file(&plant, "leaf.pem", &leaf[..1]);
        let [root, middle, leaf] = [&root, &middle, &leaf].map(|path| path.to_str().unwrap());
        let verify = |more: &[&str]| {
            let args = ["verify", "-x509_strict", "-CAfile", root, "-untrusted", middle];
            openssl(&[args.as_slice(), more, &[leaf]].concat(), b"")
        };
        verify(&["-purpose", "sslserver"]);
        verify(&["-verify_hostname", "gateway.plant.example"]);
        verify(&["-verify_ip", "10.1.2.3"]);
        let check = |host: &str| {
            String::from_utf8(openssl(&["x509", "-in", leaf, "-noout", "-checkhost", host], b"")).unwrap()
        };
        assert!(check("gateway.plant.example").contains("does match"));
        assert!(check("other.example").contains("does NOT match"));
    }
}

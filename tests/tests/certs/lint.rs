//! Every certificate that is issued, looked at by the openssl command: it verifies, it is for its host, and it has what
//! RFC 5280 demands.

use openssl::x509::X509;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use suite_tests::lint::{is_for_host, lint_chain};

use super::{Certs, chain, pem_of};
use crate::local::with_authority;
use crate::support::authority::{ec_key, request};

const LOCAL: &str = "
[cert_issuance]
site-ca = { method = 'self_signed', expiry_days = 365 }
sub-ca = { method = 'local_ca', expiry_days = 100 }
leaf = { method = 'local_ca' }
local_ca = { cert = 'site-ca', pk = 'site-ca' }
";

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
        assert!(leaf[2] == root && leaf[1] == sub[0]);
        assert!(
            leaf.iter().all(|certificate| certificate.key_usage().is_some()),
            "what was asked for is there"
        );
        lint_chain(&leaf, &["-purpose", "sslserver"]);
        lint_chain(&leaf, &["-verify_hostname", "gateway.plant.example"]);
        lint_chain(&leaf, &["-verify_ip", "10.1.2.3"]);
        assert!(is_for_host(&leaf[0], "gateway.plant.example") && !is_for_host(&leaf[0], "other.example"));
    }
}

//! What must be so in each certificate that is issued on a device: what RFC 5280 demands, and what the openssl command makes of
//! it. Does not know who has issued it.

use openssl::x509::{X509, X509Ref};

use crate::openssl::{openssl, try_openssl};

/// Look at `certificate`, which `issuer` has issued; a root is its own.
///
/// # Panics
///
/// If anything is wrong with it.
#[track_caller]
pub fn lint(certificate: &X509Ref, issuer: &X509Ref) {
    assert_eq!(certificate.version(), 2, "version 3");
    let serial = certificate.serial_number().to_bn().expect("a serial number is a number");
    assert!(!serial.is_negative() && (64..160).contains(&serial.num_bits()), "{serial}");
    assert!(certificate.not_before() >= issuer.not_before() && certificate.not_after() <= issuer.not_after());
    assert!(certificate.not_before() < certificate.not_after());
    assert!(certificate.subject_key_id().is_some());
    let id = |id: &openssl::asn1::Asn1OctetStringRef| id.as_slice().to_vec();
    let is_root = certificate.serial_number() == issuer.serial_number();
    let wanted = issuer.subject_key_id().map(id).filter(|_| !is_root);
    assert_eq!(certificate.authority_key_id().map(id), wanted);
    assert_eq!(
        certificate.issuer_name().try_cmp(issuer.subject_name()).ok(),
        Some(std::cmp::Ordering::Equal)
    );
    let key = issuer.public_key().expect("an issuer has a key");
    assert!(certificate.verify(&key).expect("signatures can be looked at"));
}

/// Look at each of `chain`, the leaf first and the root last, and have `openssl verify -x509_strict` look at the leaf, with
/// `options` such as `-purpose sslserver`.
///
/// # Panics
///
/// If anything is wrong with it.
#[track_caller]
pub fn lint_chain(chain: &[X509], options: &[&str]) {
    let issuers = chain[1..].iter().chain(chain.last());
    for (certificate, issuer) in chain.iter().zip(issuers) {
        lint(certificate, issuer);
    }
    let directory = tempfile::tempdir().expect("there is room in the temp directory");
    let file = |name: &str, certificates: &[X509]| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem(certificates)).expect("the directory is ours");
        path.to_str().expect("our paths are UTF-8").to_owned()
    };
    let (root, leaf) = (file("root", &chain[chain.len() - 1..]), file("leaf", &chain[..1]));
    let mut args = vec!["verify", "-x509_strict", "-CAfile", &root];
    let middle = (chain.len() > 2).then(|| file("middle", &chain[1..chain.len() - 1]));
    args.extend(middle.iter().flat_map(|middle| ["-untrusted", middle]));
    args.extend(options);
    args.push(&leaf);
    openssl(&args, b"");
}

/// Whether openssl finds that `certificate` is for the host `name`.
#[track_caller]
pub fn is_for_host(certificate: &X509, name: &str) -> bool {
    let args = ["x509", "-noout", "-checkhost", name];
    // Some versions also end with a failure if it is not.
    let said = try_openssl(&args, pem(std::slice::from_ref(certificate)).as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&said).contains("does match certificate")
}

fn pem(certificates: &[X509]) -> String {
    let pem = |certificate: &X509| certificate.to_pem().expect("a certificate can be written");
    String::from_utf8_lossy(&certificates.iter().flat_map(pem).collect::<Vec<_>>()).into_owned()
}

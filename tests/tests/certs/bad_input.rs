//! What is refused, with a reason, without harm: checklist 26, 27.

use openssl::asn1::{Asn1Object, Asn1OctetString};
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::X509Extension;
use suite_tests::keys::Keys as _;

use super::{Certs, Plant, chain, csr, pem_of, says};
use crate::local::with_authority;
use crate::support::authority::{Issued, ec_key, request};

const LOCAL: &str = "
[cert_issuance]
site-ca = { method = 'self_signed' }
leaf = { method = 'local_ca' }
local_ca = { cert = 'site-ca', pk = 'site-ca' }
";

#[test]
fn certs_26_27_requests_that_are_none() {
    let (plant, _) = with_authority(LOCAL, "ec-p256:*");
    let client = plant.client();
    let before = chain(client.issue("leaf", &csr("good")));
    let weak = pem_of(&request("weak", &PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap(), vec![]));
    let torn = csr("x").replacen("MI", "!!", 1);
    let mut der = request("forged", &ec_key(), vec![]).to_der().unwrap();
    let at = der.windows(6).position(|window| window == b"forged").unwrap();
    der[at] = b'F';
    let forged = pem_of(&openssl::x509::X509Req::from_der(&der).unwrap());
    let huge = format!("{}{}", csr("x"), "#".repeat(100_000));
    for (bad, why) in [
        ("", "not a certificate signing request"),
        ("garbage \u{0}\u{fffd}", "not a certificate signing request"),
        (torn.as_str(), "not a certificate signing request"),
        (super::any_pem().as_str(), "not a certificate signing request"),
        (forged.as_str(), "signature is not by the key"),
        (weak.as_str(), "too weak"),
        (huge.as_str(), "larger than"),
    ] {
        let message = client.issue("leaf", bad).expect(400).string("message");
        assert!(
            message.starts_with("invalid parameter \"csr\"\ncaused by: ") && message.contains(why),
            "{message}"
        );
    }
    assert!(chain(client.fetch("leaf")) == before, "nothing is lost");
    client.issue("leaf", &csr("x").replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")).expect(201);
    let limit = client.issue("leaf", &"x".repeat(2 << 20));
    assert_eq!(limit.status, 413);
}

#[test]
fn certs_26_extensions_that_nobody_could_verify() {
    let (plant, _) = with_authority(LOCAL, "ec-p256:*");
    let client = plant.client();
    let with = |oid: &str, critical: bool, value: &[u8]| {
        let value = Asn1OctetString::new_from_bytes(value).unwrap();
        let oid = Asn1Object::from_str(oid).unwrap();
        let extension = X509Extension::new_from_der(&oid, critical, &value).unwrap();
        pem_of(&request("a", &ec_key(), vec![extension]))
    };
    for (oid, critical, value) in [
        ("1.2.3.4.5", true, &b"\x05\x00"[..]),
        ("2.5.29.17", false, b"\x05\x00"),
        ("2.5.29.19", true, b"\x01\x01\xff"),
        ("2.5.29.31", true, b"\x30\x00"),
    ] {
        let message = client.issue("leaf", &with(oid, critical, value)).expect(400).string("message");
        assert!(message.starts_with("invalid parameter \"csr\"\ncaused by: "), "{oid}: {message}");
        client.fetch("leaf").expect(400);
    }
    let issued = chain(client.issue("leaf", &with("1.2.3.4.5", false, b"\x05\x00")));
    suite_tests::lint::lint_chain(&issued, &[]);
}

#[test]
fn issuers_that_cannot_issue() {
    let plant = Plant::new(LOCAL);
    let handle = plant.keyd.client().create_pair("site-ca", "ec-p256:*");
    let expired = Issued::with_validity("old", None, true, -7200, -3600);
    plant.client().import("site-ca", &expired.cert_pem()).expect(201);
    plant.client().issue("leaf", &csr("a")).expect(500);
    says(&plant.certd, "has expired");
    plant.client().issue_by("leaf", &csr("a"), "site-ca", &handle).expect(500);
    plant
        .client()
        .import("site-ca", &Issued::with_validity("new", None, true, 3600, 7200).cert_pem())
        .expect(201);
    plant.client().issue("leaf", &csr("a")).expect(500);
    says(&plant.certd, "is not valid before");
    plant.client().fetch("leaf").expect(400);
}

#[test]
fn a_keyd_that_is_not_there_harms_only_who_needs_it() {
    let (mut plant, _) = with_authority(LOCAL, "ec-p256:*");
    plant.keyd.kill();
    plant.client().issue("leaf", &csr("a")).expect(500);
    says(&plant.certd, "cannot reach keyd");
    plant.client().fetch("site-ca").expect(200);
    plant.client().import("x", &super::any_pem()).expect(201);
    plant.keyd.restart();
    plant.client().issue("leaf", &csr("a")).expect(201);
}

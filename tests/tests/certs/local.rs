//! Issuance by keys of this device: checklist 26-45.

use std::fs;

use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::X509;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use serde_json::{Value, json};
use suite_tests::http::with_body;
use suite_tests::keys::{Keys as _, key_file};

use super::{Certs, Plant, any_pem, chain, csr, pem_of, says};
use crate::support::authority::{common_name, ec_key, request};

const LOCAL: &str = "
[cert_issuance]
site-ca = { method = 'self_signed', expiry_days = 365 }
leaf = { method = 'local_ca' }
quarter = { method = 'local_ca', expiry_days = 90 }
long = { method = 'local_ca', expiry_days = 4294967295 }
named = { method = 'local_ca', common_name = 'mine', subject = { O = 'never' } }
full = { method = 'local_ca', subject = { ST = 'Ohio', L = 'Lima', CN = 'full', O = 'Acme' } }
bad = { method = 'local_ca', subject = { C = 'DEU' } }
est = { trusted_certs = [] }
[cert_issuance.local_ca]
cert = 'site-ca'
pk = 'site-ca'
";

/// certd with the local authority `site-ca`, whose key keyd has made.
pub(crate) fn with_authority(config: &str, algorithm: &str) -> (Plant, X509) {
    let plant = Plant::new(config);
    plant.keyd.client().create_pair("site-ca", algorithm);
    let ca = authority_request(&plant, "site-ca");
    let ca = chain(plant.client().issue("site-ca", &ca)).remove(0);
    (plant, ca)
}

/// A request of an authority whose key pair `id` is in keyd; it is signed with what is in keyd's file.
pub(crate) fn authority_request(plant: &Plant, id: &str) -> String {
    let key = PKey::private_key_from_pem(&fs::read(key_file(&plant.keyd.home(), id)).unwrap()).unwrap();
    let extensions = vec![
        BasicConstraints::new().critical().ca().build().unwrap(),
        KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap(),
    ];
    pem_of(&request("Site CA", &key, extensions))
}

fn lifetime(certificate: &X509) -> i64 {
    let diff = certificate.not_before().diff(certificate.not_after()).unwrap();
    i64::from(diff.days) * 86_400 + i64::from(diff.secs)
}

#[test]
fn certs_31_32_33_37_45_by_the_local_authority() {
    for (algorithm, signature) in
        [("ec-p256:*", Nid::ECDSA_WITH_SHA256), ("rsa-2048:*", Nid::SHA256WITHRSAENCRYPTION)]
    {
        let (plant, ca) = with_authority(LOCAL, algorithm);
        assert_eq!((ca.version(), lifetime(&ca)), (2, 365 * 86_400));
        assert!(ca.verify(&ca.public_key().unwrap()).unwrap(), "it is self-signed");
        let issued = chain(plant.client().issue("leaf", &csr("leaf 1")));
        assert_eq!(issued.len(), 2);
        assert!(issued[1] == ca, "the issuer's text follows");
        assert!(issued[0].verify(&ca.public_key().unwrap()).unwrap());
        assert_eq!(issued[0].signature_algorithm().object().nid(), signature);
        assert_eq!((issued[0].version(), lifetime(&issued[0])), (2, 30 * 86_400));
        assert_eq!(issued[0].issuer_name().to_der().unwrap(), ca.subject_name().to_der().unwrap());
        assert_eq!(common_name(issued[0].subject_name()), "leaf 1");
        assert!(chain(plant.client().fetch("leaf")) == issued, "it is kept");
        assert_eq!(lifetime(&chain(plant.client().issue("quarter", &csr("a")))[0]), 90 * 86_400);
        let long = chain(plant.client().issue("long", &csr("a"))).remove(0);
        assert_eq!(long.not_after(), ca.not_after(), "no longer than the issuer");
    }
}

#[test]
fn certs_34_35_36_extensions() {
    let (plant, ca) = with_authority(LOCAL, "ec-p256:*");
    let extensions = vec![
        ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap(),
        BasicConstraints::new().critical().ca().pathlen(0).build().unwrap(),
    ];
    let issued = chain(plant.client().issue("leaf", &pem_of(&request("a", &ec_key(), extensions)))).remove(0);
    assert_eq!(issued.pathlen(), Some(0));
    let usage = issued.extended_key_usage().unwrap();
    assert_eq!(
        usage,
        openssl::x509::X509ExtendedKeyUsage::SSL_SERVER | openssl::x509::X509ExtendedKeyUsage::SSL_CLIENT
    );
    assert!(issued.subject_key_id().is_some());
    assert_eq!(issued.authority_key_id().unwrap().as_slice(), ca.subject_key_id().unwrap().as_slice());
    assert!(ca.authority_key_id().is_none());
}

#[test]
fn certs_41_42_43_44_configured_subjects() {
    let (plant, _) = with_authority(LOCAL, "ec-p256:*");
    let subject = |id: &str| {
        let issued = chain(plant.client().issue(id, &csr("other"))).remove(0);
        let entries = issued.subject_name().entries().map(|entry| {
            format!("{}={}", entry.object().nid().short_name().unwrap(), entry.data().to_string().unwrap())
        });
        entries.collect::<Vec<_>>().join(",")
    };
    assert_eq!(subject("named"), "CN=mine");
    assert_eq!(subject("full"), "CN=full,L=Lima,O=Acme,ST=Ohio");
    plant.client().issue("bad", &csr("other")).expect(500);
    plant.client().fetch("bad").expect(400);
    says(&plant.certd, "common_name counts");
    says(&plant.certd, "the subject cannot be used");
}

#[test]
fn certs_43_long_common_names_are_cut() {
    let config =
        format!("{LOCAL}\n[cert_issuance.wide]\nmethod = 'local_ca'\ncommon_name = '{}'", "ü".repeat(70));
    let (plant, _) = with_authority(&config, "ec-p256:*");
    let issued = chain(plant.client().issue("wide", &csr("other"))).remove(0);
    assert_eq!(common_name(issued.subject_name()), "ü".repeat(64));
}

#[test]
fn certs_28_nobody_is_configured_to_issue() {
    let plant = Plant::new("");
    let message = plant.client().issue("x", &csr("x")).expect(500).string("message");
    assert!(message.contains("internal error") && !message.contains("cert_issuance"), "{message}");
    says(&plant.certd, "[cert_issuance.\"x\"]");
}

#[test]
fn certs_29_30_an_issuer_in_the_request() {
    let (plant, ca) = with_authority(
        &format!(
            "{LOCAL}\n[cert_issuance.over-est]\nmethod = 'est'\nurl = 'https://127.0.0.1:1/'\nexpiry_days = 7"
        ),
        "ec-p256:*",
    );
    let (client, csr) = (plant.client(), csr("a"));
    let handle = plant.keyd.client().load_pair("site-ca");
    let issued = chain(client.issue_by("unconfigured", &csr, "site-ca", &handle));
    assert!(issued[0].verify(&ca.public_key().unwrap()).unwrap() && issued.len() == 2);
    let issued = chain(client.issue_by("over-est", &csr, "site-ca", &handle));
    assert_eq!(lifetime(&issued[0]), 7 * 86_400, "issued here, by what is configured otherwise");
    let message = client.issue_by("x", &csr, "missing", &handle).expect(400).string("message");
    assert!(message.contains("issuer"), "{message}");
    client.issue_by("x", &csr, "site-ca", "sr=forged&sig=forged").expect(500);
    client.issue_by("x", &csr, "site-ca", "a\0b").expect(400);
    client
        .post("/certificates", &json!({ "certId": "x", "csr": csr, "issuer": { "certId": "site-ca" } }))
        .expect(422);
    client.post("/certificates", &json!({ "certId": "leaf", "csr": csr, "issuer": null })).expect(201);
    client.fetch("x").expect(400);
}

#[test]
fn certs_38_self_signed_needs_its_key() {
    let plant = Plant::new(LOCAL);
    plant.client().issue("site-ca", &csr("a")).expect(500);
    says(&plant.certd, "keyd has no key pair \"site-ca\"");
    plant.keyd.client().create_pair("site-ca", "ec-p256:*");
    plant.client().issue("site-ca", &csr("a")).expect(500);
    says(&plant.certd, "would not be self-signed");
    plant.client().fetch("site-ca").expect(400);
}

#[test]
fn certs_39_40_without_an_authority() {
    let plant = Plant::new("[cert_issuance.leaf]\nmethod = 'local_ca'");
    plant.client().issue("leaf", &csr("a")).expect(500);
    let (plant, _) = with_authority(LOCAL, "ec-p256:*");
    let before = chain(plant.client().issue("leaf", &csr("a")));
    assert_eq!(plant.client().forget("site-ca").status, 204);
    plant.client().issue("leaf", &csr("b")).expect(500);
    assert!(chain(plant.client().fetch("leaf")) == before, "what was issued is still there");
    plant.client().import("site-ca", &any_pem()).expect(201);
    plant.client().issue("leaf", &csr("b")).expect(500);
    says(&plant.certd, "is not the one in the certificate of the issuer");
    assert!(chain(plant.client().fetch("leaf")) == before);
}

/// What `aziot-edged` does with its authority and its certificates, in its words.
#[test]
fn row_03_edged_with_its_own_authority() {
    let (plant, _) = with_authority(LOCAL, "rsa-2048:*");
    let client = plant.client();
    plant.keyd.client().create_pair("aziot-edged-ca", "rsa-2048:*");
    let ca = authority_request(&plant, "aziot-edged-ca");
    let handle = plant.keyd.client().load_pair("site-ca");
    let call = |method: &str, target: &str, body: &Value| {
        let head = format!("{method} {target}?api-version=2020-09-01 HTTP/1.1\r\nhost: certd.sock\r\n");
        client.send(with_body(&head, &[("content-type", "application/json")], body.to_string()))
    };
    let issuer = json!({ "certId": "site-ca", "privateKeyHandle": handle });
    chain(call("POST", "/certificates", &json!({ "certId": "aziot-edged-ca", "csr": ca, "issuer": issuer })));
    let handle = plant.keyd.client().load_pair("aziot-edged-ca");
    let issuer = json!({ "certId": "aziot-edged-ca", "privateKeyHandle": handle });
    let body =
        json!({ "certId": "aziot-edged/module/$edgeHub:server", "csr": csr("edgehub"), "issuer": issuer });
    assert_eq!(chain(call("POST", "/certificates", &body)).len(), 3);
    let id = "/certificates/aziot-edged%2Fmodule%2F$edgeHub:server";
    let pem = client.get(id).expect(200).string("pem");
    call("PUT", "/certificates/copy", &json!({ "pem": pem })).expect(201);
    assert_eq!(client.delete(id, None).status, 204);
    client.get(id).expect(400);
    assert_eq!(client.fetch("copy").expect(200).string("pem"), pem);
}

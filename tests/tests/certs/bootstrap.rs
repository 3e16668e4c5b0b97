//! EST identities: the first one, and its use: checklist 58-60.

use std::fs;

use suite_tests::keys::{Keys as _, key_file};

use super::{Certs, Plant, chain, csr, says};
use crate::support::authority::{Issued, common_name};
use crate::support::{Answer, EstServer, Settings};

fn config(server: &EstServer, more: &str) -> String {
    format!(
        "[cert_issuance.press]\nmethod = 'est'\n{more}\n[cert_issuance.est]\ntrusted_certs = ['est-root']\n\
         identity_cert = 'est-id'\nidentity_pk = 'est-id'\nbootstrap_identity_cert = 'boot'\n\
         bootstrap_identity_pk = 'boot'\n[cert_issuance.est.urls]\ndefault = '{}'\n",
        server.url("")
    )
}

/// certd with a bootstrap identity whose key is in keyd.
fn plant(server: &EstServer, more: &str) -> Plant {
    let plant = Plant::new(&config(server, more));
    plant.client().import("est-root", &server.settings().root.cert_pem()).expect(201);
    give(&plant, "boot", &server.settings().root.leaf("boot"));
    plant
}

/// Give the daemons a certificate and its key.
fn give(plant: &Plant, id: &str, of: &Issued) {
    plant.client().import(id, &of.cert_pem()).expect(201);
    let file = key_file(&plant.keyd.home(), id);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, of.key_pem()).unwrap();
}

fn settings() -> Settings {
    Settings { needs_client: true, ..Settings::new() }
}

#[test]
fn certs_58_59_60_the_first_identity() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    chain(plant.client().issue("press", &csr("press 12")));
    let seen = server.enrolments();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].client_name().as_deref(), Some("boot"));
    assert_eq!(
        common_name(seen[0].csr().subject_name()),
        "press 12",
        "the identity has the subject of the request"
    );
    let identity = &server.issued()[0];
    assert_eq!(identity.extended_key_usage(), Some(openssl::x509::X509ExtendedKeyUsage::SSL_CLIENT));
    assert!(seen[1].client.as_ref() == Some(identity), "the second is asked for as the new identity");
    assert!(chain(plant.client().fetch("est-id"))[0] == *identity);
    plant.keyd.client().load_pair("est-id");
    chain(plant.client().issue("press", &csr("press 13")));
    assert_eq!(server.enrolments().len(), 3, "the identity is there already");
    assert!(server.enrolments()[2].client.as_ref() == Some(identity));
}

#[test]
fn certs_59_a_configured_subject_is_the_identitys() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "common_name = 'configured'");
    let issued = chain(plant.client().issue("press", &csr("asked for")));
    assert_eq!(common_name(server.issued()[0].subject_name()), "configured");
    assert_eq!(common_name(issued[0].subject_name()), "asked for");
}

#[test]
fn an_expired_or_refused_identity_is_replaced() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    give(&plant, "est-id", &Issued::with_validity("old", Some(&server.settings().root), false, -7200, -3600));
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(server.enrolments().len(), 2);
    assert_eq!(server.enrolments()[0].client_name().as_deref(), Some("boot"));
    give(&plant, "est-id", &Issued::root("stranger").leaf("not from here"));
    chain(plant.client().issue("press", &csr("a")));
    says(&plant.certd, "does not accept the identity");
    assert!(chain(plant.client().fetch("est-id"))[0] == server.issued()[2]);
}

/// Not every server refuses a client with 401.
#[test]
fn an_identity_that_is_refused_in_another_way_is_replaced() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    chain(plant.client().issue("press", &csr("a")));
    let nginx = "<html>\r\n<head><title>400 The SSL certificate error</title></head>\r\n</html>";
    for (status, body) in [(400, nginx), (403, ""), (495, ""), (496, "")] {
        let old = chain(plant.client().fetch("est-id"));
        // Who wants the certificate is refused, and so is who wants another identity by means of the old one.
        for _ in 0..2 {
            server.next("cacerts", Answer::Raw(status, String::new(), body.into()));
        }
        chain(plant.client().issue("press", &csr("a")));
        assert!(chain(plant.client().fetch("est-id")) != old, "{status}");
    }
    let names: Vec<_> = server.enrolments().iter().map(|seen| seen.client_name().unwrap()).collect();
    assert_eq!(names, ["boot", "a"].repeat(5));
}

#[test]
fn an_identity_whose_key_is_another_is_replaced() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    plant.client().import("est-id", &server.settings().root.leaf("lost its key").cert_pem()).expect(201);
    let handle = plant.keyd.client().create_pair("est-id", "ec-p256:*");
    let public = plant.keyd.client().public_key(&handle);
    chain(plant.client().issue("press", &csr("a")));
    let key = server.enrolments()[0].csr().public_key().unwrap().public_key_to_pem().unwrap();
    assert_eq!(key, public, "a key that was made before is used");
}

/// The old key may be what the server does not like.
#[test]
fn a_refused_identity_gets_a_new_key() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    give(&plant, "est-id", &Issued::root("stranger").leaf("not from here"));
    let key = |plant: &Plant| {
        let client = plant.keyd.client();
        client.public_key(&client.load_pair("est-id"))
    };
    let old = key(&plant);
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(server.enrolments().len(), 2);
    assert!(key(&plant) != old && chain(plant.client().fetch("est-id"))[0] == server.issued()[0]);
    assert_eq!(plant.keyd.client().get("/keypair/est-id-temp").status, 400);
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(server.enrolments().len(), 3, "the new one does");
    // A server that does not give another one: the old one stays.
    give(&plant, "est-id", &Issued::root("stranger").leaf("not from here"));
    let (old, certificate) = (key(&plant), chain(plant.client().fetch("est-id")));
    server.next("simpleenroll", Answer::Raw(503, String::new(), vec![]));
    server.next("simpleenroll", Answer::Raw(503, String::new(), vec![]));
    plant.client().issue("press", &csr("a")).expect(500);
    assert!(key(&plant) == old && chain(plant.client().fetch("est-id")) == certificate);
    chain(plant.client().issue("press", &csr("a")));
    assert!(key(&plant) != old);
}

#[test]
fn nothing_is_lost_when_the_first_identity_is_not_given() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    plant.keyd.client().create_pair("est-id", "ec-p256:*");
    let before = fs::read(key_file(&plant.keyd.home(), "est-id")).unwrap();
    server.next("simpleenroll", Answer::Raw(403, String::new(), vec![]));
    plant.client().issue("press", &csr("a")).expect(500);
    assert_eq!(fs::read(key_file(&plant.keyd.home(), "est-id")).unwrap(), before);
    plant.client().fetch("est-id").expect(400);
    says(&plant.certd, "could not be got with the bootstrap identity");
    assert_eq!(plant.client().forget("boot").status, 204);
    plant.client().issue("press", &csr("a")).expect(500);
    says(&plant.certd, "the bootstrap identity \"boot\" cannot be used, there is none");
}

#[test]
fn keyd_being_away_is_no_reason_for_a_new_identity() {
    let server = EstServer::start(settings());
    let mut plant = plant(&server, "");
    chain(plant.client().issue("press", &csr("a")));
    let identity = chain(plant.client().fetch("est-id"));
    plant.keyd.kill();
    plant.client().issue("press", &csr("a")).expect(500);
    plant.keyd.restart();
    chain(plant.client().issue("press", &csr("a")));
    assert!(chain(plant.client().fetch("est-id")) == identity);
    assert_eq!(server.enrolments().len(), 3);
}

#[test]
fn the_wish_of_the_authority_decides_the_key() {
    let rsa = b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01".to_vec();
    let server = EstServer::start(Settings { attributes: Some(rsa), ..settings() });
    let plant = plant(&server, "");
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(server.issued()[0].public_key().unwrap().bits(), 2048);
}

#[test]
fn two_at_once_need_one_identity() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "[cert_issuance.other]\nmethod = 'est'");
    std::thread::scope(|scope| {
        for id in ["press", "other"] {
            let plant = &plant;
            scope.spawn(move || chain(plant.client().issue(id, &csr(id))));
        }
    });
    assert_eq!(server.enrolments().len(), 3, "one identity, two certificates");
}

//! Issuance over EST without identities: checklist 51-57. `cert/src/est/tests.rs` has the details of the wire.

use openssl::x509::X509;

use suite_tests::harness::{KEYD, Setup};

use super::{Certs, Plant, chain, csr, says};
use crate::support::authority::{Issued, pem};
use crate::support::proxy::Proxy;
use crate::support::{Answer, EstServer, Settings};

/// certd with `press` over EST at `server`, with its root trusted and HTTP Basic.
fn plant(server: &EstServer, more: &str) -> Plant {
    let plant = Plant::new(&config(server, more));
    plant.client().import("est-root", &server.settings().root.cert_pem()).expect(201);
    plant
}

fn config(server: &EstServer, more: &str) -> String {
    format!(
        "[cert_issuance.press]\nmethod = 'est'\n[cert_issuance.est]\ntrusted_certs = ['est-root']\n\
         username = 'user'\npassword = 'word'\n[cert_issuance.est.urls]\ndefault = '{}'\n{more}",
        server.url("")
    )
}

fn settings() -> Settings {
    Settings { basic: Some(("user", "word")), ..Settings::new() }
}

#[test]
fn certs_51_52_53_with_user_name_and_password() {
    let root = Issued::root("EST Root");
    let server = EstServer::start(Settings { issuer: root.authority("EST Issuer"), root, ..settings() });
    let plant = plant(&server, "");
    let csr = csr("press 12");
    let issued = chain(plant.client().issue("press", &csr));
    assert_eq!(issued.len(), 3, "leaf, issuer, root: each once");
    assert!(issued[0] == server.issued()[0]);
    assert!(issued[1] == server.settings().issuer.cert && issued[2] == server.settings().root.cert);
    assert!(chain(plant.client().fetch("press")) == issued);
    assert_eq!(server.operations(), ["cacerts", "simpleenroll"]);
    let sent = server.enrolments()[0].csr().to_pem().unwrap();
    assert_eq!(String::from_utf8(sent).unwrap(), csr, "the request goes out as it came");
    assert!(
        server.seen().iter().all(|seen| seen.request.header("authorization") == Some("Basic dXNlcjp3b3Jk"))
    );
}

#[test]
fn certs_54_answers_that_are_none_change_nothing() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    let before = chain(plant.client().issue("press", &csr("a")));
    let raw = |status, headers: &str| Answer::Raw(status, headers.to_owned(), vec![]);
    let other: X509 = server.settings().root.leaf("somebody else").cert;
    server.next("simpleenroll", raw(202, ""));
    let undecided = plant.client().issue("press", &csr("a")).expect(500);
    assert_eq!(undecided.header("retry-after"), Some("60"), "though the server does not say when");
    let message = undecided.string("message");
    assert!(message.contains("has not decided"), "{message}");
    for answer in [
        raw(302, "location: https://elsewhere.example/\r\n"),
        raw(401, ""),
        raw(404, ""),
        raw(200, "content-type: text/html\r\n"),
        Answer::Certificates(vec![]),
        Answer::Certificates(vec![server.settings().root.cert.clone()]),
        Answer::Certificates(vec![other]),
    ] {
        server.next("simpleenroll", answer.clone());
        let message = plant.client().issue("press", &csr("a")).expect(500).string("message");
        assert!(message.contains("internal error"), "{answer:?}: {message}");
    }
    server.next("cacerts", raw(404, ""));
    plant.client().issue("press", &csr("a")).expect(500);
    assert!(chain(plant.client().fetch("press")) == before);
    says(&plant.certd, "is for the key in the request");
    assert!(!plant.certd.log().contains("dXNlcjp3b3Jk") && !plant.certd.log().contains("word'"));
}

#[test]
fn certs_54_pending_and_trouble_are_waited_for() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    server.next("simpleenroll", Answer::Raw(202, "retry-after: 2\r\n".into(), vec![]));
    server.next("cacerts", Answer::Raw(503, "retry-after: 1\r\n".into(), vec![]));
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(server.operations(), ["cacerts", "cacerts", "simpleenroll", "simpleenroll"]);
}

#[test]
fn certs_56_without_complete_authentication_nothing_is_sent() {
    let server = EstServer::start(Settings::new());
    let plant = Plant::new(&format!(
        "[cert_issuance.press]\nmethod = 'est'\nurl = '{}'\nusername = 'only'\n[cert_issuance.none]\nmethod = 'est'",
        server.url("")
    ));
    plant.client().issue("press", &csr("a")).expect(500);
    plant.client().issue("none", &csr("a")).expect(500);
    assert!(server.seen().is_empty());
    says(&plant.certd, "no complete authentication");
}

#[test]
fn certs_57_which_server() {
    let server = EstServer::start(settings());
    let plant = plant(
        &server,
        &format!(
            "by-id = '{}'\n[cert_issuance.by-id]\nmethod = 'est'\n[cert_issuance.own]\nmethod = 'est'\nurl = '{}/'\n",
            server.url("labels/by-id"),
            server.url("own")
        ),
    );
    for (id, label) in [("press", ""), ("by-id", "labels/by-id"), ("own", "own")] {
        chain(plant.client().issue(id, &csr("a")));
        assert_eq!(server.seen().pop().unwrap().label, label);
    }
}

#[test]
fn a_proxy_is_obeyed() {
    let (server, proxy) = (EstServer::start(settings()), Proxy::start());
    let keyd = Setup::new(&KEYD).start();
    let config = config(&server, "").replace("localhost", "pki.plant.example");
    let url = format!("http://user:p%40w@127.0.0.1:{}", proxy.port);
    let certd = super::certd(&config, &keyd).env("HTTPS_PROXY", &url).start();
    certd.client().import("est-root", &server.settings().root.cert_pem()).expect(201);
    certd.client().issue("press", &csr("a")).expect(500);
    says(&certd, "it was issued for another name");
    let seen = proxy.seen();
    assert_eq!(seen[0].target, format!("pki.plant.example:{}", server.port));
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic dXNlcjpwQHc="));
    assert_eq!(seen[0].header("authorization"), None, "the server's password is not for the proxy");
    let certd = super::certd(&self::config(&server, ""), &keyd).env("https_proxy", &url).start();
    certd.client().import("est-root", &server.settings().root.cert_pem()).expect(201);
    chain(certd.client().issue("press", &csr("a")));
    assert_eq!(proxy.seen().last().unwrap().target, format!("localhost:{}", server.port));
    let before = proxy.seen().len();
    let certd = certd.stop().env("NO_PROXY", "localhost").start();
    chain(certd.client().issue("press", &csr("a")));
    assert_eq!(proxy.seen().len(), before);
    let certd = certd.stop().env("https_proxy", "socks5://host").start();
    says(&certd, "nothing is issued over EST: https_proxy");
    certd.client().issue("press", &csr("a")).expect(500);
    certd.client().fetch("press").expect(200);
}

#[test]
fn whom_nobody_vouches_for_is_told_nothing() {
    let server = EstServer::start(settings());
    let plant = plant(&server, "");
    plant.client().import("est-root", &Issued::root("other").cert_pem()).expect(201);
    plant.client().issue("press", &csr("a")).expect(500);
    assert!(server.seen().is_empty());
    says(&plant.certd, "is not trusted");
    let bundle = [Issued::root("other").cert, server.settings().root.cert.clone()];
    plant.client().import("est-root", &pem(&bundle)).expect(201);
    chain(plant.client().issue("press", &csr("a")));
    assert_eq!(plant.client().forget("est-root").status, 204);
    plant.client().issue("press", &csr("a")).expect(500);
    says(&plant.certd, "\"est-root\"");
}

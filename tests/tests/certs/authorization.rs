//! Who may do what: checklist 20-23.

use suite_tests::harness::{CERTD, Setup};

use super::{Certs, any_pem, principal};

#[test]
fn certs_20_21_strangers_may_only_read() {
    let certd = Setup::new(&CERTD).config(&principal(1000, &["mine"])).start();
    certd.client().import("x", &any_pem()).expect(201);
    let stranger = certd.as_uid(1001);
    stranger.fetch("x").expect(200);
    let message = stranger.import("x", &any_pem()).expect(401).string("message");
    assert!(message.contains("1001") && message.contains('x'), "{message}");
    stranger.import("x", "not even a certificate").expect(401);
    stranger.forget("x").expect(401);
    stranger.issue("x", "not even a request").expect(401);
    certd.client().fetch("x").expect(200);
}

#[test]
fn certs_22_23_patterns_and_several_tables() {
    let config =
        [principal(1000, &["a?c", "only*"]), principal(1001, &["*"]), principal(1000, &["other"])].concat();
    let certd = Setup::new(&CERTD).config(&config).start();
    let (client, pem) = (certd.as_uid(1000), any_pem());
    for (id, status) in
        [("abc", 201), ("ac", 401), ("only", 201), ("Only", 401), ("other", 201), ("another", 401)]
    {
        client.import(id, &pem).expect(status);
    }
    certd.as_uid(1001).import("anything at all", &pem).expect(201);
}

/// What is to follow a certificate belongs to whom it belongs.
#[test]
fn a_principal_of_a_certificate_is_one_of_its_successor() {
    let config = [principal(1000, &["device-id"]), principal(1001, &["site-*"])].concat();
    let certd = Setup::new(&CERTD).config(&config).start();
    let check = |uid, id, status| certd.as_uid(uid).import(id, &any_pem()).expect(status);
    check(1000, "device-id-temp", 201);
    check(1001, "site-1-temp", 201);
    check(1001, "device-id-temp", 401);
    check(1000, "device-id-temp-temp", 401);
    check(1000, "-temp", 401);
}

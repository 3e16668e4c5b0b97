//! An EST server that decides later, perhaps by hand: it is asked again with the same request, and not too early. The
//! simulator knows a request by its bytes.

use serde_json::{Value, json};

use crate::site::{LIFE, OVER, Site};
use crate::{ROTATING, csr_for, new_key};

#[test]
fn a_renewal_that_is_not_decided_goes_on_with_the_same_request() {
    let mut site = Site::without_identity(ROTATING);
    site.decide_after(2, &Value::Null);
    site.give("est-id", LIFE, OVER);
    let old = site.identity();
    site.says("was not renewed");
    for _ in 0..2 {
        assert!(site.issued() == 0 && site.has_temporary_key());
        site.check_journal();
        site.certd.kill();
        site.recover();
    }
    site.certd.wait_until_logged("was renewed");
    assert_eq!(site.issued(), 1);
    site.decide_after(0, &Value::Null);
    site.check_rest("renewed");
    site.check_pair("renewed");
    assert!(site.identity() != old);
    assert_eq!(std::fs::read_dir(site.certd.home().join("undecided")).unwrap().count(), 0);
}

#[test]
fn who_asks_for_the_same_again_with_another_signature_gets_it() {
    let mut site = Site::without_identity("identity_auto_renew = { enabled = false }");
    site.give("est-id", LIFE, OVER);
    site.decide_after(2, &Value::Null);
    let key = new_key();
    let ask = |site: &Site| {
        let body = json!({ "certId": "press", "csr": csr_for(&key) });
        site.certd.client().post("/certificates", &body)
    };
    for _ in 0..2 {
        let message = ask(&site).expect(500).string("message");
        assert!(message.contains("has not decided"), "{message}");
        site.certd.restart();
    }
    ask(&site).expect(201);
    assert_eq!((site.issued(), site.count("est.enroll")), (1, 3));
}

#[test]
fn a_server_is_not_asked_before_it_wants_to_be() {
    let mut site = Site::without_identity("identity_auto_renew = { enabled = false }");
    site.give("est-id", LIFE, OVER);
    site.decide_after(1, &json!(300));
    let key = new_key();
    let body = || json!({ "certId": "press", "csr": csr_for(&key) });
    for _ in 0..3 {
        let reply = site.certd.client().post("/certificates", &body());
        assert_eq!(reply.status, 500);
        let wait: u64 = reply.header("retry-after").expect("it says when").parse().unwrap();
        assert!((200..=300).contains(&wait), "{wait}");
        assert_eq!(site.count("est.enroll"), 1);
        site.certd.restart();
    }
    // Somebody else's request does not wait for it.
    site.decide_after(0, &Value::Null);
    site.check_pair("another request");
}

#[test]
fn a_first_identity_that_is_not_decided_is_asked_for_with_the_same_request() {
    let mut site = Site::without_identity(
        "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\nidentity_auto_renew = { enabled = false }",
    );
    site.give("boot", LIFE, OVER);
    site.decide_after(1, &Value::Null);
    let key = new_key();
    let body = || json!({ "certId": "press", "csr": csr_for(&key) });
    // The identity, then the certificate.
    for issued in [0, 1] {
        site.certd.client().post("/certificates", &body()).expect(500);
        assert_eq!(site.issued(), issued);
        site.certd.restart();
    }
    site.certd.client().post("/certificates", &body()).expect(201);
    assert_eq!(site.issued(), 2);
}

//! When EST identities are renewed, and by means of what: checklist of certificates-service, 61-65.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use suite_tests::{http::wait_for, keys::Keys as _};

use crate::site::{LIFE, OVER, PATIENCE, Site};
use crate::{KEEPING, ROTATING};

#[test]
fn certs_61_62_an_identity_is_renewed_at_its_threshold() {
    let site = Site::without_identity(ROTATING);
    let start = SystemTime::now();
    site.give("est-id", 60, 24);
    let (old, old_key) = (site.identity(), site.key());
    site.says("was renewed");
    let took = start.elapsed().unwrap();
    assert!(
        took > Duration::from_secs(22),
        "it is due after 48 of 60 seconds, and was renewed {took:?} after 24"
    );
    assert!(site.identity() != old && site.key() != old_key);
    assert!(!site.has_temporary_key());
    assert_eq!((site.count("est.reenroll"), site.count("est.enroll")), (1, 0));
    site.check_rest("renewed");
    site.check_pair("renewed");
}

#[test]
fn certs_63_without_rotation_the_key_stays() {
    let site = Site::new(KEEPING);
    let key = site.key();
    site.says("was renewed");
    assert_eq!(site.key(), key);
    assert!(site.certd.client().get("/certificates/est-id").expect(200).string("pem").contains("BEGIN"));
    site.check_pair("renewed");
}

#[test]
fn certs_64_failures_are_repeated_and_the_old_identity_works_until_then() {
    let site = Site::without_identity(
        "identity_auto_renew = { rotate_key = true, threshold = '80%', retry = '1%' }",
    );
    site.fault("est.reenroll", 0, &serde_json::json!({ "status": 503 }));
    site.give("est-id", 400, 350);
    let old = site.identity();
    site.says("was not renewed");
    site.check_pair("not renewed yet");
    assert!(site.identity() == old);
    site.heal();
    site.says("was renewed");
    site.check_rest("renewed");
    site.check_pair("renewed");
}

#[test]
fn certs_65_a_certificate_from_somebody_else_without_its_key_is_left_alone() {
    let site = Site::new(ROTATING);
    site.says("was renewed");
    let ours = site.certd.client().get("/certificates/est-id").expect(200).string("pem");
    site.give("other", LIFE, OVER);
    let foreign = site.certd.client().get("/certificates/other").expect(200).string("pem");
    let before = site.count("est.reenroll");
    site.import("est-id", &foreign);
    site.says("cannot be renewed: the key is not the certificate's");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(site.count("est.reenroll"), before);
    assert_eq!(site.certd.client().get("/certificates/est-id").expect(200).string("pem"), foreign);
    site.import("est-id", &ours);
    wait_for("the renewal of what is ours", PATIENCE, || {
        (site.certd.log().matches("was renewed").count() == 2).then_some(())
    });
    site.check_pair("ours again");
}

#[test]
fn certs_62_an_expired_identity_recovers_by_itself() {
    let site = Site::without_identity(&format!(
        "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\n{ROTATING}"
    ));
    site.give("boot", LIFE, 60);
    site.give("est-id", LIFE, LIFE + 60);
    site.says("was renewed");
    assert_eq!((site.count("est.reenroll"), site.count("est.enroll")), (0, 1));
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let now = openssl::asn1::Asn1Time::from_unix(now).unwrap();
    assert!(site.identity().not_after() > &*now);
    site.check_rest("recovered");
    site.check_pair("recovered");
}

#[test]
fn settings_that_change_are_obeyed_without_a_restart() {
    let site = Site::without_identity(
        "identity_auto_renew = { rotate_key = true, threshold = '99%', retry = '50%' }",
    );
    site.give("est-id", LIFE, OVER);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!site.certd.log().contains("is renewed"));
    let key = site.key();
    site.certd.write_drop_in("50.toml", &format!("[cert_issuance.est]\n{KEEPING}\n"));
    site.says("was renewed");
    assert_eq!(site.key(), key);
}

#[test]
fn need_32_renewal_can_be_switched_off_and_on() {
    let site = Site::new("identity_auto_renew = { enabled = false }");
    let (old, old_key) = (site.identity(), site.key());
    site.check_pair("not renewed");
    std::thread::sleep(Duration::from_secs(3));
    assert!(site.identity() == old && site.key() == old_key, "{}", site.certd.log());
    assert_eq!(site.count("est.reenroll"), 0);
    let on = "[cert_issuance.est.identity_auto_renew]\nenabled = true\nrotate_key = true\nthreshold = '80%'\nretry = '50%'\n";
    site.certd.write_drop_in("50.toml", on);
    site.says("was renewed");
    site.check_pair("renewed");
}

#[test]
fn need_32_an_expired_identity_that_is_not_renewed_is_got_anew_when_it_is_needed() {
    let site = Site::without_identity(
        "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\nidentity_auto_renew = { enabled = false }",
    );
    site.give("boot", LIFE, 60);
    site.give("est-id", LIFE, LIFE + 60);
    site.check_pair_after_use("an expired identity");
}

#[test]
fn need_9_the_kind_of_an_identitys_key_can_be_chosen() {
    for (settings, bits) in [
        ("identity_key_algorithm = 'ec-p384'", 384),
        ("identity_key_algorithm = 'rsa-3072'", 3072),
        ("", 256),
    ] {
        // The first one, got with the bootstrap identity.
        let site = Site::without_identity(&format!(
            "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\n{settings}\n\
             identity_auto_renew = {{ enabled = false }}"
        ));
        site.give("boot", LIFE, 60);
        site.check_pair_after_use(settings);
        let bits_of = |site: &Site| site.identity().public_key().unwrap().bits();
        assert_eq!(bits_of(&site), bits, "{settings}");
        // One that is renewed; it was made on P-256.
        let site = Site::new(&format!("{settings}\n{ROTATING}"));
        site.says("was renewed");
        site.check_pair(settings);
        assert_eq!(bits_of(&site), bits, "{settings}");
    }
}

/// The certificate is gone, and its key is still there.
#[test]
fn need_9_a_key_of_another_kind_than_is_chosen_is_not_used_for_another_certificate() {
    let bootstrap = "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\n";
    let site = Site::without_identity(&format!(
        "{bootstrap}identity_key_algorithm = 'rsa-3072'\n\
         identity_auto_renew = {{ enabled = false }}"
    ));
    site.give("boot", LIFE, 60);
    site.keyd.client().create_pair("est-id", "ec-p384");
    let old = site.key();
    site.fault("est.enroll", 0, &serde_json::json!({ "status": 403 }));
    let refused = site
        .certd
        .client()
        .post("/certificates", &serde_json::json!({ "certId": "press", "csr": crate::csr() }));
    assert_eq!(
        (refused.status, site.key() == old),
        (500, true),
        "the old key stays as long as nobody needs another one"
    );
    site.heal();
    site.check_pair_after_use("another kind");
    assert_eq!(site.identity().public_key().unwrap().bits(), 3072);
    assert!(!site.has_temporary_key());
}

#[test]
fn need_25_files_of_the_administrator_are_left_alone_if_that_is_wished() {
    let mut site = Site::without_identity(&format!("keep_preloaded_identities = true\n{ROTATING}"));
    site.give("est-id", LIFE, OVER);
    site.says("was renewed");
    let (file, pem) = (site.certd.home().join("own.pem"), site.identity().to_pem().unwrap());
    std::fs::write(&file, &pem).unwrap();
    let preloaded = format!("[preloaded_certs]\nest-id = 'file://{}'\n", file.display());
    site.certd.write_drop_in("50.toml", &preloaded);
    site.certd.restart();
    site.check_pair("preloaded");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(std::fs::read(&file).unwrap(), pem);
    // Without the setting, as with upstream.
    site.certd.write_drop_in("60.toml", "[cert_issuance.est]\nkeep_preloaded_identities = false\n");
    site.says("was renewed");
    assert_ne!(std::fs::read(&file).unwrap(), pem);
    site.check_pair("renewed in place");
}

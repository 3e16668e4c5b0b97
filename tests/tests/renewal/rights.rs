//! Keys that cannot be replaced: keyd does not let certd use the temporary key, or the key in place is the administrator's
//! file. Renewal then goes on with the key that there is, and locks nobody out. Where the certificate cannot be replaced,
//! the key is not, either.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;
use suite_tests::http::wait_for;

use crate::ROTATING;
use crate::device::Device;
use crate::site::{LIFE, OVER, PATIENCE, Site};

const UID: u32 = 2001;

#[test]
fn without_the_right_to_the_temporary_key_the_key_stays() {
    let site = Site::as_user(ROTATING, UID, &["est-id"]);
    site.give("est-id", LIFE, OVER);
    let (old, key) = (site.identity(), site.key());
    site.says("was renewed");
    let log = site.certd.log();
    assert!(log.contains("renewed for the same key") && log.contains("\"est-id-temp\""), "{log}");
    assert!(log.contains("[[principal]]"), "it says what to do: {log}");
    assert!(site.identity() != old && site.key() == key);
    site.check_rest("renewed");
    site.check_pair("renewed");
}

#[test]
fn a_right_that_is_taken_away_amid_a_renewal_locks_nobody_out() {
    let mut site = Site::as_user(ROTATING, UID, &["est-id", "est-id-temp"]);
    site.fault("est.reenroll", 0, &json!({ "status": 503 }));
    site.give("est-id", LIFE, OVER);
    let (old, key) = (site.identity(), site.key());
    site.says("was not renewed");
    assert!(site.has_temporary_key() && !site.journals().is_empty());
    site.allow(UID, &["est-id"]);
    wait_for("keyd to refuse", PATIENCE, || {
        (site.keyd.as_uid(UID).get("/keypair/est-id-temp").status == 401).then_some(())
    });
    site.check_pair("without the right");
    site.certd.restart();
    site.check_pair("after a restart");
    site.heal();
    site.certd.kill();
    site.recover();
    site.certd.wait_until_logged("was renewed");
    assert!(site.identity() != old && site.key() == key && site.journals().is_empty());
    site.check_pair("renewed");
}

#[test]
fn an_identity_with_a_preloaded_key_keeps_it() {
    let mut site = Site::with_preloaded_key(ROTATING);
    let (old, key) = (site.identity(), site.key());
    site.says("was renewed");
    let log = site.certd.log();
    assert!(log.contains("renewed for the same key") && log.contains("preloaded_keys"), "{log}");
    assert!(site.identity() != old && site.key() == key);
    site.check_rest("renewed");
    site.check_pair("renewed");
    let renewed = site.identity();
    site.certd.kill();
    site.recover();
    assert!(site.identity() != renewed && site.key() == key, "and so on: {}", site.certd.log());
    site.check_pair("renewed again");
}

/// The administrator preloads the key when the new one is accepted and has not got its place yet.
#[test]
fn a_key_that_becomes_preloaded_amid_a_renewal_is_gone_back_to() {
    let mut site = Site::new(ROTATING);
    let moving = |site: &Site| site.gate.seen().iter().position(|it| it == "POST /keypair/est-id");
    site.says("was renewed");
    site.certd.kill();
    site.gate.stop_at(None);
    site.recover();
    let number = moving(&site).expect("a renewal moves the key");
    let reached = site.crash_at(number, crate::gate::Side::Before);
    assert_eq!(reached.as_deref(), Some("POST /keypair/est-id"));
    let (key, pem) = (site.key(), site.key_file());
    let file = site.keyd.home().join("preloaded.pem");
    fs::copy(pem, &file).unwrap();
    let preloaded = format!("[preloaded_keys]\nest-id = 'file://{}'\n", file.display());
    site.keyd.write_drop_in("50.toml", &preloaded);
    site.keyd.restart();
    site.recover();
    site.certd.wait_until_logged("cannot be replaced");
    assert_eq!(site.key(), key);
    site.check_rest("gone back");
    site.check_pair("gone back");
}

#[test]
fn a_device_with_a_preloaded_key_keeps_it() {
    let mut device = Device::preloaded();
    let (old, key) = (device.identity(), device.key());
    device.identityd.wait_until_logged("was renewed");
    device.check_rest("renewed");
    device.check_pair("renewed");
    device.identityd.kill();
    device.recover();
    device.identityd.wait_until_logged("was renewed");
    assert!(device.identity() != old && device.key() == key);
    device.check_rest("renewed again");
    device.check_pair("renewed again");
}

/// keyd lets identityd not use the key of the certificate that is to come.
#[test]
fn a_device_without_the_right_to_the_temporary_key_keeps_its_key() {
    let mut device = Device::as_user(UID, &["device-id"]);
    let (old, key) = (device.identity(), device.key());
    let log = device.identityd.log();
    assert!(log.contains("was renewed") && log.contains("renewed for the same key"), "{log}");
    device.check_pair("renewed");
    device.identityd.kill();
    device.recover();
    assert!(device.identity() != old && device.key() == key);
    device.check_pair("renewed again");
    assert_eq!(device.keyd.client().get("/keypair/device-id-temp").status, 400);
}

fn let_everybody_write(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn an_identity_whose_file_cannot_be_written_keeps_its_key() {
    let mut site = Site::as_user(ROTATING, UID, &["est-id", "est-id-temp"]);
    let file = site.preload(LIFE, OVER);
    let (old, key) = (site.identity(), site.key());
    site.says("was not renewed");
    let log = site.certd.log();
    assert!(
        log.contains("preloaded_certs names") && log.contains("preloaded.pem"),
        "it says what to do: {log}"
    );
    assert!(site.identity() == old && site.key() == key);
    assert_eq!(site.count("est.reenroll") + site.count("est.enroll"), 0, "nothing is asked for in vain");
    site.check_pair("as it was");
    let_everybody_write(&file);
    site.certd.kill();
    site.recover();
    assert!(site.identity() != old && site.key() != key, "{}", site.certd.log());
    site.check_rest("renewed");
    site.check_pair("renewed");
}

#[test]
fn a_device_whose_certificate_cannot_be_written_keeps_its_key() {
    let mut device = Device::with_certd_as(UID);
    let file = device.preload();
    let (old, key, issued) = (device.identity(), device.key(), device.issued());
    device.recover();
    device.identityd.wait_until_logged("was not renewed");
    device.certd.wait_for_log(PATIENCE, |line| line.contains("preloaded.pem, which preloaded_certs names"));
    assert!(device.identity() == old && device.key() == key && device.issued() == issued);
    device.check_pair("as it was");
    let_everybody_write(&file);
    device.identityd.kill();
    device.recover();
    assert!(device.identity() != old && device.key() != key, "{}", device.identityd.log());
    device.check_rest("renewed");
    device.check_pair("renewed");
}

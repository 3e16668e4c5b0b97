//! What a device with a certificate must survive: services that are away or hang, keys that do not fit, certificates that
//! are over.

use std::{
    fs,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::wait_for,
    keys::{Keys as _, key_file},
};

use crate::cloud::{DEVICE, WAIT};
use crate::plant::{Plant, Site};

#[test]
fn a_certd_that_is_away_costs_no_key() {
    let mut plant = Plant::provisioned("");
    let key = plant.key("device-id").unwrap();
    plant.certd.terminate();
    plant.identityd.restart();
    plant.own().expect(200);
    plant.reprovision().expect(500);
    assert!(plant.key("device-id").unwrap().public_eq(&key));
    assert!(plant.key("device-id-temp").is_none());
    plant.certd.restart();
    plant.reprovision().expect(204);
    assert!(plant.key("device-id").unwrap().public_eq(&key));
    assert_eq!(plant.cloud.count("est.enroll"), 1);
}

#[test]
fn what_was_good_stays_while_certd_is_away() {
    let mut plant = Plant::provisioned("");
    plant.certd.terminate();
    plant.reprovision().expect(204);
    plant.create("telemetry").expect(200);
    plant.own().expect(200);
    // Nor is a certd waited for that hangs.
    let socket = plant.certd.setup().socket_path();
    fs::remove_file(socket).unwrap();
    let _silent = UnixListener::bind(socket).unwrap();
    let asked = Instant::now();
    plant.own().expect(200);
    assert!(asked.elapsed() < BOUND / 2, "{:?}", asked.elapsed());
}

#[test]
fn a_new_certificate_has_a_new_key_and_the_old_one_stays_until_then() {
    let plant = Plant::provisioned("");
    let key = plant.key("device-id").unwrap();
    plant.certd.client().delete("/certificates/device-id", None).expect(204);
    plant.cloud.fault("est", &json!({ "status": 503 }), None);
    plant.reprovision().expect(204);
    assert!(
        plant.key("device-id").unwrap().public_eq(&key),
        "the old key stays as long as there is no certificate"
    );
    plant.cloud.heal();
    plant.reprovision().expect(204);
    let new = plant.key("device-id").unwrap();
    assert!(!new.public_eq(&key));
    assert!(plant.key("device-id-temp").is_none());
    assert!(plant.certificate("device-id")[0].public_key().unwrap().public_eq(&new));
    plant.create("telemetry").expect(200);
}

#[test]
fn an_exchange_that_was_interrupted_is_finished() {
    let mut plant = Plant::provisioned("");
    let (current, new) =
        (key_file(&plant.keyd.home(), "device-id"), key_file(&plant.keyd.home(), "device-id-temp"));
    // As if the process had ended between the two steps: the certificate is there, its key is not in place yet.
    fs::rename(&current, &new).unwrap();
    plant.keyd.client().create_pair("device-id", "ec-p256");
    plant.identityd.restart();
    plant.reprovision().expect(204);
    assert!(plant.key("device-id-temp").is_none());
    assert!(
        plant.certificate("device-id")[0].public_key().unwrap().public_eq(&plant.key("device-id").unwrap())
    );
    plant.create("telemetry").expect(200);
}

#[test]
fn a_certificate_for_another_key_is_not_shown() {
    let mut plant = Plant::provisioned("");
    fs::remove_file(key_file(&plant.keyd.home(), "device-id")).unwrap();
    plant.keyd.client().create_pair("device-id", "ec-p256");
    plant.cloud.forget_requests();
    plant.identityd.restart();
    plant.identityd.wait_for_log(WAIT, |line| line.contains("is not for the key pair"));
    plant.create("telemetry").expect(500);
    plant.reprovision().expect(500);
    assert_eq!(plant.seen().len(), 0);
    assert_eq!(plant.cloud.count("est"), 0, "nor is anything made instead");
    plant.own().expect(200);
}

#[test]
fn a_certificate_that_is_over_is_not_shown_until_there_is_another() {
    let site = Site::new("");
    site.enroll_group();
    site.cloud.admin("PUT", "/est/labels/default", &json!({ "validity_secs": 12 }));
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), "");
    let plant = site.start(&config);
    plant.own().expect(200);
    std::thread::sleep(Duration::from_secs(13));
    plant.reprovision().expect(500);
    plant.identityd.wait_for_log(WAIT, |line| line.contains("is the clock right?"));
    plant.cloud.admin("PUT", "/est/labels/default", &json!({}));
    plant.certd.client().delete("/certificates/device-id", None).expect(204);
    plant.reprovision().expect(204);
    plant.create("telemetry").expect(200);
}

#[test]
fn a_preloaded_key_gets_a_certificate_and_stays() {
    let keyd = Setup::new(&KEYD);
    let file = keyd.directory().join("device-key.pem");
    let key = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
    fs::write(&file, &key).unwrap();
    let preloaded = format!("[preloaded_keys]\ndevice-id = 'file://{}'\n", file.display());
    let keyd = keyd.drop_in("10-key.toml", &preloaded).start();
    let site = Site::on(crate::cloud::Cloud::start(&["--est"]), keyd, "");
    site.enroll_group();
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), "");
    let plant = site.start(&config);
    plant.own().expect(200);
    let key = openssl::pkey::PKey::private_key_from_pem(&key).unwrap();
    assert!(plant.certificate("device-id")[0].public_key().unwrap().public_eq(&key));
    assert_eq!(fs::read(&file).unwrap(), openssl_pem(&key), "nobody touches the administrator's file");
    plant.create("telemetry").expect(200);
    assert!(plant.key("device-id-temp").is_none());
}

fn openssl_pem(key: &openssl::pkey::PKey<openssl::pkey::Private>) -> Vec<u8> {
    key.rsa().unwrap().private_key_to_pem().unwrap()
}

#[test]
fn a_keyd_that_hangs_while_it_should_sign_holds_up_nobody_else() {
    let plant = Plant::provisioned("");
    // So that the next call to the cloud needs a handshake.
    plant.cloud.unplug();
    plant.cloud.heal();
    plant.keyd.signal(Signal::STOP);
    let client = plant.client();
    let (list, info) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| plant.create("telemetry").status);
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        for _ in 0..20 {
            client.get("/identities/provisioning").expect(200);
        }
        let info = start.elapsed();
        plant.keyd.signal(Signal::CONT);
        (slow.join().unwrap(), info)
    });
    assert!(info < Duration::from_secs(2), "{info:?}");
    assert_eq!(list, 200, "and it goes on when keyd does");
}

#[test]
fn identity_63_a_certificate_that_the_hub_does_not_know_leads_to_a_registration() {
    let plant = Plant::provisioned("");
    plant.certd.client().delete("/certificates/device-id", None).expect(204);
    plant.cloud.forget_requests();
    let mut plant = plant;
    plant.identityd.restart();
    wait_for("a registration", WAIT, || (plant.cloud.count("dps.register") > 0).then_some(()));
    wait_for("a module", WAIT, || (plant.create("telemetry").status == 200).then_some(()));
}

#[test]
fn with_the_rights_that_upstream_gives_the_key_is_used_again() {
    let rights = |keys: &str| format!("[[principal]]\nuid = {UID}\nkeys = [{keys}]\n");
    let keyd =
        Setup::new(&KEYD).drop_in("10-identityd.toml", &rights("'aziot_identityd_master_id', 'device-id'"));
    let site = Site::on(crate::cloud::Cloud::start(&["--est"]), keyd.start(), "");
    let of_certd = format!("[[principal]]\nuid = {UID}\ncerts = ['device-id']\n");
    site.certd.write_drop_in("10-identityd.toml", &of_certd);
    site.enroll_group();
    // Opened for any user.
    let (as_certd, _) = (site.certd.as_uid(UID), site.keyd.as_uid(UID));
    wait_for("certd to take it up", WAIT, || {
        (as_certd.delete("/certificates/device-id", None).status == 204).then_some(())
    });
    let setup = site.identityd(&site.dps(&format!("registration_id = '{DEVICE}'"), ""));
    let user = format!("--reuid={UID}");
    let setup = setup.wrapper(["setpriv", &user, "--regid=0", "--clear-groups"]);
    for path in [setup.directory(), &setup.home()] {
        std::os::unix::fs::chown(path, Some(UID), None).unwrap();
    }
    let identityd = setup.start();
    let Site { certd, keyd, cloud } = site;
    let plant = Plant { identityd, certd, keyd, cloud };
    plant.own().expect(200);
    plant.create("telemetry").expect(200);
    let key = plant.key("device-id").unwrap();
    plant.certd.client().delete("/certificates/device-id", None).expect(204);
    plant.reprovision().expect(204);
    assert!(plant.key("device-id").unwrap().public_eq(&key));
    assert!(plant.certificate("device-id")[0].public_key().unwrap().public_eq(&key));
    plant.identityd.wait_for_log(WAIT, |line| line.contains("\"device-id-temp\""));
    plant.create("other").expect(200);
}

/// The user that identityd runs as.
const UID: u32 = 41_005;

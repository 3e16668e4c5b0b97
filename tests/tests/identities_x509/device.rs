//! The device with a certificate: checklist 16, 19, 63.

use std::fs;

use openssl::{hash::MessageDigest, pkey::Id};
use serde_json::{Value, json};
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::wait_for,
    keys::Keys as _,
    lint::lint_chain,
    openssl::hex,
};

use crate::cloud::{Cloud, DEVICE, WAIT};
use crate::plant::{Plant, Site, common_name};

#[test]
fn identity_16_19_63_from_nothing_to_a_hub_by_certificate() {
    let plant = Plant::provisioned("");
    let hub = plant.cloud.hub(0);
    let identity = plant.client().get("/identities/identity").expect(200).json();
    let auth = &identity["spec"]["auth"];
    let handle = auth["keyHandle"].as_str().unwrap();
    assert_eq!(*auth, json!({ "type": "x509", "keyHandle": handle, "certId": "device-id" }));
    assert_eq!((&identity["spec"]["hubName"], &identity["spec"]["deviceId"]), (&json!(hub), &json!(DEVICE)));

    let chain = plant.certificate("device-id");
    assert_eq!(common_name(&chain), DEVICE);
    let key = plant.key("device-id").unwrap();
    assert!(chain[0].public_key().unwrap().public_eq(&key), "the certificate is for the key in keyd");
    assert_eq!((key.id(), key.bits()), (Id::RSA, 2048), "upstream's default");
    assert_eq!(plant.keyd.client().parameter(handle, "algorithm"), "RSA", "a caller can use the handle");

    let module = plant.create("telemetry").expect(200).json();
    assert_eq!(module["spec"]["auth"]["type"], "sas", "modules of such a device have keys");
    assert!(module["spec"]["auth"].get("certId").is_none());
    let print = hex(&chain[0].digest(MessageDigest::sha256()).unwrap());
    for seen in plant.seen() {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
        assert_eq!(seen.version(), "1.1", "HTTP/2, which the cloud prefers, was not offered");
        let shown = &seen.0["client_certificate"];
        let text = shown.to_string().to_lowercase().replace(':', "");
        assert!(text.contains(&print), "{shown}");
        assert_eq!(
            shown["chain_length"],
            json!(chain.len() - 1),
            "all but the leaf, which is counted apart: {shown}"
        );
    }
}

#[test]
fn identity_16_a_restart_asks_neither_est_nor_dps() {
    let mut plant = Plant::provisioned("");
    let before = plant.certificate("device-id");
    plant.cloud.forget_requests();
    plant.identityd.restart();
    plant.own().expect(200);
    plant.create("telemetry").expect(200);
    assert_eq!(plant.cloud.count("est") + plant.cloud.count("dps"), 0, "{}", plant.cloud.operations());
    assert!(plant.certificate("device-id") == before);
    plant.reprovision().expect(204);
    assert!(plant.certificate("device-id") == before, "nothing new is made without need");
    assert_eq!(plant.cloud.count("est"), 0);
}

#[test]
fn identity_16_a_preloaded_certificate_and_its_name() {
    let cloud = Cloud::start(&["--est"]);
    let issued = cloud.admin("POST", "/issue", &json!({ "common_name": DEVICE }));
    let text = |name: &str| issued[name].as_str().unwrap().to_owned();
    let keyd = Setup::new(&KEYD);
    let file = keyd.directory().join("device-key.pem");
    fs::write(&file, text("private_key")).unwrap();
    let keyd = keyd
        .drop_in("10-key.toml", &format!("[preloaded_keys]\ndevice-id = 'file://{}'\n", file.display()))
        .start();
    let site = Site::on(cloud, keyd, "");
    site.certd.client().put("/certificates/device-id", &json!({ "pem": text("chain") })).expect(201);
    site.enroll_group();
    let config = site.dps("", "");
    let mut plant = site.start(&config);
    plant.own().expect(200);
    let info = plant.client().get("/identities/provisioning").expect(200).json();
    assert_eq!((&info["auth"], &info["registration_id"]), (&json!("x509"), &json!(DEVICE)));
    assert_eq!(plant.cloud.count("est"), 0);
    plant.create("telemetry").expect(200);
    plant.certd.terminate();
    plant.client().get("/identities/provisioning").expect(500);
}

#[test]
fn identity_16_by_hand_with_further_attributes_and_another_algorithm() {
    let site = Site::new("");
    let root = fs::read_to_string(site.est_root()).unwrap();
    let anchor = json!({ "certificate": root, "isVerified": true });
    site.cloud.admin("PUT", "/certificates/plant", &anchor);
    site.add_device(&json!({ "type": "certificateAuthority" }));
    let subject = ", csr_subject = { CN = 'ignored', o = 'Acme', C = 'DE' }, key_algorithm = 'ec-p256'";
    let config = site.manual(subject, "");
    let plant = site.start(&config);
    plant.own().expect(200);
    plant.create("telemetry").expect(200);
    let chain = plant.certificate("device-id");
    let names = chain[0].subject_name();
    let names: Vec<_> = names.entries().map(|entry| entry.data().to_string().unwrap().to_string()).collect();
    assert_eq!(names, [DEVICE, "DE", "Acme"], "the common name first, the others by name");
    assert_eq!(plant.key("device-id").unwrap().id(), Id::EC);
    let info = plant.client().get("/identities/provisioning").expect(200).json();
    assert_eq!(info, json!({ "source": "manual", "auth": "x509" }));
}

/// There is nobody who could prove anything.
#[test]
fn without_a_certificate_no_identity_names_one() {
    let site = Site::new("");
    let config = site.manual(", csr_subject = { CN = 'ignored', NOPE = 'y' }", "");
    let doubt = |line: &str| line.starts_with("<4>") && line.contains("NOPE") && line.contains("requested");
    let check = ["sh", "-c", r#"exec "$@" --check-config"#, "sh"];
    let checked = site.identityd(&config).wrapper(check).start_and_end();
    assert!(checked.status.success() && checked.log.lines().any(doubt), "{}", checked.log);
    let plant = site.start(&config);
    plant.identityd.wait_for_log(WAIT, doubt);
    plant.own().expect(500);
    let other = plant.cloud.admin("POST", "/issue", &json!({ "common_name": DEVICE }));
    let import = json!({ "pem": other["chain"] });
    plant.certd.client().put("/certificates/device-id", &import).expect(201);
    plant.keyd.client().create_pair("device-id", "ec-p256");
    plant.own().expect(200);
}

#[test]
fn identity_16_by_hand_with_a_certificate_of_the_site() {
    let site = Site::new("");
    let issuance = "[cert_issuance]\ndevice-id = { method = 'local_ca' }\n";
    let certd = site.certd.stop().drop_in("50-local.toml", issuance).start();
    let site = Site { certd, ..site };
    let config = site.manual("", "");
    let plant = site.start(&config);
    plant.own().expect(200);
    let issued = [&plant.certificate("device-id")[..1], &plant.certificate("site-ca")].concat();
    assert_eq!(common_name(&issued), DEVICE);
    lint_chain(&issued, &["-purpose", "sslclient"]);
}

#[test]
fn identity_16_by_hand_known_by_its_thumbprint() {
    let site = Site::new("");
    let config = site.manual("", "");
    site.add_device(&json!({ "type": "none" }));
    let plant = site.start(&config);
    plant.own().expect(200);
    plant.create("telemetry").expect(404);
    let print = hex(&plant.certificate("device-id")[0].digest(MessageDigest::sha256()).unwrap());
    let thumbprint = json!({ "type": "selfSigned", "x509Thumbprint": { "primaryThumbprint": print } });
    plant.cloud.admin("PUT", &format!("/devices/0/{DEVICE}"), &json!({ "authentication": thumbprint }));
    wait_for("the module", BOUND, || (plant.create("telemetry").status == 200).then_some(()));
}

#[test]
fn until_new_settings_have_led_to_a_device_the_old_one_proves_itself_as_before() {
    let mut plant = Plant::provisioned("");
    let auth = |plant: &Plant| plant.own().expect(200).json()["spec"]["auth"].clone();
    assert_eq!(auth(&plant)["certId"], "device-id");
    plant.cloud.fault("dps.register", &json!({ "status": 503 }), None);
    plant.keyd.client().import_key("site-key", "sign", &plant.cloud.enroll());
    let symmetric = "[provisioning.attestation]\nmethod = 'symmetric_key'\nsymmetric_key = 'site-key'\n";
    plant.identityd.write_drop_in("50-attestation.toml", symmetric);
    let info =
        |plant: &Plant| plant.client().get("/identities/provisioning").expect(200).json()["auth"].clone();
    wait_for("the settings", BOUND, || (info(&plant) == "symmetric_key").then_some(()));
    wait_for("DPS", BOUND, || (plant.cloud.count("dps.register") > 1).then_some(()));
    assert_eq!(auth(&plant)["certId"], "device-id");
    plant.create("telemetry").expect(200);
    plant.identityd.restart();
    assert_eq!(auth(&plant)["certId"], "device-id", "also after a restart");
    plant.create("other").expect(200);
    plant.cloud.heal();
    plant.reprovision().expect(204);
    assert_eq!(auth(&plant)["type"], "sas");
}

#[test]
fn with_either_version_of_tls_and_either_kind_of_key() {
    for (algorithm, bits) in [("rsa-3072", 3072), ("ec-p384", 384)] {
        let site = Site::new("");
        site.enroll_group();
        let config = site.dps(&format!("registration_id = '{DEVICE}', key_algorithm = '{algorithm}'"), "");
        let plant = site.start(&config);
        plant.own().expect(200);
        for version in ["1.2", "1.3"] {
            plant.cloud.admin("POST", "/tls", &json!({ "version": version }));
            plant.cloud.unplug();
            plant.cloud.heal();
            plant.create(&format!("by-{version}")).expect(200);
        }
        assert_eq!(plant.key("device-id").unwrap().bits(), bits);
    }
}

#[test]
fn a_long_registration_id_is_cut_in_the_certificate_only() {
    let site = Site::new("");
    let id = format!("{}ü-{}", "x".repeat(63), "y".repeat(10));
    let config = site.dps(&format!("registration_id = '{id}'"), "");
    let plant = site.start(&config);
    let info: Value = plant.client().get("/identities/provisioning").expect(200).json();
    assert_eq!(info["registration_id"], id);
    wait_for("the certificate", WAIT, || {
        (plant.certd.client().get("/certificates/device-id").status == 200).then_some(())
    });
    assert_eq!(common_name(&plant.certificate("device-id")), "x".repeat(63));
}

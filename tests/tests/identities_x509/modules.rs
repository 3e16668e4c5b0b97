//! Modules with certificates, which upstream does not have: known to the hub by thumbprint or by issuer.

use std::fs;

use openssl::{hash::MessageDigest, pkey::Id};
use serde_json::{Value, json};
use suite_tests::{
    harness::BOUND,
    http::{Reply, wait_for},
    keys::{Keys as _, key_file},
    lint::lint_chain,
    openssl::hex,
};

use crate::cloud::{DEVICE, principal};
use crate::plant::{Plant, Site, common_name};

const ISSUANCE: &str =
    "module-cam-1 = { method = 'local_ca' }\nmodule-cam-2 = { method = 'local_ca', expiry_days = 30 }";
const BY_THUMBPRINT: &str = "[module_x509]\nmodules = ['cam-*']\nkey_algorithm = 'ec-p256'\n";

fn plant(more: &str) -> Plant {
    let site = Site::new(ISSUANCE);
    site.enroll_group();
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), more);
    let plant = site.start(&config);
    plant.own().expect(200);
    plant.wait_until_settled();
    plant
}

#[track_caller]
pub(crate) fn auth(reply: Reply) -> Value {
    reply.expect(200).json()["spec"]["auth"].clone()
}

/// Sends an event to the hub as the module; the status.
pub(crate) fn event(plant: &Plant, id: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let pem = plant.certd.client().get(&format!("/certificates/module-{id}")).expect(200).string("pem");
    fs::write(&certificate, pem).unwrap();
    fs::copy(key_file(&plant.keyd.home(), &format!("module-{id}")), &key).unwrap();
    let url = format!(
        "https://{}/devices/{DEVICE}/modules/{id}/messages/events?api-version=2017-11-08-preview",
        plant.cloud.hub(0)
    );
    let output = std::process::Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-d", "{}", "--cacert"])
        .arg(plant.cloud.ca())
        .arg("--cert")
        .arg(&certificate)
        .arg("--key")
        .arg(&key)
        .arg(url)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_module_is_known_by_the_thumbprint_of_its_certificate() {
    let mut plant = plant(BY_THUMBPRINT);
    let made = auth(plant.create("cam-1"));
    let handle = made["keyHandle"].as_str().unwrap();
    assert_eq!(made, json!({ "type": "x509", "keyHandle": handle, "certId": "module-cam-1" }));
    assert_eq!(plant.keyd.client().parameter(handle, "algorithm"), "ECDSA");
    let chain = plant.certificate("module-cam-1");
    assert_eq!(common_name(&chain), format!("{DEVICE}/cam-1"));
    assert!(chain[0].public_key().unwrap().public_eq(&plant.key("module-cam-1").unwrap()));
    lint_chain(&[&chain[..1], &plant.certificate("site-ca")].concat(), &["-purpose", "sslclient"]);
    let at_hub = plant.cloud.module("cam-1").to_string();
    assert!(
        at_hub.contains(&hex(&chain[0].digest(MessageDigest::sha256()).unwrap()).to_uppercase()),
        "{at_hub}"
    );
    assert_eq!(event(&plant, "cam-1"), "204", "the hub believes the module");
    assert_eq!(auth(plant.create("other"))["type"], "sas", "all others have keys");

    plant.cloud.forget_requests();
    assert_eq!(auth(plant.module("cam-1"))["certId"], "module-cam-1");
    assert_eq!(plant.cloud.count("hub.put"), 0, "the hub knows it");
    plant.identityd.restart();
    assert_eq!(auth(plant.module("cam-1"))["certId"], "module-cam-1");
    assert!(plant.certificate("module-cam-1") == chain, "a restart makes nothing new");

    // Somebody removes the certificate: there is a new one, and the hub is told.
    plant.certd.client().delete("/certificates/module-cam-1", None).expect(204);
    assert_eq!(auth(plant.module("cam-1"))["certId"], "module-cam-1");
    assert!(plant.certificate("module-cam-1") != chain);
    assert_eq!(event(&plant, "cam-1"), "204");

    plant.client().delete("/identities/modules/cam-1?type=aziot", None).expect(204);
    assert!(plant.key("module-cam-1").is_none(), "key and certificate go with their module");
    plant.certd.client().get("/certificates/module-cam-1").expect(400);
}

#[test]
fn a_module_is_known_by_the_issuer_of_its_certificate() {
    let plant = plant(&format!("{BY_THUMBPRINT}registration = 'ca'\n"));
    let ca = String::from_utf8(plant.certificate("site-ca")[0].to_pem().unwrap()).unwrap();
    plant.cloud.admin("PUT", "/certificates/site", &json!({ "certificate": ca, "isVerified": true }));
    assert_eq!(auth(plant.create("cam-2"))["type"], "x509");
    assert_eq!(plant.cloud.module("cam-2")["authentication"]["type"], "certificateAuthority");
    assert_eq!(event(&plant, "cam-2"), "204");
}

#[test]
fn a_name_that_has_no_room_in_a_certificate_is_refused_where_the_hub_reads_it_there() {
    let room = 64 - DEVICE.len() - "/".len();
    let [fits, long] = [room, room + 1].map(|length| format!("cam-{}", "x".repeat(length - "cam-".len())));
    let entry = |id: &str| format!("module-{id} = {{ method = 'local_ca' }}\n");
    let site = Site::new(&format!("{}{}", entry(&fits), entry(&long)));
    site.enroll_group();
    let by_issuer = format!("{BY_THUMBPRINT}registration = 'ca'\n");
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), "");
    let identityd = site.identityd(&config).drop_in("50-modules.toml", &by_issuer).start();
    let Site { certd, keyd, cloud } = site;
    let plant = Plant { identityd, certd, keyd, cloud };
    plant.own().expect(200);
    plant.wait_until_settled();
    let message = plant.create(&long).expect(400).string("message");
    assert!(message.contains(&long) && message.contains("thumbprint"), "{message}");
    assert_eq!(plant.cloud.module(&long), Value::Null, "nothing is made at the hub");
    assert_eq!(auth(plant.create(&fits))["type"], "x509");
    plant.identityd.write_drop_in("50-modules.toml", BY_THUMBPRINT);
    wait_for("the setting", BOUND, || (plant.create(&long).status == 200).then_some(()));
    assert_eq!(event(&plant, &long), "204");
}

#[test]
fn without_a_certificate_no_module_is_left_behind() {
    let plant = plant(BY_THUMBPRINT);
    plant.create("cam-without-issuance").expect(500);
    assert_eq!(plant.cloud.module("cam-without-issuance"), Value::Null);
}

#[test]
fn a_principals_module_changes_over_and_back() {
    let principal = principal(41001, "cam-1", "['module']");
    let plant = plant(&principal);
    let agent = plant.as_uid(41001);
    assert_eq!(auth(agent.get("/identities/identity"))["type"], "sas");
    let generation = plant.cloud.module("cam-1")["generationId"].clone();
    plant.identityd.write_drop_in("50-modules.toml", BY_THUMBPRINT);
    wait_for("the certificate", BOUND, || {
        (auth(agent.get("/identities/identity"))["type"] == "x509").then_some(())
    });
    assert_eq!(event(&plant, "cam-1"), "204");
    plant.identityd.remove_drop_in("50-modules.toml");
    wait_for("the key", BOUND, || {
        let is_sas = auth(agent.get("/identities/identity"))["type"] == "sas";
        (is_sas && plant.cloud.module("cam-1")["authentication"]["type"] == "sas").then_some(())
    });
    assert_eq!(plant.cloud.module("cam-1")["generationId"], generation, "it stays the same module");
    assert_eq!(plant.key("module-cam-1").map(|key| key.id()), Some(Id::EC));
}

//! Certificates that are their own issuers: of the device and of a module, new and for a key that is beside the one in place.
//! Each daemon is a user of its own, with no more rights than it needs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use openssl::{
    hash::MessageDigest,
    pkey::{PKey, Private},
    x509::{X509Name, X509Req},
};
use serde_json::json;
use suite_tests::{
    harness::{BOUND, CERTD, Daemon, IDENTITYD, KEYD, Setup},
    http::{Reply, wait_for},
    keys::Keys as _,
    openssl::hex,
};

use crate::cloud::{Cloud, DEVICE};
use crate::modules::{auth, event};
use crate::plant::Plant;

const CERTD_UID: u32 = 41_006;
const IDENTITYD_UID: u32 = 41_007;
const METHODS: &str =
    "[cert_issuance]\ndevice-id = { method = 'self_signed' }\nmodule-cam = { method = 'self_signed' }\n";
const PAIRS: [&str; 4] = ["device-id", "device-id-temp", "module-cam", "module-cam-temp"];

fn principal(uid: u32, what: &str, ids: &[&str]) -> String {
    format!("[[principal]]\nuid = {uid}\n{what} = {}\n", json!(ids))
}

/// keyd and certd, which may use these key pairs.
fn services(of_certd: &[&str]) -> (Daemon, Daemon) {
    let of_identityd = [&["aziot_identityd_master_id"], &PAIRS[..]].concat();
    let keyd = Setup::new(&KEYD)
        .drop_in("10-certd.toml", &principal(CERTD_UID, "keys", of_certd))
        .drop_in("10-identityd.toml", &principal(IDENTITYD_UID, "keys", &of_identityd))
        .start();
    drop(keyd.as_uid(CERTD_UID));
    let certs = principal(IDENTITYD_UID, "certs", &["device-id", "module-cam"]);
    let certd = Setup::new(&CERTD)
        .config(&format!("{METHODS}{certs}"))
        .reach(&KEYD, keyd.setup().socket_path())
        .as_user(CERTD_UID)
        .start();
    drop(certd.as_uid(IDENTITYD_UID));
    (keyd, certd)
}

#[test]
fn a_device_and_a_module_from_nothing() {
    let cloud = Cloud::start(&[]);
    for (path, mode) in [(cloud.ca().parent().unwrap(), 0o755), (cloud.ca().as_path(), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (keyd, certd) = services(&PAIRS);
    let device = |print: &str| {
        let authentication =
            json!({ "type": "selfSigned", "x509Thumbprint": { "primaryThumbprint": print } });
        cloud.admin("PUT", &format!("/devices/0/{DEVICE}"), &json!({ "authentication": authentication }));
    };
    let config = format!(
        "hostname = 'device'\n[provisioning]\nsource = 'manual'\niothub_hostname = '{}'\ndevice_id = '{DEVICE}'\n\
         authentication = {{ method = 'x509', identity_cert = 'device-id', identity_pk = 'device-id', key_algorithm = 'ec-p256' }}\n\
         [module_x509]\nmodules = ['cam']\nkey_algorithm = 'ec-p256'\n",
        cloud.hub(0)
    );
    let identityd = Setup::new(&IDENTITYD)
        .env("SSL_CERT_FILE", cloud.ca())
        .reach(&KEYD, keyd.setup().socket_path())
        .reach(&CERTD, certd.setup().socket_path())
        .config(&config)
        .as_user(IDENTITYD_UID)
        .start();
    let print = |certd: &Daemon| -> Option<String> {
        let reply = certd.client().get("/certificates/device-id");
        let chain = (reply.status == 200).then(|| crate::plant::chain(&reply))?;
        Some(hex(&chain[0].digest(MessageDigest::sha256()).unwrap()))
    };
    let first = wait_for("the certificate of the device", BOUND, || print(&certd));
    device(&first);
    let plant = Plant { identityd, certd, keyd, cloud };
    plant.own().expect(200);
    wait_for("a module with a key", BOUND, || (plant.create("telemetry").status == 200).then_some(()));
    assert_eq!(auth(plant.create("cam"))["certId"], "module-cam");
    assert_eq!(event(&plant, "cam"), "204", "the hub believes the module");
    for id in ["device-id", "module-cam"] {
        let certificate = plant.certificate(id).remove(0);
        let key = plant.key(id).unwrap();
        assert!(certificate.verify(&key).unwrap(), "{id} is its own issuer");
        assert!(plant.key(&format!("{id}-temp")).is_none());
    }

    // Somebody removes it: the new one is for a new key, which is beside the old one until then.
    let key = plant.key("device-id").unwrap();
    plant.certd.client().delete("/certificates/device-id", None).expect(204);
    plant.reprovision();
    let second = wait_for("another certificate", BOUND, || print(&plant.certd));
    assert!(second != first && !plant.key("device-id").unwrap().public_eq(&key));
}

#[test]
fn the_key_that_is_in_the_request_signs_if_it_is_one_of_that_certificate() {
    let (keyd, certd) = services(&["device-id", "device-id-temp", "module-cam"]);
    let client = certd.client();
    let pair = |id: &str| {
        keyd.client().create_pair(id, "ec-p256");
        let file = suite_tests::keys::key_file(&keyd.home(), id);
        PKey::private_key_from_pem(&fs::read(file).unwrap()).unwrap()
    };
    let issue = |id: &str, key: &PKey<Private>| -> Reply {
        client.post("/certificates", &json!({ "certId": id, "csr": request(key) }))
    };
    let next = pair("device-id-temp");
    let first = issue("device-id", &next).expect(201);
    assert!(crate::plant::chain(&client.get("/certificates/device-id"))[0].verify(&next).unwrap());
    assert!(first.string("pem").contains("BEGIN"));
    let key = pair("device-id");
    for (id, key) in
        [("device-id", &key), ("device-id", &next), ("device-id-temp", &key), ("device-id-temp", &next)]
    {
        issue(id, key).expect(201);
        assert!(crate::plant::chain(&client.get(&format!("/certificates/{id}")))[0].verify(key).unwrap());
    }
    let foreign = pair("other");
    issue("device-id", &foreign).expect(500);
    certd.wait_for_log(BOUND, |line| line.contains("is not the key that signed"));

    // keyd does not let certd use the key of the one that is to come.
    let (key, next) = (pair("module-cam"), pair("module-cam-temp"));
    issue("module-cam", &key).expect(201);
    issue("module-cam-temp", &key).expect(201);
    issue("module-cam", &next).expect(500);
    certd.wait_for_log(BOUND, |line| line.contains("[[principal]]") && line.contains("\"module-cam-temp\""));
}

fn request(key: &PKey<Private>) -> String {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", DEVICE).unwrap();
    let mut request = X509Req::builder().unwrap();
    request.set_subject_name(&name.build()).unwrap();
    request.set_pubkey(key).unwrap();
    request.sign(key, MessageDigest::sha256()).unwrap();
    String::from_utf8(request.build().to_pem().unwrap()).unwrap()
}

//! Certificates of modules are made anew before their time is over: in the background, and so that the hub believes the module at
//! any time.

use std::time::{Duration, Instant};

use openssl::{hash::MessageDigest, x509::X509};
use serde_json::{Value, json};
use suite_tests::{harness::BOUND, http::wait_for, openssl::hex};

use crate::cloud::DEVICE;
use crate::modules::{auth, event};
use crate::plant::{Plant, Site};

/// A device with the module `cam`, of whose certificate nine tenths are over.
fn plant() -> Plant {
    let site = Site::new("module-cam = { method = 'est' }");
    site.enroll_group();
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), "[module_x509]\nmodules = ['cam']\n");
    let plant = site.start(&config);
    plant.own().expect(200);
    plant.wait_until_settled();
    est(&plant, 9 * 3600);
    plant.create("cam").expect(200);
    est(&plant, 0);
    plant.cloud.forget_requests();
    plant
}

/// From now on, new certificates began so many seconds ago.
fn est(plant: &Plant, backdate: u32) {
    let label = json!({ "authentication": "basic", "validity_secs": 3600, "backdate_secs": backdate });
    plant.cloud.admin("PUT", "/est/labels/default", &label);
}

fn print(certificate: &X509) -> String {
    hex(&certificate.digest(MessageDigest::sha256()).unwrap()).to_uppercase()
}

/// The thumbprints that the hub knows.
fn thumbprints(plant: &Plant) -> [Value; 2] {
    let known = &plant.cloud.module("cam")["authentication"]["x509Thumbprint"];
    [known["primaryThumbprint"].clone(), known["secondaryThumbprint"].clone()]
}

#[test]
fn a_module_gets_the_next_certificate_while_it_uses_the_one_before() {
    let plant = plant();
    let old = plant.certificate("module-cam").remove(0);
    let key = plant.key("module-cam").unwrap();
    assert_eq!(auth(plant.module("cam"))["certId"], "module-cam");
    let new = wait_for("the next certificate", BOUND, || {
        Some(plant.certificate("module-cam").remove(0)).filter(|new| *new != old)
    });
    wait_for("its key", BOUND, || {
        plant.key("module-cam").filter(|key| key.public_eq(&*new.public_key().unwrap()))
    });
    assert!(!new.public_key().unwrap().public_eq(&key), "with a new key");
    assert!(plant.key("module-cam-temp").is_none());
    plant.certd.client().get("/certificates/module-cam-temp").expect(400);
    assert_eq!(thumbprints(&plant), [json!(print(&new)), json!(print(&old))]);
    assert_eq!(event(&plant, "cam"), "204", "the hub believes the module");
    for _ in 0..3 {
        auth(plant.module("cam"));
    }
    assert_eq!((plant.cloud.count("hub.put"), plant.cloud.count("est.enroll")), (1, 1));
}

/// Many ask for the module at a time, and none of them waits.
#[track_caller]
fn ask_often(plant: &Plant) {
    let asked = Instant::now();
    for _ in 0..20 {
        assert_eq!(auth(plant.module("cam"))["certId"], "module-cam");
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn nobody_waits_for_the_next_certificate() {
    let plant = plant();
    let old = plant.certificate("module-cam");
    plant.cloud.fault("est.enroll", &json!({ "delay_ms": 8000 }), None);
    ask_often(&plant);
    assert!(plant.certificate("module-cam") == old);
    assert_eq!(event(&plant, "cam"), "204");
    wait_for("the next certificate", BOUND, || (plant.certificate("module-cam") != old).then_some(()));
    ask_often(&plant);
    assert_eq!(plant.cloud.count("est.enroll"), 1, "one for all");
}

#[test]
fn without_the_next_certificate_the_one_before_stays() {
    for operation in ["est", "hub.put"] {
        let plant = plant();
        let old = (plant.certificate("module-cam"), thumbprints(&plant));
        plant.cloud.fault(operation, &json!({ "status": 403 }), None);
        ask_often(&plant);
        plant.identityd.wait_for_log(BOUND, |line| line.contains("\"cam\" is not renewed"));
        ask_often(&plant);
        assert_eq!(
            plant.identityd.log().matches("is not renewed").count(),
            1,
            "{operation} is left alone for a while"
        );
        assert!((plant.certificate("module-cam"), thumbprints(&plant)) == old);
        assert_eq!(event(&plant, "cam"), "204", "{operation}");
    }
}

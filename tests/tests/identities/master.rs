//! The master key that keyd derives the keys of modules from, and what becomes of the modules when it is lost.

use std::{fs, thread, time::Duration};

use serde_json::{Value, json};
use suite_tests::{
    http::{unbase64, wait_for},
    keys::{hmac_request, key_file},
    openssl::hmac,
};

use crate::cloud::{Site, WAIT, principal};

#[test]
fn a_master_key_that_is_lost_is_told_and_all_modules_get_new_keys() {
    let mut site = Site::manual(&principal(1001, "principals", "'module'"));
    site.wait_until_settled();
    site.create("apis").expect(200);
    let theirs = site.cloud.add_module("theirs")["authentication"].clone();
    let generations = || ["principals", "apis"].map(|id| site.cloud.module(id)["generationId"].clone());
    let before = generations();
    for id in ["principals", "apis"] {
        assert!(is_believed(&site, id), "{id}");
    }

    // While identityd runs.
    let master = key_file(&site.keyd.home(), "aziot_identityd_master_id");
    let first = fs::read(&master).unwrap();
    fs::remove_file(&master).unwrap();
    site.cloud.forget_requests();
    // So long nobody looks.
    thread::sleep(Duration::from_secs(5));
    wait_for("a key that signs", WAIT, || {
        let identity = site.module("apis").expect(200).json();
        let handle = identity["spec"]["auth"]["keyHandle"].as_str().unwrap().to_owned();
        (site.keyd.client().post("/sign", &hmac_request(&handle, b"message")).status == 200).then_some(())
    });
    wait_for("new keys", WAIT, || {
        ["principals", "apis"].iter().all(|id| is_believed(&site, id)).then_some(())
    });
    assert_ne!(fs::read(&master).unwrap(), first);
    assert_eq!(site.cloud.count("hub.put"), 2, "{}", site.cloud.operations());
    let log = site.identityd.log();
    assert_eq!(log.matches("has been lost or replaced in keyd").count(), 1, "{log}");
    assert_eq!(generations(), before, "they keep their twins");

    // While it does not, and the hub is away when it comes back.
    site.identityd.terminate();
    fs::write(&master, first).unwrap();
    site.cloud.unplug();
    site.identityd.restart();
    for id in ["principals", "apis"] {
        site.module(id).expect(200);
    }
    site.identityd.terminate();
    site.cloud.heal();
    site.cloud.forget_requests();
    site.identityd.restart();
    wait_for("new keys", WAIT, || {
        ["principals", "apis"].iter().all(|id| is_believed(&site, id)).then_some(())
    });
    assert_eq!(site.cloud.count("hub.put"), 2, "{}", site.cloud.operations());
    assert_eq!(["principals", "apis"].map(|id| site.cloud.module(id)["generationId"].clone()), before);

    // What was mended is not mended again, and nothing of it makes a module ours to delete.
    site.cloud.forget_requests();
    site.identityd.restart();
    one_round(&site);
    assert_eq!(
        site.cloud.count("hub.put") + site.cloud.count("hub.delete"),
        0,
        "{}",
        site.cloud.operations()
    );
    assert!(!site.state("prev_state").contains("apis"));
    assert_eq!(site.cloud.module("theirs")["authentication"], theirs, "it never had keys of ours");
}

#[test]
fn a_module_that_cannot_get_its_new_keys_is_nobody_elses_matter() {
    let mut site = Site::manual("");
    site.wait_until_settled();
    for id in ["bad", "good"] {
        site.create(id).expect(200);
    }
    site.identityd.terminate();
    fs::remove_file(key_file(&site.keyd.home(), "aziot_identityd_master_id")).unwrap();
    let rule = json!({ "match": { "operation": "hub.put", "path_regex": "modules/bad" }, "action": { "status": 400 } });
    site.cloud.admin("POST", "/faults", &rule);
    site.cloud.forget_requests();
    site.identityd.restart();
    wait_for("new keys", WAIT, || is_believed(&site, "good").then_some(()));
    wait_for("a warning", WAIT, || site.identityd.log().contains("module \"bad\": ").then_some(()));
    thread::sleep(Duration::from_secs(1));
    let log = site.identityd.log();
    assert!(!log.contains("provisioning is not complete"), "{log}");
    site.cloud.forget_requests();
    site.identityd.restart();
    one_round(&site);
    assert_eq!(site.cloud.count("hub.put"), 0, "{}", site.cloud.operations());
}

#[test]
fn the_first_master_key_changes_no_module_of_others() {
    let mut site = Site::manual("");
    site.wait_until_settled();
    let theirs = site.cloud.add_module("theirs")["authentication"].clone();
    wait_for("the module", Duration::from_secs(5), || (site.names() == ["theirs"]).then_some(()));
    for made in ["ours", "another"] {
        site.identityd.terminate();
        site.cloud.forget_requests();
        site.identityd.restart();
        one_round(&site);
        site.create(made).expect(200);
    }
    assert_eq!(site.cloud.module("theirs")["authentication"], theirs);
}

/// Wait until modules would have been brought in line.
fn one_round(site: &Site) {
    wait_for("a round", WAIT, || (site.cloud.count("hub.list") > 0).then_some(()));
    thread::sleep(Duration::from_millis(300));
}

/// Whether the key that the module `id` gets is one that the hub has.
fn is_believed(site: &Site, id: &str) -> bool {
    let identity = site.module(id).expect(200).json();
    let handle = identity["spec"]["auth"]["keyHandle"].as_str().unwrap().to_owned();
    let signed = site.keyd.client().post("/sign", &hmac_request(&handle, b"message"));
    let Value::String(primary) = &site.cloud.module(id)["authentication"]["symmetricKey"]["primaryKey"]
    else {
        return false;
    };
    signed.status == 200 && signed.bytes("signature") == hmac(&unbase64(primary), b"message")
}

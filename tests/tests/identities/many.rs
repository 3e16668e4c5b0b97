//! Two hundred principals with a module each: how the hub is asked for so much at once, and what is left when that is cut short.
//! Knows the cloud's counters and log.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use suite_tests::{
    http::{unbase64, wait_for},
    keys::Keys,
    openssl::hmac,
};

use crate::cloud::{Cloud, DEVICE, Site, manual, principal};

#[test]
fn identity_55_two_hundred_modules_need_one_handshake_and_are_made_several_at_a_time() {
    let site = many(&json!({ "delay_ms": 30 }));
    all_are_there(&site);
    let counters = counters(&site.cloud);
    let number = |name: &str| counters[name].as_u64().unwrap();
    println!("{} handshakes, {} at most at a time", number("tls_handshakes"), number("most_under_way"));
    assert!(number("tls_handshakes") <= 2, "{counters}");
    assert!((4..=8).contains(&number("most_under_way")), "{counters}");
    // The device does not ask again for what it was told.
    assert_eq!(counters["by_operation"], json!({ "hub.list": 1, "hub.put": 2 * MANY }));
    assert!(site.cloud.seen().iter().all(|seen| seen.version() == "2"));
    is_usable(&site, "m7");
}

#[test]
fn identity_55_without_http2_two_hundred_modules_need_few_handshakes_in_full() {
    let site = many_at(Cloud::start(&[]), &json!({ "http2": "off" }), &[slow_puts()]);
    all_are_there(&site);
    let counters = counters(&site.cloud);
    let number = |name: &str| counters[name].as_u64().unwrap();
    let in_full = number("tls_handshakes") - number("tls_resumed");
    println!("{} connections, {in_full} handshakes in full", number("tls_handshakes"));
    println!("{} requests at most were under way at a time", number("most_under_way"));
    assert!(in_full <= 2, "{counters}");
    assert!((4..=8).contains(&number("most_under_way")), "{counters}");
    assert!(number("tls_handshakes") <= 10, "{counters}");
    assert_eq!(counters["by_operation"], json!({ "hub.list": 1, "hub.put": 2 * MANY }));
    assert!(site.cloud.seen().iter().all(|seen| seen.version() == "1.1"));
    is_usable(&site, "m7");
}

#[test]
fn identity_55_a_hub_that_wants_http1_after_all_is_asked_by_it() {
    let wants = json!({ "match": { "operation": "hub" }, "action": { "want_http1": true } });
    for (tls, faults) in
        [(json!({}), vec![wants, slow_puts()]), (json!({ "http2": "broken" }), vec![slow_puts()])]
    {
        let site = many_at(Cloud::start(&[]), &tls, &faults);
        all_are_there(&site);
        let seen = site.cloud.seen();
        let by_http2 = seen.iter().filter(|seen| seen.version() == "2").count();
        assert!(by_http2 <= 1, "it was told once");
        let puts = seen.iter().filter(|seen| seen.operation() == "hub.put").count();
        assert_eq!(puts, 2 * MANY, "nothing is asked twice");
        is_usable(&site, "m7");
    }
}

#[test]
fn identity_55_57_a_connection_that_is_lost_with_many_requests_on_it_loses_no_module() {
    let lost = json!({ "drop_connection": true, "after": true });
    let site = many_with(&[
        json!({ "match": { "operation": "hub.put" }, "skip": 50, "times": 1, "action": lost }),
        json!({ "match": { "operation": "hub.put" }, "skip": 200, "times": 1, "action": lost }),
        slow_puts(),
    ]);
    all_are_there(&site);
    let counters = counters(&site.cloud);
    let handshakes = counters["tls_handshakes"].as_u64().unwrap();
    assert!((3..=4).contains(&handshakes), "{counters}");
    let seen = site.cloud.seen();
    assert!(seen.iter().all(|seen| seen.operation() != "hub.delete"));
    for id in ["m0", "m100", "m199"] {
        is_usable(&site, id);
    }
}

#[test]
fn identity_74_a_kill_amid_two_hundred_modules_loses_no_generation_and_makes_none_twice() {
    let mut site = many(&json!({ "delay_ms": 60 }));
    for puts in [60, 150] {
        wait_for("modules", LONG, || (site.cloud.count("hub.put") >= puts).then_some(()));
        site.identityd.kill();
        let before = generations(&site.cloud);
        assert!((20..MANY).contains(&before.len()), "{} modules when it was killed", before.len());
        site.identityd.restart();
        wait_for("the list", LONG, || (site.cloud.count("hub.list") > 0).then_some(()));
        let after = generations(&site.cloud);
        assert!(before.iter().all(|(id, generation)| after.get(id) == Some(generation)));
    }
    all_are_there(&site);
    let mut made = BTreeSet::new();
    for seen in site.cloud.seen() {
        assert_ne!(seen.operation(), "hub.delete");
        let is_new = seen.operation() == "hub.put" && seen.header("if-match").is_none();
        assert!(!is_new || seen.status() != 200 || made.insert(seen.line()), "{} twice", seen.line());
    }
    assert_eq!(made.len(), MANY);
    for id in ["m0", "m100", "m199"] {
        is_usable(&site, id);
    }
}

#[test]
fn identity_65_a_hub_that_throttles_is_given_fewer_at_a_time() {
    let throttling = json!({ "status": 429, "retry_after": 3 });
    let site = many_with(&[
        json!({ "match": { "operation": "hub.put" }, "skip": 50, "times": 8, "action": throttling }),
        json!({ "match": { "operation": "hub.put" }, "action": { "delay_ms": 30 } }),
    ]);
    let refused = || counters(&site.cloud)["by_status"]["429"].as_u64();
    wait_for("the refusal", LONG, refused);
    thread::sleep(Duration::from_millis(1500)); // in which nothing more is begun
    let refused = refused();
    assert!(refused.is_some_and(|times| times <= 8), "{refused:?}");
    let puts = site.cloud.count("hub.put");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(site.cloud.count("hub.put"), puts, "it asked for three seconds");
    let generations = generations(&site.cloud);
    site.cloud.forget_requests();
    all_are_there(&site);
    let most = counters(&site.cloud)["most_under_way"].as_u64().unwrap();
    assert!((1..=4).contains(&most), "{most} at a time");
    assert_eq!(site.cloud.count("hub.delete"), 0);
    for (id, generation) in generations {
        assert_eq!(site.cloud.module(&id)["generationId"], generation, "{id} is made anew");
    }
}

#[test]
fn identity_66_a_failure_that_concerns_all_is_met_by_few() {
    let site = many_with(&[
        json!({ "match": { "operation": "hub.put" }, "skip": 50, "action": { "status": 401, "delay_ms": 30 } }),
    ]);
    let refused = || counters(&site.cloud)["by_status"]["401"].as_u64();
    wait_for("the refusal", LONG, refused);
    thread::sleep(Duration::from_secs(2)); // in which nothing more is begun
    assert!(refused().is_some_and(|times| times <= 8), "{:?}", refused());
    site.cloud.heal();
    all_are_there(&site);
}

/// A device with so many principals whose hub does this to each change.
fn many(action: &Value) -> Site {
    many_with(&[json!({ "match": { "operation": "hub.put" }, "action": action })])
}

fn slow_puts() -> Value {
    json!({ "match": { "operation": "hub.put" }, "action": { "delay_ms": 30 } })
}

fn many_with(faults: &[Value]) -> Site {
    many_at(Cloud::start(&[]), &json!({}), faults)
}

fn many_at(cloud: Cloud, tls: &Value, faults: &[Value]) -> Site {
    cloud.admin("POST", "/tls", tls);
    let key = cloud.add_device();
    cloud.settings(&json!({ "module_limit": 1000 }));
    cloud.admin("POST", "/faults", &json!(faults));
    let uids = 2000..;
    let principals: String = uids.zip(names()).map(|(uid, id)| principal(uid, &id, "['module']")).collect();
    let config = manual(&cloud, &principals);
    Site::start(cloud, key, &config)
}

fn names() -> impl Iterator<Item = String> {
    (0..MANY).map(|number| format!("m{number}"))
}

/// Wait until the hub has all modules, with keys of ours.
#[track_caller]
fn all_are_there(site: &Site) {
    wait_for("all modules", LONG, || {
        let written = site.identityd.home().join("prev_state").exists();
        (written && generations(&site.cloud).len() == MANY).then_some(())
    });
    wait_for("the end of that", LONG, || {
        let state = site.state("prev_state");
        names().all(|id| state.contains(&format!("\"{id}\""))).then_some(())
    });
}

/// The device has the key that the hub knows the module by.
fn is_usable(site: &Site, id: &str) {
    let told = site.module(id).expect(200).json();
    let module = site.cloud.module(id);
    assert_eq!(told["spec"]["genId"], module["generationId"]);
    let key = unbase64(module["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap());
    let handle = told["spec"]["auth"]["keyHandle"].as_str().unwrap();
    assert_eq!(site.keyd.client().hmac(handle, b"message"), hmac(&key, b"message"), "{id}");
}

/// The generation of each module at the hub.
fn generations(cloud: &Cloud) -> BTreeMap<String, Value> {
    let device = cloud.admin("GET", &format!("/devices/0/{DEVICE}"), &Value::Null);
    let modules = device["modules"].as_object().cloned().unwrap_or_default();
    modules.into_iter().map(|(id, module)| (id, module["generationId"].clone())).collect()
}

fn counters(cloud: &Cloud) -> Value {
    cloud.admin("GET", "/state", &Value::Null)["counters"].clone()
}

const MANY: usize = 200;
/// How long two hundred modules may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

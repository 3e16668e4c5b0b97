//! Module identities between callers, hub and backup: checklist 20, 22-30, 73.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suite_tests::{
    http::{base64, unbase64, wait_for},
    keys::{Keys, segment},
    openssl::hmac,
};

use crate::cloud::{Cloud, DEVICE, Site, WAIT, hmac64, identityd, keyd, manual, principal};

#[test]
fn identity_20_the_list_has_no_credentials() {
    let site = Site::manual("");
    site.create("b").expect(200);
    site.create("a").expect(200);
    let list = site.client().get("/identities/modules?type=aziot").expect(200).expect_plain().json();
    let identities = list["identities"].as_array().unwrap();
    assert_eq!(identities.len(), 2);
    for identity in identities {
        let members: Vec<&String> = identity["spec"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["deviceId", "gatewayHost", "genId", "hubName", "moduleId"]);
    }
}

#[test]
fn identity_22_23_the_handle_is_the_key_that_the_hub_has() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let keyd = keyd(&key);
    let master: Vec<u8> = (0x64..=0x83).collect();
    keyd.client().import_key("aziot_identityd_master_id", "derive,sign", &master);
    let config = manual(&cloud, "");
    let site = Site { identityd: identityd(&cloud, &keyd, &config).start(), keyd, cloud, key };
    let created = site.create("Agent1").expect(200).expect_plain().json();
    let generation = created["spec"]["genId"].as_str().unwrap();
    let keys = &site.cloud.module("Agent1")["authentication"]["symmetricKey"];
    assert_eq!(keys["primaryKey"], hmac64(&master, &format!("Agent1:{generation}:primary")));
    assert_eq!(keys["secondaryKey"], hmac64(&master, &format!("Agent1:{generation}:secondary")));
    let primary = hmac(&master, format!("Agent1:{generation}:primary").as_bytes());
    let mut handles = Vec::new();
    for identity in
        [created.clone(), site.module("Agent1").expect(200).json(), site.module("Agent1").expect(200).json()]
    {
        assert_eq!(identity["spec"]["moduleId"], "Agent1");
        assert_eq!(identity["spec"]["auth"]["type"], "sas");
        let handle = identity["spec"]["auth"]["keyHandle"].as_str().unwrap().to_owned();
        assert_eq!(base64(site.keyd.client().hmac(&handle, b"message")), base64(hmac(&primary, b"message")));
        assert!(!handles.contains(&handle), "each call gives a fresh handle");
        handles.push(handle);
    }
}

#[test]
fn identity_24_25_create_makes_two_puts_and_not_two_modules() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.forget_requests();
    site.create("telemetry").expect(200);
    let seen = site.cloud.seen();
    let target = format!("PUT /devices/{DEVICE}/modules/telemetry?api-version=2017-11-08-preview");
    assert_eq!(seen.iter().map(|seen| seen.line()).collect::<Vec<_>>(), [target.clone(), target]);
    assert_eq!(seen[0].header("if-match"), None);
    assert_eq!(seen[0].0["body"], json!({ "moduleId": "telemetry", "deviceId": DEVICE }));
    assert_eq!(seen[1].header("if-match"), Some("*"));
    assert_eq!(seen[1].0["body"]["authentication"]["type"], "sas");
    assert!(seen[1].0["body"].get("managedBy").is_none());
    let message = site.create("telemetry").expect(404).string("message");
    assert!(message.contains("already exists"), "{message}");
    let foreign = site.cloud.add_module("foreign")["authentication"].clone();
    site.create("foreign").expect(404);
    assert_eq!(site.cloud.module("foreign")["authentication"], foreign, "somebody else's keys stay");
}

#[test]
fn identity_24_a_module_that_did_not_get_its_keys_is_removed_again() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.admin(
        "POST",
        "/faults",
        &json!({ "match": { "operation": "hub.put" }, "skip": 1, "action": { "status": 400 } }),
    );
    site.create("half").expect(404);
    assert_eq!(site.cloud.module("half"), Value::Null);
    site.cloud.heal();
    site.create("half").expect(200);
}

#[test]
fn identity_24_a_module_whose_creation_was_not_heard_of_is_finished() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.fault("hub.put", &json!({ "after": true, "reset": true }), Some(1));
    let created = site.create("unheard").expect(200).json();
    let generation = created["spec"]["genId"].as_str().unwrap();
    assert_eq!(site.cloud.module("unheard")["generationId"], generation);
    let handle = created["spec"]["auth"]["keyHandle"].as_str().unwrap();
    let primary = site.cloud.module("unheard")["authentication"]["symmetricKey"]["primaryKey"].clone();
    let key = unbase64(primary.as_str().unwrap());
    assert_eq!(site.keyd.client().hmac(handle, b"message"), hmac(&key, b"message"));
}

#[test]
fn identity_26_update_repairs_the_keys_and_keeps_the_generation() {
    let site = Site::manual("");
    let generation = site.create("m").expect(200).json()["spec"]["genId"].clone();
    let keys = site.cloud.module("m")["authentication"].clone();
    let client = site.client();
    for (path, body) in [
        ("/identities/modules/m?type=aziot", json!({})),
        ("/identities/modules/m?type=aziot", json!({ "type": "aziot", "moduleId": "m" })),
        ("/identities/modules/m", json!({ "type": "aziot", "moduleId": "m" })),
    ] {
        site.cloud.forget_requests();
        let updated = client.put(path, &body).expect(200).json();
        assert_eq!(updated["spec"]["genId"], generation);
        assert_eq!(site.cloud.operations(), "hub.get hub.put");
        assert_eq!(site.cloud.seen()[1].header("if-match"), Some("*"));
        assert_eq!(site.cloud.module("m")["authentication"], keys);
    }
    client.put("/identities/modules/nowhere?type=aziot", &json!({})).expect(404);
    client.put("/identities/modules/m?type=local", &json!({})).expect(400);
    let foreign = site.cloud.add_module("foreign")["generationId"].clone();
    let taken = client.put("/identities/modules/foreign?type=aziot", &json!({})).expect(200).json();
    assert_eq!(taken["spec"]["genId"], foreign);
}

#[test]
fn identity_27_delete() {
    let site = Site::manual("");
    site.create("m").expect(200);
    site.cloud.forget_requests();
    let client = site.client();
    client.delete("/identities/modules/m?type=aziot", None).expect(204);
    assert_eq!(site.cloud.seen()[0].header("if-match"), Some("*"));
    assert_eq!(site.cloud.module("m"), Value::Null);
    client.delete("/identities/modules/m?type=aziot", None).expect(404);
    site.module("m").expect(404);
    site.cloud.settings(&json!({ "delete_status": 200, "put_status": 201 }));
    site.create("m").expect(200);
    client.delete("/identities/modules/m?type=aziot", None).expect(204);
}

#[test]
fn identity_28_with_the_hub_away_what_was_seen_is_served() {
    let mut site = Site::manual("");
    site.create("mine").expect(200);
    site.cloud.add_module("foreign");
    assert_eq!(site.names(), ["foreign", "mine"], "what others make is seen");
    site.cloud.unplug();
    site.identityd.restart();
    for id in ["mine", "foreign"] {
        let identity = site.module(id).expect(200).json();
        assert_eq!(identity["spec"]["moduleId"], id);
        assert!(identity["spec"]["auth"]["keyHandle"].is_string());
    }
    assert_eq!(site.names(), ["foreign", "mine"]);
    site.module("unseen").expect(404);
}

#[test]
fn identity_28_decided_who_reads_what_is_known_never_waits() {
    let site = Site::manual("");
    site.create("m").expect(200);
    site.names();
    site.cloud.fault("hub", &json!({ "stall": true }), None);
    let start = Instant::now();
    for _ in 0..20 {
        site.module("m").expect(200);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(site.names(), ["m"]);
    assert!(start.elapsed() < Duration::from_secs(4), "a list waits for 2 s: {:?}", start.elapsed());
    let late = Instant::now();
    assert_eq!(site.names(), ["m"]);
    assert!(late.elapsed() < Duration::from_secs(1), "and not again: {:?}", late.elapsed());
}

#[test]
fn identity_28_decided_what_the_hub_has_lost_is_lost() {
    let site = Site::manual("");
    site.create("m").expect(200);
    site.cloud.remove_module("m");
    assert_eq!(site.names(), [""; 0]);
    site.module("m").expect(404);
    let made = site.cloud.add_module("m")["generationId"].clone();
    // What the hub did not know is not asked for again at once.
    let found = wait_for("the new one", WAIT, || Some(site.module("m")).filter(|reply| reply.status == 200));
    assert_eq!(found.json()["spec"]["genId"], made);
}

#[test]
fn identity_29_the_cache_can_be_preferred() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let config = format!(
        "prefer_module_identity_cache = true\n{}",
        manual(&cloud, &principal(1001, "known", "['module']"))
    );
    let site = Site::start(cloud, key, &config);
    site.wait_until_settled();
    site.cloud.forget_requests();
    assert_eq!(site.names(), ["known"]);
    site.module("known").expect(200);
    assert_eq!(site.cloud.operations(), "");
    site.cloud.add_module("foreign");
    assert_eq!(site.names(), ["known"]);
    site.module("foreign").expect(200);
    site.module("foreign").expect(200);
    assert_eq!(site.cloud.operations(), "hub.get");
    assert_eq!(site.names(), ["foreign", "known"]);
}

#[test]
fn identity_30_73_what_can_be_no_name_is_refused_here() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.forget_requests();
    let client = site.client();
    for id in [" ", "a b", "..", "...", "../../x", "a/b", "é", "a\u{7}", &"x".repeat(129)] {
        let path = format!("/identities/modules/{}?type=aziot", segment(id));
        client.get(&path).expect(400);
        client.put(&path, &json!({})).expect(400);
        client.delete(&path, None).expect(400);
        site.create(id).expect(400);
    }
    site.create("").expect(400);
    client.get("/identities/modules/..%2F..%2Fx?type=aziot").expect(400);
    assert_eq!(site.cloud.operations(), "");
    site.cloud.add_module("$edgeAgent");
    site.client().put("/identities/modules/$edgeAgent?type=aziot", &json!({})).expect(200);
    for id in ["$edgeAgent", "100%", "a?b#c", "x(1)'=@"] {
        if id != "$edgeAgent" {
            site.create(id).expect(200);
        }
        site.module(&segment(id)).expect(200);
    }
    for seen in site.cloud.seen() {
        assert!(seen.line().contains(&format!(" /devices/{DEVICE}/modules/")), "{}", seen.line());
    }
}

#[test]
fn identity_66_a_busy_hub_is_asked_again_a_few_times() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.fault("hub.put", &json!({ "status": 503 }), Some(1));
    site.create("later").expect(200);
    site.cloud.fault("hub.put", &json!({ "status": 503, "retry_after": 3000 }), None);
    let start = Instant::now();
    site.create("never").expect(404);
    assert!(start.elapsed() < Duration::from_secs(10), "a pause beyond the deadline is not begun");
}

#[test]
fn identity_24_decided_what_cannot_be_read_is_no_reason_to_delete() {
    let site = Site::manual("");
    site.wait_until_settled();
    let foreign = site.cloud.add_module("foreign");
    let other = json!({ "moduleId": "other", "deviceId": DEVICE, "generationId": "1" }).to_string();
    let of_another = json!({ "status": 200, "body": other });
    let (busy, truncated) = (json!({ "status": 503 }), json!({ "truncated": true }));
    for (put, get) in [
        // Somebody else on the way says so.
        (json!({ "status": 200, "body": "<html>login</html>" }), None),
        (of_another.clone(), None),
        // The hub says next that the module exists.
        (busy.clone(), Some(("hub.get", truncated.clone(), 0))),
        (busy, Some(("hub.put", json!({ "status": 400 }), 2))),
    ] {
        site.cloud.fault("hub.put", &put, Some(1));
        if let Some((operation, action, skip)) = &get {
            let fault = json!({ "match": { "operation": operation }, "skip": skip, "action": action });
            site.cloud.admin("POST", "/faults", &fault);
        }
        site.create("foreign").expect(404);
        assert_eq!(site.cloud.module("foreign"), foreign, "{put} {get:?}: {}", site.cloud.operations());
        site.cloud.heal();
    }
    // So does what the hub has made without our knowledge.
    site.cloud.fault("hub.put", &truncated, Some(1));
    site.create("half").expect(404);
    let doubt =
        |line: &str| line.contains("\"half\" may have been made") && line.contains("update or delete");
    site.identityd.wait_for_log(WAIT, doubt);
    site.client().put("/identities/modules/half?type=aziot", &json!({})).expect(200);
    site.cloud.fault("hub.get", &of_another, None);
    site.module("asked").expect(404);
}

/// A pause that others are asked for does not leave half of what has begun.
#[test]
fn identity_24_decided_what_has_begun_is_finished_while_others_pause() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.create("warm").expect(200);
    site.cloud.forget_requests();
    for (id, action) in
        [("begun", json!({ "delay_ms": 3000 })), ("refused", json!({ "status": 429, "retry_after": 15 }))]
    {
        let matched = json!({ "path_regex": format!("/modules/{id}$") });
        site.cloud.admin("POST", "/faults", &json!({ "match": matched, "action": action, "times": 1 }));
    }
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| site.create("begun"));
        wait_for("the first half", WAIT, || (site.cloud.count("hub.put") == 1).then_some(()));
        scope.spawn(|| site.create("refused").expect(200));
        begun.join().unwrap().expect(200);
    });
}

#[test]
fn identity_65_a_throttling_hub_is_given_the_time_it_asks_for() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.forget_requests();
    site.cloud.fault("hub.put", &json!({ "status": 429, "retry_after": 4 }), Some(1));
    std::thread::scope(|scope| {
        scope.spawn(|| site.create("m").expect(200));
        wait_for("the refusal", WAIT, || (site.cloud.count("hub.put") > 0).then_some(()));
        std::thread::sleep(Duration::from_secs(1));
        // Refused at once, which says nothing of what the hub would say to others.
        site.module("unknown").expect(404);
        site.create("other").expect(200);
    });
    let seen = site.cloud.seen();
    assert_eq!((seen[0].status(), seen[1].status()), (429, 200));
    assert!(seen[1].time_ms() - seen[0].time_ms() >= 4000, "the second shares the pause: {seen:?}");
}

#[test]
fn identity_65_decided_one_answer_closes_the_way_for_all() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    cloud.fault("hub", &json!({ "status": 503, "retry_after": 100 }), None);
    let config = manual(&cloud, &principal(1001, "new", "['module']"));
    let site = Site::start(cloud, key, &config);
    let begun = Instant::now();
    site.as_uid(1001).get("/identities/identity").expect(404);
    for id in ["a", "b", "c"] {
        site.create(id).expect(404);
        site.module(id).expect(404);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "nobody waits: {:?}", begun.elapsed());
    assert_eq!(site.cloud.operations(), "hub.list");
}

/// Whoever asks while somebody else's list is under way joins it, unless it was asked for before his own change.
#[test]
fn identity_65_a_list_that_was_asked_for_before_a_change_hides_none() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.create("old").expect(200);
    site.create("kept").expect(200);
    site.cloud.fault("hub.list", &json!({ "delay_ms": 1500 }), None);
    std::thread::scope(|scope| {
        site.cloud.forget_requests();
        let early = scope.spawn(|| site.names());
        wait_for("the early list", WAIT, || (site.cloud.count("hub.list") > 0).then_some(()));
        site.client().delete("/identities/modules/old?type=aziot", None).expect(204);
        site.create("new").expect(200);
        assert_eq!(site.names(), ["kept", "new"]);
        early.join().expect("a list");
    });
}

#[test]
fn identity_65_decided_readers_share_one_list_call() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.forget_requests();
    site.cloud.fault("hub.list", &json!({ "delay_ms": 500 }), None);
    let clients: Vec<_> = (0..8).map(|_| site.client()).collect();
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| client.get("/identities/modules?type=aziot").expect(200));
        }
    });
    assert!(site.cloud.count("hub.list") <= 2, "{}", site.cloud.operations());
    site.cloud.heal();
    site.create("other").expect(200);
    site.cloud.forget_requests();
    for _ in 0..20 {
        assert_eq!(site.names(), ["other"]);
    }
    let lists = site.cloud.count("hub.list");
    assert!((1..20).contains(&lists), "a list is good for a moment: {lists} were asked for");
    site.cloud.add_module("foreign");
    wait_for("what others make", Duration::from_secs(4), || (site.names().len() == 2).then_some(()));
    site.client().delete("/identities/modules/other?type=aziot", None).expect(204);
    assert_eq!(site.names(), ["foreign"], "what was changed here is seen at once");
    site.create("another").expect(200);
    site.cloud.forget_requests();
    site.cloud.fault("hub.list", &json!({ "status": 429, "retry_after": 600 }), None);
    for _ in 0..5 {
        site.names();
    }
    wait_for("the refusal", WAIT, || (site.cloud.count("hub.list") > 0).then_some(()));
    assert!(
        site.cloud.count("hub.list") <= 3,
        "after 429 the hub is left alone: {}",
        site.cloud.operations()
    );
}

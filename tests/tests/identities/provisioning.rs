//! How the device gets its identity, and keeps it: checklist 49-51, 54, 57-61.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use suite_tests::http::wait_for;

use crate::cloud::{Cloud, DEVICE, Site, WAIT, dps, identityd, keyd, principal};

fn reprovision(site: &Site) -> suite_tests::http::Reply {
    site.client().post("/identities/device/reprovision", &json!({ "type": "aziot" }))
}

#[test]
fn identity_49_the_first_start() {
    let site = Site::dps(&principal(1001, "m", "['module']"));
    let identity = site.own().expect(200).json();
    assert_eq!(identity["spec"]["hubName"], site.cloud.hub(0));
    assert_eq!(identity["spec"]["deviceId"], DEVICE);
    site.wait_until_settled();
    assert_eq!(site.cloud.operations(), "dps.register dps.poll hub.list hub.put hub.put");
    let seen = site.cloud.seen();
    assert!(seen[1].time_ms() - seen[0].time_ms() >= 2000, "DPS asked for 2 s");
    let hub = site.cloud.hub(0);
    let expected =
        format!("hub_name = \"{hub}\"\nlocal_gateway_hostname = \"{hub}\"\ndevice_id = \"{DEVICE}\"\n");
    assert_eq!(site.state("device_info"), expected);
}

#[test]
fn identity_49_without_a_wish_of_dps_the_pause_is_5_s() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.settings(&json!({ "retry_after": null }));
    let config = dps(&cloud, "");
    let site = Site::start(cloud, key, &config);
    site.own().expect(200);
    let seen = site.cloud.seen();
    assert!(seen[1].time_ms() - seen[0].time_ms() >= 5000, "{seen:?}");
}

#[test]
fn identity_49_decided_who_asks_early_is_held_and_woken() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.fault("dps.register", &json!({ "delay_ms": 2000 }), None);
    let config = dps(&cloud, &principal(1001, "m", "['module']"));
    let site = Site::start(cloud, key, &config);
    let process = site.as_uid(1001);
    thread::scope(|scope| {
        let early = scope.spawn(|| process.get("/identities/identity"));
        let start = Instant::now();
        site.client().get("/identities/provisioning").expect(200);
        site.client().get("/identities/modules?type=aziot").expect(400);
        assert!(start.elapsed() < Duration::from_secs(1), "nobody else waits");
        site.own().expect(200);
        let identity = early.join().unwrap().expect(200).json();
        assert_eq!(identity["spec"]["moduleId"], "m", "and its module is waited for");
    });
}

#[test]
fn identity_49_decided_who_waits_does_not_delay_the_end() {
    let cloud = Cloud::start(&[]);
    cloud.unplug();
    let config = dps(&cloud, "");
    let mut site = Site::start(cloud, vec![7; 32], &config);
    let mut held = site.client().connect();
    held.send(site.client().bytes("POST", "/identities/device", Some(&json!({ "type": "aziot" }))));
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    assert!(site.identityd.terminate().success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    held.reply().expect(400);
}

#[test]
fn identity_50_51_a_restart_asks_dps_only_if_nothing_is_known() {
    let mut site = Site::provisioned("");
    site.cloud.forget_requests();
    site.identityd.restart();
    site.own().expect(200);
    wait_for("the hub to be asked", WAIT, || (site.cloud.count("hub.list") > 0).then_some(()));
    assert_eq!(site.cloud.operations(), "hub.list");
    let good = site.state("device_info");
    for garbled in ["", "hub_name = ", "hub_name = 'x'\n", "unprovisioned"] {
        site.identityd.terminate();
        fs::write(site.identityd.home().join("device_info"), garbled).unwrap();
        site.cloud.forget_requests();
        site.identityd.restart();
        site.own().expect(200);
        assert_eq!(site.cloud.count("dps.register"), 1, "{garbled:?}: {}", site.cloud.operations());
        assert_eq!(site.state("device_info"), good, "{garbled:?}");
    }
}

#[test]
fn identity_50_decided_changed_settings_are_noticed_at_the_start() {
    let mut site = Site::provisioned("");
    site.identityd.terminate();
    let config = dps(&site.cloud, "").replace("registration_id = 'press-17'", "registration_id = 'press-18'");
    fs::write(site.identityd.setup().main_file(), config).unwrap();
    site.cloud.forget_requests();
    site.identityd.restart();
    wait_for("the registration", WAIT, || (site.cloud.count("dps.register") > 0).then_some(()));
    assert_eq!(
        site.own().expect(200).json()["spec"]["deviceId"],
        DEVICE,
        "the old identity until there is a new one"
    );
}

#[test]
fn identity_54_what_no_principal_wants_is_deleted_and_nothing_else() {
    let mut site = Site::provisioned(&format!(
        "{}{}",
        principal(1001, "goes", "['module']"),
        principal(1002, "stays", "['module']")
    ));
    site.cloud.add_module("foreign");
    site.create("managed").expect(200);
    site.identityd.terminate();
    fs::write(site.identityd.setup().main_file(), dps(&site.cloud, &principal(1002, "stays", "['module']")))
        .unwrap();
    let stays = site.cloud.module("stays");
    site.cloud.forget_requests();
    site.identityd.restart();
    wait_for("the module to go", WAIT, || site.cloud.module("goes").is_null().then_some(()));
    assert_eq!(site.cloud.operations(), "hub.list hub.delete");
    assert_eq!(site.names(), ["foreign", "managed", "stays"]);
    assert_eq!(site.cloud.module("stays"), stays);
}

#[test]
fn identity_54_decided_one_modules_failure_is_nobody_elses() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    let rule = json!({ "match": { "operation": "hub.put", "path_regex": "modules/bad" }, "action": { "status": 400 } });
    cloud.admin("POST", "/faults", &rule);
    let config = dps(&cloud, &["a", "bad", "c"].map(|name| principal(1001, name, "['module']")).concat());
    let site = Site::start(cloud, key, &config);
    site.own().expect(200);
    wait_for("the others", WAIT, || (!site.cloud.module("c").is_null()).then_some(()));
    assert!(!site.cloud.module("a").is_null());
    site.cloud.heal();
    wait_for("the last one", WAIT, || (!site.cloud.module("bad").is_null()).then_some(()));
}

#[test]
fn identity_57_58_a_hub_that_is_away_stops_nobody() {
    for fault in [None, Some(500), Some(503)] {
        let mut site = Site::provisioned(&principal(1001, "m", "['module']"));
        site.identityd.terminate();
        match fault {
            None => site.cloud.unplug(),
            Some(status) => site.cloud.fault("hub", &json!({ "status": status }), None),
        }
        site.cloud.forget_requests();
        site.identityd.restart();
        site.own().expect(200);
        site.as_uid(1001).get("/identities/identity").expect(200);
        site.module("m").expect(200);
        assert_eq!(site.names(), ["m"]);
        thread::sleep(Duration::from_secs(1));
        assert_eq!(site.cloud.count("dps"), 0, "{fault:?}: {}", site.cloud.operations());
    }
}

#[test]
fn identity_58_decided_a_throttling_hub_is_no_reason_to_register() {
    let mut site = Site::provisioned("");
    site.identityd.terminate();
    site.cloud.fault("hub.list", &json!({ "status": 429, "retry_after": 900 }), None);
    site.cloud.forget_requests();
    for _ in 0..3 {
        site.identityd.restart();
        site.own().expect(200);
        thread::sleep(Duration::from_millis(700));
    }
    assert_eq!(site.cloud.operations(), "hub.list", "restarts are no way around Retry-After");
}

#[test]
fn identity_59_a_hub_that_does_not_know_us_leads_to_one_registration() {
    let mut site = Site::provisioned(&principal(1001, "m", "['module']"));
    site.identityd.terminate();
    site.cloud.fault("hub.list", &json!({ "status": 401 }), Some(1));
    site.cloud.forget_requests();
    site.identityd.restart();
    site.own().expect(200);
    wait_for("the list", WAIT, || (site.cloud.count("hub.list") == 2).then_some(()));
    assert_eq!(site.cloud.operations(), "hub.list dps.register dps.poll hub.list");
}

#[test]
fn identity_59_decided_a_hub_that_never_knows_us_causes_no_storm() {
    let mut site = Site::provisioned("");
    site.identityd.terminate();
    site.cloud.fault("hub.list", &json!({ "status": 401 }), None);
    site.cloud.forget_requests();
    site.identityd.restart();
    site.own().expect(200);
    thread::sleep(Duration::from_secs(12));
    assert!(site.identityd.is_running());
    assert!(site.cloud.count("dps.register") <= 3, "{}", site.cloud.operations());
}

#[test]
fn identity_60_reprovisioning_registers_and_keeps_the_modules() {
    let site = Site::provisioned(&principal(1001, "m", "['module']"));
    site.create("managed").expect(200);
    let generation = |id: &str| site.cloud.module(id)["generationId"].clone();
    let before = (generation("m"), generation("managed"));
    site.cloud.forget_requests();
    reprovision(&site).expect(204).expect_plain();
    assert_eq!(site.cloud.operations(), "dps.register dps.poll hub.list hub.put");
    assert_eq!((generation("m"), generation("managed")), before);
    site.as_uid(1001).get("/identities/identity").expect(200);
}

#[test]
fn identity_60_a_move_to_another_hub() {
    let site = Site::provisioned(&principal(1001, "m", "['module']"));
    site.create("managed").expect(200);
    let to = json!({ "hub": site.cloud.hub(1) });
    site.cloud.admin("POST", &format!("/registrations/{DEVICE}/reassign"), &to);
    reprovision(&site).expect(204);
    assert_eq!(site.own().expect(200).json()["spec"]["hubName"], site.cloud.hub(1));
    assert_eq!(site.names(), ["m"]);
    assert!(site.state("device_info").contains(&site.cloud.hub(1)));
    site.module("managed").expect(404);
}

#[test]
fn identity_61_decided_a_failed_reprovisioning_loses_nothing() {
    let mut site = Site::provisioned(&principal(1001, "m", "['module']"));
    site.cloud.fault("dps", &json!({ "status": 401 }), None);
    let files = ["device_info", "prev_state"].map(|name| site.state(name));
    reprovision(&site).expect(404);
    site.own().expect(200);
    site.module("m").expect(200);
    assert_eq!(["device_info", "prev_state"].map(|name| site.state(name)), files);
    site.identityd.restart();
    site.own().expect(200);
    site.cloud.heal();
    reprovision(&site).expect(204);
    site.own().expect(200);
}

#[test]
fn identity_60_decided_two_at_a_time_are_one() {
    let site = Site::provisioned("");
    site.cloud.forget_requests();
    thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| reprovision(&site).status));
        assert_eq!(both.map(|one| one.join().unwrap()), [204, 204]);
    });
    assert_eq!(site.cloud.count("dps.register"), 1, "{}", site.cloud.operations());
}

#[test]
fn identity_61_decided_neither_dps_nor_keyd_can_end_the_process() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.unplug();
    let mut keyd = keyd(&key);
    keyd.terminate();
    let config = dps(&cloud, &principal(1001, "m", "['module']"));
    let mut identityd = identityd(&cloud, &keyd, &config).start();
    let client = identityd.client().version("2022-08-01");
    client.get("/identities/provisioning").expect(200);
    let message = client.get("/identities/modules?type=aziot").expect(400).string("message");
    assert!(message.contains("not provisioned"), "{message}");
    thread::sleep(Duration::from_secs(2));
    keyd.restart();
    cloud.heal();
    let reply = client.post("/identities/device", &json!({ "type": "aziot" })).expect(200).json();
    assert_eq!(reply["spec"]["deviceId"], DEVICE);
    assert!(identityd.is_running());
    wait_for("the module", WAIT, || (cloud.module("m") != Value::Null).then_some(()));
}

#[test]
fn identity_59_decided_a_device_that_was_deleted_comes_back_by_itself() {
    let site = Site::provisioned(&principal(1001, "m", "['module']"));
    site.cloud.admin("POST", "/forget", &Value::Null);
    site.client().get("/identities/modules?type=aziot").expect(200);
    wait_for("the device to be registered again", Duration::from_secs(90), || {
        (!site.cloud.module("m").is_null()).then_some(())
    });
    site.as_uid(1001).get("/identities/identity").expect(200);
}

#[test]
fn identity_65_decided_dps_is_asked_again_when_it_said_and_a_restart_changes_nothing() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.fault("dps.register", &json!({ "status": 429, "retry_after": 8 }), Some(1));
    let config = dps(&cloud, "");
    let mut site = Site::start(cloud, key, &config);
    wait_for("the refusal", WAIT, || (site.cloud.count("dps.register") == 1).then_some(()));
    wait_for("the memo", WAIT, || site.identityd.home().join("provisioning_memo").exists().then_some(()));
    thread::sleep(Duration::from_secs(2));
    site.identityd.kill();
    site.identityd.restart();
    site.own().expect(200);
    let seen = site.cloud.seen();
    assert_eq!((seen[0].status(), seen[1].operation()), (429, "dps.register"));
    let waited = seen[1].time_ms() - seen[0].time_ms();
    // Five seconds are to chance, three to a busy machine and to whole seconds.
    assert!((8_000..16_000).contains(&waited), "{waited} ms");
}

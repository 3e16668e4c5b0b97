//! A hub or DPS that refuses: what local callers may cost it, what they are told meanwhile, and that nothing is given up that
//! may yet succeed. Knows the simulator's log.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use suite_tests::http::wait_for;

use crate::cloud::{Cloud, Site, WAIT, dps, principal};

fn reprovision(site: &Site) -> u16 {
    site.client().post("/identities/device/reprovision", &json!({ "type": "aziot" })).status
}

#[test]
fn identity_28_decided_readers_of_an_unknown_module_share_what_a_hub_in_trouble_said() {
    // The second is a read that waits for the hub while nothing is known to be wrong.
    let sky = [
        (json!({ "status": 401 }), 1, 4),
        (json!({ "status": 403 }), 1, 2),
        (json!({ "status": 404 }), 1, 6),
        (json!({ "status": 429, "retry_after": 600 }), 1, 2),
        (json!({ "status": 503 }), 8, 8),
        (json!({ "stall": true }), 8, 4),
    ];
    thread::scope(|scope| {
        for (action, first, budget) in sky {
            scope.spawn(move || {
                let site = Site::manual("");
                site.wait_until_settled();
                site.cloud.fault("hub", &action, None);
                site.cloud.forget_requests();
                let begun = Instant::now();
                site.module("unseen").expect(404);
                assert!(begun.elapsed() < Duration::from_secs(first), "{action}: {:?}", begun.elapsed());
                let begun = Instant::now();
                let mut times = Vec::new();
                while begun.elapsed() < Duration::from_secs(8) {
                    for id in ["unseen", "another"] {
                        let asked = Instant::now();
                        site.module(id).expect(404);
                        times.push(asked.elapsed());
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                times.sort();
                // Most of them; the others find out whether the hub is well again, and this machine is busy.
                let most = times[times.len() * 95 / 100];
                assert!(most < Duration::from_millis(250), "{action}: {most:?}");
                let asked = site.cloud.count("hub");
                assert!(asked <= budget, "{action}: {asked} of {budget}: {}", site.cloud.operations());
            });
        }
    });
}

#[test]
fn identity_28_decided_nobody_waits_for_a_module_that_a_hub_in_trouble_is_to_make() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.fault("hub", &json!({ "stall": true }), None);
    site.module("unseen").expect(404);
    site.identityd.write_drop_in("50-new.toml", &principal(1001, "new", "['module']"));
    wait_for("the drop-in", WAIT, || {
        (site.as_uid(1001).get("/identities/identity").status != 401).then_some(())
    });
    let begun = Instant::now();
    site.as_uid(1001).get("/identities/identity").expect(404);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn identity_28_decided_readers_find_a_hub_that_is_well_again() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.add_module("foreign");
    site.cloud.fault("hub", &json!({ "status": 503 }), None);
    site.module("foreign").expect(404);
    site.cloud.heal();
    let begun = Instant::now();
    wait_for("the module", WAIT, || (site.module("foreign").status == 200).then_some(()));
    println!("found after {:?}", begun.elapsed());
    site.module("late").expect(404);
    site.create("late").expect(200);
    site.module("late").expect(200);
}

#[test]
fn identity_26_decided_an_update_that_finds_no_module_forgets_it() {
    let site = Site::manual("");
    site.create("m").expect(200);
    site.cloud.remove_module("m");
    site.client().put("/identities/modules/m?type=aziot", &json!({})).expect(404);
    site.module("m").expect(404);
}

#[test]
fn identity_59_decided_a_change_that_is_refused_finds_out_that_the_device_was_deleted() {
    let site = Site::provisioned("");
    site.cloud.admin("POST", "/forget", &Value::Null);
    site.cloud.forget_requests();
    site.create("m").expect(404);
    wait_for("the device to be registered again", Duration::from_secs(90), || {
        (site.cloud.count("dps.register") > 0).then_some(())
    });
    wait_for("a module", WAIT, || (site.create("m").status == 200).then_some(()));
}

#[test]
fn identity_60_decided_a_retry_outlives_a_reprovisioning_before_it() {
    let site = Site::provisioned("");
    site.cloud.fault("hub.put", &json!({ "status": 400 }), Some(1));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(reprovision(&site), 204));
        thread::sleep(Duration::from_millis(300));
        site.identityd.write_drop_in("50-new.toml", &principal(1001, "new", "['module']"));
    });
    wait_for("the module", WAIT, || (!site.cloud.module("new").is_null()).then_some(()));
}

#[test]
fn identity_60_decided_wishes_for_registrations_are_no_storm() {
    let site = Site::provisioned("");
    site.cloud.fault("dps", &json!({ "status": 401 }), None);
    site.cloud.forget_requests();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(reprovision(&site), 404);
    }
    assert_eq!(site.cloud.count("dps.register"), 1, "{}", site.cloud.operations());
    site.cloud.heal();
    wait_for("a registration", WAIT, || {
        thread::sleep(Duration::from_millis(100));
        (reprovision(&site) == 204).then_some(())
    });
}

#[test]
fn identity_65_decided_wishes_are_no_way_around_what_dps_asks_for() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.fault("dps.register", &json!({ "status": 429, "retry_after": 600 }), None);
    let config = dps(&cloud, "");
    let mut site = Site::start(cloud, key, &config);
    wait_for("the refusal", WAIT, || (site.cloud.count("dps") > 0).then_some(()));
    wait_for("the memo", WAIT, || site.identityd.home().join("provisioning_memo").exists().then_some(()));
    for _ in 0..2 {
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(reprovision(&site), 404);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(site.cloud.count("dps"), 1, "{}", site.cloud.operations());
        site.identityd.restart();
    }
}

#[test]
fn identity_65_decided_other_settings_are_no_way_around_what_a_hub_asks_for() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.fault("hub.list", &json!({ "status": 429, "retry_after": 600 }), None);
    let add = |number: u32| {
        let file = format!("5{number}-new.toml");
        site.identityd.write_drop_in(&file, &principal(2000 + number, &format!("m{number}"), "['module']"));
    };
    add(0);
    wait_for("the refusal", WAIT, || (site.cloud.count("hub.list") > 1).then_some(()));
    wait_for("the memo", WAIT, || {
        let memo = site.identityd.home().join("provisioning_memo");
        std::fs::read_to_string(memo).is_ok_and(|text| text.contains("asked = true")).then_some(())
    });
    site.cloud.forget_requests();
    for number in 1..4 {
        add(number);
        thread::sleep(Duration::from_millis(700));
    }
    let begun = Instant::now();
    site.as_uid(2003).get("/identities/identity").expect(404);
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody waits meanwhile: {:?}", begun.elapsed());
    assert_eq!(site.cloud.count("hub.list"), 0, "{}", site.cloud.operations());
}

#[test]
fn identity_55_decided_a_refusal_that_all_will_meet_ends_a_run() {
    let modules: String = (0..40).map(|n| principal(3000 + n, &format!("m{n}"), "['module']")).collect();
    for (action, most) in [(json!({ "status": 403 }), 8), (json!({ "status": 503, "retry_after": 600 }), 8)] {
        let site = Site::manual("");
        site.wait_until_settled();
        site.cloud.fault("hub.put", &action, None);
        site.identityd.write_drop_in("50-modules.toml", &modules);
        wait_for("a refusal", WAIT, || (site.cloud.count("hub.put") > 0).then_some(()));
        thread::sleep(Duration::from_secs(2));
        let puts = site.cloud.count("hub.put");
        assert!(puts <= most, "{action}: {puts}");
    }
}

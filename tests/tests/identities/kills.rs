//! `kill -9` at random moments of provisioning, of bringing modules in line, and of making one: after the next start the
//! device is provisioned, and no module has lost its generation id.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use serde_json::{Value, json};
use suite_tests::http::wait_for;

use crate::cloud::{Site, WAIT, principal};

#[test]
fn kills_lose_nothing() {
    kill(9, 1);
}

#[test]
#[ignore = "takes minutes: make test-weather"]
fn two_hundred_kills_lose_nothing() {
    kill(200, 2);
}

/// So many kills; `seed` chooses the moments.
fn kill(times: u64, seed: u64) {
    let mut site =
        Site::provisioned(&[principal(1001, "a", "'module'"), principal(1002, "b", "'module'")].concat());
    site.cloud.settings(&json!({ "module_limit": 1000 }));
    let born: BTreeMap<&str, Value> =
        ["a", "b"].into_iter().map(|id| (id, site.cloud.module(id)["generationId"].clone())).collect();
    let mut random = seed;
    for time in 0..times {
        // Knuth's MMIX generator: moments that differ, and are the same in each run.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = |span: u64| Duration::from_millis((random >> 33) % span);
        let made = format!("made-{time}");
        match time % 3 {
            // Each third of a registration has its turn: the request, the pause of 2 s until it is asked about, what comes then.
            0 => {
                let third = PROVISIONING.as_secs() * 1000 / 3;
                let begin = Duration::from_millis(third * (time / 3 % 3));
                while_provisioning(&mut site, begin + moment(third));
            }
            1 => while_bringing_in_line(&mut site, &made, moment(250)),
            _ => while_making(&mut site, &made, moment(250)),
        }
        site.own().expect(200);
        for (id, generation) in &born {
            assert_eq!(site.cloud.module(id)["generationId"], *generation, "{id} after kill {time}");
            assert_eq!(
                site.module(id).expect(200).json()["spec"]["genId"],
                *generation,
                "{id} after kill {time}"
            );
        }
        if time % 3 == 2 {
            is_whole(&site, &made);
        }
    }
}

/// A device that has to register again, although its modules are there, is killed on its way.
fn while_provisioning(site: &mut Site, moment: Duration) {
    site.identityd.kill();
    let _ = fs::remove_file(site.identityd.home().join("device_info")); // a kill before this one may have left none
    site.identityd.restart();
    thread::sleep(moment);
    site.identityd.kill();
    site.identityd.restart();
}

/// A principal comes, the daemon is killed while its module is made, and the module is there in the end; then it goes.
fn while_bringing_in_line(site: &mut Site, made: &str, moment: Duration) {
    site.identityd.kill();
    site.identityd.write_drop_in("made.toml", &principal(1003, made, "'module'"));
    site.identityd.restart();
    thread::sleep(moment);
    let before = site.cloud.module(made)["generationId"].clone();
    site.identityd.kill();
    site.identityd.restart();
    wait_for("the module", WAIT, || {
        (site.as_uid(1003).get("/identities/identity").status == 200).then_some(())
    });
    let after = site.cloud.module(made)["generationId"].clone();
    assert!(before.is_null() || before == after, "{made} is made anew");
    site.identityd.remove_drop_in("made.toml");
    wait_for("the module to go", WAIT, || site.cloud.module(made).is_null().then_some(()));
}

/// Somebody asks for a module, and the daemon is killed while it is made.
fn while_making(site: &mut Site, made: &str, moment: Duration) {
    let client = site.client();
    let body = json!({ "type": "aziot", "moduleId": made });
    let request = client.bytes("POST", "/identities/modules", Some(&body));
    let mut connection = client.connect();
    connection.send(request);
    thread::sleep(moment);
    site.identityd.kill();
    site.identityd.restart();
}

/// A module that may be half made can be made or put in order, and keeps the generation that it has.
fn is_whole(site: &Site, made: &str) {
    let before = site.cloud.module(made)["generationId"].clone();
    let made_now = match before.is_null() {
        true => site.create(made),
        false => site.client().put(&format!("/identities/modules/{made}?type=aziot"), &json!({})),
    };
    let generation = made_now.expect(200).json()["spec"]["genId"].clone();
    assert!(before.is_null() || before == generation, "{made} is made anew");
    site.client().delete(&format!("/identities/modules/{made}?type=aziot"), None).expect(204);
}

/// From the start of the daemon to the device with its modules: the cloud asks for 2 s between two questions.
const PROVISIONING: Duration = Duration::from_secs(3);

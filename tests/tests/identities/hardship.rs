//! What costs, and what must not: memory, wake-ups, wrong clocks.

use std::{fs, thread, time::Duration};

use serde_json::json;

use crate::cloud::{Cloud, Site, dps, principal};

#[test]
fn identity_62_decided_a_wrong_clock_is_made_up_for() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.admin("POST", "/clock", &json!({ "offset_secs": 7 * 86_400 }));
    let config = dps(&cloud, &principal(1001, "m", "['module']"));
    let site = Site::start(cloud, key, &config);
    site.own().expect(200);
    site.create("other").expect(200);
}

#[test]
fn identity_57_decided_nothing_happens_while_nothing_happens() {
    let site = Site::provisioned(&principal(1001, "m", "['module']"));
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", site.identityd.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    thread::sleep(Duration::from_secs(2));
    let (before, requests) = (switches(), site.cloud.seen().len());
    thread::sleep(Duration::from_secs(4));
    assert!(switches() - before <= 5, "{} wake-ups in 4 s", switches() - before);
    assert_eq!(site.cloud.seen().len(), requests, "no polling");
}

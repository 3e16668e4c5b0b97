//! Who may do what: checklist 35-42.

use serde_json::json;
use suite_tests::http::{Reply, wait_for};

use crate::cloud::{Site, WAIT, principal};

/// A site whose principals' modules are all there.
fn site(principals: &[(u32, &str, &str)]) -> Site {
    let text: String = principals.iter().map(|(uid, name, idtype)| principal(*uid, name, idtype)).collect();
    let site = Site::manual(&text);
    site.wait_until_settled();
    site
}

fn own(site: &Site, uid: u32) -> Reply {
    site.as_uid(uid).get("/identities/identity")
}

#[test]
fn identity_37_root_is_the_device_and_strangers_are_nobody() {
    let site = site(&[]);
    let identity = own(&site, 0).expect(200).json();
    assert!(identity["spec"].get("moduleId").is_none());
    let message = own(&site, 1001).expect(401).string("message");
    assert!(message.contains("1001"), "{message}");
}

#[test]
fn identity_38_decided_a_principal_of_root_adds_and_takes_nothing() {
    let site = site(&[(0, "rootmodule", "['module']")]);
    assert_eq!(own(&site, 0).expect(200).json()["spec"]["moduleId"], "rootmodule");
    assert_eq!(site.names(), ["rootmodule"]);
    site.own().expect(200);
    site.client().request("POST", "/identities/device/reprovision", None).expect(204);
}

#[test]
fn identity_39_only_the_first_principal_without_idtype_manages() {
    let site = site(&[(1001, "first", ""), (1002, "second", "")]);
    site.as_uid(1001).get("/identities/modules?type=aziot").expect(200);
    own(&site, 1001).expect(200);
    own(&site, 1002).expect(401);
}

/// At a start the first in the order of the files counts; at run time nobody takes the place of who has it.
#[test]
fn identity_39_decided_no_file_takes_the_rights_of_who_manages() {
    let mut site = site(&[]);
    let drop_in = |site: &Site, name: &str, uid: u32, who: &str| {
        site.identityd.write_drop_in(name, &principal(uid, who, ""));
    };
    let manages =
        |site: &Site, uid: u32| site.as_uid(uid).get("/identities/modules?type=aziot").status == 200;
    drop_in(&site, "50-edge.toml", 1001, "edge");
    wait_for("who manages", WAIT, || manages(&site, 1001).then_some(()));
    drop_in(&site, "40-usurper.toml", 1002, "usurper");
    site.identityd.wait_for_log(WAIT, |line| {
        line.contains("the old one stays") && line.contains("usurper") && line.contains("edge")
    });
    assert!(manages(&site, 1001) && !manages(&site, 1002));
    site.identityd.remove_drop_in("40-usurper.toml");
    drop_in(&site, "60-agent.toml", 1003, "agent");
    site.identityd.remove_drop_in("50-edge.toml");
    wait_for("another to manage", WAIT, || manages(&site, 1003).then_some(()));
    drop_in(&site, "50-edge.toml", 1001, "edge");
    site.identityd.restart();
    assert!(manages(&site, 1001) && !manages(&site, 1003), "tolerated at a start");
}

#[test]
fn identity_40_the_last_principal_of_a_uid_decides() {
    let site = site(&[(1001, "early", "['module']"), (1001, "late", "['module']")]);
    assert_eq!(own(&site, 1001).expect(200).json()["spec"]["moduleId"], "late");
    assert_eq!(site.names(), ["early", "late"]);
}

#[test]
fn of_several_principals_of_a_user_each_can_be_had_by_name() {
    let site = site(&[(1001, "early", "['module']"), (1001, "late", "['module', 'device']")]);
    let both = site.as_uid(1001);
    for name in ["early", "late"] {
        let identity = both.get(&format!("/identities/modules/{name}?type=aziot")).expect(200).json();
        assert_eq!(identity["spec"]["moduleId"], name);
    }
    both.post("/identities/device", &json!({ "type": "aziot" })).expect(200);
    both.get("/identities/modules/another?type=aziot").expect(401);
}

#[test]
fn principals_have_names_and_groups() {
    let site = Site::manual(
        "[[principal]]\nuser = 'bin'\nname = 'by-name'\nidtype = 'module'\n\
         [[principal]]\ngroup = 'sys'\nname = 'by-group'\nidtype = 'module'\n",
    );
    site.wait_until_settled();
    assert_eq!(own(&site, 2).expect(200).json()["spec"]["moduleId"], "by-name");
    assert_eq!(own(&site, 3).expect(200).json()["spec"]["moduleId"], "by-group");
    own(&site, 4).expect(401);
    let recorded = site.state("prev_state");
    assert!(!recorded.contains("group = ") && recorded.contains("by-group"), "{recorded}");
}

#[test]
fn a_bad_file_keeps_the_old_principals_and_says_so() {
    let site = site(&[(1001, "agent", "['device']")]);
    site.identityd.write_drop_in("bad.toml", "[[principal]]\nuid = 1002\nidtype = ['device']\n");
    site.identityd.wait_for_log(WAIT, |line| line.contains("bad.toml") && line.contains("the old one stays"));
    own(&site, 1001).expect(200);
    own(&site, 1002).expect(401);
}

#[test]
fn identity_35_41_a_process_has_its_own_module_only() {
    let site =
        site(&[(1001, "mine", "'module'"), (1002, "other", "['module']"), (1003, "dev", "['device']")]);
    let mine = site.as_uid(1001);
    let get = |name: &str| mine.get(&format!("/identities/modules/{name}?type=aziot"));
    assert_eq!(get("mine").expect(200).json()["spec"]["moduleId"], "mine");
    get("other").expect(401);
    get("nowhere").expect(401);
    mine.get("/identities/modules?type=aziot").expect(401);
    mine.post("/identities/device", &json!({ "type": "aziot" })).expect(401);
    mine.post("/identities/modules", &json!({ "type": "aziot", "moduleId": "mine" })).expect(401);
    mine.post("/identities/modules", &json!({ "type": "local", "moduleId": "x" })).expect(401);
    mine.put("/identities/modules/mine?type=aziot", &json!({})).expect(401);
    mine.delete("/identities/modules/mine?type=aziot", None).expect(401);
    mine.request("POST", "/identities/device/reprovision", None).expect(401);
    mine.get("/identities/modules/mine?type=local").expect(400);
    let device = site.as_uid(1003);
    device.post("/identities/device", &json!({ "type": "aziot" })).expect(200);
    device.get("/identities/modules/dev?type=aziot").expect(401);
}

/// Upstream gives such a process the key of the hub's module that has its name.
#[test]
fn decided_a_local_process_has_nothing_of_the_hub() {
    let site = site(&[(1001, "hmi", "['local']\n[localid]\ndomain = 'x'")]);
    site.cloud.add_module("hmi");
    site.module("hmi").expect(200);
    let hmi = site.as_uid(1001);
    for path in ["identity", "modules/hmi?type=aziot", "modules/hmi"] {
        let message = hmi.get(&format!("/identities/{path}")).expect(401).string("message");
        assert!(message.contains("type=local"), "{path}: {message}");
    }
    hmi.get("/identities/modules/hmi?type=local").expect(500); // there is no certd
    hmi.get("/identities/modules/hmi?type=what").expect(400);
}

#[test]
fn identity_42_a_process_without_identity() {
    let site = site(&[(1001, "empty", "[]")]);
    own(&site, 1001).expect(401);
    assert_eq!(site.as_uid(1001).get("/trust-bundle").expect(200).body, br#"{"certificate":""}"#);
    site.as_uid(1001).get("/identities/provisioning").expect(200);
}

#[test]
fn identity_36_local_identities_need_a_domain() {
    let site = site(&[]);
    site.client().post("/identities/modules", &json!({ "type": "local", "moduleId": "x" })).expect(500);
}

#[test]
fn identity_55_principals_change_without_a_restart() {
    let site = site(&[]);
    own(&site, 1001).expect(401);
    site.identityd.write_drop_in("agent.toml", &principal(1001, "agent", "['device']"));
    wait_for("the new principal", WAIT, || (own(&site, 1001).status == 200).then_some(()));
    site.identityd.remove_drop_in("agent.toml");
    wait_for("the principal to be gone", WAIT, || (own(&site, 1001).status == 401).then_some(()));
}

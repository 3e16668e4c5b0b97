//! Devices register: whose proof is accepted, what the polls answer, where the device ends up.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use cloud_sim::{Options, Sim};
use common::*;
use serde_json::{Value, json};

fn refused(device: &Device<'_>, token: &str, status: u16, why: &str) {
    let answer = device.register_with(token, &json!({"registrationId": device.id}));
    assert_eq!(answer.status, status, "{why}: {}", answer.text);
    let body = answer.json();
    assert_eq!(body["errorCode"].as_u64().unwrap() / 1000, u64::from(status));
    assert_eq!(answer.header("x-ms-error-code"), Some(body["errorCode"].to_string().as_str()));
    for member in ["trackingId", "message", "timestampUtc"] {
        assert!(body[member].is_string(), "{member}");
    }
    let entry = last_entry(device.sim);
    assert_eq!(entry["decision"], "refused");
    assert!(entry["reason"].as_str().unwrap().contains(why), "{entry}");
}

fn note(sim: &Sim) -> String {
    last_entry(sim)["notes"].to_string()
}

#[test]
fn a_device_registers_as_the_suite_does() {
    let sim = sim();
    let device = Device::enrolled(&sim, "press-17", &json!({}));
    let body = json!({"registrationId": "press-17", "payload": {"site": "A"}});
    let token = device.dps_token();
    let first = device.register_with(&token, &body);
    assert_eq!((first.status, first.header("retry-after")), (202, Some("3")));
    let operation = first.json()["operationId"].as_str().unwrap().to_owned();
    assert_eq!(first.json(), json!({"operationId": operation, "status": "assigning"}));
    assert!(first.header("location").unwrap().contains(&operation));

    let second = device.poll_with(&token, &operation);
    assert_eq!((second.status, second.header("retry-after")), (202, Some("3")));
    assert_eq!(second.json()["registrationState"]["registrationId"], "press-17");
    assert!(note(&sim).contains("token used 2 times"), "{}", note(&sim));

    for _ in 0..2 {
        let done = device.poll_with(&token, &operation);
        assert_eq!(done.status, 200);
        let (body, state) = (done.json(), done.json()["registrationState"].clone());
        assert_eq!((&body["status"], &state["status"]), (&json!("assigned"), &json!("assigned")));
        assert_eq!(state["assignedHub"], json!(sim.ready().hubs[0]));
        assert_eq!((&state["deviceId"], &state["registrationId"]), (&json!("press-17"), &json!("press-17")));
        assert_eq!(state["substatus"], "initialAssignment");
        assert_eq!(state["payload"], json!({"site": "A"}));
        assert!(state["etag"].is_string() && state["createdDateTimeUtc"].is_string());
    }
    let target = format!("/{}/registrations/PRESS-17?api-version=2021-10-01", sim.ready().scope);
    let body = json!({"registrationId": "press-17"});
    let lookup =
        call(sim.ready(), &device.dps(), "POST", &target, &[("authorization", &token)], &body).unwrap();
    assert_eq!((lookup.status, &lookup.json()["status"]), (200, &json!("assigned")));
    let modules = device.hub("GET", "press-17/modules", None, &Value::Null);
    assert_eq!((modules.status, modules.text.as_str()), (200, "[]"));
}

#[test]
fn false_proofs_are_refused() {
    let sim = sim();
    let device = Device::enrolled(&sim, "pump", &json!({}));
    let right = format!("{}/registrations/pump", sim.ready().scope.to_lowercase());
    let (later, skn) = (now() + 30, "&skn=registration");
    let good = device.dps_token();
    let sig = good.find("sig=").unwrap() + 4;
    let at = (sig + 2..).find(|at| !good[at - 2..=*at].contains('%')).unwrap(); // not within an escape
    let flipped = if &good[at..=at] == "A" { "B" } else { "A" };
    let changed = format!("{}{flipped}{}", &good[..at], &good[at + 1..]);
    refused(&device, &changed, 401, "signed by no key");
    refused(&device, &token_over(&right, &"A".repeat(44), later, skn), 401, "signed by no key");
    refused(&device, &token_over(&right, &device.key, now() - 2, skn), 401, "expired");
    refused(&device, &token_over(&right, &device.key, later, ""), 401, "no skn");
    refused(&device, &token_over(&right, &device.key, later, "&skn=owner"), 401, "skn is owner");
    for wrong in [right.replace("pump", "pumps"), right.replace("pump", ""), sim.ready().hubs[0].clone()] {
        refused(&device, &token_over(&wrong, &device.key, later, skn), 401, "the token is for");
    }
    refused(&device, "", 401, "no Authorization");
    refused(&device, "Bearer x", 401, "Bearer");
    sim.admin("POST", "/clock", &json!({"offset_secs": 100}));
    refused(&device, &token_over(&right, &device.key, later, skn), 401, "expired");
    sim.admin("POST", "/settings", &json!({"check_expiry": false, "require_skn": false}));
    let answer =
        device.register_with(&token_over(&right, &device.key, later, ""), &json!({"registrationId": "pump"}));
    assert_eq!(answer.status, 202);
    assert!(note(&sim).contains("expired token accepted") && note(&sim).contains("no skn"), "{}", note(&sim));
}

#[test]
fn forms_that_agents_use_are_accepted() {
    let sim = sim();
    let device = Device::enrolled(&sim, "Pump-7", &json!({}));
    let (_, stored) = sim.admin("GET", "/enrollments/pump-7", &Value::Null);
    let secondary = stored["attestation"]["symmetricKey"]["secondaryKey"].as_str().unwrap();
    let resource = format!("{}/registrations/Pump-7", sim.ready().scope);
    let later = now() + 30;
    for (sr, key, signer) in [
        (resource.clone(), device.key.as_str(), "primary"),
        (resource.replace('/', "%2F"), device.key.as_str(), "primary"),
        (resource.to_uppercase().replace('/', "%2f"), secondary, "secondary"),
    ] {
        let token = token_over(&sr, key, later, "");
        let fields: Vec<&str> = token.split_once(' ').unwrap().1.split('&').collect();
        let token =
            format!("SharedAccessSignature skn=registration&{}&{}&{}", fields[2], fields[1], fields[0]);
        let answer = device.register_with(&token, &json!({"registrationId": "PUMP-7"}));
        assert_eq!(answer.status, 202, "{sr}: {}", answer.text);
        assert!(note(&sim).contains(signer), "{}", note(&sim));
        assert_eq!(last_entry(&sim)["sas"]["order"], json!(["skn", "se", "sig", "sr"]));
    }
}

#[test]
fn a_group_admits_devices_with_derived_keys() {
    let sim = sim();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";
    let group = json!({"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": key}}});
    assert_eq!(sim.admin("PUT", "/enrollmentGroups/line-4", &group).0, 200);
    let derived = "vYR2LyFC4hdqR+zMelJHggbzbOktExGnNFaEGjcA4ZU=".to_owned();
    let (_, keys) = sim.admin("GET", "/enrollmentGroups/line-4/keys/line-4-robot-2", &Value::Null);
    assert_eq!(keys["primaryKey"], json!(derived));

    let device = Device { sim: &sim, id: "line-4-robot-2".into(), key: derived };
    let state = device.register()["registrationState"].clone();
    assert_eq!(state["symmetricKey"], json!({"enrollmentGroupId": "line-4"}));
    assert!(note(&sim).contains("derived from the primary key of group line-4"), "{}", note(&sim));
    assert_eq!(device.hub("GET", "line-4-robot-2/modules", None, &Value::Null).status, 200);

    let stranger = Device { sim: &sim, id: "line-4-robot-3".into(), key: device.key.clone() };
    refused(&stranger, &stranger.dps_token(), 401, "signed by no key");
    let group_key = Device { sim: &sim, id: "line-4-robot-2".into(), key: key.into() };
    refused(&group_key, &group_key.dps_token(), 401, "signed by no key");
}

#[test]
fn what_is_not_there_is_404_and_what_is_wrong_400() {
    let sim = sim();
    let device = Device { sim: &sim, id: "nobody".into(), key: "A".repeat(44) };
    refused(&device, &device.dps_token(), 404, "no enrolment");
    let device = Device::enrolled(&sim, "pump", &json!({}));
    let token = device.dps_token();
    assert_eq!(device.poll_with(&token, "4.unknown").json()["errorCode"], 404_203);
    let scope = sim.ready().scope.clone();
    let send = |method: &str, target: String, body: Value| {
        call(sim.ready(), &device.dps(), method, &target, &[("authorization", token.as_str())], &body)
            .unwrap()
            .status
    };
    let body = || json!({"registrationId": "pump"});
    let path = format!("/{scope}/registrations/pump/register");
    assert_eq!(send("PUT", format!("{path}?api-version=2021-06-01"), body()), 202);
    assert_eq!(send("PUT", format!("{path}?api-version=2021-10-01"), body()), 202);
    assert_eq!(send("PUT", path.replace(&scope, "0ne00OTHER") + "?api-version=2021-06-01", body()), 404);
    assert_eq!(send("PUT", format!("{path}?api-version=2019-03-31"), body()), 400);
    assert_eq!(send("PUT", path.clone(), body()), 400);
    assert_eq!(send("PUT", format!("{path}?api-version=2021-06-01"), json!({"registrationId": "pomp"})), 400);
    assert_eq!(send("PUT", format!("{path}?api-version=2021-06-01"), json!({})), 400);
    assert_eq!(send("PUT", path.replace("pump", "pump-") + "?api-version=2021-06-01", body()), 400);
    assert_eq!(send("POST", format!("{path}?api-version=2021-06-01"), body()), 405);
    assert_eq!(send("PUT", format!("{path}?api-version=2021-06-01"), Value::Null), 415);
    assert_eq!(send("GET", "/".into(), Value::Null), 404);
    assert_eq!(send("POST", format!("/{scope}/registrations/pump?api-version=2021-06-01"), body()), 404);
}

#[test]
fn assigning_lasts_as_many_polls_as_set() {
    let sim = sim();
    sim.admin("POST", "/settings", &json!({"assigning_polls": 3, "retry_after": "date"}));
    let device = Device::enrolled(&sim, "pump", &json!({}));
    device.register();
    let (_, log) = sim.admin("GET", "/log?operation=dps.poll", &Value::Null);
    let polls = log["entries"].as_array().unwrap();
    let statuses: Vec<&Value> = polls.iter().map(|entry| &entry["reply"]["status"]).collect();
    assert_eq!(statuses, ["assigning", "assigning", "assigning", "assigned"]);
    assert!(polls[..3].iter().all(|entry| entry["reply"]["registrationState"]["registrationId"] == "pump"));
    let headers = polls[0]["reply_headers"].as_array().unwrap();
    assert!(
        headers
            .iter()
            .any(|header| header[0] == "retry-after" && header[1].as_str().unwrap().ends_with("GMT"))
    );

    sim.admin("POST", "/settings", &json!({"operation_ttl_secs": 60}));
    let operation = device.register_with(&device.dps_token(), &json!({"registrationId": "pump"})).json();
    sim.admin("POST", "/clock", &json!({"offset_secs": 61}));
    sim.admin("POST", "/settings", &json!({"check_expiry": false}));
    assert_eq!(device.poll_with(&device.dps_token(), operation["operationId"].as_str().unwrap()).status, 404);
}

#[test]
fn an_expired_token_at_a_poll_is_reported_or_refused() {
    let sim = sim();
    let device = Device::enrolled(&sim, "pump", &json!({}));
    let token = device.dps_token();
    let operation = device.register_with(&token, &json!({"registrationId": "pump"})).json();
    let operation = operation["operationId"].as_str().unwrap();
    sim.admin("POST", "/clock", &json!({"offset_secs": 40}));
    assert_eq!(device.poll_with(&token, operation).status, 202);
    assert!(note(&sim).contains("expired token accepted"), "{}", note(&sim));
    sim.admin("POST", "/settings", &json!({"reject_expired_at_polls": true}));
    assert_eq!(device.poll_with(&token, operation).status, 401);
}

#[test]
fn disabled_and_failed_enrolments_end_so() {
    let sim = sim();
    let disabled = Device::enrolled(&sim, "off", &json!({"provisioningStatus": "disabled"})).register();
    assert_eq!(
        (&disabled["status"], &disabled["registrationState"]["assignedHub"]),
        (&json!("disabled"), &Value::Null)
    );
    let simulator =
        json!({"status": "failed", "errorCode": 400_207, "errorMessage": "no hub", "assigningPolls": 0});
    let failed =
        Device::enrolled(&sim, "bad", &json!({"simulator": simulator})).register()["registrationState"]
            .clone();
    assert_eq!((&failed["status"], &failed["errorCode"]), (&json!("failed"), &json!(400_207)));
    assert_eq!(failed["errorMessage"], "no hub");
    let odd = Device::enrolled(&sim, "odd", &json!({"simulator": {"status": "unassigned"}})).register();
    assert_eq!(odd["status"], "unassigned");
    let payload = Device::enrolled(&sim, "pay", &json!({"simulator": {"payload": [1]}})).register();
    assert_eq!(payload["registrationState"]["payload"], json!([1]));
}

#[test]
fn repeated_registrations_follow_the_policy() {
    let sim = sim_with(Options { hubs: 2, ..Options::default() });
    let (one, two) = (sim.ready().hubs[0].clone(), sim.ready().hubs[1].clone());
    let device = Device::enrolled(&sim, "pump", &json!({"iotHubs": [one]}));
    let outcome = || {
        let state = device.register()["registrationState"].clone();
        let text = |name: &str| state[name].as_str().unwrap().to_owned();
        (text("assignedHub"), text("deviceId"), text("substatus"))
    };
    let expect = |hub: &str, id: &str, substatus: &str| (hub.to_owned(), id.to_owned(), substatus.to_owned());
    let enrol = |extra: Value| drop(Device::enrolled(&sim, "pump", &extra));
    let devices =
        |hub: usize| sim.admin("GET", &format!("/devices/{hub}"), &Value::Null).1.as_array().unwrap().len();

    assert_eq!(outcome(), expect(&one, "pump", "initialAssignment"));
    device.create_module("m");
    assert_eq!(outcome(), expect(&one, "pump", "reprovisionedToInitialAssignment"));
    assert_eq!(
        device.hub("GET", "pump/modules/m", None, &Value::Null).status,
        200,
        "modules stay on the same hub"
    );

    enrol(
        json!({"iotHubs": [two], "reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": false}}),
    );
    assert_eq!(outcome(), expect(&one, "pump", "initialAssignment"));
    enrol(json!({"iotHubs": [two]}));
    assert_eq!(outcome(), expect(&two, "pump", "deviceDataMigrated"));
    assert_eq!((devices(0), devices(1)), (0, 1));
    enrol(
        json!({"iotHubs": [one], "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": false}}),
    );
    assert_eq!(outcome(), expect(&one, "pump", "deviceDataReset"));

    let (status, _) =
        sim.admin("POST", "/registrations/pump/reassign", &json!({"hub": two, "deviceId": "new"}));
    assert_eq!(status, 200);
    assert_eq!(outcome(), expect(&two, "new", "deviceDataReset"));
    assert_eq!(outcome(), expect(&one, "pump", "deviceDataReset"), "a reassignment holds once");
    assert_eq!(sim.admin("POST", "/registrations/pump/reassign", &json!({"hub": "nowhere"})).0, 400);

    sim.admin("DELETE", "/devices/0/pump", &Value::Null);
    outcome();
    assert_eq!(
        device.hub("GET", "pump/modules", None, &Value::Null).text,
        "[]",
        "a deleted device is made anew"
    );
}

#[test]
fn hashing_spreads_devices_over_hubs() {
    let sim = sim_with(Options { hubs: 2, ..Options::default() });
    let hub = |id: usize| {
        let device = Device::enrolled(&sim, &format!("dev-{id}"), &json!({}));
        device.register()["registrationState"]["assignedHub"].as_str().unwrap().to_owned()
    };
    let hubs: std::collections::HashSet<String> = (0..10).map(hub).collect();
    assert_eq!(hubs.len(), 2);
}

#[test]
fn enrolments_are_checked() {
    let sim = sim();
    let put = |path: &str, body: Value| sim.admin("PUT", path, &body).0;
    let attestation = || json!({"type": "symmetricKey"});
    assert_eq!(put("/enrollments/a", json!({})), 400);
    assert_eq!(put("/enrollments/a", json!({"registrationId": "b", "attestation": attestation()})), 400);
    assert_eq!(put("/enrollments/a-", json!({"attestation": attestation()})), 400);
    assert_eq!(put("/enrollments/a", json!({"attestation": attestation(), "iotHubs": ["nowhere"]})), 400);
    assert_eq!(put("/enrollments/a", json!({"attestation": attestation(), "enrollmentGroupId": "g"})), 400);
    let short = json!({"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAAA"}});
    assert_eq!(put("/enrollments/a", json!({"attestation": short})), 400);
    assert_eq!(put("/enrollments/a", json!({"attestation": attestation()})), 200);
    assert_eq!(sim.admin("DELETE", "/enrollments/A", &Value::Null).0, 204);
    assert_eq!(sim.admin("DELETE", "/enrollments/a", &Value::Null).0, 404);
    assert_eq!(sim.admin("GET", "/enrollments", &Value::Null), (200, json!([])));
}

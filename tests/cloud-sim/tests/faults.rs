//! Everything that can be made to go wrong does so, and only when told.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use common::*;
use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

fn fault(sim: &cloud_sim::Sim, rule: &Value) {
    let (status, answer) = sim.admin("POST", "/faults", rule);
    assert_eq!(status, 201, "{answer}");
}

#[test]
fn the_kth_matching_request_is_struck_and_no_other() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    fault(
        &sim,
        &json!({"match": {"operation": "hub.list"}, "skip": 1, "times": 1, "action": {"status": 503}}),
    );
    let statuses: Vec<u16> =
        (0..4).map(|_| device.hub("GET", "d/modules", None, &Value::Null).status).collect();
    assert_eq!(statuses, [200, 503, 200, 200]);
    let (_, log) = sim.admin("GET", "/log", &Value::Null);
    let decisions: Vec<&Value> =
        log["entries"].as_array().unwrap().iter().map(|it| &it["decision"]).collect();
    assert_eq!(decisions, ["accepted", "fault", "accepted", "accepted"]);
    let (_, rules) = sim.admin("GET", "/faults", &Value::Null);
    assert_eq!((&rules[0]["matched"], &rules[0]["fired"]), (&json!(4), &json!(1)));
}

#[test]
fn every_route_throttles_with_every_retry_after() {
    let sim = sim();
    let device = Device::enrolled(&sim, "d", &json!({}));
    device.register();
    device.create_module("m");
    let operation = device.register_with(&device.dps_token(), &json!({"registrationId": "d"})).json();
    let operation = operation["operationId"].as_str().unwrap();
    for retry_after in [json!(7), json!("date"), json!({"date": 60}), Value::Null] {
        fault(&sim, &json!({"action": {"status": 429, "retry_after": retry_after}}));
        let answers = [
            device.register_with(&device.dps_token(), &json!({"registrationId": "d"})),
            device.poll_with(&device.dps_token(), operation),
            device.hub("GET", "d/modules", None, &Value::Null),
            device.hub("GET", "d/modules/m", None, &Value::Null),
            device.hub("PUT", "d/modules/m", Some("*"), &json!({"moduleId": "m", "deviceId": "d"})),
            device.hub("DELETE", "d/modules/m", Some("*"), &Value::Null),
        ];
        for answer in answers {
            assert_eq!(answer.status, 429);
            assert!(answer.json().is_object());
            match (&retry_after, answer.header("retry-after")) {
                (Value::Null, None) => {}
                (Value::Number(_), Some("7")) => {}
                (Value::String(_) | Value::Object(_), Some(date)) => {
                    assert!(date.ends_with(" GMT"), "{date}");
                }
                (wanted, got) => panic!("{wanted}: {got:?}"),
            }
        }
        assert_eq!(sim.admin("DELETE", "/faults", &Value::Null).1, json!({"removed": 1}));
    }
    assert_eq!(
        device.hub("GET", "d/modules/m", None, &Value::Null).status,
        200,
        "a struck DELETE is not done"
    );
}

#[test]
fn replies_get_lost_cut_and_slow() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    device.create_module("m");
    let hub = sim.ready().hubs[0].clone();
    let own = token(&format!("{hub}/devices/d"), &device.key, false);
    let get = || {
        let target = "/devices/d/modules/m?api-version=2017-11-08-preview";
        call(sim.ready(), &hub, "GET", target, &[("authorization", own.as_str())], &Value::Null)
    };
    let whole = get().unwrap().text;
    let strike = |action: Value| fault(&sim, &json!({"times": 1, "action": action}));

    for action in [json!({"reset": true}), json!({"reset_after_bytes": 30})] {
        strike(action.clone());
        let err = get().unwrap_err();
        assert!(
            err.to_string().contains("reset") || err.kind() == ErrorKind::ConnectionReset,
            "{action}: {err}"
        );
    }
    for action in [json!({"close_before_reply": true}), json!({"close_after_bytes": 300})] {
        strike(action.clone());
        assert_eq!(get().unwrap_err().kind(), ErrorKind::UnexpectedEof, "{action}");
    }
    strike(json!({"delay_ms": 300}));
    let start = Instant::now();
    assert_eq!(get().unwrap().text, whole);
    assert!(start.elapsed() >= Duration::from_millis(300));
    strike(json!({"slow_body_ms": 10}));
    let start = Instant::now();
    assert_eq!(get().unwrap().text, whole);
    assert!(start.elapsed() >= Duration::from_millis(10 * (whole.len() as u64 / 16)));

    strike(json!({"truncated": true}));
    assert_eq!(get().unwrap().text, whole[..whole.len() / 2]);
    strike(json!({"content_type": "text/plain"}));
    assert_eq!(get().unwrap().header("content-type"), Some("text/plain"));
    strike(json!({"html": true}));
    assert!(get().unwrap().text.starts_with("<!DOCTYPE"));
    strike(json!({"status": 302, "headers": {"location": "https://elsewhere.invalid/"}}));
    assert_eq!(get().unwrap().header("location"), Some("https://elsewhere.invalid/"));
    strike(json!({"status": 200, "body": "no json"}));
    assert_eq!(get().unwrap().text, "no json");
    strike(json!({"huge_body": 3_000_000}));
    assert_eq!(get().unwrap().text.len(), 3_000_000);
    strike(json!({"status": 500, "error_style": "gateway_offline"}));
    assert_eq!(get().unwrap().json()["networkError"], true);
}

#[test]
fn a_stalled_request_is_never_answered_and_never_done() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let hub = sim.ready().hubs[0].clone();
    fault(&sim, &json!({"times": 1, "action": {"stall": true}}));
    let own = token(&format!("{hub}/devices/d"), &device.key, false);
    let target = "/devices/d/modules/m?api-version=2017-11-08-preview";
    let body = json!({"moduleId": "m", "deviceId": "d"});
    let (ready, headers) = (sim.ready().clone(), own.clone());
    let waiting = std::thread::spawn(move || {
        call(&ready, &ready.hubs[0], "PUT", target, &[("authorization", headers.as_str())], &body)
            .map(|it| it.status)
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    assert_eq!(device.hub("GET", "d/modules", None, &Value::Null).text, "[]");
    sim.admin("POST", "/accept", &json!({"refuse": true}));
    assert!(waiting.join().unwrap().is_err(), "refusing ends open connections");
}

#[test]
fn an_answer_can_be_lost_after_the_deed() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    fault(&sim, &json!({"match": {"method": "PUT"}, "times": 1, "action": {"status": 504, "after": true}}));
    let put = || device.hub("PUT", "d/modules/m", None, &json!({"moduleId": "m", "deviceId": "d"})).status;
    assert_eq!((put(), put()), (504, 409));
}

#[test]
fn the_world_changes_behind_the_client() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let first = device.create_module("m");
    let put = |tag: &str| {
        device.hub("PUT", "d/modules/m", Some(tag), &json!({"moduleId": "m", "deviceId": "d"})).status
    };
    let strike = |change: &str| fault(&sim, &json!({"times": 1, "action": {"change": change}}));
    strike("touch_etag");
    assert_eq!(put(first["etag"].as_str().unwrap()), 412);
    strike("recreate_module");
    let second = device.hub("GET", "d/modules/m", None, &Value::Null).json();
    assert_ne!(second["generationId"], first["generationId"]);
    assert_ne!(second["authentication"], first["authentication"]);
    strike("delete_module");
    assert_eq!(put("*"), 404);
    strike("delete_device");
    assert_eq!(put("*"), 401);
}

#[test]
fn connections_are_refused_and_accepted_again() {
    let sim = sim();
    let hub = sim.ready().hubs[0].clone();
    let mut kept = Client::connect(sim.ready(), &hub).unwrap();
    assert_eq!(kept.send("GET", "/x", &[], &Value::Null).unwrap().status, 404);
    for _ in 0..3 {
        sim.admin("POST", "/accept", &json!({"refuse": true}));
        let refused = || Client::connect(sim.ready(), &hub).err().map(|err| err.kind());
        let deadline = Instant::now() + Duration::from_secs(5);
        while refused() != Some(ErrorKind::ConnectionRefused) {
            assert!(Instant::now() < deadline, "not refused");
        }
        sim.admin("POST", "/accept", &json!({}));
        let deadline = Instant::now() + Duration::from_secs(5);
        while refused().is_some() {
            assert!(Instant::now() < deadline, "not accepted again");
        }
    }
    assert!(kept.send("GET", "/x", &[], &Value::Null).is_err(), "open connections end");
    sim.admin("POST", "/accept", &json!({"delay_ms": 200}));
    let start = Instant::now();
    Client::connect(sim.ready(), &hub).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(sim.admin("POST", "/accept", &json!({"listener": "hub-9"})).0, 404);
}

#[test]
fn tls_goes_wrong_in_every_way() {
    let sim = sim();
    let hub = sim.ready().hubs[0].clone();
    let connect = || Client::connect(sim.ready(), &hub).map(|_| ()).map_err(|err| err.to_string());
    for (mode, trouble) in [
        (json!({"certificate": "wrong_name"}), "mismatch"),
        (json!({"certificate": "expired"}), "expired"),
        (json!({"certificate": "untrusted"}), "unable to get local issuer"),
        (json!({"abort": true}), "unexpected"),
    ] {
        assert_eq!(sim.admin("POST", "/tls", &mode).0, 200);
        let err = connect().unwrap_err().to_lowercase();
        let aborted = mode["abort"] == true && (err.contains("eof") || err.contains("reset"));
        assert!(err.contains(trouble) || aborted, "{mode}: {err}");
    }
    for version in ["1.2", "1.3"] {
        assert_eq!(sim.admin("POST", "/tls", &json!({"listener": "cloud", "version": version})).0, 200);
        connect().unwrap();
    }
    assert_eq!(sim.admin("POST", "/tls", &json!({"certificat": "good"})).0, 400);
    assert_eq!(sim.admin("POST", "/tls", &json!({"no_client_certificate": true})).0, 200);
    connect().unwrap();
    let (_, state) = sim.admin("GET", "/state", &Value::Null);
    assert!(state["counters"]["tls_failures"].as_u64().unwrap() >= 3);
    assert_eq!(state["counters"]["requests"], 0);
}

#[test]
fn the_log_shows_connections_forms_and_headers_as_received() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let hub = sim.ready().hubs[0].clone();
    let own = token(&format!("{hub}/devices/d"), &device.key, false);
    let mut kept = Client::connect(sim.ready(), &hub).unwrap();
    let target = "/devices/d/modules?api-version=2017-11-08-preview";
    let absolute = format!("https://{hub}{target}");
    for target in [target, &absolute] {
        let headers = [("X-First", "1"), ("authorization", own.as_str()), ("a-last", "2")];
        assert_eq!(kept.send("GET", target, &headers, &Value::Null).unwrap().status, 200);
    }
    let (_, log) = sim.admin("GET", "/log?since=0", &Value::Null);
    let entries = log["entries"].as_array().unwrap();
    assert_eq!((&entries[0]["form"], &entries[0]["target"]), (&json!("origin"), &json!(target)));
    assert_eq!((&entries[1]["form"], &entries[1]["target"]), (&json!("absolute"), &json!(absolute)));
    assert_eq!(entries[0]["connection"], entries[1]["connection"]);
    let names: Vec<&str> =
        entries[0]["headers"].as_array().unwrap().iter().map(|it| it[0].as_str().unwrap()).collect();
    assert_eq!(names, ["host", "x-first", "authorization", "a-last"]);
    assert_eq!(entries[0]["sas"]["sr"], json!(format!("{hub}/devices/d")));
    assert_eq!(sim.admin("GET", "/log?since=1", &Value::Null).1["entries"].as_array().unwrap().len(), 1);
    let (_, state) = sim.admin("GET", "/state", &Value::Null);
    let counters = &state["counters"];
    assert_eq!((&counters["connections"], &counters["tls_handshakes"]), (&json!(1), &json!(1)));
    assert_eq!(counters["by_operation"], json!({"hub.list": 2}));
    assert_eq!(counters["by_status"], json!({"200": 2}));
    assert_eq!(sim.admin("DELETE", "/log", &Value::Null).0, 204);
    assert_eq!(sim.admin("GET", "/log", &Value::Null).1, json!({"entries": [], "last": 2}));
}

#[test]
fn forgetting_leaves_the_enrolments() {
    let sim = sim();
    let device = Device::enrolled(&sim, "d", &json!({}));
    device.register();
    assert_eq!(sim.admin("POST", "/forget", &Value::Null).0, 204);
    assert_eq!(device.hub("GET", "d/modules", None, &Value::Null).status, 401);
    assert_eq!(sim.admin("GET", "/registrations/d", &Value::Null).0, 404);
    assert_eq!(device.register()["registrationState"]["substatus"], "initialAssignment");
}

#[test]
fn the_admin_interface_refuses_what_it_does_not_know() {
    let sim = sim();
    for (method, path, body, status) in [
        ("GET", "/nothing", Value::Null, 404),
        ("PATCH", "/enrollments/a", Value::Null, 405),
        ("POST", "/settings", json!({"assigning_pols": 1}), 400),
        ("POST", "/clock", json!({"offset": 1}), 400),
        ("POST", "/faults", json!({"match": {"path": "/"}}), 400),
        ("POST", "/faults", json!([{"action": {"status": 500}}, {"match": {"path_regex": "("}}]), 400),
        ("DELETE", "/faults/1", Value::Null, 404),
        ("GET", "/log?since=yesterday", Value::Null, 400),
        ("PUT", "/state", json!({"hub": []}), 400),
        ("PUT", "/devices/7/d", json!({}), 404),
        ("PUT", "/devices/0/a%20b", json!({}), 400),
        ("POST", "/devices/0/d/modules/m", json!({}), 404),
    ] {
        let (got, answer) = sim.admin(method, path, &body);
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(answer["error"].is_string());
    }
    assert_eq!(sim.admin("GET", "/faults", &Value::Null).1, json!([]), "a bad list adds no rule");
    assert!(sim.admin("GET", "/", &Value::Null).1["endpoints"].as_array().unwrap().len() > 10);
}

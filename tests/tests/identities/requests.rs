//! HTTP as clients of identityd see it: checklist 1-12, 14.

use std::time::{Duration, Instant};

use serde_json::json;
use suite_tests::{
    harness::{Daemon, IDENTITYD, Setup},
    http::{Client, Reply, with_body},
};

use crate::cloud::Site;

/// An identityd that needs no cloud; the test's uid is root.
fn identityd() -> (Daemon, Client) {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";
    let identityd = Setup::new(&IDENTITYD).config(config).start();
    let client = identityd.client();
    (identityd, client)
}

#[test]
fn identity_01_02_03_the_version_is_needed_and_the_last_one_counts() {
    let (_identityd, client) = identityd();
    let reply = client.send("GET /identities/identity HTTP/1.1\r\n\r\n").expect(400);
    let body = reply.json();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["message"]);
    for version in ["2020-09-01", "2021-12-01", "2022-08-01"] {
        client.version(version).get("/trust-bundle").expect(200);
    }
    client.get("/trust-bundle?api-version=2020-09-01-preview").expect(400);
    client.get("/trust-bundle?api-version=bad&api-version=2020-09-01").expect(200);
    client.get("/trust-bundle?api-version=2020-09-01&api-version=bad").expect(400);
}

#[test]
fn identity_04_05_paths_are_exact() {
    let (_identityd, client) = identityd();
    client.get("/nowhere").expect(404);
    client.send("GET /nowhere HTTP/1.1\r\n\r\n").expect(400);
    client.get("/identities/identity/").expect(404);
    client.get("/Identities/identity").expect(404);
}

#[test]
fn identity_06_anybody_may_ask_about_provisioning_from_2021() {
    let (identityd, client) = identityd();
    client.get("/identities/provisioning").expect(404);
    for version in ["2021-12-01", "2022-08-01"] {
        for client in [client.clone(), identityd.as_uid(4711)] {
            let reply = client.version(version).get("/identities/provisioning").expect(200).expect_plain();
            assert_eq!(reply.body, br#"{"source":"none"}"#);
        }
    }
}

#[test]
fn identity_07_other_methods_are_400() {
    let (_identityd, client) = identityd();
    client.request("PATCH", "/identities/modules", None).expect(400);
    client.delete("/identities/identity", None).expect(400);
    let mut connection = client.connect();
    connection.send(client.bytes("HEAD", "/identities/modules", None));
    assert_eq!(connection.try_reply_to("HEAD").unwrap().status, 400);
}

#[test]
fn identity_08_09_bodies_have_a_type() {
    let site = Site::manual("");
    let client = site.client();
    let send = |method: &str, path: &str, kind: &str, body: &str| {
        let line = format!("{method} {path}api-version=2022-08-01 HTTP/1.1\r\n");
        client.send(with_body(&line, &[("content-type", kind)], body))
    };
    send("PUT", "/identities/modules/x?type=aziot&", "text/plain", "{}").expect(415);
    send("PUT", "/identities/modules/x?type=aziot&", "application/json", "").expect(422);
    let create = r#"{"type":"aziot","moduleId":"made"}"#;
    send("POST", "/identities/modules?", "text/plain", create).expect(400);
    send("POST", "/identities/modules?", "application/json; charset=utf-8", create)
        .expect(200)
        .expect_plain();
}

#[test]
fn identity_10_11_the_schema_comes_before_the_caller_and_the_caller_before_the_type() {
    let (identityd, client) = identityd();
    let stranger = identityd.as_uid(4711);
    for client in [&client, &stranger] {
        client.post("/identities/modules", &json!({ "type": "aziot" })).expect(422);
        let typo = json!({ "type": "x509", "attributes": "sever" });
        let local = json!({ "type": "local", "moduleId": "x", "localIdOpts": typo });
        client.post("/identities/modules", &local).expect(422);
    }
    stranger.post("/identities/modules", &json!({ "type": "what", "moduleId": "x" })).expect(401);
    stranger.get("/identities/modules?type=what").expect(401);
    for path in ["/identities/modules?type=what", "/identities/modules?type=local"] {
        client.get(path).expect(400);
    }
    client.delete("/identities/modules/x?type=local", None).expect(400);
}

#[test]
fn decided_a_module_of_no_type_is_one_of_the_hub() {
    let site = Site::manual("");
    site.create("m").expect(200);
    let client = site.client();
    let module = client.get("/identities/modules/m").expect(200).json();
    assert_eq!((&module["type"], &module["spec"]["moduleId"]), (&json!("aziot"), &json!("m")));
    client.get("/identities/modules").expect(200);
    client.put("/identities/modules/m", &json!({})).expect(200);
    client.delete("/identities/modules/m", None).expect(204);
    site.module("m").expect(404);
}

/// Upstream's clients read `message` and let the rest be.
#[test]
fn decided_refusals_have_facts_for_programs() {
    let site = Site::manual("");
    site.create("m").expect(200);
    let facts = |reply: Reply, status: u16| {
        let mut body = reply.expect(status).json();
        let message = body.as_object_mut().unwrap().remove("message").unwrap();
        assert!(message.is_string(), "{message}");
        body
    };
    let stranger = site.as_uid(4711).get("/identities/identity");
    assert_eq!(facts(stranger, 401), json!({ "code": "forbidden" }));
    assert_eq!(facts(site.create("m"), 404)["code"], "moduleExists");
    site.cloud.fault("hub.get", &json!({ "status": 429, "retry_after": 600 }), None);
    let throttled = facts(site.module("unknown"), 404);
    assert_eq!((&throttled["code"], &throttled["cloudStatus"]), (&json!("cloudThrottled"), &json!(429)));
    assert!(throttled["retryAfterSeconds"].as_u64().is_some_and(|seconds| seconds > 0), "{throttled}");
}

#[test]
fn identity_12_a_body_must_arrive_within_5_s() {
    let (_identityd, client) = identityd();
    let mut connection = client.connect();
    let start = Instant::now();
    let request =
        with_body("POST /identities/device?api-version=2020-09-01 HTTP/1.1\r\n", &[], r#"{"type":"aziot"}"#);
    connection.send(&request[..request.len() - 1]);
    connection.reply().expect(408);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn identity_14_no_content_is_empty() {
    let site = Site::manual("");
    site.create("m").expect(200);
    let deleted = site.client().delete("/identities/modules/m?type=aziot", None).expect(204).expect_plain();
    assert!(deleted.body.is_empty());
    for body in [None, Some(json!({ "type": "aziot" })), Some(json!([1]))] {
        let reply = site
            .client()
            .request("POST", "/identities/device/reprovision", body.as_ref())
            .expect(204)
            .expect_plain();
        assert!(reply.body.is_empty());
    }
    let line = "POST /identities/device/reprovision?api-version=2022-08-01 HTTP/1.1\r\n";
    site.client().send(with_body(line, &[("content-type", "application/json")], "{")).expect(422);
    site.client().send(with_body(line, &[("content-type", "text/plain")], "{")).expect(204);
}

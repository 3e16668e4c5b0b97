//! Devices and modules that prove themselves by certificates (lines 41, 59 and the X.509 rows of the checklist).
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use cloud_sim::Sim;
use common::*;
use openssl::hash::MessageDigest;
use serde_json::{Value, json};

/// One request to the first listener, showing a certificate or none.
fn ask(sim: &Sim, shown: Option<&Identity>, method: &str, target: &str, body: &Value) -> Answer {
    let mut client = Client::connect_as(sim.ready(), &sim.ready().hubs[0], shown).unwrap();
    client.send(method, target, &[], body).unwrap()
}

fn register(sim: &Sim, id: &str, shown: Option<&Identity>) -> Answer {
    let target = format!("/{}/registrations/{id}/register?api-version=2021-06-01", sim.ready().scope);
    ask(sim, shown, "PUT", &target, &json!({"registrationId": id}))
}

/// Register and poll to the end.
fn assigned(sim: &Sim, id: &str, shown: &Identity) -> Value {
    let answer = register(sim, id, Some(shown));
    assert_eq!(answer.status, 202, "{}", answer.text);
    let operation = answer.json()["operationId"].as_str().unwrap().to_owned();
    let target =
        format!("/{}/registrations/{id}/operations/{operation}?api-version=2021-06-01", sim.ready().scope);
    loop {
        let answer = ask(sim, Some(shown), "GET", &target, &Value::Null);
        if answer.status != 202 {
            assert_eq!(
                (answer.status, &answer.json()["status"]),
                (200, &json!("assigned")),
                "{}",
                answer.text
            );
            return answer.json()["registrationState"].take();
        }
    }
}

/// Registration is refused with 401 in the service's envelope, and the log says why.
#[track_caller]
fn refused(sim: &Sim, id: &str, shown: Option<&Identity>, why: &str) {
    let answer = register(sim, id, shown);
    assert_eq!((answer.status, &answer.json()["errorCode"]), (401, &json!(401_002)), "{}", answer.text);
    let reason = last_entry(sim)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(why), "{reason}");
}

fn enroll(sim: &Sim, path: &str, x509: &Value) {
    let (status, answer) = sim.admin("PUT", path, &json!({"attestation": {"type": "x509", "x509": x509}}));
    assert_eq!(status, 200, "{answer}");
}

fn named(sim: &Sim, name: &str) -> Identity {
    Identity::issued(sim, &json!({"common_name": name}))
}

fn modules(sim: &Sim, device: &str, shown: Option<&Identity>) -> u16 {
    let target = format!("/devices/{device}/modules?api-version=2017-11-08-preview");
    ask(sim, shown, "GET", &target, &Value::Null).status
}

fn root(sim: &Sim) -> Value {
    sim.admin("GET", "/est", &Value::Null).1["root"].take()
}

#[test]
fn a_device_is_known_by_one_of_two_certificates() {
    let sim = sim();
    let make = || Identity::issued(&sim, &json!({"common_name": "Press-17", "self_signed": true}));
    let (first, second, other) = (make(), make(), make());
    let pair = json!({"primary": {"certificate": first.pem()}, "secondary": {"certificate": second.pem()}});
    enroll(&sim, "/enrollments/press-17", &json!({"clientCertificates": pair}));
    let (_, shown) = sim.admin("GET", "/enrollments/press-17", &Value::Null);
    let info = &shown["attestation"]["x509"]["clientCertificates"]["primary"]["info"];
    let sha256 = first.thumbprint(MessageDigest::sha256()).to_uppercase();
    assert_eq!((&info["subjectName"], &info["sha256Thumbprint"]), (&json!("CN=Press-17"), &json!(sha256)));
    assert_eq!(shown["attestation"]["symmetricKey"], Value::Null);

    let state = assigned(&sim, "press-17", &first);
    assert_eq!(state["x509"]["certificateInfo"]["sha256Thumbprint"], sha256);
    assert_eq!(state["symmetricKey"], Value::Null);
    assert_eq!(modules(&sim, "press-17", Some(&first)), 200);
    assigned(&sim, "PRESS-17", &second);
    assert_eq!(last_entry(&sim)["notes"], json!(["individual enrolment, secondary certificate"]));
    assert_eq!(modules(&sim, "press-17", Some(&second)), 200);
    refused(&sim, "press-17", Some(&other), "none that press-17 is enrolled with");
    refused(&sim, "press-17", None, "shown no certificate");
    let (_, device) = sim.admin("GET", "/devices/0/press-17", &Value::Null);
    assert_eq!(device["authentication"]["type"], "selfSigned");
    assert!(device["connectionString"].as_str().unwrap().ends_with("DeviceId=press-17;x509=true"));
}

#[test]
fn line_41_certificates_that_do_not_fit_are_refused() {
    let (sim, foreign) = (sim(), sim_with(cloud_sim::Options::default()));
    enroll(
        &sim,
        "/enrollmentGroups/line",
        &json!({"signingCertificates": {"primary": {"certificate": root(&sim)}}}),
    );
    refused(&sim, "b", Some(&named(&sim, "a")), "is for a, not for b");
    refused(&sim, "a", Some(&named(&foreign, "a")), "group line: the client certificate: ");
    refused(&sim, "a", Some(&named(&sim, "a").alone()), "group line: the client certificate: ");
    let old = Identity::issued(&sim, &json!({"common_name": "a", "from_secs": -100, "validity_secs": 50}));
    refused(&sim, "a", Some(&old), "expired at ");
    let early = Identity::issued(&sim, &json!({"common_name": "a", "from_secs": 500}));
    refused(&sim, "a", Some(&early), "valid from ");
    let own = Identity::issued(&sim, &json!({"common_name": "a", "self_signed": true}));
    refused(&sim, "a", Some(&own), "self-signed certificate");
    assert_eq!(register(&sim, "a", Some(&named(&sim, "a"))).status, 202);
}

#[test]
fn validity_follows_the_simulator_s_clock() {
    let sim = sim();
    enroll(
        &sim,
        "/enrollmentGroups/line",
        &json!({"signingCertificates": {"primary": {"certificate": root(&sim)}}}),
    );
    let shown = Identity::issued(&sim, &json!({"common_name": "a", "validity_secs": 3600}));
    assigned(&sim, "a", &shown);
    sim.admin("POST", "/clock", &json!({"offset_secs": 7200}));
    refused(&sim, "a", Some(&shown), "expired at ");
    assert_eq!(modules(&sim, "a", Some(&shown)), 401);
    sim.admin("POST", "/settings", &json!({"check_validity": false}));
    assert_eq!(modules(&sim, "a", Some(&shown)), 200, "some hubs look at the thumbprint only");
    assigned(&sim, "a", &Identity::issued(&sim, &json!({"common_name": "a", "validity_secs": 3600})));
}

#[test]
fn a_group_admits_by_issuer_and_the_hub_by_the_leaf() {
    let sim = sim();
    enroll(
        &sim,
        "/enrollmentGroups/line",
        &json!({"signingCertificates": {"primary": {"certificate": root(&sim)}}}),
    );
    let leaf = named(&sim, "robot-1");
    let state = assigned(&sim, "robot-1", &leaf);
    assert_eq!(state["x509"]["enrollmentGroupId"], "line");
    assert_eq!(state["x509"]["signingCertificateInfo"]["subjectName"], "CN=aziot-cloud-sim EST root");
    assert_eq!(last_entry(&sim)["notes"], json!(["group line, primary signing certificate"]));
    assert_eq!(modules(&sim, "robot-1", Some(&leaf)), 200);
    let renewed = named(&sim, "robot-1");
    assert_eq!(modules(&sim, "robot-1", Some(&renewed)), 401, "a new certificate needs a new registration");
    assigned(&sim, "robot-1", &renewed);
    assert_eq!((modules(&sim, "robot-1", Some(&renewed)), modules(&sim, "robot-1", Some(&leaf))), (200, 401));
}

#[test]
fn dps_may_tell_the_hub_the_issuer_instead() {
    let sim = sim();
    let signing = json!({"primary": {"certificate": root(&sim)}});
    enroll(&sim, "/enrollmentGroups/line", &json!({"signingCertificates": signing}));
    sim.admin("PUT", "/certificates/plant", &json!({"certificate": root(&sim)}));
    sim.admin("POST", "/settings", &json!({"x509_hub_identity": "ca"}));
    assigned(&sim, "robot-1", &named(&sim, "robot-1"));
    assert_eq!(modules(&sim, "robot-1", Some(&named(&sim, "robot-1"))), 200, "a renewal changes nothing");
}

/// A resumed session has no certificate message: the server must remember the issuers, too.
#[test]
fn a_resumed_session_keeps_the_issuers() {
    let sim = sim();
    let signing = json!({"primary": {"certificate": root(&sim)}});
    enroll(&sim, "/enrollmentGroups/line", &json!({"signingCertificates": signing}));
    let (dir, shown) = (tempfile::tempdir().unwrap(), named(&sim, "a"));
    let pem: Vec<u8> = shown.chain.iter().flat_map(|it| it.to_pem().unwrap()).collect();
    std::fs::write(dir.path().join("chain.pem"), pem).unwrap();
    std::fs::write(dir.path().join("key.pem"), shown.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let body = json!({"registrationId": "a"}).to_string();
    let request = format!(
        "PUT /{}/registrations/a/register?api-version=2021-06-01 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        sim.ready().scope,
        body.len()
    );
    std::fs::write(dir.path().join("request"), request).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        for session in ["-sess_out", "-sess_in"] {
            let mut client = std::process::Command::new("openssl");
            client.args(["s_client", "-quiet", version, "-connect", &sim.ready().hubs[0], "-CAfile"]);
            client.arg(&sim.ready().ca).args([
                "-cert",
                "chain.pem",
                "-cert_chain",
                "chain.pem",
                "-key",
                "key.pem",
            ]);
            client.args([session, version]).current_dir(dir.path());
            client.stdin(std::fs::File::open(dir.path().join("request")).unwrap());
            let said = String::from_utf8(client.output().unwrap().stdout).unwrap();
            assert!(said.starts_with("HTTP/1.1 202 "), "{version} {session}: {said}");
        }
    }
    assert_eq!(sim.admin("GET", "/state", &Value::Null).1["counters"]["tls_resumed"], 2);
}

#[test]
fn ca_references_need_a_verified_ca() {
    let sim = sim();
    let refers = json!({"attestation": {"type": "x509", "x509": {"caReferences": {"primary": "plant"}}}});
    assert_eq!(sim.admin("PUT", "/enrollments/a", &refers).0, 400);
    let upload = |verified: bool| {
        let (status, shown) = sim.admin(
            "PUT",
            "/certificates/plant",
            &json!({"certificate": root(&sim), "isVerified": verified}),
        );
        assert_eq!((status, &shown["info"]["subjectName"]), (200, &json!("CN=aziot-cloud-sim EST root")));
    };
    upload(false);
    assert_eq!(sim.admin("PUT", "/enrollments/a", &refers).0, 200);
    refused(&sim, "a", Some(&named(&sim, "a")), "the client certificate: ");
    upload(true);
    let state = assigned(&sim, "a", &named(&sim, "a"));
    assert_eq!(state["x509"]["enrollmentGroupId"], Value::Null);
    assert_eq!(sim.admin("PUT", "/enrollmentGroups/g", &refers).0, 200);
    assigned(&sim, "b", &named(&sim, "b"));
    assert_eq!(last_entry(&sim)["notes"], json!(["group g, CA plant"]));
}

#[test]
fn keys_and_certificates_live_side_by_side() {
    let sim = sim();
    enroll(
        &sim,
        "/enrollmentGroups/certs",
        &json!({"signingCertificates": {"primary": {"certificate": root(&sim)}}}),
    );
    sim.admin("PUT", "/enrollmentGroups/keys", &json!({"attestation": {"type": "symmetricKey"}}));
    let (_, keys) = sim.admin("GET", "/enrollmentGroups/keys/keys/k", &Value::Null);
    let device = Device { sim: &sim, id: "k".into(), key: keys["primaryKey"].as_str().unwrap().to_owned() };
    assert_eq!(device.register()["registrationState"]["symmetricKey"]["enrollmentGroupId"], "keys");
    assigned(&sim, "c", &named(&sim, "c"));
    let keyed = Device::enrolled(&sim, "own", &json!({}));
    refused(&sim, "own", Some(&named(&sim, "own")), "no Authorization header");
    keyed.register();
}

#[test]
fn enrolments_with_certificates_are_checked() {
    let sim = sim();
    let put = |path: &str, attestation: Value| sim.admin("PUT", path, &json!({"attestation": attestation})).0;
    let one = json!({"primary": {"certificate": root(&sim)}});
    let x509 = |member: &str| json!({"type": "x509", "x509": {member: one}});
    assert_eq!(put("/enrollments/a", x509("signingCertificates")), 400);
    assert_eq!(put("/enrollmentGroups/a", x509("clientCertificates")), 400);
    assert_eq!(put("/enrollments/a", json!({"type": "x509"})), 400);
    assert_eq!(
        put("/enrollments/a", json!({"type": "symmetricKey", "x509": {"clientCertificates": one}})),
        400
    );
    assert_eq!(
        put(
            "/enrollments/a",
            json!({"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": "x"}}}})
        ),
        400
    );
    assert_eq!(put("/enrollments/a", x509("clientCertificates")), 200);
    let (_, shown) = sim.admin("GET", "/enrollments/a", &Value::Null);
    assert_eq!(sim.admin("PUT", "/enrollments/a", &shown).0, 200, "what was read can be written back");
}

#[test]
fn hubs_know_devices_by_thumbprint_or_by_issuer() {
    let sim = sim();
    let (leaf, other) = (named(&sim, "d"), named(&sim, "e"));
    let device = |authentication: Value| {
        sim.admin("PUT", "/devices/0/d", &json!({"authentication": authentication})).0
    };
    for digest in [MessageDigest::sha1(), MessageDigest::sha256()] {
        let thumbprints =
            json!({"primaryThumbprint": "0".repeat(40), "secondaryThumbprint": leaf.thumbprint(digest)});
        assert_eq!(device(json!({"type": "selfSigned", "x509Thumbprint": thumbprints})), 200);
        assert_eq!(modules(&sim, "d", Some(&leaf)), 200);
        assert_eq!(modules(&sim, "d", Some(&other)), 401);
        assert_eq!(modules(&sim, "d", None), 401);
    }
    assert_eq!(device(json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "12"}})), 400);
    assert_eq!(device(json!({"type": "selfSigned"})), 400);
    assert_eq!(device(json!({"type": "certificateAuthority"})), 200);
    assert_eq!(modules(&sim, "d", Some(&leaf)), 401, "the hub does not trust the CA yet");
    sim.admin("PUT", "/certificates/plant", &json!({"certificate": root(&sim)}));
    assert_eq!(modules(&sim, "d", Some(&leaf)), 200);
    assert_eq!(
        last_entry(&sim)["notes"],
        json!(["device's certificate, issued by aziot-cloud-sim EST root"])
    );
    assert_eq!(modules(&sim, "d", Some(&other)), 401, "another device's");
    sim.admin(
        "PUT",
        "/devices/0/d",
        &json!({"enabled": false, "authentication": {"type": "certificateAuthority"}}),
    );
    assert_eq!(modules(&sim, "d", Some(&leaf)), 401);
    assert_eq!(modules(&sim, "nobody", Some(&leaf)), 401);
}

#[test]
fn modules_have_certificates_of_their_own() {
    let sim = sim();
    let (device, module) = (named(&sim, "d"), named(&sim, "d/m"));
    sim.admin("PUT", "/certificates/plant", &json!({"certificate": root(&sim)}));
    sim.admin("PUT", "/devices/0/d", &json!({"authentication": {"type": "certificateAuthority"}}));
    let put = |authentication: Value| {
        let target = "/devices/d/modules/m?api-version=2017-11-08-preview";
        let mut client = Client::connect_as(sim.ready(), &sim.ready().hubs[0], Some(&device)).unwrap();
        let body = json!({"moduleId": "m", "deviceId": "d", "authentication": authentication});
        let created = client.send("PUT", target, &[], &body).unwrap();
        if created.status != 409 {
            return created;
        }
        client.send("PUT", target, &[("if-match", "*")], &body).unwrap()
    };
    let event = |shown: &Identity| {
        let target = "/devices/d/modules/m/messages/events?api-version=2017-11-08-preview";
        ask(&sim, Some(shown), "POST", target, &json!({})).status
    };
    assert_eq!(put(json!({"type": "selfSigned"})).status, 400);
    let thumbprints = json!({"primaryThumbprint": module.thumbprint(MessageDigest::sha256())});
    let created = put(json!({"type": "selfSigned", "x509Thumbprint": thumbprints}));
    assert_eq!(created.status, 200);
    assert_eq!(created.json()["authentication"]["type"], "selfSigned");
    assert_eq!((event(&module), event(&device)), (204, 401));
    let spelt = put(
        json!({"type": "x509", "x509thumbprint": {"primaryThumbprint": device.thumbprint(MessageDigest::sha1())}}),
    );
    assert_eq!(spelt.json()["authentication"]["type"], "x509");
    assert_eq!((event(&module), event(&device)), (401, 204));
    assert_eq!(
        put(json!({"type": "certificateAuthority"})).json()["authentication"]["type"],
        "certificateAuthority"
    );
    assert_eq!((event(&module), event(&device), event(&named(&sim, "e/m"))), (204, 401, 401));
    assert_eq!(put(json!({"type": "sas"})).status, 200);
    assert_eq!(event(&module), 401, "a module with keys needs a token");
}

#[test]
fn a_listener_refuses_certificates_in_the_handshake() {
    let sim = sim();
    let shown = named(&sim, "a");
    enroll(
        &sim,
        "/enrollmentGroups/line",
        &json!({"signingCertificates": {"primary": {"certificate": root(&sim)}}}),
    );
    let hub = sim.ready().hubs[0].clone();
    let connect = |shown| Client::connect_as(sim.ready(), &hub, shown);
    for version in ["1.2", "1.3"] {
        sim.admin("POST", "/tls", &json!({"refuse_client_certificate": true, "version": version}));
        let answered = connect(Some(&shown)).and_then(|mut it| it.send("GET", "/", &[], &Value::Null));
        assert!(answered.is_err(), "TLS {version}");
        assert!(connect(None).is_ok());
        sim.admin("POST", "/tls", &json!({"require_client_certificate": true, "version": version}));
        let answered = connect(None).and_then(|mut it| it.send("GET", "/", &[], &Value::Null));
        assert!(answered.is_err(), "TLS {version}");
        assert_eq!(register(&sim, "a", Some(&shown)).status, 202);
        sim.admin("POST", "/tls", &json!({"no_client_certificate": true, "version": version}));
        refused(&sim, "a", Some(&shown), "no Authorization header");
        sim.admin("POST", "/tls", &json!({"version": version}));
        assert_eq!(register(&sim, "a", Some(&shown)).status, 202);
    }
    let (_, state) = sim.admin("GET", "/state", &Value::Null);
    assert_eq!(state["counters"]["tls_failures"], 4);
}

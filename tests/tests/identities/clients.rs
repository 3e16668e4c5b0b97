//! The bytes that real clients of the identity service send, and what they need of the replies. The rows are those of the
//! table of clients in users-ask.

use std::{io::Read, os::unix::net::UnixListener};

use serde_json::json;
use suite_tests::{
    harness::{IDENTITYD, KEYD, Setup},
    http::{Client, Reply, base64, unbase64, with_body},
};

use crate::cloud::{Cloud, DEVICE, Site, hmac64, manual, principal};

/// Row 1: the IoT Edge daemon. Its Host is the path of the socket in hexadecimal digits, its `$` is not escaped.
#[test]
fn row_01_aziot_edged_keeps_its_modules() {
    let site = Site::provisioned("");
    let ask = |method: &str, path: &str, body: &str| {
        let head = format!(
            "{method} {path}api-version=2020-09-01 HTTP/1.1\r\nhost: 2f72756e2f617a696f742f6964656e74697479642e736f636b:0\r\n"
        );
        exchange(&site.client(), &head, body)
    };
    let device = ask("POST", "/identities/device?", r#"{"type":"aziot"}"#).expect(200).json();
    assert_eq!(device["spec"]["deviceId"], DEVICE);
    let made =
        ask("POST", "/identities/modules?", r#"{"type":"aziot","moduleId":"filter"}"#).expect(200).json();
    assert_eq!(made["spec"]["moduleId"], "filter");
    let born = site.cloud.add_module("$edgeAgent"); // the hub makes it for each IoT Edge device
    let agent = "/identities/modules/$edgeAgent?type=aziot&";
    let updated = ask("PUT", agent, r#"{"type":"aziot","moduleId":"$edgeAgent"}"#).expect(200).json();
    assert_eq!(updated["spec"]["genId"], born["generationId"], "an update keeps the twin");
    assert_eq!(ask("GET", agent, "").expect(200).json()["spec"]["moduleId"], "$edgeAgent");
    let list = ask("GET", "/identities/modules?type=aziot&", "").expect(200).json();
    assert_eq!(list["identities"].as_array().unwrap().len(), 2);
    ask("DELETE", "/identities/modules/filter?type=aziot&", "").expect(204);
    ask("POST", "/identities/device/reprovision?", r#"{"type":"aziot"}"#).expect(204);
}

/// Rows 7 and 11: agents on upstream's crates ask who they are, lower and escape the resource, and sign it with keyd.
#[test]
fn row_07_11_a_rust_agent_makes_its_token() {
    let site = Site::provisioned(&principal(1001, "Agent", "['module']"));
    let head = "GET /identities/identity?api-version=2020-09-01 HTTP/1.1\r\nhost: identityd.sock\r\n";
    let identity = exchange(&site.as_uid(1001), head, "").expect(200).json();
    let spec = &identity["spec"];
    let [hub, device, module] = ["hubName", "deviceId", "moduleId"].map(|name| spec[name].as_str().unwrap());
    let resource = format!("{hub}/devices/{device}/modules/{module}").to_lowercase();
    let message = format!("{}\n1893456000", resource.replace(':', "%3A").replace('/', "%2F"));
    let sign = json!({
        "keyHandle": spec["auth"]["keyHandle"],
        "algorithm": "HMAC-SHA256",
        "parameters": { "message": base64(&message) },
    });
    let signature = site.keyd.as_uid(1001).post("/sign", &sign).expect(200).string("signature");
    let registered = site.cloud.module("Agent");
    let key = registered["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    assert_eq!(signature, hmac64(&unbase64(key), &message), "the hub knows the key");
}

/// Rows 5, 6 and 9: C programs with their own HTTP (absolute target, the path of the socket as Host, a length of nothing) and
/// .NET's HttpClient. The last has its package's principal for uid 0.
#[test]
fn row_05_06_09_agents_ask_who_they_are() {
    let principals = [principal(1001, "adu", "['module']"), principal(0, "osconfig", "['module']")].concat();
    let site = Site::provisioned(&principals);
    for (uid, name, target, host, most) in [
        (1001, "adu", "http://foo", "/run/aziot/identityd.sock:0", 4096),
        (0, "osconfig", "http://aziot", "/run/aziot/identityd.sock:0", 8192),
        (1001, "adu", "http://identityd.sock", "identityd.sock", 4096),
    ] {
        let length = if host.starts_with('/') { "content-length: 0\r\n" } else { "" };
        let head = format!(
            "GET {target}/identities/identity?api-version=2020-09-01 HTTP/1.1\r\nHost: {host}\r\n{length}"
        );
        let reply = exchange(&site.as_uid(uid), &head, "").expect(200);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert!((16..=most).contains(&reply.body.len()), "{} bytes", reply.body.len());
        let spec = &reply.json()["spec"];
        assert_eq!((&spec["moduleId"], &spec["auth"]["type"]), (&json!(name), &json!("sas")));
        // The message they sign has the resource as it is, and slashes escaped in JSON.
        let message =
            format!("{}/devices/{DEVICE}/modules/{name}\n1893456000", spec["hubName"].as_str().unwrap());
        let sign = json!({
            "keyHandle": spec["auth"]["keyHandle"],
            "algorithm": "HMAC-SHA256",
            "parameters": { "message": base64(&message) },
        });
        let head = "POST http://foo/sign?api-version=2020-09-01 HTTP/1.1\r\nHost: /run/aziot/keyd.sock:0\r\n";
        let escaped = sign.to_string().replace('/', r"\/");
        let signature = exchange(&site.keyd.as_uid(uid), head, &escaped).expect(200).string("signature");
        let key = site.cloud.module(name)["authentication"]["symmetricKey"]["primaryKey"].clone();
        assert_eq!(signature, hmac64(&unbase64(key.as_str().unwrap()), &message), "the hub knows the key");
    }
}

/// Row 13: a module that makes itself, on upstream's old crates.
#[test]
fn row_13_a_host_level_module() {
    let site = Site::provisioned("");
    let ask = |method: &str, path: &str, body: &str| {
        let head = format!("{method} {path}api-version=2020-09-01 HTTP/1.1\r\nhost: identityd.sock\r\n");
        exchange(&site.client(), &head, body).expect(200).json()
    };
    ask("POST", "/identities/device?", r#"{"type":"aziot"}"#);
    ask("POST", "/identities/modules?", r#"{"type":"aziot","moduleId":"host_level"}"#);
    let module = ask("GET", "/identities/modules/host_level?type=aziot&", "");
    assert_eq!(module["spec"]["auth"]["type"], "sas");
    assert!(ask("GET", "/trust-bundle?", "")["certificate"].is_string());
}

/// Row 14: `aziotctl system reprovision` and `iotedge`, as root, whatever principals say of root.
#[test]
fn row_14_the_admin_commands_reprovision() {
    for more in [String::new(), principal(0, "rooted", "['module']")] {
        let site = Site::provisioned(&more);
        for version in ["2021-12-01", "2020-09-01"] {
            let before = site.cloud.count("dps.register");
            let head = format!(
                "POST /identities/device/reprovision?api-version={version} HTTP/1.1\r\nhost: identityd.sock\r\n"
            );
            exchange(&site.client(), &head, r#"{"type":"aziot"}"#).expect(204);
            assert!(site.cloud.count("dps.register") > before);
        }
    }
}

/// Row 15: what upstream's tests and guides type.
#[test]
fn row_15_guides() {
    let site = Site::provisioned("");
    let head = "POST http://foo/identities/device?api-version=2020-09-01 HTTP/1.1\r\nHost: foo\r\n";
    exchange(&site.client(), head, r#"{ "type": "" }"#).expect(200);
    for version in ["2021-12-01", "2022-08-01"] {
        let head =
            format!("GET /identities/provisioning?api-version={version} HTTP/1.1\r\nHost: localhost\r\n");
        let info = exchange(&site.client(), &head, "").expect(200).json();
        assert_eq!((&info["source"], &info["auth"]), (&json!("dps"), &json!("symmetric_key")));
    }
}

/// identityd itself is a client of keyd.
#[test]
fn common_70_identityd_names_keyd_and_the_version() {
    let cloud = Cloud::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("keyd.sock");
    let keyd = UnixListener::bind(&socket).unwrap();
    let setup = Setup::new(&IDENTITYD).env("SSL_CERT_FILE", cloud.ca()).reach(&KEYD, &socket);
    let _identityd = setup.config(&manual(&cloud, "")).start();
    let (mut connection, _) = keyd.accept().unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0].into());
    }
    let lines: Vec<_> = head.lines().collect();
    assert_eq!(lines[0], "GET /key/device-id?api-version=2021-05-01 HTTP/1.1");
    assert!(lines.iter().any(|line| line.eq_ignore_ascii_case("host: keyd.sock")), "{head}");
}

/// The plain reply to a request with exactly this head, and a body unless it is empty.
#[track_caller]
fn exchange(client: &Client, head: &str, body: &str) -> Reply {
    let request = match body {
        "" => format!("{head}\r\n").into_bytes(),
        body => with_body(head, &[("content-type", "application/json")], body),
    };
    client.send(request).expect_plain()
}

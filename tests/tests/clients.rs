//! The bytes that real clients of the keys service send, and what they need of the replies. The rows are those of the
//! table of clients in users-ask.
//!
//! Every reply must be plain in the sense of [`suite_tests::http::Reply::expect_plain`], with nothing behind it.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::{Client, End, Reply, base64, unbase64, with_body},
    keys::{Keys, by_handle},
    openssl::{SHA256_DIGEST_INFO, sha256, verifies},
};

fn keyd() -> (Daemon, Client) {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    (keyd, client)
}

/// The plain reply to exactly `request`, after which nothing may come.
#[track_caller]
fn exchange(client: &Client, request: impl AsRef<[u8]>) -> Reply {
    let mut connection = client.connect();
    connection.send(request);
    let reply = connection.reply().expect_plain();
    let end = connection.end(Duration::from_millis(30));
    assert!(matches!(end, End::Open | End::Closed), "after the reply: {end:?}");
    reply
}

/// Rows 2 and 7: Rust clients on hyper. `host` is what the build sends.
#[track_caller]
fn hyper(client: &Client, host: &str, method: &str, path: &str, body: Option<&str>) -> Reply {
    let head = format!("{method} {path}?api-version=2020-09-01 HTTP/1.1\r\nhost: {host}\r\n");
    match body {
        Some(body) => exchange(client, with_body(&head, &[("content-type", "application/json")], body)),
        None => exchange(client, format!("{head}\r\n")),
    }
}

#[test]
fn row_02_aziot_edged_keeps_its_secrets() {
    let (_keyd, client) = keyd();
    for host in ["keyd.sock", "2f72756e2f617a696f742f6b6579642e736f636b:0"] {
        let body = r#"{"keyId":"iotedge_master_encryption_id","keyBytes":null,"usage":"encrypt"}"#;
        assert_eq!(body.len(), 74);
        let handle = hyper(&client, host, "POST", "/key", Some(body)).expect(200).string("keyHandle");
        assert!(handle.len() < 300, "{}", handle.len());
        let (iv, aad, secret) = (base64(b"module-secret"), base64(b"$edgeAgent"), base64(b"the secret"));
        let request = |text: &str, bytes: &str| {
            format!(
                r#"{{"keyHandle":"{handle}","algorithm":"AEAD","parameters":{{"iv":"{iv}","aad":"{aad}"}},"{text}":"{bytes}"}}"#
            )
        };
        let sealed =
            hyper(&client, host, "POST", "/encrypt", Some(&request("plaintext", &secret))).expect(200);
        let sealed = request("ciphertext", &sealed.string("ciphertext"));
        let opened = hyper(&client, host, "POST", "/decrypt", Some(&sealed)).expect(200);
        assert_eq!(opened.string("plaintext"), secret);
        let sign = format!(
            r#"{{"keyHandle":"{handle}","algorithm":"HMAC-SHA256","parameters":{{"message":"{}"}}}}"#,
            base64(b"hub/devices/d\n1700000000")
        );
        let signed = hyper(&client, host, "POST", "/sign", Some(&sign)).expect(200);
        assert_eq!(unbase64(&signed.string("signature")).len(), 32);
    }
}

#[test]
fn row_02_aziot_edged_moves_and_deletes_its_ca_under_the_old_version() {
    let (_keyd, client) = keyd();
    let edged = |method: &str, path: &str, body: &str| hyper(&client, "keyd.sock", method, path, Some(body));
    let create = r#"{"keyId":"aziot-edged-ca-temp","preferredAlgorithms":"rsa-2048:*"}"#;
    let temporary = edged("POST", "/keypair", create).expect(200).string("keyHandle");
    edged("POST", "/parameters/rsa-modulus", &by_handle(&temporary).to_string()).expect(200);
    edged("POST", "/keypair/aziot-edged-ca", r#"{"from":"aziot-edged-ca-temp"}"#).expect(204);
    let loaded = hyper(&client, "keyd.sock", "GET", "/keypair/aziot-edged-ca", None).expect(200);
    edged("DELETE", "/keypair", &by_handle(&loaded.string("keyHandle")).to_string()).expect(204);
    hyper(&client, "keyd.sock", "GET", "/keypair/aziot-edged-ca", None).expect(400);
}

/// Row 4: the engine of upstream inside any program. No Host; two headers with a body, none without.
#[track_caller]
fn engine(client: &Client, path: &str, body: &Value) -> Reply {
    let (body, path) = (body.to_string(), format!("{path}?api-version=2021-05-01"));
    let request = format!(
        "POST {path} HTTP/1.1\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n{body}",
        body.len()
    );
    exchange(client, request)
}

#[test]
fn row_04_the_engine_signs_with_an_ec_pair() {
    let (_keyd, client) = keyd();
    client.create_pair("device-id", "ec-p256");
    let loaded =
        exchange(&client, "GET /keypair/device-id?api-version=2021-05-01 HTTP/1.1\r\n\r\n").expect(200);
    let handle = loaded.string("keyHandle");
    let parameter = |name: &str| {
        engine(&client, &format!("/parameters/{name}"), &by_handle(&handle)).expect(200).string("value")
    };
    assert_eq!(parameter("algorithm"), "ECDSA");
    assert_eq!(parameter("ec-curve-oid"), "BggqhkjOPQMBBw==");
    assert_eq!(unbase64(&parameter("ec-point")).len(), 33);
    let digest = sha256(b"to be signed");
    let sign =
        json!({ "keyHandle": handle, "algorithm": "ECDSA", "parameters": { "digest": base64(&digest) } });
    let signature = engine(&client, "/sign", &sign).expect(200).bytes("signature");
    assert!(verifies(&client.public_key(&handle), &digest, &signature, &[]));
}

#[test]
fn row_04_the_engine_signs_with_an_rsa_pair() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("device-id", "rsa-2048");
    for (name, length) in [("rsa-modulus", 256), ("rsa-exponent", 3)] {
        let value =
            engine(&client, &format!("/parameters/{name}"), &by_handle(&handle)).expect(200).string("value");
        assert_eq!(unbase64(&value).len(), length);
    }
    let digest = sha256(b"to be signed");
    for (algorithm, text) in [
        ("RSA-PKCS1", [SHA256_DIGEST_INFO.as_slice(), &digest].concat()),
        ("RSA-NO-PADDING", [[0; 224].as_slice(), &digest].concat()), // as the PSS of TLS 1.3 is done
    ] {
        let request = json!({ "keyHandle": handle, "algorithm": algorithm, "plaintext": base64(text) });
        assert_eq!(engine(&client, "/encrypt", &request).expect(200).bytes("ciphertext").len(), 256);
    }
}

#[test]
fn row_04_the_engine_writes_its_head_in_tiny_fragments() {
    let (_keyd, client) = keyd();
    client.create_pair("device-id", "ec-p256");
    let mut connection = client.connect();
    for byte in b"GET /keypair/device-id?api-version=2021-05-01 HTTP/1.1\r\n\r\n" {
        connection.send([*byte]);
    }
    connection.reply().expect(200).expect_plain();
}

#[test]
fn row_04_errors_reach_the_engine() {
    let (_keyd, client) = keyd();
    exchange(&client, "GET /keypair/missing?api-version=2021-05-01 HTTP/1.1\r\n\r\n").expect(400);
    engine(
        &client,
        "/sign",
        &json!({ "keyHandle": "x", "algorithm": "ECDSA", "parameters": { "digest": "" } }),
    )
    .expect(400);
    engine(&client, "/sign", &json!({})).expect(422);
}

/// Rows 5 and 6: C programs with their own HTTP: absolute target, the path of the socket as Host, escaped slashes.
#[test]
fn row_05_06_device_update_and_osconfig_sign_a_token() {
    let (_keyd, client) = keyd();
    let handle = client.create_key("module-key", "sign");
    let message = base64("hub.azure-devices.net/devices/d/modules/m\n1700000000??");
    assert!(message.contains('/'), "the journey needs a slash to escape");
    for (target, host) in
        [("http://foo", "/run/aziot/keyd.sock:0"), ("http://aziot", "/run/aziot/keyd.sock:0")]
    {
        let body =
            json!({ "keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": { "message": message } });
        let body = body.to_string().replace('/', r"\/");
        let head = format!("POST {target}/sign?api-version=2020-09-01 HTTP/1.1\r\nHost: {host}\r\n");
        let reply =
            exchange(&client, with_body(&head, &[("content-type", "application/json")], body)).expect(200);
        assert!((16..=4096).contains(&reply.body.len()));
        assert_eq!(reply.bytes("signature"), client.hmac(&handle, &unbase64(&message)));
    }
    let get = "GET http://foo/key/module-key?api-version=2020-09-01 HTTP/1.1\r\nHost: /run/aziot/keyd.sock:0\r\ncontent-length: 0\r\n\r\n";
    exchange(&client, get).expect(200);
}

/// Rows 9 and 12: .NET's HttpClient writes JSON with a charset, often chunked.
#[test]
fn row_09_12_dotnet_clients_seal_and_sign() {
    let keyd = Setup::new(&KEYD).config("[[principal]]\nuid = 1000\nkeys = ['mysymmtestkey']\n").start();
    keyd.client().post("/key", &json!({ "keyId": "mysymmtestkey", "usage": "encrypt" })).expect(200);
    let client = keyd.as_uid(1000);
    for version in ["2020-09-01", "2021-05-01"] {
        let get = format!("GET /key/mysymmtestkey?api-version={version} HTTP/1.1\r\nHost: keyd.sock\r\n\r\n");
        let handle = exchange(&client, get).expect(200).string("keyHandle");
        let parameters = format!(r#"{{"iv":"{}","aad":"{}"}}"#, base64(b"0123456789ab"), base64(b"aad"));
        let seal = |text: &str, bytes: &str| {
            format!(
                r#"{{"keyHandle":"{handle}","algorithm":"AEAD","{text}":"{bytes}","parameters":{parameters}}}"#
            )
        };
        let sealed =
            dotnet(&client, version, "/encrypt", &seal("plaintext", "aGVsbG8=")).string("ciphertext");
        let opened = dotnet(&client, version, "/decrypt", &seal("ciphertext", &sealed));
        assert_eq!(opened.string("plaintext"), "aGVsbG8=");
        let sign = format!(
            r#"{{"keyHandle":"{handle}","algorithm":"HMAC-SHA256","parameters":{{"message":"aGVsbG8="}}}}"#
        );
        dotnet(&client, version, "/sign", &sign);
    }
}

/// The reply to `body` sent in one piece and again in chunks.
#[track_caller]
fn dotnet(client: &Client, version: &str, path: &str, body: &str) -> Reply {
    let head = format!("POST {path}?api-version={version} HTTP/1.1\r\nHost: keyd.sock\r\n");
    let json = ("Content-Type", "application/json; charset=utf-8");
    exchange(client, with_body(&head, &[json], body)).expect(200);
    let chunks = format!("{:X}\r\n{body}\r\n0\r\n\r\n", body.len());
    let request = format!("{head}Transfer-Encoding: chunked\r\n{}: {}\r\n\r\n{chunks}", json.0, json.1);
    exchange(client, request).expect(200)
}

/// Rows 12 and 15: what guides tell people to type.
#[test]
fn row_12_15_curl() {
    let (keyd, client) = keyd();
    let curl = |args: &[&str]| {
        let socket = keyd.setup().socket_path().to_str().unwrap().to_owned();
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--unix-socket", &socket])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let body = r#"{"keyId":"mysymmtestkey","usage":"encrypt"}"#;
    let url = |path: &str| format!("http://foo{path}?api-version=2020-09-01");
    let made = curl(&["-H", "Content-Type: application/json", "-d", body, &url("/key")]);
    client.hmac(made["keyHandle"].as_str().unwrap(), b"m");
    let loaded = curl(&[&url("/key/mysymmtestkey").replace("foo", "localhost")]);
    client.hmac(loaded["keyHandle"].as_str().unwrap(), b"m");
}

/// A GET with a body, as old builds of identityd sent.
#[test]
fn row_17_a_get_may_have_a_body() {
    let (_keyd, client) = keyd();
    client.create_key("a", "sign");
    let head = "GET /key/a?api-version=2020-09-01 HTTP/1.1\r\nhost: keyd.sock\r\n";
    let mut connection = client.connect();
    connection.send(with_body(head, &[("content-type", "application/json")], "{}"));
    connection.reply().expect(200).expect_plain();
    connection.send(client.bytes("GET", "/key/a", None));
    connection.reply().expect(200); // the body was not taken for a request
}

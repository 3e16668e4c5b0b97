//! The bytes that real clients of a device with a certificate send, and what they need of the replies. The rows are those of the
//! table of clients in users-ask.

use std::ops::RangeInclusive;

use openssl::x509::X509;
use serde_json::json;
use suite_tests::{
    http::{Client, Reply, with_body},
    keys::by_handle,
};

use crate::{
    cloud::DEVICE,
    plant::{Plant, chain},
};

/// Rows 5 and 6: C programs with their own HTTP ask who the device is, and then certd for its certificate: absolute target, the
/// path of the socket as Host, a length of nothing, a content type to the letter, and a body that has room.
#[test]
fn row_05_06_agents_fetch_the_certificate_of_the_device() {
    let plant = Plant::provisioned("");
    for (target, room) in [("http://foo", 16..=4096), ("http://aziot", 16..=8192)] {
        let ask = |client: &Client, socket: &str, path: &str| {
            let head = format!(
                "GET {target}{path}?api-version=2020-09-01 HTTP/1.1\r\nHost: /run/aziot/{socket}:0\r\n"
            );
            fits(client.send(format!("{head}content-length: 0\r\n\r\n")), &room)
        };
        let identity = ask(&plant.client(), "identityd.sock", "/identities/identity").json();
        let (spec, auth) = (&identity["spec"], &identity["spec"]["auth"]);
        assert_eq!((&spec["deviceId"], &auth["type"]), (&json!(DEVICE), &json!("x509")));
        let id = auth["certId"].as_str().unwrap();
        let reply = ask(&plant.certd.client(), "certd.sock", &format!("/certificates/{id}"));
        assert!(plant.key(id).unwrap().public_eq(&chain(&reply)[0].public_key().unwrap()));
    }
}

/// Row 10: a C# program fetches the certificate as .NET's HttpClient asks, and tells the leaf from the authorities by
/// BasicConstraints. What it does with the handle of the key is a matter of the engine.
#[test]
fn row_10_dotnet_splits_the_chain() {
    let plant = Plant::provisioned("");
    let get = |client: &Client, path: &str, host: &str| {
        client
            .send(format!("GET {path}?api-version=2020-09-01 HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .expect(200)
            .expect_plain()
    };
    let identity = get(&plant.client(), "/identities/identity", "identityd.sock").json();
    let id = identity["spec"]["auth"]["certId"].as_str().unwrap();
    let chain = chain(&get(&plant.certd.client(), &format!("/certificates/{id}"), "certd.sock"));
    let authorities: Vec<bool> = chain.iter().map(is_authority).collect();
    assert!(authorities.len() > 1, "the journey needs a chain");
    assert!(!authorities[0] && authorities[1..].iter().all(|is_authority| *is_authority), "{authorities:?}");
}

/// Row 14: `aziotctl check` looks whether certificate and key belong together, with the versions that it has for each service.
#[test]
fn row_14_check_compares_certificate_and_key() {
    let plant = Plant::provisioned("");
    let certificate = plant
        .certd
        .client()
        .send("GET /certificates/device-id?api-version=2020-09-01 HTTP/1.1\r\nhost: certd.sock\r\n\r\n")
        .expect_plain();
    let leaf = chain(&certificate).remove(0);
    let keyd = plant.keyd.client();
    let loaded = keyd
        .send("GET /keypair/device-id?api-version=2021-05-01 HTTP/1.1\r\nhost: keyd.sock\r\n\r\n")
        .expect(200)
        .expect_plain()
        .string("keyHandle");
    let parameter = |name: &str| {
        let head = format!("POST /parameters/{name}?api-version=2021-05-01 HTTP/1.1\r\nhost: keyd.sock\r\n");
        let body = by_handle(&loaded).to_string();
        keyd.send(with_body(&head, &[("content-type", "application/json")], body)).expect(200).expect_plain()
    };
    assert_eq!(parameter("algorithm").string("value"), "RSA");
    let key = leaf.public_key().unwrap().rsa().unwrap();
    assert_eq!(parameter("rsa-modulus").bytes("value"), key.n().to_vec());
    assert_eq!(parameter("rsa-exponent").bytes("value"), key.e().to_vec());
}

/// A reply as row 5 reads it.
#[track_caller]
fn fits(reply: Reply, room: &RangeInclusive<usize>) -> Reply {
    let reply = reply.expect(200).expect_plain();
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(room.contains(&reply.body.len()), "{} bytes", reply.body.len());
    reply
}

fn is_authority(certificate: &X509) -> bool {
    let text = String::from_utf8(certificate.to_text().unwrap()).unwrap();
    text.contains("CA:TRUE")
}

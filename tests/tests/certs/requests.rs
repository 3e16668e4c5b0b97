//! What is said to whom about a request: checklist 1-15, 18.

use std::time::{Duration, Instant};

use serde_json::json;
use suite_tests::{
    harness::{CERTD, Setup},
    http::with_body,
};

use super::{Certs, Plant, any_pem, csr};

fn alone() -> suite_tests::harness::Daemon {
    Setup::new(&CERTD).start()
}

#[test]
fn certs_01_02_the_version_is_needed_and_the_last_counts() {
    let certd = alone();
    certd.client().import("x", &any_pem()).expect(201);
    let status =
        |query: &str| certd.client().send(format!("GET /certificates/x{query} HTTP/1.1\r\n\r\n")).status;
    assert_eq!(status(""), 400);
    assert_eq!(status("?api-version=2021-05-01"), 400);
    assert_eq!(status("?api-version=1&api-version=2020-09-01"), 200);
    certd.client().send("GET /certificates/x HTTP/1.1\r\n\r\n").expect(400);
}

#[test]
fn certs_03_04_paths_and_methods() {
    let certd = alone();
    let client = certd.client();
    client.get("/certificates").expect(400);
    client.get("/unknown").expect(404);
    client.get("/certificates/").expect(404);
    for method in ["PATCH", "HEAD"] {
        let mut connection = client.connect();
        connection.send(client.bytes(method, "/certificates/x", None));
        assert_eq!(connection.try_reply_to(method).unwrap().status, 400, "{method}");
    }
    client.request("PATCH", "/unknown", None).expect(404);
}

#[test]
fn certs_05_what_does_not_exist_is_a_bad_request() {
    let message = alone().client().fetch("nothing").expect(400).string("message");
    assert!(message.contains("id") && message.contains("nothing"), "{message}");
}

#[test]
fn certs_06_07_08_bodies_of_imports() {
    let certd = alone();
    let client = certd.client();
    let put = |headers: &[(&str, &str)], body: &str| {
        client
            .send(with_body("PUT /certificates/x?api-version=2020-09-01 HTTP/1.1\r\n", headers, body))
            .status
    };
    let good = json!({ "pem": any_pem() }).to_string();
    assert_eq!(put(&[("content-type", "text/plain")], &good), 415);
    assert_eq!(put(&[], &good), 201);
    for bad in ["{", "", r#"{"pem":5}"#, r#"{"pem":null}"#, "{}"] {
        assert_eq!(put(&[("content-type", "application/json")], bad), 422, "{bad}");
    }
}

#[test]
fn certs_09_10_bodies_of_issuances() {
    let plant = Plant::new("");
    let client = plant.client();
    let post = |headers: &[(&str, &str)], body: &str| {
        client.send(with_body("POST /certificates?api-version=2020-09-01 HTTP/1.1\r\n", headers, body)).status
    };
    let good = json!({ "certId": "x", "csr": csr("x") }).to_string();
    client
        .send("POST /certificates?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        .expect(400);
    assert_eq!(post(&[("content-type", "text/plain")], &good), 400);
    assert_eq!(post(&[("content-type", "application/json")], "{"), 422);
    let charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(post(&charset, &good), 500, "it is read, and nobody is configured to issue it");
}

#[test]
fn certs_11_a_stalled_body_is_given_up() {
    let certd = alone();
    let mut connection = certd.client().connect();
    connection.send("PUT /certificates/x?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 100\r\n\r\n{");
    let start = Instant::now();
    assert_eq!(connection.reply().status, 408);
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(12)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn certs_12_what_is_imported_comes_back_letter_by_letter() {
    let certd = alone();
    let client = certd.client();
    let pem = format!("# a comment, é\r\n{}\n\ntrailing", any_pem());
    let reply = client.put("/certificates/x", &json!({ "pem": pem, "more": [1] })).expect(201);
    assert_eq!(reply.string("pem"), pem);
    assert_eq!(client.fetch("x").expect(200).string("pem"), pem);
}

/// Upstream keeps anything.
#[test]
fn certs_13_decided_what_is_no_certificate_is_not_imported() {
    let certd = alone();
    let client = certd.client();
    let before = any_pem();
    client.import("x", &before).expect(201);
    let key = super::authority::Issued::root("x").key_pem();
    let torn = before.replacen("MII", "???", 1);
    for bad in
        ["", "no certificate", torn.as_str(), &format!("{before}{key}"), "-----BEGIN CERTIFICATE-----\n"]
    {
        let message = client.import("x", bad).expect(422).string("message");
        assert!(message.contains("pem"), "{message}");
    }
    assert_eq!(client.fetch("x").expect(200).string("pem"), before, "nothing is lost");
}

#[test]
fn certs_14_15_deletions() {
    let certd = alone();
    let client = certd.client();
    client.import("x", &any_pem()).expect(201);
    for _ in 0..2 {
        let reply = client.forget("x");
        assert_eq!((reply.status, reply.body.len()), (204, 0));
    }
    client.fetch("x").expect(400);
    let delete = |kind: &str, body: &str| {
        let headers = [("content-type", kind)];
        client
            .send(with_body("DELETE /certificates/x?api-version=2020-09-01 HTTP/1.1\r\n", &headers, body))
            .status
    };
    assert_eq!(delete("text/plain", "hello"), 204);
    assert_eq!(delete("application/json", "{"), 422);
}

#[test]
fn certs_18_ids_are_text() {
    let certd = alone();
    certd.client().get("/certificates/%ff").expect(404);
    certd.client().get("/certificates/%c3%a9").expect(400);
}

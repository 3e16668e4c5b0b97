//! HTTP as the daemons speak it: checklist 37-63.

use std::time::{Duration, Instant};

use serde_json::json;
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::{Client, End, Reply, with_body},
    keys::{Keys, by_handle, hmac_request},
};

use super::create;

/// A keyd that has the key `x`.
fn keyd() -> (Daemon, Client) {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    client.create_key("x", "sign");
    (keyd, client)
}

/// The reply to `POST /key` with these headers and this body.
#[track_caller]
fn post(client: &Client, headers: &[(&str, &str)], body: &str) -> Reply {
    client.send(with_body("POST /key?api-version=2020-09-01 HTTP/1.1\r\n", headers, body))
}

#[test]
fn common_37_no_host_header_is_needed() {
    let (_keyd, client) = keyd();
    client.send("GET /key/x?api-version=2020-09-01 HTTP/1.1\r\n\r\n").expect(200);
    client.send("GET /key/x?api-version=2020-09-01 HTTP/1.1\r\nHost: /run/x.sock:0\r\n\r\n").expect(200);
}

#[test]
fn common_37_absolute_targets_are_served() {
    let (_keyd, client) = keyd();
    client.send("GET http://foo/key/x?api-version=2020-09-01 HTTP/1.1\r\nHost: bar\r\n\r\n").expect(200);
}

#[test]
fn common_38_http_1_0_is_answered_in_its_version_and_closed() {
    let (_keyd, client) = keyd();
    let mut connection = client.connect();
    connection.send("GET /key/x?api-version=2020-09-01 HTTP/1.0\r\n\r\n");
    let reply = connection.reply().expect(200);
    assert_eq!(reply.version, "HTTP/1.0");
    assert_eq!(connection.end(Duration::from_secs(5)), End::Closed);
}

#[test]
fn common_39_pipelined_requests_are_answered_in_order() {
    let (_keyd, client) = keyd();
    let mut connection = client.connect();
    let (first, second) = (client.bytes("GET", "/key/x", None), client.bytes("GET", "/nowhere", None));
    connection.send([first, second].concat());
    connection.reply().expect(200);
    connection.reply().expect(404);
    connection.send(client.bytes("GET", "/key/x", None));
    connection.reply().expect(200);
}

#[test]
fn common_40_missing_api_version_is_400_also_for_unknown_path() {
    let (_keyd, client) = keyd();
    for target in ["/key/x", "/key/x?a=b", "/nowhere", "/"] {
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n")).expect(400);
    }
}

#[test]
fn common_41_unknown_api_version_is_400() {
    let (_keyd, client) = keyd();
    for version in ["2019-01-01", "2020-09-01-preview", "2020-09-01x", "", "bogus"] {
        client.get(&format!("/key/x?api-version={version}")).expect(400);
    }
}

#[test]
fn common_42_the_last_api_version_counts() {
    let (_keyd, client) = keyd();
    client.get("/key/x?api-version=bogus&api-version=2020-09-01").expect(200);
    client.get("/key/x?api-version=2020-09-01&api-version=bogus").expect(400);
}

#[test]
fn common_43_the_name_of_the_version_is_decoded_and_case_sensitive() {
    let (_keyd, client) = keyd();
    let get = |query: &str| client.send(format!("GET /key/x?{query} HTTP/1.1\r\n\r\n"));
    get("api%2Dversion=2020-09-01").expect(200);
    get("api-version=2020%2D09%2D01").expect(200);
    get("Api-Version=2020-09-01").expect(400);
}

#[test]
fn common_44_45_unknown_paths_are_404() {
    let (_keyd, client) = keyd();
    for path in ["/nowhere", "/", "/key/x/", "/key/", "/Key/x", "/key/x/y", "/%6bey/x", "//key/x", "/key//x"]
    {
        client.get(path).expect(404);
    }
    client.post("/key/", &create("y")).expect(404);
}

#[test]
fn common_46_segments_are_decoded_once() {
    let (_keyd, client) = keyd();
    client.get("/key/%ff").expect(404);
    client.get("/key/%78").expect(200);
    client.create_key("a/b", "sign");
    client.get("/key/a%2Fb").expect(200);
    client.get("/key/a%2fb").expect(200);
    client.get("/key/a/b").expect(404);
    client.create_key("a%2Fb", "sign");
    client.get("/key/a%252Fb").expect(200);
}

#[test]
fn common_47_48_other_methods_are_400() {
    let (_keyd, client) = keyd();
    for (method, path) in
        [("PATCH", "/key/x"), ("OPTIONS", "/key/x"), ("GET", "/sign"), ("TRACE", "/sign"), ("PURGE", "/sign")]
    {
        client.request(method, path, None).expect(400);
    }
    client.get("/key").expect(400);
    client.delete("/key/x", None).expect(400);
    client.post("/sign/x", &json!({})).expect(404);
    let mut connection = client.connect();
    connection.send(client.bytes("HEAD", "/key/x", None));
    assert_eq!(connection.try_reply_to("HEAD").unwrap().status, 400);
    assert!(!is_data(&connection.end(Duration::from_millis(200))), "HEAD has no body");
}

#[test]
fn common_49_50_a_body_of_another_type_is_no_body() {
    let (_keyd, client) = keyd();
    client.request("POST", "/key", None).expect(400);
    client.request("DELETE", "/key", None).expect(400);
    let valid = create("y").to_string();
    post(&client, &[("content-type", "text/plain")], &valid).expect(400);
    post(&client, &[("content-type", "application/jsonx")], &valid).expect(400);
    post(&client, &[("content-type", "")], &valid).expect(400);
    post(&client, &[("content-type", "application/json")], "").expect(400);
}

#[test]
fn common_51_52_a_json_type_may_be_missing_or_have_parameters() {
    let (_keyd, client) = keyd();
    let valid = create("y").to_string();
    post(&client, &[], &valid).expect(200);
    post(&client, &[("content-type", "application/json; charset=utf-8")], &valid).expect(200);
    post(&client, &[("content-type", "application/json ;charset=utf-8")], &valid).expect(200);
    let put = "PUT /key/x?api-version=2020-09-01 HTTP/1.1\r\n"; // no route has it; the body is judged all the same
    client.send(with_body(put, &[("content-type", "application/json; charset=utf-8")], "{}")).expect(400);
}

#[test]
fn common_53_put_judges_type_and_body_before_the_method() {
    let (_keyd, client) = keyd();
    let put = |headers: &[(&str, &str)], body: &str| {
        client.send(with_body("PUT /key/x?api-version=2020-09-01 HTTP/1.1\r\n", headers, body))
    };
    put(&[("content-type", "text/plain")], "{}").expect(415);
    put(&[], "").expect(422);
    put(&[("content-type", "application/json")], "{").expect(422);
    put(&[], "{}").expect(400);
}

#[test]
fn common_54_json_that_does_not_fit_is_422() {
    let (_keyd, client) = keyd();
    for body in [
        "{",
        "nonsense",
        "[]",
        "\"text\"",
        "null",
        "{}",
        r#"{"keyId":"y"}"#,
        r#"{"usage":"sign"}"#,
        r#"{"keyId":1,"usage":"sign"}"#,
        r#"{"keyId":"y","keyId":"y","usage":"sign"}"#,
        r#"{"keyId":"y","usage":"sign"} x"#,
        r#"{"keyId":"y","usage":"sign"}{}"#,
        r#"{"keyId":null,"usage":"sign"}"#,
        "{\"keyId\":\"\u{7}\",\"usage\":\"sign\"}",
        r#"{'keyId':'y','usage':'sign'}"#,
    ] {
        let reply = post(&client, &[], body);
        assert_eq!(reply.status, 422, "{body}");
        reply.expect(422);
    }
    post(&client, &[], "\u{feff}{\"keyId\":\"y\",\"usage\":\"sign\"}").expect(422);
}

#[test]
fn common_54_json_that_is_not_utf8_is_422() {
    let (_keyd, client) = keyd();
    let body = b"{\"keyId\":\"\xff\",\"usage\":\"sign\"}";
    client.send(with_body("POST /key?api-version=2020-09-01 HTTP/1.1\r\n", &[], body)).expect(422);
}

#[test]
fn common_55_unknown_members_are_accepted() {
    let (_keyd, client) = keyd();
    post(&client, &[], r#"{"colour":{"a":[1]},"keyId":"y","usage":"sign","more":null}"#).expect(200);
}

#[test]
fn common_56_a_body_that_does_not_come_is_408_after_five_seconds() {
    let (_keyd, client) = keyd();
    let announced = "POST /key?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 100\r\n\r\n";
    let (mut silent, mut slow) = (client.connect(), client.connect());
    let start = Instant::now();
    silent.send(announced);
    slow.send(announced);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(900));
        slow.send(" "); // each byte in time, the whole is not
    }
    for connection in [&mut silent, &mut slow] {
        connection.reply().expect(408);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(4500) && took < Duration::from_secs(9), "took {took:?}");
        assert_eq!(connection.end(Duration::from_secs(5)), End::Closed);
    }
}

#[test]
fn common_57_expectations_are_met() {
    let (_keyd, client) = keyd();
    let mut connection = client.connect();
    let body = create("y").to_string();
    let length = body.len();
    let head = format!(
        "POST /key?api-version=2020-09-01 HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.send(head);
    assert_eq!(connection.reply().status, 100);
    connection.send(body);
    connection.reply().expect(200);
}

#[test]
fn common_58_chunked_bodies_are_accepted() {
    let (_keyd, client) = keyd();
    let body = create("y").to_string();
    let (first, second) = body.split_at(7);
    let mut connection = client.connect();
    connection.send("POST /key?api-version=2020-09-01 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
    for part in [first, second, ""] {
        connection.send(format!("{:x}\r\n{part}\r\n", part.len()));
    }
    connection.reply().expect(200);
}

#[test]
fn common_59_heads_are_bounded() {
    let (_keyd, client) = keyd();
    let fields = |n: usize| "x-a: b\r\n".repeat(n);
    client.send(format!("GET /key/x?api-version=2020-09-01 HTTP/1.1\r\n{}\r\n", fields(50))).expect(200);
    let many = client.send(format!("GET /key/x?api-version=2020-09-01 HTTP/1.1\r\n{}\r\n", fields(101)));
    assert_eq!((many.status, many.body.len()), (431, 0));
    let long = "a".repeat(65_535 - "/key/".len() - QUERY.len());
    let long = client.send(format!("GET /key/{long}{QUERY} HTTP/1.1\r\n\r\n"));
    assert_eq!((long.status, long.body.len()), (414, 0));
}

#[test]
fn common_59_malformed_requests_are_400_without_body() {
    let (_keyd, client) = keyd();
    for request in [
        "NONSENSE\r\n\r\n",
        "GET /key/x?api-version=2020-09-01 HTTP/3.7\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut connection = client.connect();
        connection.send(request);
        let reply = connection.reply();
        assert_eq!((reply.status, reply.body.len()), (400, 0), "{request}");
        assert_ne!(connection.end(Duration::from_secs(5)), End::Open);
    }
}

#[test]
fn common_60_replies_are_small_and_plain() {
    let (_keyd, client) = keyd();
    for _ in 0..50 {
        client.get("/key/x").expect(200).expect_plain();
    }
    let handle = client.load_key("x");
    for (path, body, status) in [
        ("/sign", hmac_request(&handle, b"m"), 200),
        ("/sign", hmac_request("nonsense", b"m"), 400),
        ("/sign", json!({}), 422),
        ("/nowhere", json!({}), 404),
    ] {
        client.post(path, &body).expect(status).expect_plain();
    }
}

#[test]
fn common_61_a_204_has_no_body() {
    let (_keyd, client) = keyd();
    let handle = client.load_key("x");
    let mut connection = client.connect();
    connection.send(client.bytes("DELETE", "/key", Some(&by_handle(&handle))));
    let reply = connection.reply().expect(204);
    for absent in ["content-type", "content-length", "transfer-encoding"] {
        assert_eq!(reply.header(absent), None);
    }
    connection.send(client.bytes("GET", "/nowhere", None));
    connection.reply().expect(404); // nothing came between
}

#[test]
fn common_62_internal_errors_say_nothing() {
    let (keyd, client) = keyd();
    let empty = suite_tests::keys::key_file(&keyd.home(), "x");
    std::fs::write(empty, "").unwrap();
    let first = client.get("/key/x").expect(500).string("message");
    std::fs::write(suite_tests::keys::key_file(&keyd.home(), "pair"), "-----BEGIN PRIVATE KEY-----\n")
        .unwrap();
    let second = client.get("/keypair/pair").expect(500).string("message");
    assert_eq!(first, second);
    for detail in ["/", "key", "empty", "No such", "PEM", "ssl"] {
        assert!(!first.contains(detail), "{first}");
    }
}

#[test]
fn common_63_keyd_knows_two_versions() {
    let (_keyd, client) = keyd();
    for (version, status) in
        [("2020-09-01", 200), ("2021-05-01", 200), ("2021-12-01", 400), ("2022-08-01", 400)]
    {
        client.version(version).get("/key/x").expect(status);
    }
}

#[test]
fn common_http2_is_not_spoken() {
    let (_keyd, client) = keyd();
    let mut connection = client.connect();
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    match connection.end(Duration::from_secs(5)) {
        End::Closed | End::Reset => {}
        End::Data(bytes) => assert!(bytes.starts_with(b"HTTP/1.1 4"), "{bytes:?}"),
        End::Open => panic!("still open"),
    }
}

/// Whether `end` brought bytes.
fn is_data(end: &End) -> bool {
    matches!(end, End::Data(_))
}

const QUERY: &str = "?api-version=2020-09-01";

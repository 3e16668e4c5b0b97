//! The client against a real server on loopback.

use http_common::https::{ClientIdentity, ProxyRules, Trust};
use openssl::x509::X509Req;

use super::*;
use crate::support::authority::{common_name, ec_key, name, request};
use crate::support::server::Dress;
use crate::support::{Answer, EstServer, Issued, Settings};

fn options(server: &EstServer) -> HttpsOptions {
    let trust = Trust::SystemAnd(vec![server.settings().root.cert.clone()]);
    HttpsOptions { trust, identity: None, proxy: ProxyRules::default() }
}

fn client_at(url: &str, server: &EstServer, seconds: u64) -> Server {
    let basic = server.settings().basic;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    Server::new(&url.parse().unwrap(), basic, options(server), deadline).unwrap()
}

fn client(server: &EstServer) -> Server {
    client_at(&server.url(""), server, 30)
}

fn csr() -> X509Req {
    request("device", &ec_key(), vec![])
}

async fn enroll(server: &Server) -> Result<Vec<X509>, EstError> {
    server.enroll(Operation::SimpleEnroll, &csr(), &|_| {}).await
}

fn raw(status: u16, headers: &str) -> Answer {
    Answer::Raw(status, headers.to_owned(), vec![])
}

#[tokio::test]
async fn certs_51_on_the_wire() {
    let server = EstServer::start(Settings::new());
    let client = client(&server);
    let authorities = client.authorities().await.unwrap();
    let issued = enroll(&client).await.unwrap();
    assert_eq!(common_name(authorities[0].subject_name()), "EST Root");
    assert!(issued == server.issued());
    let seen = server.seen();
    assert_eq!(server.operations(), ["cacerts", "simpleenroll"]);
    assert_eq!((seen[0].request.method.as_str(), seen[1].request.method.as_str()), ("GET", "POST"));
    assert_eq!(seen[1].request.target, "/.well-known/est/simpleenroll");
    assert_eq!(seen[1].request.header("content-type"), Some("application/pkcs10"));
    assert_eq!(seen[1].request.header("content-transfer-encoding"), Some("base64"));
    let body = String::from_utf8(seen[1].request.body.clone()).unwrap();
    assert!(body.ends_with('\n') && body.lines().all(|line| line.len() <= 64), "{body}");
    assert!(seen.iter().all(|seen| seen.request.header("authorization").is_none()));
}

/// Some servers cannot read base64 in lines.
#[tokio::test]
async fn a_request_that_is_not_understood_is_sent_on_one_line() {
    let server = EstServer::start(Settings::new());
    let issued = vec![server.settings().root.leaf("device").cert];
    server.next("simpleenroll", raw(400, ""));
    server.next("simpleenroll", Answer::Certificates(issued.clone()));
    assert!(enroll(&client(&server)).await.unwrap() == issued);
    let bodies: Vec<_> =
        server.seen().into_iter().map(|seen| String::from_utf8(seen.request.body).unwrap()).collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies[0].contains('\n') && bodies[0].replace('\n', "") == bodies[1], "{bodies:?}");
    server.next("simpleenroll", raw(400, ""));
    server.next("simpleenroll", raw(400, ""));
    let refused = enroll(&client(&server)).await.unwrap_err();
    assert!(matches!(refused, EstError::Refused { status: StatusCode::BAD_REQUEST, .. }), "{refused}");
    assert_eq!(server.seen().len(), 4, "not again and again");
}

#[tokio::test]
async fn certs_52_basic_authentication_with_every_request() {
    let server = EstServer::start(Settings { basic: Some(("user", "p:w")), ..Settings::new() });
    let client = client(&server);
    client.authorities().await.unwrap();
    enroll(&client).await.unwrap();
    for seen in server.seen() {
        assert_eq!(seen.request.header("authorization"), Some("Basic dXNlcjpwOnc="));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    let wrong =
        Server::new(&server.url("").parse().unwrap(), Some(("user", "x")), options(&server), deadline)
            .unwrap();
    let error = wrong.authorities().await.unwrap_err();
    assert!(error.is_unauthorized() && error.to_string().contains("right?"), "{error}");
    assert!(!format!("{error:?}").contains("dXNlcj"));
}

/// Each server says it in its own way.
#[test]
fn who_is_refused_and_what() {
    let nginx = "<html>\r\n<head><title>400 The SSL certificate error</title></head>";
    let check = |operation, status: u16, body: &'static str, expected| {
        let answer = Response::builder().status(status).body(Bytes::from(body)).unwrap();
        let error = EstError::refused(&"https://host/".parse().unwrap(), operation, &answer);
        assert_eq!(error.is_unauthorized(), expected, "{operation:?}, {status}, {body}: {error}");
    };
    for operation in [Operation::CaCerts, Operation::SimpleEnroll, Operation::SimpleReenroll] {
        for status in [401, 495, 496] {
            check(operation, status, "", true);
        }
        check(operation, 400, nginx, true);
        check(operation, 400, "<center>No required SSL certificate was sent</center>", true);
        check(operation, 400, "bad request", false);
        check(operation, 400, "subject differs from that of the SSL certificate", false);
        check(operation, 404, nginx, false);
        check(operation, 403, "", operation == Operation::CaCerts);
    }
}

#[tokio::test]
async fn labels_and_slashes() {
    let server = EstServer::start(Settings::new());
    for (url, target) in [
        (server.url(""), "/.well-known/est/cacerts"),
        (format!("{}/", server.url("")), "/.well-known/est/cacerts"),
        (server.url("press/a%20b"), "/.well-known/est/press/a%20b/cacerts"),
        (format!("{}?profile=x#part", server.url("")), "/.well-known/est/cacerts?profile=x"),
    ] {
        client_at(&url, &server, 30).authorities().await.unwrap();
        assert_eq!(server.seen().pop().unwrap().request.target, target, "{url}");
    }
}

#[tokio::test]
async fn certs_55_every_dress_is_understood() {
    for dress in [Dress::Lines, Dress::OneLine, Dress::Crlf, Dress::Unpadded, Dress::Pem, Dress::Der] {
        let server = EstServer::start(Settings { dress, ..Settings::new() });
        let client = client(&server);
        assert_eq!(client.authorities().await.unwrap().len(), 1, "{dress:?}");
        assert_eq!(enroll(&client).await.unwrap().len(), 1, "{dress:?}");
    }
}

#[tokio::test]
async fn certs_54_answers_that_are_none() {
    let server = EstServer::start(Settings::new());
    let client = client(&server);
    let html = |status| Answer::Raw(status, "content-type: text/html\r\n".into(), b"<html>".to_vec());
    for (answer, expected) in [
        (raw(202, ""), "not decided yet"),
        (raw(202, "retry-after: 3000\r\n"), "again in 3000 s"),
        (raw(302, ""), "does not say where"),
        (raw(302, "location: https://elsewhere.example/est\r\n"), "another server"),
        (raw(303, "location: /x\r\n"), "become a GET"),
        (raw(401, ""), "answers 401"),
        (Answer::Raw(403, String::new(), b"not\x07 you\nat all".to_vec()), "\"not you\""),
        (raw(404, ""), "path of the configured URL"),
        (html(200), "something wrong"),
        (raw(200, ""), "something wrong"),
        (raw(200, "content-type: application/pkcs7-mime\r\n"), "something wrong"),
        (Answer::Certificates(vec![]), "something wrong"),
    ] {
        server.next("simpleenroll", answer.clone());
        let error = enroll(&client).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{answer:?}: {error}");
    }
    assert!(server.issued().is_empty());
}

#[tokio::test]
async fn a_pending_enrolment_is_asked_for_again() {
    let server = EstServer::start(Settings::new());
    for _ in 0..2 {
        server.next("simpleenroll", raw(202, "retry-after: 1\r\n"));
    }
    let start = Instant::now();
    enroll(&client(&server)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.request.body).collect();
    assert!(bodies.len() == 3 && bodies.windows(2).all(|two| two[0] == two[1]), "the same request each time");
}

#[tokio::test]
async fn trouble_passes() {
    for answer in [raw(503, "retry-after: 1\r\n"), raw(500, ""), Answer::Close] {
        let server = EstServer::start(Settings::new());
        server.next("cacerts", answer.clone());
        client(&server).authorities().await.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
        assert_eq!(server.seen().len(), 2, "{answer:?}");
    }
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed() {
    let server = EstServer::start(Settings::new());
    for status in [301, 302, 307, 308] {
        let answer = raw(status, "location: /.well-known/est/moved/simpleenroll\r\n");
        server.next("simpleenroll", answer);
        enroll(&client(&server)).await.unwrap();
        let seen = server.seen().pop().unwrap();
        assert_eq!((seen.label.as_str(), seen.request.method.as_str()), ("moved", "POST"));
    }
    server.next("cacerts", raw(303, "location: ../est/moved/cacerts\r\n"));
    client(&server).authorities().await.unwrap();
    for _ in 0..9 {
        server.next("cacerts", raw(302, "location: cacerts\r\n"));
    }
    let error = client(&server).authorities().await.unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
    let port = format!("location: https://localhost:{}/.well-known/est/cacerts\r\n", server.port + 1);
    let plain = format!("location: http://localhost:{}/.well-known/est/cacerts\r\n", server.port);
    for elsewhere in [port, plain, "location: https://[::1\r\n".to_owned()] {
        let server = EstServer::start(Settings::new());
        server.next("cacerts", raw(307, &elsewhere));
        assert!(
            matches!(client(&server).authorities().await, Err(EstError::Redirected { .. })),
            "{elsewhere}"
        );
    }
}

#[tokio::test]
async fn a_silent_or_dead_server_is_given_up_at_the_deadline() {
    let server = EstServer::start(Settings::new());
    server.next("cacerts", Answer::Hang);
    let start = Instant::now();
    let error = client_at(&server.url(""), &server, 1).authorities().await.unwrap_err();
    assert!(matches!(error, EstError::NoAnswer { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client_at(&format!("https://{dead}/"), &server, 2).authorities().await.unwrap_err();
    assert!(matches!(error, EstError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn only_who_is_trusted_is_asked() {
    let server = EstServer::start(Settings { basic: Some(("user", "secret")), ..Settings::new() });
    let deadline = Instant::now() + Duration::from_secs(10);
    let trusting = |trust| HttpsOptions { trust, identity: None, proxy: ProxyRules::default() };
    for (host, trust) in [
        ("localhost", Trust::SystemAnd(vec![Issued::root("other").cert])),
        ("127.0.0.1", Trust::SystemAnd(vec![server.settings().root.cert.clone()])),
    ] {
        let url = server.url("").replace("localhost", host).parse().unwrap();
        let client = Server::new(&url, Some(("user", "secret")), trusting(trust), deadline).unwrap();
        assert!(client.authorities().await.is_err(), "{host}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let server = EstServer::start(Settings { needs_client: true, ..Settings::new() });
    let owner = server.settings().root.leaf("boot");
    let identity = ClientIdentity { chain: vec![owner.cert.clone()], key: owner.key.clone() };
    let deadline = Instant::now() + Duration::from_secs(10);
    let with = |identity| HttpsOptions { identity, ..options(&server) };
    let client = Server::new(&server.url("").parse().unwrap(), None, with(Some(identity)), deadline).unwrap();
    enroll(&client).await.unwrap();
    assert_eq!(server.seen()[0].client_name().as_deref(), Some("boot"));
    let again = client.enroll(Operation::SimpleReenroll, &csr(), &|_| {}).await.unwrap_err();
    assert!(matches!(again, EstError::Refused { .. }), "another subject: {again}");
    let same = request("boot", &ec_key(), vec![]);
    assert_eq!(same.subject_name().to_der().unwrap(), name("boot").to_der().unwrap());
    client.enroll(Operation::SimpleReenroll, &same, &|_| {}).await.unwrap();
    let nobody = Server::new(&server.url("").parse().unwrap(), None, with(None), deadline).unwrap();
    assert!(enroll(&nobody).await.unwrap_err().is_unauthorized());
}

#[tokio::test]
async fn wishes_of_the_authority() {
    let wish = b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01".to_vec();
    for (attributes, expected) in
        [(None, None), (Some(wish), Some("rsa-2048:*")), (Some(b"\x30\x00".to_vec()), None)]
    {
        let server = EstServer::start(Settings { attributes, ..Settings::new() });
        assert_eq!(client(&server).key_algorithms().await.unwrap(), expected);
    }
    let server = EstServer::start(Settings::new());
    server.next("csrattrs", raw(204, ""));
    assert_eq!(client(&server).key_algorithms().await.unwrap(), None);
}

#[tokio::test]
async fn plain_http_works() {
    let server = EstServer::start(Settings { host: None, ..Settings::new() });
    assert!(server.url("").starts_with("http:"));
    enroll(&client(&server)).await.unwrap();
}

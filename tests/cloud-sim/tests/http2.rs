//! The same cloud by HTTP/2: what is answered, what goes wrong on order, and what of it concerns other requests.

#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use bytes::Bytes;
use cloud_sim::Sim;
use common::{Device, sim, token};
use h2::{Reason, client::SendRequest};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};
use serde_json::{Value, json};
use std::{
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// A client with one connection.
struct Client {
    sender: SendRequest<Bytes>,
    hub: String,
    token: String,
}

/// Status and body; or the status, what came of the body, and why no more.
type Outcome = Result<(u16, String), (Option<u16>, usize, h2::Error)>;

/// A TLS connection on which both protocols are offered, and what the server chose.
async fn connect(sim: &Sim) -> (SslStream<TcpStream>, Option<Vec<u8>>) {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    context.set_ca_file(&sim.ready().ca).unwrap();
    context.set_verify(SslVerifyMode::PEER);
    context.set_alpn_protos(b"\x08http/1.1\x02h2").unwrap();
    let port = sim.ready().hubs[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = SslStream::new(Ssl::new(&context.build()).unwrap(), stream).unwrap();
    Pin::new(&mut stream).connect().await.unwrap();
    let chosen = stream.ssl().selected_alpn_protocol().map(<[u8]>::to_vec);
    (stream, chosen)
}

impl Client {
    async fn new(sim: &Sim, device: &Device<'_>) -> Client {
        let (stream, chosen) = connect(sim).await;
        assert_eq!(chosen.as_deref(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let hub = sim.ready().hubs[0].clone();
        let token = token(&format!("{hub}/devices/d"), &device.key, false);
        Client { sender, hub, token }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Outcome {
        let uri = format!("https://{}/devices/d/{path}?api-version=2017-11-08-preview", self.hub);
        let request = http::Request::builder().method(method).uri(uri).header("authorization", &self.token);
        let request = request.header("content-type", "application/json").body(()).unwrap();
        let lost = |err| (None, 0, err);
        let mut sender = self.sender.clone().ready().await.map_err(lost)?;
        let (answer, mut stream) = sender.send_request(request, body.is_null()).map_err(lost)?;
        if !body.is_null() {
            stream.send_data(body.to_string().into(), true).map_err(lost)?;
        }
        let (head, mut incoming) = answer.await.map_err(lost)?.into_parts();
        let status = head.status.as_u16();
        let mut text = Vec::new();
        while let Some(piece) = incoming.data().await {
            let piece = piece.map_err(|err| (Some(status), text.len(), err))?;
            incoming.flow_control().release_capacity(piece.len()).unwrap();
            text.extend_from_slice(&piece);
        }
        if let Some(length) = head.headers.get("content-length").filter(|_| method != "DELETE") {
            assert_eq!(length.to_str().unwrap(), text.len().to_string());
        }
        assert!(head.headers.contains_key("date"));
        Ok((status, String::from_utf8(text).unwrap()))
    }

    async fn list(&self) -> Outcome {
        self.send("GET", "modules", &Value::Null).await
    }
}

fn strike(sim: &Sim, operation: &str, action: &Value) {
    let rule = json!({"match": {"operation": operation}, "times": 1, "action": action});
    assert_eq!(sim.admin("POST", "/faults", &rule).0, 201);
}

fn counters(sim: &Sim) -> Value {
    sim.admin("GET", "/state", &Value::Null).1["counters"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_a_connection_and_are_seen_as_ever() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let client = Client::new(&sim, &device).await;
    let module = json!({"moduleId": "m", "deviceId": "d"});
    assert_eq!(client.send("PUT", "modules/m", &module).await.unwrap().0, 200);
    strike(&sim, "hub.list", &json!({"delay_ms": 500}));
    let start = Instant::now();
    let (slow, fast) = tokio::join!(client.list(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (client.send("GET", "modules/m", &Value::Null).await, start.elapsed())
    });
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(fast.1 < start.elapsed(), "nobody waits for another");
    assert_eq!((slow.unwrap().0, fast.0.unwrap().0), (200, 200));
    let (_, log) = sim.admin("GET", "/log", &Value::Null);
    let put = &log["entries"][0];
    assert_eq!((&put["version"], &put["form"], &put["body"]), (&json!("2"), &json!("origin"), &module));
    assert_eq!(put["headers"][0], json!(["host", client.hub]));
    let counters = counters(&sim);
    assert_eq!((&counters["connections"], &counters["tls_handshakes"]), (&json!(1), &json!(1)));
    assert_eq!(counters["by_operation"], json!({"hub.get": 1, "hub.list": 1, "hub.put": 1}));
    assert_eq!((&counters["most_under_way"], &counters["requests_under_way"]), (&json!(2), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_strike_one_request_only() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let client = Client::new(&sim, &device).await;
    let lost = |outcome: Outcome| {
        let (status, length, err) = outcome.unwrap_err();
        assert!(err.is_reset() && err.is_remote(), "{err}");
        (status, length)
    };
    strike(&sim, "hub", &json!({"status": 503}));
    assert_eq!(client.list().await.unwrap().0, 503);
    for action in
        [json!({"reset": true}), json!({"close_before_reply": true}), json!({"reset_after_bytes": 9})]
    {
        strike(&sim, "hub", &action);
        assert_eq!(lost(client.list().await), (None, 0), "{action}");
    }
    strike(&sim, "hub", &json!({"body": "x".repeat(900), "close_after_bytes": 800}));
    let (status, length) = lost(client.list().await);
    assert!(status == Some(200) && (1..800).contains(&length), "{status:?} {length}");
    strike(&sim, "hub", &json!({"body": "x".repeat(160), "slow_body_ms": 20}));
    let start = Instant::now();
    assert_eq!(client.list().await.unwrap().1.len(), 160);
    assert!(start.elapsed() >= Duration::from_millis(200));
    strike(&sim, "hub", &json!({"headers": {"connection": "close", "x-y": "z"}, "huge_body": 3_000_000}));
    assert_eq!(client.list().await.unwrap().1.len(), 3_000_000);
    strike(&sim, "hub", &json!({"want_http1": true}));
    let (_, _, err) = client.list().await.unwrap_err();
    assert_eq!(err.reason(), Some(Reason::HTTP_1_1_REQUIRED));
    strike(&sim, "hub", &json!({"stall": true}));
    let stalled = tokio::time::timeout(Duration::from_millis(300), client.list()).await;
    assert!(stalled.is_err());
    assert_eq!(client.list().await.unwrap(), (200, "[]".to_owned()));
    assert_eq!(counters(&sim)["connections"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_takes_all_requests_with_it() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    for refuse in [false, true] {
        let client = Client::new(&sim, &device).await;
        strike(&sim, "hub.list", &json!({"stall": true}));
        let module = json!({"moduleId": "m", "deviceId": "d"});
        let (stalled, dropped) = tokio::join!(client.list(), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match refuse {
                true => drop(sim.admin("POST", "/accept", &json!({"refuse": true}))),
                false => strike(&sim, "hub.put", &json!({"drop_connection": true, "after": true})),
            }
            client.send("PUT", "modules/m", &module).await
        });
        let errors = [stalled.unwrap_err().2, dropped.unwrap_err().2];
        assert!(errors.iter().all(|err| !err.is_reset()), "{errors:?}");
        sim.admin("POST", "/accept", &json!({}));
    }
    assert_eq!(sim.admin("GET", "/devices/0/d/modules/m", &Value::Null).0, 200, "it was done");
    let deadline = Instant::now() + Duration::from_secs(5);
    while counters(&sim)["requests_under_way"] != 0 {
        assert!(Instant::now() < deadline, "requests of a dropped connection are under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_switched_off_and_broken() {
    let sim = sim();
    sim.admin("POST", "/tls", &json!({"http2": "off"}));
    assert_eq!(connect(&sim).await.1, None);
    sim.admin("POST", "/tls", &json!({"http2": "broken"}));
    let (stream, chosen) = connect(&sim).await;
    assert_eq!(chosen.as_deref(), Some(&b"h2"[..]));
    let broken = match h2::client::handshake(stream).await {
        Ok((_sender, connection)) => connection.await,
        Err(err) => Err(err),
    };
    assert!(broken.is_err());
    sim.admin("POST", "/tls", &json!({}));
    assert_eq!(connect(&sim).await.1.as_deref(), Some(&b"h2"[..]));
}

//! Requests that wait for others: they keep nobody waiting, and are told when the service ends. Clients that take their
//! time: they get their answer. Knows one made-up service. Time is paused: it passes when nothing else is to be done.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http_common::{ApiError, Handlers, Peer, Serve, Server, StatusCode, Stop, wait_apart};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Waits for somebody who never comes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hang {}

/// Turns out to wait for somebody who never comes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Wander {}

/// Is done at once.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Look {}

http_common::endpoints! {
    /// For tests.
    TestApi "test" ["2020-09-01"];
    POST "/hang" since "2020-09-01" Hang -> OK String, waits;
    POST "/wander" since "2020-09-01" Wander -> OK String;
    GET  "/look" since "2020-09-01" Look -> OK String;
}

struct Test;

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl From<Never> for ApiError {
    fn from(never: Never) -> Self {
        Self::from_error(StatusCode::INTERNAL_SERVER_ERROR, &never)
    }
}

impl Handlers for Test {
    type Error = Never;
}

impl Serve<Hang> for Test {
    async fn serve(&self, _: Peer, _: Hang) -> Result<String, Never> {
        pending().await
    }
}

impl Serve<Wander> for Test {
    async fn serve(&self, _: Peer, _: Wander) -> Result<String, Never> {
        wait_apart(pending()).await
    }
}

impl Serve<Look> for Test {
    async fn serve(&self, _: Peer, _: Look) -> Result<String, Never> {
        Ok("seen".to_owned())
    }
}

/// The service with `max_requests`, a directory with its socket, and what ends it when it is told or dropped.
fn serve(max_requests: usize) -> (tempfile::TempDir, watch::Sender<Stop>, tokio::task::JoinHandle<()>) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
    let (stop, stopping) = watch::channel(Stop::No);
    let server = Server::new(Arc::new(Test), router::<Test>(), max_requests, 1000);
    (directory, stop, tokio::spawn(server.run(listener, stopping)))
}

async fn ask(directory: &tempfile::TempDir, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(directory.path().join("sock")).await.unwrap();
    let (method, path) = request.split_once(' ').unwrap();
    let request = format!(
        "{method} {path}?api-version=2020-09-01 HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: 2\r\nconnection: close\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the connection ends.
async fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_others_keeps_nobody_waiting_and_is_throttled_too() {
    let (directory, _stop, _serving) = serve(2);
    let _hanging = [ask(&directory, "POST /hang").await, ask(&directory, "POST /hang").await];
    let third = ask(&directory, "POST /hang").await;
    is_quick(&directory).await;
    assert!(answer(third).await.starts_with("HTTP/1.1 429 "), "they are not without limit");
}

#[tokio::test(start_paused = true)]
async fn who_turns_out_to_wait_keeps_nobody_waiting_and_is_throttled_too() {
    let (directory, _stop, _serving) = serve(2);
    let _apart = [ask(&directory, "POST /wander").await, ask(&directory, "POST /wander").await];
    is_quick(&directory).await;
    // Those for whom there is no place apart keep their slots.
    let _in_place = [ask(&directory, "POST /wander").await, ask(&directory, "POST /wander").await];
    tokio::time::sleep(Duration::from_secs(1)).await;
    let look = ask(&directory, "GET /look").await;
    assert!(answer(look).await.starts_with("HTTP/1.1 429 "), "they are not without limit");
}

async fn is_quick(directory: &tempfile::TempDir) {
    let start = Instant::now();
    assert!(answer(ask(directory, "GET /look").await).await.starts_with("HTTP/1.1 200 "));
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_when_the_service_ends_is_answered() {
    let (directory, stop, serving) = serve(1);
    // One in work, and one that waits for its turn.
    let asked = [ask(&directory, "POST /hang").await, ask(&directory, "POST /hang").await];
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(Stop::Drain);
    let start = Instant::now();
    serving.await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(30), "accepted requests have their time");
    assert!(start.elapsed() < Duration::from_secs(31), "and no more than that");
    let [first, second] = asked;
    let first = answer(first).await;
    assert!(first.starts_with("HTTP/1.1 503 ") && first.contains("is being stopped"), "{first}");
    assert!(first.contains("retry-after: "), "{first}");
    assert!(answer(second).await.starts_with("HTTP/1.1 429 "));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_answered_and_holds_up_no_stop() {
    let (directory, stop, serving) = serve(1);
    let socket = directory.path().join("sock");
    let mut fresh = UnixStream::connect(&socket).await.unwrap();
    fresh.write_all(b"G").await.unwrap();
    // The second request of a connection that served one.
    let mut kept = UnixStream::connect(&socket).await.unwrap();
    kept.write_all(b"GET /look?api-version=2020-09-01 HTTP/1.1\r\n\r\n").await.unwrap();
    let mut served = [0; 512];
    assert!(kept.read(&mut served).await.unwrap() > 0 && served.starts_with(b"HTTP/1.1 200 "));
    kept.write_all(b"G").await.unwrap();
    let mut late = UnixStream::connect(&socket).await.unwrap();
    late.write_all(b"GET /look?api-version=2020-09-01 HTTP/1.1\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(Stop::Drain);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    late.write_all(b"\r\n").await.unwrap();
    serving.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    let [fresh, kept, late] = [answer(fresh).await, answer(kept).await, answer(late).await];
    assert!(fresh.starts_with("HTTP/1.1 408 "), "{fresh}");
    assert!(kept.starts_with("HTTP/1.1 408 "), "{kept}");
    assert!(late.starts_with("HTTP/1.1 200 ") && late.contains("connection: close"), "{late}");
}

#[tokio::test(start_paused = true)]
async fn told_twice_the_service_waits_for_nobody() {
    let (directory, stop, serving) = serve(1);
    let asked = ask(&directory, "POST /hang").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    stop.send_replace(Stop::Drain);
    // Before the first has been taken note of.
    stop.send_replace(Stop::Now);
    serving.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    assert!(answer(asked).await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_its_answers_holds_up_no_stop() {
    let (directory, stop, serving) = serve(1);
    let mut unread = UnixStream::connect(directory.path().join("sock")).await.unwrap();
    let requests = b"GET /look?api-version=2020-09-01 HTTP/1.1\r\n\r\n".repeat(50_000);
    let sent = tokio::time::timeout(Duration::from_secs(1), unread.write_all(&requests)).await;
    assert!(sent.is_err(), "the server stops reading when nobody reads its answers");
    let start = Instant::now();
    stop.send_replace(Stop::Drain);
    serving.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_connections_are_all_at_work_is_refused_with_an_answer() {
    let (directory, _stop, _serving) = serve(0);
    // A body that does not come keeps a connection as busy as work does.
    let mut kept = Vec::new();
    for _ in 0..256 {
        let mut busy = UnixStream::connect(directory.path().join("sock")).await.unwrap();
        busy.write_all(b"POST /hang?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 2\r\n\r\n")
            .await
            .unwrap();
        kept.push(busy);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    // None of them breaks under a client that takes its time between connecting, head and body, or sends nothing.
    for pauses in [&[0, 0][..], &[500, 0], &[0, 500], &[]] {
        let mut refused = UnixStream::connect(directory.path().join("sock")).await.unwrap();
        for pause in pauses {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            refused.write_all(b"POST /hang HTTP/1.1\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        }
        let refused = answer(refused).await;
        assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    }
    let mut silent = Vec::new();
    for _ in 0..33 {
        silent.push(UnixStream::connect(directory.path().join("sock")).await.unwrap());
    }
    assert_eq!(answer(silent.pop().unwrap()).await, "", "they are not without limit");
}

#[tokio::test(start_paused = true)]
async fn who_sends_the_body_after_the_head_gets_an_answer_that_the_head_decides() {
    let (directory, _stop, _serving) = serve(1);
    let heads = [
        ("POST /nothing?api-version=2020-09-01", "application/json", "404"),
        ("PATCH /look?api-version=2020-09-01", "application/json", "400"),
        ("PUT /look?api-version=2020-09-01", "text/plain", "415"),
        ("POST /look", "application/json", "400"),
    ];
    let mut stream = UnixStream::connect(directory.path().join("sock")).await.unwrap();
    for (line, kind, status) in heads {
        let head = format!("{line} HTTP/1.1\r\ncontent-type: {kind}\r\ncontent-length: 4\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        stream.write_all(b"null").await.unwrap();
        let mut reply = [0; 512];
        let length = stream.read(&mut reply).await.unwrap();
        let reply = str::from_utf8(&reply[..length]).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {reply}");
    }
}

//! The server over a real socket: what a service's own tests need not repeat. Knows one made-up service.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_common::{
    ApiError, ApiVersion, Client, ClientError, Handlers, Peer, Router, Serve, Server, StatusCode, Stop,
    blocking, listen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Answers with its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Echo {
    text: String,
}

/// Answers after some time.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Sleep {
    millis: u64,
}

/// Fails in the way that is asked for.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Fail {
    how: String,
}

/// Removes something.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Remove {}

/// A form that was given up.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct OldEcho {
    name: String,
}

http_common::endpoints! {
    /// For tests.
    TestApi "test" ["2019-01-01-preview", "2020-09-01", "2021-05-01"];
    POST   "/echo"        only  "2019-01-01-preview" OldEcho -> OK String;
    POST   "/echo"        since "2020-09-01" Echo   -> OK Echo;
    POST   "/sleep"       since "2020-09-01" Sleep  -> OK String;
    GET    "/fail/{how}"  since "2021-05-01" Fail   -> OK String;
    DELETE "/thing"       since "2020-09-01" Remove -> NO_CONTENT ();
}

struct Test;

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no such thing")]
    Missing,
    #[error("the secret file /etc/shadow is broken")]
    Internal,
}

impl From<Refused> for ApiError {
    fn from(error: Refused) -> Self {
        let status = match error {
            Refused::Missing => StatusCode::BAD_REQUEST,
            Refused::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::from_error(status, &error)
    }
}

impl Handlers for Test {
    type Error = Refused;
}

impl Serve<Echo> for Test {
    async fn serve(&self, _: Peer, request: Echo) -> Result<Echo, Refused> {
        Ok(request)
    }
}

impl Serve<OldEcho> for Test {
    async fn serve(&self, _: Peer, request: OldEcho) -> Result<String, Refused> {
        Ok(request.name)
    }
}

impl Serve<Sleep> for Test {
    async fn serve(&self, _: Peer, request: Sleep) -> Result<String, Refused> {
        tokio::time::sleep(Duration::from_millis(request.millis)).await;
        Ok("slept".into())
    }
}

impl Serve<Fail> for Test {
    async fn serve(&self, _: Peer, request: Fail) -> Result<String, Refused> {
        match request.how.as_str() {
            "panic" => panic!("as asked"),
            "internal" => Err(Refused::Internal),
            _ => Err(Refused::Missing),
        }
    }
}

impl Serve<Remove> for Test {
    async fn serve(&self, _: Peer, _: Remove) -> Result<(), Refused> {
        Ok(())
    }
}

fn serve(
    socket: &Path,
    router: Router<Test>,
    max_requests: usize,
    max_connections: usize,
) -> (watch::Sender<Stop>, std::thread::JoinHandle<()>) {
    let listener = listen(socket).unwrap();
    let (stop, stopping) = watch::channel(Stop::No);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            Server::new(Arc::new(Test), router, max_requests, max_connections).run(listener, stopping).await;
        });
    });
    (stop, thread)
}

/// A server in this process; stops when dropped.
struct Running {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    stop: watch::Sender<Stop>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(max_requests: usize, max_connections: usize) -> Self {
        Self::with_router(router(), max_requests, max_connections)
    }

    fn with_router(router: Router<Test>, max_requests: usize, max_connections: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("test.sock");
        let (stop, thread) = serve(&socket, router, max_requests, max_connections);
        Self { _dir: dir, socket, stop, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn client(&self) -> blocking::Client {
        blocking::Client::new(&self.socket, Duration::from_secs(20))
    }

    fn stop(&mut self) {
        self.stop.send_replace(Stop::Drain);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends bytes and reads until the server closes the connection.
fn raw(socket: &Path, bytes: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn echo(text: &str) -> Echo {
    Echo { text: text.into() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result.unwrap_err() {
        ClientError::Refused { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_clients_reach_a_handler_over_kept_connections() {
    let server = Running::start(10, 100);
    let client = server.client();
    for text in ["a", "wé/ird"] {
        assert_eq!(client.call(&echo(text)).unwrap(), echo(text));
    }
    client.call(&Remove {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(&server.socket);
        for text in ["a", "wé/ird"] {
            assert_eq!(client.call(&echo(text)).await.unwrap(), echo(text));
        }
        client.call(&Remove {}).await.unwrap();
        assert_eq!(refusal(client.call(&Fail { how: "x".into() }).await).message, "no such thing");
    });
}

#[test]
fn a_reply_comes_in_one_write_with_a_small_head() {
    let server = Running::start(10, 100);
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST /echo?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 12\r\n\r\n{\"text\":\"a\"}",
        )
        .unwrap();
    let mut buffer = [0; 512];
    let count = stream.read(&mut buffer).unwrap();
    let reply = std::str::from_utf8(&buffer[..count]).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("content-type: application/json\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n{\"text\":\"a\"}"), "{reply}");
}

#[test]
fn internal_errors_and_panics_tell_nothing_and_the_server_goes_on() {
    let server = Running::start(10, 100);
    let client = server.client();
    for how in ["internal", "panic"] {
        let error = refusal(client.call(&Fail { how: how.into() }));
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.message.contains("shadow") && !error.message.contains("as asked"), "{error}");
    }
    assert_eq!(client.call(&echo("still here")).unwrap(), echo("still here"));
}

#[test]
fn an_endpoint_is_unknown_before_its_version() {
    let server = Running::start(10, 100);
    let request = |version: &str| {
        let reply = raw(&server.socket, &format!("GET /fail/x?api-version={version} HTTP/1.0\r\n\r\n"));
        reply[9..12].to_owned()
    };
    assert_eq!(request("2020-09-01"), "404");
    assert_eq!(request("2021-05-01"), "400");
}

#[test]
fn a_form_that_was_given_up_is_served_under_its_version_alone() {
    let server = Running::start(10, 100);
    assert_eq!(server.client().call(&OldEcho { name: "old".into() }).unwrap(), "old");
    assert_eq!(server.client().call(&echo("new")).unwrap(), echo("new"));
    let sleep = "POST /sleep?api-version=2019-01-01-preview HTTP/1.0\r\n\r\n";
    assert!(raw(&server.socket, sleep).starts_with("HTTP/1.0 404"));
}

#[test]
fn a_request_without_version_is_one_of_the_assumed_version() {
    let request = "POST /echo HTTP/1.0\r\ncontent-length: 14\r\n\r\n{\"name\":\"old\"}";
    for (assumed, status) in [(None, "400"), (Some(ApiVersion::new("2019-01-01-preview")), "200")] {
        let server = Running::with_router(router().assuming(assumed), 10, 100);
        assert_eq!(&raw(&server.socket, request)[9..12], status);
    }
}

#[test]
fn a_caller_beyond_the_limit_waits_and_idle_connections_take_no_slot() {
    let server = Running::start(1, 100);
    let _idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| server.client().call(&Sleep { millis: 200 }).unwrap());
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
}

#[test]
fn without_any_slot_the_answer_is_429_in_json() {
    let server = Running::start(0, 100);
    let reply = raw(
        &server.socket,
        "POST /echo?api-version=2020-09-01 HTTP/1.0\r\ncontent-length: 12\r\n\r\n{\"text\":\"a\"}",
    );
    assert!(reply.starts_with("HTTP/1.0 429"), "{reply}");
    assert!(reply.contains("retry-after: 1\r\n") && reply.contains("{\"message\":\""), "{reply}");
}

#[test]
fn a_handler_runs_to_its_end_and_keeps_its_slot_when_the_caller_hangs_up() {
    let server = Running::start(1, 100);
    let mut gone = server.connect();
    gone.write_all(
        b"POST /sleep?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 14\r\n\r\n{\"millis\":700}",
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(gone);
    let begun = Instant::now();
    server.client().call(&echo("next")).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[test]
fn a_slow_head_is_answered_with_408() {
    let server = Running::start(10, 100);
    let mut stream = server.connect();
    stream.write_all(b"POST /echo?api-ver").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
}

#[test]
fn a_slow_body_is_answered_with_408_and_takes_no_slot() {
    let server = Running::start(1, 100);
    let mut slow = server.connect();
    slow.write_all(b"POST /echo?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: 12\r\n\r\n{").unwrap();
    server.client().call(&echo("not delayed")).unwrap();
    let mut reply = String::new();
    slow.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
}

#[test]
fn a_large_body_is_answered_with_413_even_to_who_sends_all_of_it_first() {
    let server = Running::start(10, 100);
    let mut stream = server.connect();
    let size = 3 << 20;
    write!(stream, "POST /echo?api-version=2020-09-01 HTTP/1.1\r\ncontent-length: {size}\r\n\r\n").unwrap();
    stream.write_all(&vec![b' '; size]).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
}

#[test]
fn at_the_connection_limit_the_longest_idle_connection_makes_room() {
    let server = Running::start(10, 4);
    let mut first = server.connect();
    std::thread::sleep(Duration::from_millis(50));
    let _others: Vec<_> = (0..3).map(|_| server.connect()).collect();
    std::thread::sleep(Duration::from_millis(50));
    server.client().call(&echo("there is room")).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "the oldest idle connection is closed");
}

#[test]
fn stopping_finishes_the_accepted_request_and_closes_idle_connections() {
    let mut server = Running::start(10, 100);
    let mut idle = server.connect();
    let client = server.client();
    let working = std::thread::spawn(move || client.call(&Sleep { millis: 300 }));
    std::thread::sleep(Duration::from_millis(100));
    server.stop();
    assert_eq!(working.join().unwrap().unwrap(), "slept");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_kept_connection_that_the_server_closed_is_replaced() {
    let mut server = Running::start(10, 100);
    let client = server.client();
    client.call(&echo("before")).unwrap();
    server.stop();
    let (stop, thread) = serve(&server.socket, router(), 10, 100);
    (server.stop, server.thread) = (stop, Some(thread));
    assert_eq!(client.call(&echo("after")).unwrap(), echo("after"));
}

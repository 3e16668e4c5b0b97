//! The client against services that are not ours: made-up replies over a real socket. Knows no server of ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_common::{Client, ClientError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

/// Asks something.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ask {}

/// Changes something.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Change {}

http_common::endpoints! {
    /// For tests.
    TestApi "test" ["2020-09-01"];
    GET  "/ask"    since "2020-09-01" Ask    -> OK String;
    POST "/change" since "2020-09-01" Change -> NO_CONTENT ();
}

fn socket() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.sock");
    (dir, path)
}

/// Answers everything at `path` by `reply`.
fn answer(path: &Path, reply: String) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(converse(stream, reply.clone()));
        }
    });
}

async fn converse(mut stream: UnixStream, reply: String) {
    let mut head = [0; 1024];
    while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_reply_that_says_it_is_no_json_is_none() {
    let check = async |status: &str, kind: &str, is_good: bool| {
        let (_dir, path) = socket();
        answer(&path, format!("HTTP/1.1 {status}\r\n{kind}content-length: 4\r\n\r\n\"ok\""));
        let reply = Client::new(&path).call(&Ask {}).await;
        match &reply {
            Ok(text) => assert!(is_good && text == "ok", "{kind}"),
            Err(ClientError::BadReply { .. }) => assert!(!is_good && status.starts_with("200"), "{kind}"),
            Err(error) => assert_eq!(error.status().unwrap().as_str(), &status[..3], "{kind}"),
        }
    };
    check("200 OK", "", true).await;
    check("200 OK", "content-type: application/json\r\n", true).await;
    check("200 OK", "content-type: APPLICATION/json; charset=utf-8\r\n", true).await;
    check("200 OK", "content-type: text/plain\r\n", false).await;
    check("200 OK", "content-type: \u{e4}\r\n", false).await;
    check("400 Bad Request", "content-type: text/plain\r\n", false).await;
    let (_dir, path) = socket();
    answer(&path, "HTTP/1.1 204 No Content\r\ncontent-type: text/plain\r\n\r\n".to_owned());
    Client::new(&path).call(&Change {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_patient_client_finds_a_service_that_is_started_again() {
    let (_dir, path) = socket();
    let (hasty, patient) = (Client::new(&path), Client::new(&path).patient());
    let start = Instant::now();
    assert!(hasty.call(&Change {}).await.unwrap_err().is_transport() && start.elapsed().is_zero());
    let started = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answer(&path, "HTTP/1.1 204 No Content\r\n\r\n".to_owned());
    };
    let (one, other, ()) = tokio::join!(patient.call(&Change {}), patient.call(&Change {}), started);
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_away_is_waited_for_once_and_by_all_at_once() {
    let (_dir, path) = socket();
    let client = Client::new(&path).patient();
    let start = Instant::now();
    let (one, other) = tokio::join!(client.call(&Change {}), client.call(&Change {}));
    assert!(one.is_err_and(|error| error.is_transport()) && other.is_err());
    let waited = start.elapsed();
    assert_eq!(waited.as_secs(), 3);
    assert!(client.call(&Change {}).await.is_err());
    assert_eq!(start.elapsed(), waited, "known to be away");
}

//! The client against services that are not ours: made-up replies over a real socket. Knows no server of ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use http_common::{Client, ClientError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

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
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        }
    });
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

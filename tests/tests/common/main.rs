//! The rules that all daemons share, line by line of the conformance checklist in service-common: the number in a
//! test's name is the number there. `decided` marks what this suite does on purpose otherwise than upstream.
//!
//! Left out here: 1-2 as far as they speak of one binary with four names (there are four binaries), 5, 15, 21, 22 (certd
//! and tpmd), 16 (custom endpoints are honoured: every journey uses them), 70-75 (clients).

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod configuration;
mod groups;
mod http;
mod identityd;
mod life;
mod reload;
mod sockets;
mod throttle;

use serde_json::{Value, json};
use suite_tests::{
    harness::Daemon,
    http::{Client, Connection, with_body},
};

/// The body of a request that works for root at any time.
fn create(id: &str) -> Value {
    json!({ "keyId": id, "usage": "sign" })
}

/// Whether `uid` may touch the key `id`.
#[track_caller]
fn may(keyd: &Daemon, uid: u32, id: &str) -> bool {
    match keyd.as_uid(uid).post("/key", &create(id)).status {
        200 => true,
        401 => false,
        other => panic!("neither allowed nor refused but {other}"),
    }
}

/// A principal in TOML.
fn principal(uid: u32, keys: &str) -> String {
    format!("[[principal]]\nuid = {uid}\nkeys = ['{keys}']\n")
}

/// A request whose body is under way and lacks its last byte; with [`LAST_BYTE`] it is complete.
fn begin(client: &Client) -> Connection {
    let mut connection = client.connect();
    let request = with_body("POST /key?api-version=2020-09-01 HTTP/1.1\r\n", &[], create("held").to_string());
    connection.send(&request[..request.len() - 1]);
    connection
}

/// What [`begin`] leaves out.
const LAST_BYTE: &[u8] = b"}";

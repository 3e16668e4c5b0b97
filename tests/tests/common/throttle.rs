//! At most `max_requests` requests of one uid at a time: checklist 31-36, all as decided.
//!
//! Upstream counts connections and closes those above the limit without a word. Here requests count, those above the limit
//! wait, and only who finds too long a queue or waits too long is refused, with an answer.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use suite_tests::{
    harness::{KEYD, Setup},
    http::{Client, Connection, End, Reply},
    keys::Keys,
};

use super::create;

#[test]
fn common_31_decided_idle_connections_take_no_slot() {
    let keyd = Setup::new(&KEYD).config("max_requests = 2").start();
    let client = keyd.client();
    client.create_key("a", "sign");
    let mut kept: Vec<Connection> = (0..25).map(|_| client.connect()).collect();
    for connection in &mut kept {
        connection.send(client.bytes("GET", "/key/a", None));
        assert_eq!(connection.reply().status, 200);
    }
    client.load_key("a");
    assert_eq!(kept[0].end(Duration::from_millis(50)), End::Open);
}

#[test]
fn common_31_33_35_decided_a_request_above_the_limit_waits_even_of_root() {
    assert!(rustix::process::geteuid().is_root(), "this journey needs root");
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let client = keyd.client();
    let mut long = ask_for_long_work(&client, 0);
    thread::sleep(SETTLE);
    let mut short = ask(&client);
    short.reply().expect(200);
    assert!(matches!(long.end(SETTLE), End::Data(_)), "the first must be answered by now");
}

#[test]
fn common_31_ten_requests_are_in_work_at_a_time() {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    let _long: Vec<Connection> = (0..9).map(|at| ask_for_long_work(&client, at)).collect();
    thread::sleep(SETTLE);
    let start = Instant::now();
    ask(&client).reply().expect(200);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the tenth waits for nobody, took {:?}",
        start.elapsed()
    );
}

#[test]
fn common_32_decided_above_the_queue_a_request_is_refused_with_an_answer() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let client = keyd.client();
    let mut asked: Vec<Connection> = (0..4).map(|at| ask_for_long_work(&client, at)).collect();
    thread::sleep(SETTLE);
    asked.extend((0..130).map(|_| ask(&client)));
    let replies: Vec<Reply> = asked.iter_mut().map(Connection::reply).collect();
    let (served, throttled): (Vec<&Reply>, Vec<&Reply>) =
        replies.iter().partition(|reply| reply.status == 200);
    assert!(
        throttled.len() >= 20,
        "1 in work and 100 waiting leave 33 of 134, but {} were refused",
        throttled.len()
    );
    assert!(!served.is_empty());
    for reply in throttled {
        refused(reply);
    }
    client.create_key("afterwards", "sign");
}

#[test]
fn common_32_decided_who_waits_ten_seconds_is_refused_with_an_answer() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let client = keyd.client();
    let _long: Vec<Connection> = (0..90).map(|at| ask_for_pair(&client, at, "rsa-4096")).collect();
    thread::sleep(SETTLE);
    let start = Instant::now();
    refused(&ask(&client).reply());
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(14), "waited {waited:?}");
}

#[test]
fn common_34_other_users_are_not_affected() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1\n[[principal]]\nuid = 1000\nkeys = ['*']").start();
    let client = keyd.client();
    let mut long: Vec<Connection> = (0..4).map(|at| ask_for_long_work(&client, at)).collect();
    thread::sleep(SETTLE);
    keyd.as_uid(1000).create_key("a", "sign");
    assert_eq!(long[3].end(Duration::from_millis(1)), End::Open, "the work of root goes on");
}

#[test]
fn common_36_decided_a_limit_of_zero_refuses_everybody_with_an_answer() {
    let keyd = Setup::new(&KEYD).config("max_requests = 0").start();
    refused(&ask(&keyd.client()).reply());
    refused(&ask(&keyd.as_uid(1000)).reply());
}

fn ask(client: &Client) -> Connection {
    let mut connection = client.connect();
    connection.send(client.bytes("POST", "/key", Some(&create("asked"))));
    connection
}

/// Ask for something that takes some hundred milliseconds or more.
fn ask_for_long_work(client: &Client, at: u32) -> Connection {
    ask_for_pair(client, at, "rsa-2048")
}

fn ask_for_pair(client: &Client, at: u32, algorithm: &str) -> Connection {
    let mut connection = client.connect();
    let pair = json!({ "keyId": format!("large-{at}"), "preferredAlgorithms": algorithm });
    connection.send(client.bytes("POST", "/keypair", Some(&pair)));
    connection
}

#[track_caller]
fn refused(reply: &Reply) {
    let reply = reply.clone().expect(429);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let seconds = reply.header("retry-after").expect("it says when to come again");
    assert!(seconds.parse::<u32>().is_ok(), "retry-after: {seconds}");
}

/// Time for the daemon to take up what was sent.
const SETTLE: Duration = Duration::from_millis(100);

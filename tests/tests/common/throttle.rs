//! At most `max_requests` requests of one uid at a time: checklist 31-36, all as decided.
//!
//! Upstream counts connections and closes those above the limit without a word. Here requests count, those above the limit
//! wait, and only who finds too long a queue or waits too long is refused, with an answer.

use std::{
    thread,
    time::{Duration, Instant},
};

use suite_tests::{
    harness::{KEYD, Setup},
    http::{Client, Connection, End, Reply},
    keys::Keys,
};

use super::{LAST_BYTE, begin, create};

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
fn common_31_33_decided_a_request_above_the_limit_waits_for_a_slot() {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    let mut held: Vec<Connection> = (0..10).map(|_| begin(&client)).collect();
    thread::sleep(SETTLE);
    let mut eleventh = client.connect();
    eleventh.send(client.bytes("POST", "/key", Some(&create("eleventh"))));
    assert_eq!(eleventh.end(Duration::from_millis(700)), End::Open, "it must wait");
    held[3].send(LAST_BYTE);
    assert_eq!(held[3].reply().status, 200);
    assert_eq!(eleventh.reply().status, 200);
}

#[test]
fn common_32_decided_above_the_queue_a_request_is_refused_with_an_answer() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let client = keyd.client();
    let mut held = begin(&client);
    thread::sleep(SETTLE);
    let mut waiting: Vec<Connection> = (0..100).map(|_| ask(&client)).collect();
    thread::sleep(SETTLE);
    let start = Instant::now();
    for _ in 0..5 {
        refused(&ask(&client).reply());
    }
    assert!(start.elapsed() < Duration::from_secs(3), "refused at once, took {:?}", start.elapsed());
    held.send(LAST_BYTE);
    for connection in &mut waiting {
        assert_eq!(connection.reply().status, 200, "who found a place in the queue is served");
    }
    client.create_key("afterwards", "sign");
}

#[test]
fn common_32_decided_who_waits_ten_seconds_is_refused_with_an_answer() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let client = keyd.client();
    let _held: Vec<Connection> = (0..4).map(|_| begin(&client)).collect(); // 5 s each, one after the other
    thread::sleep(SETTLE);
    let start = Instant::now();
    let mut late = ask(&client);
    refused(&late.reply());
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(13), "waited {waited:?}");
}

#[test]
fn common_34_other_users_are_not_affected() {
    let keyd = Setup::new(&KEYD).config("max_requests = 1\n[[principal]]\nuid = 1000\nkeys = ['*']").start();
    let _held = begin(&keyd.client());
    thread::sleep(SETTLE);
    let start = Instant::now();
    keyd.as_uid(1000).create_key("a", "sign");
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[test]
fn common_35_root_and_its_processes_share_one_limit() {
    assert!(rustix::process::geteuid().is_root(), "this journey needs root");
    let keyd = Setup::new(&KEYD).config("max_requests = 1").start();
    let mut held = begin(&keyd.client());
    thread::sleep(SETTLE);
    let socket = keyd.setup().socket_path().to_str().unwrap().to_owned();
    let curl = thread::spawn(move || {
        let url = "http://localhost/key/none?api-version=2020-09-01";
        let start = Instant::now();
        std::process::Command::new("curl").args(["-s", "--unix-socket", &socket, url]).output().unwrap();
        start.elapsed()
    });
    thread::sleep(Duration::from_millis(800));
    held.send(LAST_BYTE);
    assert!(curl.join().unwrap() >= Duration::from_millis(600), "another process of root waits too");
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

#[track_caller]
fn refused(reply: &Reply) {
    let reply = reply.clone().expect(429);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let seconds = reply.header("retry-after").expect("it says when to come again");
    assert!(seconds.parse::<u32>().is_ok(), "retry-after: {seconds}");
}

/// Time for the daemon to take up what was sent.
const SETTLE: Duration = Duration::from_millis(300);

//! Whose threads a token may keep waiting that does not answer.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use suite_tests::{
    harness::{KEYD, Setup},
    keys::{Keys, ecdsa_request},
    p11_kit::RemoteToken,
};

use super::hardship::keyd_with_remote_token;

/// Many look for keys on a token that does not answer: a key in a file that needs a thread has one.
#[test]
fn keys_need_20_a_token_that_hangs_keeps_no_thread_from_files() {
    let token = RemoteToken::new();
    let setup = token.base_slot(Setup::new(&KEYD)).config("max_requests = 64\n");
    let fast = format!("[preloaded_keys]\nfast = 'file://{}'\n", setup.directory().join("fast").display());
    let keyd = setup.drop_in("50-preloaded.toml", &fast).start();
    let client = keyd.client();
    let fast = client.create_pair("fast", "rsa-2048");
    client.rsa(&fast, "RSA-PKCS1", b"m");
    token.signal(Signal::STOP);
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let client = keyd.client();
            thread::spawn(move || client.get(&format!("/keypair/on-the-token-{caller}")))
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    client.rsa(&fast, "RSA-PKCS1", b"m");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!callers.iter().any(thread::JoinHandle::is_finished));
    token.signal(Signal::CONT);
    for caller in callers {
        caller.join().unwrap().expect(400);
    }
}

/// As many requests as a user may have wait for a token that does not answer: those for keys in files have slots of their own.
#[test]
fn keys_need_20_a_token_that_hangs_keeps_no_slot_from_files() {
    let (token, keyd, client) = keyd_with_remote_token();
    let request = ecdsa_request(&client.create_pair("pair", "ec-p256"), &[1; 32]);
    let file_key = client.load_key("file-key");
    // The key that makes handles genuine is on the token.
    client.hmac(&file_key, b"m");
    token.signal(Signal::STOP);
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (client, request) = (keyd.client(), request.clone());
            thread::spawn(move || client.post("/sign", &request).status)
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    client.hmac(&file_key, b"m");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(!callers.iter().any(thread::JoinHandle::is_finished));
    token.signal(Signal::CONT);
    for caller in callers {
        assert_eq!(caller.join().unwrap(), 200);
    }
}

//! Whose threads a token may keep waiting that does not answer.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::wait_for,
    keys::{Keys, ecdsa_request},
    p11_kit::RemoteToken,
    softhsm::SoftHsm,
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
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(!callers.iter().any(thread::JoinHandle::is_finished));
    token.signal(Signal::CONT);
    for caller in callers {
        assert_eq!(caller.join().unwrap(), 200);
    }
}

/// An RSA pair may take a token minutes, in which it does what others ask, also where it was made for want of something else.
#[test]
fn keys_need_20_an_rsa_pair_in_place_of_another_one_keeps_nobody_waiting() {
    let token = SoftHsm::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let orders = setup.directory().to_owned();
    let library = orders.join("slow.so");
    SoftHsm::wrap(SLOW_RSA, &library);
    let toml = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
    let keyd = setup.drop_in("60-slow.toml", &toml).env("ORDERS", &orders).start();
    let client = keyd.client();
    let key = client.create_key("key", "sign");
    let maker = thread::spawn({
        let client = keyd.client();
        move || {
            client.post("/keypair", &json!({ "keyId": "pair", "preferredAlgorithms": "ec-p256:rsa-2048" }))
        }
    });
    wait_for("the pair to be begun", BOUND, || orders.join("begun").exists().then_some(()));
    client.hmac(&key, b"m");
    assert!(!maker.is_finished());
    fs::write(orders.join("go-on"), "").unwrap();
    maker.join().unwrap().expect(200);
}

/// SoftHSM2 that makes no EC pair (0x70 is `CKR_MECHANISM_INVALID`), and an RSA pair only when there is a file `go-on` in
/// the directory `ORDERS`.
const SLOW_RSA: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct list list;
static ul (*make_pair)(ul, ul *, void *, ul, void *, ul, ul *, ul *);

static char *order(char *path, const char *what) {
    sprintf(path, "%s/%s", getenv("ORDERS"), what);
    return path;
}

static ul make_slowly(ul session, ul *mechanism, void *a, ul as, void *b, ul bs, ul *public, ul *private) {
    char path[4096];
    if (*mechanism != 0) return 0x70;
    close(open(order(path, "begun"), O_CREAT | O_WRONLY, 0600));
    while (access(order(path, "go-on"), F_OK)) usleep(20000);
    return make_pair(session, mechanism, a, as, b, bs, public, private);
}

ul C_GetFunctionList(struct list **out) {
    list = *softhsm();
    make_pair = list.function[59];
    list.function[59] = make_slowly;
    *out = &list;
    return 0;
}
"#;

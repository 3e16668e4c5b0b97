//! PINs that are missing or wrong: what a token is asked, by the calls that its library sees.

use std::{fs, path::PathBuf};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::Client,
    softhsm::{LABEL, PIN, SoftHsm},
};

/// What to start, with a library that writes its calls to a file, and that file.
fn watched(token: &SoftHsm, preloaded: &str) -> (Setup, Calls) {
    let setup = Setup::new(&KEYD);
    let calls = setup.directory().join("calls");
    let setup = token.known_to(setup).drop_in("60-spy.toml", &SoftHsm::spy_settings());
    let setup = setup.drop_in("70-preloaded.toml", &format!("[preloaded_keys]\n{preloaded}"));
    (setup.env("PKCS11SPY", SoftHsm::library()).env("PKCS11SPY_OUTPUT", &calls), Calls(calls))
}

/// The file with the calls that a library has seen.
struct Calls(PathBuf);

impl Calls {
    fn number_of(&self, function: &str) -> usize {
        let ends = |line: &&str| line.trim().ends_with(&format!(": {function}"));
        fs::read_to_string(&self.0).unwrap().lines().filter(ends).count()
    }
}

#[test]
fn keys_need_11_without_a_pin_nobody_else_is_disturbed() {
    let token = SoftHsm::new();
    let (setup, calls) = watched(&token, &format!("bare = 'pkcs11:token={LABEL};object=bare'\n"));
    let keyd = setup.start();
    for _ in 0..12 {
        keyd.client().post("/keypair", &json!({ "keyId": "bare" })).expect(500);
    }
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("has no PIN"));
    assert_eq!(calls.number_of("C_Initialize"), 1, "to make the library ready anew ends all sessions");
    assert_eq!(calls.number_of("C_Login"), 0);
}

/// A token is locked after a few wrong PINs. One that is wrong costs one of them, whatever the token is called, and however
/// often keyd is started.
#[test]
fn keys_need_11_a_wrong_pin_is_tried_once_by_all_names_and_over_restarts() {
    let token = SoftHsm::new();
    let pin = token.config().with_file_name("pin");
    fs::write(&pin, "0000").unwrap();
    let names = [
        format!("token={LABEL}"),
        format!("slot-id={}", token.slot_id()),
        format!("token={LABEL};model=SoftHSM%20v2"),
    ];
    let names = names.iter().enumerate().map(|(number, name)| {
        format!("key{number} = 'pkcs11:{name};object=key{number}?pin-source={}'\n", pin.display())
    });
    let (setup, calls) = watched(&token, &names.collect::<String>());
    let mut keyd = setup.start();
    let try_all = |client: &Client, status| {
        for number in [0, 1, 2, 0, 1, 2] {
            client.post("/keypair", &json!({ "keyId": format!("key{number}") })).expect(status);
        }
    };
    for _ in 0..3 {
        try_all(&keyd.client(), 500);
        keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("refused the PIN"));
        assert_eq!(calls.number_of("C_Login"), 1);
        keyd.restart();
    }
    try_all(&keyd.client(), 500);
    let told = keyd.wait_for_log(BOUND, |line| line.contains("before keyd was started"));
    let memory = keyd.home().join("refused-pins");
    assert!(told.contains(memory.to_str().unwrap()), "{told}");
    assert!(!fs::read_to_string(&memory).unwrap().contains("0000"));
    fs::write(&pin, PIN).unwrap();
    try_all(&keyd.client(), 200);
    assert_eq!(calls.number_of("C_Login"), 2, "another PIN is tried, and all sessions are logged in by it");
    assert!(!memory.exists(), "a PIN that is right by now is no longer a wrong one");
}

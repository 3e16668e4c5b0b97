//! PINs that are missing or wrong: what a token is asked, by the calls that its library sees.

use std::{fs, path::PathBuf};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    softhsm::{LABEL, SoftHsm},
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

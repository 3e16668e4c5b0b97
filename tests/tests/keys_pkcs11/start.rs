//! What is told at the start, without a base slot: then tokens are not needed before somebody asks for their keys. And that
//! each start comes to its end.

use rustix::process::Signal;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    keys::Keys,
    softhsm::SoftHsm,
};

use super::hardship::keyd_with_remote_token;

/// A path with a slip of the pen is no reason not to start, but one to say so.
#[test]
fn keys_need_20_a_library_that_is_not_there_is_told_at_the_start() {
    let library = "[aziot_keys]\npkcs11_lib_path = '/usr/lib/no-such-library.so'\n";
    let keyd = Setup::new(&KEYD).drop_in("20-library.toml", library).start();
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("no-such-library.so"));
    keyd.client().create_key("in a file", "sign");
}

#[test]
fn keys_need_20_a_library_without_tokens_is_no_news() {
    let token = SoftHsm::empty();
    let mut keyd = token.known_to(Setup::new(&KEYD)).start();
    keyd.client().create_key("in a file", "sign");
    assert!(keyd.terminate().success());
    assert!(!keyd.log().contains("<3>") && !keyd.log().contains("<4>"), "{}", keyd.log());
}

/// Nobody is in the library any more, and it has been told that this is the end, when its own last things are done: else it
/// crashed or hung in one end of twenty.
#[test]
fn common_69_a_token_that_takes_its_time_comes_to_a_good_end() {
    let token = SoftHsm::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let library = setup.directory().join("slow-end.so");
    SoftHsm::wrap(SLOW_END, &library);
    let toml = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
    let mut keyd = setup.drop_in("60-slow-end.toml", &toml).start();
    for round in 0..3 {
        keyd.client().get("/keypair/missing").expect(400);
        let status = keyd.terminate();
        assert!(status.success(), "round {round}: {status}");
        keyd.restart();
    }
}

/// A token that does not answer cannot be told that this is the end.
#[test]
fn common_69_a_token_that_hangs_keeps_keyd_not_from_its_end() {
    let (token, mut keyd, client) = keyd_with_remote_token();
    client.get("/keypair/missing").expect(400);
    token.signal(Signal::STOP);
    let status = keyd.terminate();
    assert!(status.success(), "{status}");
}

/// A preloaded key that nobody can ever use is told to the administrator, not to the first program that asks for it.
#[test]
fn keys_need_20_preloaded_keys_without_what_they_need_are_told_at_the_start() {
    let preloaded = "[preloaded_keys]\nidle = 'pkcs11:token=x?pin-value=4711'\nof-tpm = 'tpm:'\n";
    let keyd = Setup::new(&KEYD).drop_in("50-preloaded.toml", preloaded).start();
    for words in [
        "\"idle\" means nothing without aziot_keys.pkcs11_lib_path",
        "\"of-tpm\" means nothing without [tpm]",
    ] {
        keyd.wait_for_log(BOUND, |line| line.starts_with("<4>") && line.contains(words));
    }
    assert!(!keyd.log().contains("4711"));
}

/// SoftHSM2 that takes its time to close a session, and crashes where the process ends before it was told so.
const SLOW_END: &str = r#"
#include <stdlib.h>
#include <unistd.h>

static struct list list;
static ul (*close_session)(ul);
static ul (*finalize)(void *);
static volatile int has_begun, has_ended;

static ul close_slowly(ul session) {
    usleep(200000);
    return close_session(session);
}

static ul end(void *reserved) {
    ul answer = finalize(reserved);
    has_ended = 1;
    return answer;
}

__attribute__((destructor)) static void last_things(void) {
    if (has_begun && !has_ended) abort();
}

ul C_GetFunctionList(struct list **out) {
    list = *softhsm();
    finalize = list.function[1];
    close_session = list.function[13];
    list.function[1] = end;
    list.function[13] = close_slowly;
    has_begun = 1;
    *out = &list;
    return 0;
}
"#;

//! What is told at the start, without a base slot: then tokens are not needed before somebody asks for their keys.

use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    keys::Keys,
    softhsm::SoftHsm,
};

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

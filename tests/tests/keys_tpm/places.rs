//! Which keys are in the TPM, by configuration.

use std::fs;

use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    keys::{Keys, by_handle, hmac_request},
    swtpm::Swtpm,
};

use super::{Site, file, is_wrapped};

/// Without `new_keys` only those keys are in the TPM whose place it is.
#[test]
fn a_place_may_be_the_tpm() {
    let tpm = Swtpm::start();
    let own = tpm.path().join("own place.pem");
    let uri = format!("tpm:?file={}", own.to_str().unwrap().replace(' ', "%20"));
    let site = Site::on(tpm, &format!("[preloaded_keys]\nusual = 'tpm:'\nown = '{uri}'\n"));
    let client = site.client();
    let usual = client.create_key("usual", "sign");
    client.create_pair("own", "*");
    client.create_pair("other", "*");
    assert!(is_wrapped(&site.file("usual")) && is_wrapped(&own) && !is_wrapped(&site.file("other")));
    client.delete("/key", Some(&json!({ "keyHandle": usual }))).expect(400);
}

/// A key that needs a TPM is left alone by a keyd that has none.
#[test]
fn without_a_table_there_is_no_tpm() {
    let keyd = Setup::new(&KEYD).config("[preloaded_keys]\nplaced = 'tpm:'\n").start();
    let client = keyd.client();
    let reply = client.post("/keypair", &json!({ "keyId": "placed" }));
    assert!(reply.expect(400).string("message").contains("[tpm]"));
    client.create_key("other", "sign");
    let (path, key) = (file(&keyd.home(), "pair"), client.create_key("pair", "sign"));
    let text = "-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n";
    fs::write(&path, text).unwrap();
    client.post("/keypair", &json!({ "keyId": "pair" })).expect(500);
    client.post("/key", &json!({ "keyId": "pair", "usage": "sign" })).expect(500);
    client.post("/sign", &hmac_request(&key, b"m")).expect(500);
    client.delete("/key", Some(&by_handle(&key))).expect(500);
    keyd.wait_for_log(BOUND, |line| line.contains("/sign") && line.contains("no table [tpm]"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_pair_that_the_tpm_cannot_make_is_400() {
    let client = Site::start();
    let reply = client.client().post("/keypair", &json!({ "keyId": "x", "preferredAlgorithms": "rsa-4096" }));
    assert!(reply.expect(400).string("message").contains("the TPM can make the key pair"));
}

//! An owner hierarchy that has a password.

use std::fs;

use serde_json::json;
use suite_tests::{
    http::PATIENCE,
    keys::{Keys, ecdsa_request, hmac_request},
    openssl::{sha256, verifies},
    swtpm::Swtpm,
};

use super::{Site, hardship::unavailable, openssl};

/// The table of keyd's configuration with this password.
fn owner(password: &str) -> String {
    format!("new_keys = true\nhierarchy_authorization = {{ owner = '{password}' }}\n")
}

fn set_password(tpm: &Swtpm) {
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "own-me"]);
}

/// The refusal is explained, and tells no password.
#[track_caller]
fn explained(site: &Site) {
    let reason = site.keyd.wait_for_log(PATIENCE, |line| line.contains("tpm.hierarchy_authorization.owner"));
    assert!(reason.contains("TPM2_CreatePrimary") && reason.contains("correct it"), "{reason}");
    assert!(!site.keyd.log().contains("wrong-one"));
}

#[test]
fn a_wrong_password_is_told_and_destroys_nothing() {
    let mut tpm = Swtpm::start();
    set_password(&tpm);
    for config in ["new_keys = true\n".to_owned(), owner("wrong-one")] {
        let site = Site::on(tpm, &config);
        for _ in 0..3 {
            unavailable(&site.client().post("/keypair", &json!({ "keyId": "pair" })));
            unavailable(&site.client().post("/key", &json!({ "keyId": "key", "usage": "sign" })));
        }
        explained(&site);
        assert!(!site.keyd.home().join("keys").exists(), "no key is made elsewhere");
        let Site { mut keyd, tpm: rest } = site;
        keyd.kill();
        rest.holds_nothing_transient();
        assert!(rest.handles("persistent").is_empty());
        tpm = rest;
    }
    let site = Site::on(tpm, &owner("own-me"));
    let (client, digest) = (site.client(), sha256(b"m"));
    let pair = client.create_pair("pair", "ec-p256");
    assert!(verifies(&client.public_key(&pair), &digest, &client.ecdsa(&pair, &digest), &[]));
    client.create_key("key", "sign");
    let (_, tpm) = site.end();
    tpm.holds_nothing_transient();
    assert_eq!(tpm.handles("persistent"), [0x8100_0001]);
}

/// The password is needed to make what keys are below, not to use it.
#[test]
fn keys_that_are_there_need_no_password() {
    let mut site = Site::start();
    let key = site.client().create_key("key", "sign");
    let mac = site.client().hmac(&key, b"m");
    site.keyd.kill();
    set_password(&site.tpm);
    for (id, config) in [("a", "new_keys = true\n".to_owned()), ("b", owner("wrong-one"))] {
        let toml = format!("[tpm]\ntcti = '{}'\n{config}", site.tpm.tcti());
        fs::write(site.keyd.setup().main_file(), toml).unwrap();
        site.keyd.restart();
        assert_eq!(site.client().hmac(&key, b"m"), mac);
        site.client().create_pair(id, "ec-p256");
    }
}

/// Keys of openssl that name no other parent than the hierarchy have one made for each use.
#[test]
fn keys_below_the_hierarchy_itself_need_the_password() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_createprimary", &["-C", "o", "-g", "sha256", "-G", "rsa", "-c", "root.ctx"]);
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", "root.ctx", "0x81000001"]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    openssl(&tpm, &["genpkey", "-out", "ec.pem", "-algorithm", "EC", "-pkeyopt", "group:P-256"]);
    set_password(&tpm);
    let file = tpm.path().join("ec.pem");
    let text = fs::read(&file).unwrap();
    let preloaded = format!("[preloaded_keys]\nec = 'file://{}'\n", file.display());
    let site = Site::on(tpm, &(owner("wrong-one") + &preloaded));
    let (client, digest) = (site.client(), sha256(b"m"));
    let ec = client.load_pair("ec");
    unavailable(&client.post("/sign", &ecdsa_request(&ec, &digest)));
    explained(&site);
    let other = client.create_key("other", "sign");
    client.post("/sign", &hmac_request(&other, b"m")).expect(200);
    assert_eq!(fs::read(&file).unwrap(), text);
    let site = Site::on(site.end().1, &(owner("own-me") + &preloaded));
    let client = site.client();
    let ec = client.load_pair("ec");
    assert!(verifies(&client.public_key(&ec), &digest, &client.ecdsa(&ec, &digest), &[]));
    site.end().1.holds_nothing_transient();
}

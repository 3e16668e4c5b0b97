//! A token with keys that upstream made, used as it is: 9.10 of keys-service.

use std::{fs, path::Path};

use serde_json::Value;
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::unbase64,
    keys::{Keys, open_request, seal_request},
    openssl::{SHA256_DIGEST_INFO, openssl, sha256, verifies},
    softhsm::SoftHsm,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/keyd-pkcs11");

/// A keyd on a copy of upstream's token, and what upstream said about it.
fn golden() -> (SoftHsm, Daemon, Value) {
    let facts = fs::read(Path::new(GOLDEN).join("facts.json")).unwrap();
    let token = SoftHsm::empty();
    copy(&Path::new(GOLDEN).join("tokens"), &token.tokens());
    let keyd = token.base_slot(Setup::new(&KEYD)).start();
    (token, keyd, serde_json::from_slice(&facts).unwrap())
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a string expected, not {value}"))
}

#[track_caller]
fn bytes(value: &Value) -> Vec<u8> {
    unbase64(text(value))
}

/// The handle in `entry` gives upstream's HMAC, and opens upstream's ciphertext and makes the same one.
fn answers_as_before(keyd: &Daemon, facts: &Value, entry: &Value, handle: &str) {
    let client = keyd.client();
    if !entry["hmac"].is_null() {
        assert_eq!(client.hmac(handle, &bytes(&facts["message"])), bytes(&entry["hmac"]), "{entry}");
    }
    if !entry["sealed"].is_null() {
        let (iv, aad, sealed) = (bytes(&facts["iv"]), bytes(&facts["aad"]), bytes(&entry["sealed"]));
        let open = open_request(handle, &iv, &aad, &sealed);
        let plaintext = client.post("/decrypt", &open).expect(200).bytes("plaintext");
        let again = client.post("/encrypt", &seal_request(handle, &iv, &aad, &plaintext)).expect(200);
        assert_eq!(again.bytes("ciphertext"), sealed, "{entry}");
    }
}

#[test]
fn keys_golden_symmetric_and_derived_keys_of_a_token() {
    let (token, keyd, facts) = golden();
    let objects = token.objects();
    for (id, entry) in facts["keys"].as_object().unwrap() {
        answers_as_before(&keyd, &facts, entry, text(&entry["handle"]));
        answers_as_before(&keyd, &facts, entry, &keyd.client().load_key(id));
        let created = keyd.client().create_key(id, text(&entry["usage"]));
        answers_as_before(&keyd, &facts, entry, &created);
    }
    for entry in facts["derived"].as_array().unwrap() {
        let handle = text(&entry["handle"]);
        answers_as_before(&keyd, &facts, entry, handle);
        assert_eq!(keyd.client().export(handle), bytes(&entry["export"]));
    }
    assert_eq!(token.objects(), objects, "nothing is made, nothing is lost");
}

#[test]
fn keys_golden_pairs_of_a_token() {
    let (token, keyd, facts) = golden();
    let (objects, client) = (token.objects(), keyd.client());
    let digest = sha256(&bytes(&facts["message"]));
    for (id, entry) in facts["pairs"].as_object().unwrap() {
        let handle = text(&entry["handle"]);
        assert_eq!(client.parameter(handle, "algorithm"), text(&entry["algorithm"]));
        let public = client.public_key(handle);
        assert_eq!(openssl(&["pkey", "-pubin", "-outform", "DER"], &public), bytes(&entry["spki"]), "{id}");
        assert_eq!(client.public_key(&client.load_pair(id)), public);
        assert_eq!(client.public_key(&client.create_pair(id, "rsa-4096")), public, "it is kept");
        if entry["pkcs1"].is_null() {
            assert!(verifies(&public, &digest, &client.ecdsa(handle, &digest), &[]), "{id}");
        } else {
            let info = [SHA256_DIGEST_INFO.as_slice(), &digest].concat();
            assert_eq!(client.rsa(handle, "RSA-PKCS1", &info), bytes(&entry["pkcs1"]), "{id}");
        }
    }
    assert_eq!(token.objects(), objects, "nothing is made, nothing is lost");
}

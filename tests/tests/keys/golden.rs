//! A state directory that upstream made, used as it is: checklist 20, and 9.10 of keys-service.

use std::{fs, path::Path};

use serde_json::Value;
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::unbase64,
    keys::{Keys, key_file, open_request, seal_request},
    openssl::{SHA256_DIGEST_INFO, openssl, sha256, verifies},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/keyd");

/// A keyd on a copy of the golden state, and what upstream said about it.
fn golden() -> (Daemon, Value) {
    let facts = fs::read(Path::new(GOLDEN).join("facts.json")).unwrap();
    let setup = Setup::new(&KEYD);
    let keys = setup.home().join("keys");
    fs::create_dir(&keys).unwrap();
    for entry in fs::read_dir(Path::new(GOLDEN).join("state/keys")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, keys.join(path.file_name().unwrap())).unwrap();
    }
    (setup.start(), serde_json::from_slice(&facts).unwrap())
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a string expected, not {value}"))
}

#[track_caller]
fn bytes(value: &Value) -> Vec<u8> {
    unbase64(text(value))
}

/// The handle in `entry` gives upstream's HMAC, opens upstream's ciphertext and makes the same one.
fn answers_as_before(keyd: &Daemon, facts: &Value, entry: &Value) {
    let client = keyd.client();
    let (iv, aad, message) = (bytes(&facts["iv"]), bytes(&facts["aad"]), bytes(&facts["message"]));
    let handle = text(&entry["handle"]);
    assert_eq!(client.hmac(handle, &message), bytes(&entry["hmac"]), "{entry}");
    if let Some(sealed) = entry["sealed"].as_str() {
        let open = open_request(handle, &iv, &aad, &unbase64(sealed));
        let plaintext = client.post("/decrypt", &open).expect(200).bytes("plaintext");
        let again = client.post("/encrypt", &seal_request(handle, &iv, &aad, &plaintext)).expect(200);
        assert_eq!(again.string("ciphertext"), sealed, "{entry}");
    }
}

#[test]
fn keys_golden_symmetric_keys() {
    let (keyd, facts) = golden();
    for (id, entry) in facts["keys"].as_object().unwrap() {
        answers_as_before(&keyd, &facts, entry);
        if !id.is_empty() {
            // the empty id has no path; POST reaches it
            assert_eq!(
                keyd.client().hmac(&keyd.client().load_key(id), &bytes(&facts["message"])),
                bytes(&entry["hmac"])
            );
        }
        let created = keyd.client().create_key(id, "sign");
        assert_eq!(
            keyd.client().hmac(&created, &bytes(&facts["message"])),
            bytes(&entry["hmac"]),
            "it is kept"
        );
    }
}

#[test]
fn keys_golden_derived_keys() {
    let (keyd, facts) = golden();
    for entry in facts["derived"].as_array().unwrap() {
        answers_as_before(&keyd, &facts, entry);
        assert_eq!(keyd.client().export(text(&entry["handle"])), bytes(&entry["export"]), "{entry}");
    }
}

#[test]
fn keys_golden_pairs() {
    let (keyd, facts) = golden();
    let client = keyd.client();
    let digest = sha256(&bytes(&facts["message"]));
    for (id, entry) in facts["pairs"].as_object().unwrap() {
        let handle = text(&entry["handle"]);
        assert_eq!(client.parameter(handle, "algorithm"), text(&entry["algorithm"]));
        let public = client.public_key(handle);
        assert_eq!(openssl(&["pkey", "-pubin", "-outform", "DER"], &public), bytes(&entry["spki"]), "{id}");
        assert_eq!(client.public_key(&client.load_pair(id)), public);
        assert_eq!(client.public_key(&client.create_pair(id, "*")), public, "it is kept");
        if text(&entry["algorithm"]) == "RSA" {
            let signature =
                client.rsa(handle, "RSA-PKCS1", &[SHA256_DIGEST_INFO.as_slice(), &digest].concat());
            assert_eq!(signature, bytes(&entry["pkcs1"]), "{id}");
        } else {
            assert!(verifies(&public, &digest, &client.ecdsa(handle, &digest), &[]), "{id}");
        }
    }
}

#[test]
fn keys_golden_nothing_is_rewritten() {
    let (keyd, facts) = golden();
    for (id, _) in facts["keys"].as_object().unwrap() {
        keyd.client().create_key(id, "derive");
    }
    for (id, _) in facts["pairs"].as_object().unwrap() {
        keyd.client().create_pair(id, "*");
        assert!(key_file(&keyd.home(), id).is_file());
    }
    let golden = Path::new(GOLDEN).join("state/keys");
    assert_eq!(
        fs::read_dir(keyd.home().join("keys")).unwrap().count(),
        fs::read_dir(&golden).unwrap().count()
    );
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        let ours = keyd.home().join("keys").join(path.file_name().unwrap());
        assert_eq!(fs::read(&path).unwrap(), fs::read(ours).unwrap(), "{}", path.display());
    }
}

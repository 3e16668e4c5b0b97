//! What lies in the state directory: checklist 28-34.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, Daemon, KEYD, Setup},
    keys::{Keys, VALIDATION_KEY, key_file},
    openssl::{hmac, openssl},
    subject,
};

use super::{keyd, refused};

#[test]
fn keys_28_files_are_named_after_the_id_and_its_digest() {
    let (keyd, client) = keyd();
    for (id, name) in [
        ("demo key/1", "demokey1-4df6bd919836f92c2ce2f55f0972866f2eae7563dae2ed091e86f70068a3b058.key"),
        ("", "-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.key"),
    ] {
        client.create_key(id, "sign");
        assert!(keyd.home().join("keys").join(name).is_file(), "{name}");
    }
    let validation =
        "handlevalidationkey-40f1ca41fe8b50f53e10f3e3a580dcae24087f37aa498ba9903f2612b03e90ba.key";
    assert!(keyd.home().join("keys").join(validation).is_file());
    client.create_pair("größe", "ec-p256");
    assert!(file(&keyd, "größe").file_name().unwrap().to_str().unwrap().starts_with("gre-"));
    assert!(file(&keyd, "größe").is_file());
}

#[test]
fn keys_28_an_id_too_long_for_a_file_name_is_refused() {
    let (keyd, client) = keyd();
    client.create_key(&"a".repeat(186), "sign");
    let long = client.post("/key", &json!({ "keyId": "a".repeat(187), "usage": "sign" }));
    long.expect(if subject::is_foreign() { 500 } else { 400 });
    assert_eq!(names(&keyd).len(), 2, "{:?}", names(&keyd)); // that key and the validation key
}

#[test]
fn keys_29_a_generated_key_is_32_raw_bytes() {
    let (keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    let bytes = fs::read(file(&keyd, "a")).unwrap();
    assert_eq!(bytes.len(), 32);
    assert_eq!(client.hmac(&handle, b"message"), hmac(&bytes, b"message"));
    client.create_key("b", "sign");
    assert_ne!(fs::read(file(&keyd, "b")).unwrap(), bytes);
    assert_eq!(fs::read(file(&keyd, VALIDATION_KEY)).unwrap().len(), 32);
}

#[test]
fn keys_30_an_import_writes_the_bytes_and_overwrites() {
    let (keyd, client) = keyd();
    client.create_key("a", "sign");
    for bytes in [b"x".as_slice(), b"no newline is added", &[0; 100], &[0xff; 32]] {
        let handle = client.import_key("a", "encrypt", bytes);
        assert_eq!(fs::read(file(&keyd, "a")).unwrap(), bytes);
        assert_eq!(client.hmac(&handle, b"m"), hmac(bytes, b"m"));
    }
}

#[test]
fn keys_30_decided_an_import_of_nothing_changes_nothing() {
    let (keyd, client) = keyd();
    client.create_key("old", "sign");
    let before = fs::read(file(&keyd, "old")).unwrap();
    for id in ["old", "new"] {
        refused(&client.post("/key", &json!({ "keyId": id, "usage": "sign", "keyBytes": "" })));
    }
    assert_eq!(fs::read(file(&keyd, "old")).unwrap(), before);
    assert!(!file(&keyd, "new").exists());
}

#[test]
fn keys_31_a_key_pair_is_pkcs8_pem_that_openssl_reads() {
    let (keyd, client) = keyd();
    for (id, algorithms) in [("ec", "ec-p256"), ("rsa", "rsa-2048")] {
        let handle = client.create_pair(id, algorithms);
        let pem = fs::read_to_string(file(&keyd, id)).unwrap();
        assert!(
            pem.starts_with("-----BEGIN PRIVATE KEY-----\n") && pem.ends_with("-----END PRIVATE KEY-----\n")
        );
        assert_eq!(openssl(&["pkey", "-pubout"], pem.as_bytes()), client.public_key(&handle));
        let text = String::from_utf8(openssl(&["pkey", "-text", "-noout"], pem.as_bytes())).unwrap();
        assert!(id != "ec" || text.contains("ASN1 OID: prime256v1"), "a named curve: {text}");
    }
}

#[test]
fn keys_32_creating_what_exists_leaves_it_alone() {
    let (keyd, client) = keyd();
    for (id, made) in
        [("key", client.create_key("key", "sign")), ("pair", client.create_pair("pair", "ec-p256"))]
    {
        let before =
            (fs::read(file(&keyd, id)).unwrap(), fs::metadata(file(&keyd, id)).unwrap().modified().unwrap());
        let again =
            if id == "key" { client.create_key(id, "encrypt") } else { client.create_pair(id, "rsa-2048") };
        assert_ne!(made, again);
        let after =
            (fs::read(file(&keyd, id)).unwrap(), fs::metadata(file(&keyd, id)).unwrap().modified().unwrap());
        assert!(before == after, "{id}");
    }
}

#[test]
fn keys_33_an_empty_key_file_is_regenerated_by_create_only() {
    let (keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    fs::write(file(&keyd, "a"), "").unwrap();
    client.get("/key/a").expect(500);
    client.post("/sign", &suite_tests::keys::hmac_request(&handle, b"m")).expect(500);
    let regenerated = client.create_key("a", "sign");
    let bytes = fs::read(file(&keyd, "a")).unwrap();
    assert_eq!(bytes.len(), 32);
    assert_eq!(client.hmac(&regenerated, b"m"), hmac(&bytes, b"m"));
    reported(&keyd);
}

#[test]
fn keys_34_a_truncated_pem_is_regenerated_by_create_only() {
    let (keyd, client) = keyd();
    client.create_pair("a", "ec-p256");
    let pem = fs::read(file(&keyd, "a")).unwrap();
    let truncated = &pem[..pem.len() / 2];
    fs::write(file(&keyd, "a"), truncated).unwrap();
    client.get("/keypair/a").expect(500);
    let handle = client.create_pair("a", "ec-p256");
    let new = fs::read(file(&keyd, "a")).unwrap();
    assert_eq!(openssl(&["pkey", "-pubout"], &new), client.public_key(&handle));
    if !subject::is_foreign() {
        let kept = kept_beside(&file(&keyd, "a"));
        assert_eq!(fs::read(kept).unwrap(), truncated, "decided: the old file is kept beside the new one");
        reported(&keyd);
    }
}

#[test]
fn keys_34_an_empty_pem_is_regenerated_by_create_only() {
    let (keyd, client) = keyd();
    client.create_pair("a", "ec-p256");
    fs::write(file(&keyd, "a"), "").unwrap();
    client.get("/keypair/a").expect(500);
    client.create_pair("a", "ec-p256");
    client.load_pair("a");
}

#[test]
fn keys_34_pems_of_other_programs_are_read() {
    let (keyd, client) = keyd();
    client.create_key("make the directory", "sign");
    let rsa = openssl(&["genrsa", "-traditional", "2048"], b"");
    let ec = openssl(&["ecparam", "-name", "prime256v1", "-genkey"], b""); // parameters come first in the file
    let certificate = b"# a comment\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (id, pem) in [("rsa", rsa), ("ec", ec.clone()), ("among", [certificate.as_slice(), &ec].concat())] {
        fs::write(file(&keyd, id), &pem).unwrap();
        let handle = client.load_pair(id);
        assert_eq!(client.public_key(&handle), openssl(&["pkey", "-pubout"], &pem), "{id}");
    }
}

#[test]
fn keys_34_an_encrypted_pem_is_an_error_and_asks_nobody() {
    let (keyd, client) = keyd();
    client.create_key("make the directory", "sign");
    let pem = openssl(
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes128", "-pass", "pass:x"],
        b"",
    );
    fs::write(file(&keyd, "a"), &pem).unwrap();
    client.get("/keypair/a").expect(500);
    client.create_key("b", "sign");
}

#[test]
fn keys_decided_keys_and_pairs_are_not_confused() {
    let (keyd, client) = keyd();
    client.create_key("key", "sign");
    client.create_pair("pair", "ec-p256");
    let before = (fs::read(file(&keyd, "key")).unwrap(), fs::read(file(&keyd, "pair")).unwrap());
    refused(&client.get("/key/pair"));
    refused(&client.post("/key", &json!({ "keyId": "pair", "usage": "sign" })));
    refused(&client.post("/keypair", &json!({ "keyId": "key" })));
    let as_pair = client.get("/keypair/key");
    assert!([400, 500].contains(&as_pair.status), "{as_pair:?}");
    assert_eq!((fs::read(file(&keyd, "key")).unwrap(), fs::read(file(&keyd, "pair")).unwrap()), before);
}

#[test]
fn keys_decided_new_files_are_private_and_no_remnants_stay() {
    let keyd = Setup::new(&KEYD).wrapper(["sh", "-c", "umask 0; exec \"$0\""]).start();
    let client = keyd.client();
    client.create_key("a", "sign");
    client.import_key("b", "sign", b"bytes");
    client.create_pair("c", "ec-p256");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&keyd.home().join("keys")), 0o700);
    for id in ["a", "b", "c", VALIDATION_KEY] {
        assert_eq!(mode(&file(&keyd, id)), 0o600, "{id}");
    }
    assert_eq!(names(&keyd).len(), 4, "{:?}", names(&keyd));
}

fn file(keyd: &Daemon, id: &str) -> std::path::PathBuf {
    key_file(&keyd.home(), id)
}

fn names(keyd: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(keyd.home().join("keys")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The file beside `file` that has its name and a `.corrupt` suffix.
fn kept_beside(file: &Path) -> std::path::PathBuf {
    let name = file.file_name().unwrap().to_str().unwrap();
    let mut entries = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let kept = |path: &std::path::PathBuf| {
        let other = path.file_name().unwrap().to_str().unwrap();
        other.starts_with(name) && other.contains(".corrupt")
    };
    entries.find(kept).unwrap_or_else(|| panic!("nothing beside {name}"))
}

/// A replaced key is worth an error line.
fn reported(keyd: &Daemon) {
    if !subject::is_foreign() {
        keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains(".corrupt"));
    }
}

//! What the checklist promises of keys on a token: lines 51, 52, 56-62.

use std::fs;

use serde_json::json;
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::{Client, base64},
    keys::{Keys, by_handle, hmac_request, key_file, open_request, seal_request},
    openssl::{SHA256_DIGEST_INFO, hmac, sha256, verifies},
    softhsm::SoftHsm,
};

fn keyd() -> (SoftHsm, Daemon, Client) {
    let token = SoftHsm::new();
    let keyd = token.base_slot(Setup::new(&KEYD)).start();
    let client = keyd.client();
    (token, keyd, client)
}

#[test]
fn keys_56_keys_appear_on_the_token_and_no_file_is_written() {
    let (token, keyd, client) = keyd();
    let digest = sha256(b"m");
    let ec = client.create_pair("ec pair/1", "ec-p256");
    assert!(verifies(&client.public_key(&ec), &digest, &client.ecdsa(&ec, &digest), &[]));
    let rsa = client.create_pair("rsa", "rsa-2048");
    let info = [SHA256_DIGEST_INFO.as_slice(), &digest].concat();
    let signature = client.rsa(&rsa, "RSA-PKCS1", &info);
    assert!(verifies(&client.public_key(&rsa), &digest, &signature, &["-pkeyopt", "digest:sha256"]));
    let key = client.create_key("hmac", "sign");
    assert_eq!(client.hmac(&key, b"m").len(), 32);
    client.create_key("aes", "encrypt");
    assert_eq!(
        token.objects(),
        [
            "aes: Secret Key Object; AES length 32",
            "ec pair/1: Private Key Object; EC",
            "ec pair/1: Public Key Object; EC  EC_POINT 256 bits",
            "handle-validation-key: Secret Key Object; Generic secret length 32",
            "hmac: Secret Key Object; Generic secret length 32",
            "rsa: Private Key Object; RSA",
            "rsa: Public Key Object; RSA 2048 bits",
        ]
    );
    let keys = fs::read_dir(keyd.home().join("keys"));
    assert_eq!(keys.map_or(0, Iterator::count), 0, "no key is in a file");
}

#[test]
fn keys_56_the_validation_key_on_the_token_keeps_handles_over_a_restart() {
    let (_token, mut keyd, client) = keyd();
    let key = client.create_key("key", "sign");
    let mac = client.hmac(&key, b"m");
    keyd.restart();
    assert_eq!(client.hmac(&key, b"m"), mac);
    client.post("/key", &json!({ "keyId": "handle-validation-key", "usage": "sign" })).expect(401);
}

#[test]
fn keys_56_a_validation_key_that_vanishes_is_made_anew() {
    let (token, mut keyd, client) = keyd();
    let old = client.create_key("key", "sign");
    token.tool(&["--delete-object", "--type", "secrkey", "--label", "handle-validation-key"]);
    let new = client.load_key("key");
    client.hmac(&new, b"m");
    client.post("/sign", &hmac_request(&old, b"m")).expect(400);
    keyd.restart();
    client.hmac(&new, b"m");
}

#[test]
fn keys_56_a_validation_key_that_vanishes_is_no_fault_of_the_caller() {
    let (token, _keyd, client) = keyd();
    let old = client.create_key("key", "sign");
    token.tool(&["--delete-object", "--type", "secrkey", "--label", "handle-validation-key"]);
    let message = client.post("/sign", &hmac_request(&old, b"m")).expect(500).string("message");
    assert!(!message.contains("handle-validation-key"), "{message}");
    client.post("/sign", &hmac_request(&old, b"m")).expect(400);
}

#[test]
fn keys_57_a_key_on_a_token_has_one_purpose() {
    let (token, keyd, client) = keyd();
    for usage in ["sign,encrypt", "encrypt,derive", "derive,sign,encrypt"] {
        client.post("/key", &json!({ "keyId": "mixed", "usage": usage })).expect(400);
        let import = json!({ "keyId": "mixed", "usage": usage, "keyBytes": base64([7; 32]) });
        client.post("/key", &import).expect(400);
    }
    assert!(!key_file(&keyd.home(), "mixed").exists() && token.objects().len() < 2);
    let key = client.create_key("both", "sign,derive");
    let mac = client.hmac(&key, b"data");
    assert_eq!(client.export(&client.derive(&key, b"data")), mac, "the token derives by its HMAC");
    client.get("/key/mixed").expect(400);
}

#[test]
fn keys_58_a_token_enforces_the_purpose() {
    let (_token, _keyd, client) = keyd();
    let (cipher, mac) = (client.create_key("cipher", "encrypt"), client.create_key("mac", "sign"));
    client.post("/sign", &hmac_request(&cipher, b"m")).expect(500);
    client.post("/encrypt", &seal_request(&mac, &[1; 12], b"", b"m")).expect(500);
    client.hmac(&mac, b"m");
}

#[test]
fn keys_59_ciphertexts_are_those_of_files() {
    let (_token, keyd, client) = keyd();
    let key = client.import_key("aes", "encrypt", &[7; 32]);
    for length in [0, 1, 16, 1000] {
        let plaintext = vec![3; length];
        let seal = seal_request(&key, b"0123456789ab", b"aad", &plaintext);
        let sealed = client.post("/encrypt", &seal).expect(200).bytes("ciphertext");
        assert_eq!((sealed[0], sealed.len()), (2, length + 17));
        let file = Setup::new(&KEYD).start();
        let file_key = file.client().import_key("aes", "encrypt", &[7; 32]);
        let open = open_request(&file_key, b"0123456789ab", b"aad", &sealed);
        assert_eq!(file.client().post("/decrypt", &open).expect(200).bytes("plaintext"), plaintext);
        let open = open_request(&key, b"0123456789ab", b"aad", &sealed);
        assert_eq!(client.post("/decrypt", &open).expect(200).bytes("plaintext"), plaintext);
    }
    let sealed = client.post("/encrypt", &seal_request(&key, &[1; 12], b"a", b"text")).expect(200);
    let sealed = sealed.bytes("ciphertext");
    let refused = |iv: &[u8], aad: &[u8], sealed: &[u8], status| {
        client.post("/decrypt", &open_request(&key, iv, aad, sealed)).expect(status);
    };
    refused(&[1; 12], b"b", &sealed, 500);
    let told = keyd.wait_for_log(suite_tests::harness::BOUND, |line| line.contains("/decrypt"));
    assert!(told.contains("refuses to decrypt") && !told.contains("of no use"), "it is no outage: {told}");
    assert!(!told.contains("unrecoverable"), "{told}");
    refused(&[2; 12], b"a", &sealed, 500);
    refused(&[], b"a", &sealed, 500);
    refused(&[1; 12], b"a", &sealed[..16], 400);
    refused(&[1; 12], b"a", b"", 400);
    for version in [0, 1, 3] {
        refused(&[1; 12], b"a", &[&[version], &sealed[1..]].concat(), 400);
    }
    client.post("/encrypt", &seal_request(&key, &[], b"", b"x")).expect(500);
}

#[test]
fn keys_60_a_move_relabels_both_objects_and_replaces_the_target() {
    let (token, _keyd, client) = keyd();
    let (from, to) = (client.create_pair("from", "ec-p256"), client.create_pair("to", "rsa-2048"));
    let public = client.public_key(&from);
    client.post("/keypair/to", &json!({ "from": "from" })).expect(204);
    client.get("/keypair/from").expect(400);
    assert_eq!(client.public_key(&to), public, "handles made before name the new key");
    let digest = sha256(b"m");
    assert!(verifies(&public, &digest, &client.ecdsa(&to, &digest), &[]));
    client.post("/keypair/new", &json!({ "from": "to" })).expect(204);
    assert_eq!(client.public_key(&client.load_pair("new")), public);
    let objects = token.objects();
    let pairs: Vec<_> = objects.iter().filter(|object| !object.contains("Secret")).collect();
    assert_eq!(pairs, ["new: Private Key Object; EC", "new: Public Key Object; EC  EC_POINT 256 bits"]);
}

#[test]
fn keys_60_a_move_without_a_source_leaves_the_target_alone() {
    let (_token, _keyd, client) = keyd();
    let public = client.public_key(&client.create_pair("to", "ec-p256"));
    client.post("/keypair/to", &json!({ "from": "missing" })).expect(500);
    assert_eq!(client.public_key(&client.load_pair("to")), public);
}

#[test]
fn keys_60_no_pair_moves_between_token_and_file() {
    let token = SoftHsm::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let file = setup.directory().join("file.pem");
    let toml = format!("[preloaded_keys]\nfile = 'file://{}'\n", file.display());
    let keyd = setup.drop_in("50-preloaded.toml", &toml).start();
    let client = keyd.client();
    let (on_token, in_file) = (client.create_pair("token", "ec-p256"), client.create_pair("file", "ec-p256"));
    let before = (client.public_key(&on_token), client.public_key(&in_file));
    client.post("/keypair/file", &json!({ "from": "token" })).expect(400);
    client.post("/keypair/token", &json!({ "from": "file" })).expect(400);
    assert_eq!((client.public_key(&on_token), client.public_key(&in_file)), before);
}

#[test]
fn keys_61_what_the_token_refuses_ends_in_a_file_and_works() {
    let (token, mut keyd, client) = keyd();
    let on_token = client.import_key("aes", "encrypt", &[7; 32]);
    client.post("/encrypt", &seal_request(&on_token, &[1; 12], b"", b"m")).expect(200);
    client.import_key("aes", "encrypt", b"tiny");
    assert_eq!(fs::read(key_file(&keyd.home(), "aes")).unwrap(), b"tiny");
    assert!(!token.objects().iter().any(|object| object.starts_with("aes:")), "it would hide the file");
    keyd.wait_for_log(suite_tests::harness::BOUND, |line| {
        line.starts_with("<4>") && line.contains("\"aes\"") && line.contains("kept in a file")
    });
    assert_eq!(client.hmac(&client.load_key("aes"), b"m"), hmac(b"tiny", b"m"));
    keyd.restart();
    let key = client.load_key("aes");
    assert_eq!(client.hmac(&key, b"m"), hmac(b"tiny", b"m"));
    client.delete("/key", Some(&by_handle(&key))).expect(204);
    assert!(!key_file(&keyd.home(), "aes").exists());
}

#[test]
fn keys_61_an_import_replaces_what_is_on_the_token() {
    let (token, _keyd, client) = keyd();
    let handle = client.create_key("sas", "sign");
    for bytes in [&[1_u8; 32][..], &[2; 64], b"a key of some length that nobody would choose"] {
        client.import_key("sas", "sign", bytes);
        assert_eq!(client.hmac(&handle, b"m"), hmac(bytes, b"m"));
    }
    let objects = token.objects();
    assert_eq!(objects.iter().filter(|object| object.starts_with("sas:")).count(), 1, "{objects:?}");
}

#[test]
fn keys_62_slot_id_wins_and_unknown_attributes_are_ignored() {
    let token = SoftHsm::new();
    let number = token.slot_id();
    for uri in [
        format!("pkcs11:token=absent;slot-id={number};x-y=z?pin-value=4711&module-name=m"),
        "pkcs11:library-version=9;token=absent;token=s%61mple?pin-value=1&pin-value=4711".to_owned(),
    ] {
        let keyd = token.base_slot_at(Setup::new(&KEYD), &uri).start();
        keyd.client().create_pair("pair", "ec-p256");
        assert!(token.objects().iter().any(|object| object.starts_with("pair: Private")), "{uri}");
    }
}

#[test]
fn keys_62_pins_come_from_files_and_credentials() {
    let token = SoftHsm::new();
    for source in ["file", "url", "credential"] {
        let setup = Setup::new(&KEYD);
        let directory = setup.directory().to_owned();
        fs::write(directory.join("hsm-pin"), "4711\n").unwrap();
        let place = match source {
            "file" => directory.join("hsm-pin").display().to_string(),
            "url" => format!("file://{}/hsm-pin", directory.display()),
            _ => "hsm-pin".to_owned(),
        };
        let uri = format!("pkcs11:token=sample?pin-source={place}");
        let setup = token.base_slot_at(setup, &uri).env("CREDENTIALS_DIRECTORY", directory);
        let keyd = setup.start();
        keyd.client().create_key("key", "sign");
        assert!(token.objects().iter().any(|object| object.starts_with("key:")), "{source}");
    }
}

#[test]
fn keys_52_a_base_slot_that_is_not_there_ends_the_start() {
    let token = SoftHsm::new();
    let setup = || Setup::new(&KEYD);
    let bad_library = "[aziot_keys]\npkcs11_lib_path = '/nonexistent/pkcs11.so'\n";
    for (setup, said) in [
        (
            token.base_slot_at(setup(), "pkcs11:token=absent?pin-value=4711"),
            "no token token=absent; there are sample",
        ),
        (token.base_slot_at(setup(), "pkcs11:slot-id=7?pin-value=4711"), "SlotIdInvalid"),
        (token.base_slot_at(setup(), "pkcs11:object=x"), "neither token nor slot-id"),
        (token.base_slot(setup()).drop_in("30-library.toml", bad_library), "/nonexistent/pkcs11.so"),
    ] {
        let ended = setup.start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        let errors: String = ended.log.lines().filter(|line| line.starts_with("<3>")).collect();
        assert!(errors.contains(said) && !errors.contains("4711"), "{said}: {}", ended.log);
        assert!(!ended.log.contains("made ready anew"), "that does not bring it: {}", ended.log);
    }
}

#[test]
fn keys_51_preloaded_token_keys_need_the_library_only() {
    let token = SoftHsm::new();
    let pair = "pair = 'pkcs11:token=sample;object=factory%2Did?pin-value=4711'\n";
    let key = "key = 'pkcs11:token=sample;object=factory-key'\n";
    let setup = token.known_to(Setup::new(&KEYD));
    let keyd = setup.drop_in("50-preloaded.toml", &format!("[preloaded_keys]\n{pair}{key}")).start();
    let client = keyd.client();
    client.get("/keypair/pair").expect(400);
    client.get("/key/key").expect(400);
    let pair = client.create_pair("pair", "ec-p256");
    let key = client.create_key("key", "sign");
    let mac = client.hmac(&key, b"m");
    let digest = sha256(b"m");
    assert!(verifies(&client.public_key(&pair), &digest, &client.ecdsa(&pair, &digest), &[]));
    let objects = token.objects();
    assert_eq!(objects.len(), 3, "{objects:?}");
    assert!(objects[0].starts_with("factory-id: Private") && objects[2].starts_with("factory-key: Secret"));
    client.create_key("other", "sign,encrypt");
    assert!(key_file(&keyd.home(), "other").exists(), "without a base slot other keys are in files");
    // Renewal of certificates must not replace what an administrator has put there.
    client.delete("/keypair", Some(&by_handle(&pair))).expect(400);
    client.delete("/key", Some(&by_handle(&key))).expect(400);
    client.post("/keypair/elsewhere", &json!({ "from": "pair" })).expect(400);
    assert_eq!(client.hmac(&client.load_key("key"), b"m"), mac);
    assert_eq!(token.objects(), objects);
}

/// Labels may be longer than file names.
#[test]
fn keys_56_an_id_may_be_too_long_for_a_file() {
    let (token, _keyd, client) = keyd();
    let (pair, key) = ("p".repeat(300), "k".repeat(300));
    let handles = [client.create_pair(&pair, "ec-p256"), client.create_key(&key, "sign")];
    client.ecdsa(&handles[0], &[1; 32]);
    client.hmac(&handles[1], b"m");
    for (path, handle) in ["/keypair", "/key"].iter().zip(&handles) {
        client.delete(path, Some(&by_handle(handle))).expect(204);
    }
    client.get(&format!("/keypair/{pair}")).expect(400);
    assert_eq!(token.objects().len(), 1, "the validation key is left");
}

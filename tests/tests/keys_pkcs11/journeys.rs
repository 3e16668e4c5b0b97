//! The life of a key from its making to its end, the same on every kind of store: files, SoftHSM2, tpm2-pkcs11 on a
//! software TPM, the TPM itself with and without a resource manager. A store joins by one line of `on_every_store!` and its [`Stand`].

use serde_json::json;
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::Client,
    keys::{Keys, by_handle, ecdsa_request, hmac_request, open_request, rsa_request, seal_request},
    openssl::{SHA256_DIGEST_INFO, hmac, sha256, verifies},
    softhsm::SoftHsm,
    swtpm::Swtpm,
    tpm2_pkcs11::TpmToken,
};

/// A keyd with one kind of store.
struct Stand {
    keyd: Daemon,
    /// Whether a symmetric key can be for all purposes, as in files.
    mixes_usages: bool,
    _place: Place,
}

/// What has to live as long as keyd.
#[expect(dead_code, reason = "it lives, that is all")]
enum Place {
    File,
    SoftHsm(SoftHsm),
    Tpm(TpmToken),
    BareTpm(Swtpm),
}

impl Stand {
    fn file() -> Stand {
        Stand { keyd: Setup::new(&KEYD).start(), mixes_usages: true, _place: Place::File }
    }

    fn softhsm() -> Stand {
        let token = SoftHsm::new();
        let keyd = token.base_slot(Setup::new(&KEYD)).start();
        Stand { keyd, mixes_usages: false, _place: Place::SoftHsm(token) }
    }

    fn tpm2_pkcs11() -> Stand {
        let tpm = TpmToken::new();
        let keyd = tpm.base_slot(Setup::new(&KEYD)).start();
        Stand { keyd, mixes_usages: false, _place: Place::Tpm(tpm) }
    }

    fn tpm() -> Stand {
        let tpm = Swtpm::start();
        let keyd =
            Setup::new(&KEYD).config(&format!("[tpm]\ntcti = '{}'\nnew_keys = true\n", tpm.tcti())).start();
        Stand { keyd, mixes_usages: true, _place: Place::BareTpm(tpm) }
    }

    fn managed_tpm() -> Stand {
        let tpm = TpmToken::new();
        let keyd = tpm.without_token(Setup::new(&KEYD)).start();
        Stand { keyd, mixes_usages: true, _place: Place::Tpm(tpm) }
    }

    fn client(&self) -> Client {
        self.keyd.client()
    }
}

macro_rules! on_every_store {
    ($($store:ident),+ => $journeys:tt) => { $(on_every_store!(@ $store $journeys);)+ };
    (@ $store:ident [$($journey:ident),+ $(,)?]) => {
        mod $store {
            $(#[test] fn $journey() { super::$journey(&mut super::Stand::$store()); })+
        }
    };
}

on_every_store!(file, softhsm, tpm2_pkcs11, tpm, managed_tpm => [
    an_ec_pair_signs,
    an_rsa_pair_does_its_private_operation,
    preferences_decide_and_what_exists_stays,
    a_symmetric_key_signs_and_derives,
    a_symmetric_key_encrypts,
    an_import_is_used_byte_for_byte,
    a_pair_moves_and_replaces,
    a_restart_changes_nothing,
    what_is_deleted_is_gone,
    what_is_missing_is_400,
    a_wrong_mechanism_is_400,
]);

fn an_ec_pair_signs(stand: &Stand) {
    let client = stand.client();
    let pair = client.create_pair("größe pair/1", "ec-p256");
    assert_eq!(client.parameter(&pair, "algorithm"), "ECDSA");
    assert_eq!(client.parameter(&pair, "ec-curve-oid"), "BggqhkjOPQMBBw==");
    let public = client.public_key(&pair);
    for digest in [sha256(b"a"), sha256(b"b")] {
        assert!(verifies(&public, &digest, &client.ecdsa(&pair, &digest), &[]));
    }
    let long = [sha256(b"a"), sha256(b"b")].concat();
    assert!(verifies(&public, &long[..32], &client.ecdsa(&pair, &long), &[]), "a long digest is cut");
    assert_eq!(client.public_key(&client.load_pair("größe pair/1")), public);
}

fn an_rsa_pair_does_its_private_operation(stand: &Stand) {
    let client = stand.client();
    let pair = client.create_pair("rsa", "rsa-2048");
    assert_eq!(client.parameter(&pair, "algorithm"), "RSA");
    assert_eq!(client.parameter(&pair, "rsa-exponent"), "AQAB");
    let (public, digest) = (client.public_key(&pair), sha256(b"m"));
    let info = [SHA256_DIGEST_INFO.as_slice(), &digest].concat();
    let signature = client.rsa(&pair, "RSA-PKCS1", &info);
    assert!(verifies(&public, &digest, &signature, &["-pkeyopt", "digest:sha256"]));
    let padded = [&[0, 1][..], &vec![0xff; 256 - 3 - info.len()], &[0], &info].concat();
    assert_eq!(client.rsa(&pair, "RSA-NO-PADDING", &padded), signature);
    for wrong in [&padded[1..], &[&padded[..], &[0]].concat()] {
        client.post("/encrypt", &rsa_request(&pair, "RSA-NO-PADDING", wrong)).expect(500);
    }
}

fn preferences_decide_and_what_exists_stays(stand: &Stand) {
    let client = stand.client();
    let first = client.create_pair("pair", "unknown:ec-p256:rsa-2048");
    let public = client.public_key(&first);
    assert_eq!(client.parameter(&first, "algorithm"), "ECDSA");
    let again = client.create_pair("pair", "rsa-2048");
    assert_eq!(client.public_key(&again), public);
    client.post("/keypair", &json!({ "keyId": "none", "preferredAlgorithms": "unknown" })).expect(400);
    client.get("/keypair/none").expect(400);
}

fn a_symmetric_key_signs_and_derives(stand: &Stand) {
    let client = stand.client();
    let key = client.create_key("key", "derive,sign");
    let mac = client.hmac(&key, b"message");
    assert_eq!(client.hmac(&client.load_key("key"), b"message"), mac);
    assert_eq!(client.hmac(&client.create_key("key", "sign"), b"message"), mac, "what exists stays");
    let derived = client.derive(&key, b"data");
    let bytes = client.export(&derived);
    assert_eq!(bytes, client.hmac(&key, b"data"));
    assert_eq!(client.hmac(&derived, b"message"), hmac(&bytes, b"message"));
    let seal = seal_request(&derived, b"0123456789ab", b"aad", b"text");
    let sealed = client.post("/encrypt", &seal).expect(200).bytes("ciphertext");
    let open = open_request(&derived, b"0123456789ab", b"aad", &sealed);
    assert_eq!(client.post("/decrypt", &open).expect(200).bytes("plaintext"), b"text");
}

fn a_symmetric_key_encrypts(stand: &Stand) {
    let client = stand.client();
    let key = client.create_key("key", "encrypt");
    let seal = seal_request(&key, b"0123456789ab", b"aad", b"text");
    let sealed = client.post("/encrypt", &seal).expect(200).bytes("ciphertext");
    assert_eq!((sealed[0], sealed.len()), (2, 4 + 17));
    let open = |aad| open_request(&key, b"0123456789ab", aad, &sealed);
    assert_eq!(client.post("/decrypt", &open(b"aad")).expect(200).bytes("plaintext"), b"text");
    client.post("/decrypt", &open(b"other")).expect(500);
    let mixed = client.post("/key", &json!({ "keyId": "mixed", "usage": "sign,encrypt" }));
    mixed.expect(if stand.mixes_usages { 200 } else { 400 });
}

fn an_import_is_used_byte_for_byte(stand: &Stand) {
    let client = stand.client();
    let handle = client.create_key("key", "sign");
    for bytes in [&[5; 32][..], b"a key that somebody else has chosen"] {
        client.import_key("key", "sign", bytes);
        assert_eq!(client.hmac(&handle, b"message"), hmac(bytes, b"message"));
    }
}

fn a_pair_moves_and_replaces(stand: &Stand) {
    let client = stand.client();
    let (from, to) = (client.create_pair("temp", "ec-p256"), client.create_pair("id", "ec-p256"));
    let (public, digest) = (client.public_key(&from), sha256(b"m"));
    client.post("/keypair/id", &json!({ "from": "missing" })).expect(500);
    client.post("/keypair/id", &json!({ "from": "id" })).expect(400);
    assert_ne!(client.public_key(&to), public);
    client.post("/keypair/id", &json!({ "from": "temp" })).expect(204);
    assert_eq!(client.public_key(&to), public);
    assert!(verifies(&public, &digest, &client.ecdsa(&to, &digest), &[]));
    client.post("/sign", &ecdsa_request(&from, &digest)).expect(400);
    client.get("/keypair/temp").expect(400);
    assert_ne!(client.public_key(&client.create_pair("temp", "ec-p256")), public, "the name is free");
}

fn a_restart_changes_nothing(stand: &mut Stand) {
    let client = stand.client();
    let (key, pair) = (client.create_key("key", "sign"), client.create_pair("pair", "ec-p256"));
    let derived = client.derive(&key, b"data");
    let before = (client.hmac(&key, b"m"), client.export(&derived), client.public_key(&pair));
    stand.keyd.restart();
    assert_eq!((client.hmac(&key, b"m"), client.export(&derived), client.public_key(&pair)), before);
    let digest = sha256(b"m");
    assert!(verifies(&before.2, &digest, &client.ecdsa(&pair, &digest), &[]));
    stand.keyd.kill();
    stand.keyd.restart();
    assert_eq!(client.hmac(&client.load_key("key"), b"m"), before.0);
}

fn what_is_deleted_is_gone(stand: &Stand) {
    let client = stand.client();
    let (key, pair) = (client.create_key("key", "sign"), client.create_pair("pair", "ec-p256"));
    client.delete("/key", Some(&by_handle(&pair))).expect(400);
    client.delete("/keypair", Some(&by_handle(&key))).expect(400);
    let (mac, public) = (client.hmac(&key, b"m"), client.public_key(&pair));
    for _ in 0..2 {
        client.delete("/key", Some(&by_handle(&key))).expect(204);
        client.delete("/keypair", Some(&by_handle(&pair))).expect(204);
    }
    client.post("/sign", &hmac_request(&key, b"m")).expect(400);
    client.post("/sign", &ecdsa_request(&pair, &[1; 32])).expect(400);
    client.get("/key/key").expect(400);
    client.get("/keypair/pair").expect(400);
    assert_ne!(client.hmac(&client.create_key("key", "sign"), b"m"), mac);
    assert_ne!(client.public_key(&client.create_pair("pair", "ec-p256")), public);
}

fn what_is_missing_is_400(stand: &Stand) {
    let client = stand.client();
    client.get("/key/missing").expect(400);
    client.get("/keypair/missing").expect(400);
    client.create_pair("pair", "ec-p256");
    client.get("/key/pair").expect(400);
}

fn a_wrong_mechanism_is_400(stand: &Stand) {
    let client = stand.client();
    let (key, pair) = (client.create_key("key", "sign"), client.create_pair("pair", "ec-p256"));
    client.post("/sign", &ecdsa_request(&key, &[1; 32])).expect(400);
    client.post("/sign", &hmac_request(&pair, b"m")).expect(400);
    client.post("/encrypt", &seal_request(&pair, &[1; 12], b"", b"m")).expect(400);
    let rsa = json!({ "keyHandle": pair, "algorithm": "RSA-PKCS1", "plaintext": "AQ==" });
    client.post("/encrypt", &rsa).expect(400);
    client.post("/parameters/rsa-modulus", &by_handle(&pair)).expect(400);
}

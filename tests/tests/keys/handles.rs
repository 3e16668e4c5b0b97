//! Handles and derived keys: checklist 20-27.

use std::fs;

use serde_json::{Value, json};
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::{base64, unbase64},
    keys::{
        Keys, VALIDATION_KEY, by_handle, forge, hmac_request, key_file, open_request, seal_request,
        take_apart,
    },
    openssl::hmac,
};

use super::keyd;

/// The test vector of keys-service 6.4: key `demo key/1`, nonce of zeros.
mod vector {
    pub(super) const ID: &str = "demo key/1";
    pub(super) const FILE: &str =
        "demokey1-4df6bd919836f92c2ce2f55f0972866f2eae7563dae2ed091e86f70068a3b058.key";
    pub(super) const VALIDATION_FILE: &str =
        "handlevalidationkey-40f1ca41fe8b50f53e10f3e3a580dcae24087f37aa498ba9903f2612b03e90ba.key";
    pub(super) const MAC: &str = "5ZqyBPXQHbmOnNvuV/e2xnJbJCx27y6M6ES/Awx4NdI=";
    pub(super) const DERIVED_MAC: &str = "Rz+Hm1rpVOwRzQpGSG5vBBtf1Z2j/EE8QA5bDRAwYw8=";
    pub(super) const EXPORTED: &str = "P0ferq0PXeePqSOTgoQ3Nc5yiL0pN4h6ZmlfmHahsDI=";
    pub(super) const HMAC_OF_HELLO: &str = "GuwHRQLyRjkSoZHKTZPHcFJDZ8iv1Ar4dmzwqWiIvYw=";
    pub(super) const SEALED: &str = "Arkd8znCZu+h/TVVrO0rLt94O7iwVrKX+uyR";
    pub(super) const SEALED_BY_DERIVED: &str = "AsFwaxKPATs/V+Kc7RILAHTRLd/mmgsWlWLN";
    pub(super) const DATA: &[u8] = b"mod-a";
}

/// Validation key 00..1f, and the vector's key 20..3f.
fn keyd_of_the_vector() -> Daemon {
    let setup = Setup::new(&KEYD);
    let keys = setup.home().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join(vector::VALIDATION_FILE), (0..0x20).collect::<Vec<u8>>()).unwrap();
    fs::write(keys.join(vector::FILE), (0x20..0x40).collect::<Vec<u8>>()).unwrap();
    setup.start()
}

fn handle_of_the_vector() -> String {
    let text = format!(r#"{{"key_id":{{"Key":"{}"}},"nonce":"{}"}}"#, vector::ID, base64([0; 64]));
    format!("sr={}&sig={}", base64(text), vector::MAC)
}

/// The text of a derived handle with a nonce of zeros.
fn derived_text(base: &str, data: &[u8]) -> String {
    let nonce = base64([0; 64]);
    format!(r#"{{"key_id":{{"Derived":[{},{}]}},"nonce":"{nonce}"}}"#, json!(base), json!(data))
}

#[test]
fn keys_20_handles_of_upstream_are_valid() {
    let keyd = keyd_of_the_vector();
    let client = keyd.client();
    assert_eq!(client.hmac(&handle_of_the_vector(), b"hello"), unbase64(vector::HMAC_OF_HELLO));
    let seal = |handle: &str| seal_request(handle, b"000000000000", b"demo", b"top secret");
    let sealed = client.post("/encrypt", &seal(&handle_of_the_vector())).expect(200);
    assert_eq!(sealed.string("ciphertext"), vector::SEALED);
    let derived = format!(
        "sr={}&sig={}",
        base64(derived_text(&handle_of_the_vector(), vector::DATA)),
        vector::DERIVED_MAC
    );
    assert_eq!(client.export(&derived), unbase64(vector::EXPORTED));
    assert_eq!(
        client.export(&client.derive(&handle_of_the_vector(), vector::DATA)),
        unbase64(vector::EXPORTED)
    );
    let sealed = client.post("/encrypt", &seal(&derived)).expect(200);
    assert_eq!(sealed.string("ciphertext"), vector::SEALED_BY_DERIVED);
    let open = open_request(&derived, b"000000000000", b"demo", &unbase64(vector::SEALED_BY_DERIVED));
    assert_eq!(client.post("/decrypt", &open).expect(200).bytes("plaintext"), b"top secret");
}

#[test]
fn keys_20_our_handles_are_made_as_upstream_makes_them() {
    let keyd = keyd_of_the_vector();
    let client = keyd.client();
    let key = client.load_key(vector::ID);
    expect_text(&key, r#"{"Key":"demo key/1"}"#);
    let pair = client.create_pair("pair \"\\\n\u{1f}é", "ec-p256");
    expect_text(&pair, r#"{"KeyPair":"pair \"\\\n\u001fé"}"#);
    let derived = client.derive(&key, vector::DATA);
    expect_text(&derived, &format!(r#"{{"Derived":["{key}",[109,111,100,45,97]]}}"#));
    expect_text(&client.derive(&key, b""), &format!(r#"{{"Derived":["{key}",[]]}}"#));
}

/// The handle must have exactly the text for `id` with a nonce of 64 bytes, and the MAC under the vector's key.
#[track_caller]
fn expect_text(handle: &str, id: &str) {
    let (text, mac) = take_apart(handle);
    let nonce =
        text.strip_prefix(&format!(r#"{{"key_id":{id},"nonce":""#)).unwrap_or_else(|| panic!("{text}"));
    let nonce = unbase64(nonce.strip_suffix(r#""}"#).unwrap());
    assert_eq!(nonce.len(), 64);
    assert_eq!(mac, hmac(&(0..0x20).collect::<Vec<u8>>(), text.as_bytes()));
}

#[test]
fn keys_21_parts_may_come_in_any_order_among_others() {
    let keyd = keyd_of_the_vector();
    let handle = handle_of_the_vector();
    let (sr, sig) = handle.split_once('&').unwrap();
    for handle in [
        format!("{sig}&{sr}"),
        format!("x=y&{sr}&z&{sig}&"),
        format!("sr=AAAA&{sr}&sig=AAAA&{sig}"), // the later one counts
    ] {
        assert_eq!(keyd.client().hmac(&handle, b"hello"), unbase64(vector::HMAC_OF_HELLO), "{handle}");
    }
}

#[test]
fn keys_21_whatever_else_differs_is_400() {
    let keyd = keyd_of_the_vector();
    let (text, mac) = take_apart(&handle_of_the_vector());
    let flipped = |bytes: &[u8], at: usize| [&bytes[..at], &[bytes[at] ^ 1], &bytes[at + 1..]].concat();
    let made = |text: &[u8], mac: &[u8]| format!("sr={}&sig={}", base64(text), base64(mac));
    let whole = handle_of_the_vector();
    let (sr, sig) = whole.split_once('&').unwrap();
    let mut handles: Vec<String> =
        [0, 12, 20, text.len() - 1].map(|at| made(&flipped(text.as_bytes(), at), &mac)).into();
    handles.extend([0, 31].map(|at| made(text.as_bytes(), &flipped(&mac, at))));
    handles.extend([made(text.as_bytes(), &mac[..31]), made(text.as_bytes(), b""), made(b"", &mac)]);
    handles.extend(["", "&", "sr=", "sr=&sig=", sr, sig, "nonsense"].map(str::to_owned));
    handles.extend([
        format!("{sr}&sig=!"),
        format!("sr=!&{sr}&{sig}"),
        format!("{sr}&sig=AAAA"),
        format!("{sr}={sig}"),
    ]);
    handles.push(made(b"\xff\xfe", &hmac(&validation_key(&keyd), b"\xff\xfe")));
    for handle in handles {
        let reply = keyd.client().post("/sign", &hmac_request(&handle, b"hello"));
        assert_eq!(reply.status, 400, "{handle}");
        reply.expect(400);
    }
}

#[test]
fn keys_21_a_correct_mac_over_another_text() {
    let keyd = keyd_of_the_vector();
    let key = validation_key(&keyd);
    let sign = |text: &str| keyd.client().post("/sign", &hmac_request(&forge(&key, text), b"hello"));
    for text in [
        r#"{"key_id":{"Key":"demo key/1"},"nonce":""}"#,
        r#" { "nonce" : "x", "more": [1], "key_id": { "Key": "demo key\/1" } } "#,
    ] {
        assert_eq!(sign(text).expect(200).bytes("signature"), unbase64(vector::HMAC_OF_HELLO), "{text}");
    }
    for text in [
        "",
        "{}",
        "[]",
        r#"{"key_id":{"Key":"demo key/1"}}"#,
        r#"{"key_id":{"Key":1},"nonce":"x"}"#,
        r#"{"key_id":{"Other":"demo key/1"},"nonce":"x"}"#,
        r#"{"key_id":{"Key":"demo key/1"},"nonce":1}"#,
        r#"{"key_id":{"Key":"a\u0000"},"nonce":"x"}"#,
        r#"{"key_id":{"Key":"demo key/1"},"nonce":"x"} x"#,
    ] {
        assert_eq!(sign(text).status, 400, "{text}");
    }
}

#[test]
fn keys_22_handles_survive_a_restart_but_not_the_loss_of_the_validation_key() {
    let (mut keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    let signature = client.hmac(&handle, b"m");
    keyd.restart();
    assert_eq!(client.hmac(&handle, b"m"), signature);
    fs::remove_file(key_file(&keyd.home(), VALIDATION_KEY)).unwrap();
    client.post("/sign", &hmac_request(&handle, b"m")).expect(400);
    let new = client.load_key("a");
    assert_eq!(client.hmac(&new, b"m"), signature);
    client.post("/sign", &hmac_request(&handle, b"m")).expect(400);
    assert_eq!(validation_key(&keyd).len(), 32);
}

#[test]
fn keys_23_each_handle_is_new_and_all_stay_valid() {
    let (_keyd, client) = keyd();
    let handles = [
        client.create_key("a", "sign"),
        client.create_key("a", "sign"),
        client.load_key("a"),
        client.load_key("a"),
    ];
    for (at, handle) in handles.iter().enumerate() {
        assert!(!handles[..at].contains(handle));
        assert_eq!(client.hmac(handle, b"m"), client.hmac(&handles[0], b"m"));
    }
}

#[test]
fn keys_24_the_data_of_a_derived_handle_is_a_list_of_numbers() {
    let (_keyd, client) = keyd();
    let base = client.create_key("a", "derive");
    let (text, _) = take_apart(&client.derive(&base, &[0, 1, 127, 128, 255]));
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text["key_id"], json!({ "Derived": [base, [0, 1, 127, 128, 255]] }));
    assert_eq!(unbase64(text["nonce"].as_str().unwrap()).len(), 64);
}

#[test]
fn keys_25_nothing_is_derived_from_derived_keys() {
    let keyd = keyd_of_the_vector();
    let client = keyd.client();
    let outer = client.derive(&handle_of_the_vector(), b"outer");
    client.post("/derivedkey", &json!({ "baseKeyHandle": outer, "derivationData": "AAAA" })).expect(400);
    let nested = forge(&validation_key(&keyd), &derived_text(&outer, b"inner")); // as upstream before 1.6
    for (path, body) in [
        ("/derivedkey/export", by_handle(&nested)),
        ("/sign", hmac_request(&nested, b"m")),
        ("/encrypt", seal_request(&nested, &[0; 12], b"", b"")),
        ("/decrypt", open_request(&nested, &[0; 12], b"", &[2; 40])),
        ("/derivedkey", json!({ "baseKeyHandle": nested, "derivationData": "" })),
    ] {
        client.post(path, &body).expect(400);
    }
}

#[test]
fn keys_25_the_base_inside_a_derived_handle_is_verified_too() {
    let keyd = keyd_of_the_vector();
    let forged_base = forge(&[9; 32], r#"{"key_id":{"Key":"demo key/1"},"nonce":"x"}"#);
    let derived = forge(&validation_key(&keyd), &derived_text(&forged_base, b"x"));
    keyd.client().post("/derivedkey/export", &by_handle(&derived)).expect(400);
}

#[test]
fn keys_26_a_derived_key_is_an_hmac_of_the_data() {
    let (_keyd, client) = keyd();
    let base = client.import_key("base", "derive", b"any length");
    for data in [b"".as_slice(), b"data", &[255; 3000]] {
        let derived = client.derive(&base, data);
        let key = client.export(&derived);
        assert_eq!(key, hmac(b"any length", data));
        assert_eq!(client.hmac(&derived, b"message"), hmac(&key, b"message"));
        let sealed = client
            .post("/encrypt", &seal_request(&derived, &[1; 12], b"a", b"p"))
            .expect(200)
            .bytes("ciphertext");
        let imported = client.import_key("copy", "encrypt", &key);
        let opened = client.post("/decrypt", &open_request(&imported, &[1; 12], b"a", &sealed)).expect(200);
        assert_eq!(opened.bytes("plaintext"), b"p");
    }
}

#[test]
fn keys_27_only_derived_keys_are_exported() {
    let (_keyd, client) = keyd();
    let (key, pair) = (client.create_key("a", "derive"), client.create_pair("b", "ec-p256"));
    for handle in [key, pair] {
        client.post("/derivedkey/export", &by_handle(&handle)).expect(400);
    }
}

fn validation_key(keyd: &Daemon) -> Vec<u8> {
    fs::read(key_file(&keyd.home(), VALIDATION_KEY)).unwrap()
}

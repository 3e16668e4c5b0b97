//! Requests and their ids: checklist 8, 10, 14, 63, 64.

use serde_json::json;
use suite_tests::keys::{
    Keys, VALIDATION_KEY, by_handle, ecdsa_request, hmac_request, key_file, open_request, rsa_request,
    seal_request, segment,
};

use super::{keyd, refused};

#[test]
fn keys_08_fields_that_cannot_be_decoded_are_422() {
    let (_keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    for (path, body) in [
        ("/key", json!({ "keyId": "b", "usage": "sign", "keyBytes": "AAA" })),
        ("/key", json!({ "keyId": "b", "usage": "sign", "keyBytes": "AA-_" })),
        ("/key", json!({ "keyId": "b", "usage": "sign", "keyBytes": "AA AA===" })),
        ("/key", json!({ "keyId": "b", "usage": "sign", "keyBytes": "AAB=" })),
        ("/key", json!({ "keyId": "b", "usage": "sign", "keyBytes": [1, 2] })),
        ("/key", json!({ "keyId": "b", "usage": ["sign"] })),
        ("/keypair", json!({ "keyId": "b", "preferredAlgorithms": ["ec-p256"] })),
        (
            "/sign",
            json!({ "keyHandle": handle, "algorithm": "HMAC-SHA512", "parameters": { "message": "" } }),
        ),
        ("/sign", json!({ "keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": {} })),
        ("/sign", json!({ "keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": { "digest": "" } })),
        ("/sign", json!({ "keyHandle": handle, "algorithm": "HMAC-SHA256" })),
        ("/sign", json!({ "keyHandle": handle, "algorithm": "ECDSA", "parameters": { "message": "" } })),
        (
            "/encrypt",
            json!({ "keyHandle": handle, "algorithm": "AEAD", "parameters": { "iv": "" }, "plaintext": "" }),
        ),
        (
            "/encrypt",
            json!({ "keyHandle": handle, "algorithm": "AEAD", "parameters": null, "plaintext": "" }),
        ),
        ("/encrypt", json!({ "keyHandle": handle, "algorithm": "AES", "plaintext": "" })),
        ("/encrypt", json!({ "keyHandle": handle, "algorithm": "RSA-PKCS1" })),
        ("/derivedkey", json!({ "baseKeyHandle": handle })),
        ("/derivedkey", json!({ "baseKeyHandle": handle, "derivationData": "AAA" })),
        ("/derivedkey/export", json!({ "keyHandle": null })),
        ("/parameters/algorithm", json!({})),
        ("/keypair/b", json!({ "from": 1 })),
    ] {
        let reply = client.post(path, &body);
        assert_eq!(reply.status, 422, "{path} {body}");
        reply.expect(422);
    }
}

#[test]
fn keys_10_null_is_as_good_as_absent() {
    let (_keyd, client) = keyd();
    client.post("/key", &json!({ "keyId": "a", "usage": "sign", "keyBytes": null })).expect(200);
    client.post("/keypair", &json!({ "keyId": "b", "preferredAlgorithms": null, "else": 1 })).expect(200);
    assert_eq!(client.parameter(&client.load_pair("b"), "algorithm"), "ECDSA");
}

#[test]
fn keys_10_the_order_of_fields_does_not_matter() {
    let (_keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    let body =
        format!(r#"{{"parameters":{{"message":"aGk="}},"algorithm":"HMAC-SHA256","keyHandle":"{handle}"}}"#);
    let head = "POST /sign?api-version=2020-09-01 HTTP/1.1\r\n";
    client.send(suite_tests::http::with_body(head, &[], body)).expect(200);
}

#[test]
fn keys_14_all_operations_are_served_in_both_versions() {
    let (_keyd, client) = keyd();
    for version in ["2020-09-01", "2021-05-01"] {
        let client = client.version(version);
        let key = client.create_key("key", "derive,encrypt");
        client.load_key("key");
        client.import_key("imported", "sign", b"bytes");
        let derived = client.derive(&key, b"data");
        client.export(&derived);
        client.hmac(&derived, b"message");
        let sealed = client
            .post("/encrypt", &seal_request(&key, &[1; 12], b"", b"text"))
            .expect(200)
            .bytes("ciphertext");
        client.post("/decrypt", &open_request(&key, &[1; 12], b"", &sealed)).expect(200);
        let pair = client.create_pair("pair", "ec-p256");
        client.parameter(&pair, "ec-point");
        client.ecdsa(&pair, &[7; 32]);
        client.post("/keypair/moved", &json!({ "from": "pair" })).expect(204);
        client.delete("/keypair", Some(&by_handle(&client.load_pair("moved")))).expect(204);
        client.delete("/key", Some(&by_handle(&key))).expect(204);
    }
}

#[test]
fn keys_37_usage_is_a_list_of_known_words() {
    let (_keyd, client) = keyd();
    for usage in ["derive", "encrypt", "sign", "derive,sign", "sign,sign", "encrypt,derive,sign"] {
        client.create_key("a", usage);
    }
    for usage in ["", "sign, derive", " sign", "sign,", ",sign", "Sign", "verify", "sign;derive"] {
        let reply = client.post("/key", &json!({ "keyId": "b", "usage": usage }));
        assert_eq!(reply.status, 422, "{usage:?}");
    }
    client.post("/key", &json!({ "keyId": "b", "keyBytes": "AAAA" })).expect(422);
}

#[test]
fn keys_35_what_is_not_there_is_400() {
    let (_keyd, client) = keyd();
    client.get("/key/missing").expect(400);
    client.get("/keypair/missing").expect(400);
}

#[test]
fn keys_41_mechanisms_need_their_kind_of_key() {
    let (_keyd, client) = keyd();
    let key = client.create_key("key", "sign");
    let derived = client.derive(&key, b"x");
    let (ec, rsa) = (client.create_pair("ec", "ec-p256"), client.create_pair("rsa", "rsa-2048"));
    for (handle, name) in [(&ec, "EC"), (&rsa, "RSA")] {
        assert_eq!(client.post("/sign", &hmac_request(handle, b"m")).status, 400, "HMAC with {name}");
        assert_eq!(
            client.post("/encrypt", &seal_request(handle, &[0; 12], b"", b"")).status,
            400,
            "AEAD with {name}"
        );
    }
    for (handle, name) in [(&key, "key"), (&derived, "derived"), (&rsa, "RSA")] {
        assert_eq!(client.post("/sign", &ecdsa_request(handle, &[0; 32])).status, 400, "ECDSA with {name}");
    }
    for (handle, name) in [(&key, "key"), (&derived, "derived"), (&ec, "EC")] {
        for algorithm in ["RSA-PKCS1", "RSA-NO-PADDING"] {
            let reply = client.post("/encrypt", &rsa_request(handle, algorithm, &[0; 256]));
            assert_eq!(reply.status, 400, "{algorithm} with {name}");
        }
    }
}

#[test]
fn keys_63_ids_may_hold_anything() {
    let (keyd, client) = keyd();
    for id in [
        "with space",
        "a/b",
        "größe",
        "100%",
        "a%2Fb",
        "..",
        "../up",
        "~",
        "$edgeAgent",
        "\u{1F511}",
        "tab\there",
        "a?b#c&d=e",
    ] {
        let created = client.create_key(id, "sign");
        let loaded = client.load_key(id);
        assert_eq!(client.hmac(&created, b"m"), client.hmac(&loaded, b"m"), "{id}");
        assert!(key_file(&keyd.home(), id).is_file(), "{id}");
        let pair = format!("pair of {id}");
        client.create_pair(&pair, "ec-p256");
        client
            .post(&format!("/keypair/{}", segment(&format!("moved {id}"))), &json!({ "from": pair }))
            .expect(204);
        client.load_pair(&format!("moved {id}"));
    }
}

#[test]
fn keys_64_an_id_with_nul_is_400() {
    let (_keyd, client) = keyd();
    let key = |id: &str| json!({ "keyId": id, "usage": "sign" });
    client.post("/key", &key("a\0b")).expect(400);
    client.post("/key", &key("\0")).expect(400);
    client.post("/keypair", &json!({ "keyId": "a\0" })).expect(400);
    client.get("/key/a%00").expect(400);
    client.get("/keypair/%00").expect(400);
    client.create_pair("a", "ec-p256");
    client.post("/keypair/b%00", &json!({ "from": "a" })).expect(400);
    client.post("/keypair/b", &json!({ "from": "a\0" })).expect(400);
}

#[test]
fn keys_decided_the_validation_key_is_out_of_reach() {
    let (keyd, client) = keyd();
    let handle = client.create_key("a", "sign");
    let file = key_file(&keyd.home(), VALIDATION_KEY);
    let before = std::fs::read(&file).unwrap();
    client.create_pair("pair", "ec-p256");
    for (path, body) in [
        ("/key", json!({ "keyId": VALIDATION_KEY, "usage": "sign" })),
        ("/key", json!({ "keyId": VALIDATION_KEY, "usage": "sign", "keyBytes": "AAAA" })),
        ("/keypair", json!({ "keyId": VALIDATION_KEY })),
        ("/keypair/moved", json!({ "from": VALIDATION_KEY })),
        ("/keypair/handle-validation-key", json!({ "from": "pair" })),
    ] {
        refused(&client.post(path, &body));
    }
    refused(&client.get("/key/handle-validation-key"));
    refused(&client.get("/keypair/handle-validation-key"));
    let text = r#"{"key_id":{"Key":"handle-validation-key"},"nonce":"AAAA"}"#; // as upstream would have given out
    let old = suite_tests::keys::forge(&before, text);
    refused(&client.post("/sign", &hmac_request(&old, b"forged text")));
    refused(&client.delete("/key", Some(&by_handle(&old))));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    client.hmac(&handle, b"m");
}

//! Key pairs: checklist 36, 38-40, 46, 47.

use serde_json::{Value, json};
use suite_tests::{
    http::unbase64,
    keys::{Keys, by_handle, ecdsa_request, rsa_request},
    openssl::{SHA256_DIGEST_INFO, openssl, sha256, verifies},
};

use super::keyd;

#[test]
fn keys_36_the_first_known_algorithm_is_taken() {
    let (_keyd, client) = keyd();
    let modulus = |handle: &str| unbase64(&client.parameter(handle, "rsa-modulus")).len();
    for (at, algorithms) in
        ["ec-p256", "*", "foo:*", "ec-p256:rsa-2048", "::ec-p256:", "*:rsa-4096"].iter().enumerate()
    {
        let handle = client.create_pair(&format!("ec {at}"), algorithms);
        assert_eq!(client.parameter(&handle, "algorithm"), "ECDSA", "{algorithms}");
    }
    for (at, algorithms) in ["foo:rsa-2048", "rsa-2048:*"].iter().enumerate() {
        let handle = client.create_pair(&format!("rsa {at}"), algorithms);
        assert_eq!(modulus(&handle), 256, "{algorithms}");
    }
    assert_eq!(modulus(&client.create_pair("large", "rsa-4096:*")), 512);
    for algorithms in ["foo", "", ":", "EC-P256", " ec-p256", "ec-p256 ", "rsa-1024"] {
        let reply = client.post("/keypair", &json!({ "keyId": "none", "preferredAlgorithms": algorithms }));
        assert_eq!(reply.status, 400, "{algorithms:?}");
    }
    let absent = client.post("/keypair", &json!({ "keyId": "absent" })).expect(200).string("keyHandle");
    assert_eq!(client.parameter(&absent, "algorithm"), "ECDSA");
}

#[test]
fn keys_38_39_parameters_of_an_ec_pair() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("ec", "ec-p256");
    assert_eq!(client.parameter(&handle, "algorithm"), "ECDSA");
    assert_eq!(client.parameter(&handle, "ec-curve-oid"), "BggqhkjOPQMBBw==");
    let point = unbase64(&client.parameter(&handle, "ec-point"));
    assert_eq!(point.len(), 33);
    assert!([2, 3].contains(&point[0]));
    for name in ["rsa-modulus", "rsa-exponent", "unknown", "ALGORITHM"] {
        client.post(&format!("/parameters/{name}"), &by_handle(&handle)).expect(400);
    }
}

#[test]
fn keys_38_39_parameters_of_an_rsa_pair() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("rsa", "rsa-2048");
    assert_eq!(client.parameter(&handle, "algorithm"), "RSA");
    assert_eq!(client.parameter(&handle, "rsa-exponent"), "AQAB");
    assert_eq!(unbase64(&client.parameter(&handle, "rsa-modulus")).len(), 256);
    for name in ["ec-point", "ec-curve-oid"] {
        client.post(&format!("/parameters/{name}"), &by_handle(&handle)).expect(400);
    }
}

#[test]
fn keys_39_pairs_of_other_kinds() {
    let (keyd, client) = keyd();
    client.create_key("make the directory", "sign");
    let put = |id: &str, args: &[&str]| {
        std::fs::write(suite_tests::keys::key_file(&keyd.home(), id), openssl(args, b"")).unwrap();
        client.load_pair(id)
    };
    let large = put("p384", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    assert_eq!(client.parameter(&large, "algorithm"), "ECDSA");
    assert_eq!(unbase64(&client.parameter(&large, "ec-point")).len(), 49);
    let curve = client.post("/parameters/ec-curve-oid", &by_handle(&large)); // upstream cannot name it
    assert!(curve.status == 400 || curve.string("value") == "BgUrgQQAIg==", "{curve:?}");
    client.ecdsa(&large, &[1; 48]);
    let edwards = put("ed25519", &["genpkey", "-algorithm", "ED25519"]);
    client.post("/parameters/algorithm", &by_handle(&edwards)).expect(400);
}

#[test]
fn keys_40_ecdsa_signatures_are_der_that_openssl_verifies() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("ec", "ec-p256");
    let public = client.public_key(&handle);
    for digest in [sha256(b"message"), vec![0x5a; 64], vec![1; 20]] {
        let signature = client.ecdsa(&handle, &digest);
        assert_eq!(signature[0], 0x30);
        assert!(verifies(&public, &digest, &signature, &[]));
    }
    let signature = client.ecdsa(&handle, &sha256(b"message"));
    assert!(!verifies(&public, &sha256(b"another"), &signature, &[]));
}

#[test]
fn keys_46_rsa_pkcs1_is_a_signature_over_the_digest_info() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("rsa", "rsa-2048");
    let public = client.public_key(&handle);
    let digest = sha256(b"message");
    let signature = client.rsa(&handle, "RSA-PKCS1", &[SHA256_DIGEST_INFO.as_slice(), &digest].concat());
    let options = ["-pkeyopt", "rsa_padding_mode:pkcs1", "-pkeyopt", "digest:sha256"];
    assert!(verifies(&public, &digest, &signature, &options));
    assert!(!verifies(&public, &sha256(b"another"), &signature, &options));
    assert_eq!(client.rsa(&handle, "RSA-PKCS1", &[7; 245]).len(), 256);
    client.post("/encrypt", &rsa_request(&handle, "RSA-PKCS1", &[7; 246])).expect(500);
}

#[test]
fn keys_46_rsa_no_padding_is_the_bare_operation() {
    let (keyd, client) = keyd();
    let handle = client.create_pair("rsa", "rsa-2048");
    let mut block = [0x11; 256];
    block[0] = 0;
    let result = client.rsa(&handle, "RSA-NO-PADDING", &block);
    let key = suite_tests::keys::key_file(&keyd.home(), "rsa");
    let args = ["pkeyutl", "-encrypt", "-inkey", key.to_str().unwrap(), "-pkeyopt", "rsa_padding_mode:none"];
    assert_eq!(openssl(&args, &result), block);
    for block in [&[1; 255][..], &[1; 257], &[0xff; 256], &[]] {
        client.post("/encrypt", &rsa_request(&handle, "RSA-NO-PADDING", block)).expect(500);
    }
}

#[test]
fn keys_46_rsa_no_padding_decrypts() {
    let (keyd, client) = keyd();
    let handle = client.create_pair("rsa", "rsa-2048");
    let key = suite_tests::keys::key_file(&keyd.home(), "rsa");
    let sealed = openssl(&["pkeyutl", "-encrypt", "-inkey", key.to_str().unwrap()], b"secret");
    let block = client.rsa(&handle, "RSA-NO-PADDING", &sealed);
    assert_eq!(block[..2], [0, 2]);
    assert!(block.ends_with(b"\0secret"));
}

#[test]
fn keys_47_rsa_has_no_parameters_and_does_not_decrypt() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("rsa", "rsa-2048");
    let request = |parameters: Value| {
        let mut request = rsa_request(&handle, "RSA-PKCS1", b"x");
        request["parameters"] = parameters;
        request
    };
    client.post("/encrypt", &request(Value::Null)).expect(200);
    client.post("/encrypt", &request(json!({}))).expect(422);
    client.post("/encrypt", &request(json!({ "iv": "", "aad": "" }))).expect(422);
    for algorithm in ["RSA-PKCS1", "RSA-NO-PADDING"] {
        let request = json!({ "keyHandle": handle, "algorithm": algorithm, "ciphertext": "AAAA" });
        client.post("/decrypt", &request).expect(400);
    }
}

#[test]
fn keys_40_an_ecdsa_request_with_an_empty_digest_does_not_hurt() {
    let (_keyd, client) = keyd();
    let handle = client.create_pair("ec", "ec-p256");
    client.post("/sign", &ecdsa_request(&handle, b""));
    client.ecdsa(&handle, &[1; 32]);
}

//! Signing with the auth key: checklist 17, 20, 23.

use serde_json::json;
use suite_tests::http::base64;

use super::{Site, hmac, refused};

#[test]
fn tpm_17_nothing_is_signed_without_a_key() {
    let site = Site::start();
    refused(site.try_sign(b"x"), "there is no auth key");
    refused(site.try_sign(&[1; 3000]), "there is no auth key");
    site.stop_and_check();
}

#[test]
fn tpm_20_23_signatures_of_any_length() {
    let site = Site::start();
    for key in [vec![7; 16], vec![8; 32], vec![9; 64]] {
        site.import(&key);
        for length in [0, 1, 5, 1023, 1024, 1025, 2047, 2048, 2049, 3000, 100_000] {
            let data: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
            let reply = site.try_sign(&data).expect(200).expect_plain();
            assert_eq!(reply.bytes("digest"), hmac(&key, &data), "{length} bytes");
        }
    }
    site.stop_and_check();
}

#[test]
fn decided_a_wrapped_key_signs_without_being_kept() {
    let site = Site::start();
    let sign = |key: &[u8], data: &[u8]| {
        let body = json!({ "key": base64(key), "data": base64(data) });
        site.client().post("/sign_with_wrapped_key", &body)
    };
    let wrapped = site.wrap(&[2; 32]);
    assert_eq!(sign(&wrapped, b"x").expect(200).bytes("digest"), hmac(&[2; 32], b"x"));
    refused(site.try_sign(b"x"), "no auth key");
    site.import(&[1; 32]);
    for length in [0, 1024, 5000] {
        let data = vec![3; length];
        assert_eq!(sign(&wrapped, &data).expect(200).bytes("digest"), hmac(&[2; 32], &data));
        site.signs_with(&[1; 32]);
    }
    refused(sign(&wrapped[..700], b"x"), "the key is malformed");
    refused(sign(&Site::start().wrap(&[2; 32]), b"x"), "not made for this TPM");
    site.signs_with(&[1; 32]);
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent").len(), 3);
}

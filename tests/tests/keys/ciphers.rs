//! Authenticated encryption with symmetric keys: checklist 42-45.

use suite_tests::{
    http::Client,
    keys::{Keys, open_request, seal_request},
};

use super::keyd;

const IV: &[u8] = b"twelve bytes";

fn seal(client: &Client, handle: &str, iv: &[u8], plaintext: &[u8]) -> Vec<u8> {
    client.post("/encrypt", &seal_request(handle, iv, b"aad", plaintext)).expect(200).bytes("ciphertext")
}

#[test]
fn keys_42_a_ciphertext_is_version_2_text_and_tag() {
    let (_keyd, client) = keyd();
    let handle = client.create_key("a", "encrypt");
    for plaintext in [b"".as_slice(), b"x", &[7; 10_000]] {
        let sealed = seal(&client, &handle, IV, plaintext);
        assert_eq!((sealed[0], sealed.len()), (2, plaintext.len() + 17));
        let opened = client.post("/decrypt", &open_request(&handle, IV, b"aad", &sealed)).expect(200);
        assert_eq!(opened.bytes("plaintext"), plaintext);
    }
}

#[test]
fn keys_43_version_1_has_the_tag_first() {
    let (_keyd, client) = keyd();
    let handle = client.create_key("a", "encrypt");
    let sealed = seal(&client, &handle, IV, b"from older times");
    let (text, tag) = sealed[1..].split_at(sealed.len() - 17);
    let old = [&[1], tag, text].concat();
    let derived = client.derive(&handle, b"d");
    let opened = client.post("/decrypt", &open_request(&handle, IV, b"aad", &old)).expect(200);
    assert_eq!(opened.bytes("plaintext"), b"from older times");
    let version_3 = [&[3], &sealed[1..]].concat();
    for broken in [version_3.as_slice(), b"", &[2], &sealed[..16], &[0; 40]] {
        client.post("/decrypt", &open_request(&handle, IV, b"aad", broken)).expect(400);
        client.post("/decrypt", &open_request(&derived, IV, b"aad", broken)).expect(400);
    }
}

#[test]
fn keys_44_what_is_not_authentic_is_500() {
    let (_keyd, client) = keyd();
    let (handle, other) = (client.create_key("a", "encrypt"), client.create_key("b", "encrypt"));
    let sealed = seal(&client, &handle, IV, b"text");
    let mut flipped = sealed.clone();
    flipped[3] ^= 1;
    for request in [
        open_request(&handle, IV, b"AAD", &sealed),
        open_request(&handle, b"other  bytes", b"aad", &sealed),
        open_request(&other, IV, b"aad", &sealed),
        open_request(&handle, IV, b"aad", &flipped),
        open_request(&handle, IV, b"aad", &sealed[..sealed.len() - 1]),
        open_request(&handle, IV, b"aad", &[[1].as_slice(), &sealed[1..]].concat()),
    ] {
        client.post("/decrypt", &request).expect(500);
    }
}

#[test]
fn keys_45_keys_have_32_bytes_and_ivs_at_least_one() {
    let (_keyd, client) = keyd();
    for length in [1, 4, 16, 31, 33] {
        let short = client.import_key("short", "encrypt", &vec![1; length]);
        client.post("/encrypt", &seal_request(&short, IV, b"", b"text")).expect(500);
    }
    let handle = client.import_key("good", "encrypt", &[1; 32]);
    for length in [1, 8, 12, 16, 128] {
        let iv = vec![9; length];
        let sealed = seal(&client, &handle, &iv, b"text");
        client.post("/decrypt", &open_request(&handle, &iv, b"aad", &sealed)).expect(200);
    }
    for iv in [&[][..], &[9; 129]] {
        client.post("/encrypt", &seal_request(&handle, iv, b"", b"text")).expect(500);
    }
}

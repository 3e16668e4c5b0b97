//! Requests to the keys service and the material to judge its replies. Knows the wire and the files, no code of ours.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    http::{Client, Reply, base64, unbase64},
    openssl::{hex, hmac, openssl, sha256},
};

/// The id of the key that keyd makes handles with.
pub const VALIDATION_KEY: &str = "handle-validation-key";

/// The requests of the keys service that a journey makes again and again; all expect success.
pub trait Keys {
    /// `POST /key`: the handle of a generated key.
    fn create_key(&self, id: &str, usage: &str) -> String;
    /// `POST /key` with bytes: the handle of an imported key.
    fn import_key(&self, id: &str, usage: &str, bytes: &[u8]) -> String;
    /// `GET /key/{id}`: the handle of an existing key.
    fn load_key(&self, id: &str) -> String;
    /// `POST /keypair` with preferred algorithms.
    fn create_pair(&self, id: &str, algorithms: &str) -> String;
    /// `GET /keypair/{id}`.
    fn load_pair(&self, id: &str) -> String;
    /// `POST /keypair/{id}`: a new pair in the place of the one with this id, as a renewal makes it.
    fn renew_pair(&self, id: &str, algorithms: &str);
    /// `POST /derivedkey`.
    fn derive(&self, base: &str, data: &[u8]) -> String;
    /// `POST /derivedkey/export`.
    fn export(&self, handle: &str) -> Vec<u8>;
    /// `POST /sign`, HMAC-SHA256 of `message`.
    fn hmac(&self, handle: &str, message: &[u8]) -> Vec<u8>;
    /// `POST /sign`, ECDSA over `digest`.
    fn ecdsa(&self, handle: &str, digest: &[u8]) -> Vec<u8>;
    /// `POST /encrypt` with a private RSA key.
    fn rsa(&self, handle: &str, algorithm: &str, plaintext: &[u8]) -> Vec<u8>;
    /// `POST /parameters/{name}`.
    fn parameter(&self, handle: &str, name: &str) -> String;
    /// The public key of a pair in PEM, put together by openssl from the parameters.
    fn public_key(&self, handle: &str) -> Vec<u8>;
}

impl Keys for Client {
    #[track_caller]
    fn create_key(&self, id: &str, usage: &str) -> String {
        handle(self.post("/key", &json!({ "keyId": id, "usage": usage })))
    }

    #[track_caller]
    fn import_key(&self, id: &str, usage: &str, bytes: &[u8]) -> String {
        handle(self.post("/key", &json!({ "keyId": id, "usage": usage, "keyBytes": base64(bytes) })))
    }

    #[track_caller]
    fn load_key(&self, id: &str) -> String {
        handle(self.get(&format!("/key/{}", segment(id))))
    }

    #[track_caller]
    fn create_pair(&self, id: &str, algorithms: &str) -> String {
        handle(self.post("/keypair", &json!({ "keyId": id, "preferredAlgorithms": algorithms })))
    }

    #[track_caller]
    fn load_pair(&self, id: &str) -> String {
        handle(self.get(&format!("/keypair/{}", segment(id))))
    }

    #[track_caller]
    fn renew_pair(&self, id: &str, algorithms: &str) {
        let new = format!("{id}-temp");
        self.create_pair(&new, algorithms);
        self.post(&format!("/keypair/{}", segment(id)), &json!({ "from": new })).expect(204);
    }

    #[track_caller]
    fn derive(&self, base: &str, data: &[u8]) -> String {
        handle(self.post("/derivedkey", &json!({ "baseKeyHandle": base, "derivationData": base64(data) })))
    }

    #[track_caller]
    fn export(&self, handle: &str) -> Vec<u8> {
        self.post("/derivedkey/export", &by_handle(handle)).expect(200).bytes("key")
    }

    #[track_caller]
    fn hmac(&self, handle: &str, message: &[u8]) -> Vec<u8> {
        self.post("/sign", &hmac_request(handle, message)).expect(200).bytes("signature")
    }

    #[track_caller]
    fn ecdsa(&self, handle: &str, digest: &[u8]) -> Vec<u8> {
        self.post("/sign", &ecdsa_request(handle, digest)).expect(200).bytes("signature")
    }

    #[track_caller]
    fn rsa(&self, handle: &str, algorithm: &str, plaintext: &[u8]) -> Vec<u8> {
        self.post("/encrypt", &rsa_request(handle, algorithm, plaintext)).expect(200).bytes("ciphertext")
    }

    #[track_caller]
    fn parameter(&self, handle: &str, name: &str) -> String {
        self.post(&format!("/parameters/{name}"), &by_handle(handle)).expect(200).string("value")
    }

    #[track_caller]
    fn public_key(&self, handle: &str) -> Vec<u8> {
        match self.parameter(handle, "algorithm").as_str() {
            "ECDSA" => ec_public_key(&unbase64(&self.parameter(handle, "ec-point"))),
            "RSA" => rsa_public_key(
                &unbase64(&self.parameter(handle, "rsa-modulus")),
                &unbase64(&self.parameter(handle, "rsa-exponent")),
            ),
            other => panic!("unknown algorithm {other}"),
        }
    }
}

/// The handle in a reply, which must be a success.
#[track_caller]
pub fn handle(reply: Reply) -> String {
    let handle = reply.expect(200).string("keyHandle");
    assert!(!handle.is_empty());
    handle
}

/// `{"keyHandle": handle}`.
pub fn by_handle(handle: &str) -> Value {
    json!({ "keyHandle": handle })
}

/// The body of `POST /sign` with HMAC-SHA256.
pub fn hmac_request(handle: &str, message: &[u8]) -> Value {
    json!({ "keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": { "message": base64(message) } })
}

/// The body of `POST /sign` with ECDSA.
pub fn ecdsa_request(handle: &str, digest: &[u8]) -> Value {
    json!({ "keyHandle": handle, "algorithm": "ECDSA", "parameters": { "digest": base64(digest) } })
}

/// The body of `POST /encrypt` with an RSA mechanism.
pub fn rsa_request(handle: &str, algorithm: &str, plaintext: &[u8]) -> Value {
    json!({ "keyHandle": handle, "algorithm": algorithm, "plaintext": base64(plaintext) })
}

/// The body of `POST /encrypt` with AEAD.
pub fn seal_request(handle: &str, iv: &[u8], aad: &[u8], plaintext: &[u8]) -> Value {
    aead_request(handle, iv, aad, "plaintext", plaintext)
}

/// The body of `POST /decrypt` with AEAD.
pub fn open_request(handle: &str, iv: &[u8], aad: &[u8], ciphertext: &[u8]) -> Value {
    aead_request(handle, iv, aad, "ciphertext", ciphertext)
}

fn aead_request(handle: &str, iv: &[u8], aad: &[u8], text: &str, bytes: &[u8]) -> Value {
    let parameters = json!({ "iv": base64(iv), "aad": base64(aad) });
    json!({ "keyHandle": handle, "algorithm": "AEAD", "parameters": parameters, text: base64(bytes) })
}

/// `id` as one path segment: everything but letters, digits, `-`, `.`, `_`, `~` percent-encoded.
pub fn segment(id: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    id.bytes().map(encode).collect()
}

/// Where keyd with the state directory `home` keeps the key `id`.
pub fn key_file(home: &Path, id: &str) -> PathBuf {
    let plain: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    home.join("keys").join(format!("{plain}-{}.key", hex(&sha256(id.as_bytes()))))
}

/// A handle with the text `text`, made as keyd makes it with the validation key `key`.
pub fn forge(key: &[u8], text: &str) -> String {
    format!("sr={}&sig={}", base64(text), base64(hmac(key, text.as_bytes())))
}

/// The text of a handle, and its MAC.
#[track_caller]
pub fn take_apart(handle: &str) -> (String, Vec<u8>) {
    let (sr, sig) =
        handle.strip_prefix("sr=").and_then(|rest| rest.split_once("&sig=")).expect("sr=...&sig=...");
    (String::from_utf8(unbase64(sr)).expect("the text is UTF-8"), unbase64(sig))
}

/// PEM of the key on P-256 or P-384 with this compressed point.
fn ec_public_key(point: &[u8]) -> Vec<u8> {
    const P256: &[u8] =
        b"\x30\x39\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00";
    const P384: &[u8] =
        b"\x30\x46\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x32\x00";
    let prefix = if point.len() == 33 { P256 } else { P384 };
    let spki = [prefix, point].concat();
    openssl(&["ec", "-pubin", "-inform", "DER", "-conv_form", "uncompressed", "-pubout"], &spki)
}

/// PEM of the RSA key with this modulus and exponent.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = [der(0x02, &unsigned(modulus)), der(0x02, &unsigned(exponent))].concat();
    openssl(&["rsa", "-RSAPublicKey_in", "-inform", "DER", "-pubout"], &der(0x30, &key))
}

fn unsigned(bytes: &[u8]) -> Vec<u8> {
    assert_ne!(bytes.first(), Some(&0), "numbers come without leading zero");
    if bytes[0] >= 0x80 { [&[0], bytes].concat() } else { bytes.to_vec() }
}

/// One DER element of less than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a short element").to_be_bytes();
    [&[tag, 0x82, high, low], content].concat()
}

//! Symmetric keys: base64 outside, bytes inside; signing, deriving, and which key of a pair made a signature.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{hash::MessageDigest, memcmp, pkey::PKey, sign::Signer};
use serde::{Deserialize, Serialize};

/// A symmetric key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// The key made of these bytes.
    #[must_use]
    pub(crate) fn new(bytes: Vec<u8>) -> Key {
        Key(bytes)
    }

    /// The bytes.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Base64 as Azure writes keys.
    #[must_use]
    pub(crate) fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// HMAC-SHA256 of `message` under this key.
    #[must_use]
    pub(crate) fn hmac(&self, message: &[u8]) -> Vec<u8> {
        let sign = || {
            let key = PKey::hmac(&self.0)?;
            Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(message)
        };
        sign().expect("OpenSSL computes HMAC-SHA256 for any key and message")
    }

    /// The device key that belongs to `registration_id` when this is the key of an enrolment group.
    #[must_use]
    pub(crate) fn derive(&self, registration_id: &str) -> Key {
        Key(self.hmac(registration_id.as_bytes()))
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Key, String> {
        match STANDARD.decode(&text) {
            Ok(bytes) if (16..=64).contains(&bytes.len()) => Ok(Key(bytes)),
            Ok(bytes) => Err(format!("a key has 16 to 64 bytes, not {}", bytes.len())),
            Err(err) => Err(format!("a key is padded base64: {err}")),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.to_base64()
    }
}

/// The two keys of an identity. Either may be absent: not given yet, or an identity without keys.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct KeyPair {
    /// Used first.
    pub(crate) primary_key: Option<Key>,
    /// Used while the primary is being replaced.
    pub(crate) secondary_key: Option<Key>,
}

impl KeyPair {
    /// Whether there is no key at all.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == KeyPair::default()
    }

    /// This pair with every absent key made by `make`.
    #[must_use]
    pub(crate) fn or_generate(self, mut make: impl FnMut() -> Key) -> KeyPair {
        KeyPair {
            primary_key: Some(self.primary_key.unwrap_or_else(&mut make)),
            secondary_key: Some(self.secondary_key.unwrap_or_else(&mut make)),
        }
    }

    /// The device keys that this pair, as a group's, gives to `registration_id`.
    #[must_use]
    pub(crate) fn derive(&self, registration_id: &str) -> KeyPair {
        let derive = |key: &Option<Key>| key.as_ref().map(|key| key.derive(registration_id));
        KeyPair { primary_key: derive(&self.primary_key), secondary_key: derive(&self.secondary_key) }
    }

    /// Which of the two made `signature` over `message`: "primary", "secondary", or neither.
    #[must_use]
    pub(crate) fn signer(&self, message: &[u8], signature: &[u8]) -> Option<&'static str> {
        let made = |key: &Option<Key>| {
            let expected = key.as_ref().map(|key| key.hmac(message));
            expected.is_some_and(|mac| mac.len() == signature.len() && memcmp::eq(&mac, signature))
        };
        match (made(&self.primary_key), made(&self.secondary_key)) {
            (true, _) => Some("primary"),
            (_, true) => Some("secondary"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_keys_derive_as_published() {
        let group = Key::new((0..0x40).collect());
        let device = group.derive("line-4-robot-2");
        assert_eq!(device.to_base64(), "vYR2LyFC4hdqR+zMelJHggbzbOktExGnNFaEGjcA4ZU=");
    }

    #[test]
    fn a_pair_tells_which_key_signed() {
        let (one, two) = (Key::new(vec![1; 32]), Key::new(vec![2; 32]));
        let pair = KeyPair { primary_key: Some(one.clone()), secondary_key: Some(two.clone()) };
        assert_eq!(pair.signer(b"m", &one.hmac(b"m")), Some("primary"));
        assert_eq!(pair.signer(b"m", &two.hmac(b"m")), Some("secondary"));
        assert_eq!(pair.signer(b"n", &one.hmac(b"m")), None);
        assert_eq!(pair.signer(b"m", &one.hmac(b"m")[..31]), None);
        assert_eq!(KeyPair::default().signer(b"m", &[]), None);
    }

    #[test]
    fn keys_are_padded_base64_of_16_to_64_bytes() {
        let read = |text: &str| serde_json::from_value::<Key>(text.into());
        assert!(read("AAECAwQFBgcICQoLDA0ODw==").is_ok());
        for bad in ["", "AAECAwQFBgcICQoLDA0ODw", "AAEC", "not base64!"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

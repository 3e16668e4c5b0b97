//! Bytes on the wire: secret ones, which are wiped and never printed, and plain ones.
//!
//! Both travel as base64 with the standard alphabet, mandatory padding and zero trailing bits (specification of keyd,
//! 2.3). Does not know what the bytes are for, nor where they are kept.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Secret bytes. Wiped when dropped, printed as nothing, compared in constant time, base64 on the wire.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Take over `bytes` without copying them.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Copies of them are the caller's to wipe.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(Base64Visitor).map(Self)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        base64_schema()
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Bytes that are no secret (signatures, ciphertexts, digests), base64 on the wire by the rules of [`Secret`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base64(pub Vec<u8>);

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Base64 {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(Base64Visitor).map(|mut bytes| Self(std::mem::take(&mut *bytes)))
    }
}

impl JsonSchema for Base64 {
    fn schema_name() -> Cow<'static, str> {
        "Base64".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        base64_schema()
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Decodes strings; wipes what it leaves behind and repeats nothing of the text in its errors.
struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Zeroizing<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of base64 with padding")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        // `decode_slice` into one buffer that is big enough: a growing vector would leave copies.
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let len = STANDARD
            .decode_slice(text, &mut bytes)
            .map_err(|_| E::custom("not base64 of the standard alphabet with padding"))?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn visit_string<E: de::Error>(self, mut text: String) -> Result<Self::Value, E> {
        let decoded = self.visit_str(&text);
        text.zeroize();
        decoded
    }
}

fn base64_schema() -> Schema {
    json_schema!({ "type": "string", "format": "byte" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strict_base64_is_read() {
        fn check(json: &str, expected: Option<&[u8]>) {
            let secret: Option<Secret> = serde_json::from_str(json).ok();
            let plain: Option<Base64> = serde_json::from_str(json).ok();
            assert_eq!(secret.as_ref().map(Secret::as_bytes), expected, "{json}");
            assert_eq!(plain.as_ref().map(AsRef::as_ref), expected, "{json}");
        }
        for (json, expected) in [
            (r#""""#, Some(&b""[..])),
            (r#""Zg==""#, Some(b"f")),
            (r#""Zm8=""#, Some(b"fo")),
            (r#""Zm9v""#, Some(b"foo")),
            (r#""+/+/""#, Some(b"\xfb\xff\xbf")),
            (r#""\u005ag==""#, Some(b"f")), // an escaped string arrives owned
            (r#""Zg""#, None),
            (r#""Zg=""#, None),
            (r#""Zh==""#, None), // trailing bits
            (r#""-_-_""#, None),
            (r#""Zm9v\n""#, None),
            (r#"" Zm9v""#, None),
            (r#""Zm9v====""#, None),
            ("[102]", None),
            ("102", None),
            ("null", None),
        ] {
            check(json, expected);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for len in 0..70u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(37)).collect();
            let json = serde_json::to_string(&Secret::new(bytes.clone())).unwrap();
            assert_eq!(json, serde_json::to_string(&Base64(bytes.clone())).unwrap());
            assert_eq!(serde_json::from_str::<Secret>(&json).unwrap(), Secret::new(bytes));
        }
    }

    #[test]
    fn nothing_of_a_secret_is_printed() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret");
        let error = serde_json::from_str::<Secret>(r#""hunter2!""#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn equality_looks_at_every_byte_and_the_length() {
        let secret = |bytes: &[u8]| Secret::from(bytes.to_vec());
        assert_eq!(secret(b"abc"), secret(b"abc"));
        assert_ne!(secret(b"abc"), secret(b"abd"));
        assert_ne!(secret(b"abc"), secret(b"abcd"));
    }

    #[test]
    fn the_schema_is_a_byte_string() {
        let expected = serde_json::json!({ "type": "string", "format": "byte" });
        assert_eq!(Secret::json_schema(&mut SchemaGenerator::default()).to_value(), expected);
    }
}

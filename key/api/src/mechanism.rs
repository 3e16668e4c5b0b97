//! The requests that use a key, with their adjacent pairs of `algorithm` and `parameters` (spec keys-service, 4.11 to
//! 4.13). Computes nothing.
//!
//! The pairs go through a flat wire struct instead of serde's adjacently tagged enums: those take `"parameters": {}`
//! for a variant without parameters, which must be refused.

use std::fmt;

use config_common::{Base64, Secret};
use schemars::JsonSchema;
use serde::de::value::StrDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::KeyHandle;

/// Sign a digest with a key pair, or compute a MAC with a key or derived key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SignWire", into = "SignWire")]
pub struct Sign {
    /// The key to sign with.
    pub key_handle: KeyHandle,
    /// How.
    pub mechanism: SignMechanism,
}

/// How to sign, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignMechanism {
    /// ECDSA over this digest.
    Ecdsa(Base64),
    /// HMAC-SHA256 of this message.
    HmacSha256(Base64),
}

/// Encrypt with AEAD, or do the private-key operation of RSA that is the core of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "EncryptWire", into = "EncryptWire")]
pub struct Encrypt {
    /// The key to encrypt with.
    pub key_handle: KeyHandle,
    /// How.
    pub mechanism: EncryptMechanism,
    /// What; may be empty for AEAD.
    pub plaintext: Secret,
}

/// Undo [`Encrypt`]; RSA mechanisms are understood and always refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "DecryptWire", into = "DecryptWire")]
pub struct Decrypt {
    /// The key to decrypt with.
    pub key_handle: KeyHandle,
    /// How it was encrypted.
    pub mechanism: EncryptMechanism,
    /// What [`Encrypt`] replied.
    pub ciphertext: Base64,
}

/// How to encrypt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptMechanism {
    /// AES-256-GCM.
    Aead(Aead),
    /// `x^d mod n` after padding by PKCS #1 v1.5 block type 1 (RFC 8017, 9.2).
    RsaPkcs1,
    /// `x^d mod n` of exactly as many bytes as the modulus has.
    RsaNoPadding,
}

/// Parameters of AEAD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Aead {
    /// 1 to 128 bytes, 12 is best. Never twice with the same key for different plaintexts; nobody remembers them.
    pub iv: Base64,
    /// Authenticated besides the plaintext; may be empty.
    pub aad: Base64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SignWire {
    key_handle: KeyHandle,
    algorithm: SignAlgorithm,
    parameters: SignParameters,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum SignAlgorithm {
    #[serde(rename = "ECDSA")]
    Ecdsa,
    #[serde(rename = "HMAC-SHA256")]
    HmacSha256,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct SignParameters {
    /// With ECDSA.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "perhaps")]
    digest: Option<Base64>,
    /// With HMAC-SHA256.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "perhaps")]
    message: Option<Base64>,
}

/// The bytes, if it is base64. Only that of the algorithm has to be, which may come later; the other is unknown there.
fn perhaps<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Base64>, D::Error> {
    value.deserialize_any(Perhaps)
}

/// Keeps nothing of what is no text, whose form in memory is many times as large as the request.
struct Perhaps;

impl<'de> Visitor<'de> for Perhaps {
    type Value = Option<Base64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<Base64>, E> {
        Ok(Base64::deserialize(StrDeserializer::<E>::new(text)).ok())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<Base64>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<Base64>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<Base64>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<Base64>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<Base64>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Option<Base64>, A::Error> {
        IgnoredAny.visit_seq(items).map(|_| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Option<Base64>, A::Error> {
        IgnoredAny.visit_map(entries).map(|_| None)
    }
}

impl TryFrom<SignWire> for Sign {
    type Error = &'static str;

    fn try_from(wire: SignWire) -> Result<Self, &'static str> {
        let SignWire { key_handle, algorithm, parameters: SignParameters { digest, message } } = wire;
        let mechanism = match algorithm {
            SignAlgorithm::Ecdsa => {
                SignMechanism::Ecdsa(digest.ok_or("ECDSA needs parameters.digest, in base64")?)
            }
            SignAlgorithm::HmacSha256 => {
                SignMechanism::HmacSha256(message.ok_or("HMAC-SHA256 needs parameters.message, in base64")?)
            }
        };
        Ok(Self { key_handle, mechanism })
    }
}

impl From<Sign> for SignWire {
    fn from(Sign { key_handle, mechanism }: Sign) -> Self {
        let (algorithm, parameters) = match mechanism {
            SignMechanism::Ecdsa(digest) => {
                (SignAlgorithm::Ecdsa, SignParameters { digest: Some(digest), message: None })
            }
            SignMechanism::HmacSha256(message) => {
                (SignAlgorithm::HmacSha256, SignParameters { digest: None, message: Some(message) })
            }
        };
        Self { key_handle, algorithm, parameters }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum EncryptAlgorithm {
    #[serde(rename = "AEAD")]
    Aead,
    #[serde(rename = "RSA-PKCS1")]
    RsaPkcs1,
    #[serde(rename = "RSA-NO-PADDING")]
    RsaNoPadding,
}

impl EncryptMechanism {
    fn from_wire(algorithm: EncryptAlgorithm, parameters: Option<Aead>) -> Result<Self, &'static str> {
        match (algorithm, parameters) {
            (EncryptAlgorithm::Aead, Some(aead)) => Ok(Self::Aead(aead)),
            (EncryptAlgorithm::Aead, None) => Err("AEAD needs parameters with iv and aad"),
            (EncryptAlgorithm::RsaPkcs1, None) => Ok(Self::RsaPkcs1),
            (EncryptAlgorithm::RsaNoPadding, None) => Ok(Self::RsaNoPadding),
            (EncryptAlgorithm::RsaPkcs1 | EncryptAlgorithm::RsaNoPadding, Some(_)) => {
                Err("RSA algorithms have no parameters")
            }
        }
    }

    fn into_wire(self) -> (EncryptAlgorithm, Option<Aead>) {
        match self {
            Self::Aead(aead) => (EncryptAlgorithm::Aead, Some(aead)),
            Self::RsaPkcs1 => (EncryptAlgorithm::RsaPkcs1, None),
            Self::RsaNoPadding => (EncryptAlgorithm::RsaNoPadding, None),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EncryptWire {
    key_handle: KeyHandle,
    algorithm: EncryptAlgorithm,
    /// With AEAD only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Aead>,
    plaintext: Secret,
}

impl TryFrom<EncryptWire> for Encrypt {
    type Error = &'static str;

    fn try_from(wire: EncryptWire) -> Result<Self, &'static str> {
        let EncryptWire { key_handle, algorithm, parameters, plaintext } = wire;
        Ok(Self { key_handle, mechanism: EncryptMechanism::from_wire(algorithm, parameters)?, plaintext })
    }
}

impl From<Encrypt> for EncryptWire {
    fn from(Encrypt { key_handle, mechanism, plaintext }: Encrypt) -> Self {
        let (algorithm, parameters) = mechanism.into_wire();
        Self { key_handle, algorithm, parameters, plaintext }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DecryptWire {
    key_handle: KeyHandle,
    algorithm: EncryptAlgorithm,
    /// With AEAD only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Aead>,
    ciphertext: Base64,
}

impl TryFrom<DecryptWire> for Decrypt {
    type Error = &'static str;

    fn try_from(wire: DecryptWire) -> Result<Self, &'static str> {
        let DecryptWire { key_handle, algorithm, parameters, ciphertext } = wire;
        Ok(Self { key_handle, mechanism: EncryptMechanism::from_wire(algorithm, parameters)?, ciphertext })
    }
}

impl From<Decrypt> for DecryptWire {
    fn from(Decrypt { key_handle, mechanism, ciphertext }: Decrypt) -> Self {
        let (algorithm, parameters) = mechanism.into_wire();
        Self { key_handle, algorithm, parameters, ciphertext }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str, json, to_value};

    use super::*;

    fn sign(text: &str) -> Option<SignMechanism> {
        from_str::<Sign>(text).ok().map(|request| request.mechanism)
    }

    fn encrypt(text: &str) -> Option<EncryptMechanism> {
        from_str::<Encrypt>(text).ok().map(|request| request.mechanism)
    }

    #[test]
    fn sign_in_any_order_and_with_unknown_fields() {
        let digest = SignMechanism::Ecdsa(Base64(vec![1]));
        for text in [
            r#"{"keyHandle":"h","algorithm":"ECDSA","parameters":{"digest":"AQ=="}}"#,
            r#"{"x":{},"parameters":{"y":1,"digest":"AQ\u003d="},"algorithm":"ECDSA","keyHandle":"h"}"#,
        ] {
            assert_eq!(sign(text), Some(digest.clone()), "{text}");
        }
        for message in [
            r#"{"keyHandle":"h","parameters":{"message":""},"algorithm":"HMAC-SHA256"}"#,
            r#"{"keyHandle":"h","parameters":{"message":"","digest":"sha-256"},"algorithm":"HMAC-SHA256"}"#,
            r#"{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{"digest":{"x":[1]},"message":""}}"#,
            r#"{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{"digest":-1,"message":""}}"#,
            r#"{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{"digest":[true,null],"message":""}}"#,
            r#"{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{"message":"","digest":null}}"#,
        ] {
            assert_eq!(sign(message), Some(SignMechanism::HmacSha256(Base64(vec![]))), "{message}");
        }
    }

    /// Objects in memory take a hundred times as much. A number that no type can hold shows that none is made.
    #[test]
    fn sign_keeps_nothing_of_what_is_unknown() {
        let objects = [r#"{"":1e999}"#; 1000].join(",");
        for unknown in [format!("[{objects}]"), format!(r#"{{"x":[{objects}]}}"#)] {
            let text = format!(
                r#"{{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{{"message":"","digest":{unknown}}}}}"#
            );
            assert_eq!(sign(&text), Some(SignMechanism::HmacSha256(Base64(vec![]))));
        }
    }

    #[test]
    fn sign_refuses_what_does_not_fit() {
        for text in [
            r#"{"keyHandle":"h","algorithm":"ECDSA","parameters":{"message":"AQ=="}}"#,
            r#"{"keyHandle":"h","algorithm":"HMAC-SHA256","parameters":{"digest":"AQ=="}}"#,
            r#"{"keyHandle":"h","algorithm":"ECDSA","parameters":{"digest":"AQ"}}"#,
            r#"{"keyHandle":"h","algorithm":"ecdsa","parameters":{"digest":"AQ=="}}"#,
            r#"{"keyHandle":"h","algorithm":"ECDSA","parameters":{"digest":null}}"#,
            r#"{"keyHandle":"h","algorithm":"ECDSA"}"#,
            r#"{"algorithm":"ECDSA","parameters":{"digest":"AQ=="}}"#,
            r#"{"keyHandle":"h","algorithm":"ECDSA","algorithm":"ECDSA","parameters":{"digest":"AQ=="}}"#,
        ] {
            assert_eq!(sign(text), None, "{text}");
        }
    }

    #[test]
    fn rsa_takes_no_parameters_but_null() {
        let text = |parameters: &str| {
            format!(r#"{{"keyHandle":"h","algorithm":"RSA-PKCS1",{parameters}"plaintext":"AQ=="}}"#)
        };
        assert_eq!(encrypt(&text("")), Some(EncryptMechanism::RsaPkcs1));
        assert_eq!(encrypt(&text(r#""parameters":null,"#)), Some(EncryptMechanism::RsaPkcs1));
        for refused in [r#""parameters":{},"#, r#""parameters":{"iv":"","aad":""},"#, r#""parameters":[],"#] {
            assert_eq!(encrypt(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn aead_needs_both_parameters() {
        let text = |parameters: &str| {
            format!(r#"{{"plaintext":"","parameters":{parameters},"algorithm":"AEAD","keyHandle":"h"}}"#)
        };
        assert!(encrypt(&text(r#"{"iv":"","aad":""}"#)).is_some());
        for refused in [r#"{"iv":""}"#, r#"{"aad":""}"#, "{}", "null", r#"{"iv":null,"aad":""}"#] {
            assert_eq!(encrypt(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn what_is_written_is_the_wire_form_and_is_read_again() {
        let check = |request: Encrypt, expected: Value| {
            let written = to_value(&request).unwrap();
            assert_eq!(written, expected);
            assert_eq!(serde_json::from_value::<Encrypt>(written).unwrap(), request);
        };
        let key_handle = KeyHandle::from("h".to_owned());
        let plaintext = Secret::from(vec![1]);
        let aead = EncryptMechanism::Aead(Aead { iv: Base64(vec![2]), aad: Base64(vec![]) });
        check(
            Encrypt { key_handle: key_handle.clone(), mechanism: aead.clone(), plaintext: plaintext.clone() },
            json!({"keyHandle": "h", "algorithm": "AEAD", "parameters": {"iv": "Ag==", "aad": ""}, "plaintext": "AQ=="}),
        );
        check(
            Encrypt { key_handle: key_handle.clone(), mechanism: EncryptMechanism::RsaNoPadding, plaintext },
            json!({"keyHandle": "h", "algorithm": "RSA-NO-PADDING", "plaintext": "AQ=="}),
        );
        let decrypt =
            Decrypt { key_handle: key_handle.clone(), mechanism: aead, ciphertext: Base64(vec![3]) };
        let written = to_value(&decrypt).unwrap();
        assert_eq!(written["ciphertext"], "Aw==");
        assert_eq!(serde_json::from_value::<Decrypt>(written).unwrap(), decrypt);
        let sign = Sign { key_handle, mechanism: SignMechanism::Ecdsa(Base64(vec![4])) };
        let written = to_value(&sign).unwrap();
        assert_eq!(
            written,
            json!({"keyHandle": "h", "algorithm": "ECDSA", "parameters": {"digest": "BA=="}})
        );
        assert_eq!(serde_json::from_value::<Sign>(written).unwrap(), sign);
    }
}

//! Requests and replies of the Keys Service (spec keys-service, chapter 4). Field names are wire names, binary fields
//! are base64. Knows nothing of how keys are kept.

use std::fmt;

use config_common::{Base64, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use crate::KeyUsage;

/// Opaque text that gives its holder the use of one key; it has no expiry. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct KeyHandle(String);

impl KeyHandle {
    /// The text that travels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for KeyHandle {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for KeyHandle {
    /// Prints nothing of the handle: whoever reads it can use the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHandle")
    }
}

/// Generate a symmetric key unless there is one, or import one over whatever there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateKey {
    /// Any text without U+0000.
    pub key_id: String,
    /// What the key is for; needed for an import too.
    pub usage: KeyUsage,
    /// The bytes to import, at least one; absent to generate 32 random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_bytes: Option<Secret>,
}

/// Get a handle of an existing symmetric key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadKey {
    /// Which key.
    pub key_id: String,
}

/// Delete a symmetric key. It is no error if there is none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteKey {
    /// A handle of a key (not of a key pair or derived key).
    pub key_handle: KeyHandle,
}

/// Generate a key pair unless there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateKeyPair {
    /// Any text without U+0000.
    pub key_id: String,
    /// Names joined by `:`, most wanted first: `ec-p256`, `ec-p384`, `rsa-2048`, `rsa-3072`, `rsa-4096`, `*`. Unknown
    /// ones are dropped, absent means `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_algorithms: Option<String>,
}

/// Get a handle of an existing key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadKeyPair {
    /// Which key pair.
    pub key_id: String,
}

/// Give a key pair another id, replacing the key pair that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoveKeyPair {
    /// The new id.
    pub key_id: String,
    /// The id the key pair has now.
    pub from: String,
}

/// Delete a key pair. It is no error if there is none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteKeyPair {
    /// A handle of a key pair.
    pub key_handle: KeyHandle,
}

/// The name of a parameter: `true` if keyd's configuration names the key pair, which then is never moved, replaced or deleted;
/// else `false`.
pub const PRELOADED: &str = "preloaded";

/// Ask for a public property of a key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GetParameter {
    /// `algorithm`, `ec-curve-oid`, `ec-point`, `rsa-modulus` or `rsa-exponent`; or [`PRELOADED`], which upstream's keyd does
    /// not know.
    pub parameter_name: String,
    /// A handle of any kind; the id in it is looked up as a key pair.
    pub key_handle: KeyHandle,
}

/// Get a handle of the key HMAC-SHA256(base key, data). Nothing is computed or stored: the data travels in the handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateDerivedKey {
    /// A handle that is not of a derived key itself.
    pub base_key_handle: KeyHandle,
    /// May be empty.
    pub derivation_data: Base64,
}

/// Get the bytes of a derived key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportDerivedKey {
    /// A handle of a derived key.
    pub key_handle: KeyHandle,
}

/// A fresh handle; earlier ones of the same key stay valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyHandleReply {
    /// The handle.
    pub key_handle: KeyHandle,
}

/// A public property of a key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parameter {
    /// `algorithm`: the word `ECDSA` or `RSA`. Others: base64 of the DER OID of the curve, of the compressed SEC 1
    /// point, or of the unsigned big-endian integer without leading zeros.
    pub value: String,
}

/// The bytes of a derived key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DerivedKey {
    /// 32 bytes.
    pub key: Secret,
}

/// The reply to [`Sign`](crate::Sign).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// ECDSA: DER `ECDSA-Sig-Value`. HMAC-SHA256: 32 bytes.
    pub signature: Base64,
}

/// The reply to [`Encrypt`](crate::Encrypt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ciphertext {
    /// AEAD: version byte 2, ciphertext, 16 bytes of tag. RSA: as long as the modulus.
    pub ciphertext: Base64,
}

/// The reply to [`Decrypt`](crate::Decrypt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plaintext {
    /// What was encrypted.
    pub plaintext: Secret,
}

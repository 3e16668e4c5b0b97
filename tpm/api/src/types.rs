//! Requests and replies of the TPM Service (spec tpm-service, chapters 6 to 8). Field names are wire names, binary fields
//! are base64. Knows nothing of what is inside a TPM's structures.

use config_common::{Base64, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ask for the public keys that tell this TPM from all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetTpmKeys {}

/// The public keys, each a marshalled `TPM2B_PUBLIC` with its two bytes of length, as DPS wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmKeys {
    /// The endorsement key: 316 bytes if it was made from the template of the service.
    pub endorsement_key: Base64,
    /// The storage root key: 284 bytes if it was made from the template of the service.
    pub storage_root_key: Base64,
}

/// Make a key that was wrapped for this TPM the auth key. It replaces the one before it, and stays through restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportAuthKey {
    /// `TPM2B_ID_OBJECT`, `TPM2B_ENCRYPTED_SECRET`, `TPM2B_PRIVATE`, `TPM2B_ENCRYPTED_SECRET` and `TPM2B_PUBLIC`, one
    /// after another; what follows them is ignored.
    pub key: Secret,
}

/// The auth key is in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthKeyImported {}

/// Sign with the auth key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignWithAuthKey {
    /// Any number of bytes, also none.
    pub data: Base64,
}

/// Sign with a key that was wrapped for this TPM, once. The auth key stays what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignWithWrappedKey {
    /// As in [`ImportAuthKey`].
    pub key: Secret,
    /// Any number of bytes, also none.
    pub data: Base64,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Digest {
    /// HMAC-SHA256(key, data): 32 bytes.
    pub digest: Base64,
}

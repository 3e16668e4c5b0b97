//! Which keys are made (need: the algorithm of every key can be chosen). Knows no cryptography.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of key pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    /// RSA with 2048 bits.
    #[default]
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    /// The curve P-256.
    #[serde(rename = "ec-p256")]
    EcP256,
    /// The curve P-384.
    #[serde(rename = "ec-p384")]
    EcP384,
}

impl KeyAlgorithm {
    /// In the form of keyd's `preferredAlgorithms`: this one, or any if the place of the key does not have it.
    pub fn preferred(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa-2048:*",
            Self::Rsa3072 => "rsa-3072:*",
            Self::Rsa4096 => "rsa-4096:*",
            Self::EcP256 => "ec-p256:*",
            Self::EcP384 => "ec-p384:*",
        }
    }
}

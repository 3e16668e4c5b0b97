//! Requests and replies of the Identity Service (spec identity-service, chapter 4). Field names are wire names. Knows
//! nothing of where identities come from.
//!
//! A `type` that is missing or unknown is the handler's business, not the schema's: whoever may not ask at all must be
//! told so first.

use key_api::KeyHandle;
use schemars::JsonSchema;
use serde::de::{Deserializer, IgnoredAny};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::KeyAlgorithm;

/// Get the caller's own identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetIdentity {}

/// Get the device's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetDevice {
    /// Any text; nobody looks at it.
    pub r#type: String,
}

/// Register the device again and bring its modules in line. Any JSON value is taken as body, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
pub struct Reprovision {}

impl Serialize for Reprovision {
    /// The documented form, `{"type":"aziot"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("Reprovision", 1)?;
        body.serialize_field("type", "aziot")?;
        body.end()
    }
}

impl<'de> Deserialize<'de> for Reprovision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// List the device's modules at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListModules {
    /// `aziot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// Create a module identity at the hub, or issue a local identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateModule {
    /// `aziot` or `local`.
    pub r#type: String,
    /// The module's name.
    pub module_id: String,
    /// For `local`: what the certificate is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_id_opts: Option<LocalIdOpts>,
}

/// Get a module's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetModule {
    /// The module's name.
    pub id: String,
    /// `aziot` or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// Write a module's keys to the hub once more. The body may say the type where the query does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateModule {
    /// The module's name.
    pub id: String,
    /// `aziot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// Delete a module at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteModule {
    /// The module's name.
    pub id: String,
    /// `aziot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// Ask how the device gets its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetProvisioning {}

/// Ask for the certificate authorities that programs on this device shall trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetTrustBundle {}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "spec", rename_all = "lowercase")]
pub enum Identity {
    /// A device or module of an IoT Hub.
    Aziot(AziotIdentity),
    /// A certificate that no hub knows.
    Local(LocalIdentity),
}

/// A device or module of an IoT Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AziotIdentity {
    /// The hub's host name.
    pub hub_name: String,
    /// The host to connect to: the parent gateway, or the hub itself.
    pub gateway_host: String,
    /// The device.
    pub device_id: String,
    /// The module; absent for the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// The hub's generation id of the module; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gen_id: Option<String>,
    /// How to prove it; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

/// How a device or module proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Auth {
    /// With tokens signed by keyd.
    Sas {
        /// The key to sign with.
        key_handle: KeyHandle,
    },
    /// With a certificate.
    X509 {
        /// The private key.
        key_handle: KeyHandle,
        /// certd's id of the certificate.
        cert_id: String,
    },
    /// With a key in the TPM, which only tpmd can use.
    Tpm,
}

/// An identity that no hub knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalIdentity {
    /// Its name.
    pub module_id: String,
    /// Its key and certificate.
    pub auth: LocalAuth,
}

/// Key and certificate of a local identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalAuth {
    /// PKCS#8, PEM.
    pub private_key: String,
    /// PEM, the leaf first.
    pub certificate: String,
    /// When the certificate ends: `YYYY-MM-DDThh:mm:ss+00:00`.
    pub expiration: String,
}

/// What the certificate of a local identity is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum LocalIdOpts {
    /// An X.509 certificate.
    X509 {
        /// Its extended key usage.
        #[serde(default)]
        attributes: LocalUse,
        /// What its key is; as `localid.key_algorithm` says if absent.
        #[serde(
            default,
            rename = "keyAlgorithm",
            alias = "key_algorithm",
            skip_serializing_if = "Option::is_none"
        )]
        key_algorithm: Option<KeyAlgorithm>,
    },
}

impl Default for LocalIdOpts {
    fn default() -> Self {
        LocalUse::default().into()
    }
}

impl From<LocalUse> for LocalIdOpts {
    fn from(attributes: LocalUse) -> Self {
        Self::X509 { attributes, key_algorithm: None }
    }
}

/// Which side of a TLS connection a local identity is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LocalUse {
    /// Clients.
    #[default]
    Client,
    /// Servers, and clients too.
    Server,
}

/// The device's modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleList {
    /// The modules, without `auth`.
    pub identities: Vec<Identity>,
}

/// How the device gets its identity. In snake case, unlike everything else here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum Provisioning {
    /// From the Device Provisioning Service.
    Dps {
        /// The kind of attestation.
        auth: DpsAuth,
        /// The service's URL, normalised.
        endpoint: String,
        /// The id scope.
        scope_id: String,
        /// The registration id.
        registration_id: String,
        /// What is sent along with the registration, or null.
        payload: Option<Value>,
    },
    /// From the configuration.
    Manual {
        /// The kind of credentials.
        auth: ManualAuth,
    },
    /// Not at all.
    None,
}

/// How the device proves to DPS who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpsAuth {
    /// With a symmetric key.
    SymmetricKey,
    /// With a certificate.
    X509,
    /// With a TPM.
    Tpm,
}

/// How a manually provisioned device proves to its hub who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ManualAuth {
    /// With a symmetric key.
    Sas,
    /// With a certificate.
    X509,
}

/// The certificate authorities that programs on this device shall trust; none unless configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrustBundle {
    /// PEM, or nothing.
    pub certificate: String,
}

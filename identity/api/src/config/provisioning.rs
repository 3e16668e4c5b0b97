//! The table `[provisioning]`: how the device gets its identity (spec identity-service, 7.3). Reads no payload, knows no
//! key or certificate.
//!
//! The table goes through a flat wire struct, so that keys nobody reads are reported wherever they stand, and so that what
//! is missing is named together with the source that needs it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{AutoRenew, KeyAlgorithm, Subject};

/// How the device gets its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Provisioning {
    /// The parent gateway that is asked instead of the hub; with `manual` only.
    pub local_gateway_hostname: Option<String>,
    /// From where.
    pub source: Source,
}

/// Where the identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From this file.
    Manual(Manual),
    /// From the Device Provisioning Service.
    Dps(Dps),
    /// From nowhere; there are local identities only.
    None,
}

/// `source = "manual"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manual {
    /// The hub, with a port if it is not 443.
    pub iothub_hostname: String,
    /// The device's name there.
    pub device_id: String,
    /// How the device proves who it is.
    pub authentication: ManualCredentials,
}

/// `[provisioning.authentication]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum ManualCredentials {
    /// With a symmetric key.
    Sas {
        /// keyd's id of the key.
        device_id_pk: String,
    },
    /// With a certificate.
    X509 {
        /// certd's id of the certificate.
        identity_cert: String,
        /// keyd's id of the key pair.
        identity_pk: String,
        /// Further attributes of its subject.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        csr_subject: Option<Subject>,
        /// When to renew the certificate; never if absent. Not upstream's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity_auto_renew: Option<AutoRenew>,
        /// What a new key pair is; `rsa-2048` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_algorithm: Option<KeyAlgorithm>,
    },
}

/// `source = "dps"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dps {
    /// The service; the public one unless configured.
    pub global_endpoint: Url,
    /// The id scope.
    pub scope_id: String,
    /// What is sent along with a registration.
    pub payload: Option<Payload>,
    /// How the device proves who it is.
    pub attestation: Attestation,
}

/// `[provisioning.payload]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Payload {
    /// `file:` URL of a JSON file. It is looked at only when it is used.
    pub uri: Url,
}

/// `[provisioning.attestation]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Attestation {
    /// With a symmetric key.
    SymmetricKey {
        /// The registration id.
        registration_id: String,
        /// keyd's id of the key.
        symmetric_key: String,
    },
    /// With a certificate.
    X509 {
        /// The registration id, or the subject whose common name it is; that of the certificate if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registration_id: Option<Subject>,
        /// certd's id of the certificate.
        identity_cert: String,
        /// keyd's id of the key pair.
        identity_pk: String,
        /// When to renew the certificate; never if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity_auto_renew: Option<AutoRenew>,
        /// What a new key pair is; `rsa-2048` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_algorithm: Option<KeyAlgorithm>,
    },
    /// With a TPM.
    Tpm {
        /// The registration id.
        registration_id: String,
    },
}

impl Dps {
    /// The public endpoint of the Device Provisioning Service.
    pub fn public_endpoint() -> Url {
        Url::parse(PUBLIC_ENDPOINT).expect("the public endpoint is a URL")
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Wire {
    source: SourceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local_gateway_hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iothub_hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    global_endpoint: Option<Url>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authentication: Option<ManualCredentials>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attestation: Option<Attestation>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SourceName {
    Manual,
    Dps,
    None,
}

impl TryFrom<Wire> for Provisioning {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let source = match wire.source {
            SourceName::Manual => Source::Manual(Manual {
                iothub_hostname: needed("manual", "iothub_hostname", wire.iothub_hostname)?,
                device_id: needed("manual", "device_id", wire.device_id)?,
                authentication: needed("manual", "authentication", wire.authentication)?,
            }),
            SourceName::Dps => Source::Dps(Dps {
                global_endpoint: wire.global_endpoint.unwrap_or_else(Dps::public_endpoint),
                scope_id: needed("dps", "scope_id", wire.scope_id)?,
                payload: wire.payload,
                attestation: needed("dps", "attestation", wire.attestation)?,
            }),
            SourceName::None => Source::None,
        };
        Ok(Self { local_gateway_hostname: wire.local_gateway_hostname, source })
    }
}

impl From<Provisioning> for Wire {
    fn from(Provisioning { local_gateway_hostname, source }: Provisioning) -> Self {
        let empty = |source| Self {
            source,
            local_gateway_hostname,
            iothub_hostname: None,
            device_id: None,
            global_endpoint: None,
            scope_id: None,
            payload: None,
            authentication: None,
            attestation: None,
        };
        match source {
            Source::Manual(Manual { iothub_hostname, device_id, authentication }) => Self {
                iothub_hostname: Some(iothub_hostname),
                device_id: Some(device_id),
                authentication: Some(authentication),
                ..empty(SourceName::Manual)
            },
            Source::Dps(Dps { global_endpoint, scope_id, payload, attestation }) => Self {
                global_endpoint: Some(global_endpoint),
                scope_id: Some(scope_id),
                payload,
                attestation: Some(attestation),
                ..empty(SourceName::Dps)
            },
            Source::None => empty(SourceName::None),
        }
    }
}

fn needed<T>(source: &str, key: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{key}`, which source = \"{source}\" needs"))
}

const PUBLIC_ENDPOINT: &str = "https://global.azure-devices-provisioning.net/";

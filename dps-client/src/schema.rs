//! The JSON of DPS's device API. Members we do not know are ignored; members we can do without may be absent.

use config_common::{Base64, Secret};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the device API that this client speaks.
pub(crate) const API_VERSION: &str = "2021-06-01";

/// The body of a registration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegisterBody<'a> {
    pub(crate) registration_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<&'a TpmKeys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<&'a Value>,
}

/// The public keys of a TPM, each as a marshalled `TPM2B_PUBLIC` with its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TpmKeys {
    /// The endorsement key, by which the device is enrolled.
    pub endorsement_key: Base64,
    /// The storage root key, for which keys are wrapped.
    pub storage_root_key: Base64,
}

/// The answer to the first registration of a device with a TPM, and `tpm` in the state of an assigned one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrappedKey {
    pub(crate) authentication_key: Option<Secret>,
    /// Why there is none.
    pub(crate) message: Option<String>,
}

/// The answer to a registration and to each poll.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation {
    pub(crate) operation_id: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) registration_state: Option<RegistrationState>,
}

/// What DPS knows about the registration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistrationState {
    pub(crate) assigned_hub: Option<String>,
    pub(crate) device_id: Option<String>,
    pub(crate) substatus: Option<String>,
    pub(crate) payload: Option<Value>,
    pub(crate) tpm: Option<WrappedKey>,
    pub(crate) error_code: Option<i64>,
    pub(crate) error_message: Option<String>,
}

/// Where a device belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The host name of the hub, with its port if DPS gave one.
    pub hub: String,
    /// The device's name at the hub.
    pub device_id: String,
    /// How the assignment came about, such as `initialAssignment` or `deviceDataMigrated`.
    pub substatus: Option<String>,
    /// What a custom allocation function wants the device to know.
    pub payload: Option<Value>,
}

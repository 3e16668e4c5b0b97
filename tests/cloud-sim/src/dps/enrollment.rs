//! Enrolments, individual and group, in the shape of the DPS service API (api-version 2021-10-01).
//!
//! It does not know registrations or hubs; which device may use an enrolment is decided in `attestation`.

use super::{tpm::TpmAttestation, x509::X509Attestation};
use crate::{clock::iso, dice::Dice, keys::KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One individual enrolment (`registrationId`) or enrolment group (`enrollmentGroupId`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Enrollment {
    /// Of an individual enrolment, as written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registration_id: Option<String>,
    /// Of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enrollment_group_id: Option<String>,
    /// The device's name at the hub; the registration id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_id: Option<String>,
    /// What the device must prove.
    pub(crate) attestation: Attestation,
    /// Whether it is an IoT Edge device.
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    /// The one hub of a static allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iot_hub_host_name: Option<String>,
    /// Candidates; all hubs when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iot_hubs: Option<Vec<String>>,
    /// How one of the candidates is chosen.
    #[serde(default)]
    pub(crate) allocation_policy: AllocationPolicy,
    /// Kept and returned, otherwise unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initial_twin: Option<Value>,
    /// What a repeated registration does.
    #[serde(default)]
    pub(crate) reprovision_policy: ReprovisionPolicy,
    /// Whether devices may register.
    #[serde(default)]
    pub(crate) provisioning_status: ProvisioningStatus,
    /// Kept and returned, otherwise unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optional_device_information: Option<Value>,
    /// Ours: an outcome that tests want. Azure has no such member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) simulator: Option<Outcome>,
    /// Read-only.
    #[serde(default)]
    pub(crate) etag: String,
    /// Read-only.
    #[serde(default)]
    pub(crate) created_date_time_utc: String,
    /// Read-only.
    #[serde(default)]
    pub(crate) last_updated_date_time_utc: String,
    /// Read-only and not kept: accepted so that what was read can be written back.
    #[serde(default, skip_serializing)]
    pub(crate) registration_state: Option<Value>,
}

/// How devices prove that an enrolment is theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Attestation {
    /// The kind; the member of the same name holds its data.
    #[serde(rename = "type")]
    pub(crate) kind: AttestationKind,
    /// The device's keys, or those from which a group's device keys are derived.
    #[serde(default, skip_serializing_if = "KeyPair::is_empty")]
    pub(crate) symmetric_key: KeyPair,
    /// The certificates, or their issuers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) x509: Option<X509Attestation>,
    /// The TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<TpmAttestation>,
}

/// The kinds of attestation that this simulator can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AttestationKind {
    /// A SAS token made with a shared key.
    SymmetricKey,
    /// A client certificate.
    X509,
    /// A SAS token made with a key that only one TPM can unwrap.
    Tpm,
}

/// What the device identity is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Capabilities {
    /// Whether the hub gives it the runtime's modules `$edgeAgent` and `$edgeHub`.
    pub(crate) iot_edge: bool,
}

/// How a hub is chosen among the candidates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AllocationPolicy {
    /// By a hash of the registration id.
    #[default]
    Hashed,
    /// The nearest; here the first.
    GeoLatency,
    /// `iotHubHostName`, else the first.
    Static,
}

/// What a repeated registration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct ReprovisionPolicy {
    /// Whether the hub is chosen again.
    pub(crate) update_hub_assignment: bool,
    /// Whether the device's data moves along to a new hub.
    pub(crate) migrate_device_data: bool,
}

impl Default for ReprovisionPolicy {
    fn default() -> ReprovisionPolicy {
        ReprovisionPolicy { update_hub_assignment: true, migrate_device_data: true }
    }
}

/// Whether devices of an enrolment may register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProvisioningStatus {
    /// They may.
    #[default]
    Enabled,
    /// Their operation ends in `disabled`.
    Disabled,
}

/// An outcome of registration that a test asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Outcome {
    /// Instead of the setting of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assigning_polls: Option<u32>,
    /// End in this status instead of `assigned`, e.g. `failed`, `disabled`, `unassigned`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// `errorCode` of a `failed` one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_code: Option<u32>,
    /// `errorMessage` of a `failed` one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_message: Option<String>,
    /// Returned as `payload`, as a custom allocation function would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Value>,
}

impl Enrollment {
    /// The enrolment as stored: missing keys generated (or kept from `old`), read-only members filled in.
    #[must_use]
    pub(crate) fn stored(mut self, old: Option<&Enrollment>, dice: &mut Dice, now_ms: i64) -> Enrollment {
        if self.attestation.kind == AttestationKind::SymmetricKey {
            let old_keys = old.map(|old| old.attestation.symmetric_key.clone()).unwrap_or_default();
            let keys = &mut self.attestation.symmetric_key;
            keys.primary_key = keys.primary_key.take().or(old_keys.primary_key);
            keys.secondary_key = keys.secondary_key.take().or(old_keys.secondary_key);
            *keys = std::mem::take(keys).or_generate(|| dice.key());
        }
        self.created_date_time_utc = old.map_or_else(|| iso(now_ms), |old| old.created_date_time_utc.clone());
        self.last_updated_date_time_utc = iso(now_ms);
        self.etag = format!("\"{}\"", dice.etag());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(extra: (&str, Value)) -> Result<Enrollment, serde_json::Error> {
        let mut text = json!({"registrationId": "a", "attestation": {"type": "symmetricKey"}});
        text[extra.0] = extra.1;
        serde_json::from_value(text)
    }

    #[test]
    fn keys_are_generated_once_and_kept_on_update() {
        let mut dice = Dice::new(1);
        let first = read(("deviceId", json!("b"))).unwrap().stored(None, &mut dice, 0);
        assert_ne!(
            first.attestation.symmetric_key.primary_key,
            first.attestation.symmetric_key.secondary_key
        );
        let second = read(("deviceId", json!("c"))).unwrap().stored(Some(&first), &mut dice, 5000);
        assert_eq!(second.attestation, first.attestation);
        assert_eq!(second.created_date_time_utc, first.created_date_time_utc);
        assert_ne!(
            (second.etag, second.last_updated_date_time_utc),
            (first.etag, first.last_updated_date_time_utc)
        );
    }

    #[test]
    fn a_stored_enrolment_reads_back() {
        let stored = read(("simulator", json!({"status": "failed", "errorCode": 400_207}))).unwrap();
        let stored = stored.stored(None, &mut Dice::new(1), 0);
        let again: Enrollment = serde_json::from_value(serde_json::to_value(&stored).unwrap()).unwrap();
        assert_eq!(again, stored);
    }

    #[test]
    fn misspelt_members_are_refused() {
        assert!(read(("provisioningState", json!("disabled"))).is_err());
        assert!(read(("provisioningStatus", json!("off"))).is_err());
        assert!(read(("registrationState", json!({"status": "assigned"}))).is_ok());
    }
}

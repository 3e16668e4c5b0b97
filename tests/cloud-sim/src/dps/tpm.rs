//! TPM attestation: the challenge to a device that names an enrolled endorsement key, and the key that it gets when it has
//! answered (spec cloud-protocols, chapter 8). How keys are wrapped is `crate::tpm`'s.

use super::{
    DpsError, Enrollment,
    attestation::{AdmittedBy, Proof},
    enrollment::AttestationKind,
    error,
};
use crate::{
    call::Call,
    http::Reply,
    hub::Authentication,
    keys::{Key, KeyPair},
    route::Registrant,
    sas::Token,
    tpm,
    world::World,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What an enrolment admits, in the shape of the service API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TpmAttestation {
    /// Base64 of the `TPM2B_PUBLIC`, as the device shows it.
    pub(crate) endorsement_key: String,
    /// The same of the storage root key; kept and returned, otherwise unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage_root_key: Option<String>,
}

/// A device that was challenged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Challenged {
    /// Known to nobody but the device, if it is the right one.
    nonce_key: Key,
    /// What it will be at its hub; stays the same through registrations.
    device_keys: KeyPair,
    /// For which TPM keys are wrapped: base64.
    endorsement_key: String,
    storage_root_key: String,
}

impl TpmAttestation {
    /// What is wrong with it, for a person to read.
    pub(crate) fn check(&self) -> Result<(), String> {
        let key = decoded(&self.endorsement_key)?;
        // That it can be wrapped for, with any storage root key.
        tpm::wrap(&key, &key, &[0; 32]).map(drop)
    }
}

/// The challenge for a device with a TPM enrolment that shows no token yet; `None` for all other requests.
pub(super) fn challenge(
    world: &mut World,
    call: &Call<'_>,
    who: &Registrant,
    body: &Value,
    notes: &mut Vec<String>,
) -> Result<Option<Reply>, DpsError> {
    let id = who.id.to_lowercase();
    let Some(enrolled) = world.enrollments.get(&id).and_then(tpm_of) else { return Ok(None) };
    if call.request.header("authorization").is_some() {
        return Ok(None);
    }
    let refuse = |message: String| DpsError::new(error::UNAUTHORIZED, message);
    let shown = |name: &str| {
        let text =
            body["tpm"][name].as_str().ok_or_else(|| refuse(format!("the request has no tpm.{name}")))?;
        Ok::<_, DpsError>((text.to_owned(), decoded(text).map_err(refuse)?))
    };
    let (endorsement_key, endorsement_bytes) = shown("endorsementKey")?;
    let (storage_root_key, storage_root_bytes) = shown("storageRootKey")?;
    let enrolled_bytes = decoded(&enrolled.endorsement_key).map_err(refuse)?;
    if !tpm::is_same_key(&endorsement_bytes, &enrolled_bytes) {
        return Err(refuse(format!("the endorsement key is not the one that is enrolled for {}", who.id)));
    }
    let nonce_key = world.dice.key();
    let device_keys = match world.challenged.get(&id) {
        Some(before) => before.device_keys.clone(),
        None => KeyPair::default().or_generate(|| world.dice.key()),
    };
    let wrapped = tpm::wrap(&endorsement_bytes, &storage_root_bytes, nonce_key.as_bytes()).map_err(refuse)?;
    world.challenged.insert(id, Challenged { nonce_key, device_keys, endorsement_key, storage_root_key });
    notes.push("TPM challenge".to_owned());
    let body = json!({
        "authenticationKey": STANDARD.encode(wrapped),
        "keyName": "registration",
        "message": "Authorization required, see authenticationKey.",
    });
    Ok(Some(Reply::json(401, &body)))
}

/// The proof of a device that has answered its challenge.
pub(super) fn prove(
    world: &World,
    token: &Token,
    who: &Registrant,
    notes: &mut Vec<String>,
) -> Option<Proof> {
    let challenged = world.challenged.get(&who.id.to_lowercase())?;
    let nonce = KeyPair { primary_key: Some(challenged.nonce_key.clone()), secondary_key: None };
    token.signer(&nonce)?;
    notes.push("individual enrolment, nonce key from the TPM".to_owned());
    let authentication = Authentication::sas(challenged.device_keys.clone());
    Some(Proof { admitted_by: AdmittedBy::Individual, authentication, x509: None })
}

/// `tpm` of the registration state of an assigned device: the key for its hub, wrapped. `None` for other devices.
pub(super) fn final_key(world: &World, enrollment: &Enrollment, registration_id: &str) -> Option<Value> {
    tpm_of(enrollment)?;
    let challenged = world.challenged.get(registration_id)?;
    let keys = (decoded(&challenged.endorsement_key).ok()?, decoded(&challenged.storage_root_key).ok()?);
    let wrapped =
        tpm::wrap(&keys.0, &keys.1, challenged.device_keys.primary_key.as_ref()?.as_bytes()).ok()?;
    Some(json!({ "authenticationKey": STANDARD.encode(wrapped) }))
}

fn tpm_of(enrollment: &Enrollment) -> Option<&TpmAttestation> {
    enrollment.attestation.tpm.as_ref().filter(|_| enrollment.attestation.kind == AttestationKind::Tpm)
}

fn decoded(key: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(key).map_err(|err| format!("a TPM's key is padded base64: {err}"))
}

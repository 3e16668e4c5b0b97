//! What `GET /identities/provisioning` tells: the settings in force, not the device they have led to.

use identity_api::config::{Attestation, Manual, ManualCredentials, Provisioning as Settings, Source};
use identity_api::{DpsAuth, ManualAuth, Provisioning};

use super::dps;
use crate::Error;
use crate::workshop::Workshop;

/// What these settings are.
pub(crate) async fn info(settings: &Settings, workshop: &Workshop) -> Result<Provisioning, Error> {
    match &settings.source {
        Source::None => Ok(Provisioning::None),
        Source::Manual(Manual { authentication, .. }) => {
            let auth = match authentication {
                ManualCredentials::Sas { .. } => ManualAuth::Sas,
                ManualCredentials::X509 { .. } => ManualAuth::X509,
            };
            Ok(Provisioning::Manual { auth })
        }
        Source::Dps(settings) => {
            let auth = match settings.attestation {
                Attestation::SymmetricKey { .. } => DpsAuth::SymmetricKey,
                Attestation::X509 { .. } => DpsAuth::X509,
                Attestation::Tpm { .. } => DpsAuth::Tpm,
            };
            Ok(Provisioning::Dps {
                auth,
                endpoint: settings.global_endpoint.to_string(),
                scope_id: settings.scope_id.clone(),
                registration_id: dps::registration_id(&settings.attestation, workshop).await?,
                payload: dps::payload(settings.payload.as_ref()).await?,
            })
        }
    }
}

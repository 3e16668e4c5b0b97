//! Registers the device with DPS: settings and credentials in, record out. Does not know what becomes of the record.

use std::time::Instant;

use config_common::read_regular;
use dps_client::{DpsClient, Registration};
use http_common::https::Cloud;
use identity_api::config::{Attestation, Dps, Payload};
use serde_json::Value;

use crate::Error;
use crate::backup::Record;
use crate::credentials::DeviceCredentials;
use crate::workshop::{CertificateError, Workshop};
use crate::x509::common_name;

/// Register, at most until `deadline`.
pub(crate) async fn register(
    dps: &Dps,
    credentials: &DeviceCredentials,
    cloud: &Cloud,
    workshop: &Workshop,
    deadline: Instant,
) -> Result<Record, Error> {
    let registration = Registration {
        id_scope: dps.scope_id.clone(),
        registration_id: registration_id(&dps.attestation, workshop).await?,
        payload: payload(dps.payload.as_ref()).await?,
    };
    // Who has nothing to send does not begin.
    tracing::info!("registering with {}", dps.global_endpoint);
    let client = DpsClient::new(cloud.clone(), dps.global_endpoint.as_str())?;
    let assignment = match credentials {
        DeviceCredentials::SymmetricKey(_) | DeviceCredentials::Certificate(_) => {
            client.register(&registration, &credentials.for_cloud(), deadline).await?
        }
        DeviceCredentials::Tpm(tpm) => client.register_with_tpm(&registration, tpm, deadline).await?,
    };
    if let Some(substatus) = assignment.substatus {
        tracing::info!("DPS says {substatus}");
    }
    if let Some(payload) = assignment.payload {
        // It is the owner's, and may be secret.
        tracing::info!("DPS sends a payload of {} bytes along", payload.to_string().len());
    }
    Ok(Record { gateway: assignment.hub.clone(), hub: assignment.hub, device_id: assignment.device_id })
}

/// The registration id; for X.509 the common name, which the certificate has if the configuration has none.
pub(crate) async fn registration_id(attestation: &Attestation, workshop: &Workshop) -> Result<String, Error> {
    match attestation {
        Attestation::SymmetricKey { registration_id, .. } | Attestation::Tpm { registration_id } => {
            Ok(registration_id.clone())
        }
        Attestation::X509 { registration_id: Some(subject), .. } => Ok(subject.common_name().to_owned()),
        Attestation::X509 { registration_id: None, identity_cert, .. } => {
            let chain = workshop.certificate(identity_cert).await?;
            let name = chain.and_then(|chain| common_name(&chain));
            name.ok_or_else(|| CertificateError::NoSubject { id: identity_cert.clone() }.into())
        }
    }
}

/// What is configured to be sent along, read anew each time.
pub(crate) async fn payload(payload: Option<&Payload>) -> Result<Option<Value>, Error> {
    let Some(Payload { uri }) = payload.cloned() else { return Ok(None) };
    let refused = |source| Error::Payload { uri: uri.to_string(), source };
    let path = match uri.scheme() {
        "file" => uri.to_file_path().map_err(|()| refused("it names no file on this machine".into()))?,
        _ => return Err(refused("only file: can be used".into())),
    };
    let read =
        tokio::task::spawn_blocking(move || read_regular(&path)).await.map_err(|err| refused(err.into()))?;
    let bytes = read.map_err(|err| refused(err.into()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|err| refused(err.into()))
}

//! Registers the device with DPS: settings and credentials in, record out. Does not know what becomes of the record.

use std::time::Instant;

use dps_client::{DpsClient, Registration};
use http_common::https::Cloud;
use identity_api::config::{Attestation, Dps, Payload};
use serde_json::Value;

use crate::Error;
use crate::backup::Record;
use crate::credentials::DeviceCredentials;

/// Register, at most until `deadline`.
pub(crate) async fn register(
    dps: &Dps,
    credentials: &DeviceCredentials,
    cloud: &Cloud,
    deadline: Instant,
) -> Result<Record, Error> {
    let registration = Registration {
        id_scope: dps.scope_id.clone(),
        registration_id: registration_id(&dps.attestation)?.to_owned(),
        payload: payload(dps.payload.as_ref()).await?,
    };
    let client = DpsClient::new(cloud.clone(), dps.global_endpoint.as_str())?;
    let assignment = client.register(&registration, &credentials.for_cloud(), deadline).await?;
    if let Some(substatus) = assignment.substatus {
        tracing::debug!("DPS says {substatus}");
    }
    Ok(Record { gateway: assignment.hub.clone(), hub: assignment.hub, device_id: assignment.device_id })
}

/// The registration id; for X.509 the common name.
pub(crate) fn registration_id(attestation: &Attestation) -> Result<&str, Error> {
    match attestation {
        Attestation::SymmetricKey { registration_id, .. } | Attestation::Tpm { registration_id } => {
            Ok(registration_id)
        }
        Attestation::X509 { registration_id: Some(subject), .. } => Ok(subject.common_name()),
        Attestation::X509 { registration_id: None, .. } => {
            Err(Error::Unsupported { what: "the registration id of a certificate", needs: "certd" })
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
        tokio::task::spawn_blocking(move || std::fs::read(path)).await.map_err(|err| refused(err.into()))?;
    let bytes = read.map_err(|err| refused(err.into()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|err| refused(err.into()))
}

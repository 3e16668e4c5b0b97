//! How the device proves who it is: obtain its credentials, sign with them, lend them to callers (spec identity-service,
//! chapter 12 and 10.3 f.). Does not know what is signed.
//!
//! Certificates and TPMs are a further variant of [`DeviceCredentials`] each, once certd and tpmd can be asked.

use std::sync::{Arc, Mutex};

use config_common::Base64;
use http_common::https::Credentials;
use http_common::sas::{SignError, Signer};
use http_common::{Client, ClientError, StatusCode};
use identity_api::Auth;
use identity_api::config::{Attestation, ManualCredentials, Source};
use key_api::{KeyHandle, LoadKey, Sign, SignMechanism};

use crate::Error;

/// The credentials of the device.
#[derive(Debug, Clone)]
pub(crate) enum DeviceCredentials {
    /// A symmetric key in keyd.
    SymmetricKey(DeviceKey),
}

/// A symmetric key that stays in keyd. Clones share what they know of it.
#[derive(Debug, Clone)]
pub(crate) struct DeviceKey {
    keyd: Client,
    id: Arc<str>,
    /// From the last use; good until keyd says otherwise.
    handle: Arc<Mutex<Option<KeyHandle>>>,
}

impl DeviceCredentials {
    /// The credentials that `source` names; `None` if it names none. Asks nobody yet.
    pub(crate) fn obtain(source: &Source, keyd: &Client) -> Result<Option<Self>, Error> {
        let symmetric = |id: &str| Ok(Some(Self::SymmetricKey(DeviceKey::new(keyd.clone(), id))));
        let unsupported = |what, needs| Err(Error::Unsupported { what, needs });
        match source {
            Source::None => Ok(None),
            Source::Manual(manual) => match &manual.authentication {
                ManualCredentials::Sas { device_id_pk } => symmetric(device_id_pk),
                ManualCredentials::X509 { .. } => {
                    unsupported("a device identity with a certificate", "certd")
                }
            },
            Source::Dps(dps) => match &dps.attestation {
                Attestation::SymmetricKey { symmetric_key, .. } => symmetric(symmetric_key),
                Attestation::X509 { .. } => unsupported("a device identity with a certificate", "certd"),
                Attestation::Tpm { .. } => unsupported("a device identity in the TPM", "tpmd"),
            },
        }
    }

    /// What calls to the cloud prove themselves with.
    pub(crate) fn for_cloud(&self) -> Credentials<DeviceKey> {
        match self {
            Self::SymmetricKey(key) => Credentials::Sas(key.clone()),
        }
    }

    /// What a caller proves itself with, by a handle that is fresh each time.
    pub(crate) async fn auth(&self) -> Result<Auth, Error> {
        match self {
            Self::SymmetricKey(key) => {
                let id = || key.id.as_ref().to_owned();
                let key_handle = key.load().await.map_err(|source| Error::DeviceKey { id: id(), source })?;
                Ok(Auth::Sas { key_handle })
            }
        }
    }

    /// Whether both are the same key, so that one can stand for the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (Self::SymmetricKey(one), Self::SymmetricKey(other)) = (self, other);
        one.id == other.id
    }
}

impl DeviceKey {
    fn new(keyd: Client, id: &str) -> Self {
        Self { keyd, id: id.into(), handle: Arc::default() }
    }

    /// A fresh handle.
    async fn load(&self) -> Result<KeyHandle, ClientError> {
        let handle = self.keyd.call(&LoadKey { key_id: self.id.as_ref().to_owned() }).await?.key_handle;
        *self.handle.lock().expect("no panic while held") = Some(handle.clone());
        Ok(handle)
    }

    fn kept(&self) -> Option<KeyHandle> {
        self.handle.lock().expect("no panic while held").clone()
    }

    async fn sign_with(&self, key_handle: KeyHandle, message: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mechanism = SignMechanism::HmacSha256(Base64(message.to_vec()));
        Ok(self.keyd.call(&Sign { key_handle, mechanism }).await?.signature.0)
    }

    async fn hmac(&self, message: &[u8]) -> Result<Vec<u8>, ClientError> {
        if let Some(handle) = self.kept() {
            match self.sign_with(handle, message).await {
                // The handle is of a key that has been replaced since.
                Err(error) if error.status() == Some(StatusCode::BAD_REQUEST) => {}
                result => return result,
            }
        }
        self.sign_with(self.load().await?, message).await
    }
}

impl Signer for DeviceKey {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.hmac(message).await.map_err(|error| SignError(Box::new(error)))
    }
}

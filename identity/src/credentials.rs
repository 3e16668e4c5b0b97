//! How the device proves who it is: its credentials, to sign with and to lend to callers (spec identity-service, chapter 12
//! and 10.3 f.). Does not know what is signed, nor who asks.

use std::sync::{Arc, Mutex};

use config_common::{Base64, Service};
use http_common::https::Credentials;
use http_common::sas::{SignError, Signer};
use http_common::{Client, ClientError, StatusCode};
use identity_api::Auth;
use identity_api::config::{Attestation, Config, Dps, Manual, ManualCredentials, Source, Subject};
use key_api::{KeyHandle, LoadKey, Sign, SignMechanism};

use crate::Error;
use crate::tpm::Tpmd;
use crate::workshop::{Certified, Workshop};
use crate::x509::DeviceCertificate;

/// The credentials of the device. Clones share what they know.
#[derive(Debug, Clone)]
pub(crate) enum DeviceCredentials {
    /// A symmetric key in keyd.
    SymmetricKey(DeviceKey),
    /// A key pair in keyd with a certificate of certd.
    Certificate(Arc<DeviceCertificate>),
    /// A key in the TPM, which tpmd uses.
    Tpm(Tpmd),
}

/// The services on this device that have what credentials are made of.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) keyd: Client,
    pub(crate) workshop: Workshop,
    tpmd: Tpmd,
    /// What was obtained last, with all that is known of it.
    kept: Mutex<Option<DeviceCredentials>>,
}

/// Who signs tokens.
#[derive(Debug, Clone)]
pub(crate) enum TokenSigner {
    /// keyd.
    Key(DeviceKey),
    /// tpmd.
    Tpm(Tpmd),
}

/// A symmetric key that stays in keyd. Clones share what they know of it.
#[derive(Debug, Clone)]
pub(crate) struct DeviceKey {
    keyd: Client,
    id: Arc<str>,
    /// From the last use; good until keyd says otherwise.
    handle: Arc<Mutex<Option<KeyHandle>>>,
}

impl Services {
    /// The services that `config` names. Asks none of them.
    pub(crate) fn new(config: &Config) -> Self {
        let socket = |service| config.endpoints.of(service);
        let keyd = Client::new(socket(Service::Keyd).path()).patient();
        let workshop = Workshop::new(keyd.clone(), socket(Service::Certd).path());
        let tpmd = Tpmd::new(Client::new(socket(Service::Tpmd).path()));
        Self { keyd, workshop, tpmd, kept: Mutex::default() }
    }

    /// The credentials that `source` names; `None` if it names none. Asks nobody yet.
    pub(crate) fn credentials(&self, source: &Source) -> Option<DeviceCredentials> {
        let new = self.named_by(source)?;
        let mut kept = self.kept.lock().expect("no panic while held");
        match kept.as_ref().filter(|kept| kept.is_same(&new)) {
            Some(kept) => Some(kept.clone()),
            None => Some(kept.insert(new).clone()),
        }
    }

    /// The same of settings that are no longer in force. Those in force stay what is kept.
    pub(crate) fn former_credentials(&self, source: &Source) -> Option<DeviceCredentials> {
        let former = self.named_by(source)?;
        let kept = self.kept.lock().expect("no panic while held");
        Some(kept.as_ref().filter(|kept| kept.is_same(&former)).cloned().unwrap_or(former))
    }

    fn named_by(&self, source: &Source) -> Option<DeviceCredentials> {
        let symmetric = |id: &str| DeviceCredentials::SymmetricKey(DeviceKey::new(self.keyd.clone(), id));
        let certificate = |what| {
            DeviceCredentials::Certificate(Arc::new(DeviceCertificate::new(self.workshop.clone(), what)))
        };
        Some(match source {
            Source::None => return None,
            Source::Manual(manual) => match &manual.authentication {
                ManualCredentials::Sas { device_id_pk } => symmetric(device_id_pk),
                ManualCredentials::X509 {
                    identity_cert,
                    identity_pk,
                    csr_subject: _,
                    identity_auto_renew: _,
                    key_algorithm,
                } => certificate(Certified {
                    cert_id: identity_cert.clone(),
                    key_id: identity_pk.clone(),
                    subject: subject(source),
                    algorithm: key_algorithm.unwrap_or_default(),
                    is_made_anew: false,
                }),
            },
            Source::Dps(dps) => match &dps.attestation {
                Attestation::SymmetricKey { symmetric_key, .. } => symmetric(symmetric_key),
                Attestation::X509 {
                    registration_id: _,
                    identity_cert,
                    identity_pk,
                    identity_auto_renew: _,
                    key_algorithm,
                } => certificate(Certified {
                    cert_id: identity_cert.clone(),
                    key_id: identity_pk.clone(),
                    subject: subject(source),
                    algorithm: key_algorithm.unwrap_or_default(),
                    is_made_anew: false,
                }),
                Attestation::Tpm { .. } => DeviceCredentials::Tpm(self.tpmd.clone()),
            },
        })
    }
}

impl DeviceCredentials {
    /// What calls to the cloud prove themselves with.
    pub(crate) fn for_cloud(&self) -> Credentials<TokenSigner> {
        match self {
            Self::SymmetricKey(key) => Credentials::Sas(TokenSigner::Key(key.clone())),
            Self::Certificate(_) => Credentials::Certificate,
            Self::Tpm(tpm) => Credentials::Sas(TokenSigner::Tpm(tpm.clone())),
        }
    }

    /// What a caller proves itself with, by a handle that is fresh each time.
    pub(crate) async fn auth(&self) -> Result<Auth, Error> {
        let missing = |id: &str, source| Error::DeviceKey { id: id.to_owned(), source };
        match self {
            Self::SymmetricKey(key) => {
                let key_handle = key.load().await.map_err(|source| missing(&key.id, source))?;
                Ok(Auth::Sas { key_handle })
            }
            Self::Certificate(certificate) => {
                let Certified { cert_id, key_id, .. } = certificate.what();
                certificate.first_look().await?;
                let loaded = certificate.workshop().handle(key_id).await;
                let key_handle = loaded.map_err(|source| missing(key_id, source))?;
                Ok(Auth::X509 { key_handle, cert_id: cert_id.clone() })
            }
            Self::Tpm(_) => Ok(Auth::Tpm),
        }
    }

    /// See to it that the cloud can be asked, as far as that is decided on this device.
    pub(crate) async fn look_again(&self) -> Result<(), Error> {
        match self {
            Self::Certificate(certificate) => certificate.look_again().await.map(drop),
            Self::SymmetricKey(_) | Self::Tpm(_) => Ok(()),
        }
    }

    /// The same for somebody who wishes to be let in, and waits for what that takes.
    pub(crate) async fn revive(&self) -> Result<(), Error> {
        if let Self::Certificate(certificate) = self {
            certificate.revive().await;
        }
        self.look_again().await
    }

    /// Whether both are the same, so that one can stand for the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SymmetricKey(one), Self::SymmetricKey(other)) => one.id == other.id,
            (Self::Certificate(one), Self::Certificate(other)) => one.what() == other.what(),
            (Self::Tpm(_), Self::Tpm(_)) => true,
            _ => false,
        }
    }
}

/// Whom a new certificate of the device is for, if it has one and `source` says so. By hand it has the device's name,
/// whatever common name is configured.
pub(crate) fn subject(source: &Source) -> Option<Subject> {
    match source {
        Source::Manual(Manual {
            device_id,
            authentication: ManualCredentials::X509 { csr_subject, .. },
            ..
        }) => Some(match csr_subject {
            Some(Subject::Attributes { others, .. }) => {
                Subject::Attributes { common_name: device_id.clone(), others: others.clone() }
            }
            Some(Subject::CommonName(_)) | None => Subject::CommonName(device_id.clone()),
        }),
        Source::Dps(Dps { attestation: Attestation::X509 { registration_id, .. }, .. }) => {
            registration_id.clone()
        }
        Source::None | Source::Manual(_) | Source::Dps(_) => None,
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

impl Signer for TokenSigner {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match self {
            Self::Key(key) => key.sign(message).await,
            Self::Tpm(tpm) => tpm.sign(message).await,
        }
    }
}

impl Signer for DeviceKey {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.hmac(message).await.map_err(|error| SignError(Box::new(error)))
    }
}

//! The TPM of this device, behind tpmd (spec identity-service, 10.5). Nobody asks tpmd before the device is to be
//! provisioned by its TPM.

use config_common::{Base64, Secret};
use dps_client::{Tpm, TpmError, TpmKeys};
use http_common::sas::{SignError, Signer};
use http_common::{Client, ClientError};
use tpm_api::{GetTpmKeys, ImportAuthKey, SignWithAuthKey, SignWithWrappedKey};

/// tpmd.
#[derive(Debug, Clone)]
pub(crate) struct Tpmd(Client);

/// tpmd has answered, and not with a signature: the TPM may have lost the auth key, or never have had it.
#[derive(Debug, thiserror::Error)]
#[error("the TPM does not sign with its auth key")]
pub(crate) struct NoSignature(#[source] pub(crate) ClientError);

impl Tpmd {
    /// The service behind `client`. Asks nobody yet.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Signer for Tpmd {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let request = SignWithAuthKey { data: Base64(message.to_vec()) };
        match self.0.call(&request).await {
            Ok(reply) => Ok(reply.digest.0),
            Err(error) if error.is_transport() => Err(SignError(Box::new(error))),
            Err(error) => Err(SignError(Box::new(NoSignature(error)))),
        }
    }
}

impl Tpm for Tpmd {
    async fn public_keys(&self) -> Result<TpmKeys, TpmError> {
        let tpm_api::TpmKeys { endorsement_key, storage_root_key } = self.0.call(&GetTpmKeys {}).await?;
        Ok(TpmKeys { endorsement_key, storage_root_key })
    }

    async fn sign_with(&self, key: &[u8], message: &[u8]) -> Result<Vec<u8>, TpmError> {
        let request = SignWithWrappedKey { key: Secret::new(key.to_vec()), data: Base64(message.to_vec()) };
        Ok(self.0.call(&request).await?.digest.0)
    }

    async fn import(&self, key: &[u8]) -> Result<(), TpmError> {
        self.0.call(&ImportAuthKey { key: Secret::new(key.to_vec()) }).await?;
        Ok(())
    }
}

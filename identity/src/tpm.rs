//! The TPM of this device, behind tpmd (spec identity-service, 10.5). Nobody asks tpmd before the device is to be
//! provisioned by its TPM.

use config_common::{Base64, Secret};
use dps_client::{Tpm, TpmError, TpmKeys};
use http_common::Client;
use http_common::sas::{SignError, Signer};
use tpm_api::{GetTpmKeys, ImportAuthKey, SignWithAuthKey, SignWithWrappedKey};

/// tpmd.
#[derive(Debug, Clone)]
pub(crate) struct Tpmd(Client);

impl Tpmd {
    /// The service behind `client`. Asks nobody yet.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Signer for Tpmd {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let request = SignWithAuthKey { data: Base64(message.to_vec()) };
        let reply = self.0.call(&request).await.map_err(|error| SignError(Box::new(error)))?;
        Ok(reply.digest.0)
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

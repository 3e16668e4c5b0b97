//! The four requests: authorize, call once, reply (spec tpm-service, chapters 6 to 8).

use config_common::Base64;
use http_common::{Handlers, Peer, Serve};
use tpm_api::{
    AuthKeyImported, Digest, GetTpmKeys, ImportAuthKey, SignWithAuthKey, SignWithWrappedKey, TpmKeys,
};

use crate::tpm::{PublicKeys, Tpm};
use crate::{Error, Tpmd};

impl Handlers for Tpmd {
    type Error = Error;
}

impl Serve<GetTpmKeys> for Tpmd {
    async fn serve(&self, peer: Peer, _: GetTpmKeys) -> Result<TpmKeys, Error> {
        self.access.check(&peer)?;
        let PublicKeys { endorsement_key, storage_root_key } = self.owner.run(Tpm::public_keys).await?;
        Ok(TpmKeys { endorsement_key: Base64(endorsement_key), storage_root_key: Base64(storage_root_key) })
    }
}

impl Serve<ImportAuthKey> for Tpmd {
    async fn serve(&self, peer: Peer, request: ImportAuthKey) -> Result<AuthKeyImported, Error> {
        self.access.check(&peer)?;
        self.owner.run(move |tpm| tpm.import(request.key.as_bytes())).await?;
        tracing::info!(
            "user {} (process {}) has imported an auth key",
            peer.uid,
            peer.pid.unwrap_or_default()
        );
        Ok(AuthKeyImported {})
    }
}

impl Serve<SignWithAuthKey> for Tpmd {
    async fn serve(&self, peer: Peer, request: SignWithAuthKey) -> Result<Digest, Error> {
        self.access.check(&peer)?;
        let digest = self.owner.run(move |tpm| tpm.sign(request.data.as_ref())).await?;
        Ok(Digest { digest: Base64(digest) })
    }
}

impl Serve<SignWithWrappedKey> for Tpmd {
    async fn serve(&self, peer: Peer, request: SignWithWrappedKey) -> Result<Digest, Error> {
        self.access.check(&peer)?;
        let SignWithWrappedKey { key, data } = request;
        let digest = self.owner.run(move |tpm| tpm.sign_once(key.as_bytes(), data.as_ref())).await?;
        Ok(Digest { digest: Base64(digest) })
    }
}

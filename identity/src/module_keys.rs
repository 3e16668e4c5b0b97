//! The keys of modules: HMACs of their names under one master key in keyd, so that nothing secret has to be stored here
//! (spec identity-service, 10.2). Knows no hub.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_common::Base64;
use http_common::{Client, ClientError, StatusCode};
use hub_client::ModuleKeys;
use key_api::{CreateDerivedKey, CreateKey, ExportDerivedKey, KeyHandle, KeyUsage, LoadKey};
use tokio::sync::Mutex as AsyncMutex;
use zeroize::Zeroizing;

/// The master key in keyd.
#[derive(Debug)]
pub(crate) struct MasterKey {
    keyd: Client,
    /// From the last use; good until keyd says otherwise.
    handle: Mutex<Option<KeyHandle>>,
    /// One at a time looks for the key, and perhaps makes it. This lock guards no data.
    turn: AsyncMutex<()>,
}

/// The keys of one module.
pub(crate) struct DerivedKeys {
    /// A fresh handle of the primary key, for the module.
    pub(crate) primary_handle: KeyHandle,
    /// Both keys, for the hub.
    pub(crate) for_hub: ModuleKeys,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Primary,
    Secondary,
}

impl MasterKey {
    /// The master key in the service behind `keyd`. Asks nobody yet.
    pub(crate) fn new(keyd: Client) -> Self {
        Self { keyd, handle: Mutex::default(), turn: AsyncMutex::default() }
    }

    /// See to it that there is a master key, before something is begun that needs one.
    pub(crate) async fn ensure(&self) -> Result<(), ClientError> {
        match self.kept() {
            Some(_) => Ok(()),
            None => self.load(None).await.map(|_| ()),
        }
    }

    /// A fresh handle of the primary key of generation `generation` of `module`. One call, as a rule.
    pub(crate) async fn primary_handle(
        &self,
        module: &str,
        generation: &str,
    ) -> Result<KeyHandle, ClientError> {
        self.derive(module, generation, Which::Primary).await
    }

    /// Both keys of generation `generation` of `module`.
    pub(crate) async fn keys(&self, module: &str, generation: &str) -> Result<DerivedKeys, ClientError> {
        let primary_handle = self.derive(module, generation, Which::Primary).await?;
        let primary = self.export(primary_handle.clone()).await?;
        let secondary = self.export(self.derive(module, generation, Which::Secondary).await?).await?;
        Ok(DerivedKeys { primary_handle, for_hub: ModuleKeys { primary, secondary } })
    }

    async fn derive(&self, module: &str, generation: &str, which: Which) -> Result<KeyHandle, ClientError> {
        let data = derivation_data(module, generation, which);
        let kept = self.kept();
        if let Some(base) = kept.clone() {
            match self.derive_from(base, data.clone()).await {
                // The handle is of a key that has been replaced since.
                Err(error) if error.status() == Some(StatusCode::BAD_REQUEST) => {}
                result => return result,
            }
        }
        self.derive_from(self.load(kept).await?, data).await
    }

    async fn derive_from(&self, base_key_handle: KeyHandle, data: Vec<u8>) -> Result<KeyHandle, ClientError> {
        let request = CreateDerivedKey { base_key_handle, derivation_data: Base64(data) };
        Ok(self.keyd.call(&request).await?.key_handle)
    }

    async fn export(&self, key_handle: KeyHandle) -> Result<Zeroizing<String>, ClientError> {
        let key = self.keyd.call(&ExportDerivedKey { key_handle }).await?.key;
        Ok(Zeroizing::new(STANDARD.encode(key.as_bytes())))
    }

    /// The handle of the master key, unless it is `spent`. The key is made only where keyd says that there is none.
    async fn load(&self, spent: Option<KeyHandle>) -> Result<KeyHandle, ClientError> {
        let _turn = self.turn.lock().await;
        if let Some(kept) = self.kept().filter(|kept| Some(kept) != spent.as_ref()) {
            return Ok(kept);
        }
        let handle = match self.keyd.call(&LoadKey { key_id: MASTER.to_owned() }).await {
            Ok(reply) => reply.key_handle,
            Err(error) if matches!(error.status(), Some(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) => {
                let usage = KeyUsage::DERIVE.and(KeyUsage::SIGN);
                let create = CreateKey { key_id: MASTER.to_owned(), usage, key_bytes: None };
                let created = self.keyd.call(&create).await?.key_handle;
                tracing::info!("keyd has a new master key for the keys of modules");
                created
            }
            Err(error) => return Err(error),
        };
        *self.handle.lock().expect("no panic while held") = Some(handle.clone());
        Ok(handle)
    }

    fn kept(&self) -> Option<KeyHandle> {
        self.handle.lock().expect("no panic while held").clone()
    }
}

fn derivation_data(module: &str, generation: &str, which: Which) -> Vec<u8> {
    let which = match which {
        Which::Primary => "primary",
        Which::Secondary => "secondary",
    };
    format!("{module}:{generation}:{which}").into_bytes()
}

/// keyd's id of the master key.
const MASTER: &str = "aziot_identityd_master_id";

#[cfg(test)]
mod tests {
    use super::*;
    use http_common::sas::SharedKey;

    #[test]
    fn the_vector() {
        let master = SharedKey::new((0x64..=0x83).collect::<Vec<u8>>());
        let key = |which| {
            STANDARD.encode(master.hmac(&derivation_data("Agent1", "638000000000000001", which)).unwrap())
        };
        assert_eq!(key(Which::Primary), "+DaKvO8dcmmUFpBHSIUNgjRBTQ90cnFVTICoa4syPuU=");
        assert_eq!(key(Which::Secondary), "Ts0qbOy3VnSrj9FjIfVCh6dABCslCiKHS+TzQugFll4=");
    }
}

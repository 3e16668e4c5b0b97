//! The keys of modules: HMACs of their names under one master key in keyd, so that nothing secret has to be stored here
//! (spec identity-service, 10.2). Knows no hub.
//!
//! keyd is the only one that has the master key. If it is lost, keys of a new one are of no use until the hub has them: that is
//! noticed (`watch.rs`) at each start, and while we run when somebody asks for a key and nobody has for [`LOOK`].

mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_common::Base64;
use http_common::{Client, ClientError, StatusCode, chain};
use hub_client::ModuleKeys;
use key_api::{CreateDerivedKey, CreateKey, ExportDerivedKey, KeyHandle, KeyUsage, LoadKey};
use openssl::sha::sha256;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use zeroize::Zeroizing;

use crate::backup::Home;
use crate::provision::Event;

pub(crate) use watch::Loss;

use watch::Watch;

/// The master key in keyd.
#[derive(Debug)]
pub(crate) struct MasterKey {
    keyd: Client,
    /// From the last use; good until keyd says otherwise.
    handle: Mutex<Option<Kept>>,
    /// One at a time looks for the key, and perhaps makes it. This lock guards no data.
    turn: AsyncMutex<()>,
    watch: Watch,
}

#[derive(Debug)]
struct Kept {
    handle: KeyHandle,
    /// When somebody has looked last whether it is still that of the same key, or has set out to.
    looked: Instant,
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
    /// The master key in the service behind `keyd`, of which `home` remembers something. That it is another one goes to `events`.
    /// Asks nobody yet; blocks.
    pub(crate) fn new(keyd: Client, home: Home, events: mpsc::Sender<Event>) -> Self {
        let watch = Watch::new(home, events);
        Self { keyd, handle: Mutex::default(), turn: AsyncMutex::default(), watch }
    }

    /// Look whether the key is there and the same; one that is lost is made anew. One that was never seen is not made: nobody
    /// has asked for any key.
    pub(crate) async fn look(&self) -> Result<(), ClientError> {
        let _turn = self.turn.lock().await;
        if self.watch.expects_one() {
            self.load_in_turn().await?;
        } else if let Some(handle) = self.load_existing().await? {
            self.take_up(handle).await;
        }
        Ok(())
    }

    /// That the modules need new keys at the hub.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.watch.loss()
    }

    /// Somebody sees to it that modules get new keys for `loss`, if there is any; `all` have them.
    pub(crate) async fn mended(&self, loss: Option<Loss>, all: bool) {
        self.watch.mended(loss, all).await;
    }

    /// The modules that have been given keys.
    pub(crate) fn given(&self) -> BTreeSet<String> {
        self.watch.given()
    }

    /// The module `id` is gone.
    pub(crate) async fn forget(&self, id: &str) {
        self.watch.forget(id).await;
    }

    /// Modules of another device are meant from now on.
    pub(crate) async fn forget_all(&self) {
        self.watch.forget_all().await;
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
        self: &Arc<Self>,
        module: &str,
        generation: &str,
    ) -> Result<KeyHandle, ClientError> {
        self.look_if_due().await;
        self.derive(module, generation, Which::Primary).await
    }

    /// Both keys of generation `generation` of `module`, which the hub is about to be given.
    pub(crate) async fn keys(&self, module: &str, generation: &str) -> Result<DerivedKeys, ClientError> {
        let keys = match self.keys_once(module, generation).await {
            // keyd finds out that the master key is gone when it needs its value.
            Err(error) if error.status() == Some(StatusCode::BAD_REQUEST) => {
                self.load(self.kept()).await?;
                self.keys_once(module, generation).await
            }
            result => result,
        }?;
        self.watch.gives(module).await;
        Ok(keys)
    }

    async fn keys_once(&self, module: &str, generation: &str) -> Result<DerivedKeys, ClientError> {
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
        self.load_in_turn().await
    }

    /// The key as keyd has it now, made if there is none. For who has the turn.
    async fn load_in_turn(&self) -> Result<KeyHandle, ClientError> {
        let handle = match self.load_existing().await? {
            Some(handle) => handle,
            None => {
                let usage = KeyUsage::DERIVE.and(KeyUsage::SIGN);
                let create = CreateKey { key_id: MASTER.to_owned(), usage, key_bytes: None };
                let created = self.keyd.call(&create).await?.key_handle;
                tracing::info!("keyd has a new master key for the keys of modules");
                created
            }
        };
        self.take_up(handle.clone()).await;
        Ok(handle)
    }

    async fn load_existing(&self) -> Result<Option<KeyHandle>, ClientError> {
        match self.keyd.call(&LoadKey { key_id: MASTER.to_owned() }).await {
            Ok(reply) => Ok(Some(reply.key_handle)),
            Err(error) if matches!(error.status(), Some(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Keep the handle of the key that keyd has now.
    async fn take_up(&self, handle: KeyHandle) {
        match self.fingerprint(handle.clone()).await {
            Ok(fingerprint) => self.watch.see(fingerprint).await,
            Err(error) => tracing::debug!("the master key gives no fingerprint: {}", chain(&error)),
        }
        *self.handle.lock().expect("no panic while held") = Some(Kept { handle, looked: Instant::now() });
    }

    /// Tells the key apart from others, and nothing else of it.
    async fn fingerprint(&self, handle: KeyHandle) -> Result<String, ClientError> {
        let key_handle = self.derive_from(handle, FINGERPRINT.to_vec()).await?;
        let key = self.keyd.call(&ExportDerivedKey { key_handle }).await?.key;
        Ok(sha256(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Look, if nobody has for a while; a keyd that takes its time is not waited for.
    async fn look_if_due(self: &Arc<Self>) {
        if !self.is_due() {
            return;
        }
        let master = Arc::clone(self);
        let look = tokio::spawn(async move {
            if let Err(error) = master.look().await {
                tracing::debug!("the master key cannot be looked at: {}", chain(&error));
            }
        });
        // Otherwise it goes on, for those who come later.
        let _ = tokio::time::timeout(LOOK_LIMIT, look).await;
    }

    /// Whether nobody has looked for a while; then it is the caller's turn.
    fn is_due(&self) -> bool {
        let mut kept = self.handle.lock().expect("no panic while held");
        let Some(kept) = kept.as_mut().filter(|kept| kept.looked.elapsed() >= LOOK) else { return false };
        kept.looked = Instant::now();
        true
    }

    fn kept(&self) -> Option<KeyHandle> {
        self.handle.lock().expect("no panic while held").as_ref().map(|kept| kept.handle.clone())
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
/// What the fingerprint is derived with: no module's name and generation.
const FINGERPRINT: &[u8] = b"fingerprint";
/// How long a master key that is lost may go unnoticed while keys of it are asked for.
const LOOK: Duration = Duration::from_secs(5);
/// How long who asks for a key waits for that.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

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

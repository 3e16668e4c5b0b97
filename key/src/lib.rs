//! keyd creates, keeps and uses keys, so that nobody else has to see them.
//!
//! ```text
//!   request ──► handlers ──► access: principals ─┐
//!                   │                            ├─► Permit ──► store: trait KeyStore ──► files, tokens
//!                   └──────► handle: MAC'd text ─┘                    │
//!                                                                    └─► SymmetricKey, KeyPair: used, never seen
//! ```
//!
//! A caller gets at a key in two ways: by its id, if a `[[principal]]` says so, or by a handle that keyd once gave out.
//! Both end in a [`Permit`], and a [store](store::KeyStore) does nothing without one.

mod access;
mod daemon;
mod error;
mod handlers;
mod hmac;
mod parameter;
mod worker;

pub mod aead;
pub mod algorithm;
pub mod handle;
pub mod id;
pub mod store;

use std::sync::Arc;

use http_common::{Peer, wait_apart};
use key_api::{AziotKeys, Config, KeyHandle, KeyUsage, PreloadedUri};
use zeroize::Zeroizing;

use access::Access;
use handle::{Opened, Subject};
use store::{FileStore, KeyPair, KeyStore, LocatedStore, SoftKey, SymmetricKey, Task};
use worker::Worker;

pub use error::{Error, Internal};
pub use id::Permit;

/// The state of keyd.
pub struct Keyd {
    store: Arc<dyn KeyStore>,
    access: Access,
    generator: Worker,
    /// What the daemon was started with, to tell at a reload what needs a restart.
    started_with: Config,
}

/// Tells what is accepted and was perhaps not meant.
pub(crate) fn warn(config: &Config) {
    let AziotKeys { homedir_path: _, pkcs11_lib_path, pkcs11_base_slot } = &config.aziot_keys;
    if pkcs11_base_slot.is_some() && pkcs11_lib_path.is_none() {
        tracing::warn!("aziot_keys.pkcs11_base_slot means nothing without pkcs11_lib_path");
    }
    for (id, uri) in &config.preloaded_keys {
        let missing = match uri {
            PreloadedUri::Pkcs11(_) if pkcs11_lib_path.is_none() => "aziot_keys.pkcs11_lib_path",
            PreloadedUri::Tpm(_) if config.tpm.is_none() => "[tpm]",
            PreloadedUri::Pkcs11(_) | PreloadedUri::Tpm(_) | PreloadedUri::File(_) => continue,
        };
        tracing::warn!("the preloaded key {id:?} means nothing without {missing}");
    }
    if let Some(path) = pkcs11_lib_path.as_deref().filter(|path| path.is_absolute() && !path.exists()) {
        tracing::warn!("aziot_keys.pkcs11_lib_path: there is no {}", path.display());
    }
}

impl Keyd {
    /// keyd with keys in files and, if there is a PKCS #11 library, on tokens, as `config` says. With a base slot this
    /// opens a session with its token.
    pub fn new(config: Config) -> Result<Self, Error> {
        warn(&config);
        let AziotKeys { homedir_path, pkcs11_lib_path, pkcs11_base_slot: _ } = &config.aziot_keys;
        let store: Arc<dyn KeyStore> = match pkcs11_lib_path {
            Some(path) => Arc::new(LocatedStore::new(path, &config)?),
            None => {
                let files = FileStore::new(homedir_path.as_deref(), config.preloaded_keys.clone());
                Arc::new(files.with_tpm(config.tpm.as_ref())?)
            }
        };
        Ok(Self::with_store(store, config))
    }

    /// keyd on any store; `config` gives principals and switches.
    pub fn with_store(store: Arc<dyn KeyStore>, config: Config) -> Self {
        let access = Access::new(&config);
        let generator = Worker::new("key-generator", GENERATOR_NICENESS, GENERATOR_QUEUE);
        Self { store, access, generator, started_with: config }
    }

    /// The proof that `peer` may use the key `id`.
    fn allow(&self, peer: &Peer, id: &str) -> Result<Permit, Error> {
        self.access.by_id(peer, id)
    }

    /// What `handle` stands for, if it is genuine.
    async fn open(&self, peer: &Peer, handle: &KeyHandle) -> Result<Opened, Error> {
        let opened = handle::open(&*self.validation_key().await?, handle).await.map_err(of_validation_key)?;
        self.access.by_handle(peer, opened.permit())?;
        Ok(opened)
    }

    async fn mint(&self, subject: Subject<'_>) -> Result<KeyHandle, Error> {
        match handle::mint(&*self.validation_key().await?, subject).await {
            // It was on a token and has vanished since it was used last; it is made anew.
            Err(Error::NoSuchKey(_)) => {
                let minted = handle::mint(&*self.validation_key().await?, subject).await;
                minted.map_err(of_validation_key)
            }
            minted => minted,
        }
    }

    /// The key that makes handles genuine; made if there is none.
    async fn validation_key(&self) -> Result<Arc<dyn SymmetricKey>, Error> {
        let permit = Permit::validation_key();
        let key = match self.key(permit.clone()).await {
            Ok(key) => Ok(key),
            Err(error @ Error::TokenUnavailable { .. }) => Err(error),
            Err(_) => self.blocking(permit, Task::Change, make_validation_key).await,
        };
        key.map_err(|error| match error {
            Error::TokenUnavailable { .. } => error,
            error => Internal::ValidationKey(Box::new(error)).into(),
        })
    }

    async fn key(&self, permit: Permit) -> Result<Arc<dyn SymmetricKey>, Error> {
        match self.store.key_at_hand(&permit) {
            Some(key) => Ok(key),
            None => self.blocking(permit, Task::LoadKey, |store, key| store.load_key(key)).await,
        }
    }

    async fn pair(&self, permit: Permit) -> Result<Arc<dyn KeyPair>, Error> {
        match self.store.pair_at_hand(&permit) {
            Some(pair) => Ok(pair),
            None => self.blocking(permit, Task::LoadPair, |store, key| store.load_pair(key)).await,
        }
    }

    /// The bytes of a derived key (spec keys-service, chapter 8).
    async fn derive(&self, base: Permit, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let derived = Zeroizing::new(self.key(base).await?.hmac(data).await?);
        Ok(Zeroizing::new(derived.to_vec()))
    }

    /// A symmetric key or derived key of `opened`, for `mechanism`.
    async fn symmetric(
        &self,
        opened: Opened,
        mechanism: &'static str,
    ) -> Result<Arc<dyn SymmetricKey>, Error> {
        match opened {
            Opened::Key(permit) => self.key(permit).await,
            Opened::Derived { base, data } => Ok(Arc::new(SoftKey::new(self.derive(base, &data).await?))),
            Opened::KeyPair(_) => Err(Error::WrongMechanism { mechanism, key: "a key pair" }),
        }
    }

    /// The key pair of `opened`, for `mechanism`.
    async fn asymmetric(&self, opened: Opened, mechanism: &'static str) -> Result<Arc<dyn KeyPair>, Error> {
        match opened {
            Opened::KeyPair(permit) => self.pair(permit).await,
            other => Err(Error::WrongMechanism { mechanism, key: other.kind() }),
        }
    }

    /// Runs `job`, a `task` with the key of `permit`, on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        permit: Permit,
        task: Task,
        job: impl FnOnce(&dyn KeyStore, &Permit) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = Arc::clone(&self.store);
        match self.store.gate(&permit, task) {
            Some(gate) => {
                wait_apart(async {
                    let pass = gate.enter().await?;
                    on_thread(move || {
                        let _pass = pass;
                        job(&*store, &permit)
                    })
                    .await
                })
                .await
            }
            None => on_thread(move || job(&*store, &permit)).await,
        }
    }
}

async fn on_thread<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|_| Err(Internal::Worker.into()))
}

/// A validation key that has vanished from its token since it was used last is no fault of the caller.
fn of_validation_key(error: Error) -> Error {
    match error {
        Error::NoSuchKey(_) => Internal::ValidationKey(Box::new(error)).into(),
        error => error,
    }
}

fn make_validation_key(store: &dyn KeyStore, permit: &Permit) -> Result<Arc<dyn SymmetricKey>, Error> {
    match store.load_key(permit) {
        // Somebody else was faster.
        Ok(key) => return Ok(key),
        Err(error @ Error::TokenUnavailable { .. }) => return Err(error),
        Err(_) => store.create_key(permit, KeyUsage::SIGN)?,
    }
    tracing::info!("made a key for new key handles; handles that were given out earlier are no longer valid");
    store.load_key(permit)
}

/// RSA keys are made at this niceness, so that whoever makes many of them does not slow down the others.
const GENERATOR_NICENESS: i32 = 10;
/// Key pairs waiting to be made; more requests wait unread.
const GENERATOR_QUEUE: usize = 16;

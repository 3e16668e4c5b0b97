//! Keys that stay in keyd, as OpenSSL keys.
//!
//! ```text
//!   certd, identityd ──► KeyEngine::private_key(handle) ─► PKey<Private>
//!                              │                              │ sign, decrypt
//!   nginx, curl … ──► aziot.so │ (provider)                   ▼
//!                        └─────┴──► ffi: dispatch tables ──► remote ──► keyd.sock
//!   old programs ──► aziot_keys.so (engine) ───────────────────┘
//! ```
//!
//! A daemon sees [`KeyEngine`] only. `aziot.so` (folder `provider`) and `aziot_keys.so` (folder `engine`) are the same
//! for programs that were written for OpenSSL; `aziot-key-ref` writes key files for those that know nothing else.
//! Behaviour: spec/openssl-engine.md.

mod error;
pub mod ffi;
mod kept;
pub mod padding;
mod proof;
mod public;
pub mod reference;
pub mod remote;
mod settings;
mod uri;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openssl::pkey::{PKey, Private};
use zeroize::Zeroizing;

pub use error::{Error, REASONS};
pub use http_common::chain;
pub use settings::{Overrides, Settings};
pub use uri::{KeyName, KeyUri};

use remote::{Keyd, RemoteKey};

/// Makes OpenSSL keys of key pairs in one keyd.
///
/// The keys work in every OpenSSL context, in many threads at once and after a fork. An operation with one blocks for
/// as long as keyd needs, at most for the limit, and leaves its reason on OpenSSL's error stack when it fails. Nothing
/// is changed in the rest of the process: no ENGINE, no default provider.
#[derive(Debug, Clone)]
pub struct KeyEngine {
    keyd: Arc<Keyd>,
    loaded: &'static ffi::Loaded,
}

impl KeyEngine {
    /// For the keyd that listens at `socket`; to load a key or to use it may take `limit`. Contacts nobody.
    pub fn new(socket: impl Into<PathBuf>, limit: Duration) -> Result<Self, Error> {
        let settings = Settings { socket: socket.into(), limit, debug: None };
        let keyd = Arc::new(Keyd::new(&settings.socket, limit));
        Ok(Self { keyd, loaded: ffi::Loaded::with(&settings)? })
    }

    /// The key pair of `handle`. Blocks while keyd is asked for the public part.
    pub fn private_key(&self, handle: &str) -> Result<PKey<Private>, Error> {
        self.load(KeyName::Handle(Zeroizing::new(handle.to_owned())))
    }

    /// The key pair with the id `id`, which keyd must allow to this user. Unlike with a handle, the key survives when
    /// keyd stops accepting its handles.
    pub fn private_key_by_id(&self, id: &str) -> Result<PKey<Private>, Error> {
        self.load(KeyName::Id(id.to_owned()))
    }

    fn load(&self, name: KeyName) -> Result<PKey<Private>, Error> {
        self.loaded.wrap(RemoteKey::load(self.keyd.clone(), name)?)
    }
}

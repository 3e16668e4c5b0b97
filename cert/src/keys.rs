//! keyd as certd needs it: key pairs by id, and private keys for OpenSSL by handle. Knows no certificates.

use std::sync::Arc;

use http_common::{Client, ClientError, StatusCode};
use key_api::{CreateKeyPair, DeleteKeyPair, GetParameter, KeyHandle, LoadKeyPair, MoveKeyPair, PRELOADED};
use openssl::pkey::{PKey, Private, Public};

/// Gives OpenSSL keys for keyd's handles; what is done with a private key happens in keyd. Everything may wait for keyd.
pub trait PrivateKeys: Send + Sync + 'static {
    /// The private key behind `handle`.
    ///
    /// # Errors
    ///
    /// The handle is not keyd's, or keyd cannot be asked.
    fn private_key(&self, handle: &KeyHandle) -> Result<PKey<Private>, BoxedError>;

    /// The public key that belongs to it, as a key of OpenSSL's own.
    ///
    /// # Errors
    ///
    /// As above.
    fn public_key(&self, handle: &KeyHandle) -> Result<PKey<Public>, BoxedError>;
}

/// A private key, and the public one that belongs to it.
#[derive(Clone)]
pub struct KeyPair {
    /// Perhaps elsewhere: it can sign, and may be unable to tell its public part.
    pub private: PKey<Private>,
    /// Here.
    pub public: PKey<Public>,
}

/// What a source of keys says when it fails.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// keyd's key pairs.
#[derive(Clone)]
pub(crate) struct Keys {
    keyd: Client,
    private: Arc<dyn PrivateKeys>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// keyd knows no key pair with this id.
    #[error("keyd has no key pair {0:?}")]
    Missing(String),
    /// keyd does not let us.
    #[error(
        "keyd does not let this service use the key pair {0:?}; a [[principal]] of keyd with its uid would have to name it"
    )]
    Forbidden(String),
    /// keyd does not move, make or delete it.
    #[error("keyd does not do that to the key pair {id:?}")]
    Refused {
        /// Which one.
        id: String,
        /// Why.
        source: Box<ClientError>,
    },
    /// keyd's configuration names the key pair, so that no other can take its place.
    #[error(
        "keyd's configuration names the key pair {0:?} (preloaded_keys), so that no other takes its place"
    )]
    Preloaded(String),
    /// keyd cannot be asked, or failed.
    #[error("cannot get the key pair {id:?}")]
    Failed {
        /// Which one.
        id: String,
        /// Why.
        source: Box<ClientError>,
    },
    /// The handle cannot be used.
    #[error("cannot open the private key")]
    NotOpened(#[source] BoxedError),
}

impl Keys {
    pub(crate) fn new(keyd: Client, private: Arc<dyn PrivateKeys>) -> Self {
        Self { keyd, private }
    }

    /// A handle of the key pair `id`.
    pub(crate) async fn load(&self, id: &str) -> Result<KeyHandle, KeyError> {
        let request = LoadKeyPair { key_id: id.to_owned() };
        self.keyd.call(&request).await.map(|reply| reply.key_handle).map_err(sorted(id))
    }

    /// A handle of the key pair `id`, made if there is none. `algorithms` in keyd's form, best first.
    pub(crate) async fn create(&self, id: &str, algorithms: &str) -> Result<KeyHandle, KeyError> {
        let preferred_algorithms = Some(algorithms.to_owned());
        let request = CreateKeyPair { key_id: id.to_owned(), preferred_algorithms };
        self.keyd.call(&request).await.map(|reply| reply.key_handle).map_err(changed(id))
    }

    /// Gives the key pair `from` the id `to`, in place of the key pair that has it.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), KeyError> {
        let request = MoveKeyPair { key_id: to.to_owned(), from: from.to_owned() };
        self.keyd.call(&request).await.map_err(changed(to))
    }

    /// Why keyd would not give another key pair the id of the key pair `id`; none if it would. A keyd that cannot say, as
    /// upstream's, would.
    pub(crate) async fn obstacle(&self, id: &str) -> Result<Option<KeyError>, KeyError> {
        let key_handle = match self.load(id).await {
            Err(KeyError::Missing(_)) => return Ok(None),
            handle => handle?,
        };
        let request = GetParameter { parameter_name: PRELOADED.to_owned(), key_handle };
        match self.keyd.call(&request).await {
            Ok(reply) => Ok((reply.value == "true").then(|| KeyError::Preloaded(id.to_owned()))),
            Err(error) if error.status().is_some() => Ok(None),
            Err(source) => Err(KeyError::Failed { id: id.to_owned(), source: source.into() }),
        }
    }

    /// Deletes the key pair `id`. That there is none is success.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), KeyError> {
        match self.load(id).await {
            Err(KeyError::Missing(_)) => Ok(()),
            handle => self.keyd.call(&DeleteKeyPair { key_handle: handle? }).await.map_err(changed(id)),
        }
    }

    /// The public key behind `handle`. Waits for keyd, so this is for threads that may.
    pub(crate) fn open_public(&self, handle: &KeyHandle) -> Result<PKey<Public>, KeyError> {
        self.private.public_key(handle).map_err(KeyError::NotOpened)
    }

    /// The private key behind `handle`. Waits for keyd, so this is for threads that may.
    pub(crate) fn open(&self, handle: &KeyHandle) -> Result<PKey<Private>, KeyError> {
        self.private.private_key(handle).map_err(KeyError::NotOpened)
    }

    /// The same with the public key.
    pub(crate) fn open_pair(&self, handle: &KeyHandle) -> Result<KeyPair, KeyError> {
        Ok(KeyPair { public: self.open_public(handle)?, private: self.open(handle)? })
    }
}

fn sorted(id: &str) -> impl FnOnce(ClientError) -> KeyError {
    let id = id.to_owned();
    move |source| match source.status() {
        Some(StatusCode::BAD_REQUEST) => KeyError::Missing(id),
        Some(StatusCode::UNAUTHORIZED) => KeyError::Forbidden(id),
        _ => KeyError::Failed { id, source: Box::new(source) },
    }
}

/// The same of what changes something.
fn changed(id: &str) -> impl FnOnce(ClientError) -> KeyError {
    let id = id.to_owned();
    move |source| match source.status() {
        Some(StatusCode::BAD_REQUEST) => KeyError::Refused { id, source: Box::new(source) },
        _ => sorted(&id)(source),
    }
}

impl KeyError {
    /// Whether keyd says no, and will until somebody changes its configuration.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Refused { .. })
    }
}

/// What EST identities are made of, as upstream asks for it.
pub(crate) const EST_ALGORITHMS: &str = "ec-p256:rsa-4096:*";

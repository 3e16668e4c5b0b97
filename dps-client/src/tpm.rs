//! What a registration needs of a TPM. Does not know where the TPM is.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Mutex;

use config_common::Secret;
use http_common::sas::{SignError, Signer};

use crate::{Error, TpmKeys};

/// The TPM of this device, wherever it is. Keys come wrapped for it alone, as
/// `POST /import_auth_key` of the TPM service takes them.
pub trait Tpm: Sync {
    /// The public keys that tell this TPM from all others.
    fn public_keys(&self) -> impl Future<Output = Result<TpmKeys, TpmError>> + Send;

    /// HMAC-SHA256 of `message` with a wrapped `key`. What the TPM has imported stays what it is.
    fn sign_with(&self, key: &[u8], message: &[u8])
    -> impl Future<Output = Result<Vec<u8>, TpmError>> + Send;

    /// Keep a wrapped `key` for good, instead of the one before it.
    fn import(&self, key: &[u8]) -> impl Future<Output = Result<(), TpmError>> + Send;
}

/// Whatever a TPM, or the way to it, has to say.
pub type TpmError = Box<dyn StdError + Send + Sync>;

/// Who takes the keys that the service wraps for a TPM.
pub(crate) trait TakesKeys: Sync {
    /// Signs with this key from now on.
    fn sign_with(&self, key: Secret) -> Result<(), Error>;

    /// Keeps this one.
    fn import(&self, key: &[u8]) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A device that shows no TPM, to which the service wraps no keys.
pub(crate) struct NoTpm;

impl TakesKeys for NoTpm {
    fn sign_with(&self, _: Secret) -> Result<(), Error> {
        Err(unasked())
    }

    async fn import(&self, _: &[u8]) -> Result<(), Error> {
        Err(unasked())
    }
}

/// Somebody else's TPM, and the key of the challenge once there was one.
pub(crate) struct Challenged<'a, T> {
    tpm: &'a T,
    key: Mutex<Secret>,
}

impl<'a, T> Challenged<'a, T> {
    pub(crate) fn new(tpm: &'a T) -> Self {
        Self { tpm, key: Mutex::default() }
    }
}

impl<T: Tpm> TakesKeys for &Challenged<'_, T> {
    fn sign_with(&self, key: Secret) -> Result<(), Error> {
        *self.key.lock().expect("no panic while held") = key;
        Ok(())
    }

    async fn import(&self, key: &[u8]) -> Result<(), Error> {
        self.tpm.import(key).await.map_err(Error::Tpm)
    }
}

impl<T: Tpm> Signer for &Challenged<'_, T> {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let key = self.key.lock().expect("no panic while held").clone();
        self.tpm.sign_with(key.as_bytes(), message).await.map_err(SignError)
    }
}

fn unasked() -> Error {
    Error::Unexpected { what: "a key for a TPM".into() }
}

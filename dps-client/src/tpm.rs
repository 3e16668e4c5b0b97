//! What a registration needs of a TPM besides signatures. Does not know where the TPM is.

use std::error::Error as StdError;
use std::future::Future;

use http_common::sas::{SignError, Signer};

use crate::{Error, TpmKeys};

/// The TPM of this device, wherever it is. As a [`Signer`] it signs with the key that it has taken last.
pub trait Tpm: Signer {
    /// The public keys that tell this TPM from all others.
    fn public_keys(&self) -> impl Future<Output = Result<TpmKeys, Box<dyn StdError + Send + Sync>>> + Send;

    /// Let the TPM take `key`, which was wrapped for it alone.
    fn import(&self, key: &[u8]) -> impl Future<Output = Result<(), Box<dyn StdError + Send + Sync>>> + Send;
}

/// Who takes the keys that the service wraps for a TPM.
pub(crate) trait TakesKeys: Sync {
    /// Takes one.
    fn take(&self, key: &[u8]) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A device that shows no TPM, to which the service wraps no keys.
pub(crate) struct NoTpm;

impl TakesKeys for NoTpm {
    async fn take(&self, _: &[u8]) -> Result<(), Error> {
        Err(Error::Unexpected { what: "a key for a TPM".into() })
    }
}

/// Somebody else's TPM.
pub(crate) struct Borrowed<'a, T>(pub(crate) &'a T);

impl<T: Tpm> TakesKeys for Borrowed<'_, T> {
    async fn take(&self, key: &[u8]) -> Result<(), Error> {
        self.0.import(key).await.map_err(Error::Tpm)
    }
}

impl<T: Tpm> Signer for Borrowed<'_, T> {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.0.sign(message).await
    }
}

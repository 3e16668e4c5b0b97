//! What is done with the TPM, command by command (spec tpm-service, chapters 4 to 8). Knows no requests and no threads; it
//! waits for the TPM as long as that takes.
//!
//! Between two calls nothing of ours is in the TPM but three persistent objects: endorsement key, storage root key, auth
//! key. Every transient object and session is flushed by whoever made it ([`Tpm::with`]).

mod import;

use openssl::error::ErrorStack;
use tpm_api::{Config, HierarchyAuthorization};
use tpm_device::command::sized;
use tpm_device::primary::{ENDORSEMENT, Hierarchy, STORAGE_ROOT};
use tpm_device::{Connection, Failure, Refusal, code};

use crate::wrapped::{Malformed, is_hmac_key};

/// A TPM with endorsement key and storage root key in place.
pub(crate) struct Tpm {
    connection: Connection,
    authorization: HierarchyAuthorization,
    auth_key: u32,
    has_auth_key: bool,
}

/// The public keys, each a `TPM2B_PUBLIC` with its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKeys {
    pub(crate) endorsement_key: Vec<u8>,
    pub(crate) storage_root_key: Vec<u8>,
}

/// Why the TPM was not put to use as wanted.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// No auth key was imported so far.
    #[error("there is no auth key in the TPM at {handle:#x}")]
    NoAuthKey {
        /// Where it would be.
        handle: u32,
    },
    /// What was to be imported is no wrapped key.
    #[error("the key to be imported is malformed")]
    Malformed(#[from] Malformed),
    /// The key was wrapped for another TPM, or is damaged.
    #[error("the TPM cannot unwrap the key: it was made for another TPM, or is damaged")]
    NotOurs(#[source] Failure),
    /// The TPM took the key, but does not sign with it.
    #[error("the TPM does not sign with the key to be imported")]
    Useless(#[source] Failure),
    /// The object where the auth key belongs is none.
    #[error("at {handle:#x} the TPM holds an object that is no auth key; it is left alone")]
    Taken {
        /// Where.
        handle: u32,
    },
    /// A hierarchy does not accept its authorization value.
    #[error("the TPM does not accept the configured authorization value of the {hierarchy} hierarchy")]
    Unauthorized {
        /// Which: its name in the configuration.
        hierarchy: &'static str,
        /// What the TPM says.
        #[source]
        failure: Failure,
    },
    /// This machine has no random numbers.
    #[error("there are no random numbers")]
    NoRandomness(#[source] ErrorStack),
    /// Something else.
    #[error("the TPM does not do what it should")]
    Failed(#[from] Failure),
}

impl TpmError {
    /// Whether only a new connection can help.
    pub(crate) fn is_lost(&self) -> bool {
        // The others are the TPM's own words.
        matches!(self, Self::Failed(failure) if failure.is_lost())
    }
}

impl Tpm {
    /// Makes sure that the TPM has both keys, and looks for the auth key.
    pub(crate) fn prepare(connection: Connection, config: &Config) -> Result<Self, TpmError> {
        let mut tpm = Self {
            connection,
            authorization: config.hierarchy_authorization.clone(),
            auth_key: config.auth_key_index.handle(),
            has_auth_key: false,
        };
        for key in [&ENDORSEMENT, &STORAGE_ROOT] {
            let public = tpm.connection.ensure(key, |hierarchy| value(&tpm.authorization, hierarchy))?;
            if !key.fits(&public) {
                tracing::warn!(
                    "the {} at {:#x} is of another kind; it is used as it is",
                    key.name,
                    key.handle
                );
            }
        }
        tpm.has_auth_key = match tpm.connection.read_public(tpm.auth_key)? {
            Some(public) if is_hmac_key(&public) => true,
            Some(_) => {
                tracing::warn!(
                    "{}; configure another auth_key_index",
                    TpmError::Taken { handle: tpm.auth_key }
                );
                false
            }
            None => false,
        };
        Ok(tpm)
    }

    /// The public keys, read from the TPM; made anew if somebody has removed them.
    pub(crate) fn public_keys(&mut self) -> Result<PublicKeys, TpmError> {
        let mut whole = |key| {
            let public = self.connection.ensure(key, |hierarchy| value(&self.authorization, hierarchy))?;
            let mut whole = Vec::with_capacity(2 + public.len());
            sized(&mut whole, &public);
            Ok::<_, TpmError>(whole)
        };
        Ok(PublicKeys { endorsement_key: whole(&ENDORSEMENT)?, storage_root_key: whole(&STORAGE_ROOT)? })
    }

    /// HMAC-SHA256 of `data` with the auth key.
    pub(crate) fn sign(&mut self, data: &[u8]) -> Result<Vec<u8>, TpmError> {
        if !self.has_auth_key {
            return Err(TpmError::NoAuthKey { handle: self.auth_key });
        }
        let digest = self.connection.hmac(self.auth_key, data);
        let absent = |failure: &Failure| failure.refusal() == Some(code::HANDLE);
        let digest = digest.map_err(|failure| match absent(&failure) {
            true => TpmError::NoAuthKey { handle: self.auth_key },
            false => failure.into(),
        })?;
        Ok(digest.to_vec())
    }

    /// Works with the transient object or session `handle`, then removes it, whatever came of the work.
    fn with<T>(
        &mut self,
        handle: u32,
        work: impl FnOnce(&mut Self, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let result = work(self, handle);
        self.connection.release(handle);
        result
    }
}

impl From<Refusal> for TpmError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthorized { hierarchy, failure } => Self::Unauthorized { hierarchy, failure },
            Refusal::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// The authorization value of `hierarchy`.
fn value(values: &HierarchyAuthorization, hierarchy: Hierarchy) -> &[u8] {
    match hierarchy {
        Hierarchy::Endorsement => values.endorsement.as_bytes(),
        Hierarchy::Owner => values.owner.as_bytes(),
    }
}

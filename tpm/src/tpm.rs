//! What is done with the TPM, command by command (spec tpm-service, chapters 4 to 8). Knows no requests and no threads; it
//! waits for the TPM as long as that takes.
//!
//! Between two calls nothing of ours is in the TPM but three persistent objects: endorsement key, storage root key, auth
//! key. Every transient object and session is flushed by whoever made it ([`Tpm::with`]).

mod import;

use openssl::error::ErrorStack;
use tpm_api::{Config, HierarchyAuthorization};
use zeroize::Zeroizing;

use crate::code;
use crate::command::{
    CREATE_PRIMARY, Command, EVICT_CONTROL, GET_CAPABILITY, HMAC, HMAC_START, READ_PUBLIC, SEQUENCE_COMPLETE,
    SEQUENCE_UPDATE, sized,
};
use crate::connection::{Connection, Failure};
use crate::primary::{ENDORSEMENT, Hierarchy, Primary, STORAGE_ROOT};
use crate::wrapped::{Malformed, is_hmac_key};

/// A TPM with endorsement key and storage root key in place.
pub(crate) struct Tpm {
    connection: Connection,
    authorization: HierarchyAuthorization,
    auth_key: u32,
    has_auth_key: bool,
    /// The most bytes that one command takes as data.
    buffer: usize,
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
            buffer: SMALLEST_BUFFER,
        };
        for key in [&ENDORSEMENT, &STORAGE_ROOT] {
            let public = tpm.ensure(key)?;
            if !key.fits(&public) {
                tracing::warn!(
                    "the {} at {:#x} is of another kind; it is used as it is",
                    key.name,
                    key.handle
                );
            }
        }
        tpm.has_auth_key = match tpm.read_public(tpm.auth_key)? {
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
        tpm.buffer = tpm.input_buffer()?;
        Ok(tpm)
    }

    /// The public keys, read from the TPM; made anew if somebody has removed them.
    pub(crate) fn public_keys(&mut self) -> Result<PublicKeys, TpmError> {
        let mut whole = |key| {
            let public = self.ensure(key)?;
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
        let digest = self.hmac(self.auth_key, data);
        let absent = |failure: &Failure| failure.refusal() == Some(code::HANDLE);
        let digest = digest.map_err(|failure| match absent(&failure) {
            true => TpmError::NoAuthKey { handle: self.auth_key },
            false => failure.into(),
        })?;
        Ok(digest.to_vec())
    }

    /// HMAC-SHA256 of `data` with the `key`, in as many commands as it takes.
    fn hmac(&mut self, key: u32, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        if data.len() <= self.buffer {
            let hmac = Command::new(HMAC).handle(key).password(&[]).sized(data).u16(SHA256);
            return self.connection.run(&hmac, |response| response.sized());
        }
        let start = Command::new(HMAC_START).handle(key).password(&[]).sized(&[]).u16(SHA256);
        let sequence = self.connection.run(&start, |response| response.handle())?;
        let digest = self.feed(sequence, data);
        if digest.is_err() {
            // Completion removes a sequence; failure does not.
            self.flush(sequence);
        }
        digest
    }

    fn feed(&mut self, sequence: u32, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let with = |kind, chunk: &[u8]| Command::new(kind).handle(sequence).password(&[]).sized(chunk);
        let mut chunks = data.chunks(self.buffer);
        let last = chunks.next_back().unwrap_or_default();
        for chunk in chunks {
            self.connection.order(&with(SEQUENCE_UPDATE, chunk))?;
        }
        self.connection.run(&with(SEQUENCE_COMPLETE, last).u32(NO_HIERARCHY), |response| response.sized())
    }

    /// The public area of `key`, which is made if it is not at its handle. What is there is used as it is.
    fn ensure(&mut self, key: &Primary) -> Result<Vec<u8>, TpmError> {
        if let Some(public) = self.read_public(key.handle)? {
            return Ok(public);
        }
        tracing::info!("making the {}, which will stay at {:#x}", key.name, key.handle);
        let create = Command::new(CREATE_PRIMARY)
            .handle(key.hierarchy.handle())
            .password(self.authorization_of(key.hierarchy))
            .sized(&[0, 0, 0, 0]) // no authorization value, no data
            .raw(key.template)
            .sized(&[]) // nothing to be certified along
            .u32(0); // no PCRs
        let created =
            self.connection.run(&create, |response| Ok((response.handle()?, response.sized()?.to_vec())));
        let (created, public) = created.map_err(|failure| unauthorized(key.hierarchy, failure))?;
        self.with(created, |tpm, created| tpm.evict_control(created, key.handle))?;
        Ok(public)
    }

    /// Makes a transient `object` persistent at `handle`, or removes the persistent one.
    fn evict_control(&mut self, object: u32, handle: u32) -> Result<(), TpmError> {
        let evict = Command::new(EVICT_CONTROL)
            .handle(Hierarchy::Owner.handle())
            .handle(object)
            .password(self.authorization_of(Hierarchy::Owner))
            .u32(handle);
        self.connection.order(&evict).map_err(|failure| unauthorized(Hierarchy::Owner, failure))
    }

    /// The public area at `handle`, if there is an object.
    fn read_public(&mut self, handle: u32) -> Result<Option<Vec<u8>>, Failure> {
        let read = Command::new(READ_PUBLIC).handle(handle);
        match self.connection.run(&read, |response| response.sized()) {
            Ok(public) => Ok(Some(public.to_vec())),
            Err(failure) if failure.refusal() == Some(code::HANDLE) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The most bytes of data that this TPM takes at once; see the property of that name.
    fn input_buffer(&mut self) -> Result<usize, Failure> {
        let ask = Command::new(GET_CAPABILITY).u32(PROPERTIES).u32(INPUT_BUFFER).u32(1);
        let answer = self.connection.run(&ask, |response| {
            let (_more, _capability, count) = (response.u8()?, response.u32()?, response.u32()?);
            if count == 0 { Ok((0, 0)) } else { Ok((response.u32()?, response.u32()?)) }
        })?;
        Ok(match answer {
            (INPUT_BUFFER, size) => usize::try_from(size).unwrap_or(0).clamp(SMALLEST_BUFFER, LARGEST_BUFFER),
            _ => SMALLEST_BUFFER,
        })
    }

    /// Works with the transient object or session `handle`, then removes it, whatever came of the work.
    fn with<T>(
        &mut self,
        handle: u32,
        work: impl FnOnce(&mut Self, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let result = work(self, handle);
        self.flush(handle);
        result
    }

    fn flush(&mut self, handle: u32) {
        if let Err(failure) = self.connection.flush(handle) {
            tracing::warn!(
                "the TPM may keep {handle:#x} until it is reset: {}",
                http_common::chain(&failure)
            );
        }
    }

    fn authorization_of(&self, hierarchy: Hierarchy) -> &[u8] {
        match hierarchy {
            Hierarchy::Endorsement => self.authorization.endorsement.as_bytes(),
            Hierarchy::Owner => self.authorization.owner.as_bytes(),
        }
    }
}

fn unauthorized(hierarchy: Hierarchy, failure: Failure) -> TpmError {
    match failure.refusal() {
        Some(code::AUTH_FAIL | code::BAD_AUTH) => {
            TpmError::Unauthorized { hierarchy: hierarchy.name(), failure }
        }
        _ => failure.into(),
    }
}

/// TPM_RH_NULL, where a handle could be.
const NONE: u32 = 0x4000_0007;
/// The same, where a hierarchy could be.
const NO_HIERARCHY: u32 = NONE;
const SHA256: u16 = 0x000B;
/// TPM_CAP_TPM_PROPERTIES.
const PROPERTIES: u32 = 6;
/// TPM_PT_INPUT_BUFFER.
const INPUT_BUFFER: u32 = 0x10D;
/// Every TPM takes as much (PC Client Platform TPM Profile), in bytes.
const SMALLEST_BUFFER: usize = 1024;
/// Leaves room for the rest of a command, in bytes.
const LARGEST_BUFFER: usize = 2048;

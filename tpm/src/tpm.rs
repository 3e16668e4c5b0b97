//! What is done with the TPM, command by command (spec tpm-service, chapters 4 to 8). Knows no requests and no threads; it
//! waits for the TPM as long as that takes.
//!
//! Between two calls nothing of ours is in the TPM but three persistent objects: endorsement key, storage root key, auth
//! key. Every transient object and session is flushed by whoever made it ([`Tpm::with`]).

use openssl::error::ErrorStack;
use tpm_api::{Config, HierarchyAuthorization};
use zeroize::Zeroizing;

use crate::code;
use crate::command::{
    ACTIVATE_CREDENTIAL, CREATE_PRIMARY, Command, EVICT_CONTROL, GET_CAPABILITY, HMAC, HMAC_START, IMPORT,
    LOAD, POLICY_SECRET, READ_PUBLIC, SEQUENCE_COMPLETE, SEQUENCE_UPDATE, START_AUTH_SESSION, sized,
};
use crate::connection::{Connection, Failure};
use crate::template;
use crate::wrapped::{Malformed, WrappedKey, is_hmac_key};

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
            if !public.starts_with(template::fixed_part(key.template).get(2..).unwrap_or_default()) {
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

    /// Makes the key that is wrapped in `bytes` the auth key. Until the TPM has accepted it, the one before it stays.
    pub(crate) fn import(&mut self, bytes: &[u8]) -> Result<(), TpmError> {
        let key = WrappedKey::parse(bytes)?;
        let previous = self.read_public(self.auth_key)?;
        if previous.as_ref().is_some_and(|public| !is_hmac_key(public)) {
            return Err(TpmError::Taken { handle: self.auth_key });
        }
        self.has_auth_key = previous.is_some();
        let private = self.unwrap(&key).map_err(|error| self.blame(error))?;
        let load =
            Command::new(LOAD).handle(STORAGE_ROOT.handle).password(&[]).sized(&private).sized(key.public);
        let loaded = self.connection.run(&load, |response| response.handle()).map_err(not_ours)?;
        self.with(loaded, |tpm, loaded| {
            if tpm.has_auth_key {
                tpm.evict_control(tpm.auth_key, tpm.auth_key)?;
                tpm.has_auth_key = false;
            }
            tpm.evict_control(loaded, tpm.auth_key)?;
            tpm.has_auth_key = true;
            Ok(())
        })
    }

    /// HMAC-SHA256 of `data` with the auth key.
    pub(crate) fn sign(&mut self, data: &[u8]) -> Result<Vec<u8>, TpmError> {
        if !self.has_auth_key {
            return Err(TpmError::NoAuthKey { handle: self.auth_key });
        }
        let digest = match data.len() <= self.buffer {
            true => {
                let hmac = Command::new(HMAC).handle(self.auth_key).password(&[]).sized(data).u16(SHA256);
                self.connection.run(&hmac, |response| response.sized())
            }
            false => self.sign_long(data),
        };
        let absent = |failure: &Failure| failure.refusal() == Some(code::HANDLE);
        let digest = digest.map_err(|failure| match absent(&failure) {
            true => TpmError::NoAuthKey { handle: self.auth_key },
            false => failure.into(),
        })?;
        Ok(digest.to_vec())
    }

    /// HMAC of more data than one command takes.
    fn sign_long(&mut self, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let start = Command::new(HMAC_START).handle(self.auth_key).password(&[]).sized(&[]).u16(SHA256);
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

    /// The private part, wrapped anew by the storage root key.
    fn unwrap(&mut self, key: &WrappedKey<'_>) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let inner_key = self.unwrap_credential(key)?;
        let import = Command::new(IMPORT)
            .handle(STORAGE_ROOT.handle)
            .password(&[])
            .sized(&inner_key)
            .sized(key.public)
            .sized(key.duplicate)
            .sized(key.seed)
            .raw(&AES_128_CFB);
        self.connection.run(&import, |response| response.sized()).map_err(not_ours)
    }

    /// Some TPMs report a secret that was not encrypted to them as if they had failed. If they go on working, it was the key.
    fn blame(&mut self, error: TpmError) -> TpmError {
        match error {
            TpmError::Failed(failure)
                if failure.refusal() == Some(code::FAILURE)
                    && self.read_public(ENDORSEMENT.handle).is_ok() =>
            {
                TpmError::NotOurs(failure)
            }
            error => error,
        }
    }

    /// The key of the inner wrapper: the TPM gives it to nobody but the one it was made for.
    fn unwrap_credential(&mut self, key: &WrappedKey<'_>) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut nonce = [0; 32];
        openssl::rand::rand_bytes(&mut nonce).map_err(TpmError::NoRandomness)?;
        let start = Command::new(START_AUTH_SESSION)
            .handle(NONE)
            .handle(NONE)
            .sized(&nonce)
            .sized(&[]) // no salt
            .raw(&[POLICY_SESSION])
            .raw(&AES_128_CFB)
            .u16(SHA256);
        let session = self.connection.run(&start, |response| response.handle())?;
        self.with(session, |tpm, session| {
            let secret = Command::new(POLICY_SECRET)
                .handle(Hierarchy::Endorsement.handle())
                .handle(session)
                .password(tpm.authorization_of(Hierarchy::Endorsement))
                .sized(&[]) // no nonce, no parameters' hash, no reference, no expiration
                .sized(&[])
                .sized(&[])
                .u32(0);
            tpm.connection.order(&secret).map_err(|failure| unauthorized(Hierarchy::Endorsement, failure))?;
            let activate = Command::new(ACTIVATE_CREDENTIAL)
                .handle(STORAGE_ROOT.handle)
                .handle(ENDORSEMENT.handle)
                .password(&[])
                .policy(session)
                .sized(key.credential)
                .sized(key.credential_seed);
            tpm.connection.run(&activate, |response| response.sized()).map_err(not_ours)
        })
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

/// A key that is made from the seed of a hierarchy.
struct Primary {
    name: &'static str,
    handle: u32,
    hierarchy: Hierarchy,
    template: &'static [u8],
}

#[derive(Debug, Clone, Copy)]
enum Hierarchy {
    Endorsement,
    Owner,
}

impl Hierarchy {
    fn handle(self) -> u32 {
        match self {
            Self::Endorsement => 0x4000_000B,
            Self::Owner => 0x4000_0001,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Endorsement => "endorsement",
            Self::Owner => "owner",
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

fn not_ours(failure: Failure) -> TpmError {
    match failure.refusal() {
        // Refusals of format 1 are about what was given to the TPM.
        Some(code) if code & 0x80 != 0 => TpmError::NotOurs(failure),
        _ => failure.into(),
    }
}

const ENDORSEMENT: Primary = Primary {
    name: "endorsement key",
    handle: 0x8101_0001,
    hierarchy: Hierarchy::Endorsement,
    template: &template::ENDORSEMENT_KEY,
};

const STORAGE_ROOT: Primary = Primary {
    name: "storage root key",
    handle: 0x8100_0001,
    hierarchy: Hierarchy::Owner,
    template: &template::STORAGE_ROOT_KEY,
};

/// TPM_RH_NULL, where a handle could be.
const NONE: u32 = 0x4000_0007;
/// The same, where a hierarchy could be.
const NO_HIERARCHY: u32 = NONE;
const POLICY_SESSION: u8 = 1;
const SHA256: u16 = 0x000B;
const AES_128_CFB: [u8; 6] = [0, 0x06, 0, 0x80, 0, 0x43];
/// TPM_CAP_TPM_PROPERTIES.
const PROPERTIES: u32 = 6;
/// TPM_PT_INPUT_BUFFER.
const INPUT_BUFFER: u32 = 0x10D;
/// Every TPM takes as much (PC Client Platform TPM Profile), in bytes.
const SMALLEST_BUFFER: usize = 1024;
/// Leaves room for the rest of a command, in bytes.
const LARGEST_BUFFER: usize = 2048;

//! What every user of a TPM does with what is in it: reads public areas, sees to primary keys, computes HMACs, and leaves
//! nothing behind. Waits for the TPM as long as that takes.

use zeroize::Zeroizing;

use crate::code;
use crate::command::{
    CREATE_PRIMARY, Command, EVICT_CONTROL, GET_CAPABILITY, HMAC, HMAC_START, READ_PUBLIC, SEQUENCE_COMPLETE,
    SEQUENCE_UPDATE,
};
use crate::connection::{Connection, Failure};
use crate::primary::{Hierarchy, Primary};

/// Why something was not done in the name of a hierarchy.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The hierarchy does not accept its authorization value.
    #[error("the TPM does not accept the authorization value of the {hierarchy} hierarchy")]
    Unauthorized {
        /// Which: its name in configurations.
        hierarchy: &'static str,
        /// What the TPM says.
        #[source]
        failure: Failure,
    },
    /// Something else.
    #[error("the TPM does not do what it should")]
    Failed(#[from] Failure),
}

impl Refusal {
    /// What `failure` means, if the command was authorized by `hierarchy`.
    pub fn by(hierarchy: Hierarchy, failure: Failure) -> Self {
        match failure.refusal() {
            Some(code::AUTH_FAIL | code::BAD_AUTH) => {
                Self::Unauthorized { hierarchy: hierarchy.name(), failure }
            }
            _ => Self::Failed(failure),
        }
    }
}

impl Connection {
    /// The public area (`TPMT_PUBLIC`) at `handle`, if there is an object.
    pub fn read_public(&mut self, handle: u32) -> Result<Option<Vec<u8>>, Failure> {
        let read = Command::new(READ_PUBLIC).handle(handle);
        match self.run(&read, |response| response.sized()) {
            Ok(public) => Ok(Some(public.to_vec())),
            Err(failure) if failure.refusal() == Some(code::HANDLE) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The public area of `key`, which is made if it is not at its handle. What is there is used as it is.
    /// `authorization` gives the values of hierarchies.
    pub fn ensure<'a>(
        &mut self,
        key: &Primary,
        authorization: impl Fn(Hierarchy) -> &'a [u8],
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(public) = self.read_public(key.handle)? {
            return Ok(public);
        }
        tracing::info!("making the {}, which will stay at {:#x}", key.name, key.handle);
        let (created, public) =
            self.create_primary(key.hierarchy, key.template, authorization(key.hierarchy))?;
        let kept = self.evict_control(created, key.handle, authorization(Hierarchy::Owner));
        self.release(created);
        match kept {
            // Another program has made it in the meantime.
            Err(Refusal::Failed(failure)) if failure.refusal() == Some(code::NV_DEFINED) => {
                self.read_public(key.handle)?.ok_or(Refusal::Failed(failure))
            }
            kept => kept.map(|()| public),
        }
    }

    /// A transient key from the seed of `hierarchy`, whose value is `authorization`, by a `template` with its length; and its
    /// public area.
    pub fn create_primary(
        &mut self,
        hierarchy: Hierarchy,
        template: &[u8],
        authorization: &[u8],
    ) -> Result<(u32, Vec<u8>), Refusal> {
        let create = Command::new(CREATE_PRIMARY)
            .handle(hierarchy.handle())
            .password(authorization)
            .sized(&[0, 0, 0, 0]) // no authorization value, no data
            .raw(template)
            .sized(&[]) // nothing to be certified along
            .u32(0); // no PCRs
        let created = self.run(&create, |response| Ok((response.handle()?, response.sized()?.to_vec())));
        created.map_err(|failure| Refusal::by(hierarchy, failure))
    }

    /// Makes a transient `object` persistent at `handle`, or removes the persistent one; `owner` is the value of the owner
    /// hierarchy.
    pub fn evict_control(&mut self, object: u32, handle: u32, owner: &[u8]) -> Result<(), Refusal> {
        let evict = Command::new(EVICT_CONTROL)
            .handle(Hierarchy::Owner.handle())
            .handle(object)
            .password(owner)
            .u32(handle);
        self.order(&evict).map_err(|failure| Refusal::by(Hierarchy::Owner, failure))?;
        self.locked.retain(|(locked, _)| *locked != handle);
        Ok(())
    }

    /// HMAC-SHA256 of `data` with the `key`, in as many commands as it takes.
    pub fn hmac(&mut self, key: u32, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        if data.len() <= SMALLEST_BUFFER || data.len() <= self.buffer()? {
            let hmac = Command::new(HMAC).handle(key).password(&[]).sized(data).u16(SHA256);
            return self.run(&hmac, |response| response.sized());
        }
        let start = Command::new(HMAC_START).handle(key).password(&[]).sized(&[]).u16(SHA256);
        let sequence = self.run(&start, |response| response.handle())?;
        let digest = self.feed(sequence, data);
        if digest.is_err() {
            // Completion removes a sequence; failure does not.
            self.release(sequence);
        }
        digest
    }

    /// Removes a transient object, sequence or session. That it cannot be removed is logged.
    pub fn release(&mut self, handle: u32) {
        if let Err(failure) = self.flush(handle) {
            tracing::warn!(
                "the TPM may keep {handle:#x} until it is reset: {}",
                http_common::chain(&failure)
            );
        }
    }

    fn feed(&mut self, sequence: u32, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let with = |kind, chunk: &[u8]| Command::new(kind).handle(sequence).password(&[]).sized(chunk);
        let mut chunks = data.chunks(self.buffer()?);
        let last = chunks.next_back().unwrap_or_default();
        for chunk in chunks {
            self.order(&with(SEQUENCE_UPDATE, chunk))?;
        }
        self.run(&with(SEQUENCE_COMPLETE, last).u32(NONE), |response| response.sized())
    }

    /// The most bytes of data that this TPM takes at once.
    fn buffer(&mut self) -> Result<usize, Failure> {
        if let Some(buffer) = self.input_buffer {
            return Ok(buffer);
        }
        let ask = Command::new(GET_CAPABILITY).u32(PROPERTIES).u32(INPUT_BUFFER).u32(1);
        let answer = self.run(&ask, |response| {
            let (_more, _capability, count) = (response.u8()?, response.u32()?, response.u32()?);
            if count == 0 { Ok((0, 0)) } else { Ok((response.u32()?, response.u32()?)) }
        })?;
        let buffer = match answer {
            (INPUT_BUFFER, size) => usize::try_from(size).unwrap_or(0).clamp(SMALLEST_BUFFER, LARGEST_BUFFER),
            _ => SMALLEST_BUFFER,
        };
        self.input_buffer = Some(buffer);
        Ok(buffer)
    }
}

/// TPM_RH_NULL: where a handle or a hierarchy could be.
pub const NONE: u32 = 0x4000_0007;
/// TPM_ALG_SHA256.
pub const SHA256: u16 = 0x000B;
/// TPM_CAP_TPM_PROPERTIES.
const PROPERTIES: u32 = 6;
/// TPM_PT_INPUT_BUFFER.
const INPUT_BUFFER: u32 = 0x10D;
/// Every TPM takes as much (PC Client Platform TPM Profile), in bytes.
const SMALLEST_BUFFER: usize = 1024;
/// Leaves room for the rest of a command, in bytes.
const LARGEST_BUFFER: usize = 2048;

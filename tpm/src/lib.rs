//! tpmd lends the TPM of this device to its provisioning: it tells the TPM's keys, takes the auth key that the
//! provisioning service wraps for this TPM alone, and signs with it.
//!
//! ```text
//!   request ──► handlers ──► owner: one thread ──► tpm: what is done, command by command
//!                 │                                  └► connection: one command, again where the TPM asks for it
//!                 └► access: principals                   ├► command, code: bytes
//!                                                         └► ffi: TCTI ──► TPM
//! ```
//!
//! The commands are built here, in safe code, and only the TCTI loader of tpm2-tss is called: a context of `tss-esapi`
//! opens four kinds of TCTI and no others, has no HMAC sequences, and cannot be had without a TPM, so that nobody could
//! test what happens when a TPM is busy, full, or gone.
//!
//! tpmd keeps no files; what lasts is in the TPM.

mod access;
mod code;
mod command;
mod connection;
mod daemon;
mod error;
mod ffi;
mod handlers;
mod owner;
mod primary;
mod show;
mod tpm;
mod wrapped;

use tpm_api::Config;

use access::Access;
use owner::Owner;

pub use code::ResponseCode;
pub use connection::Failure;
pub use error::{Error, Unavailable};
pub use ffi::quiet_library;
pub use show::show_ek;
pub use tpm::TpmError;
pub use wrapped::Malformed;

/// The state of tpmd.
pub struct Tpmd {
    owner: Owner,
    access: Access,
    /// What the daemon was started with, to tell at a reload what needs a restart.
    started_with: Config,
}

impl Tpmd {
    /// tpmd with the TPM that `config` names. It need not be there yet.
    pub fn new(config: Config) -> Result<Self, Error> {
        let owner = Owner::start(config.clone()).map_err(|_| Error::Worker)?;
        Ok(Self { owner, access: Access::new(&config), started_with: config })
    }
}

//! tpmd lends the TPM of this device to its provisioning: it tells the TPM's keys, takes the auth key that the
//! provisioning service wraps for this TPM alone, and signs with it.
//!
//! ```text
//!   request ──► handlers ──► owner: one thread ──► tpm: what is done, command by command
//!                 │                                  └► tpm-device: the commands, and the way to the TPM
//!                 └► access: principals
//! ```
//!
//! tpmd keeps no files; what lasts is in the TPM.

mod access;
mod daemon;
mod error;
mod handlers;
mod owner;
mod show;
mod tpm;
mod wrapped;

use tpm_api::Config;

use access::Access;
use owner::Owner;

pub use error::{Error, Unavailable};
pub use show::show_ek;
pub use tpm::TpmError;
pub use tpm_device::{Failure, ResponseCode, quiet_library};
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

//! A TPM, for daemons that talk to one: commands as bytes, the way there, patience, and the keys that every TPM has.
//! Does not know what a daemon wants of it.
//!
//! ```text
//!   objects: reads, makes, uses what is in the TPM
//!      └► connection: one command, again where the TPM asks for it
//!            ├► command, code: bytes
//!            └► ffi: TCTI ──► TPM
//! ```
//!
//! The commands are built here, in safe code, and only the TCTI loader of tpm2-tss is called: a context of `tss-esapi`
//! opens four kinds of TCTI and no others, has no HMAC sequences, and cannot be had without a TPM, so that nobody could
//! test what happens when a TPM is busy, full, or gone.

mod connection;
mod ffi;
mod objects;

pub mod code;
pub mod command;
pub mod primary;

pub use code::ResponseCode;
pub use connection::{Connection, Failure, OpenError, Transport};
pub use ffi::quiet_library;
pub use objects::{NONE, Refusal, SHA256};

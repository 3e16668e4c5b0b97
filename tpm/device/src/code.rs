//! What a TPM, or the way to it, says instead of a result: a code, and its name for the log. Decides nothing.

use std::fmt;

/// A response code (TPM 2.0 Library, part 2, 6.6) or a code of tpm2-tss (TSS 2.0 Overview, 4). 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseCode(pub(crate) u32);

impl ResponseCode {
    /// Our own: tpm2-tss reports success without a usable context.
    pub(crate) const NO_CONTEXT: Self = Self(TCTI_LAYER | 3);

    /// An error unless this is success.
    pub fn ok(self) -> Result<(), Self> {
        match self.0 {
            0 => Ok(()),
            _ => Err(self),
        }
    }

    /// What is wrong, without where: comparable with the constants of this file.
    pub fn error(self) -> u32 {
        match self.0 & LAYER {
            TPM_LAYER | RESOURCE_MANAGER_TPM_LAYER if self.0 & FORMAT_1 != 0 => self.0 & 0xBF,
            TPM_LAYER | RESOURCE_MANAGER_TPM_LAYER => self.0 & 0xFFF,
            _ => self.0,
        }
    }

    fn place(self) -> Option<(&'static str, u32)> {
        let number = (self.0 >> 8) & 0xF;
        match self.0 {
            code if code & FORMAT_1 == 0 => None,
            code if code & 0x40 != 0 => Some(("parameter", number)),
            code if code & 0x800 != 0 => Some(("session", number & 7)),
            _ => Some(("handle", number)),
        }
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.error();
        match NAMES.iter().find(|(code, _)| *code == error) {
            Some((_, name)) => f.write_str(name)?,
            None if self.0 & LAYER == TPM_LAYER => f.write_str("an error of the TPM")?,
            None => f.write_str("an error on the way to the TPM")?,
        }
        if let Some((what, number)) = self.place().filter(|(_, number)| *number != 0) {
            write!(f, " for {what} {number}")?;
        }
        write!(f, " ({:#X})", self.0)
    }
}

impl std::error::Error for ResponseCode {}

/// The bits that tell who reports the error.
const LAYER: u32 = 0x00FF_0000;
const TPM_LAYER: u32 = 0;
const TCTI_LAYER: u32 = 0x000A_0000;
const RESOURCE_MANAGER_TPM_LAYER: u32 = 0x000B_0000;
/// The bit of a code that names a parameter, session or handle.
pub(crate) const FORMAT_1: u32 = 0x80;

/// There is no object at the handle.
pub const HANDLE: u32 = 0x08B;
/// An authorization failed, and is counted by the lockout.
pub const AUTH_FAIL: u32 = 0x08E;
/// An authorization failed.
pub const BAD_AUTH: u32 = 0x0A2;
/// TPM2_Startup is needed first.
pub const INITIALIZE: u32 = 0x100;
/// The TPM has failed.
pub const FAILURE: u32 = 0x101;
/// A persistent object or an index is there already.
pub const NV_DEFINED: u32 = 0x14C;
/// No room for another object.
pub const OBJECT_MEMORY: u32 = 0x902;
/// No room for another session.
pub const SESSION_MEMORY: u32 = 0x903;
/// All session handles are in use.
pub const SESSION_HANDLES: u32 = 0x905;
/// The command was suspended; to be repeated.
pub const YIELDED: u32 = 0x908;
/// A self-test is under way.
pub const TESTING: u32 = 0x90A;
/// Writes are slowed down to spare the memory.
pub const NV_RATE: u32 = 0x920;
/// A transient object is not loaded.
pub const REFERENCE_H0: u32 = 0x910;
/// The TPM could not start the command; to be repeated.
pub const RETRY: u32 = 0x922;

const NAMES: &[(u32, &str)] = &[
    (0x081, "TPM_RC_ASYMMETRIC"),
    (0x082, "TPM_RC_ATTRIBUTES"),
    (0x083, "TPM_RC_HASH"),
    (0x084, "TPM_RC_VALUE"),
    (0x085, "TPM_RC_HIERARCHY"),
    (0x087, "TPM_RC_KEY_SIZE"),
    (0x089, "TPM_RC_MODE"),
    (0x08A, "TPM_RC_TYPE"),
    (HANDLE, "TPM_RC_HANDLE"),
    (0x08D, "TPM_RC_RANGE"),
    (AUTH_FAIL, "TPM_RC_AUTH_FAIL"),
    (0x092, "TPM_RC_SCHEME"),
    (0x095, "TPM_RC_SIZE"),
    (0x096, "TPM_RC_SYMMETRIC"),
    (0x098, "TPM_RC_SELECTOR"),
    (0x09A, "TPM_RC_INSUFFICIENT"),
    (0x09C, "TPM_RC_KEY"),
    (0x09D, "TPM_RC_POLICY_FAIL"),
    (0x09F, "TPM_RC_INTEGRITY"),
    (0x0A1, "TPM_RC_RESERVED_BITS"),
    (BAD_AUTH, "TPM_RC_BAD_AUTH"),
    (0x0A4, "TPM_RC_BINDING"),
    (INITIALIZE, "TPM_RC_INITIALIZE"),
    (FAILURE, "TPM_RC_FAILURE"),
    (0x120, "TPM_RC_DISABLED"),
    (0x125, "TPM_RC_AUTH_MISSING"),
    (0x12D, "TPM_RC_UPGRADE"),
    (0x130, "TPM_RC_REBOOT"),
    (0x143, "TPM_RC_COMMAND_CODE"),
    (0x14B, "TPM_RC_NV_SPACE"),
    (NV_DEFINED, "TPM_RC_NV_DEFINED"),
    (0x153, "TPM_RC_NEEDS_TEST"),
    (OBJECT_MEMORY, "TPM_RC_OBJECT_MEMORY"),
    (SESSION_MEMORY, "TPM_RC_SESSION_MEMORY"),
    (0x904, "TPM_RC_MEMORY"),
    (SESSION_HANDLES, "TPM_RC_SESSION_HANDLES"),
    (YIELDED, "TPM_RC_YIELDED"),
    (0x909, "TPM_RC_CANCELED"),
    (REFERENCE_H0, "TPM_RC_REFERENCE_H0"),
    (TESTING, "TPM_RC_TESTING"),
    (NV_RATE, "TPM_RC_NV_RATE"),
    (0x921, "TPM_RC_LOCKOUT"),
    (RETRY, "TPM_RC_RETRY"),
    (0x923, "TPM_RC_NV_UNAVAILABLE"),
    (TCTI_LAYER | 1, "general failure of the TCTI"),
    (TCTI_LAYER | 2, "not implemented by the TCTI"),
    (TCTI_LAYER | 3, "the TCTI gives no usable context"),
    (TCTI_LAYER | 5, "bad reference for the TCTI"),
    (TCTI_LAYER | 7, "bad sequence for the TCTI"),
    (TCTI_LAYER | 8, "the TCTI has no connection"),
    (TCTI_LAYER | 9, "the TCTI does not answer in time"),
    (TCTI_LAYER | 10, "input/output error of the TCTI"),
    (TCTI_LAYER | 11, "the TCTI string has a bad value"),
    (TCTI_LAYER | 12, "permission denied by the TCTI"),
    (TCTI_LAYER | 17, "malformed response at the TCTI"),
    (TCTI_LAYER | 21, "not supported by the TCTI"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names_and_places() {
        for (code, error, text) in [
            (0x18B, HANDLE, "TPM_RC_HANDLE for handle 1 (0x18B)"),
            (0x9A2, BAD_AUTH, "TPM_RC_BAD_AUTH for session 1 (0x9A2)"),
            (0x98E, AUTH_FAIL, "TPM_RC_AUTH_FAIL for session 1 (0x98E)"),
            (0x2DF, 0x09F, "TPM_RC_INTEGRITY for parameter 2 (0x2DF)"),
            (0x922, RETRY, "TPM_RC_RETRY (0x922)"),
            (0x100, INITIALIZE, "TPM_RC_INITIALIZE (0x100)"),
            (0xB018B, HANDLE, "TPM_RC_HANDLE for handle 1 (0xB018B)"),
            (0xA000A, 0xA000A, "input/output error of the TCTI (0xA000A)"),
            (0x7F, 0x7F, "an error of the TPM (0x7F)"),
            (0xC0001, 0xC0001, "an error on the way to the TPM (0xC0001)"),
        ] {
            assert_eq!((ResponseCode(code).error(), ResponseCode(code).to_string().as_str()), (error, text));
        }
    }
}

//! The way to the TPM: bytes to it and bytes from it, through the TCTI loader of tpm2-tss. Does not know what they mean.
//!
//! The only unsafe code around TPMs. tpm2-tss promises for a context (TCG TSS 2.0 TCTI Specification, 3.2): it belongs to one
//! caller at a time, and begins with a table of functions of version 1 or later.

#![allow(unsafe_code, reason = "the loader and the contexts of tpm2-tss are C")]

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use tss_esapi_sys::{
    TSS2_TCTI_CONTEXT, TSS2_TCTI_CONTEXT_COMMON_V1, TSS2_TCTI_RECEIVE_FCN, TSS2_TCTI_TIMEOUT_BLOCK,
    TSS2_TCTI_TRANSMIT_FCN, Tss2_TctiLdr_Finalize, Tss2_TctiLdr_Initialize, size_t,
};
use zeroize::Zeroizing;

use crate::code::ResponseCode;
use crate::connection::Transport;

/// Keeps tpm2-tss from writing its own lines to standard error, which repeat ours, unless the environment says which it
/// should write. To be called first in `main`.
pub fn quiet_library() {
    if std::env::var_os(LIBRARY_LOG).is_none() {
        // SAFETY: `main` has just begun, so there is no other thread that could look at the environment.
        unsafe { std::env::set_var(LIBRARY_LOG, "all+none") };
    }
}

/// An open TCTI context; closed when dropped.
pub(crate) struct Tcti {
    context: NonNull<TSS2_TCTI_CONTEXT>,
    transmit: TSS2_TCTI_TRANSMIT_FCN,
    receive: TSS2_TCTI_RECEIVE_FCN,
}

// SAFETY: a context is bound to no thread, and nobody else has a pointer to this one.
unsafe impl Send for Tcti {}

impl Tcti {
    /// Opens what `name` says, in the loader's own syntax; the empty name lets the loader search.
    pub(crate) fn open(name: &CStr) -> Result<Self, ResponseCode> {
        let name = if name.is_empty() { ptr::null() } else { name.as_ptr() };
        let mut context = ptr::null_mut();
        // SAFETY: the name is null or ends with a zero byte and lives longer than the call, which keeps no pointer to it;
        // the other pointer is to a variable of the right type.
        let code = unsafe { Tss2_TctiLdr_Initialize(name, &raw mut context) };
        ResponseCode(code).ok()?;
        let context = NonNull::new(context).ok_or(ResponseCode::NO_CONTEXT)?;
        let table = context.cast::<TSS2_TCTI_CONTEXT_COMMON_V1>();
        // SAFETY: the loader succeeded, so the context begins with this table, and nobody writes it.
        let table = unsafe { table.as_ref() };
        Ok(Self { context, transmit: table.transmit, receive: table.receive })
    }
}

impl Transport for Tcti {
    fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
        let transmit = self.transmit.ok_or(ResponseCode::NO_CONTEXT)?;
        let size = size(command.len())?;
        // SAFETY: the function is the context's own; the command is only read, and only for as long as the call takes.
        let code = unsafe { transmit(self.context.as_ptr(), size, command.as_ptr()) };
        ResponseCode(code).ok()
    }

    fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
        let receive = self.receive.ok_or(ResponseCode::NO_CONTEXT)?;
        let mut response = Zeroizing::new(vec![0; LARGEST_RESPONSE]);
        let mut size = size(response.len())?;
        let buffer = response.as_mut_ptr();
        // SAFETY: the function is the context's own; the buffer has `size` bytes, of which the call writes no more, and
        // lives longer than the call.
        let code = unsafe { receive(self.context.as_ptr(), &raw mut size, buffer, TSS2_TCTI_TIMEOUT_BLOCK) };
        ResponseCode(code).ok()?;
        response.truncate(usize::try_from(size).map_err(|_| ResponseCode::NO_CONTEXT)?);
        Ok(response)
    }
}

impl Drop for Tcti {
    fn drop(&mut self) {
        let mut context = self.context.as_ptr();
        // SAFETY: the context came from the loader, is finalized only here, and is not used afterwards.
        unsafe { Tss2_TctiLdr_Finalize(&raw mut context) };
    }
}

fn size(length: usize) -> Result<size_t, ResponseCode> {
    size_t::try_from(length).map_err(|_| ResponseCode::NO_CONTEXT)
}

/// The variable from which tpm2-tss takes what it logs.
const LIBRARY_LOG: &str = "TSS2_LOG";
/// More than any TPM answers, in bytes (TPM2_MAX_RESPONSE_SIZE of tpm2-tss).
const LARGEST_RESPONSE: usize = 4096;

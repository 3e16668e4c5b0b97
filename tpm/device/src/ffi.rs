//! The way to the TPM: bytes to it and bytes from it, through the TCTI loader of tpm2-tss, which is loaded when it
//! is needed: a program that may use a TPM starts without tpm2-tss, too. Does not know what the bytes mean.
//!
//! The only unsafe code around TPMs. tpm2-tss promises for a context (TCG TSS 2.0 TCTI Specification, 3.2): it belongs to one
//! caller at a time, and begins with a table of functions of version 1 or later.

#![allow(unsafe_code, reason = "the loader and the contexts of tpm2-tss are C")]

use std::ffi::{CStr, c_char};
use std::ptr::{self, NonNull};

use libloading::Library;
use zeroize::Zeroizing;

use crate::code::ResponseCode;
use crate::connection::{OpenError, Transport};

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
    context: NonNull<Context>,
    transmit: Option<Transmit>,
    receive: Option<Receive>,
    /// Has the functions, so it goes last.
    loader: Library,
}

/// The table that every context begins with (`TSS2_TCTI_CONTEXT_COMMON_V1`); what follows is the context's own.
#[repr(C)]
struct Context {
    magic: u64,
    version: u32,
    transmit: Option<Transmit>,
    receive: Option<Receive>,
}

type Transmit = unsafe extern "C" fn(*mut Context, usize, *const u8) -> u32;
type Receive = unsafe extern "C" fn(*mut Context, *mut usize, *mut u8, i32) -> u32;
type Initialize = unsafe extern "C" fn(*const c_char, *mut *mut Context) -> u32;
type Finalize = unsafe extern "C" fn(*mut *mut Context);

// SAFETY: a context is bound to no thread, and nobody else has a pointer to this one.
unsafe impl Send for Tcti {}

impl Tcti {
    /// Opens what `name` says, in the loader's own syntax; the empty name lets the loader search.
    pub(crate) fn open(name: &CStr) -> Result<Self, OpenError> {
        // SAFETY: what this library does when it is loaded and unloaded touches nothing of ours.
        let loader = unsafe { Library::new(LOADER) }.map_err(OpenError::NoLoader)?;
        // SAFETY: tss2_tctildr.h declares the function so, and has done so in all releases with this file name.
        let initialize = unsafe { loader.get::<Initialize>(INITIALIZE) }.map_err(OpenError::NoLoader)?;
        let name = if name.is_empty() { ptr::null() } else { name.as_ptr() };
        let mut context = ptr::null_mut();
        // SAFETY: the name is null or ends with a zero byte and lives longer than the call, which keeps no pointer to it;
        // the other pointer is to a variable of the right type.
        let code = unsafe { initialize(name, &raw mut context) };
        ResponseCode(code).ok()?;
        let context = NonNull::new(context).ok_or(ResponseCode::NO_CONTEXT)?;
        // SAFETY: the loader succeeded, so the context begins with this table, and nobody writes it.
        let &Context { transmit, receive, .. } = unsafe { context.as_ref() };
        Ok(Self { context, transmit, receive, loader })
    }
}

impl Transport for Tcti {
    fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
        let transmit = self.transmit.ok_or(ResponseCode::NO_CONTEXT)?;
        // SAFETY: the function is the context's own; the command is only read, and only for as long as the call takes.
        let code = unsafe { transmit(self.context.as_ptr(), command.len(), command.as_ptr()) };
        ResponseCode(code).ok()
    }

    fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
        let receive = self.receive.ok_or(ResponseCode::NO_CONTEXT)?;
        let mut response = Zeroizing::new(vec![0; LARGEST_RESPONSE]);
        let mut size = response.len();
        let buffer = response.as_mut_ptr();
        // SAFETY: the function is the context's own; the buffer has `size` bytes, of which the call writes no more, and
        // lives longer than the call.
        let code = unsafe { receive(self.context.as_ptr(), &raw mut size, buffer, FOR_EVER) };
        ResponseCode(code).ok()?;
        response.truncate(size);
        Ok(response)
    }
}

impl Drop for Tcti {
    fn drop(&mut self) {
        // SAFETY: tss2_tctildr.h declares the function so.
        let Ok(finalize) = (unsafe { self.loader.get::<Finalize>(FINALIZE) }) else { return };
        let mut context = self.context.as_ptr();
        // SAFETY: the context came from this loader, is finalized only here, and is not used afterwards.
        unsafe { finalize(&raw mut context) };
    }
}

/// The TCTI loader by the name of its ABI, which has been the same since tpm2-tss 2.3.
const LOADER: &str = "libtss2-tctildr.so.0";
const INITIALIZE: &[u8] = b"Tss2_TctiLdr_Initialize\0";
const FINALIZE: &[u8] = b"Tss2_TctiLdr_Finalize\0";
/// TSS2_TCTI_TIMEOUT_BLOCK.
const FOR_EVER: i32 = -1;
/// The variable from which tpm2-tss takes what it logs.
const LIBRARY_LOG: &str = "TSS2_LOG";
/// More than any TPM answers, in bytes (TPM2_MAX_RESPONSE_SIZE of tpm2-tss).
const LARGEST_RESPONSE: usize = 4096;

//! `aziot.so`, an OpenSSL 3 and 4 provider for keys in keyd. Nothing but the entry point: all of it is in
//! `key_engine::ffi`.

#![allow(unsafe_code, reason = "the entry point is called by C")]

use std::ffi::{c_int, c_void};

use key_engine::ffi::{CoreHandle, Dispatch, provider_init};

/// The one exported function (provider-base(7)).
///
/// # Safety
/// Called by libcrypto, with what it passes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const CoreHandle,
    functions: *const Dispatch,
    out: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { provider_init(handle, functions, out, context) }
}

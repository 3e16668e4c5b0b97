//! The TLS groups on EC keys, exactly as OpenSSL's default provider describes them.
//!
//! libssl uses a group only if the provider that describes it is the one whose key management it finds for the group's
//! type of key. When this provider is found first for EC, because it was loaded first or because of a property query,
//! NIST's curves would be gone from TLS without this. Keys for key exchange are ordinary ones (see `keydata`).

use std::ffi::{CStr, c_char, c_int, c_void};

use super::object::{status, with_provider};
use super::params::{find, slice};
use super::provider::Provider;
use super::sys::{self, Callback, Param};

/// Describes what libssl asks for.
pub(super) unsafe extern "C" fn get_capabilities(
    context: *mut c_void,
    capability: *const c_char,
    callback: Option<Callback>,
    argument: *mut c_void,
) -> c_int {
    let (Some(callback), false) = (callback, capability.is_null()) else { return 0 };
    // SAFETY: libcrypto passes a C string.
    if unsafe { CStr::from_ptr(capability) } != c"TLS-GROUP" {
        return 0;
    }
    let describe = |provider: std::sync::Arc<Provider>| {
        let mut listener = Listener { callback, argument };
        let listener = std::ptr::from_mut(&mut listener).cast();
        // SAFETY: the provider lives, and so does the listener until the call is over.
        unsafe {
            sys::OSSL_PROVIDER_get_capabilities(
                provider.default.as_ptr(),
                capability,
                Some(pass_on),
                listener,
            )
        };
        Ok(())
    };
    // SAFETY: libcrypto passes the provider's context.
    status(unsafe { with_provider(context, describe) })
}

struct Listener {
    callback: Callback,
    argument: *mut c_void,
}

/// Passes groups on EC keys on, and no others.
unsafe extern "C" fn pass_on(params: *const Param, listener: *mut c_void) -> c_int {
    // SAFETY: it is what `get_capabilities` passed.
    let Some(listener) = (unsafe { listener.cast::<Listener>().as_ref() }) else { return 0 };
    // SAFETY: libcrypto passes a complete array.
    let group = unsafe { slice(params) };
    match find(group, c"tls-group-alg").and_then(Param::text) {
        // SAFETY: they came together.
        Some("EC") => unsafe { (listener.callback)(params, listener.argument) },
        _ => 1,
    }
}

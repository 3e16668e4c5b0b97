//! The border to OpenSSL: the only part of this crate that says `unsafe`, one operation at a time. A provider
//! (provider(7)) in dispatch tables; the same tables serve `aziot.so` and the provider that is registered in process.

#![allow(unsafe_code, reason = "this is the border to OpenSSL; see the module's documentation")]

mod asym_cipher;
mod capabilities;
mod core;
mod decoder;
mod digest;
mod encoder;
mod evp;
mod generation;
mod inprocess;
mod keydata;
mod keymgmt;
mod note;
mod object;
mod params;
mod provider;
mod signature;
mod signing;
mod store;
mod sys;

use std::cell::RefCell;
use std::ffi::CStr;
use std::sync::Arc;

pub use inprocess::Loaded;
pub use provider::{environment, provider_init};
pub use sys::{CoreHandle, Dispatch};
use zeroize::Zeroizing;

use crate::Error;
use crate::remote::RemoteKey;

/// The bytes at `data`; none if it is null.
///
/// # Safety
/// `data` is null or has `length` bytes that live as long as `'a`.
unsafe fn input<'a>(data: *const u8, length: usize) -> &'a [u8] {
    match data.is_null() {
        true => &[],
        // SAFETY: as promised by the caller.
        false => unsafe { std::slice::from_raw_parts(data, length) },
    }
}

/// Puts what `make` makes at `out`, and its length at `length`. With a null `out`, only says that `needed` bytes are
/// enough, and makes nothing. Nor does it with less room, as OpenSSL for its own keys: what fits by chance would tell
/// how long a result is, which is a secret where decryption makes one up.
///
/// # Safety
/// `out` is null or has `room` bytes; `length` can be written.
unsafe fn give(
    out: *mut u8,
    length: *mut usize,
    room: usize,
    needed: usize,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Error>,
) -> Result<(), Error> {
    if length.is_null() {
        return Err(Error::Refused("there is no place for the length of the result"));
    }
    if out.is_null() {
        // SAFETY: not null, and as promised by the caller.
        unsafe { length.write(needed) };
        return Ok(());
    }
    let fits = |bytes| match bytes <= room {
        true => Ok(()),
        false => Err(Error::Refused("there is not enough room for the result")),
    };
    fits(needed)?;
    let result = make()?;
    fits(result.len())?;
    // SAFETY: there is room, and the caller's memory is not ours.
    unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), out, result.len()) };
    // SAFETY: not null, and as promised by the caller.
    unsafe { length.write(result.len()) };
    Ok(())
}

/// The parameter that tells the provider in process to take over a key that this thread has loaded already.
const HANDOVER_KEY: &CStr = c"aziot-handover";

thread_local! {
    static HANDOVER: RefCell<Option<Arc<RemoteKey>>> = const { RefCell::new(None) };
}

/// Leaves `key` for the import that this thread is about to call.
fn hand_over(key: Option<Arc<RemoteKey>>) {
    HANDOVER.with_borrow_mut(|slot| *slot = key);
}

/// What was left by [`hand_over`].
fn taken_over() -> Option<Arc<RemoteKey>> {
    HANDOVER.with_borrow_mut(Option::take)
}

//! Objects of this provider in libcrypto's hands: lent, used again, given back; and how the functions that libcrypto
//! calls fail. They catch panics, check pointers, and leave a reason on the error stack.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use super::provider::Provider;
use crate::Error;
use crate::error::PANIC;

/// An object of this provider in libcrypto's hands.
pub(super) trait Object {
    /// The provider, for errors.
    fn provider(&self) -> &Provider;
}

impl Object for Provider {
    fn provider(&self) -> &Provider {
        self
    }
}

/// Calls `function` with the object at `pointer`. On failure the reason is on the error stack, and there is no result.
///
/// # Safety
/// `pointer` is null or an object of this type that nobody changes meanwhile.
pub(super) unsafe fn with_ref<T: Object, R>(
    pointer: *const c_void,
    function: impl FnOnce(&T) -> Result<R, Error>,
) -> Option<R> {
    // SAFETY: as promised by the caller.
    let object = unsafe { pointer.cast::<T>().as_ref() }?;
    guarded(object.provider(), || function(object))
}

/// The same for a function that changes the object.
///
/// # Safety
/// `pointer` is null or an object of this type that nobody else uses meanwhile.
pub(super) unsafe fn with_mut<T: Object, R>(
    pointer: *mut c_void,
    function: impl FnOnce(&mut T) -> Result<R, Error>,
) -> Option<R> {
    // SAFETY: as promised by the caller.
    let object = unsafe { pointer.cast::<T>().as_mut() }?;
    let result = catch_unwind(AssertUnwindSafe(|| function(object)));
    settled(object.provider(), result)
}

/// Calls `function` with the provider at `context`, shared.
///
/// # Safety
/// `context` is null or what `init` gave out, not torn down.
pub(super) unsafe fn with_provider<R>(
    context: *const c_void,
    function: impl FnOnce(Arc<Provider>) -> Result<R, Error>,
) -> Option<R> {
    if context.is_null() {
        return None;
    }
    let context = context.cast::<Provider>();
    // SAFETY: it came from `Arc::into_raw` and is still counted.
    unsafe { Arc::increment_strong_count(context) };
    // SAFETY: the reference that was just counted is taken over.
    let provider = unsafe { Arc::from_raw(context) };
    let shared = provider.clone();
    guarded(&provider, || function(shared))
}

/// Hands `value` to libcrypto, which gives it back to [`release`].
pub(super) fn lend<T>(value: Option<T>) -> *mut c_void {
    value.map_or(ptr::null_mut(), |value| Box::into_raw(Box::new(value)).cast())
}

/// Ends the life of what [`lend`] handed out.
///
/// # Safety
/// `pointer` is null or came from [`lend`] of this type and is not used any more.
pub(super) unsafe fn release<T>(pointer: *mut c_void) {
    if !pointer.is_null() {
        // SAFETY: as promised by the caller.
        let object = unsafe { Box::from_raw(pointer.cast::<T>()) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
    }
}

/// 1 or 0.
pub(super) fn status(result: Option<()>) -> c_int {
    c_int::from(result.is_some())
}

fn guarded<R>(provider: &Provider, function: impl FnOnce() -> Result<R, Error>) -> Option<R> {
    settled(provider, catch_unwind(AssertUnwindSafe(function)))
}

fn settled<R>(provider: &Provider, result: std::thread::Result<Result<R, Error>>) -> Option<R> {
    match result {
        Ok(Ok(result)) => Some(result),
        Ok(Err(error)) => {
            provider.raise(&error);
            None
        }
        Err(_) => {
            provider.core().raise(PANIC, "a bug in the provider aziot was stopped; please report it");
            None
        }
    }
}

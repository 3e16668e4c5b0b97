//! The one call to libc that nobody wraps safely. Knows nothing of what the memory was for.

#![allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]

/// Gives the memory that the allocator keeps for later back to the system: what a daemon needed to start, or for a
/// burst of requests, is not to stay with it while it idles.
pub(crate) fn give_back_memory() {
    // SAFETY: malloc_trim takes the allocator's own locks and releases only pages that no allocation lies in, so it may
    // be called by any thread at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

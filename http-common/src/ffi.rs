//! The calls to C that nobody wraps safely: one of libc, one of OpenSSL. Knows nothing of what the memory was for, nor of
//! servers.

#![allow(unsafe_code, reason = "malloc_trim and SSL_set_session have no safe wrappers")]

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContextRef, SslSession};

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

/// A TLS connection to be, made by `context`, that resumes `session` if the server agrees. The session must be one of
/// `context`: [`Sessions`](crate::https) keeps those of one context together.
pub(crate) fn resuming(context: &SslContextRef, session: &SslSession) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    // SAFETY: `ssl` and `session` are alive during the call, which takes a reference of its own to the session; a session
    // of another context would be refused or renegotiated, since `ssl` has no method of its own.
    unsafe { ssl.set_session(session) }?;
    Ok(ssl)
}

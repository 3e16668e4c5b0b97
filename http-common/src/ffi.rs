//! The calls to C that nobody wraps safely: two of libc, one of OpenSSL. Knows nothing of what the memory was for, nor of
//! servers.

#![allow(unsafe_code, reason = "malloc_trim, SO_PEERGROUPS and SSL_set_session have no safe wrappers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// The supplementary groups of the process at the other end of a Unix socket, when it called `connect`. None where the kernel
/// does not tell (before Linux 4.13).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; COMMON_GROUPS];
    loop {
        let room = libc::socklen_t::try_from(size_of_val(groups.as_slice()))
            .expect("no process has more than 65536 groups");
        let mut filled = room;
        let buffer = groups.as_mut_ptr().cast();
        let filled_at = &raw mut filled;
        // SAFETY: `socket` is open for the lifetime of the borrow; `buffer` has room for `filled` bytes, which is all that the
        // kernel writes there, and any bytes are group ids.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, buffer, filled_at)
        };
        let error = (result != 0).then(io::Error::last_os_error);
        let length = usize::try_from(filled).expect("usize has 32 bits") / size_of::<libc::gid_t>();
        match error {
            None => {
                groups.truncate(length);
                return Ok(groups);
            }
            // The kernel has said how much room it needs.
            Some(error) if error.raw_os_error() == Some(libc::ERANGE) && filled > room => {
                groups.resize(length, 0);
            }
            Some(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
            Some(error) => return Err(error),
        }
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

/// Room for the groups of nearly every process.
const COMMON_GROUPS: usize = 32;

//! Who is calling: the credentials the kernel vouches for. Knows nothing of what a caller may do.

use std::io;

use config_common::Asker;
use tokio::net::UnixStream;

/// The process at the other end of a connection, as it was when it called `connect` (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id; what decides for principals that are groups.
    pub gid: u32,
    /// Process id, for the log; `None` where the kernel does not tell.
    pub pid: Option<i32>,
}

impl Peer {
    /// A peer of which only the uid matters, for calls inside one process.
    pub const fn of_uid(uid: u32) -> Self {
        Self { uid, gid: uid, pid: None }
    }

    /// The peer of an accepted connection.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }
}

impl From<Peer> for Asker {
    fn from(peer: Peer) -> Self {
        Self { uid: peer.uid, gid: Some(peer.gid) }
    }
}

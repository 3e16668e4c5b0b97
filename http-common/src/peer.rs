//! Who is calling: the credentials the kernel vouches for. Knows nothing of what a caller may do.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use config_common::Asker;
use tokio::net::UnixStream;

use crate::ffi;

/// The process at the other end of a connection, as it was when it called `connect` (SO_PEERCRED, SO_PEERGROUPS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id; what decides for principals that are groups, as do the supplementary ones.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Arc<[u32]>,
    /// Process id, for the log; `None` where the kernel does not tell.
    pub pid: Option<i32>,
}

impl Peer {
    /// A peer of which only the uid matters, for calls inside one process.
    pub fn of_uid(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Arc::default(), pid: None }
    }

    /// The peer of an accepted connection.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let groups = ffi::peer_groups(stream.as_fd())?.into();
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups, pid: credentials.pid() })
    }
}

impl<'p> From<&'p Peer> for Asker<'p> {
    fn from(peer: &'p Peer) -> Self {
        Self { uid: peer.uid, gid: Some(peer.gid), groups: &peer.groups }
    }
}

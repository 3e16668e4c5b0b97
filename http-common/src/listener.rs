//! A listening socket: from systemd, or bound at a path. Knows nothing of what is spoken over it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, fs};

use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// systemd's variables make no sense.
    #[error("the environment variable {name} is not a number: {value:?}")]
    NotANumber {
        /// `LISTEN_PID` or `LISTEN_FDS`.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// The inherited descriptor is no listening Unix stream socket.
    #[error("the socket inherited from systemd is not a Unix stream socket (ListenStream= must name a path)")]
    NotUnix(#[source] io::Error),
    /// The inherited socket takes no connections.
    #[error(
        "the socket inherited from systemd does not listen (it must be one of ListenStream= with Accept=no)"
    )]
    Deaf,
    /// Something that is not a socket stands at the path.
    #[error("{path} exists and is not a socket; remove it, or name another path in [endpoints]")]
    Occupied {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket at the path is in use.
    #[error(
        "{path} is served by another process (`ss -xlp` names it); end that first, or name another path in [endpoints]"
    )]
    Served {
        /// The socket's path.
        path: PathBuf,
    },
    /// Nobody knows whether the socket at the path is in use.
    #[error("{path} exists and cannot be tried; remove it if nobody serves it")]
    Untried {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be bound.
    #[error("cannot listen on {path}")]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The socket that systemd hands over, else one bound at `path` with mode 0660 (spec service-common 4.3, 4.4).
///
/// Must run while no other thread makes files: it sets the umask for a moment.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    match inherited()? {
        Some(listener) => Ok(listener),
        None => bind(path),
    }
}

/// Where `listener` can be reached, for people.
pub(crate) fn place(listener: &UnixListener) -> String {
    let address = listener.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    path.map_or_else(|| "a socket without a path".to_owned(), |path| path.display().to_string())
}

/// The one socket passed by systemd; `None` if there is none for this process or more than one.
fn inherited() -> Result<Option<UnixListener>, ListenError> {
    let Some(pid) = number("LISTEN_PID")? else { return Ok(None) };
    if pid != u64::from(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS")? {
        Some(1) => {}
        Some(0) | None => return Ok(None),
        Some(count) => {
            tracing::warn!("{count} sockets were passed by systemd, one is expected: none of them is served");
            return Ok(None);
        }
    }
    let listener = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(ListenError::NotUnix)?;
    if let Some(listener) = &listener {
        let own = |error: Errno| ListenError::NotUnix(error.into());
        rustix::io::fcntl_setfd(listener, FdFlags::CLOEXEC).map_err(own)?;
        if !sockopt::socket_acceptconn(listener).map_err(own)? {
            return Err(ListenError::Deaf);
        }
    }
    Ok(listener)
}

fn number(name: &'static str) -> Result<Option<u64>, ListenError> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    match value.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(ListenError::NotANumber { name, value }),
    }
}

fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => remove_stale(path)?,
        // A container's bind mount may have left an empty directory here; anything in it is not ours to delete.
        Ok(found) if found.is_dir() && fs::remove_dir(path).is_ok() => {}
        Ok(_) => return Err(ListenError::Occupied { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(failed)?;
    rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok(listener)
}

/// Removes the socket at `path`, unless somebody serves it.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let untried = |error: Errno| ListenError::Untried { path: path.to_owned(), source: error.into() };
    // Blocks not even where nobody accepts and the queue is full.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(untried)?;
    match SocketAddrUnix::new(path).and_then(|address| connect(&probe, &address)) {
        Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::Served { path: path.to_owned() }),
        Err(Errno::CONNREFUSED) => {}
        // Of another user, who has perhaps tried the daemon out.
        Err(Errno::ACCESS) if is_deserted(path).unwrap_or(false) => {}
        Err(error) => return Err(untried(error)),
    }
    fs::remove_file(path).map_err(|source| ListenError::Bind { path: path.to_owned(), source })
}

/// Whether the system knows nobody who listens at `path`, as far as can be told: it says what a path was called when it was
/// bound, which may be relative, or from another mount namespace. In other network namespaces it does not look. See unix(7)
/// and proc(5).
fn is_deserted(path: &Path) -> io::Result<bool> {
    let (here, name) = (path.canonicalize()?, path.file_name().unwrap_or_default().as_bytes());
    let table = fs::read("/proc/self/net/unix")?;
    let listens_here = |line: &[u8]| {
        // Before the path there are numbers and spaces only.
        let bound = line.iter().position(|byte| *byte == b'/').filter(|start| line[..*start].ends_with(b" "));
        let bound = bound.and_then(|start| Path::new(OsStr::from_bytes(&line[start..])).canonicalize().ok());
        line.windows(LISTENS.len()).any(|field| field == LISTENS)
            && line.ends_with(name)
            && bound.is_none_or(|bound| bound == here)
    };
    Ok(!table.split(|byte| *byte == b'\n').any(listens_here))
}

/// `__SO_ACCEPTCON` among the flags of a socket in that table.
const LISTENS: &[u8] = b" 00010000 ";
/// Connections that may wait to be accepted; the system's own maximum (`net.core.somaxconn`) applies too.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_stale_socket_is_replaced_and_the_mode_is_0660() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyd.sock");
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
    }

    #[test]
    fn a_socket_that_is_served_stays_even_if_nobody_has_time_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyd.sock");
        let listener = bind(&path).unwrap();
        let is_served = || matches!(bind(&path), Err(ListenError::Served { .. }));
        rustix::net::listen(&listener, 0).unwrap();
        // The first fills the queue.
        assert!(is_served() && is_served() && is_served());
        drop(listener);
        assert!(bind(&path).is_ok());
    }

    #[test]
    fn the_system_tells_whether_anybody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b/é.sock");
        fs::create_dir(dir.path().join("a b")).unwrap();
        std::os::unix::fs::symlink("a b", dir.path().join("link")).unwrap();
        let linked = dir.path().join("link/é.sock");
        let listener = bind(&path).unwrap();
        let _served = (std::os::unix::net::UnixStream::connect(&path).unwrap(), listener.accept().unwrap());
        assert!(!is_deserted(&path).unwrap() && !is_deserted(&linked).unwrap());
        drop(listener);
        assert!(is_deserted(&path).unwrap() && is_deserted(&linked).unwrap());
    }

    #[test]
    fn somebody_may_listen_at_what_the_system_calls_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        // What the system tells of it is the path of then, as with another mount namespace.
        let (then, now) = (dir.path().join("then"), dir.path().join("now"));
        fs::create_dir(&then).unwrap();
        let listener = bind(&then.join("moved.sock")).unwrap();
        fs::rename(&then, &now).unwrap();
        assert!(!is_deserted(&now.join("moved.sock")).unwrap());
        drop(listener);
        assert!(is_deserted(&now.join("moved.sock")).unwrap());
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "precious").unwrap();
        fs::create_dir_all(dir.path().join("tree/branch")).unwrap();
        for name in ["file", "tree"] {
            let refused = bind(&dir.path().join(name)).unwrap_err();
            assert!(matches!(refused, ListenError::Occupied { .. }), "{refused}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "precious");
    }

    #[test]
    fn an_empty_directory_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyd.sock");
        fs::create_dir(&path).unwrap();
        assert!(bind(&path).is_ok());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let refused = bind(Path::new("/nonexistent/keyd.sock")).unwrap_err();
        assert!(refused.to_string().contains("/nonexistent/keyd.sock"), "{refused}");
    }
}

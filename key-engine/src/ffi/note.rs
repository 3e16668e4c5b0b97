//! Notes for who looks for a fault, into a file or to standard error. Does not know what is noted, and disturbs the
//! program in no way: a reader that is away neither stops nor ends it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;

/// Adds a line to the file `target`, or writes it to standard error if that is what `target` says. A note that cannot be
/// written is lost.
pub(super) fn note(target: &Path, text: &str) {
    let line = format!("aziot[{}]: {text}\n", std::process::id());
    let Ok(mut file) = open(target) else { return };
    without_sigpipe(|| file.write_all(line.as_bytes()));
}

fn open(target: &Path) -> io::Result<File> {
    if target == Path::new("stderr") {
        // Not by std's own lock, which a fork may have left locked.
        return io::stderr().as_fd().try_clone_to_owned().map(File::from);
    }
    OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(target)
}

/// Calls `write`, which nobody's SIGPIPE interrupts: where there is no reader, the signal is taken away again.
fn without_sigpipe(write: impl FnOnce() -> io::Result<()>) {
    let pipe = only_sigpipe();
    if is_pending() {
        // Then it is blocked already, and the one that waits is the program's.
        let _ = write();
        return;
    }
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are the caller's, and the first is initialised.
    if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, before.as_mut_ptr()) } != 0 {
        return;
    }
    if write().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: set and time live, and nobody wants to know more of the signal.
        while unsafe { libc::sigtimedwait(&pipe, ptr::null_mut(), &at_once) } < 0
            && io::Error::last_os_error().kind() == ErrorKind::Interrupted
        {}
    }
    // SAFETY: the set has been filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: there is room for a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

/// Whether a SIGPIPE waits for being unblocked.
fn is_pending() -> bool {
    let mut set = only_sigpipe();
    // SAFETY: there is room for a set, which stays as it is if the call fails.
    unsafe { libc::sigpending(&mut set) };
    // SAFETY: the set is initialised.
    unsafe { libc::sigismember(&set, libc::SIGPIPE) == 1 }
}

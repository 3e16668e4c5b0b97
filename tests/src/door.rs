//! A door between programs and a service on a Unix socket. While it is shut, nothing passes in either direction: the
//! service seems to hang, though it does nothing wrong. Does not know what passes.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

/// A socket whose connections lead to another one. Programs that are connected stay connected while it is shut.
#[derive(Debug)]
pub struct Door {
    socket: PathBuf,
    latch: Arc<Latch>,
}

#[derive(Debug, Default)]
struct Latch {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    is_gone: bool,
}

impl Door {
    /// An open door at `socket` to the service at `beyond`.
    #[track_caller]
    pub fn new(socket: PathBuf, beyond: &Path) -> Door {
        let listener = UnixListener::bind(&socket).expect("nothing is there yet");
        let (latch, beyond) = (Arc::<Latch>::default(), beyond.to_owned());
        let seen = Arc::clone(&latch);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.state().is_gone {
                    return;
                }
                // A service that is not there hangs up, and so does its door.
                let (Ok(near), Ok(far)) = (stream, UnixStream::connect(&beyond)) else { continue };
                connect(&near, &far, &seen);
            }
        });
        Door { socket, latch }
    }

    /// Where programs connect.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Let nothing pass.
    pub fn shut(&self) {
        self.latch.set(true);
    }

    /// Let all pass that has been waiting, and what comes.
    pub fn open(&self) {
        self.latch.set(false);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.latch.state().is_gone = true;
        self.latch.moved.notify_all();
        let _ = UnixStream::connect(&self.socket); // wakes its thread
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Latch {
    fn set(&self, is_shut: bool) {
        self.state().is_shut = is_shut;
        self.moved.notify_all();
    }

    /// Waits until the door is open; whether it still exists.
    fn wait(&self) -> bool {
        let closed = |state: &mut State| state.is_shut && !state.is_gone;
        let state = self.moved.wait_while(self.state(), closed).expect("no panic while held");
        !state.is_gone
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Lets bytes pass in both directions, on a thread for each.
fn connect(near: &UnixStream, far: &UnixStream, latch: &Arc<Latch>) {
    for (from, to) in [(near, far), (far, near)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let latch = Arc::clone(latch);
        thread::spawn(move || {
            pass(&from, &to, &latch);
            let _ = to.shutdown(std::net::Shutdown::Both); // it may be closed already
        });
    }
}

fn pass(mut from: &UnixStream, mut to: &UnixStream, latch: &Latch) {
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !latch.wait() || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

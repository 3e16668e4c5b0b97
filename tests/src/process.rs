//! A child process with its log. Does not know which program it is.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{harness::BOUND, http::wait_for};

/// A child with its log; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Process {
        let mut child = command.spawn().unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        let reader = thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut some) {
                written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&some[..n]);
            }
        });
        Process { child, log, reader: Some(reader) }
    }

    #[track_caller]
    pub(crate) fn wait_until_serving(&mut self, socket: &Path) {
        wait_for("the socket to accept", BOUND, || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("the daemon ended with {status}:\n{}", self.all_log());
            }
            UnixStream::connect(socket).ok()
        });
    }

    #[track_caller]
    pub(crate) fn wait_for_end(&mut self, bound: Duration) -> ExitStatus {
        wait_for("the daemon to end", bound, || self.child.try_wait().expect("a child can be waited for"))
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The log of a process that has ended, to its last byte.
    pub(crate) fn all_log(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading does not panic");
        }
        self.log()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- the daemon's last lines ---\n{last}\n---");
        }
    }
}

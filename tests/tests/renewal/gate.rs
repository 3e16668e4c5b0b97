//! A gate in front of a daemon: it counts requests and stops at one of them, before the daemon has seen it or after it has
//! done it. Knows HTTP as far as where a message ends.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use tempfile::TempDir;

/// On which side of the work it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

/// The gate.
pub(crate) struct Gate {
    directory: TempDir,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    stop: Option<(usize, Side)>,
    /// The requests since the last order, as method and path.
    seen: Vec<String>,
    stopped: bool,
}

impl Gate {
    /// In front of the socket `daemon`.
    pub(crate) fn new(daemon: &Path) -> Gate {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate { directory, plan: Arc::default() };
        let listener = UnixListener::bind(gate.socket()).unwrap();
        let (plan, daemon) = (gate.plan.clone(), daemon.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (plan, daemon, client) = (plan.clone(), daemon.clone(), client.unwrap());
                // Either side may end at any moment.
                thread::spawn(move || converse(client, &daemon, &plan).ok());
            }
        });
        gate
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("gate.sock")
    }

    /// Stop at request `number` from now on, counted from 0; or never.
    pub(crate) fn stop_at(&self, stop: Option<(usize, Side)>) {
        *self.plan.lock().unwrap() = Plan { stop, ..Plan::default() };
    }

    /// The requests since the last order, as method and path.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.plan.lock().unwrap().seen.clone()
    }

    /// The request at which it has stopped.
    pub(crate) fn stopped(&self) -> Option<String> {
        let plan = self.plan.lock().unwrap();
        plan.stopped.then(|| plan.seen[plan.stop.unwrap().0].clone())
    }
}

fn converse(mut client: UnixStream, daemon: &Path, plan: &Mutex<Plan>) -> io::Result<()> {
    while let Some(request) = read_message(&mut client)? {
        let side = {
            let mut plan = plan.lock().unwrap();
            let head = String::from_utf8_lossy(&request);
            let what = head.split('?').next().unwrap_or_default().to_owned();
            plan.seen.push(what);
            let number = plan.seen.len() - 1;
            plan.stop.filter(|(at, _)| *at == number).map(|(_, side)| side)
        };
        if side == Some(Side::Before) {
            return stop(client, plan);
        }
        let mut server = UnixStream::connect(daemon)?;
        server.write_all(&request)?;
        let reply = read_message(&mut server)?.unwrap_or_default();
        if side == Some(Side::After) {
            return stop(client, plan);
        }
        client.write_all(&reply)?;
    }
    Ok(())
}

/// Says nothing more, until the client is dead.
fn stop(mut client: UnixStream, plan: &Mutex<Plan>) -> io::Result<()> {
    plan.lock().unwrap().stopped = true;
    client.read_to_end(&mut Vec::new()).map(|_| ())
}

fn read_message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let (mut message, mut some) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(head) = message.windows(4).position(|end| end == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&message[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if message.len() >= head + 4 + length {
                return Ok(Some(message));
            }
        }
        match stream.read(&mut some)? {
            0 => return Ok(None),
            n => message.extend_from_slice(&some[..n]),
        }
    }
}

//! The same calls as [`Client`](crate::Client) for code that must not know tokio, such as what OpenSSL calls.
//! Knows no service.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::net::{self, AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use zeroize::Zeroizing;

use crate::client::{ClientError, REPLY_LIMIT, read_reply};
use crate::wire::{self, Encoded};
use crate::{Endpoint, Service};

/// A blocking client of one service; safe to use from many threads, each call has its own connection.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
    idle: Mutex<Idle>,
}

/// Kept connections, and the process that made them: after a fork the child must not touch its parent's.
#[derive(Debug, Default)]
struct Idle {
    owner: u32,
    streams: Vec<UnixStream>,
}

impl Client {
    /// A client of the service that listens at `socket`; a call may take `limit`, and of that 5 s to connect.
    pub fn new(socket: impl Into<PathBuf>, limit: Duration) -> Self {
        Self { socket: socket.into(), limit, idle: Mutex::default() }
    }

    /// Sends `request` and reads the reply.
    pub fn call<E: Endpoint>(&self, request: &E) -> Result<E::Reply, ClientError> {
        self.call_until(request, Instant::now() + self.limit)
    }

    /// The same for one of several calls that must all be over at `deadline`.
    pub fn call_until<E: Endpoint>(&self, request: &E, deadline: Instant) -> Result<E::Reply, ClientError> {
        let service = E::Service::NAME;
        let bad = |source| ClientError::BadReply { service, source };
        let encoded = wire::encode(request).map_err(|error| bad(error.into()))?;
        let bytes = written::<E>(&encoded);
        match self.exchange(&bytes, deadline) {
            Ok((status, body)) => read_reply::<E>(status, &body),
            Err(error) if is_timeout(&error) => {
                // Before the deadline only connecting is given up.
                let limit = if Instant::now() < deadline { CONNECT_LIMIT } else { self.limit };
                Err(ClientError::TimedOut { service, limit })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(bad(error.into())),
            Err(error) => {
                Err(ClientError::Unreachable { service, socket: self.socket.clone(), source: error.into() })
            }
        }
    }

    /// Sends over a kept connection, or over a new one if there is none or it turns out to be closed.
    fn exchange(&self, request: &[u8], deadline: Instant) -> io::Result<(StatusCode, Zeroizing<Vec<u8>>)> {
        if let Some(mut stream) = self.kept() {
            match converse(&mut stream, request, deadline) {
                Err(error) if is_closed(&error) => {}
                done => return self.finish(stream, done),
            }
        }
        let mut stream = connect(&self.socket, deadline)?;
        let done = converse(&mut stream, request, deadline);
        self.finish(stream, done)
    }

    fn finish(
        &self,
        stream: UnixStream,
        done: io::Result<Reply>,
    ) -> io::Result<(StatusCode, Zeroizing<Vec<u8>>)> {
        let reply = done?;
        if reply.keep_alive {
            self.keep(stream);
        }
        Ok((reply.status, reply.body))
    }

    /// Nobody waits for the lock: after a fork, a thread that the child does not have may hold it for ever.
    fn kept(&self) -> Option<UnixStream> {
        let mut idle = self.idle.try_lock().ok()?;
        let me = std::process::id();
        if idle.owner != me {
            *idle = Idle { owner: me, streams: Vec::new() };
        }
        idle.streams.pop()
    }

    fn keep(&self, stream: UnixStream) {
        let Ok(mut idle) = self.idle.try_lock() else { return };
        if idle.owner == std::process::id() && idle.streams.len() < KEPT {
            idle.streams.push(stream);
        }
    }
}

struct Reply {
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
    keep_alive: bool,
}

/// Head and body of a request, to be sent in one piece.
fn written<E: Endpoint>(encoded: &Encoded) -> Zeroizing<Vec<u8>> {
    let mut text =
        format!("{} {} HTTP/1.1\r\nhost: {}.sock\r\n", E::METHOD, encoded.target, E::Service::NAME);
    let body = encoded.body.as_ref().map(|body| body.as_slice());
    if let Some(body) = body {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let body = body.unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + body.len()));
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Connects. The kernel makes a caller wait while the queue of the listener is full, also of one that hangs.
fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let descriptor = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let deadline = deadline.min(Instant::now() + CONNECT_LIMIT);
    loop {
        sockopt::set_socket_timeout(&descriptor, sockopt::Timeout::Send, Some(remaining(deadline)?))?;
        match net::connect(&descriptor, &address) {
            Err(rustix::io::Errno::INTR) => {}
            done => return done.map(|()| descriptor.into()).map_err(io::Error::from),
        }
    }
}

fn converse(stream: &mut UnixStream, request: &[u8], deadline: Instant) -> io::Result<Reply> {
    send_all(stream, request, deadline)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(FIRST_BUFFER));
    loop {
        if let Some(reply) = parse(&bytes)? {
            return Ok(reply);
        }
        if bytes.len() > REPLY_LIMIT {
            return Err(invalid("the reply is too large"));
        }
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let mut chunk = Zeroizing::new([0; FIRST_BUFFER]);
        match stream.read(chunk.as_mut_slice()) {
            Ok(0) => return Err(closed(bytes.is_empty())),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends `request` without a signal when the service has closed the connection: the programs that OpenSSL calls us from
/// may not be ready for SIGPIPE.
fn send_all(stream: &UnixStream, request: &[u8], deadline: Instant) -> io::Result<()> {
    let mut rest = request;
    while !rest.is_empty() {
        stream.set_write_timeout(Some(remaining(deadline)?))?;
        match net::send(stream, rest, SendFlags::NOSIGNAL) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The reply, if `bytes` hold it completely.
fn parse(bytes: &[u8]) -> io::Result<Option<Reply>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let head_length = match head.parse(bytes).map_err(|error| invalid(error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let status =
        StatusCode::from_u16(head.code.unwrap_or_default()).map_err(|error| invalid(error.to_string()))?;
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = match header("content-length") {
        _ if status == StatusCode::NO_CONTENT => 0,
        Some(length) => length.trim().parse().map_err(|_| invalid("the content-length is not a number"))?,
        None => return Err(invalid("the reply has no content-length")),
    };
    let Some(body) = bytes[head_length..].get(..length) else { return Ok(None) };
    let keep_alive = !header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let keep_alive = keep_alive && bytes.len() == head_length + length;
    Ok(Some(Reply { status, body: Zeroizing::new(body.to_vec()), keep_alive }))
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The connection ended; before the first byte of a reply that is what a kept connection may do.
fn closed(before_reply: bool) -> io::Error {
    match before_reply {
        true => io::Error::new(io::ErrorKind::ConnectionReset, "the service closed the connection"),
        false => invalid("the reply ends in the middle"),
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// How long connecting may take, which a service that runs does at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const FIRST_BUFFER: usize = 4096;
const MAX_HEADERS: usize = 128;
/// Connections kept for later calls.
const KEPT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: Option<(u16, &str, bool)>) {
        let reply = parse(bytes.as_bytes()).unwrap();
        let seen = reply.as_ref().map(|reply| {
            (reply.status.as_u16(), std::str::from_utf8(&reply.body).unwrap(), reply.keep_alive)
        });
        assert_eq!(seen, expected, "{bytes:?}");
    }

    #[test]
    fn replies_are_complete_with_their_last_byte() {
        check("HTTP/1.1 200 OK\r\nconte", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Some((200, "{}", true)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "", true)));
        check("HTTP/1.1 408 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Some((408, "", false)));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(parse(b"SSH-2.0-OpenSSH\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn nobody_listening_is_an_error_at_once() {
        let client = Client::new("/nonexistent/keyd.sock", Duration::from_secs(5));
        let error = client.exchange(b"", Instant::now() + Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_service_that_accepts_nobody_is_given_up_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full.sock");
        let listener = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&listener, 0).unwrap();
        let deadline = || Instant::now() + Duration::from_millis(50);
        let waiting: Vec<_> = (0..3).map_while(|_| connect(&path, deadline()).ok()).collect();
        assert!(waiting.len() < 3, "the queue is never full");
        assert!(is_timeout(&connect(&path, deadline()).unwrap_err()));
        let begin = Instant::now();
        assert!(is_timeout(&connect(&path, begin + Duration::from_secs(60)).unwrap_err()));
        let took = begin.elapsed();
        assert!(
            took >= CONNECT_LIMIT && took < 3 * CONNECT_LIMIT,
            "connecting has a limit of its own: {took:?}"
        );
    }

    #[test]
    fn what_is_sent_to_a_closed_connection_is_an_error_and_no_signal() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let error = send_all(&near, b"GET / HTTP/1.1\r\n\r\n", Instant::now() + Duration::from_secs(5));
        assert!(is_closed(&error.unwrap_err()));
    }

    #[test]
    fn a_silent_service_is_given_up_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("silent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = Client::new(&path, Duration::from_millis(50));
        let error = client.exchange(b"GET / HTTP/1.1\r\n\r\n", Instant::now() + Duration::from_millis(50));
        assert!(is_timeout(&error.unwrap_err()));
    }

    #[test]
    fn a_lock_that_stays_locked_keeps_nobody_waiting() {
        let client = Client::new("/nonexistent/keyd.sock", Duration::from_secs(5));
        let _held = client.idle.lock().unwrap();
        assert!(client.kept().is_none());
        client.keep(UnixStream::pair().unwrap().0);
    }
}

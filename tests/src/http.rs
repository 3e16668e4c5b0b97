//! HTTP/1.1 over a Unix socket, byte by byte. Does not know any endpoint.
//!
//! A journey sends exactly the bytes it means to send, as exactly the user it means to be, and sees what came back in
//! which reads. The convenient calls ([`Client::get`], [`Client::post`], ...) are built on the raw ones.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::Value;

/// How long a reply may take before the journey gives up: generous, the machines that run this are small.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A way to reach one daemon as one user, with one API version. Each request makes a new connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    uid: Option<u32>,
    groups: Vec<u32>,
    version: String,
}

/// One connection, with what has been read from it and not yet been used.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    unused: Vec<u8>,
}

/// One reply, and how it arrived.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// Names (as written) and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
    /// Length of status line and headers with the empty line, in bytes.
    pub head_length: usize,
    /// How many reads the head needed.
    pub head_reads: usize,
    /// How many reads head and body needed together.
    pub reads: usize,
}

/// How a connection was at its end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Closed after all was read.
    Closed,
    /// Closed with an error such as ECONNRESET.
    Reset,
    /// Still open when the time was over.
    Open,
    /// More bytes came, not an end.
    Data(Vec<u8>),
}

impl Client {
    /// A client of the daemon at `socket`, as the user that runs the test, with the version `2020-09-01`.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into(), uid: None, groups: vec![], version: "2020-09-01".to_owned() }
    }

    /// The same as the user `uid`, without any group. Needs root.
    pub fn as_uid(&self, uid: u32) -> Client {
        Client { uid: Some(uid), ..self.clone() }
    }

    /// The same with these supplementary groups. Needs [`as_uid`](Client::as_uid).
    pub fn in_groups(&self, groups: &[u32]) -> Client {
        Client { groups: groups.to_vec(), ..self.clone() }
    }

    /// The same with the API version `version`.
    pub fn version(&self, version: &str) -> Client {
        Client { version: version.to_owned(), ..self.clone() }
    }

    /// Open a connection.
    pub fn try_connect(&self) -> io::Result<Connection> {
        let stream = match self.uid {
            Some(uid) => connect_as(uid, &self.groups, &self.socket)?,
            None => UnixStream::connect(&self.socket)?,
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, unused: Vec::new() })
    }

    /// Open a connection, which must succeed.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap_or_else(|err| panic!("cannot connect to {}: {err}", self.socket.display()))
    }

    /// Send exactly `request` on a new connection and read one reply.
    #[track_caller]
    pub fn send(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut connection = self.connect();
        connection.send(request);
        connection.reply()
    }

    /// `GET path`; `path` without query gets the client's `api-version`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, None)
    }

    /// `POST path` with a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, Some(body))
    }

    /// `PUT path` with a JSON body.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Reply {
        self.request("PUT", path, Some(body))
    }

    /// `DELETE path`, with a JSON body or without.
    #[track_caller]
    pub fn delete(&self, path: &str, body: Option<&Value>) -> Reply {
        self.request("DELETE", path, body)
    }

    /// Any method, with a JSON body or without.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.send(self.bytes(method, path, body))
    }

    /// The bytes that [`Client::request`] sends.
    pub fn bytes(&self, method: &str, path: &str, body: Option<&Value>) -> Vec<u8> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let query = if path.contains("api-version") {
            String::new()
        } else {
            format!("{mark}api-version={}", self.version)
        };
        let head = format!("{method} {path}{query} HTTP/1.1\r\nhost: test\r\n");
        match body {
            Some(body) => with_body(&head, &[("content-type", "application/json")], body.to_string()),
            None => format!("{head}\r\n").into_bytes(),
        }
    }
}

impl Connection {
    /// Send exactly `bytes`.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the daemon takes what we send");
    }

    /// Send exactly `bytes`, unless the daemon does not take them.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Say that nothing more will be sent.
    #[track_caller]
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection can be shut down");
    }

    /// Read one reply, which must come.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|err| panic!("no reply: {err}"))
    }

    /// Read one reply: the head, then as many body bytes as `content-length` says.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        self.try_reply_to("ANY")
    }

    /// Read the reply to a request with `method`; only `HEAD` makes a difference, it has no body.
    pub fn try_reply_to(&mut self, method: &str) -> io::Result<Reply> {
        let mut head_reads = 0;
        let head_length = loop {
            if let Some(at) = find(&self.unused, b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
            head_reads += 1;
        };
        let head: Vec<u8> = self.unused.drain(..head_length).collect();
        let mut reply = parse_head(&String::from_utf8_lossy(&head))?;
        (reply.head_length, reply.head_reads, reply.reads) = (head_length, head_reads, head_reads);
        let length = match (method, reply.header("content-length")) {
            ("HEAD", _) | (_, None) => 0,
            (_, Some(length)) => length.parse().map_err(|_| bad("content-length is no number"))?,
        };
        while self.unused.len() < length {
            self.read_more()?;
            reply.reads += 1;
        }
        reply.body = self.unused.drain(..length).collect();
        Ok(reply)
    }

    /// How the connection is at latest after `patience`.
    pub fn end(&mut self, patience: Duration) -> End {
        if !self.unused.is_empty() {
            return End::Data(std::mem::take(&mut self.unused));
        }
        self.stream.set_read_timeout(Some(patience)).expect("the time is not zero");
        match self.read_more() {
            Ok(()) => End::Data(std::mem::take(&mut self.unused)),
            Err(err) => match err.kind() {
                io::ErrorKind::UnexpectedEof => End::Closed,
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::Open,
                _ => End::Reset,
            },
        }
    }

    /// Wait at most `patience` for later reads.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("the time is not zero");
    }

    /// Wait at most `patience` in later sends.
    pub fn set_send_patience(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).expect("the time is not zero");
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut some = [0; 64 * 1024];
        match self.stream.read(&mut some)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.unused.extend_from_slice(&some[..n]);
                Ok(())
            }
        }
    }
}

impl Reply {
    /// The value of the header `name`, in any case; the last if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.next_back().map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|err| panic!("the body is not JSON ({err}): {self:?}"))
    }

    /// The member `name` of the JSON body, a string.
    #[track_caller]
    pub fn string(&self, name: &str) -> String {
        let body = self.json();
        body[name].as_str().unwrap_or_else(|| panic!("no string {name} in {body}")).to_owned()
    }

    /// The member `name` of the JSON body, decoded from base64.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        unbase64(&self.string(name))
    }

    /// The reply must have this status. An error status must bring a JSON body with a `message`.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "body: {text}; headers: {:?}", self.headers);
        if status >= 400 {
            assert!(!self.string("message").is_empty(), "an error says why");
        }
        self
    }

    /// The reply must be one that every known client understands (spec users-ask 3.1): written at once, with a small head
    /// of exactly these headers.
    #[track_caller]
    pub fn expect_plain(self) -> Reply {
        assert_eq!(self.reads, 1, "head and body in one write");
        assert!(self.head_length < 512, "{} bytes of head", self.head_length);
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if self.status == 204 {
            assert_eq!(names, ["date"]);
        } else {
            assert_eq!(names, ["content-length", "content-type", "date"]);
            assert_eq!(self.header("content-type"), Some("application/json"));
        }
        self
    }
}

/// `head` (request line and headers, each line with its end), `headers`, `content-length`, and the body.
pub fn with_body(head: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request = head.to_owned();
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n", body.len());
    [request.as_bytes(), body].concat()
}

/// Base64 as the API wants it.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 text as the API writes it.
#[track_caller]
pub fn unbase64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_else(|err| panic!("not base64 ({err}): {text}"))
}

/// Run `check` until it gives a value, at most `bound`.
#[track_caller]
pub fn wait_for<T>(what: &str, bound: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel takes a connection's credentials from the thread that connects, so only that thread changes its user.
fn connect_as(uid: u32, groups: &[u32], socket: &Path) -> io::Result<UnixStream> {
    let socket = socket.to_owned();
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let connect = move || {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        let changed = set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_thread_res_uid(user, user, user));
        assert!(changed.is_ok(), "a journey that acts as uid {uid} needs root");
        UnixStream::connect(socket)
    };
    thread::spawn(connect).join().expect("connecting as another user needs root")
}

/// The reply with this head, without what is known of its arrival.
fn parse_head(head: &str) -> io::Result<Reply> {
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let status = status.parse().map_err(|_| bad(&format!("not a status line: {line:?}")))?;
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let headers = lines.map(header).collect::<Option<_>>().ok_or_else(|| bad("a header without colon"))?;
    Ok(Reply {
        version: version.to_owned(),
        status,
        headers,
        body: vec![],
        head_length: 0,
        head_reads: 0,
        reads: 0,
    })
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

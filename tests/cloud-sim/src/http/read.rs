//! Requests off a byte stream.

use super::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why no further request came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The client closed, broke off or went silent between or within requests.
    #[error("the connection ended")]
    Ended(#[source] Option<std::io::Error>),
    /// What came is not HTTP/1.1, or too large.
    #[error("not a request: {0}")]
    Malformed(String),
}

/// Reads requests from one connection, keeping what came too early.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// The next request with its whole body.
    ///
    /// # Errors
    /// When the connection ends or does not speak HTTP.
    pub(crate) async fn next<S>(&mut self, stream: &mut S) -> Result<Request, ReadError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = loop {
            match head(&self.buffer)? {
                Some((request, length)) => {
                    self.buffer.drain(..length);
                    break request;
                }
                None if self.buffer.len() > MAX_HEAD => return Err(malformed("the head is too large")),
                None => self.more(stream).await?,
            }
        };
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            let go = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            go.map_err(|err| ReadError::Ended(Some(err)))?;
        }
        let coding = request.header("transfer-encoding").map(str::to_ascii_lowercase);
        request.body = match (coding.as_deref(), request.header("content-length")) {
            (Some("chunked"), _) => self.chunks(stream).await?,
            (Some(other), _) => return Err(malformed(&format!("transfer coding {other}"))),
            (None, Some(length)) => {
                let length = length.parse().map_err(|_| malformed("content-length is not a number"))?;
                self.take(stream, length).await?
            }
            (None, None) => Vec::new(),
        };
        Ok(request)
    }

    async fn chunks<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let line = self.line(stream).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
            if size == 0 {
                while !self.line(stream).await?.is_empty() {} // trailers are of no interest
                return Ok(body);
            }
            if body.len().saturating_add(size) > MAX_BODY {
                return Err(malformed("the body is too large"));
            }
            body.extend(self.take(stream, size).await?);
            self.line(stream).await?;
        }
    }

    async fn line<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<String, ReadError> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect::<Vec<u8>>();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(malformed("a line is too long"));
            }
            self.more(stream).await?;
        }
    }

    async fn take<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        length: usize,
    ) -> Result<Vec<u8>, ReadError> {
        if length > MAX_BODY {
            return Err(malformed("the body is too large"));
        }
        while self.buffer.len() < length {
            self.more(stream).await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn more<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), ReadError> {
        match stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(ReadError::Ended(None)),
            Ok(_) => Ok(()),
            Err(err) => Err(ReadError::Ended(Some(err))),
        }
    }
}

/// The head at the start of `buffer` and its length, or `None` while it is incomplete.
fn head(buffer: &[u8]) -> Result<Option<(Request, usize)>, ReadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(err) => return Err(malformed(&err.to_string())),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<(String, String)> =
        parsed.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
    let connection =
        headers.iter().find(|(name, _)| name == "connection").map(|(_, value)| value.to_lowercase());
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        keep_alive: match connection.as_deref() {
            Some("close") => false,
            Some("keep-alive") => true,
            _ => parsed.version == Some(1),
        },
        headers,
        body: Vec::new(),
        version: "1.1",
    };
    Ok(Some((request, length)))
}

fn malformed(what: &str) -> ReadError {
    ReadError::Malformed(what.to_owned())
}

const MAX_HEADERS: usize = 128;
const MAX_HEAD: usize = 64 << 10;
/// The largest body that is read, in bytes.
pub(crate) const MAX_BODY: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests in `wire`, sent in pieces of `step` bytes, and what ended the connection.
    async fn read(wire: &'static [u8], step: usize) -> (Vec<Request>, ReadError) {
        let (mut client, mut server) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for piece in wire.chunks(step) {
                client.write_all(piece).await.unwrap();
            }
            client.shutdown().await.unwrap();
            let _ = client.read_to_end(&mut answers).await;
        });
        let (mut reader, mut requests) = (Reader::default(), Vec::new());
        loop {
            match reader.next(&mut server).await {
                Ok(request) => requests.push(request),
                Err(err) => return (requests, err),
            }
        }
    }

    #[tokio::test]
    async fn requests_follow_one_another_in_any_pieces() {
        const WIRE: &[u8] = b"PUT https://h:1/a?b HTTP/1.1\r\nHost: h:1\r\nX-B: 1\r\nContent-Length: 2\r\n\r\n{}\
            POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nt: u\r\n\r\n\
            GET /d HTTP/1.0\r\n\r\n";
        for step in [1, 7, 1000] {
            let (requests, end) = read(WIRE, step).await;
            assert!(matches!(end, ReadError::Ended(None)));
            let seen: Vec<_> =
                requests.iter().map(|r| (r.target.as_str(), r.body.as_slice(), r.keep_alive)).collect();
            let put: (&str, &[u8], bool) = ("https://h:1/a?b", b"{}", true);
            assert_eq!(seen, [put, ("/c", b"abcde", true), ("/d", b"", false)]);
            let names: Vec<&str> = requests[0].headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["host", "x-b", "content-length"]);
        }
    }

    #[tokio::test]
    async fn nonsense_is_malformed() {
        for wire in [
            &b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
            b"GET / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
            b"GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let (requests, end) = read(wire, 1000).await;
            assert!(requests.is_empty() && matches!(end, ReadError::Malformed(_)), "{end}");
        }
    }
}

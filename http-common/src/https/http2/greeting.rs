//! What a server says first: the SETTINGS that prove it speaks HTTP/2 (RFC 9113, section 3.4), or something else. Knows no
//! more of HTTP/2 than that frame's head.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::sync::oneshot;

use super::{BoxError, Link};

/// Why a connection on which the server has chosen HTTP/2 does not speak it.
#[derive(Debug, thiserror::Error)]
pub(in crate::https) enum NoHttp2 {
    /// What came is no HTTP/2.
    #[error("it said something else")]
    Other,
    /// Nothing came.
    #[error("it said nothing")]
    Silent,
    /// The connection ended before anything came.
    #[error("it ended the connection")]
    Ended(#[source] BoxError),
}

/// A link whose first bytes are looked at.
pub(super) struct Greeted {
    link: Link,
    head: Vec<u8>,
    told: Option<oneshot::Sender<Result<(), NoHttp2>>>,
}

impl Greeted {
    /// `told` hears whether the server has greeted.
    pub(super) fn new(link: Link, told: oneshot::Sender<Result<(), NoHttp2>>) -> Self {
        Self { link, head: Vec::with_capacity(HEAD), told: Some(told) }
    }

    fn tell(&mut self, greeting: Result<(), NoHttp2>) {
        if let Some(told) = self.told.take() {
            // Nobody may be waiting any more.
            let _ = told.send(greeting);
        }
    }
}

impl Read for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.told.is_none() {
            return Pin::new(&mut self.link).poll_read(cx, buf);
        }
        let mut bytes = [0; HEAD];
        let wanted = (HEAD - self.head.len()).min(buf.remaining());
        let mut piece = ReadBuf::new(&mut bytes[..wanted]);
        if let Err(err) = ready!(Pin::new(&mut self.link).poll_read(cx, piece.unfilled())) {
            let kind = err.kind();
            self.tell(Err(NoHttp2::Ended(err.into())));
            return Poll::Ready(Err(kind.into()));
        }
        let piece = piece.filled();
        self.head.extend_from_slice(piece);
        buf.put_slice(piece);
        if piece.is_empty() {
            self.tell(Err(NoHttp2::Ended(io::Error::from(io::ErrorKind::UnexpectedEof).into())));
        } else if !may_be_settings(&self.head) {
            self.tell(Err(NoHttp2::Other));
        } else if self.head.len() == HEAD {
            self.tell(Ok(()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}

/// Whether `head` may be the beginning of a SETTINGS frame that acknowledges nothing: length (24 bits), type, flags, stream.
fn may_be_settings(head: &[u8]) -> bool {
    let fits = |(at, byte): (usize, &u8)| match at {
        0 => *byte == 0, // no server has so many settings
        1 | 2 => true,
        3 => *byte == SETTINGS,
        _ => *byte == 0,
    };
    head.iter().enumerate().all(fits)
}

const HEAD: usize = 9;
const SETTINGS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::may_be_settings;

    #[test]
    fn settings_are_told_from_anything_else() {
        for head in [&b""[..], b"\0", b"\0\0\x12\x04\0\0\0\0\0", b"\0\0\0\x04\0\0\0\0\0"] {
            assert!(may_be_settings(head), "{head:?}");
        }
        for head in [
            &b"H"[..],
            b"HTTP/1.1 ",
            b"220 hello",
            b"\0\0\x08\x07\0\0\0\0\0",
            b"\0\0\0\x04\x01\0\0\0\0",
            b"\0\0\0\x04\0\0\0\0\x01",
        ] {
            assert!(!may_be_settings(head), "{head:?}");
        }
    }
}

//! HTTP/2 (RFC 9113) for clients that offer it: the same requests and replies as HTTP/1.1, many at a time on one connection.
//!
//! What a fault does to a reply it does to that request alone, by RST_STREAM; only `drop_connection` ends them all. Does not
//! know TLS, nor what to answer.

use crate::{
    cloud::{Cloud, Origin, Outcome},
    http::{DRIP_SIZE, Delivery, Ending, MAX_BODY, Reply, Request, head_length},
};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};
use tokio_openssl::SslStream;

/// Serve one connection to its end. When this is dropped, so are its requests.
pub(crate) async fn serve(cloud: &Arc<Cloud>, origin: Origin, stream: SslStream<TcpStream>) {
    let ending = Arc::new(ByReset::default());
    let stream = Socket { stream, ending: ending.clone() };
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        cloud.state().counters.malformed += 1;
        return;
    };
    let origin = Arc::new(origin);
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (cloud, origin, ending) = (cloud.clone(), origin.clone(), ending.clone());
                    requests.spawn(async move {
                        // An error says that the client has broken off.
                        let _ = answer(&cloud, &origin, request, respond, &ending).await;
                    });
                }
                Some(Err(err)) => {
                    cloud.state().counters.malformed += u64::from(!err.is_io());
                    return;
                }
                None => return,
            },
            Some(_) = requests.join_next() => {}
            () = ending.ordered.notified() => return,
        }
    }
}

/// Say what no HTTP/2 server says, after having chosen it.
pub(crate) async fn break_it(mut stream: SslStream<TcpStream>) {
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    let _ = stream.shutdown().await;
}

async fn answer(
    cloud: &Cloud,
    origin: &Origin,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    ending: &ByReset,
) -> Result<(), h2::Error> {
    let request = read(request).await?;
    let (Outcome { reply, delivery, date }, _under_way) = cloud.handle(origin, &request);
    tokio::time::sleep(delivery.delay).await;
    let limit = match delivery.ending {
        Ending::Complete => None,
        Ending::CloseAfter(limit) | Ending::ResetAfter(limit) => Some(limit),
        Ending::Stall => {
            poll_fn(|cx| respond.poll_reset(cx)).await?;
            return Ok(());
        }
        Ending::DropConnection => {
            ending.order();
            // Whoever gives up a request tells its client, and the client is to hear nothing.
            return std::future::pending().await;
        }
        Ending::WantHttp1 => {
            respond.send_reset(Reason::HTTP_1_1_REQUIRED);
            return Ok(());
        }
    };
    let head = head_length(&reply, &date);
    let Some(cut) = limit.map(|limit| limit.checked_sub(head)) else {
        let mut stream = respond.send_response(head_of(&reply, &date), false)?;
        return send(&mut stream, &reply.body, &delivery, true).await;
    };
    let Some(cut) = cut else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    };
    let mut stream = respond.send_response(head_of(&reply, &date), false)?;
    send(&mut stream, &reply.body[..cut.min(reply.body.len())], &delivery, false).await?;
    // A reset overtakes what has not been sent.
    tokio::time::sleep(SENT_AFTER).await;
    stream.send_reset(Reason::INTERNAL_ERROR);
    Ok(())
}

async fn read(request: http::Request<RecvStream>) -> Result<Request, h2::Error> {
    let (head, mut incoming) = request.into_parts();
    let mut headers = Vec::new();
    if let Some(authority) = head.uri.authority() {
        headers.push(("host".to_owned(), authority.to_string()));
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.extend(head.headers.iter().map(|(name, value)| (name.to_string(), text(value))));
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        if body.len() + piece.len() > MAX_BODY {
            return Err(Reason::ENHANCE_YOUR_CALM.into());
        }
        incoming.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let target = head.uri.path_and_query().map_or("*", |path| path.as_str()).to_owned();
    Ok(Request { method: head.method.to_string(), target, headers, body, keep_alive: true, version: "2" })
}

async fn send(
    stream: &mut SendStream<Bytes>,
    body: &[u8],
    delivery: &Delivery,
    whole: bool,
) -> Result<(), h2::Error> {
    match delivery.drip {
        None => stream.send_data(Bytes::copy_from_slice(body), whole),
        Some(pause) => {
            for piece in body.chunks(DRIP_SIZE) {
                tokio::time::sleep(pause).await;
                stream.send_data(Bytes::copy_from_slice(piece), false)?;
            }
            stream.send_data(Bytes::new(), whole)
        }
    }
}

/// The head, without what HTTP/2 does not have (RFC 9113, section 8.2.2), nor what is no header.
fn head_of(reply: &Reply, date: &str) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(reply.status).unwrap_or_default();
    let length = reply.body.len().to_string();
    let own = [("date", date), ("content-length", &length)];
    let own = own.into_iter().filter(|(name, _)| *name == "date" || !matches!(reply.status, 204 | 304));
    let given = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.chain(given) {
        let name = http::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value.parse())
            && !CONNECTION_HEADERS.contains(&name.as_str())
        {
            head.headers_mut().append(name, value);
        }
    }
    head
}

/// Whether a connection is to end by a TCP reset.
#[derive(Debug, Default)]
struct ByReset {
    is_ordered: AtomicBool,
    ordered: Notify,
}

impl ByReset {
    fn order(&self) {
        self.is_ordered.store(true, Ordering::Relaxed);
        self.ordered.notify_one();
    }
}

/// A connection that ends as ordered.
struct Socket {
    stream: SslStream<TcpStream>,
    ending: Arc<ByReset>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.ending.is_ordered.load(Ordering::Relaxed) {
            let _ = self.stream.get_ref().set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const CONNECTION_HEADERS: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
const SENT_AFTER: Duration = Duration::from_millis(50);

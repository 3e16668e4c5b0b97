//! One HTTP/2 connection (RFC 9113), which many requests share.
//!
//! Does not know who may use it nor what to do when it fails: `servers.rs` does. TLS and the choice of HTTP/2 lie behind it.

mod greeting;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::oneshot;

use self::greeting::Greeted;
use super::RESPONSE_LIMIT;
use super::connect::Link;

pub(super) use self::greeting::NoHttp2;

/// An open connection. It is closed when it is dropped and its requests are answered.
pub(super) struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    state: Mutex<State>,
}

struct State {
    under_way: usize,
    last_used: Instant,
    /// A request went unanswered on it: others had better have a new one.
    retired: bool,
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has certainly not begun with it, and takes it on a new connection, or later.
    NotBegun(BoxError),
    /// The server wants it by HTTP/1.1.
    WantsHttp1(BoxError),
    /// The server has given up this request, and may go on with others.
    Reset(BoxError),
    /// The answer is larger than is read.
    TooLarge,
    /// Nothing is known of what became of it.
    Broken(BoxError),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Http2 {
    /// Exchange prefaces over `link`, on which the server has chosen HTTP/2. No request is sent before the server has spoken, so
    /// that nothing is lost where it is not able to.
    pub(super) async fn start(link: Link) -> Result<Self, NoHttp2> {
        let (told, heard) = oneshot::channel();
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PONG_WITHIN)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(Greeted::new(link, told));
        let (sender, connection) = handshake.await.map_err(|err| NoHttp2::Ended(err.into()))?;
        tokio::spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!("an HTTP/2 connection ended: {}", crate::chain(&err));
            }
        });
        match tokio::time::timeout(GREETING_TIME, heard).await {
            Ok(Ok(greeting)) => greeting?,
            Ok(Err(_)) | Err(_) => return Err(NoHttp2::Silent),
        }
        let state = State { under_way: 0, last_used: Instant::now(), retired: false };
        Ok(Self { sender, state: Mutex::new(state) })
    }

    /// Whether a request may be sent on it. One that nobody has used for `idle` may have died unnoticed.
    pub(super) fn is_usable(&self, idle: Duration) -> bool {
        let state = self.state();
        let fresh = state.under_way > 0 || state.last_used.elapsed() < idle;
        fresh && !state.retired && self.sender.is_ready()
    }

    /// The whole answer to `request`, which has an absolute URI. Whoever stops waiting takes the connection out of use for
    /// requests to come, but those under way are waited for on it.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let mut usage = self.begin();
        let result = self.exchange(request).await;
        usage.retires = matches!(&result, Err(Failure::Broken(_) | Failure::WantsHttp1(_)));
        result
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let answer = self.sender.clone().try_send_request(request).await;
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(mut err) => {
                let unsent = err.take_message().is_some();
                let err = err.into_error().into();
                return Err(if unsent { Failure::NotBegun(err) } else { sort(err) });
            }
        };
        match Limited::new(body, RESPONSE_LIMIT).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(err) if err.is::<LengthLimitError>() => Err(Failure::TooLarge),
            Err(err) => Err(match sort(err) {
                // It has begun, since there was an answer.
                Failure::NotBegun(err) | Failure::WantsHttp1(err) => Failure::Broken(err),
                failure => failure,
            }),
        }
    }

    fn begin(&self) -> Usage<'_> {
        self.state().under_way += 1;
        Usage { connection: self, retires: true }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
struct Usage<'a> {
    connection: &'a Http2,
    /// Its end is one that speaks against the connection.
    retires: bool,
}

impl Drop for Usage<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.under_way -= 1;
        state.last_used = Instant::now();
        state.retired |= self.retires;
    }
}

/// What an error says of the request (RFC 9113, sections 5.4, 6.8 and 8.7).
fn sort(err: BoxError) -> Failure {
    let cause = std::iter::successors(Some(&*err as &(dyn std::error::Error + 'static)), |err| err.source())
        .find_map(|err| err.downcast_ref::<h2::Error>());
    let Some((cause, reason)) = cause.and_then(|cause| Some((cause, cause.reason()?))) else {
        return Failure::Broken(err);
    };
    match reason {
        _ if !cause.is_remote() => Failure::Broken(err),
        h2::Reason::HTTP_1_1_REQUIRED | h2::Reason::INADEQUATE_SECURITY => Failure::WantsHttp1(err),
        // The server has named the last request that it has taken, and this one came later.
        h2::Reason::NO_ERROR if cause.is_go_away() => Failure::NotBegun(err),
        h2::Reason::REFUSED_STREAM if cause.is_reset() => Failure::NotBegun(err),
        _ if cause.is_reset() => Failure::Reset(err),
        _ => Failure::Broken(err),
    }
}

/// The server's SETTINGS come at once, or this is not HTTP/2.
const GREETING_TIME: Duration = Duration::from_secs(15);
/// A server that says nothing for so long while a request is under way is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// Bytes that are on their way to us at most, for one answer and for all.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

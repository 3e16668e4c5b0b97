//! Accept, read, admit, call, reply, drain. Knows no endpoint.

use std::convert::Infallible;
use std::future::poll_fn;
use std::hash::{Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::apart::with_slot;
use crate::body::{discard, read};
use crate::connections::{Connection, Connections, Phase, Registered, Watched};
use crate::limit::Limits;
use crate::log::Repeats;
use crate::reply::{error_reply, last, say, say_to_request, success_reply};
use crate::router::{Body, Failure, Outcome, Prepared, method_not_allowed};
use crate::stop::{LAST_ANSWERS, Stop, answered, leaving, told};
use crate::{ApiError, Handlers, Peer, Router};

/// A service on a socket.
pub struct Server<S> {
    state: Arc<S>,
    router: Router<S>,
    limits: Limits,
    /// For requests that wait for others, so that they keep nobody from the rest.
    waiting_limits: Arc<Limits>,
    connections: Arc<Connections>,
    /// For connections beside those, until their users have been told that they have too many.
    refusals: Limits,
    repeats: Repeats,
    /// Whether those that are still not done after the signal to stop are given up.
    given_up: watch::Sender<bool>,
}

impl<S: Handlers> Server<S> {
    /// Serves `router` with `state`: `max_requests` at a time for each uid, and as many besides that
    /// [wait for others](crate::Endpoint::WAITS), over at most `max_connections`.
    pub fn new(state: Arc<S>, router: Router<S>, max_requests: usize, max_connections: usize) -> Self {
        Self {
            state,
            router,
            limits: Limits::new(max_requests),
            waiting_limits: Arc::new(Limits::new(max_requests)),
            connections: Connections::new(max_connections, connections_of_user(max_requests)),
            refusals: Limits::new(USER_REFUSALS),
            repeats: Repeats::default(),
            given_up: watch::Sender::new(false),
        }
    }

    /// Accepts connections until `stop` says so, then lets the accepted requests finish, for 30 s at most or until it says
    /// [`Stop::Now`]; those that are still not done are told so.
    pub async fn run(self, listener: UnixListener, mut stop: watch::Receiver<Stop>) {
        let server = Arc::new(self);
        let reaper = tokio::spawn(Arc::clone(&server.connections).reap());
        let mut pause = ACCEPT_PAUSE_MIN;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = told(&mut stop, Stop::Drain) => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    pause = ACCEPT_PAUSE_MIN;
                    server.open(stream, stop.clone());
                }
                Err(error) => {
                    server.repeats.warn("accept", format_args!("cannot accept a connection: {error}"));
                    server.connections.evict();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
        drop(listener);
        reaper.abort();
        server.drain(stop).await;
    }

    async fn drain(&self, mut stop: watch::Receiver<Stop>) {
        let done = async || {
            while self.connections.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = done() => return,
            () = tokio::time::sleep(DRAIN_LIMIT) => {}
            Ok(_) = stop.wait_for(|stop| *stop == Stop::Now) => {}
        }
        self.given_up.send_replace(true);
        // A client that does not take its answer is not waited for any longer.
        let _ = tokio::time::timeout(LAST_ANSWERS, done()).await;
    }

    /// Starts a task for a new connection. One whose peer is unknown is dropped.
    fn open(self: &Arc<Self>, stream: UnixStream, stop: watch::Receiver<Stop>) {
        match Peer::of(&stream) {
            Ok(peer) => match self.connections.register(peer.uid) {
                Some(place) => drop(tokio::spawn(Arc::clone(self).converse(stream, peer, place, stop))),
                None => self.refuse(stream, &peer),
            },
            Err(error) => {
                self.repeats
                    .warn("peer", format_args!("a connection without credentials is dropped: {error}"));
            }
        }
    }

    /// Tells somebody with too many connections. If many wait already to be told so, the connection is closed.
    fn refuse(&self, stream: UnixStream, peer: &Peer) {
        let message = format!("user {} has too many requests under way; try again later", peer.uid);
        let failure = Failure::plain(later(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)));
        self.log_failure(peer, "a new connection", &failure);
        if let Some(place) = self.refusals.try_admit(peer.uid) {
            tokio::spawn(async move {
                say_to_request(stream, &failure.reply).await;
                drop(place);
            });
        }
    }

    /// Answers all requests of one connection.
    async fn converse(
        self: Arc<Self>,
        stream: UnixStream,
        peer: Peer,
        place: Registered,
        mut stop: watch::Receiver<Stop>,
    ) {
        let connection = Arc::clone(&place.connection);
        let is_stopping = &stop.clone();
        let service = hyper::service::service_fn(|request| {
            let (server, peer, connection) = (Arc::clone(&self), peer.clone(), Arc::clone(&connection));
            async move {
                let reply = server.answer(&peer, &connection, request).await;
                Ok::<_, Infallible>(if *is_stopping.borrow() >= Stop::Drain { last(reply) } else { reply })
            }
        });
        let io = TokioIo::new(Watched { stream, connection: Arc::clone(&connection) });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .writev(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(io, service);
        let mut http = http;
        let ended = tokio::select! {
            ended = &mut http => Some(ended),
            () = leaving(&mut stop, &connection) => match connection.phase().0 {
                Phase::Head => None,
                // Also an answer may still be on its way, or a request have come in at this very moment.
                Phase::Busy | Phase::Idle => {
                    Pin::new(&mut http).graceful_shutdown();
                    tokio::select! {
                        ended = &mut http => Some(ended),
                        () = answered(&connection) => None,
                    }
                }
            },
        };
        match ended {
            Some(Err(error)) => {
                tracing::debug!(uid = peer.uid, "a connection broke: {}", crate::chain(&error));
            }
            Some(Ok(())) => {}
            // It has to go: tell a client whose request was on its way, then close.
            None if connection.phase().0 == Phase::Head => {
                let late = "the head of the request did not arrive in time";
                let late = ApiError::new(StatusCode::REQUEST_TIMEOUT, late);
                say(&mut http.into_parts().io.into_inner().stream, &late).await;
            }
            None => {}
        }
    }

    /// Answers one request.
    async fn answer(
        self: Arc<Self>,
        peer: &Peer,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        connection.enter(Phase::Busy);
        let _idle_again = Finally(|| connection.enter(Phase::Idle));
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let mut pattern = "?";
        let mut given_up = self.given_up.subscribe();
        let outcome = tokio::select! {
            biased;
            outcome = self.outcome(peer, &head, body, &mut pattern) => outcome,
            () = told(&mut given_up, true) => Err(Failure::stopped()),
        };
        let status = match &outcome {
            Ok(success) => success.status,
            Err(failure) => failure.reply.status,
        };
        tracing::debug!(
            "uid {} pid {} {} {} {pattern}: {} in {} us",
            peer.uid,
            peer.pid.unwrap_or_default(),
            self.router.name(),
            head.method,
            status.as_u16(),
            begun.elapsed().as_micros()
        );
        match outcome {
            Ok(success) => success_reply(success),
            Err(failure) => {
                self.log_failure(peer, pattern, &failure);
                error_reply(&failure.reply)
            }
        }
    }

    async fn outcome(
        &self,
        peer: &Peer,
        head: &http::request::Parts,
        body: Incoming,
        pattern: &mut &'static str,
    ) -> Outcome {
        let found = self.router.find(&head.uri);
        if let Ok(matched) = &found {
            *pattern = matched.pattern;
        }
        let matched = match found.and_then(|matched| refused(head).map_or(Ok(matched), Err)) {
            Ok(matched) => matched,
            Err(refusal) => {
                discard(body, &head.headers).await;
                return Err(Failure::plain(refusal));
            }
        };
        let bytes;
        let body = match head.method {
            Method::GET => {
                discard(body, &head.headers).await;
                Body::Absent
            }
            Method::PUT => {
                bytes = read(body, &head.headers).await?;
                Body::Json(&bytes)
            }
            _ => {
                bytes = read(body, &head.headers).await?;
                match (bytes.is_empty(), is_json(&head.headers)) {
                    (true, _) => Body::Absent,
                    (false, false) => Body::OtherType,
                    (false, true) => Body::Json(&bytes),
                }
            }
        };
        let prepared =
            matched.prepare(&self.state, peer.clone(), &head.method, &body).map_err(Failure::plain)?;
        self.run_handler(peer.uid, prepared).await
    }

    /// Runs a handler to its end, even if the caller hangs up. One that is ready at once costs no task.
    async fn run_handler(&self, uid: u32, Prepared { mut running, waits }: Prepared) -> Outcome {
        let limits = if waits { &*self.waiting_limits } else { &self.limits };
        let permit = limits.admit(uid).await.map_err(|throttled| {
            Failure::plain(later(ApiError::from_error(StatusCode::TOO_MANY_REQUESTS, &throttled)))
        })?;
        let first = poll_fn(|cx| Poll::Ready(catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)))));
        match first.await {
            Ok(Poll::Ready(outcome)) => outcome,
            Ok(Poll::Pending) => {
                let task = tokio::spawn(with_slot(permit, Arc::clone(&self.waiting_limits), uid, running));
                task.await.unwrap_or_else(|_| Err(Failure::panicked()))
            }
            Err(_) => Err(Failure::panicked()),
        }
    }

    /// Internal errors are for the administrator; so is who is refused for want of a principal or of slots. The
    /// rest is the caller's business. Repetitions are counted, not printed.
    fn log_failure(&self, peer: &Peer, pattern: &'static str, failure: &Failure) {
        let status = failure.reply.status;
        let line = format_args!(
            "uid {} pid {}, {pattern}: {}: {}",
            peer.uid,
            peer.pid.unwrap_or_default(),
            status.as_u16(),
            failure.log
        );
        // The cause of an internal error stands in this line only, so each cause is told.
        let cause = if status.is_server_error() { digest(&failure.log) } else { 0 };
        let kind = (pattern, status.as_u16(), peer.uid, cause);
        match status {
            _ if status.is_server_error() => self.repeats.error(kind, line),
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => self.repeats.info(kind, line),
            _ => tracing::debug!("{line}"),
        }
    }
}

impl Failure {
    pub(crate) fn plain(reply: ApiError) -> Self {
        Self { log: reply.message.replace('\n', ": "), reply }
    }

    /// The service ends; whether the work was done is not known.
    fn stopped() -> Self {
        let message = "the service is being stopped, and the request was not done in time; ask again";
        Self::plain(later(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)))
    }

    fn panicked() -> Self {
        let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "");
        let reply = ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error);
        Self { reply, log: "the handler panicked; this is a bug".to_owned() }
    }
}

/// How many connections one user may have open: its requests in work, those that wait, and as many that idle.
fn connections_of_user(max_requests: usize) -> usize {
    max_requests.saturating_mul(2).saturating_add(USER_CONNECTIONS)
}

/// A refusal of what may be asked again.
fn later(mut refusal: ApiError) -> ApiError {
    refusal.retry_after = Some(RETRY_SECS);
    refusal
}

fn digest(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Why a request is refused whose path is known, if its head alone says so.
fn refused(head: &http::request::Parts) -> Option<ApiError> {
    match head.method {
        Method::GET | Method::POST | Method::DELETE => None,
        Method::PUT if is_json(&head.headers) => None,
        Method::PUT => {
            let message = "the content-type has to be application/json";
            Some(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
        _ => Some(method_not_allowed(&head.method)),
    }
}

/// Whether the body counts as JSON: also without any type, or with one that is not readable text.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(HeaderValue::to_str) else { return true };
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Runs a function when dropped.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// hyper's buffer for a request's head, in bytes; the spec has 414 above 65,534 bytes of target.
const MAX_HEAD: usize = 417_792;
/// `Retry-After` of a request that was throttled or given up.
const RETRY_SECS: u64 = 1;
/// Connections of one user beside those for requests in work.
const USER_CONNECTIONS: usize = 256;
/// Connections of one user that are told at a time that they are too many; less than the descriptors that are kept for
/// other things.
const USER_REFUSALS: usize = 32;
/// How long accepted requests may take after the signal to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

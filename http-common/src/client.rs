//! Calls an endpoint over a Unix socket, with connections kept for the next call. Knows no service.

mod absence;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::response::Parts;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::error::ErrorBody;
use crate::wire::{self, Encoded};
use crate::{ApiError, Endpoint, Service};
use absence::Absence;

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket, or the connection broke.
    #[error("cannot reach {service} at {socket}; is it running, and may this user open its socket?")]
    Unreachable {
        /// Name of the service.
        service: &'static str,
        /// Its socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{service} did not answer within {} s", .limit.as_secs())]
    TimedOut {
        /// Name of the service.
        service: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The service refuses.
    #[error("{service} refuses")]
    Refused {
        /// Name of the service.
        service: &'static str,
        /// What it says.
        #[source]
        error: ApiError,
    },
    /// The reply is not what the API promises, or the request cannot be written.
    #[error("{service} answered something unreadable")]
    BadReply {
        /// Name of the service.
        service: &'static str,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    limit: Duration,
    idle: Mutex<VecDeque<SendRequest<Full<Bytes>>>>,
    /// For a client that looks twice.
    absence: Option<Mutex<Absence>>,
}

impl Client {
    /// A client of the service that listens at `socket`; a call may take 30 s.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_limit(socket, CALL_LIMIT)
    }

    /// A client whose calls may take `limit`.
    pub fn with_limit(socket: impl Into<PathBuf>, limit: Duration) -> Self {
        Self::of(socket.into(), limit, None)
    }

    /// The same for a service that may just be started again: who finds nobody at the socket looks once more, up to 3 s
    /// later. Nothing was sent by then, so that every request may be made so.
    pub fn patient(self) -> Self {
        Self::of(self.inner.socket.clone(), self.inner.limit, Some(Mutex::default()))
    }

    fn of(socket: PathBuf, limit: Duration, absence: Option<Mutex<Absence>>) -> Self {
        Self { inner: Arc::new(Inner { socket, limit, idle: Mutex::default(), absence }) }
    }

    /// The socket it calls.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// Sends `request` and reads the reply.
    pub async fn call<E: Endpoint>(&self, request: &E) -> Result<E::Reply, ClientError> {
        let service = E::Service::NAME;
        let encoded = wire::encode(request).map_err(|error| bad_reply(service, error))?;
        let limit = self.inner.limit;
        match tokio::time::timeout(limit, self.inner.exchange::<E>(encoded)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { service, limit }),
        }
    }
}

impl ClientError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { error, .. } => Some(error.status),
            _ => None,
        }
    }

    /// Whether the service could not be reached or did not answer; a later call may succeed.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

impl Inner {
    async fn exchange<E: Endpoint>(&self, encoded: Encoded) -> Result<E::Reply, ClientError> {
        let service = E::Service::NAME;
        let mut request = self.request::<E>(encoded)?;
        let (mut sender, reply) = loop {
            let (mut sender, kept) = match self.kept() {
                Some(sender) => (sender, true),
                None => (self.connect(service).await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(reply) => break (sender, reply),
                // A kept connection that the service has closed meanwhile: nothing was sent, so send it anew.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(self.unreachable(service, error.into_error())),
                },
            }
        };
        let (head, body) = reply.into_parts();
        let body = self.collect(service, body).await?;
        if sender.ready().await.is_ok() {
            self.keep(sender);
        }
        check_type::<E>(&head)?;
        read_reply::<E>(head.status, &body)
    }

    fn request<E: Endpoint>(&self, encoded: Encoded) -> Result<Request<Full<Bytes>>, ClientError> {
        let service = E::Service::NAME;
        let mut request =
            Request::builder().method(E::METHOD).uri(encoded.target).header(HOST, format!("{service}.sock"));
        if encoded.body.is_some() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let body = encoded.body.map_or_else(Bytes::new, Bytes::from_owner);
        request.body(Full::new(body)).map_err(|error| bad_reply(service, error))
    }

    async fn connect(&self, service: &'static str) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = self.reach().await.map_err(|error| self.unreachable(service, error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(service, error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to {service} broke: {}", crate::chain(&error));
            }
        });
        Ok(sender)
    }

    async fn reach(&self) -> io::Result<UnixStream> {
        let Some(absence) = &self.absence else { return UnixStream::connect(&self.socket).await };
        let known = || absence.lock().expect("no panic while held");
        let reached = match UnixStream::connect(&self.socket).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                let pause = known().pause(Instant::now());
                if pause.is_zero() {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
                UnixStream::connect(&self.socket).await
            }
            first => first,
        };
        if reached.is_ok() {
            known().is_over();
        }
        reached
    }

    async fn collect(&self, service: &'static str, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, REPLY_LIMIT)
            .collect()
            .await
            .map_err(|source| ClientError::Unreachable { service, socket: self.socket.clone(), source })?;
        Ok(body.to_bytes())
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().expect("no panic while held");
        idle.retain(|sender| !sender.is_closed());
        idle.pop_back()
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().expect("no panic while held");
        idle.push_back(sender);
        if idle.len() > KEPT {
            idle.pop_front();
        }
    }

    fn unreachable(
        &self,
        service: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        ClientError::Unreachable { service, socket: self.socket.clone(), source: source.into() }
    }
}

/// Refuses a success whose content is said to be no JSON; nothing need be said.
fn check_type<E: Endpoint>(head: &Parts) -> Result<(), ClientError> {
    if head.status != E::STATUS || head.status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    let Some(kind) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    match kind.to_str().is_ok_and(|kind| kind.to_ascii_lowercase().contains(JSON)) {
        true => Ok(()),
        false => Err(bad_reply(E::Service::NAME, format!("content-type {kind:?}"))),
    }
}

/// Makes a result of a complete reply.
pub(crate) fn read_reply<E: Endpoint>(status: StatusCode, body: &[u8]) -> Result<E::Reply, ClientError> {
    let service = E::Service::NAME;
    if status == E::STATUS {
        let body = if status == StatusCode::NO_CONTENT { b"null" } else { body };
        return serde_json::from_slice(body).map_err(|error| bad_reply(service, error));
    }
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(bad_reply(service, format!("unexpected status {status}")));
    }
    let message = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.message,
        Err(_) => format!("status {status} without a message"),
    };
    Err(ClientError::Refused { service, error: ApiError::new(status, message) })
}

fn bad_reply(
    service: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ClientError {
    ClientError::BadReply { service, source: source.into() }
}

const JSON: &str = "application/json";
/// How long a call may take from connecting to the end of the reply.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Largest reply that is read, in bytes.
pub(crate) const REPLY_LIMIT: usize = 4 << 20;
/// Connections kept for later calls.
const KEPT: usize = 4;

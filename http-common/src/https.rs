//! The way out: HTTP over TLS to services in the cloud, through a proxy if there is one.
//!
//! ```text
//! Cloud (cloud.rs)      one logical call: fresh token, attempts, deadline, failures sorted
//!   └ Https (this file) one attempt: time and size limits, pooled HTTP/1.1 connections
//!       ├ Servers       servers.rs: what each server speaks; the HTTP/2 connection (http2.rs) that all share
//!       └ Connector     connect.rs: TCP or tunnel, then TLS (tls.rs), as proxy.rs says
//! ```
//!
//! HTTP/2 where the server chooses it, on one connection. It is not offered together with a client certificate, which some
//! servers ask for amid a connection, and cannot with HTTP/2 (RFC 9113, section 9.2.1). Else HTTP/1.1, with a connection for
//! each request that is under way. Certificates and signatures are exchanged on the first connection to a server only; the
//! others resume its TLS session (sessions.rs), with a client certificate without its key.
//!
//! Does not know what is said (`dps-client`, `hub-client` do), and is never used for the daemons' own sockets. TLS state
//! costs memory, so it is built on first use and given back after a minute without calls.

mod cloud;
mod connect;
mod failure;
mod http2;
mod outages;
mod pauses;
mod proxy;
mod servers;
mod sessions;
#[cfg(test)]
mod test_http2;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod thread;
mod tls;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, uri::Scheme};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use openssl::error::ErrorStack;

pub use self::cloud::{Call, Cloud, CloudOptions, Credentials, Reply, path_segment};
pub use self::failure::CloudFailure;
pub use self::outages::Outages;
pub use self::proxy::ProxyRules;
pub use self::tls::{ClientIdentity, Trust};

use self::connect::{ConnectError, Connector};
use self::servers::Servers;
use self::thread::Thread;

/// How to reach and trust servers. The default trusts what the system trusts and knows no proxy.
#[derive(Clone, Debug, Default)]
pub struct HttpsOptions {
    /// Which certificate authorities may vouch for servers.
    pub trust: Trust,
    /// The client certificate to present if a server asks for one; never shown to a proxy.
    pub identity: Option<ClientIdentity>,
    /// Which proxy to use for whom, usually [`ProxyRules::from_env`].
    pub proxy: ProxyRules,
}

/// A client for HTTPS (and, where configured, HTTP). Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Https(Arc<Shared>);

struct Shared {
    options: HttpsOptions,
    idle: Duration,
    on_own_thread: bool,
    live: Mutex<Option<Live>>,
}

/// What exists only while it is in use: TLS context, connection pool.
struct Live {
    ways: Ways,
    last_used: Instant,
}

/// The connections, and where they are.
#[derive(Clone)]
struct Ways {
    http1: HyperClient,
    /// None where HTTP/2 is not offered.
    http2: Option<Arc<Servers>>,
    thread: Option<Arc<Thread>>,
}

type HyperClient = Client<Connector, Full<Bytes>>;

/// Why one attempt brought no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The value of a proxy variable cannot be used.
    #[error("{variable} is not the URL of an HTTP proxy, expected http://[user:password@]host:port")]
    BadProxy {
        /// The name of the environment variable.
        variable: String,
    },
    /// OpenSSL cannot be set up with these options.
    #[error("could not set up TLS")]
    Setup(#[from] ErrorStack),
    /// The system gives no thread for the connections.
    #[error("could not start a thread for connections")]
    NoThread(#[source] std::io::Error),
    /// The server (or the proxy) could not be reached; no request was sent.
    #[error("could not connect to {peer}")]
    NotConnected {
        /// Host and port of the server.
        peer: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The proxy did not open a tunnel; no request was sent.
    #[error("the proxy did not connect us to {peer}")]
    Proxy {
        /// Host and port of the server, not of the proxy.
        peer: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's certificate is not acceptable; no request was sent.
    #[error("the certificate of {peer} is not trusted: {reason}")]
    Untrusted {
        /// Host and port of the server.
        peer: String,
        /// What is wrong with it, and what to look at.
        reason: String,
    },
    /// The server did not accept our TLS client certificate, or the lack of one.
    #[error("{peer} refused our TLS client certificate")]
    CertificateRefused {
        /// Host and port of the server.
        peer: String,
        /// The alert it sent.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No complete answer in time.
    #[error("{peer} did not answer within {} s", .after.as_secs())]
    TimedOut {
        /// Host and port of the server.
        peer: String,
        /// The time that was allowed.
        after: Duration,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to {peer} broke")]
    Broken {
        /// Host and port of the server.
        peer: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is larger than [`RESPONSE_LIMIT`].
    #[error("the answer of {peer} is larger than {RESPONSE_LIMIT} bytes")]
    TooLarge {
        /// Host and port of the server.
        peer: String,
    },
}

impl HttpsError {
    /// True if this is what being offline looks like: trying again later may help without any change here.
    pub fn is_network(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::Proxy { .. } | Self::TimedOut { .. } | Self::Broken { .. } => {
                true
            }
            Self::BadProxy { .. }
            | Self::Setup(_)
            | Self::NoThread(_)
            | Self::Untrusted { .. }
            | Self::CertificateRefused { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

impl Https {
    /// A client with these options. Opens nothing and loads nothing before the first request.
    pub fn new(options: HttpsOptions) -> Self {
        Self::with_idle_time(options, IDLE)
    }

    /// The same with its connections on a thread of their own, which there is while there are connections. For a client
    /// certificate whose key waits for somebody when it signs: nobody else waits with it.
    pub fn on_own_thread(options: HttpsOptions) -> Self {
        Self::with(options, IDLE, true)
    }

    fn with_idle_time(options: HttpsOptions, idle: Duration) -> Self {
        Self::with(options, idle, false)
    }

    fn with(options: HttpsOptions, idle: Duration, on_own_thread: bool) -> Self {
        Self(Arc::new(Shared { options, idle, on_own_thread, live: Mutex::new(None) }))
    }

    /// Send `request` (with an absolute URI) and read the whole answer, all within `timeout`. Any status is an answer.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
    ) -> Result<Response<Bytes>, HttpsError> {
        let peer = peer_of(request.uri());
        let request = self.complete(request);
        let ways = self.ways()?;
        let answer = tokio::time::timeout(timeout, exchange_on_thread(ways, request, &peer)).await;
        self.touch();
        answer.unwrap_or(Err(HttpsError::TimedOut { peer, after: timeout }))
    }

    /// Add what every request carries.
    fn complete(&self, request: Request<Bytes>) -> Request<Full<Bytes>> {
        let mut request = request.map(Full::new);
        let tunnelled = request.uri().scheme() == Some(&Scheme::HTTPS);
        let credentials = self.0.options.proxy.credentials(request.uri()).filter(|_| !tunnelled);
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if let Some(credentials) = credentials {
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        request
    }

    fn ways(&self) -> Result<Ways, HttpsError> {
        let Shared { options, idle, on_own_thread, live } = &*self.0;
        let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = live.as_mut() {
            live.last_used = Instant::now();
            return Ok(live.ways.clone());
        }
        let connector = Connector::new(options)?;
        let thread = on_own_thread.then(Thread::start).transpose().map_err(HttpsError::NoThread)?;
        let http2 = options.identity.is_none().then(|| Servers::new(connector.clone(), *idle));
        let http1 = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(*idle)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let ways = Ways { http1, http2, thread: thread.map(Arc::new) };
        *live = Some(Live { ways: ways.clone(), last_used: Instant::now() });
        tokio::spawn(reap(Arc::downgrade(&self.0), *idle));
        Ok(ways)
    }

    fn touch(&self) {
        if let Some(live) = self.0.live.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            live.last_used = Instant::now();
        }
    }
}

/// Give connections and TLS state back when they have not been used for `idle`.
async fn reap(shared: Weak<Shared>, idle: Duration) {
    let mut wait = idle;
    loop {
        tokio::time::sleep(wait).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut live = shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = live.as_ref().map_or(idle, |live| live.last_used.elapsed());
        if unused >= idle {
            *live = None;
            drop(live);
            crate::ffi::give_back_memory();
            return;
        }
        if let Some(servers) = live.as_ref().and_then(|live| live.ways.http2.as_ref()) {
            servers.tidy();
        }
        wait = idle - unused;
    }
}

/// [`exchange`] where the connections are.
async fn exchange_on_thread(
    ways: Ways,
    request: Request<Full<Bytes>>,
    peer: &str,
) -> Result<Response<Bytes>, HttpsError> {
    let Some(thread) = ways.thread.clone() else { return exchange(ways, request, peer).await };
    let owned = peer.to_owned();
    let job = async move { exchange(ways, request, &owned).await };
    thread.run(job).await.unwrap_or_else(|err| Err(broken(err.into(), peer)))
}

async fn exchange(
    ways: Ways,
    request: Request<Full<Bytes>>,
    peer: &str,
) -> Result<Response<Bytes>, HttpsError> {
    if let Some(servers) = &ways.http2
        && let Some(answer) = servers.ask(&request).await?
    {
        return Ok(answer);
    }
    let response = ways.http1.request(request).await.map_err(|err| sort_error(err, peer))?;
    let (head, body) = response.into_parts();
    match Limited::new(body, RESPONSE_LIMIT).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(err) if err.is::<LengthLimitError>() => Err(HttpsError::TooLarge { peer: peer.into() }),
        Err(err) => Err(broken(err, peer)),
    }
}

/// Find out what an error of the HTTP client is about.
fn sort_error(err: ClientError, peer: &str) -> HttpsError {
    match err.is_connect() {
        true => not_connected(Box::new(err), peer),
        false => broken(Box::new(err), peer),
    }
}

/// There is no connection, because of a [`ConnectError`].
fn not_connected(source: Box<dyn std::error::Error + Send + Sync>, peer: &str) -> HttpsError {
    let peer = peer.to_owned();
    let own = source.downcast_ref::<Arc<ConnectError>>().map(|cause| &**cause);
    match own.or_else(|| source.source()?.downcast_ref::<ConnectError>()) {
        Some(ConnectError::Untrusted { reason }) => HttpsError::Untrusted { peer, reason: reason.clone() },
        Some(ConnectError::Proxy(_)) => HttpsError::Proxy { peer, source },
        _ if tls::is_certificate_alert(&*source) => HttpsError::CertificateRefused { peer, source },
        _ => HttpsError::NotConnected { peer, source },
    }
}

/// A connection that broke; a TLS 1.3 server refuses a client certificate in this way.
fn broken(source: Box<dyn std::error::Error + Send + Sync>, peer: &str) -> HttpsError {
    let peer = peer.to_owned();
    match tls::is_certificate_alert(&*source) {
        true => HttpsError::CertificateRefused { peer, source },
        false => HttpsError::Broken { peer, source },
    }
}

fn peer_of(uri: &http::Uri) -> String {
    uri.authority().map_or_else(|| uri.to_string(), |authority| authority.as_str().to_owned())
}

/// The largest answer that is read, in bytes.
pub const RESPONSE_LIMIT: usize = 4 * 1024 * 1024;

/// `User-Agent` of every request.
const PRODUCT: &str = concat!("aziot-identity-service/", env!("CARGO_PKG_VERSION"));
const IDLE: Duration = Duration::from_secs(60);
/// As many as are used at a time (identityd brings so many modules in line at once).
const IDLE_CONNECTIONS: usize = 8;

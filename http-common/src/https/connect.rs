//! One connection: TCP to the server or a tunnel through a proxy, then TLS.
//!
//! Does not know requests; the pool above it decides when a connection is needed.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_openssl::SslStream;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use openssl::error::ErrorStack;
use openssl::x509::X509VerifyResult;
use tower_service::Service;

use super::{HttpsOptions, ProxyRules, tls};

/// Opens connections as the options say.
#[derive(Clone)]
pub(super) struct Connector(Arc<Route>);

struct Route {
    proxy: ProxyRules,
    server_tls: tls::Tls,
    /// For a proxy that is reached by TLS; the client identity is none of its business.
    proxy_tls: Option<tls::Tls>,
    tcp: HttpConnector,
    /// Connections that were opened to find out what a server speaks, by server, and when.
    spare: Mutex<HashMap<Box<str>, (Link, Instant)>>,
}

/// Which protocols a TLS server is told that we speak (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// None, which means HTTP/1.1.
    Nothing,
    /// HTTP/2, or else HTTP/1.1.
    Http2,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the server could not be reached")]
    Tcp(#[source] BoxError),
    #[error("the tunnel could not be opened")]
    Proxy(#[source] BoxError),
    #[error("the certificate is not trusted: {reason}")]
    Untrusted { reason: String },
    #[error("the TLS handshake failed")]
    Handshake(#[from] openssl::ssl::Error),
    #[error("the server ended the connection at once")]
    Refused(#[source] BoxError),
    #[error("there was no connection within {} s", super::servers::CONNECT_TIME.as_secs())]
    TimedOut,
    #[error("the attempt was given up")]
    GivenUp,
    #[error("could not set up TLS")]
    Setup(#[from] ErrorStack),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(options: &HttpsOptions) -> Result<Self, ErrorStack> {
        let HttpsOptions { trust, identity, proxy } = options.clone();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        let proxy_tls = proxy.is_secure().then(|| tls::Tls::new(trust.clone(), None)).transpose()?;
        let server_tls = tls::Tls::new(trust, identity)?;
        Ok(Self(Arc::new(Route { proxy, server_tls, proxy_tls, tcp, spare: Mutex::default() })))
    }

    /// A connection to `server`.
    pub(super) async fn open(&self, server: &Uri, offer: Offer) -> Result<Link, ConnectError> {
        self.0.clone().connect(server, offer).await
    }

    /// The next HTTP/1.1 connection to `server` shall be `link`, if it is wanted soon.
    pub(super) fn keep(&self, server: &Uri, link: Link) {
        let key = server.authority().map_or("", |authority| authority.as_str());
        let mut spare = self.0.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.insert(key.into(), (link, Instant::now()));
    }

    fn kept(&self, server: &Uri) -> Option<Link> {
        let mut spare = self.0.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let (link, since) = spare.remove(server.authority()?.as_str())?;
        (since.elapsed() < SOON).then_some(link)
    }
}

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match connector.kept(&server).filter(|_| server.scheme() == Some(&Scheme::HTTPS)) {
                Some(link) => Ok(link),
                None => connector.open(&server, Offer::Nothing).await,
            }
        })
    }
}

impl Route {
    async fn connect(self: Arc<Self>, server: &Uri, offer: Offer) -> Result<Link, ConnectError> {
        match self.clone().attempt(server, offer).await {
            // The system's bundle may have the authority that its directory has not.
            Err(Refusal::LacksIssuer(_)) if self.server_tls.widen()? => {
                Ok(self.attempt(server, offer).await?)
            }
            Err(refusal) => Err(refusal.into()),
            Ok(link) => Ok(link),
        }
    }

    async fn attempt(self: Arc<Self>, server: &Uri, offer: Offer) -> Result<Link, Refusal> {
        let secure = server.scheme() == Some(&Scheme::HTTPS);
        let proxy = self.proxy.intercept(server);
        let pipe: Stream = match &proxy {
            None => self.tcp(server).await?,
            Some(proxy) if secure => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), ToProxy(self.clone()));
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                tunnel.call(server.clone()).await.map_err(|err| ConnectError::Proxy(err.into()))?
            }
            Some(proxy) => ToProxy(self.clone()).open(proxy.uri()).await?,
        };
        if secure {
            return handshake(&self.server_tls, server, pipe, offer).await;
        }
        Ok(Link { stream: pipe, proxied: proxy.is_some(), http2: false })
    }

    async fn tcp(&self, to: &Uri) -> Result<Stream, ConnectError> {
        let stream = self.tcp.clone().call(to.clone()).await.map_err(|err| ConnectError::Tcp(err.into()))?;
        Ok(Box::new(stream))
    }
}

/// How the tunnel gets its connection to the proxy.
struct ToProxy(Arc<Route>);

impl ToProxy {
    async fn open(&self, proxy: &Uri) -> Result<Stream, ConnectError> {
        let Some(tls) = &self.0.proxy_tls else { return self.tcp(proxy).await };
        let link = match handshake(tls, proxy, self.tcp(proxy).await?, Offer::Nothing).await {
            Err(Refusal::LacksIssuer(_)) if tls.widen()? => {
                handshake(tls, proxy, self.tcp(proxy).await?, Offer::Nothing).await
            }
            outcome => outcome,
        };
        Ok(link?.stream)
    }

    async fn tcp(&self, proxy: &Uri) -> Result<Stream, ConnectError> {
        self.0.tcp(proxy).await.map_err(|err| ConnectError::Proxy(err.into()))
    }
}

impl Service<Uri> for ToProxy {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let this = Self(self.0.clone());
        Box::pin(async move { this.open(&proxy).await })
    }
}

async fn handshake(tls: &tls::Tls, server: &Uri, pipe: Stream, offer: Offer) -> Result<Link, Refusal> {
    let port = server.port_u16().unwrap_or(HTTPS_PORT);
    let mut ssl = tls.connection(server.host().unwrap_or_default(), port).map_err(ConnectError::Setup)?;
    if offer == Offer::Http2 {
        ssl.set_alpn_protos(HTTP2_OR_HTTP1).map_err(ConnectError::Setup)?;
    }
    let mut stream = SslStream::new(ssl, pipe).map_err(ConnectError::Setup)?;
    let Err(err) = Pin::new(&mut stream).connect().await else {
        let http2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        return Ok(Link { stream: Box::new(stream), proxied: false, http2 });
    };
    match stream.ssl().verify_result() {
        X509VerifyResult::OK => Err(Refusal::Final(err.into())),
        result if tls::lacks_issuer(result) => Err(Refusal::LacksIssuer(result)),
        result => Err(Refusal::Final(ConnectError::Untrusted { reason: tls::explain(result) })),
    }
}

/// A failed attempt, and whether knowing more authorities might help.
enum Refusal {
    LacksIssuer(X509VerifyResult),
    Final(ConnectError),
}

impl From<ConnectError> for Refusal {
    fn from(err: ConnectError) -> Self {
        Self::Final(err)
    }
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::LacksIssuer(result) => Self::Untrusted { reason: tls::explain(result) },
            Refusal::Final(err) => err,
        }
    }
}

/// An open connection as the HTTP client sees it.
pub(super) struct Link {
    stream: Stream,
    /// The other end is a proxy that wants to see the whole URL.
    proxied: bool,
    /// The other end has chosen HTTP/2.
    http2: bool,
}

impl Link {
    /// Whether the server has chosen HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2
    }
}

type Stream = Box<dyn Io>;

/// What TCP, TLS and TLS within TLS have in common.
trait Io: Read + Write + Unpin + Send {}
impl<T: Read + Write + Unpin + Send> Io for T {}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Link {
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

/// For all addresses of a name together.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// How long a connection is kept for a request that was about to be sent.
const SOON: Duration = Duration::from_secs(5);
/// Each name with its length (RFC 7301, section 3.1).
const HTTP2_OR_HTTP1: &[u8] = b"\x02h2\x08http/1.1";
const HTTPS_PORT: u16 = 443;
const KEEP_ALIVE: Duration = Duration::from_secs(60);

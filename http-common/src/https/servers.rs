//! What is known of each server: that it speaks HTTP/2, and the connection which all share then, or that it speaks HTTP/1.1.
//! Where nothing is known, one connection is opened to find out, and all who want to speak to that server wait for it.
//!
//! Does not make HTTP/1.1 connections but for those that turn out to be one; these are left to the connector (connect.rs).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::Full;
use tokio::sync::watch;

use super::connect::{ConnectError, Connector, Offer};
use super::http2::{Failure, Http2, NoHttp2};
use super::{HttpsError, broken, not_connected, peer_of, tls};

/// The servers that were spoken to.
pub(super) struct Servers {
    connector: Connector,
    idle: Duration,
    known: Mutex<HashMap<Box<str>, Known>>,
}

enum Known {
    /// Somebody finds out; the outcome will be told here.
    Soon(Arc<Told>),
    Spoken(Way),
}

/// How a server is spoken to.
#[derive(Clone)]
enum Way {
    Http2(Arc<Http2>),
    Http1,
}

type Told = watch::Sender<Option<Outcome>>;
type Outcome = Result<Way, Arc<ConnectError>>;

impl Servers {
    /// Knows of no server. Connections that nobody used for `idle` are not used again.
    pub(super) fn new(connector: Connector, idle: Duration) -> Arc<Self> {
        Arc::new(Self { connector, idle, known: Mutex::default() })
    }

    /// The answer to `request` by HTTP/2; None if its server is to be asked by HTTP/1.1, and has not been asked.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: &Request<Full<Bytes>>,
    ) -> Result<Option<Response<Bytes>>, HttpsError> {
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            return Ok(None);
        }
        let peer = peer_of(request.uri());
        let mut attempts = 0;
        loop {
            let way = self.way(request.uri(), &peer).await;
            let way = way.map_err(|err| not_connected(Box::new(err), &peer))?;
            let Way::Http2(connection) = way else { return Ok(None) };
            attempts += 1;
            match connection.send(request.clone()).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(Failure::NotBegun(err)) if attempts < ATTEMPTS => {
                    tracing::debug!("{peer} has not begun with a request: {err}");
                }
                Err(Failure::WantsHttp1(err)) => self.remember_http1(&peer, &*err),
                Err(Failure::TooLarge) => return Err(HttpsError::TooLarge { peer }),
                Err(Failure::NotBegun(err) | Failure::Reset(err) | Failure::Broken(err)) => {
                    return Err(broken(err, &peer));
                }
            }
        }
    }

    /// Forget connections that are not to be used again.
    pub(super) fn tidy(&self) {
        self.known().retain(|_, known| match known {
            Known::Spoken(Way::Http2(connection)) => connection.is_usable(self.idle),
            Known::Spoken(Way::Http1) | Known::Soon(_) => true,
        });
    }

    /// How to speak to `server`, once that is known.
    async fn way(self: &Arc<Self>, server: &Uri, peer: &str) -> Outcome {
        if only_http1().contains(peer) {
            return Ok(Way::Http1);
        }
        let mut soon = {
            let mut known = self.known();
            match known.get(peer) {
                Some(Known::Spoken(Way::Http1)) => return Ok(Way::Http1),
                Some(Known::Spoken(Way::Http2(shared))) if shared.is_usable(self.idle) => {
                    return Ok(Way::Http2(Arc::clone(shared)));
                }
                Some(Known::Soon(told)) => told.subscribe(),
                _ => {
                    let (told, soon) = watch::channel(None);
                    let told = Arc::new(told);
                    known.insert(peer.into(), Known::Soon(Arc::clone(&told)));
                    tokio::spawn(Arc::clone(self).find_out(server.clone(), peer.into(), told));
                    soon
                }
            }
        };
        let outcome = soon.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Arc::new(ConnectError::GivenUp)))
    }

    /// Connect, and tell all who wait; or stop when nobody waits any more.
    async fn find_out(self: Arc<Self>, server: Uri, peer: Box<str>, told: Arc<Told>) {
        let connecting = tokio::time::timeout(CONNECT_TIME, self.connect(&server, &peer));
        tokio::pin!(connecting);
        let outcome = loop {
            tokio::select! {
                outcome = &mut connecting => break outcome.unwrap_or(Err(ConnectError::TimedOut)),
                () = told.closed() => {
                    let mut known = self.known();
                    // Whoever comes looks under the same lock.
                    if told.is_closed() {
                        known.remove(&peer);
                        return;
                    }
                }
            }
        };
        let mut known = self.known();
        match &outcome {
            Ok(way) => known.insert(peer.clone(), Known::Spoken(way.clone())),
            Err(_) => known.remove(&peer),
        };
        told.send_replace(Some(outcome.map_err(Arc::new)));
    }

    async fn connect(&self, server: &Uri, peer: &str) -> Result<Way, ConnectError> {
        let link = self.connector.open(server, Offer::Http2).await?;
        if !link.is_http2() {
            self.connector.keep(server, link);
            return Ok(Way::Http1);
        }
        let trouble = match Http2::start(link).await {
            Ok(connection) => return Ok(Way::Http2(Arc::new(connection))),
            // A TLS 1.3 server judges us after it has chosen a protocol.
            Err(NoHttp2::Ended(err)) if tls::is_certificate_alert(&*err) => {
                return Err(ConnectError::Refused(err));
            }
            Err(trouble) => trouble,
        };
        // Only if it can be reached is this not what being offline looks like.
        let link = self.connector.open(server, Offer::Nothing).await?;
        self.connector.keep(server, link);
        self.remember_http1(peer, &trouble);
        Ok(Way::Http1)
    }

    /// From now on, and as long as this process lives.
    fn remember_http1(&self, peer: &str, why: &dyn std::error::Error) {
        if only_http1().insert(peer.into()) {
            tracing::info!("{peer} is asked by HTTP/1.1 from now on: {}", crate::chain(why));
        }
        self.known().remove(peer);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Servers that have chosen HTTP/2 but cannot or will not speak it.
fn only_http1() -> MutexGuard<'static, BTreeSet<Box<str>>> {
    static ONLY_HTTP1: Mutex<BTreeSet<Box<str>>> = Mutex::new(BTreeSet::new());
    ONLY_HTTP1.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a request is sent that the server has not begun with.
const ATTEMPTS: u32 = 3;
/// For everything until a connection can be used. Those who come later would wait with those who came first.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(60);

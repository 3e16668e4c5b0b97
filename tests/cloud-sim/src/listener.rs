//! Sockets: accept, shake hands, read requests, deliver replies; and refuse, abort or stall when told to.
//!
//! What to answer is the service's matter. One task per listener and one per connection.

use crate::{
    certificate::ClientCertificate,
    cloud::{Cloud, Origin, Outcome, Role},
    http::{Delivery, Ending, ReadError, Reader, Reply, Request, send},
    http2,
    tls::{Http2, TlsMode},
};
use openssl::ssl::{Ssl, SslAcceptor, SslContext};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_openssl::SslStream;

/// Whether and how connections are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gate {
    /// Do not listen: connections are refused, open ones are reset.
    pub(crate) refuse: bool,
    /// Pause between accepting a connection and shaking hands.
    pub(crate) delay_ms: u64,
}

/// A listener of the cloud.
#[derive(Debug)]
pub(crate) struct Door {
    /// Its name in the log.
    pub(crate) name: String,
    /// What stands behind it.
    pub(crate) role: Role,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    /// Whether and how connections are accepted.
    pub(crate) gate: watch::Sender<Gate>,
    tls: RwLock<(TlsMode, SslContext)>,
}

impl Door {
    /// A door on a port that is already bound, open and with the given TLS.
    #[must_use]
    pub(crate) fn new(name: &str, role: Role, port: u16, acceptor: SslAcceptor) -> Door {
        Door {
            name: name.to_owned(),
            role,
            port,
            gate: watch::Sender::default(),
            tls: RwLock::new((TlsMode::default(), acceptor.into_context())),
        }
    }

    /// How it does TLS.
    pub(crate) fn tls_mode(&self) -> TlsMode {
        self.tls.read().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }

    /// Do TLS otherwise from the next connection on.
    pub(crate) fn set_tls(&self, mode: TlsMode, acceptor: SslAcceptor) {
        let mut tls = self.tls.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *tls = (mode, acceptor.into_context());
    }

    fn tls(&self) -> (bool, SslContext) {
        let tls = self.tls.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (tls.0.abort, tls.1.clone())
    }
}

/// Take a port on 127.0.0.1 without listening yet: until then, connections are refused.
///
/// # Errors
/// When the port is taken.
pub(crate) fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

/// Serve the cloud at `door` for ever.
pub(crate) async fn serve_cloud(cloud: Arc<Cloud>, door: Arc<Door>, mut listener: TcpListener) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { tokio::spawn(serve_connection(cloud.clone(), door.clone(), stream)); }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            () = gate_is(&door, true) => {
                drop(listener);
                let port = hold(door.port).await;
                gate_is(&door, false).await;
                listener = match port.listen(BACKLOG) {
                    Ok(listener) => listener,
                    Err(_) => return,
                };
            }
        }
    }
}

/// Serve `answer` over plain HTTP for ever: for the admin listener.
pub(crate) async fn serve_plain<F>(listener: TcpListener, answer: F)
where
    F: Fn(&Request) -> Reply + Clone + Send + Sync + 'static,
{
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let outcome = move |request: &Request| {
                let date = crate::clock::http_date(crate::clock::machine_ms());
                (Outcome { reply: answer(request), delivery: Delivery::default(), date }, ())
            };
            let _ = exchange(&mut stream, outcome).await;
            stream.shutdown().await
        });
    }
}

/// Wait until the door refuses, or does not refuse.
async fn gate_is(door: &Door, refuse: bool) {
    let mut gate = door.gate.subscribe();
    // It fails only when the sender is gone, and the sender is in `door`.
    let _ = gate.wait_for(|gate| gate.refuse == refuse).await;
}

/// Bind the port again, as soon as its listener is gone.
async fn hold(port: u16) -> TcpSocket {
    loop {
        match bind(port) {
            Ok(socket) => return socket,
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve_connection(cloud: Arc<Cloud>, door: Arc<Door>, stream: TcpStream) {
    let connection = {
        let counters = &mut cloud.state().counters;
        counters.connections += 1;
        counters.open_connections += 1;
        counters.connections
    };
    let _ = stream.set_nodelay(true);
    tokio::select! {
        () = talk(&cloud, &door, connection, stream) => {}
        () = gate_is(&door, true) => {}
    }
    cloud.state().counters.open_connections -= 1;
}

async fn talk(cloud: &Arc<Cloud>, door: &Door, connection: u64, stream: TcpStream) {
    let delay = door.gate.borrow().delay_ms;
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let (abort, context) = door.tls();
    if abort {
        return;
    }
    let Some(mut stream) = shake_hands(cloud, &context, stream).await else { return };
    let origin = Origin {
        listener: door.name.clone(),
        role: door.role,
        connection,
        client_certificate: ClientCertificate::of(stream.ssl()),
    };
    if stream.ssl().selected_alpn_protocol() == Some(b"h2") {
        return match door.tls_mode().http2 {
            Http2::Broken => http2::break_it(stream).await,
            Http2::On | Http2::Off => http2::serve(cloud, origin, stream).await,
        };
    }
    match exchange(&mut stream, |request| cloud.handle(&origin, request)).await {
        Ok(Ending::ResetAfter(_) | Ending::DropConnection) => {
            let _ = stream.get_ref().set_zero_linger();
        }
        Ok(_) => {
            let _ = stream.shutdown().await;
        }
        Err(ReadError::Malformed(_)) => {
            cloud.state().counters.malformed += 1;
            let bad = Reply::json(400, &serde_json::json!({"message": "not an HTTP/1.1 request"}));
            let date = crate::clock::http_date(crate::clock::machine_ms());
            let _ = send(&mut stream, &bad, &date, &Delivery::default(), true).await;
            let _ = stream.shutdown().await;
        }
        Err(ReadError::Ended(_)) => {}
    }
}

async fn shake_hands(cloud: &Cloud, context: &SslContext, stream: TcpStream) -> Option<SslStream<TcpStream>> {
    let mut stream = SslStream::new(Ssl::new(context).ok()?, stream).ok()?;
    let shaken = Pin::new(&mut stream).accept().await;
    let counters = &mut cloud.state().counters;
    match shaken {
        Ok(()) => {
            counters.tls_handshakes += 1;
            counters.tls_resumed += u64::from(stream.ssl().session_reused());
            Some(stream)
        }
        Err(err) => {
            counters.tls_failures += 1;
            counters.last_tls_failure = Some(err.to_string());
            None
        }
    }
}

/// Requests and replies until the connection is to end, and how. What comes with an outcome is kept until it is delivered.
async fn exchange<S, F, K>(stream: &mut S, answer: F) -> Result<Ending, ReadError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(&Request) -> (Outcome, K),
{
    let mut reader = Reader::default();
    loop {
        let request = reader.next(stream).await?;
        let (Outcome { reply, delivery, date }, _kept) = answer(&request);
        tokio::time::sleep(delivery.delay).await;
        if delivery.ending == Ending::Stall {
            // Hold the connection until the client gives up.
            while stream.read(&mut [0; 1024]).await.map_err(|err| ReadError::Ended(Some(err)))? > 0 {}
            return Ok(Ending::Stall);
        }
        let sent = send(stream, &reply, &date, &delivery, !request.keep_alive).await;
        sent.map_err(|err| ReadError::Ended(Some(err)))?;
        if delivery.ending != Ending::Complete || !request.keep_alive {
            return Ok(delivery.ending);
        }
    }
}

/// Connections that the kernel keeps for a listener until it accepts them.
pub(crate) const BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

//! For tests: a TLS server on loopback that speaks HTTP/2, also badly, and HTTP/1.1 to those who do not want it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, Uri};
use hyper_openssl::SslStream;
use hyper_util::rt::TokioIo;
use openssl::ssl::{AlpnError, Ssl, SslContext, SslVerifyMode, select_next_proto};
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::test_server::{Issued, answer};

/// What the server does after it has chosen HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    Settings,
    Garbage,
    End,
    Silence,
    /// As a server that wants a client certificate, when it learns that there is none.
    Alert,
}

/// What becomes of a request by HTTP/2.
pub(super) enum Act {
    /// 200, and the path as the body.
    Answer,
    /// The same once so many requests have arrived.
    AnswerTogether(usize),
    /// The same, and no further requests on this connection.
    AnswerLast,
    Hang,
    Reset(Reason),
    /// The end of the connection, without a word.
    Drop,
}

/// What the server has been through.
#[derive(Default)]
pub(super) struct Log {
    pub(super) connections: usize,
    /// Those among them that have ended.
    pub(super) ended: usize,
    /// What each client has offered.
    pub(super) offered: Vec<Vec<u8>>,
    pub(super) requests: Vec<(Method, Uri, HeaderMap, Bytes)>,
    pub(super) by_http1: usize,
}

#[derive(Clone)]
pub(super) struct Http2Server {
    pub(super) port: u16,
    pub(super) authority: X509,
    pub(super) log: Arc<Mutex<Log>>,
    arrived: Arc<watch::Sender<usize>>,
    greeting: Greeting,
    act: Arc<dyn Fn(usize) -> Act + Send + Sync>,
}

impl Http2Server {
    /// `act` is told the number of the request, from 0.
    pub(super) async fn start(
        greeting: Greeting,
        act: impl Fn(usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Issued::authority("Test Authority");
        let log: Arc<Mutex<Log>> = Arc::default();
        let mut acceptor = authority.leaf("localhost").acceptor();
        let mut verify = SslVerifyMode::PEER;
        verify.set(SslVerifyMode::FAIL_IF_NO_PEER_CERT, greeting == Greeting::Alert);
        acceptor.set_verify_callback(verify, |_, _| true);
        acceptor.set_session_id_context(b"test").unwrap();
        acceptor.set_alpn_select_callback({
            let log = log.clone();
            move |_, offered| {
                log.lock().unwrap().offered.push(offered.to_vec());
                select_next_proto(b"\x02h2", offered).ok_or(AlpnError::NOACK)
            }
        });
        let context = acceptor.build().into_context();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            authority: authority.cert,
            log,
            arrived: Arc::new(watch::Sender::new(0)),
            greeting,
            act: Arc::new(act),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().shake_hands(context.clone(), stream));
            }
        });
        server
    }

    pub(super) fn uri(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.port)
    }

    /// Connections so far, and how many of them have ended.
    pub(super) fn connections(&self) -> (usize, usize) {
        let log = self.log.lock().unwrap();
        (log.connections, log.ended)
    }

    pub(super) async fn have_arrived(&self, wanted: usize) {
        self.arrived.subscribe().wait_for(|number| *number >= wanted).await.unwrap();
    }

    async fn shake_hands(self, context: SslContext, stream: TcpStream) {
        let mut stream = SslStream::new(Ssl::new(&context).unwrap(), TokioIo::new(stream)).unwrap();
        if Pin::new(&mut stream).accept().await.is_err() {
            return;
        }
        self.log.lock().unwrap().connections += 1;
        let http2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        let mut stream = TokioIo::new(stream);
        match self.greeting {
            _ if !http2 => self.speak_http1(&mut stream).await,
            Greeting::Settings | Greeting::Alert => self.speak_http2(stream).await,
            Greeting::Garbage => drop(stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await),
            Greeting::End => drop(stream.shutdown().await),
            Greeting::Silence => drop(stream.read_to_end(&mut Vec::new()).await),
        }
        self.log.lock().unwrap().ended += 1;
    }

    async fn speak_http1(&self, stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
        let mut head = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                self.log.lock().unwrap().by_http1 += 1;
                stream.write_all(answer(200, "", "by HTTP/1.1").as_bytes()).await.unwrap();
            }
        }
    }

    async fn speak_http2(&self, stream: TokioIo<SslStream<TokioIo<TcpStream>>>) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (end, last) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let signs = (end.clone(), last.clone());
                        requests.spawn(self.clone().serve(request, respond, signs));
                    }
                    Some(Err(_)) | None => return,
                },
                () = end.notified() => return,
                () = last.notified() => connection.graceful_shutdown(),
            }
        }
    }

    async fn serve(
        self,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        (end, last): (Arc<Notify>, Arc<Notify>),
    ) {
        let (head, mut incoming) = request.into_parts();
        let mut body = Vec::new();
        while let Some(Ok(piece)) = incoming.data().await {
            body.extend_from_slice(&piece);
        }
        let path = head.uri.path().to_owned();
        let number = {
            let mut log = self.log.lock().unwrap();
            log.requests.push((head.method, head.uri, head.headers, body.into()));
            log.requests.len() - 1
        };
        self.arrived.send_modify(|number| *number += 1);
        match (self.act)(number) {
            Act::Answer => send(respond, path),
            Act::AnswerTogether(wanted) => {
                self.have_arrived(wanted).await;
                send(respond, path);
            }
            Act::AnswerLast => {
                send(respond, path);
                last.notify_one();
            }
            Act::Hang => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
            Act::Reset(reason) => respond.send_reset(reason),
            Act::Drop => end.notify_one(),
        }
    }
}

fn send(mut respond: SendResponse<Bytes>, body: String) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(body.into(), true).unwrap();
}

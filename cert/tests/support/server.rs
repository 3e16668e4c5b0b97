//! The server: what it answers to whom, and what it remembers.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::{X509, X509Req};

use super::authority::{Issued, common_name, pkcs7};
use super::http::{Request, reply};

/// How a server is set up.
#[derive(Clone)]
pub struct Settings {
    /// Its root.
    pub root: Issued,
    /// Who issues, and what leads from there to the root (without the root).
    pub issuer: Issued,
    /// For whom its TLS certificate is; none for plain HTTP.
    pub host: Option<&'static str>,
    /// Who may ask, by HTTP Basic.
    pub basic: Option<(&'static str, &'static str)>,
    /// Whether a TLS client certificate is needed.
    pub needs_client: bool,
    /// How answers look.
    pub dress: Dress,
    /// How long certificates are valid, in seconds.
    pub lifetime: i64,
    /// The body of csrattrs in DER; 404 if none.
    pub attributes: Option<Vec<u8>>,
    /// Whether it knows simplereenroll.
    pub reenrolls: bool,
}

impl Settings {
    pub fn new() -> Self {
        let root = Issued::root("EST Root");
        Self {
            issuer: root.clone(),
            root,
            host: Some("localhost"),
            basic: None,
            needs_client: false,
            dress: Dress::Lines,
            lifetime: 3600,
            attributes: None,
            reenrolls: true,
        }
    }
}

/// How PKCS #7 is written.
#[derive(Clone, Copy, Debug)]
pub enum Dress {
    /// Base64 in lines.
    Lines,
    /// Base64 in one line without an end.
    OneLine,
    /// Base64 in lines with CR LF.
    Crlf,
    /// Base64 without padding.
    Unpadded,
    /// PEM.
    Pem,
    /// Binary, whatever the headers say.
    Der,
}

/// What comes instead of what is right.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status, headers (lines that end in CR LF), body.
    Raw(u16, String, Vec<u8>),
    /// Nothing, and the connection stays open.
    Hang,
    /// Nothing, and the connection is closed.
    Close,
    /// These certificates.
    Certificates(Vec<X509>),
    /// What is right, after so long.
    Late(Duration),
}

/// A request that a server has got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub request: Request,
    /// What is between `/.well-known/est/` and the operation.
    pub label: String,
    pub operation: String,
    /// The certificate of the TLS client.
    pub client: Option<X509>,
}

impl Seen {
    /// Common name of the TLS client.
    pub fn client_name(&self) -> Option<String> {
        self.client.as_ref().map(|client| common_name(client.subject_name()))
    }

    /// The certificate request in it.
    pub fn csr(&self) -> X509Req {
        let text: Vec<u8> =
            self.request.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        X509Req::from_der(&STANDARD.decode(text).unwrap()).unwrap()
    }
}

/// A server that runs until the test ends.
#[derive(Clone)]
pub struct EstServer {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    seen: Mutex<Vec<Seen>>,
    issued: Mutex<Vec<X509>>,
    instead: Mutex<HashMap<String, VecDeque<Answer>>>,
}

impl EstServer {
    pub fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = settings.host.map(|host| Arc::new(acceptor(&settings, host)));
        let shared = Arc::new(Shared {
            settings,
            seen: Mutex::default(),
            issued: Mutex::default(),
            instead: Mutex::default(),
        });
        let server = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                std::thread::spawn(move || shared.accept(stream.unwrap(), acceptor.as_deref()));
            }
        });
        server
    }

    /// The URL of the server, or of one of its labels.
    pub fn url(&self, label: &str) -> String {
        let scheme = if self.shared.settings.host.is_some() { "https" } else { "http" };
        let slash = if label.is_empty() { "" } else { "/" };
        format!("{scheme}://localhost:{}/.well-known/est{slash}{label}", self.port)
    }

    /// Answers `operation` with `answer` once, or after the answers that it was told before.
    pub fn next(&self, operation: &str, answer: Answer) {
        self.shared.instead.lock().unwrap().entry(operation.to_owned()).or_default().push_back(answer);
    }

    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The operations it was asked for, in their order.
    pub fn operations(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.operation.clone()).collect()
    }

    /// The enrolments among what it has seen.
    pub fn enrolments(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.operation.ends_with("enroll")).collect()
    }

    pub fn issued(&self) -> Vec<X509> {
        self.shared.issued.lock().unwrap().clone()
    }
}

impl Shared {
    fn accept(&self, stream: TcpStream, acceptor: Option<&SslAcceptor>) {
        let Some(acceptor) = acceptor else { return self.converse(stream, None) };
        let Ok(stream) = acceptor.accept(stream) else { return };
        let client = stream.ssl().peer_certificate();
        self.converse(stream, client.as_ref());
    }

    fn converse(&self, mut stream: impl Read + Write, client: Option<&X509>) {
        while let Some(request) = Request::read(&mut stream) {
            let path = request.target.split('?').next().unwrap_or_default();
            let path = path.split_once("/.well-known/est/").map_or("", |(_, rest)| rest);
            let (label, operation) = path.rsplit_once('/').unwrap_or(("", path));
            let seen =
                Seen { label: label.into(), operation: operation.into(), client: client.cloned(), request };
            self.seen.lock().unwrap().push(seen.clone());
            let instead = self.instead.lock().unwrap().get_mut(&seen.operation).and_then(VecDeque::pop_front);
            let (status, headers, body) = match instead {
                None => self.answer(&seen),
                Some(Answer::Raw(status, headers, body)) => (status, headers, body),
                Some(Answer::Hang) => return std::thread::sleep(Duration::from_secs(600)),
                Some(Answer::Close) => return,
                Some(Answer::Certificates(certificates)) => self.certificates(&certificates),
                Some(Answer::Late(pause)) => {
                    std::thread::sleep(pause);
                    self.answer(&seen)
                }
            };
            if reply(&mut stream, status, &headers, &body).is_err() {
                return;
            }
        }
    }

    /// What is right.
    fn answer(&self, seen: &Seen) -> (u16, String, Vec<u8>) {
        let refuse = |status, text: &str| {
            (status, "content-type: text/plain\r\n".to_owned(), text.as_bytes().to_vec())
        };
        let settings = &self.settings;
        if let Some((name, password)) = settings.basic {
            let wanted = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
            if seen.request.header("authorization") != Some(wanted.as_str()) {
                return (401, "www-authenticate: Basic realm=\"est\"\r\n".to_owned(), vec![]);
            }
        }
        match (seen.request.method.as_str(), seen.operation.as_str()) {
            ("GET", "cacerts") => {
                let mut authorities = vec![settings.root.cert.clone()];
                if settings.issuer.cert != settings.root.cert {
                    authorities.push(settings.issuer.cert.clone());
                }
                self.certificates(&authorities)
            }
            ("GET", "csrattrs") => match &settings.attributes {
                Some(attributes) => (
                    200,
                    "content-type: application/csrattrs\r\n".to_owned(),
                    STANDARD.encode(attributes).into_bytes(),
                ),
                None => refuse(404, "no wishes"),
            },
            ("POST", "simpleenroll") => self.enroll(seen),
            ("POST", "simplereenroll") if settings.reenrolls => {
                let same_subject = |client: &X509| {
                    let csr = seen.csr();
                    client.subject_name().try_cmp(csr.subject_name()).unwrap() == std::cmp::Ordering::Equal
                };
                match seen.client.as_ref().is_some_and(same_subject) {
                    true => self.enroll(seen),
                    false => refuse(400, "only who has a certificate may renew it"),
                }
            }
            _ => refuse(404, "no such operation"),
        }
    }

    fn enroll(&self, seen: &Seen) -> (u16, String, Vec<u8>) {
        let refuse = |text: &str| (400, "content-type: text/plain\r\n".to_owned(), text.as_bytes().to_vec());
        if seen.request.header("content-type") != Some("application/pkcs10") {
            return refuse("content-type must be application/pkcs10");
        }
        let lines: Vec<&[u8]> = seen.request.body.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.iter().any(|line| line.len() > 65 || line.last() != Some(&b'\n')) {
            return refuse("lines have 64 characters and an end");
        }
        let csr = seen.csr();
        if !csr.verify(&csr.public_key().unwrap()).unwrap() {
            return refuse("the signature is wrong");
        }
        let certificate = self.settings.issuer.issue(&csr, -60, self.settings.lifetime);
        self.issued.lock().unwrap().push(certificate.clone());
        self.certificates(&[certificate])
    }

    fn certificates(&self, certificates: &[X509]) -> (u16, String, Vec<u8>) {
        let der = pkcs7(certificates);
        let text = STANDARD.encode(&der);
        let lines = |end: &str| {
            text.as_bytes()
                .chunks(76)
                .map(|line| format!("{}{end}", String::from_utf8_lossy(line)))
                .collect::<String>()
        };
        let body = match self.settings.dress {
            Dress::Lines => lines("\n").into_bytes(),
            Dress::OneLine => text.clone().into_bytes(),
            Dress::Crlf => lines("\r\n").into_bytes(),
            Dress::Unpadded => text.trim_end_matches('=').as_bytes().to_vec(),
            Dress::Pem => format!("-----BEGIN PKCS7-----\n{}-----END PKCS7-----\n", lines("\n")).into_bytes(),
            Dress::Der => der,
        };
        let headers = "content-type: application/pkcs7-mime; smime-type=certs-only\r\ncontent-transfer-encoding: base64\r\n";
        (200, headers.to_owned(), body)
    }
}

fn acceptor(settings: &Settings, host: &str) -> SslAcceptor {
    let own = settings.root.leaf(host);
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&own.cert).unwrap();
    acceptor.set_private_key(&own.key).unwrap();
    let mode = SslVerifyMode::PEER;
    let mode = if settings.needs_client { mode | SslVerifyMode::FAIL_IF_NO_PEER_CERT } else { mode };
    acceptor.set_verify(mode);
    acceptor.set_session_id_context(b"est").unwrap();
    acceptor.cert_store_mut().add_cert(settings.root.cert.clone()).unwrap();
    acceptor.build()
}

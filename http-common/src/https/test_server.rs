//! For tests: a TLS (or plain) server on loopback with a certificate of its own, in threads, without any HTTP library.
//!
//! Answers are given as raw text, so that also what no well-behaved server says can be said. It also serves the tests
//! of `dps-client` and `hub-client`, which include this file.
#![allow(dead_code, reason = "each crate's tests use another part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

/// A certificate authority, or a leaf.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: X509,
    pub(crate) key: PKey<Private>,
}

impl Issued {
    pub(crate) fn authority(name: &str) -> Self {
        Self::make(name, None, |builder, _| {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        })
    }

    /// A leaf for the host (or device) `name`.
    pub(crate) fn leaf(&self, name: &str) -> Self {
        Self::make(name, Some(self), |builder, issuer| {
            let mut names = SubjectAlternativeName::new();
            if name.parse::<std::net::IpAddr>().is_ok() {
                names.ip(name)
            } else {
                names.dns(name)
            };
            builder
                .append_extension(names.build(&builder.x509v3_context(Some(&issuer.cert), None)).unwrap())
                .unwrap();
        })
    }

    fn make(name: &str, issuer: Option<&Issued>, extend: impl Fn(&mut X509Builder, &Issued)) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509Name::builder().unwrap();
        subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
        builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.cert.subject_name())).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        let own = Issued { cert: X509::builder().unwrap().build(), key: key.clone() };
        extend(&mut builder, issuer.unwrap_or(&own));
        builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
        Self { cert: builder.build(), key }
    }

    /// TLS settings of a server with this certificate.
    pub(crate) fn acceptor(&self) -> SslAcceptorBuilder {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&self.cert).unwrap();
        acceptor.set_private_key(&self.key).unwrap();
        acceptor
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What the server has been through.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) connections: usize,
    /// Those among them that resumed a TLS session.
    pub(crate) resumed: usize,
    pub(crate) requests: Vec<Seen>,
    /// Common name of the last client certificate.
    pub(crate) client: Option<String>,
}

#[derive(Clone)]
pub(crate) struct TestServer {
    pub(crate) port: u16,
    pub(crate) log: Arc<Mutex<Log>>,
}

impl TestServer {
    /// A server whose `answer` is a whole HTTP answer as text; an empty one closes the connection, [`HANG`] never comes.
    pub(crate) fn start(
        tls: Option<SslAcceptorBuilder>,
        answer: impl Fn(&Seen) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), log: Arc::default() };
        let (log, answer) = (server.log.clone(), Arc::new(answer));
        let tls = tls.map(|tls| Arc::new(tls.build()));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (log, answer, tls) = (log.clone(), answer.clone(), tls.clone());
                std::thread::spawn(move || serve(connection.unwrap(), tls.as_deref(), &log, &*answer));
            }
        });
        server
    }

    /// A TLS server for the name `localhost`, and the authority that vouches for it.
    pub(crate) fn localhost(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> (Self, X509) {
        let authority = Issued::authority("Test Authority");
        (Self::start(Some(authority.leaf("localhost").acceptor()), answer), authority.cert)
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.log.lock().unwrap().requests.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
}

/// A whole answer; `headers` are lines that end in CR LF.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// The answer that does not come.
pub(crate) const HANG: &str = "HANG";

fn serve(stream: TcpStream, tls: Option<&SslAcceptor>, log: &Mutex<Log>, answer: &dyn Fn(&Seen) -> String) {
    let Some(tls) = tls else {
        log.lock().unwrap().connections += 1;
        return converse(stream, log, answer);
    };
    let Ok(stream) = tls.accept(stream) else { return };
    {
        let mut log = log.lock().unwrap();
        log.connections += 1;
        log.resumed += usize::from(stream.ssl().session_reused());
        log.client = stream.ssl().peer_certificate().map(|cert| {
            let name = cert.subject_name().entries_by_nid(Nid::COMMONNAME).next().unwrap();
            String::from_utf8(name.data().as_slice().to_vec()).unwrap()
        });
    }
    converse(stream, log, answer);
}

fn converse(mut stream: impl Read + Write, log: &Mutex<Log>, answer: &dyn Fn(&Seen) -> String) {
    while let Some(seen) = read_request(&mut stream) {
        log.lock().unwrap().requests.push(seen.clone());
        let answer = answer(&seen);
        if answer == HANG {
            std::thread::sleep(Duration::from_secs(60));
        }
        let last = answer.is_empty() || answer.contains("connection: close\r\n");
        if stream.write_all(answer.as_bytes()).is_err() || last {
            return;
        }
    }
}

pub(crate) fn read_request(stream: &mut impl Read) -> Option<Seen> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let mut seen = Seen { head: String::from_utf8(head).ok()?, body: String::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).ok()?;
    Some(seen)
}

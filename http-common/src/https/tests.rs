//! The way out against real TLS servers and proxies on loopback.

mod cloud;
mod http2;
mod sessions;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use openssl::ssl::{SslAcceptorBuilder, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::test_server::{HANG, Issued, Seen, TestServer, answer};
use super::*;

const SOON: Duration = Duration::from_secs(10);

fn ok(_: &Seen) -> String {
    answer(200, "", "{}")
}

fn trusting(authority: X509) -> HttpsOptions {
    HttpsOptions { trust: Trust::SystemAnd(vec![authority]), ..HttpsOptions::default() }
}

fn get(uri: &str) -> Request<Bytes> {
    Request::get(uri).body(Bytes::new()).unwrap()
}

async fn fetch(https: &Https, uri: &str) -> Result<Response<Bytes>, HttpsError> {
    https.send(get(uri), SOON).await
}

#[tokio::test]
async fn many_requests_share_one_handshake() {
    let (server, authority) = TestServer::localhost(ok);
    let https = Https::new(trusting(authority));
    let uri = format!("https://localhost:{}/a/b?c=d", server.port);
    for _ in 0..5 {
        assert_eq!(fetch(&https, &uri).await.unwrap().body(), "{}");
    }
    assert_eq!(server.connections(), 1);
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[0].line(), "GET /a/b?c=d HTTP/1.1");
    assert_eq!(requests[0].header("host"), Some(format!("localhost:{}", server.port).as_str()));
    assert_eq!(requests[0].header("user-agent"), Some(PRODUCT));
    assert_eq!(requests[0].header("accept"), Some("application/json"));
    assert_eq!(requests[0].header("content-type"), None);
}

#[tokio::test]
async fn unused_connections_and_tls_state_are_given_back() {
    let (server, authority) = TestServer::localhost(ok);
    let https = Https::with_idle_time(trusting(authority), Duration::from_millis(200));
    let uri = format!("https://localhost:{}/", server.port);
    fetch(&https, &uri).await.unwrap();
    assert!(https.0.live.lock().unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(https.0.live.lock().unwrap().is_none());
    fetch(&https, &uri).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn servers_are_not_trusted_without_reason() {
    let (server, authority) = TestServer::localhost(ok);
    let other = Issued::authority("Other Authority").cert;
    let uri = format!("https://localhost:{}/", server.port);
    for trust in [
        Trust::default(),
        Trust::SystemAnd(vec![other.clone()]),
        Trust::Only(vec![other]),
        Trust::Only(vec![]),
    ] {
        let err =
            fetch(&Https::new(HttpsOptions { trust, ..HttpsOptions::default() }), &uri).await.unwrap_err();
        let HttpsError::Untrusted { reason, .. } = &err else { panic!("{err:?}") };
        assert!(reason.contains("is its authority among those of the system"), "{reason}");
        assert!(!err.is_network());
    }
    assert!(server.requests().is_empty(), "no request may reach an untrusted server");
    let only = HttpsOptions { trust: Trust::Only(vec![authority]), ..HttpsOptions::default() };
    fetch(&Https::new(only), &uri).await.unwrap();
}

#[tokio::test]
async fn the_name_must_be_the_one_asked_for() {
    let authority = Issued::authority("Test Authority");
    let server = TestServer::start(Some(authority.leaf("elsewhere.example").acceptor()), ok);
    let by_address = TestServer::start(Some(authority.leaf("127.0.0.1").acceptor()), ok);
    let https = Https::new(trusting(authority.cert));
    for host in ["localhost", "127.0.0.1"] {
        let err = fetch(&https, &format!("https://{host}:{}/", server.port)).await.unwrap_err();
        let HttpsError::Untrusted { reason, .. } = &err else { panic!("{err:?}") };
        assert!(reason.contains("issued for another name"), "{reason}");
    }
    assert!(server.requests().is_empty());
    fetch(&https, &format!("https://127.0.0.1:{}/", by_address.port)).await.unwrap();
}

/// Run by the next test in a process with another environment.
#[tokio::test]
#[ignore = "only meaningful with the environment that its parent makes"]
async fn child_fetches() {
    let proxy = ProxyRules::from_env().unwrap();
    let https = Https::new(HttpsOptions { proxy, ..HttpsOptions::default() });
    let result = fetch(&https, &std::env::var("TEST_URI").unwrap()).await;
    assert_eq!(result.is_ok(), std::env::var("TEST_OK").is_ok(), "{result:?}");
}

#[tokio::test]
async fn the_environment_names_authorities_and_proxies() {
    let (server, authority) = TestServer::localhost(ok);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let pem = authority.to_pem().unwrap();
    std::fs::write(&file, &pem).unwrap();
    let hashed = format!("{:08x}.0", authority.subject_name_hash());
    std::fs::write(directory.path().join(hashed), &pem).unwrap();
    let (file, directory) = (file.to_str().unwrap(), directory.path().to_str().unwrap());
    let table: &[(&[(&str, &str)], bool)] = &[
        (&[("SSL_CERT_FILE", file)], true),
        (&[("SSL_CERT_DIR", directory)], true),
        (&[("SSL_CERT_FILE", file), ("HTTPS_PROXY", "http://127.0.0.1:1")], false),
        (&[("SSL_CERT_FILE", file), ("HTTPS_PROXY", "http://127.0.0.1:1"), ("no_proxy", "localhost")], true),
        (&[], false),
    ];
    for (vars, good) in table {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "https::tests::child_fetches", "--ignored"]);
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            child.env_remove(name);
        }
        child.envs(vars.iter().copied()).env("TEST_URI", format!("https://localhost:{}/", server.port));
        if *good {
            child.env("TEST_OK", "1");
        }
        let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{vars:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}

#[tokio::test]
async fn slow_servers_time_out() {
    let (server, authority) = TestServer::localhost(|_| HANG.into());
    let https = Https::new(trusting(authority));
    let started = Instant::now();
    let uri = format!("https://localhost:{}/", server.port);
    let err = https.send(get(&uri), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(err, HttpsError::TimedOut { .. }) && err.is_network(), "{err:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn answers_have_a_size_limit() {
    let (server, authority) = TestServer::localhost(|seen| {
        let body =
            "x".repeat(if seen.line().contains("/fits") { RESPONSE_LIMIT } else { RESPONSE_LIMIT + 1 });
        match seen.line().contains("/chunked") {
            true => format!(
                "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
            false => answer(200, "", &body),
        }
    });
    let https = Https::new(trusting(authority));
    let uri = |path: &str| format!("https://localhost:{}/{path}", server.port);
    assert_eq!(fetch(&https, &uri("fits")).await.unwrap().body().len(), RESPONSE_LIMIT);
    for path in ["plain", "chunked"] {
        let err = fetch(&https, &uri(path)).await.unwrap_err();
        assert!(matches!(err, HttpsError::TooLarge { .. }) && !err.is_network(), "{err:?}");
    }
}

#[tokio::test]
async fn broken_connections_are_told_from_absent_servers() {
    let (server, authority) = TestServer::localhost(|seen| match seen.line().contains("/short") {
        true => "HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhalf".into(),
        false => String::new(),
    });
    let https = Https::new(trusting(authority));
    for path in ["", "short"] {
        let err = fetch(&https, &format!("https://localhost:{}/{path}", server.port)).await.unwrap_err();
        assert!(matches!(err, HttpsError::Broken { .. }) && err.is_network(), "{err:?}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let err = fetch(&https, &format!("https://localhost:{free}/")).await.unwrap_err();
    assert!(matches!(err, HttpsError::NotConnected { .. }) && err.is_network(), "{err:?}");
    let banner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = banner.local_addr().unwrap().port();
    std::thread::spawn(move || banner.accept().unwrap().0.write_all(b"220 this is another service\r\n"));
    let err = fetch(&https, &format!("https://localhost:{port}/")).await.unwrap_err();
    assert!(matches!(err, HttpsError::NotConnected { .. }), "a server that speaks no TLS: {err:?}");
}

/// A server for `localhost` that wants a client certificate by `authority`.
fn demanding(authority: &Issued, version: SslVersion) -> SslAcceptorBuilder {
    let mut acceptor = authority.leaf("localhost").acceptor();
    acceptor.set_max_proto_version(Some(version)).unwrap();
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let mut store = X509StoreBuilder::new().unwrap();
    store.add_cert(authority.cert.clone()).unwrap();
    acceptor.set_verify_cert_store(store.build()).unwrap();
    acceptor
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_refusal_is_recognised() {
    let authority = Issued::authority("Test Authority");
    let stranger = Issued::authority("Other Authority").leaf("device");
    let known = authority.leaf("device-1");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let server = TestServer::start(Some(demanding(&authority, version)), ok);
        let uri = format!("https://localhost:{}/", server.port);
        let with = |identity: Option<&Issued>| {
            let identity = identity
                .map(|Issued { cert, key }| ClientIdentity { chain: vec![cert.clone()], key: key.clone() });
            Https::new(HttpsOptions { identity, ..trusting(authority.cert.clone()) })
        };
        fetch(&with(Some(&known)), &uri).await.unwrap();
        assert_eq!(server.log.lock().unwrap().client.as_deref(), Some("device-1"));
        for identity in [None, Some(&stranger)] {
            let err = fetch(&with(identity), &uri).await.unwrap_err();
            // A TLS 1.2 server does not say that it is the certificate which it misses.
            let unclear = version == SslVersion::TLS1_2 && identity.is_none();
            let refused = matches!(err, HttpsError::CertificateRefused { .. });
            assert!(refused != unclear && err.is_network() == unclear, "{version:?}: {}", crate::chain(&err));
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_that_of_the_key_is_an_error() {
    let authority = Issued::authority("Test Authority");
    let (one, two) = (authority.leaf("one"), authority.leaf("two"));
    let identity = Some(ClientIdentity { chain: vec![one.cert], key: two.key });
    let https = Https::new(HttpsOptions { identity, ..HttpsOptions::default() });
    assert!(matches!(fetch(&https, "https://localhost:1/").await, Err(HttpsError::Setup(_))));
}

/// A proxy that connects every name to loopback, and writes down what it is told.
struct TestProxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    client_certificate_seen: Arc<Mutex<bool>>,
}

impl TestProxy {
    async fn start(tls: Option<SslAcceptorBuilder>, credentials: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            heads: Arc::default(),
            client_certificate_seen: Arc::default(),
        };
        let (heads, seen) = (proxy.heads.clone(), proxy.client_certificate_seen.clone());
        let tls = tls.map(|tls| tls.build().into_context());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heads, seen, tls) = (heads.clone(), seen.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return relay(stream, &heads, credentials).await };
                    let ssl = openssl::ssl::Ssl::new(&tls).unwrap();
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let mut stream = hyper_openssl::SslStream::new(ssl, io).unwrap();
                    if std::pin::Pin::new(&mut stream).accept().await.is_ok() {
                        *seen.lock().unwrap() |= stream.ssl().peer_certificate().is_some();
                        relay(hyper_util::rt::TokioIo::new(stream), &heads, credentials).await;
                    }
                });
            }
        });
        proxy
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn relay(
    mut client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    heads: &Mutex<Vec<String>>,
    credentials: Option<&str>,
) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte.into());
    }
    heads.lock().unwrap().push(head.clone());
    let allowed =
        credentials.is_none_or(|wanted| head.contains(&format!("roxy-Authorization: {wanted}\r\n")));
    let Some(target) = head.strip_prefix("CONNECT ").filter(|_| allowed) else {
        let status = if head.starts_with("CONNECT ") { 407 } else { 200 };
        client.write_all(answer(status, "", "{}").as_bytes()).await.unwrap();
        return;
    };
    let port = target.split([':', ' ']).nth(1).unwrap().parse::<u16>().unwrap();
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        client.write_all(b"HTTP/1.1 502 X\r\n\r\n").await.unwrap();
        return;
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_tunnel_through_a_proxy() {
    let authority = Issued::authority("Test Authority");
    let server = TestServer::start(Some(authority.leaf("hub.example").acceptor()), ok);
    let proxy = TestProxy::start(None, Some("Basic dXNAZXI6cDp3")).await;
    let through = |url: String, except: &str| {
        let proxy = ProxyRules::new(&url, except).unwrap();
        Https::new(HttpsOptions { proxy, ..trusting(authority.cert.clone()) })
    };
    let uri = format!("https://hub.example:{}/devices", server.port);

    let https = through(format!("http://us%40er:p%3Aw@127.0.0.1:{}", proxy.port), "");
    for _ in 0..3 {
        fetch(&https, &uri).await.unwrap();
    }
    let target = format!("hub.example:{}", server.port);
    let expected = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic dXNAZXI6cDp3\r\n\r\n"
    );
    assert_eq!(proxy.heads(), [expected], "one tunnel for all, with exactly these headers");
    let inside = &server.requests()[0];
    assert_eq!(inside.line(), "GET /devices HTTP/1.1", "origin form inside the tunnel");
    assert_eq!((inside.header("proxy-authorization"), inside.header("authorization")), (None, None));

    let err = fetch(&through(format!("http://127.0.0.1:{}", proxy.port), ""), &uri).await.unwrap_err();
    assert!(matches!(err, HttpsError::Proxy { .. }) && err.is_network(), "{err:?}");
    assert!(crate::chain(&err).contains("proxy authorization required"), "{}", crate::chain(&err));

    let direct = through(format!("http://127.0.0.1:{}", proxy.port), ".example");
    let err = fetch(&direct, &uri).await.unwrap_err();
    assert!(
        matches!(err, HttpsError::NotConnected { .. }),
        "hub.example has no address but that of the proxy: {err:?}"
    );
    assert_eq!(proxy.heads().len(), 2);
}

#[tokio::test]
async fn a_proxy_reached_by_tls_sees_no_client_certificate() {
    let authority = Issued::authority("Test Authority");
    let server = TestServer::start(Some(demanding(&authority, SslVersion::TLS1_3)), ok);
    let mut acceptor = authority.leaf("127.0.0.1").acceptor();
    acceptor.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    let proxy = TestProxy::start(Some(acceptor), None).await;
    let Issued { cert, key } = authority.leaf("device-1");
    let https = Https::new(HttpsOptions {
        proxy: ProxyRules::new(&format!("https://127.0.0.1:{}", proxy.port), "").unwrap(),
        identity: Some(ClientIdentity { chain: vec![cert], key }),
        ..trusting(authority.cert)
    });
    fetch(&https, &format!("https://localhost:{}/", server.port)).await.unwrap();
    assert_eq!(server.log.lock().unwrap().client.as_deref(), Some("device-1"));
    assert!(!*proxy.client_certificate_seen.lock().unwrap());
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn plain_http_goes_to_the_proxy_as_a_whole_url() {
    let proxy = TestProxy::start(None, None).await;
    let rules = ProxyRules::new(&format!("http://user:pw@127.0.0.1:{}", proxy.port), "").unwrap();
    let https = Https::new(HttpsOptions { proxy: rules, ..HttpsOptions::default() });
    fetch(&https, "http://dps.example/scope").await.unwrap();
    let head = proxy.heads()[0].to_ascii_lowercase();
    assert!(head.starts_with("get http://dps.example/scope http/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: basic dxnlcjpwdw==\r\n"), "{head}");
}

#[tokio::test]
async fn connections_on_a_thread_of_their_own_work_alike() {
    let (server, authority) = TestServer::localhost(ok);
    let https = Https::with(trusting(authority), Duration::from_millis(200), true);
    let uri = format!("https://localhost:{}/", server.port);
    for _ in 0..3 {
        fetch(&https, &uri).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(https.0.live.lock().unwrap().is_none());
    fetch(&https, &uri).await.unwrap();
    assert_eq!(server.connections(), 2);
    let err = fetch(&https, "https://localhost:1/").await.unwrap_err();
    assert!(matches!(err, HttpsError::NotConnected { .. }), "{err:?}");
}

#[tokio::test]
async fn a_thread_of_their_own_holds_nobody_up_and_ends() {
    let thread = Thread::start().unwrap();
    let start = Instant::now();
    let blocked = thread.run(async { std::thread::sleep(Duration::from_secs(2)) });
    assert!(tokio::time::timeout(Duration::from_millis(50), blocked).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(1));
    let name = thread.run(async { std::thread::current().name().map(str::to_owned) }).await.unwrap();
    assert_eq!(name.as_deref(), Some("https"));
    let (told, ended) = tokio::sync::oneshot::channel::<()>();
    let never = thread.run(async move {
        let _told = told;
        std::future::pending::<()>().await;
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), never).await.is_err());
    assert!(ended.await.is_err(), "what nobody waits for is stopped");
}

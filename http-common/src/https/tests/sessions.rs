//! TLS sessions: resumed by the next connection, of the same client to the same server only.

use super::*;

/// One request on a connection of its own, since the server closes each after its answer.
async fn knock(https: &Https, port: u16) {
    fetch(https, &format!("https://localhost:{port}/")).await.unwrap();
}

fn closing(_: &Seen) -> String {
    answer(200, "connection: close\r\n", "{}")
}

fn server(version: SslVersion) -> (TestServer, X509) {
    let authority = Issued::authority("Test Authority");
    let mut acceptor = authority.leaf("localhost").acceptor();
    acceptor.set_max_proto_version(Some(version)).unwrap();
    (TestServer::start(Some(acceptor), closing), authority.cert)
}

/// Connections, and those that were resumed.
fn counts(server: &TestServer) -> (usize, usize) {
    let log = server.log.lock().unwrap();
    (log.connections, log.resumed)
}

#[tokio::test]
async fn only_the_first_connection_shakes_hands_in_full() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (server, authority) = server(version);
        let https = Https::new(trusting(authority));
        for _ in 0..6 {
            knock(&https, server.port).await;
        }
        assert_eq!(counts(&server), (6, 5), "{version:?}");
        let knocks: Vec<_> = (0..8)
            .map(|_| {
                let (https, port) = (https.clone(), server.port);
                tokio::spawn(async move { knock(&https, port).await })
            })
            .collect();
        for knock in knocks {
            knock.await.unwrap();
        }
        assert_eq!(counts(&server), (14, 13), "{version:?}, many at once");
    }
}

#[tokio::test]
async fn sessions_are_no_bodys_but_their_servers_and_clients() {
    let (server, authority) = server(SslVersion::TLS1_3);
    let other = TestServer::start(Some(Issued::authority("Other").leaf("localhost").acceptor()), closing);
    let https = Https::with_idle_time(trusting(authority.clone()), Duration::from_millis(200));
    knock(&https, server.port).await;
    assert!(fetch(&https, &format!("https://localhost:{}/", other.port)).await.is_err(), "another server");
    knock(&Https::new(trusting(authority)), server.port).await;
    assert_eq!(counts(&server), (2, 0), "another client");
    tokio::time::sleep(Duration::from_millis(600)).await;
    knock(&https, server.port).await;
    assert_eq!(counts(&server), (3, 0), "given back with the rest when unused");
}

#[tokio::test]
async fn a_resumed_connection_is_still_that_of_the_client_certificate() {
    let (authority, device) = (Issued::authority("Test Authority"), Issued::authority("press-17"));
    let mut acceptor = authority.leaf("localhost").acceptor();
    acceptor.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
    acceptor.set_session_id_context(b"test").unwrap();
    let server = TestServer::start(Some(acceptor), closing);
    let identity = ClientIdentity { chain: vec![device.cert], key: device.key };
    let https = Https::new(HttpsOptions { identity: Some(identity), ..trusting(authority.cert) });
    for resumed in 0..3 {
        server.log.lock().unwrap().client = None;
        knock(&https, server.port).await;
        assert_eq!(counts(&server), (resumed + 1, resumed));
        assert_eq!(server.log.lock().unwrap().client.as_deref(), Some("press-17"));
    }
}

//! HTTP/2: on one connection where the server speaks it, and HTTP/1.1 where it does not.

use h2::Reason;
use tokio::task::JoinSet;

use super::super::test_http2::{Act, Greeting, Http2Server};
use super::*;

async fn server(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> (Http2Server, Https) {
    let server = Http2Server::start(Greeting::Settings, act).await;
    let https = Https::new(trusting(server.authority.clone()));
    (server, https)
}

/// So many requests at once; their outcomes in any order.
async fn at_once(
    https: &Https,
    server: &Http2Server,
    count: usize,
) -> Vec<Result<Response<Bytes>, HttpsError>> {
    let mut requests = JoinSet::new();
    for number in 0..count {
        let (https, uri) = (https.clone(), server.uri(&number.to_string()));
        requests.spawn(async move { fetch(&https, &uri).await });
    }
    requests.join_all().await
}

#[tokio::test]
async fn many_at_once_share_one_connection_from_the_first_on() {
    let (server, https) = server(|_| Act::AnswerTogether(8)).await;
    let mut bodies: Vec<_> =
        at_once(&https, &server, 8).await.into_iter().map(|it| it.unwrap().into_body()).collect();
    bodies.sort();
    assert_eq!(bodies, ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"]);
    assert_eq!(server.connections(), (1, 0));
    assert_eq!(server.log.lock().unwrap().offered, [b"\x02h2\x08http/1.1"]);
}

#[tokio::test]
async fn a_request_says_what_http2_wants_to_hear() {
    let (server, https) = server(|_| Act::Answer).await;
    let request = Request::put(server.uri("devices/a%2Fb?api-version=1")).header("if-match", "*");
    https.send(request.body("{}".into()).unwrap(), SOON).await.unwrap();
    fetch(&https, &server.uri("")).await.unwrap();
    let log = server.log.lock().unwrap();
    let (method, uri, headers, body) = &log.requests[0];
    assert_eq!((method.as_str(), &body[..]), ("PUT", &b"{}"[..]));
    assert_eq!(uri.to_string(), server.uri("devices/a%2Fb?api-version=1"));
    let mut names: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "content-length", "if-match", "user-agent"]);
    let (_, _, headers, body) = &log.requests[1];
    assert!(body.is_empty() && !headers.contains_key("transfer-encoding"), "{headers:?}");
}

#[tokio::test]
async fn it_is_not_offered_with_a_client_certificate() {
    let server = Http2Server::start(Greeting::Settings, |_| Act::Answer).await;
    let Issued { cert, key } = Issued::authority("Other Authority").leaf("device-1");
    let identity = Some(ClientIdentity { chain: vec![cert], key });
    for on_own_thread in [false, true] {
        let options = HttpsOptions { identity: identity.clone(), ..trusting(server.authority.clone()) };
        let https = Https::with(options, IDLE, on_own_thread);
        assert_eq!(fetch(&https, &server.uri("")).await.unwrap().body(), "by HTTP/1.1");
    }
    let log = server.log.lock().unwrap();
    assert_eq!((log.connections, log.by_http1, log.offered.len()), (2, 2, 0));
}

#[tokio::test]
async fn a_server_without_it_is_asked_as_ever() {
    let (server, authority) = TestServer::localhost(|_| {
        std::thread::sleep(Duration::from_millis(200));
        answer(200, "", "{}")
    });
    let https = Https::new(trusting(authority));
    let mut requests = JoinSet::new();
    for _ in 0..6 {
        let (https, uri) = (https.clone(), format!("https://localhost:{}/", server.port));
        requests.spawn(async move { fetch(&https, &uri).await.unwrap() });
    }
    let start = Instant::now();
    requests.join_all().await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!((2..=6).contains(&server.connections()), "{}", server.connections());
}

#[tokio::test]
async fn a_server_that_wants_http1_gets_it_for_good() {
    for reason in [Reason::HTTP_1_1_REQUIRED, Reason::INADEQUATE_SECURITY] {
        let (server, https) = server(move |_| Act::Reset(reason)).await;
        for answer in at_once(&https, &server, 4).await {
            assert_eq!(answer.unwrap().body(), "by HTTP/1.1");
        }
        let again = Https::new(trusting(server.authority.clone()));
        assert_eq!(fetch(&again, &server.uri("")).await.unwrap().body(), "by HTTP/1.1");
        let log = server.log.lock().unwrap();
        assert_eq!((log.offered.len(), log.by_http1), (1, 5));
    }
}

#[tokio::test]
async fn a_server_that_chooses_it_and_does_not_speak_it_is_asked_by_http1_for_good() {
    for greeting in [Greeting::Garbage, Greeting::End] {
        let server = Http2Server::start(greeting, |_| Act::Answer).await;
        for _ in 0..2 {
            let https = Https::new(trusting(server.authority.clone()));
            for answer in at_once(&https, &server, 4).await {
                assert_eq!(answer.unwrap().body(), "by HTTP/1.1");
            }
        }
        let log = server.log.lock().unwrap();
        assert_eq!((log.offered.len(), log.by_http1), (1, 8));
    }
}

#[tokio::test]
async fn a_server_that_chooses_it_and_says_nothing_is_asked_by_http1_in_the_end() {
    let server = Http2Server::start(Greeting::Silence, |_| Act::Answer).await;
    let https = Https::new(trusting(server.authority.clone()));
    let answer = https.send(get(&server.uri("")), Duration::from_secs(60)).await;
    assert_eq!(answer.unwrap().body(), "by HTTP/1.1");
    assert_eq!(fetch(&https, &server.uri("")).await.unwrap().body(), "by HTTP/1.1");
    assert_eq!(server.log.lock().unwrap().offered.len(), 1);
}

#[tokio::test]
async fn a_server_that_misses_a_certificate_says_so_as_ever() {
    let server = Http2Server::start(Greeting::Alert, |_| Act::Answer).await;
    let https = Https::new(trusting(server.authority.clone()));
    for _ in 0..2 {
        let err = fetch(&https, &server.uri("")).await.unwrap_err();
        assert!(matches!(err, HttpsError::CertificateRefused { .. }), "{}", crate::chain(&err));
    }
    assert_eq!(server.log.lock().unwrap().offered.len(), 2, "it is not the protocol that it minds");
}

#[tokio::test]
async fn a_lost_connection_breaks_what_was_under_way_and_no_more() {
    let (server, https) = server(|number| match number {
        0..3 => Act::Hang,
        3 => Act::Drop,
        _ => Act::Answer,
    })
    .await;
    for outcome in at_once(&https, &server, 4).await {
        assert!(matches!(outcome, Err(HttpsError::Broken { .. })), "{outcome:?}");
    }
    for outcome in at_once(&https, &server, 4).await {
        outcome.unwrap();
    }
    assert_eq!(server.connections(), (2, 1));
}

#[tokio::test]
async fn what_the_server_has_not_begun_with_is_sent_again_at_once() {
    let (server, https) = server(|number| match number {
        0 | 3 => Act::AnswerLast,
        1 => Act::Reset(Reason::REFUSED_STREAM),
        _ => Act::Answer,
    })
    .await;
    for _ in 0..4 {
        fetch(&https, &server.uri("")).await.unwrap();
    }
    assert_eq!(server.log.lock().unwrap().requests.len(), 5);
    assert!((2..=3).contains(&server.connections().0), "{:?}", server.connections());
}

#[tokio::test]
async fn refusal_without_end_is_a_failure() {
    let (server, https) = server(|_| Act::Reset(Reason::REFUSED_STREAM)).await;
    let err = fetch(&https, &server.uri("")).await.unwrap_err();
    assert!(matches!(err, HttpsError::Broken { .. }) && err.is_network(), "{err:?}");
    assert_eq!(server.log.lock().unwrap().requests.len(), 3);
}

#[tokio::test]
async fn a_reset_concerns_one_request_only() {
    let (server, https) = server(|number| match number {
        0 => Act::Reset(Reason::INTERNAL_ERROR),
        _ => Act::Answer,
    })
    .await;
    let err = fetch(&https, &server.uri("")).await.unwrap_err();
    assert!(matches!(err, HttpsError::Broken { .. }), "{err:?}");
    fetch(&https, &server.uri("")).await.unwrap();
    assert_eq!(server.connections(), (1, 0));
}

#[tokio::test]
async fn a_connection_that_leaves_a_request_without_answer_is_used_for_no_new_one() {
    let (server, https) = server(|number| match number {
        0 => Act::AnswerTogether(2),
        1 => Act::Hang,
        _ => Act::Answer,
    })
    .await;
    // Answered as soon as the second one is there.
    let first = tokio::spawn({
        let (https, uri) = (https.clone(), server.uri(""));
        async move { fetch(&https, &uri).await }
    });
    server.have_arrived(1).await;
    let err = https.send(get(&server.uri("")), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(err, HttpsError::TimedOut { .. }), "{err:?}");
    first.await.unwrap().unwrap();
    fetch(&https, &server.uri("")).await.unwrap();
    assert_eq!(server.connections().0, 2);
}

#[tokio::test]
async fn an_attempt_to_connect_that_nobody_waits_for_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let https = Https::new(HttpsOptions::default());
    for _ in 0..2 {
        let uri = format!("https://localhost:{port}/");
        let request = https.send(get(&uri), Duration::from_secs(1));
        assert!(matches!(request.await, Err(HttpsError::TimedOut { .. })));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = Vec::new();
        let end = tokio::time::timeout(SOON, stream.read_to_end(&mut hello)).await;
        end.expect("the connection ends").unwrap();
    }
}

#[tokio::test]
async fn all_who_wait_hear_why_there_is_no_connection() {
    let mut server = Http2Server::start(Greeting::Settings, |_| Act::Answer).await;
    let https = Https::new(HttpsOptions::default());
    for outcome in at_once(&https, &server, 4).await {
        assert!(matches!(outcome, Err(HttpsError::Untrusted { .. })), "{outcome:?}");
    }
    server.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for outcome in at_once(&https, &server, 4).await {
        assert!(matches!(outcome, Err(HttpsError::NotConnected { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed() {
    let server = Http2Server::start(Greeting::Settings, |_| Act::Answer).await;
    let https = Https::with_idle_time(trusting(server.authority.clone()), Duration::from_millis(200));
    fetch(&https, &server.uri("")).await.unwrap();
    let closed = async {
        while server.connections() != (1, 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, closed).await.expect("it is closed");
    assert!(https.0.live.lock().unwrap().is_none());
    fetch(&https, &server.uri("")).await.unwrap();
    assert_eq!(server.connections(), (2, 1));
}

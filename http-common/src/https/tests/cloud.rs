//! Calls of the cloud: tokens, throttling, clocks that are wrong.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::{HeaderMap, Method};

use super::*;
use crate::retry::{FailureKind, RetryPolicy};
use crate::sas::{Scope, ServerClock, SharedKey};

fn cloud(authority: X509, clock: &Arc<ServerClock>) -> Cloud {
    cloud_with(RetryPolicy::cloud(1), authority, clock)
}

fn cloud_with(retry: RetryPolicy, authority: X509, clock: &Arc<ServerClock>) -> Cloud {
    let options = CloudOptions { retry, attempt: SOON, token_life: Duration::from_secs(3600) };
    Cloud::new(Https::new(trusting(authority)), clock.clone(), options)
}

async fn call(cloud: &Cloud, server: &TestServer) -> Result<Reply, CloudFailure> {
    call_until(cloud, server, Instant::now() + Duration::from_secs(20)).await
}

async fn call_until(cloud: &Cloud, server: &TestServer, deadline: Instant) -> Result<Reply, CloudFailure> {
    let scope = Scope::hub("hub", "device");
    let uri = format!("https://localhost:{}/", server.port).parse().unwrap();
    let body = Some(Bytes::from_static(b"{}"));
    let call =
        Call { method: Method::PUT, uri, if_match: None, body, scope: &scope, accept: &[StatusCode::OK] };
    cloud.call(&call, &Credentials::Sas(SharedKey::new([7; 32])), deadline).await
}

/// The expiry of the token in a request.
fn expiry(seen: &Seen) -> u64 {
    seen.header("authorization").unwrap().rsplit_once("se=").unwrap().1.parse().unwrap()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_throttled_call_is_made_again_when_asked_with_a_fresh_token() {
    let asked = Mutex::new(0);
    let (server, authority) = TestServer::localhost(move |_| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 1 { answer(429, "retry-after: 2\r\n", "") } else { answer(200, "", "{}") }
    });
    let started = Instant::now();
    call(&cloud(authority, &Arc::default()), &server).await.unwrap();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(6), "{waited:?}");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(expiry(&requests[1]) > expiry(&requests[0]));
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!((requests[0].body.as_str(), server.connections()), ("{}", 1));
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_fails_at_once() {
    let (server, authority) = TestServer::localhost(|_| answer(429, "retry-after: 60\r\n", ""));
    let started = Instant::now();
    let failure = call(&cloud(authority, &Arc::default()), &server).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Throttled { retry_after: Some(Duration::from_secs(60)) });
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Somebody has been asked for a pause of so many seconds from now on.
fn begin_pause(outages: &Outages, server: &TestServer, status: u16, seconds: u64) -> Instant {
    let status = StatusCode::from_u16(status).unwrap();
    let busy = CloudFailure::from_answer(status, &HeaderMap::new(), b"busy", SystemTime::now());
    let until = Instant::now() + Duration::from_secs(seconds);
    outages.pauses.begin(&format!("localhost:{}", server.port), busy, until);
    until
}

fn well() -> (TestServer, X509) {
    TestServer::localhost(|_| answer(200, "", "{}"))
}

#[tokio::test]
async fn a_short_pause_is_shared_by_all_who_would_make_one() {
    let (server, authority) = well();
    let outages = Arc::<Outages>::default();
    let impatient = RetryPolicy { throttled: 0, ..RetryPolicy::cloud(1) };
    let impatient = cloud_with(impatient, authority.clone(), &Arc::default()).sparing(Arc::clone(&outages));
    let cloud = cloud(authority, &Arc::default()).sparing(Arc::clone(&outages));
    let until = begin_pause(&outages, &server, 429, 2);
    call(&cloud, &server).await.unwrap();
    assert!(Instant::now() >= until);
    begin_pause(&outages, &server, 429, 9);
    let told = call(&impatient, &server).await.unwrap_err();
    assert!(matches!(told.kind, FailureKind::Throttled { retry_after: Some(_) }));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_has_begun_goes_on_while_others_pause() {
    let asked = Mutex::new(0);
    let (server, authority) = TestServer::localhost(move |_| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 2 { answer(503, "", "") } else { answer(200, "", "{}") }
    });
    let outages = Arc::<Outages>::default();
    let cloud = cloud(authority, &Arc::default()).sparing(Arc::clone(&outages));
    begin_pause(&outages, &server, 429, 500);
    assert!(call(&cloud, &server).await.unwrap_err().hearsay);
    assert_eq!(server.requests().len(), 0);
    call(&cloud.clone().going_on(), &server).await.unwrap();

    // The server may have done what it gives no answer to.
    let other = Arc::<Outages>::default();
    let cloud = cloud.sparing(Arc::clone(&other));
    let paused = async {
        while server.requests().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        begin_pause(&other, &server, 429, 500);
    };
    tokio::join!(call(&cloud, &server), paused).0.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn who_was_not_asked_for_a_long_pause_is_told_at_once() {
    let (server, authority) = TestServer::localhost(|_| answer(503, "retry-after: 60\r\n", ""));
    let outages = Arc::<Outages>::default();
    let cloud = cloud(authority, &Arc::default()).sparing(Arc::clone(&outages));
    let deadline = Instant::now() + Duration::from_secs(200);
    let name = format!("localhost:{}", server.port);
    let others = async {
        while !outages.is_paused(&name, Instant::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        call_until(&cloud, &server, deadline).await
    };
    let told = tokio::select! {
        first = call_until(&cloud, &server, deadline) => first,
        second = others => second,
    };
    let told = told.unwrap_err();
    assert_eq!(told.status, Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(told.kind.retry_after().is_some());
    assert_eq!(server.requests().len(), 1);
}

/// Else the server, which nobody has asked, would be taken for one that cannot be reached.
#[tokio::test]
async fn a_pause_that_leaves_no_time_for_the_call_is_not_waited_for() {
    let (server, authority) = well();
    let outages = Arc::<Outages>::default();
    let cloud = cloud(authority, &Arc::default()).sparing(Arc::clone(&outages));
    let until = begin_pause(&outages, &server, 429, 9);
    let told = call_until(&cloud, &server, until + Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(told.kind, FailureKind::Throttled { .. }), "{told:?}");
    assert_eq!((outages.left(Instant::now()), server.requests().len()), (Duration::ZERO, 0));
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_by_the_refusal() {
    let (server, authority) = TestServer::localhost(|seen| {
        let later = SystemTime::now() + Duration::from_secs(100_000);
        let date = format!("date: {}\r\n", httpdate::fmt_http_date(later));
        answer(if expiry(seen) > unix_now() + 100_000 { 200 } else { 401 }, &date, "{}")
    });
    let clock = Arc::default();
    let cloud = cloud(authority, &clock);
    call(&cloud, &server).await.unwrap();
    assert_eq!(server.requests().len(), 2);
    assert!(clock.offset().abs_diff(100_000) <= 2);
    call(&cloud, &server).await.unwrap();
    assert_eq!(server.requests().len(), 3, "what was learned is kept");
}

#[tokio::test]
async fn a_refused_token_is_not_repeated_without_reason() {
    let (server, authority) = TestServer::localhost(|_| {
        answer(401, &format!("date: {}\r\n", httpdate::fmt_http_date(SystemTime::now())), "")
    });
    let failure = call(&cloud(authority, &Arc::default()), &server).await.unwrap_err();
    assert_eq!((failure.kind, server.requests().len()), (FailureKind::Unauthorized, 1));
}

#[tokio::test]
async fn an_unreachable_server_is_tried_as_often_as_configured() {
    let authority = Issued::authority("Test Authority").cert;
    let (server, _) = TestServer::localhost(|_| String::new());
    let untrusted = call(&cloud(authority.clone(), &Arc::default()), &server).await.unwrap_err();
    assert_eq!(untrusted.kind, FailureKind::Untrusted);

    let (server, authority) = TestServer::localhost(|_| String::new());
    let started = Instant::now();
    let failure = call(&cloud(authority, &Arc::default()), &server).await.unwrap_err();
    assert_eq!((failure.kind, server.requests().len()), (FailureKind::Network, 2));
    assert!(started.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_asked_by_one_and_not_again_and_again() {
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let does_work = works.clone();
    let (server, authority) = TestServer::localhost(move |_| match does_work.load(Ordering::SeqCst) {
        true => answer(200, "", "{}"),
        false => String::new(),
    });
    let cloud = cloud(authority, &Arc::default()).sparing(Arc::default());
    call(&cloud, &server).await.unwrap_err();
    assert_eq!(server.requests().len(), 2, "the first call is repeated as configured");
    let started = Instant::now();
    for _ in 0..20 {
        let failure = call(&cloud, &server).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Network);
        assert!(failure.to_string().contains("is tried again in"), "{failure}");
    }
    assert!(started.elapsed() < Duration::from_secs(1), "told at once");
    tokio::time::sleep(Duration::from_secs(5)).await;
    call(&cloud, &server).await.unwrap_err();
    assert_eq!(server.requests().len(), 3, "one attempt to find out");
    works.store(true, Ordering::SeqCst);
    let returned = Instant::now();
    while call(&cloud, &server).await.is_err() {
        assert!(returned.elapsed() < SOON, "its return is found");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    call(&cloud, &server).await.unwrap();
}

#[tokio::test]
async fn a_refusal_tells_whether_an_earlier_attempt_may_have_been_carried_out() {
    let asked = Mutex::new(0);
    let (server, authority) = TestServer::localhost(move |_| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 1 { String::new() } else { answer(409, "", "") }
    });
    let cloud = cloud(authority, &Arc::default());
    assert!(call(&cloud, &server).await.unwrap_err().unheard);
    assert!(!call(&cloud, &server).await.unwrap_err().unheard);
}

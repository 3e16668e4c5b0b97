//! Registrations against a server on loopback that says what DPS would say, or should not.

use std::sync::Mutex;
use std::time::Duration;

use http_common::https::{CloudOptions, Https, HttpsOptions, Trust};
use http_common::retry::{FailureKind, RetryPolicy};
use http_common::sas::SharedKey;

use super::test_server::{Seen, TestServer, answer};
use super::*;

const ASSIGNED: &str = r#"{"operationId":"4.a","status":"assigned","registrationState":{"assignedHub":"hub.example:9443",
    "deviceId":"Pump","substatus":"initialAssignment"}}"#;
const ASSIGNING: &str = r#"{"operationId":"4.a","status":"assigning"}"#;

fn client(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> (DpsClient, TestServer) {
    let (server, authority) = TestServer::localhost(answer);
    let trust = Trust::Only(vec![authority]);
    let options = CloudOptions { retry: RetryPolicy::NEVER, ..CloudOptions::default() };
    let cloud = Cloud::new(
        Https::new(HttpsOptions { trust, ..HttpsOptions::default() }),
        Default::default(),
        options,
    );
    (DpsClient::new(cloud, &format!("https://localhost:{}/dropped?x=y", server.port)).unwrap(), server)
}

/// Answers in this order; the last one is repeated.
fn script(answers: &[(u16, &'static str)]) -> impl Fn(&Seen) -> String + Send + Sync + 'static {
    let left = Mutex::new(answers.to_vec());
    move |_| {
        let mut left = left.lock().unwrap();
        let (status, body) = if left.len() > 1 { left.remove(0) } else { left[0] };
        answer(status, "retry-after: 0\r\n", body)
    }
}

async fn register(dps: &DpsClient, seconds: u64) -> Result<Assignment, Error> {
    let registration =
        Registration { id_scope: "0ne00ABC123".into(), registration_id: "Pump=7 a".into(), payload: None };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    dps.register(&registration, &Credentials::Sas(SharedKey::new([1; 32])), deadline).await
}

#[tokio::test]
async fn a_registration_is_taken_polled_and_assigned() {
    let (dps, server) = client(script(&[(202, ASSIGNING), (202, ASSIGNING), (200, ASSIGNED)]));
    let assignment = register(&dps, 20).await.unwrap();
    assert_eq!((assignment.hub.as_str(), assignment.device_id.as_str()), ("hub.example:9443", "Pump"));

    let requests = server.requests();
    let path = "/0ne00ABC123/registrations/Pump%3D7%20a";
    let poll = format!("GET {path}/operations/4.a?api-version=2021-06-01 HTTP/1.1");
    let lines: Vec<_> = requests.iter().map(Seen::line).collect();
    assert_eq!(lines, [&format!("PUT {path}/register?api-version=2021-06-01 HTTP/1.1"), &poll, &poll]);
    let token = |seen: &Seen| seen.header("authorization").unwrap().to_owned();
    for seen in &requests {
        let token = token(seen);
        assert!(
            token.starts_with("SharedAccessSignature sr=0ne00abc123/registrations/pump%3D7%20a&sig="),
            "{token}"
        );
        assert!(token.ends_with("&skn=registration"), "{token}");
    }
    assert_ne!(token(&requests[0]), token(&requests[1]), "each poll has a fresh token");
    assert_eq!(requests[0].body, r#"{"registrationId":"Pump=7 a"}"#);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_forgotten_operation_is_registered_again_once() {
    let (dps, server) = client(script(&[(202, ASSIGNING), (404, ""), (200, ASSIGNED)]));
    register(&dps, 20).await.unwrap();
    let methods: Vec<_> = server.requests().iter().map(|seen| seen.head[..3].to_owned()).collect();
    assert_eq!(methods, ["PUT", "GET", "PUT"]);

    let (dps, server) =
        client(script(&[(202, ASSIGNING), (404, r#"{"errorCode":404201,"message":"who?"}"#)]));
    let err = register(&dps, 20).await.unwrap_err();
    assert_eq!((err.kind(), server.requests().len()), (FailureKind::NotFound, 3));
    assert_eq!(
        http_common::chain(&err),
        "the provisioning service did not take the call: the service answered 404 (404201) \"who?\""
    );
}

#[tokio::test]
async fn a_certificate_needs_no_token() {
    let (dps, server) = client(script(&[(200, ASSIGNED)]));
    let registration =
        Registration { id_scope: "s".into(), registration_id: "r".into(), payload: Some(true.into()) };
    let deadline = Instant::now() + Duration::from_secs(10);
    dps.register(&registration, &Credentials::<SharedKey>::Certificate, deadline).await.unwrap();
    let seen = &server.requests()[0];
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.body, r#"{"registrationId":"r","payload":true}"#);
}

/// A TPM for which a wrapped key is the key itself; it notes what it has imported.
#[derive(Default)]
struct FakeTpm(Mutex<Vec<Vec<u8>>>);

impl Tpm for FakeTpm {
    async fn public_keys(&self) -> Result<TpmKeys, TpmError> {
        Ok(TpmKeys { endorsement_key: vec![1].into(), storage_root_key: vec![2].into() })
    }

    async fn sign_with(&self, key: &[u8], message: &[u8]) -> Result<Vec<u8>, TpmError> {
        match key {
            b"bad" => Err("not for this TPM".into()),
            _ => Ok(SharedKey::new(key).hmac(message)?),
        }
    }

    async fn import(&self, key: &[u8]) -> Result<(), TpmError> {
        self.0.lock().unwrap().push(key.to_vec());
        Ok(())
    }
}

async fn register_with_tpm(dps: &DpsClient, tpm: &FakeTpm) -> Result<Assignment, Error> {
    let registration =
        Registration { id_scope: "s".into(), registration_id: "packer-7".into(), payload: None };
    dps.register_with_tpm(&registration, tpm, Instant::now() + Duration::from_secs(20)).await
}

const CHALLENGE: &str = r#"{"authenticationKey":"bm9uY2U=","keyName":"registration"}"#;

#[tokio::test]
async fn tpm_39_40_41_43_a_tpm_is_challenged_and_gets_the_hub_key() {
    let assigned = r#"{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"d",
        "tpm":{"authenticationKey":"aHVi"}}}"#;
    let (dps, server) =
        client(script(&[(401, CHALLENGE), (202, ASSIGNING), (202, ASSIGNING), (200, assigned)]));
    let tpm = FakeTpm::default();
    register_with_tpm(&dps, &tpm).await.unwrap();
    assert_eq!(*tpm.0.lock().unwrap(), [b"hub".to_vec()], "the key of the challenge is not kept");
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].header("authorization"), None);
    let tpm = r#"{"endorsementKey":"AQ==","storageRootKey":"Ag=="}"#;
    assert_eq!(requests[0].body, format!(r#"{{"registrationId":"packer-7","tpm":{tpm}}}"#));
    assert_eq!(requests[1].body, r#"{"registrationId":"packer-7"}"#);
    for seen in &requests[1..] {
        let token = seen.header("authorization").unwrap();
        let expiry: u64 = token.split("&se=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
        let scope = Scope::dps("s", "packer-7");
        let expected = scope.token(expiry, &SharedKey::new(*b"nonce")).await.unwrap();
        assert_eq!(token, expected.as_str());
    }
}

#[tokio::test]
async fn tpm_42_nothing_but_a_challenge_goes_on() {
    for (status, body) in [(200, ASSIGNED), (202, ASSIGNING), (404, ""), (400, ""), (500, "")] {
        let (dps, server) = client(script(&[(status, body)]));
        let tpm = FakeTpm::default();
        assert!(register_with_tpm(&dps, &tpm).await.is_err(), "{status}");
        assert_eq!((server.requests().len(), tpm.0.lock().unwrap().len()), (1, 0), "{status}");
    }
    let (dps, _) = client(script(&[(401, r#"{"errorCode":401002,"message":"no such TPM"}"#)]));
    let error = register_with_tpm(&dps, &FakeTpm::default()).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unauthorized);
    assert!(error.to_string().ends_with("no such TPM"), "{error}");
}

#[tokio::test]
async fn a_registration_that_fails_leaves_the_tpm_as_it_is() {
    let failed = r#"{"status":"failed","registrationState":{"errorCode":400207,"errorMessage":"no hub"}}"#;
    let unknown = r#"{"authenticationKey":"YmFk"}"#;
    for (answers, kind, told) in [
        (vec![(401, unknown)], FailureKind::Credential, "not for this TPM"),
        (vec![(401, CHALLENGE), (401, "")], FailureKind::Unauthorized, "401"),
        (vec![(401, CHALLENGE), (202, ASSIGNING), (200, failed)], FailureKind::Rejected, "no hub"),
    ] {
        let requests = answers.len();
        let (dps, server) = client(script(&answers));
        let tpm = FakeTpm::default();
        let error = register_with_tpm(&dps, &tpm).await.unwrap_err();
        assert!(http_common::chain(&error).contains(told), "{}", http_common::chain(&error));
        assert_eq!((error.kind(), server.requests().len()), (kind, requests));
        assert_eq!(matches!(error, Error::Tpm(_)), kind == FailureKind::Credential, "{error:?}");
        assert!(tpm.0.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_deadline_is_kept() {
    let (dps, _) = client(script(&[(202, ASSIGNING)]));
    let started = Instant::now();
    let err = register(&dps, 5).await.unwrap_err();
    assert!(matches!(err, Error::TooSlow { .. }), "{err:?}");
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn refusals_have_a_kind() {
    let table = [
        (401, FailureKind::Unauthorized),
        (404, FailureKind::NotFound),
        (429, FailureKind::Throttled { retry_after: Some(Duration::ZERO) }),
        (400, FailureKind::Rejected),
    ];
    for (status, kind) in table {
        let (dps, server) = client(script(&[(status, "")]));
        assert_eq!(register(&dps, 10).await.unwrap_err().kind(), kind);
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn endpoints() {
    let cloud =
        || Cloud::new(Https::new(HttpsOptions::default()), Default::default(), CloudOptions::default());
    let table = [
        ("https://global.azure-devices-provisioning.net", "https://global.azure-devices-provisioning.net"),
        (" https://Dps.Example:8443/path?query ", "https://dps.example:8443"),
        ("https://dps.example:443/", "https://dps.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://[::1]:9/", "https://[::1]:9"),
    ];
    for (text, base) in table {
        assert_eq!(DpsClient::new(cloud(), text).unwrap().base, base);
    }
    for text in ["", "dps.example", "ftp://dps.example", "https://", "unix:/run/x", "https://a b"] {
        assert!(matches!(DpsClient::new(cloud(), text), Err(Error::BadEndpoint { .. })), "{text:?}");
    }
}

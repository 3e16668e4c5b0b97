//! The registry calls against a TLS server on loopback that says what a hub, a gateway or a broken box would say.

use std::time::{Duration, Instant};

use http_common::https::{Cloud, CloudOptions, Credentials, Https, HttpsOptions, Trust};
use http_common::retry::{FailureKind, RetryPolicy};
use http_common::sas::SharedKey;
use zeroize::Zeroizing;

use super::test_server::{Seen, TestServer, answer};
use super::*;

const MODULE: &str = r#"{"moduleId":"a b","managedBy":"IotEdge","deviceId":"Pump=7","generationId":"638","etag":"MTIz",
    "connectionState":"Disconnected","authentication":{"symmetricKey":{"primaryKey":"not base64","secondaryKey":null},
    "x509Thumbprint":{"primaryThumbprint":null},"type":"sas"}}"#;

fn client(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> (HubClient<SharedKey>, TestServer) {
    let (server, authority) = TestServer::localhost(answer);
    let trust = Trust::Only(vec![authority]);
    let options = CloudOptions { retry: RetryPolicy::NEVER, ..CloudOptions::default() };
    let cloud = Cloud::new(
        Https::new(HttpsOptions { trust, ..HttpsOptions::default() }),
        Default::default(),
        options,
    );
    let gateway = Some(format!("localhost:{}", server.port));
    let device = Device { hub: "Plant-Hub.azure-devices.net".into(), gateway, device_id: "Pump=7".into() };
    (HubClient::new(cloud, device, Credentials::Sas(SharedKey::new([1; 32]))), server)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn module() -> Module {
    serde_json::from_str(MODULE).unwrap()
}

#[tokio::test]
async fn certificates_are_registered_by_thumbprint_or_issuer() {
    let (hub, server) = client(|_| answer(200, "", MODULE));
    for certificate in [ModuleCertificate::Thumbprint("AB12".into()), ModuleCertificate::Authority] {
        hub.set_certificate(&module(), &certificate, &IfMatch::Any, soon()).await.unwrap();
    }
    hub.set_thumbprints(&module(), "AB13", "AB12", &IfMatch::Any, soon()).await.unwrap();
    assert_eq!(server.requests().len(), 3);
    let begin = r#"{"moduleId":"a b","deviceId":"Pump=7","managedBy":"IotEdge","authentication":{"#;
    let expected = [
        r#""x509Thumbprint":{"primaryThumbprint":"AB12","secondaryThumbprint":"AB12"},"type":"x509"}}"#,
        r#""type":"certificateAuthority"}}"#,
        r#""x509Thumbprint":{"primaryThumbprint":"AB13","secondaryThumbprint":"AB12"},"type":"x509"}}"#,
    ];
    for (seen, rest) in server.requests().iter().zip(expected) {
        assert_eq!((seen.body.clone(), seen.header("if-match")), (format!("{begin}{rest}"), Some("*")));
    }
}

#[tokio::test]
async fn requests_are_those_of_the_registry() {
    let (hub, server) = client(|seen| match (seen.line().split(' ').next(), seen.header("if-match")) {
        (Some("DELETE"), _) => answer(204, "", ""),
        (Some("PUT"), None) => answer(201, "", MODULE),
        _ => answer(200, "", MODULE),
    });
    let keys =
        ModuleKeys { primary: Zeroizing::new("cHJp".into()), secondary: Zeroizing::new("c2Vj".into()) };
    assert_eq!(hub.get("a b", soon()).await.unwrap(), module());
    hub.create("a/b", soon()).await.unwrap_err();
    hub.create("a b", soon()).await.unwrap();
    hub.set_keys(&module(), &keys, &IfMatch::Any, soon()).await.unwrap();
    hub.set_keys(&module(), &keys, &IfMatch::Etag("MTIz".into()), soon()).await.unwrap();
    assert_eq!(hub.delete("$edgeAgent", &IfMatch::Any, soon()).await.unwrap(), Deleted::Removed);

    let with_keys = r#"{"moduleId":"a b","deviceId":"Pump=7","managedBy":"IotEdge","authentication":{"symmetricKey":{"primaryKey":"cHJp","secondaryKey":"c2Vj"},"type":"sas"}}"#;
    let version = "?api-version=2017-11-08-preview HTTP/1.1";
    let path = "/devices/Pump%3D7/modules";
    let expected = [
        (format!("GET {path}/a%20b{version}"), None, ""),
        (format!("PUT {path}/a%20b{version}"), None, r#"{"moduleId":"a b","deviceId":"Pump=7"}"#),
        (format!("PUT {path}/a%20b{version}"), Some("*"), with_keys),
        (format!("PUT {path}/a%20b{version}"), Some("\"MTIz\""), with_keys),
        (format!("DELETE {path}/%24edgeAgent{version}"), Some("*"), ""),
    ];
    let requests = server.requests();
    assert_eq!(requests.len(), expected.len(), "a bad name is refused before any call");
    for (seen, (line, if_match, body)) in requests.iter().zip(&expected) {
        assert_eq!(
            (seen.line(), seen.header("if-match"), seen.body.as_str()),
            (line.as_str(), *if_match, *body)
        );
        assert_eq!(seen.header("content-type").is_some(), !body.is_empty());
        let token = seen.header("authorization").unwrap();
        assert!(
            token.starts_with("SharedAccessSignature sr=plant-hub.azure-devices.net/devices/pump%3D7&sig=")
        );
        assert!(!token.contains("skn"));
    }
}

#[tokio::test]
async fn an_answer_about_something_else_is_none() {
    for (module_id, device_id, is_good) in
        [("a b", "Pump=7", true), ("a b", "pUMP=7", true), ("A B", "Pump=7", false), ("a b", "Pump=8", false)]
    {
        let told = format!(r#"{{"moduleId":{module_id:?},"deviceId":{device_id:?}}}"#);
        let (hub, _) = client(move |_| answer(200, "", &told));
        for result in [hub.get("a b", soon()).await, hub.create("a b", soon()).await] {
            match result {
                Ok(_) => assert!(is_good, "{module_id} of {device_id}"),
                Err(error) => {
                    assert!(!is_good, "{module_id} of {device_id}");
                    assert_eq!(error.kind(), FailureKind::Invalid);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_list_survives_what_it_does_not_know() {
    let (hub, _) = client(|_| {
        let other = r#"{"moduleId":"m2","deviceId":"d","managedBy":"","authentication":{"type":"certificateAuthority"}}"#;
        let bare = r#"{"moduleId":"m3","deviceId":"d","managedBy":null,"authentication":null,"new":{}}"#;
        let own = r#"{"moduleId":"m4","deviceId":"d","authentication":{"x509Thumbprint":{"primaryThumbprint":"AB","secondaryThumbprint":"AC"},"type":"selfSigned"}}"#;
        answer(200, "", &format!(r#"[{MODULE},{other},{{"odd":1}},{bare},{own},7]"#))
    });
    let modules = hub.list(soon()).await.unwrap();
    let seen: Vec<_> =
        modules.iter().map(|module| (module.module_id.as_str(), module.auth_type.clone())).collect();
    let other = Some(AuthType::X509(vec![ModuleCertificate::Authority]));
    let thumbprints = ["AB", "AC"].map(|text| ModuleCertificate::Thumbprint(text.into()));
    let own = Some(AuthType::X509(thumbprints.to_vec()));
    assert_eq!(seen, [("a b", Some(AuthType::Sas)), ("m2", other), ("m3", None), ("m4", own)]);
    assert_eq!((&modules[1].managed_by, &modules[2].managed_by), (&None, &None));
}

#[tokio::test]
async fn an_empty_list_is_a_list_and_a_strange_one_is_not() {
    let (hub, _) = client(|_| answer(200, "", "[]"));
    assert_eq!(hub.list(soon()).await.unwrap(), []);
    for strange in ["[1]", "{}", "null", "", "[{\"moduleId\":\"m\""] {
        let (hub, _) = client(move |_| answer(200, "", strange));
        assert_eq!(hub.list(soon()).await.unwrap_err().kind(), FailureKind::Invalid, "{strange:?}");
    }
    let (hub, _) =
        client(|_| "HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\n[]".into());
    assert_eq!(hub.list(soon()).await.unwrap_err().kind(), FailureKind::Invalid);
}

#[tokio::test]
async fn what_a_deletion_finds() {
    let not_found =
        |code: &'static str| client(move |_| answer(404, &format!("iothub-errorcode: {code}\r\n"), ""));
    let delete = async |hub: &HubClient<SharedKey>| hub.delete("m", &IfMatch::Any, soon()).await;
    assert_eq!(delete(&client(|_| answer(200, "", "")).0).await.unwrap(), Deleted::Removed);
    assert_eq!(delete(&client(|_| answer(404, "", "")).0).await.unwrap(), Deleted::WasAbsent);
    assert_eq!(delete(&not_found("ModuleNotFound").0).await.unwrap(), Deleted::WasAbsent);
    let unknown_device = delete(&not_found("DeviceNotFound").0).await.unwrap_err();
    assert_eq!(unknown_device.kind(), FailureKind::NotFound);
    assert!(unknown_device.is_unknown_device() && !unknown_device.is_unknown_module());
    let unknown_module = not_found("ModuleNotFound").0.get("m", soon()).await.unwrap_err();
    assert!(unknown_module.is_unknown_module() && !unknown_module.is_unknown_device());
    let somebodys = client(|_| answer(404, "", "")).0.get("m", soon()).await.unwrap_err();
    assert!(!somebodys.is_unknown_module() && !somebodys.is_unknown_device());
    assert_eq!(
        delete(&client(|_| answer(412, "", "")).0).await.unwrap_err().kind(),
        FailureKind::Precondition
    );
}

#[tokio::test]
async fn failures_keep_what_the_hub_says() {
    let offline = || answer(500, "", r#"{"errorMessage":"upstream lost","networkError":true}"#);
    let (hub, _) = client(move |_| offline());
    assert_eq!(hub.get("m", soon()).await.unwrap_err().kind(), FailureKind::Network);
    let (hub, _) = client(|_| {
        answer(409, "iothub-errorcode: ModuleAlreadyExistsOnDevice\r\n", r#"{"Message":"it is there"}"#)
    });
    let err = hub.create("m", soon()).await.unwrap_err();
    assert_eq!(err.kind(), FailureKind::Conflict);
    assert_eq!(
        http_common::chain(&err),
        "the hub did not take the call: the service answered 409 (ModuleAlreadyExistsOnDevice) \"it is there\""
    );
}

#[tokio::test]
async fn names_that_are_no_names_go_nowhere() {
    let (hub, server) = client(|_| answer(200, "", MODULE));
    for name in ["", ".", "..", "a/b", "/", "a\nb", &"x".repeat(129)] {
        assert!(matches!(hub.get(name, soon()).await, Err(Error::BadModuleId { .. })), "{name:?}");
    }
    for name in ["a+b%20?#c", "é", "a..b"] {
        let failure = hub.get(name, soon()).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Invalid, "the answer is about another one");
    }
    assert!(server.requests()[0].line().starts_with("GET /devices/Pump%3D7/modules/a%2Bb%2520%3F%23c?"));
    assert_eq!(server.requests().len(), 3);
    let device = Device { hub: "no host".into(), gateway: None, device_id: "d".into() };
    assert!(matches!(device.uri(None), Err(Error::BadHost { .. })));
    let device = Device { hub: "localhost:9443".into(), gateway: None, device_id: "d".into() };
    assert_eq!(
        device.uri(None).unwrap(),
        "https://localhost:9443/devices/d/modules?api-version=2017-11-08-preview"
    );
    for (gateway, host) in
        [("fd00::17", "[fd00::17]"), ("[fd00::17]:8443", "[fd00::17]:8443"), ("::1", "[::1]")]
    {
        let device = Device { hub: "h".into(), gateway: Some(gateway.into()), device_id: "d".into() };
        assert_eq!(device.server(), device.uri(None).unwrap().authority().unwrap().as_str());
        let expected = format!("https://{host}/devices/d/modules?api-version=2017-11-08-preview");
        assert_eq!(device.uri(None).unwrap().to_string(), expected);
    }
}

//! The daemon called as if through its socket, where it needs neither keyd nor cloud: statuses and texts.

use http_common::{ApiError, Local, Peer, StatusCode};
use identity_api::{
    CreateModule, GetDevice, GetIdentity, GetModule, GetProvisioning, ListModules, ManualAuth, Provisioning,
    Reprovision,
};
use tempfile::TempDir;

use super::*;

pub(crate) async fn daemon(text: &str) -> (Arc<Identityd>, TempDir) {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("nobody.sock");
    let text = format!(
        "hostname = 'h'\nhomedir = '{}'\nendpoints.aziot_keyd = 'unix://{}'\n\
         endpoints.aziot_certd = 'unix://{}'\n{text}",
        home.path().display(),
        socket.display(),
        socket.display()
    );
    let config: Config = toml::from_str(&text).unwrap();
    Identityd::check(&config).unwrap();
    (Identityd::start(config).await.unwrap(), home)
}

const NONE: &str = "[provisioning]\nsource = 'none'\n";
pub(crate) const SAS: &str = "[provisioning]\nsource = 'manual'\niothub_hostname = '127.0.0.1:1'\ndevice_id = 'd'\n\
    authentication = { method = 'sas', device_id_pk = 'k' }\n";
const X509: &str = "[provisioning]\nsource = 'manual'\niothub_hostname = '127.0.0.1:1'\ndevice_id = 'd'\n\
    authentication = { method = 'x509', identity_cert = 'c', identity_pk = 'k' }\n";
const DPS: &str = "[provisioning]\nsource = 'dps'\nglobal_endpoint = 'http://127.0.0.1:1'\nscope_id = 's'\n\
    attestation = { method = 'symmetric_key', registration_id = 'r', symmetric_key = 'k' }\n";

fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.status.as_u16(), error.message)
}

fn get(id: &str, kind: &str) -> GetModule {
    GetModule { id: id.into(), r#type: (!kind.is_empty()).then(|| kind.into()) }
}

#[tokio::test]
async fn without_a_source_nothing_is_waited_for() {
    let (daemon, _home) = daemon(NONE).await;
    let root = Local(daemon, Peer::of_uid(0));
    assert_eq!(refusal(root.call(GetDevice { r#type: "x".into() }).await).0, 400);
    assert_eq!(refusal(root.call(ListModules { r#type: Some("aziot".into()) }).await).0, 400);
    root.call(Reprovision {}).await.unwrap();
    assert_eq!(root.call(GetProvisioning {}).await, Ok(Provisioning::None));
}

#[tokio::test]
async fn what_certd_does_not_give_is_named_in_the_status_only() {
    let principals = "[localid]\ndomain = 'x'\n[[principal]]\nuid = 7\nname = 'hmi'\nidtype = ['local']";
    let (daemon, _home) = daemon(&format!("{X509}{principals}")).await;
    let root = Local(Arc::clone(&daemon), Peer::of_uid(0));
    let (status, message) = refusal(root.call(Reprovision {}).await);
    assert!(status == 500 && message.starts_with("internal error"), "{status} {message}");
    assert_eq!(root.call(GetProvisioning {}).await, Ok(Provisioning::Manual { auth: ManualAuth::X509 }));
    let (status, message) = refusal(root.call(GetIdentity {}).await);
    assert!(status == 404 && message.contains("nobody.sock"), "the record is known, keyd is away: {message}");
    let mut status = daemon.status.subscribe();
    let failed = status.wait_for(|status| status.line(SystemTime::now()).contains("certd"));
    failed.await.unwrap();
    let local = |id: &str| CreateModule { r#type: "local".into(), module_id: id.into(), local_id_opts: None };
    assert_eq!(refusal(root.call(local("web")).await).0, 500);
    assert_eq!(refusal(root.call(local("hmi")).await).0, 400);
    assert_eq!(refusal(root.call(local("a/b")).await).0, 400);
    let hmi = Local(daemon, Peer::of_uid(7));
    assert_eq!(refusal(hmi.call(get("hmi", "local")).await).0, 500);
    assert_eq!(refusal(root.call(get("other", "local")).await).0, 400);
}

#[tokio::test]
async fn who_may_not_ask_is_told_so_first() {
    let (daemon, _home) = daemon(SAS).await;
    let stranger = Local(Arc::clone(&daemon), Peer::of_uid(7));
    let (status, message) = refusal(stranger.call(get("a/b", "what")).await);
    assert!(status == 401 && message.contains("user 7"), "{status} {message}");
    let root = Local(daemon, Peer::of_uid(0));
    for (id, kind) in [("x", "what"), ("a/b", "aziot"), ("a/b", ""), (" ", "aziot")] {
        assert_eq!(refusal(root.call(get(id, kind)).await).0, 400, "{id} {kind}");
    }
}

#[tokio::test]
async fn keyd_and_hub_away_are_404() {
    let (daemon, _home) = daemon(SAS).await;
    let root = Local(daemon, Peer::of_uid(0));
    let (status, message) = refusal(root.call(GetIdentity {}).await);
    assert!(status == 404 && message.contains("nobody.sock"), "{status} {message}");
    assert_eq!(refusal(root.call(get("x", "aziot")).await).0, 404);
    assert_eq!(refusal(root.call(get("x", "")).await).0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_the_device_is_held_and_not_for_ever() {
    let (daemon, _home) = daemon(DPS).await;
    let root = Local(daemon, Peer::of_uid(0));
    let begun = tokio::time::Instant::now();
    let (status, message) = refusal(root.call(GetDevice { r#type: "aziot".into() }).await);
    assert!(status == 400 && message.contains("not provisioned"), "{status} {message}");
    assert_eq!(begun.elapsed().as_secs(), HOLD.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_holds_all_places_takes_them_from_nobody_else() {
    let (daemon, _home) =
        daemon(&format!("{DPS}[[principal]]\nuid = 7\nname = 'p'\nidtype = ['device']")).await;
    let ask = |uid| {
        let peer = Local(Arc::clone(&daemon), Peer::of_uid(uid));
        async move {
            let begun = tokio::time::Instant::now();
            peer.call(GetIdentity {}).await.unwrap_err();
            begun.elapsed().as_secs()
        }
    };
    let held: Vec<_> = (0..8).map(|_| tokio::spawn(ask(7))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask(7).await, 0, "two of its ten slots stay free");
    assert_eq!(ask(0).await, HOLD.as_secs());
    for held in held {
        assert_eq!(held.await.unwrap(), HOLD.as_secs());
    }
}

#[test]
fn statuses() {
    let status = |error: Error| ApiError::from(error).status;
    let refused = || http_common::ClientError::TimedOut { service: "keyd", limit: HOLD };
    assert_eq!(status(Error::ModuleKey(refused())), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(status(Error::DeviceKey { id: "k".into(), source: refused() }), StatusCode::NOT_FOUND);
    assert_eq!(status(Error::Dps(dps_client::Error::Disabled)), StatusCode::NOT_FOUND);
    assert_eq!(status(Error::Shared(Arc::new(Error::NoDomain))), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(status(Error::NoGenerationId { id: "m".into() }), StatusCode::BAD_REQUEST);
}

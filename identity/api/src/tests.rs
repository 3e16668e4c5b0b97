//! What travels: requests as clients write them, replies byte for byte.

use http_common::round_trip;
use serde_json::{from_str, json, to_string};

use super::*;

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn requests_round_trip() {
    for id in ["a", "$edgeAgent", "a/b%20c d?", "wé/ird %41 id?", ".."] {
        for r#type in [None, some("aziot"), some("a&b=c")] {
            let id = id.to_owned();
            let get = GetModule { id: id.clone(), r#type: r#type.clone() };
            assert_eq!(round_trip(&get), Ok(get));
            let update = UpdateModule { id: id.clone(), r#type: r#type.clone() };
            assert_eq!(round_trip(&update), Ok(update));
            let delete = DeleteModule { id, r#type };
            assert_eq!(round_trip(&delete), Ok(delete));
        }
    }
    let create = CreateModule {
        r#type: "local".into(),
        module_id: "web".into(),
        local_id_opts: Some(LocalUse::Server.into()),
    };
    assert_eq!(round_trip(&create), Ok(create));
    assert_eq!(round_trip(&Reprovision {}), Ok(Reprovision {}));
    assert_eq!(round_trip(&GetIdentity {}), Ok(GetIdentity {}));
    let device = GetDevice { r#type: "aziot".into() };
    assert_eq!(round_trip(&device), Ok(device));
    let list = ListModules { r#type: some("aziot") };
    assert_eq!(round_trip(&list), Ok(list));
}

#[test]
fn requests_as_deployed_clients_write_them() {
    let create = CreateModule { r#type: "aziot".into(), module_id: "x".into(), local_id_opts: None };
    assert_eq!(to_string(&create).unwrap(), r#"{"type":"aziot","moduleId":"x"}"#);
    assert_eq!(to_string(&Reprovision {}).unwrap(), r#"{"type":"aziot"}"#);
    for any in ["null", "[1]", "7", r#"{"type":1,"type":2}"#] {
        assert!(from_str::<Reprovision>(any).is_ok(), "{any}");
    }
    let text =
        r#"{"localIdOpts":{"attributes":"server","type":"x509"},"extra":1,"moduleId":"web","type":"local"}"#;
    let local: CreateModule = from_str(text).unwrap();
    assert_eq!(local.local_id_opts, Some(LocalUse::Server.into()));
    for bad in [r#"{"type":"tpm"}"#, r#"{"type":"x509","attributes":"sever"}"#, "{}"] {
        assert!(
            from_str::<CreateModule>(&text.replace(r#"{"attributes":"server","type":"x509"}"#, bad)).is_err(),
            "{bad}"
        );
    }
    assert!(from_str::<CreateModule>(r#"{"type":"aziot"}"#).is_err());
}

#[test]
fn replies_byte_for_byte() {
    let key_handle = || key_api::KeyHandle::from("sr=h".to_owned());
    let identity = |module: Option<&str>, auth| {
        Identity::Aziot(AziotIdentity {
            hub_name: "h".into(),
            gateway_host: "g".into(),
            device_id: "d".into(),
            module_id: module.map(Into::into),
            gen_id: module.map(|_| "6".into()),
            auth,
        })
    };
    let device = r#"{"type":"aziot","spec":{"hubName":"h","gatewayHost":"g","deviceId":"d","auth":"#;
    let x509 = Auth::X509 { key_handle: key_handle(), cert_id: "device-id".into() };
    for (value, expected) in [
        (identity(None, Some(Auth::Sas { key_handle: key_handle() })), format!(r#"{device}{{"type":"sas","keyHandle":"sr=h"}}}}}}"#)),
        (identity(None, Some(x509)), format!(r#"{device}{{"type":"x509","keyHandle":"sr=h","certId":"device-id"}}}}}}"#)),
        (identity(None, Some(Auth::Tpm)), format!(r#"{device}{{"type":"tpm"}}}}}}"#)),
        (
            identity(Some("m"), None),
            r#"{"type":"aziot","spec":{"hubName":"h","gatewayHost":"g","deviceId":"d","moduleId":"m","genId":"6"}}"#.into(),
        ),
    ] {
        assert_eq!(to_string(&value).unwrap(), expected);
        assert_eq!(from_str::<Identity>(&expected).unwrap(), value);
    }
    let auth = LocalAuth { private_key: "k".into(), certificate: "c".into(), expiration: "e".into() };
    let local = Identity::Local(LocalIdentity { module_id: "hmi".into(), auth });
    let expected = r#"{"type":"local","spec":{"moduleId":"hmi","auth":{"privateKey":"k","certificate":"c","expiration":"e"}}}"#;
    assert_eq!(to_string(&local).unwrap(), expected);
    assert_eq!(to_string(&TrustBundle { certificate: String::new() }).unwrap(), r#"{"certificate":""}"#);
}

#[test]
fn provisioning_byte_for_byte() {
    let dps = Provisioning::Dps {
        auth: DpsAuth::SymmetricKey,
        endpoint: "https://dps.example.net/".into(),
        scope_id: "s".into(),
        registration_id: "r".into(),
        payload: Some(json!({"b": 2.50, "a": null})),
    };
    let expected = r#"{"source":"dps","auth":"symmetric_key","endpoint":"https://dps.example.net/","scope_id":"s","registration_id":"r","payload":{"a":null,"b":2.5}}"#;
    assert_eq!(to_string(&dps).unwrap(), expected);
    let manual = Provisioning::Manual { auth: ManualAuth::X509 };
    assert_eq!(to_string(&manual).unwrap(), r#"{"source":"manual","auth":"x509"}"#);
    assert_eq!(to_string(&Provisioning::None).unwrap(), r#"{"source":"none"}"#);
}

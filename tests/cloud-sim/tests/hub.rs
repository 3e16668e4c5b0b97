//! Devices look after their modules, and modules prove their keys.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use cloud_sim::Options;
use common::*;
use serde_json::{Value, json};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn spec(device: &str, module: &str) -> Value {
    json!({"moduleId": module, "deviceId": device})
}

fn with_keys(device: &str, module: &str, key: &str) -> Value {
    let keys = json!({"primaryKey": key, "secondaryKey": key});
    json!({"moduleId": module, "deviceId": device, "authentication": {"symmetricKey": keys, "type": "sas"}})
}

#[test]
fn a_module_lives_as_the_suite_makes_it() {
    let sim = sim();
    let device = Device::manual(&sim, "press-17");
    let path = "press-17/modules/telemetry";
    let created = device.hub("PUT", path, None, &spec("press-17", "telemetry"));
    assert_eq!(created.status, 200);
    let module = created.json();
    for member in ["generationId", "etag", "connectionState", "lastActivityTime"] {
        assert!(module[member].is_string(), "{member}");
    }
    assert_eq!(module["authentication"]["type"], "sas");
    assert_eq!(
        module["authentication"]["x509Thumbprint"],
        json!({"primaryThumbprint": null, "secondaryThumbprint": null})
    );
    assert!(module["authentication"]["symmetricKey"]["primaryKey"].is_string());
    assert_eq!(created.header("etag"), Some(format!("\"{}\"", module["etag"].as_str().unwrap()).as_str()));
    assert!(created.header("date").unwrap().ends_with("GMT"));

    let conflict = device.hub("PUT", path, None, &spec("press-17", "telemetry"));
    assert_eq!(
        (conflict.status, conflict.header("iothub-errorcode")),
        (409, Some("ModuleAlreadyExistsOnDevice"))
    );
    let keyed = device.hub("PUT", path, Some("*"), &with_keys("press-17", "telemetry", KEY));
    assert_eq!(keyed.status, 200);
    assert_eq!(keyed.json()["generationId"], module["generationId"]);
    assert_eq!(keyed.json()["authentication"]["symmetricKey"]["secondaryKey"], KEY);
    assert_eq!(device.hub("PUT", path, module["etag"].as_str(), &spec("press-17", "telemetry")).status, 412);
    assert_eq!(device.hub("GET", path, None, &Value::Null).json(), keyed.json());
    assert_eq!(device.hub("GET", "press-17/modules", None, &Value::Null).json(), json!([keyed.json()]));

    assert_eq!(device.hub("DELETE", path, None, &Value::Null).status, 412);
    let deleted = device.hub("DELETE", path, Some("*"), &Value::Null);
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    let gone = device.hub("GET", path, None, &Value::Null);
    assert_eq!((gone.status, gone.header("iothub-errorcode")), (404, Some("ModuleNotFound")));
    assert!(gone.json()["Message"].is_string() && gone.json()["ExceptionMessage"].is_string());
    assert_ne!(device.create_module("telemetry")["generationId"], module["generationId"]);
}

#[test]
fn a_device_touches_its_own_modules_only() {
    let sim = sim();
    let (mine, other) = (Device::manual(&sim, "a"), Device::manual(&sim, "ab"));
    let hub = sim.ready().hubs[0].clone();
    assert_eq!(other.hub("GET", "a/modules", None, &Value::Null).status, 401);
    assert_eq!(
        mine.hub("GET", "ab/modules", None, &Value::Null).status,
        401,
        "a prefix of an id is no parent"
    );
    let forged = token(&format!("{hub}/devices/ab"), &mine.key, false);
    assert_eq!(mine.hub_with(&forged, "GET", "ab/modules", None, &Value::Null).status, 401);
    let expired = token_over(&format!("{hub}/devices/a"), &mine.key, now() - 1, "");
    assert_eq!(mine.hub_with(&expired, "GET", "a/modules", None, &Value::Null).status, 401);
    let whole_hub = token(&hub, &mine.key, false);
    assert_eq!(mine.hub_with(&whole_hub, "GET", "a/modules", None, &Value::Null).status, 200);
    let encoded =
        token_over(&format!("{hub}/devices/A").to_uppercase().replace('/', "%2F"), &mine.key, now() + 9, "");
    assert_eq!(mine.hub_with(&encoded, "GET", "a/modules", None, &Value::Null).status, 200);
    let elsewhere = token("contoso.azure-devices.net/devices/a", &mine.key, false);
    assert_eq!(mine.hub_with(&elsewhere, "GET", "a/modules", None, &Value::Null).status, 401);

    sim.admin("PUT", "/devices/0/a", &json!({"enabled": false}));
    assert_eq!(mine.hub("GET", "a/modules", None, &Value::Null).status, 401);
    sim.admin("DELETE", "/devices/0/a", &Value::Null);
    assert_eq!(mine.hub("GET", "a/modules", None, &Value::Null).status, 401);
    sim.admin("POST", "/settings", &json!({"unknown_device_status": 404}));
    assert_eq!(
        mine.hub("GET", "a/modules", None, &Value::Null).header("iothub-errorcode"),
        Some("DeviceNotFound")
    );
}

#[test]
fn events_prove_the_keys_of_devices_and_modules() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let hub = sim.ready().hubs[0].clone();
    let update = |key: &str| device.hub("PUT", "d/modules/m", Some("*"), &with_keys("d", "m", key)).status;
    let event = |token: &str| {
        device.hub_with(token, "POST", "d/modules/m/messages/events", None, &json!({"t": 20})).status
    };
    device.create_module("m");
    assert_eq!(update(KEY), 200);
    let resource = format!("{hub}/devices/d/modules/m");
    let module_token = token_over(&resource.replace('/', "%2F"), KEY, now() + 3600, "");
    assert_eq!(event(&module_token), 204);
    assert!(last_entry(&sim)["notes"][0].as_str().unwrap().contains("module's primary key"));
    assert_eq!(event(&token(&resource, &device.key, false)), 401);
    assert!(last_entry(&sim)["reason"].as_str().unwrap().contains("device's key, not the module's"));
    assert_eq!(
        device.hub_with(&module_token, "GET", "d/modules", None, &Value::Null).status,
        401,
        "modules do not manage"
    );

    assert_eq!(device.hub("DELETE", "d/modules/m", Some("*"), &Value::Null).status, 204);
    assert_eq!(event(&module_token), 401);
    device.create_module("m");
    assert_eq!(event(&module_token), 401, "a new module does not know the old one's key");

    let own = token(&format!("{hub}/devices/d"), &device.key, false);
    assert_eq!(device.hub_with(&own, "POST", "d/messages/events", None, &json!({})).status, 204);
    let wrong = token(&format!("{hub}/devices/d"), KEY, false);
    assert_eq!(device.hub_with(&wrong, "POST", "d/messages/events", None, &json!({})).status, 401);
}

#[test]
fn bad_requests_are_refused() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    let put = |path: &str, body: &Value| device.hub("PUT", path, None, body).status;
    assert_eq!(put("d/modules/m", &spec("d", "other")), 400);
    assert_eq!(put("d/modules/m", &spec("other", "m")), 400);
    assert_eq!(put("d/modules/m", &json!({"moduleId": "m"})), 400);
    assert_eq!(put("d/modules/m", &with_keys("d", "m", "AAEC")), 400);
    assert_eq!(put("d/modules/m%20n", &spec("d", "m n")), 400);
    assert_eq!(put("d/modules/$edgeAgent", &spec("d", "$edgeAgent")), 400);
    assert_eq!(device.hub("PUT", "d/modules/m", Some("*"), &spec("d", "m")).status, 404);
    assert_eq!(device.hub("PATCH", "d/modules/m", None, &Value::Null).status, 405);
    assert_eq!(device.hub("DELETE", "d/modules/m", Some("*"), &Value::Null).status, 404);
    let own = token(&format!("{}/devices/d", sim.ready().hubs[0]), &device.key, false);
    let headers = [("authorization", own.as_str())];
    let bare =
        call(sim.ready(), &sim.ready().hubs[0], "GET", "/devices/d/modules", &headers, &Value::Null).unwrap();
    assert_eq!(bare.status, 400, "no api-version");

    sim.admin("POST", "/settings", &json!({"module_limit": 2}));
    assert_eq!((put("d/modules/1", &spec("d", "1")), put("d/modules/2", &spec("d", "2"))), (200, 200));
    assert_eq!(put("d/modules/3", &spec("d", "3")), 413);
}

#[test]
fn statuses_and_error_styles_are_settings() {
    let sim = sim();
    let device = Device::manual(&sim, "d");
    sim.admin("POST", "/settings", &json!({"put_status": 201, "delete_status": 200}));
    assert_eq!(device.hub("PUT", "d/modules/m", None, &spec("d", "m")).status, 201);
    assert_eq!(device.hub("PUT", "d/modules/m", Some("*"), &spec("d", "m")).status, 200);
    assert_eq!(device.hub("DELETE", "d/modules/m", Some("*"), &Value::Null).status, 200);
    for (style, content) in [
        ("newer", "\"errorCode\":404010"),
        ("gateway", "{\"errorMessage\""),
        ("gateway_offline", "\"networkError\":true"),
        ("html", "<!DOCTYPE html>"),
        ("truncated", "{\"Exception"),
        ("empty", ""),
    ] {
        sim.admin("POST", "/settings", &json!({"error_style": style}));
        let answer = device.hub("GET", "d/modules/m", None, &Value::Null);
        assert_eq!(answer.status, 404);
        assert!(
            answer.text.contains(content) && answer.text.is_empty() == content.is_empty(),
            "{style}: {}",
            answer.text
        );
    }
}

#[test]
fn seeded_modules_may_be_of_any_kind() {
    let sim = sim();
    let edge = sim.admin("PUT", "/devices/0/edge", &json!({"iotEdge": true, "primaryKey": KEY})).1;
    assert_eq!(
        edge["connectionString"],
        format!("HostName={};DeviceId=edge;SharedAccessKey={KEY}", sim.ready().hubs[0])
    );
    for kind in ["selfSigned", "certificateAuthority", "none", "x509"] {
        let seed = json!({"managedBy": "portal", "authentication": {"type": kind}});
        assert_eq!(sim.admin("POST", &format!("/devices/0/edge/modules/{kind}"), &seed).0, 201);
    }
    let device = Device { sim: &sim, id: "edge".into(), key: KEY.into() };
    let modules = device.hub("GET", "edge/modules", None, &Value::Null).json();
    let kinds: Vec<&str> =
        modules.as_array().unwrap().iter().map(|it| it["authentication"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["sas", "sas", "certificateAuthority", "none", "selfSigned", "x509"]);
    assert_eq!(modules[0]["moduleId"], "$edgeAgent");
    assert_eq!(modules[2]["managedBy"], "portal");
    assert_eq!(
        modules[2]["authentication"]["symmetricKey"],
        json!({"primaryKey": null, "secondaryKey": null})
    );
}

#[test]
fn hubs_are_chosen_by_port_by_name_and_by_audience() {
    let options =
        Options { hubs: 2, hub_names: vec!["contoso.test".into()], gateways: 1, ..Options::default() };
    let sim = sim_with(options);
    let hubs = sim.ready().hubs.clone();
    assert_eq!(hubs[2], "contoso.test");
    for (at, name) in hubs.iter().enumerate() {
        let made = sim.admin("PUT", &format!("/devices/{at}/d{at}"), &json!({"primaryKey": KEY})).0;
        assert_eq!(made, 200);
        let own = token(&format!("{name}/devices/d{at}"), KEY, false);
        let target = format!("/devices/d{at}/modules?api-version=2017-11-08-preview");
        let headers = [("authorization", own.as_str())];
        let port = if at == 2 { &hubs[0] } else { name };
        let target_named = format!("https://{name}{target}");
        let direct = call(sim.ready(), port, "GET", &target_named, &headers, &Value::Null).unwrap();
        assert_eq!(direct.status, 200, "{name}: {}", direct.text);
        let gateway = &sim.ready().gateways[0];
        let through = call(sim.ready(), gateway, "GET", &target, &headers, &Value::Null).unwrap();
        assert_eq!(through.status, 200, "{name} through the gateway: {}", through.text);
        let nobody = call(sim.ready(), gateway, "GET", &target, &[], &Value::Null).unwrap();
        assert_eq!((nobody.status, nobody.text.as_str()), (401, ""), "a gateway's 401 is empty");
    }
    let dps = format!("/{}/registrations/a/register?api-version=2021-06-01", sim.ready().scope);
    let refused = call(sim.ready(), &hubs[1], "PUT", &dps, &[], &json!({"registrationId": "a"})).unwrap();
    assert_eq!(refused.status, 404, "a hub is not DPS");
}

//! The device's own identity: checklist 15, 18, 21, 48, 62, 64.

use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};
use suite_tests::{
    harness::{IDENTITYD, Setup},
    keys::Keys,
    openssl::hmac,
    subject,
};

use crate::cloud::{Cloud, DEVICE, Site, identityd, keyd, manual};

#[test]
fn identity_15_21_the_device_signs_with_its_key_in_keyd() {
    let site = Site::manual("");
    let reply = site.client().get("/identities/identity").expect(200).expect_plain();
    let identity = reply.json();
    let hub = site.cloud.hub(0);
    let handle = identity["spec"]["auth"]["keyHandle"].as_str().unwrap();
    let expected = json!({ "type": "aziot", "spec": {
        "hubName": hub, "gatewayHost": hub, "deviceId": DEVICE, "auth": { "type": "sas", "keyHandle": handle },
    }});
    assert_eq!(identity, expected);
    assert!(
        reply.body.starts_with(br#"{"type":"aziot","spec":{"hubName":""#),
        "the members are in upstream's order"
    );
    assert_eq!(site.keyd.client().hmac(handle, b"message"), hmac(&site.key, b"message"));
    let again = site.client().get("/identities/identity").expect(200).json();
    assert_ne!(again["spec"]["auth"]["keyHandle"], handle, "each call gives a fresh handle");
}

#[test]
fn identity_18_any_type_will_do_but_there_must_be_one() {
    let site = Site::manual("");
    for kind in ["aziot", "", "what"] {
        site.client().post("/identities/device", &json!({ "type": kind })).expect(200);
    }
    site.client().request("POST", "/identities/device", None).expect(400);
    site.client().post("/identities/device", &json!({})).expect(422);
}

#[test]
fn identity_21_64_a_gateway_is_asked_in_the_hubs_name() {
    let cloud = Cloud::start(&["--gateways", "1"]);
    let key = cloud.add_device();
    let config = manual(&cloud, &format!("local_gateway_hostname = '{}'\n", cloud.gateway()));
    let site = Site::start(cloud, key, &config);
    let identity = site.own().expect(200).json();
    assert_eq!(identity["spec"]["hubName"], site.cloud.hub(0));
    assert_eq!(identity["spec"]["gatewayHost"], site.cloud.gateway());
    site.create("m").expect(200);
    let seen = site.cloud.seen();
    let port = site.cloud.gateway().rsplit(':').next().unwrap().to_owned();
    assert!(seen.iter().all(|seen| seen.header("host").unwrap().ends_with(&port)), "{seen:?}");
    let resource = format!("sr={}/devices/{DEVICE}&", site.cloud.hub(0));
    assert!(seen.iter().all(|seen| seen.header("authorization").unwrap().contains(&resource)), "{seen:?}");
}

#[test]
fn identity_48_without_a_source_there_is_no_device() {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'none'\n[localid]\ndomain = 'example'\n";
    let identityd = Setup::new(&IDENTITYD).config(config).start();
    let client = identityd.client().version("2022-08-01");
    let start = Instant::now();
    client.get("/identities/identity").expect(400);
    client.post("/identities/device", &json!({ "type": "aziot" })).expect(400);
    client.get("/identities/modules?type=aziot").expect(400);
    client.get("/identities/modules/x?type=aziot").expect(400);
    client.post("/identities/modules", &json!({ "type": "aziot", "moduleId": "x" })).expect(400);
    assert!(start.elapsed() < Duration::from_secs(5), "there is nothing to wait for");
    client.request("POST", "/identities/device/reprovision", None).expect(204);
    assert_eq!(client.get("/identities/provisioning").expect(200).json(), json!({ "source": "none" }));
    assert_eq!(client.get("/trust-bundle").expect(200).body, br#"{"certificate":""}"#);
}

#[test]
fn identity_62_tokens_byte_for_byte() {
    let site = Site::provisioned("");
    let hub = site.cloud.hub(0).to_lowercase();
    let scope = site.cloud.text("scope").to_lowercase();
    for seen in site.cloud.seen() {
        let token = seen.header("authorization").unwrap();
        let dps = seen.operation().starts_with("dps");
        let resource =
            if dps { format!("{scope}/registrations/{DEVICE}") } else { format!("{hub}/devices/{DEVICE}") };
        let rest = token.strip_prefix(&format!("SharedAccessSignature sr={resource}&sig=")).unwrap();
        let rest = if dps { rest.strip_suffix("&skn=registration").unwrap() } else { rest };
        let (signature, expiry) = rest.split_once("&se=").unwrap();
        assert!(expiry.bytes().all(|byte| byte.is_ascii_digit()), "{token}");
        let expected = crate::cloud::hmac64(&site.key, &format!("{resource}\n{expiry}"));
        let encoded = expected.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        assert_eq!(signature, encoded, "{token}");
    }
}

#[test]
fn a_keyd_that_is_started_again_is_waited_for() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let mut keyd = keyd(&key);
    let identityd = identityd(&cloud, &keyd, &manual(&cloud, "")).start();
    let client = identityd.client();
    client.get("/identities/identity").expect(200);
    keyd.restart(); // so that no connection is left
    let socket = keyd.setup().socket_path().to_owned();
    let away = socket.with_extension("away");
    fs::rename(&socket, &away).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| client.get("/identities/identity"));
        thread::sleep(Duration::from_millis(300)); // so that nobody was found
        fs::rename(&away, &socket).unwrap();
        asked.join().unwrap().expect(200);
    });
}

#[test]
fn identity_15_device_404_when_keyd_has_no_key_or_is_away() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let mut keyd = keyd(&key);
    let config = manual(&cloud, "").replace("device_id_pk = 'device-id'", "device_id_pk = 'other'");
    let identityd = identityd(&cloud, &keyd, &config).start();
    let client = identityd.client();
    let message = client.get("/identities/identity").expect(404).string("message");
    assert!(message.contains("\"other\""), "{message}");
    keyd.terminate();
    client.get("/identities/identity").expect(404);
    if !subject::is_foreign() {
        assert_eq!(client.get("/identities/identity").expect(404).string("code"), "keydUnreachable");
    }
    let info: Value = client.version("2021-12-01").get("/identities/provisioning").expect(200).json();
    assert_eq!(info, json!({ "source": "manual", "auth": "sas" }));
}

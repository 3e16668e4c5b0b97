//! The draft API (identity-service, chapter 17): the form that was published before the first version.

use serde_json::{Value, json};
use suite_tests::http::{Client, Reply};

use crate::cloud::{DEVICE, Site, hmac64, principal};

const DRAFT: &str = "2020-07-01-preview";

/// A reply to a request as the draft has it: without api-version.
#[track_caller]
fn bare(client: &Client, method: &str, path: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: identityd.sock\r\n");
    match body {
        "" => client.send(format!("{head}\r\n")),
        body => client
            .send(format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")),
    }
}

#[track_caller]
fn has_only(spec: &Value, members: &[&str]) {
    let found: Vec<_> = spec.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, members);
}

#[test]
fn the_draft_is_served_under_its_version() {
    let site = Site::provisioned(&principal(1001, "agent", "'module'"));
    let client = site.client().version(DRAFT);
    let device = client.get("/identities/device").expect(200).expect_plain().json();
    assert_eq!(device["type"], "aziot");
    has_only(&device["spec"], &["auth", "deviceid", "hubname"]);
    let identity = client.get("/identities/identity").expect(200).json();
    assert_eq!(identity["spec"]["deviceid"], DEVICE);
    assert_eq!(identity["spec"]["hubname"], site.cloud.hub(0).as_str());

    let create = json!({ "type": "aziot", "name": "filter", "deviceid": DEVICE, "managedBy": "IotEdge" });
    let made = client.post("/identities/modules", &create).expect(200).json();
    has_only(&made["spec"], &["auth", "deviceid", "genid", "hubname", "moduleid"]);
    let at_hub = site.cloud.module("filter");
    assert_eq!((&at_hub["managedBy"], &at_hub["generationId"]), (&json!("IotEdge"), &made["spec"]["genid"]));
    client.get("/identities/modules/filter").expect(200);
    let list = client.get("/identities/modules").expect(200).json();
    assert_eq!(list["identities"].as_array().unwrap().len(), 2);
    for identity in list["identities"].as_array().unwrap() {
        let name = identity["spec"]["moduleid"].as_str().unwrap();
        let key = site.cloud.module(name)["authentication"]["symmetricKey"]["primaryKey"].clone();
        let sign = json!({
            "keyHandle": identity["spec"]["auth"]["keyHandle"],
            "algorithm": "HMAC-SHA256",
            "parameters": { "message": "eA==" },
        });
        let signature = site.keyd.client().post("/sign", &sign).expect(200).string("signature");
        assert_eq!(
            signature,
            hmac64(&suite_tests::http::unbase64(key.as_str().unwrap()), "x"),
            "{name}: the list says how it proves who it is"
        );
    }
    client.delete("/identities/modules/filter", None).expect(204);
    client.get("/identities/modules/filter").expect(404);
    let before = site.cloud.count("dps.register");
    client.post("/identities/device/reprovision", &json!({ "type": "aziot" })).expect(200).expect_plain();
    assert!(site.cloud.count("dps.register") > before);

    let agent = site.as_uid(1001).version(DRAFT);
    assert_eq!(agent.get("/identities/identity").expect(200).json()["spec"]["moduleid"], "agent");
    agent.get("/identities/device").expect(401);
    agent.post("/identities/modules", &json!({ "type": "local", "name": "x" })).expect(401);
}

#[test]
fn what_the_draft_refuses_and_lacks() {
    let site = Site::provisioned("");
    let client = site.client().version(DRAFT);
    for (body, status) in [
        (json!({ "type": "aziot", "moduleId": "x" }), 422),
        (json!({ "type": "local", "name": "x" }), 400),
        (json!({ "name": "x", "deviceid": "another" }), 400),
        (json!({ "name": "a/b" }), 400),
    ] {
        client.post("/identities/modules", &body).expect(status);
    }
    client.get("/identities/provisioning").expect(404);
    client.get("/trust-bundle").expect(404);
    client.post("/identities/device", &json!({ "type": "aziot" })).expect(400);
    site.client().get("/identities/device").expect(400);
    bare(&site.client(), "GET", "/identities/device", "").expect(400);
}

#[test]
fn a_module_whose_key_cannot_be_had_is_listed_without() {
    let mut site =
        Site::provisioned(&[principal(1001, "a", "'module'"), principal(1002, "b", "'module'")].concat());
    site.keyd.terminate();
    site.identityd.restart();
    let list = site.client().version(DRAFT).get("/identities/modules").expect(200).json();
    let specs: Vec<_> =
        list["identities"].as_array().unwrap().iter().map(|identity| &identity["spec"]).collect();
    assert_eq!(specs.len(), 2, "{list}");
    for spec in specs {
        has_only(spec, &["deviceid", "genid", "hubname", "moduleid"]);
    }
}

#[test]
fn a_request_without_version_is_one_of_the_draft_if_so_configured() {
    let cloud = crate::cloud::Cloud::start(&["--hubs", "2"]);
    let key = cloud.enroll();
    let config = format!("draft_api = true\n{}", crate::cloud::dps(&cloud, ""));
    let site = Site::start(cloud, key, &config);
    site.own().expect(200);
    site.wait_until_settled();
    let client = site.client();
    let device = bare(&client, "GET", "/identities/device", "").expect(200).json();
    assert_eq!(device["spec"]["deviceid"], DEVICE);
    let made = bare(&client, "POST", "/identities/modules", r#"{"name":"filter"}"#).expect(200).json();
    assert_eq!(made["spec"]["moduleid"], "filter");
    client.get("/identities/identity?api-version=2020-09-01-preview").expect(400);
    assert_eq!(client.get("/identities/identity").expect(200).json()["spec"]["deviceId"], DEVICE);
    assert!(!site.state("prev_state").contains("draft_api"), "upstream would not know it");
}

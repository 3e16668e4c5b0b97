//! Below a parent gateway: whom to trust, how to name it, and what its troubles mean. Who is asked in whose name is in
//! `device.rs`.

use std::fs;

use serde_json::json;
use suite_tests::harness::{IDENTITYD, KEYD, Setup};

use crate::cloud::{Cloud, DEVICE, Site, keyd, manual, pipe, principal};

/// A device below a gateway that is known by its address, and whose authority only identityd's configuration knows.
fn site(trusted: &str) -> Site {
    let cloud = Cloud::start(&["--gateways", "1"]);
    let key = cloud.add_device();
    let port = cloud.gateway().rsplit(':').next().unwrap().to_owned();
    let provisioning =
        format!("local_gateway_hostname = '127.0.0.1:{port}'\n{}", principal(1001, "m", "'module'"));
    pipe(&cloud.ca().with_extension("pem.pipe"));
    let trusted = trusted.replace("CA", cloud.ca().to_str().unwrap());
    let config = format!("trusted_certs = [{trusted}]\n{}", manual(&cloud, &provisioning));
    let keyd = keyd(&key);
    let setup = Setup::new(&IDENTITYD).reach(&KEYD, keyd.setup().socket_path()).config(&config);
    Site { identityd: setup.start(), keyd, cloud, key }
}

#[test]
fn the_parents_authority_comes_from_the_configuration() {
    let site = site("'/nonexistent/ca.pem', 'CA.pipe', 'CA'");
    site.wait_until_settled();
    let identity = site.as_uid(1001).get("/identities/identity").expect(200).json();
    let gateway = identity["spec"]["gatewayHost"].as_str().unwrap();
    assert!(gateway.starts_with("127.0.0.1:"), "{gateway}");
    assert_eq!(identity["spec"]["hubName"], site.cloud.hub(0));
    for unusable in ["/nonexistent/ca.pem", "/ca.pem.pipe"] {
        site.identityd.wait_for_log(crate::cloud::WAIT, |line| line.contains(unusable));
    }
    let recorded = fs::read_to_string(site.identityd.home().join("prev_state")).unwrap();
    assert!(!recorded.contains("trusted_certs"), "upstream would not know it");
}

#[test]
fn an_unknown_authority_is_not_trusted() {
    let site = site("");
    site.identityd.wait_for_log(crate::cloud::WAIT, |line| line.contains("is not trusted"));
    site.own().expect(200);
    assert!(site.cloud.seen().is_empty());
}

#[test]
fn a_parent_without_a_connection_of_its_own_is_as_none() {
    let site = site("'CA'");
    site.wait_until_settled();
    let Site { identityd, keyd, cloud, key } = site;
    let setup = identityd.stop();
    cloud.settings(&json!({ "error_style": "gateway_offline" }));
    cloud.fault("hub", &json!({ "status": 500 }), None);
    let site = Site { identityd: setup.start(), keyd, cloud, key };
    let device = site.own().expect(200).json();
    assert_eq!(device["spec"]["deviceId"], DEVICE);
    site.as_uid(1001).get("/identities/identity").expect(200);
    assert_eq!(site.names(), ["m"]);
    site.identityd.wait_for_log(crate::cloud::WAIT, |line| line.contains("provisioning is not complete"));
    assert_eq!(site.names(), ["m"]);
}

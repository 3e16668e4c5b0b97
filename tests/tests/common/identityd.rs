//! What is special to identityd among the common rules: checklist 6, 63, 64.

use suite_tests::{
    harness::{Daemon, IDENTITYD, Setup},
    http::Client,
};

/// An identityd that needs no cloud.
fn identityd() -> (Daemon, Client) {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";
    let identityd = Setup::new(&IDENTITYD).config(config).start();
    let client = identityd.client();
    (identityd, client)
}

#[test]
fn common_06_identityd_without_configuration_ends_with_status_1() {
    let ended = Setup::bare(&IDENTITYD).start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.lines().any(|line| line.starts_with("<3>")), "{}", ended.log);
}

#[test]
fn common_63_identityd_knows_three_versions() {
    let (_identityd, client) = identityd();
    let versions = [("2020-09-01", 404), ("2021-12-01", 404), ("2022-08-01", 404), ("2021-05-01", 400)];
    for (version, status) in versions {
        client.version(version).get("/nowhere").expect(status);
    }
    client.get("/nowhere?api-version=2020-09-01-preview").expect(400);
}

#[test]
fn common_64_provisioning_information_came_with_the_second_version() {
    let (_identityd, client) = identityd();
    client.get("/identities/provisioning").expect(404);
    for version in ["2021-12-01", "2022-08-01"] {
        let reply = client.version(version).get("/identities/provisioning").expect(200).expect_plain();
        assert_eq!(reply.json(), serde_json::json!({ "source": "none" }));
    }
}

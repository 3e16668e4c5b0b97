//! What is refused as configuration, and what is taken up: checklist 43-47, 55, 56, 67, 68, 75; 2 and 16 of the common rules.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::json;
use suite_tests::{
    harness::{IDENTITYD, Setup},
    http::{Connection, wait_for},
};

use crate::cloud::{Cloud, Site, WAIT, dps, manual, pipe, principal};

#[track_caller]
fn refused(config: &str, message: &str) {
    let ended = Setup::new(&IDENTITYD).config(config).start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{config}\n{}", ended.log);
    assert!(ended.log.contains(message), "{config}\n{}", ended.log);
}

const NONE: &str = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";

#[test]
fn identity_43_principals_that_contradict_stop_the_start() {
    let twice = format!("{NONE}{}{}", principal(1, "same", "[]"), principal(2, "same", "[]"));
    refused(&twice, "\"same\"");
    refused(&format!("{NONE}{}", principal(1, "x", "['local']")), "localid.domain");
    refused(&format!("{NONE}{}", principal(1, "x", "['module']")), "provisioning.source");
    refused(&format!("{NONE}{}", principal(1, "x", "['device']")), "provisioning.source");
    refused(&format!("{NONE}{}", principal(1, "x", "['what']")), "idtype");
}

#[test]
fn identity_44_the_cloud_gets_70_seconds_at_least() {
    refused(&format!("cloud_timeout_sec = 69\n{NONE}"), "config.toml:1: cloud_timeout_sec");
    Setup::new(&IDENTITYD).config(&format!("cloud_timeout_sec = 70\n{NONE}")).start();
}

#[test]
fn identity_45_decided_the_public_endpoint_is_the_default() {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'dps'\nscope_id = '0ne00ABC123'\n\
        attestation = { method = 'symmetric_key', registration_id = 'd', symmetric_key = 'device-id' }\n";
    // No keyd, hence no token and no call to anybody.
    let identityd = Setup::new(&IDENTITYD).reach(&suite_tests::harness::KEYD, "/nowhere/keyd.sock".as_ref());
    let identityd = identityd.config(config).start();
    let info = identityd.client().version("2021-12-01").get("/identities/provisioning").expect(200).json();
    assert_eq!(info["endpoint"], "https://global.azure-devices-provisioning.net/");
}

#[test]
fn identity_46_renewal_needs_all_its_settings() {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'dps'\nscope_id = 's'\n[provisioning.attestation]\n\
        method = 'x509'\nregistration_id = 'd'\nidentity_cert = 'c'\nidentity_pk = 'k'\n\
        identity_auto_renew = { rotate_key = true, threshold = '80%' }\n";
    refused(config, "retry");
}

#[test]
fn identity_47_dps_is_not_asked_through_a_gateway() {
    let cloud = Cloud::start(&[]);
    refused(&dps(&cloud, "local_gateway_hostname = 'parent'\n"), "local_gateway_hostname");
    assert_eq!(cloud.operations(), "");
}

#[test]
fn identity_55_56_principals_come_at_run_time_and_typing_errors_change_nothing() {
    let mut site = Site::provisioned("");
    site.cloud.forget_requests();
    site.identityd.write_drop_in("50-agent.toml", &principal(1001, "agent", "['module']"));
    let identity = wait_for("the module", Duration::from_secs(15), || {
        Some(site.as_uid(1001).get("/identities/identity")).filter(|reply| reply.status == 200)
    });
    assert_eq!(identity.json()["spec"]["moduleId"], "agent");
    assert_eq!(site.cloud.count("dps"), 0, "{}", site.cloud.operations());
    for (name, broken) in
        [("60-broken.toml", "[[principal\n".to_owned()), ("70-same.toml", principal(7, "agent", "[]"))]
    {
        site.identityd.write_drop_in(name, &broken);
        site.identityd.wait_for_log(WAIT, |line| {
            line.contains("not taken")
                && match name {
                    "60-broken.toml" => line.contains(name),
                    _ => ["\"agent\"", "50-agent.toml:1", "70-same.toml:1"]
                        .iter()
                        .all(|part| line.contains(part)),
                }
        });
        site.as_uid(1001).get("/identities/identity").expect(200);
        site.identityd.remove_drop_in(name);
        thread::sleep(Duration::from_secs(3));
    }
    assert!(site.identityd.is_running());
    site.identityd.remove_drop_in("50-agent.toml");
    wait_for("the module to go", WAIT, || site.cloud.module("agent").is_null().then_some(()));
    site.as_uid(1001).get("/identities/identity").expect(401);
}

/// Two seconds from the file to the first reply that shows it. A busy machine may be late once, or twice.
#[test]
fn identity_55_decided_principals_take_effect_within_2_s() {
    let site = Site::manual("");
    site.own().expect(200);
    let takes = |uid: u32| {
        let name = format!("{uid}.toml");
        let begun = Instant::now();
        site.identityd.write_drop_in(&name, &principal(uid, &name, "['device']"));
        wait_for("the principal", WAIT, || {
            (site.as_uid(uid).get("/identities/identity").status == 200).then_some(())
        });
        begun.elapsed()
    };
    let quickest = (1001..=1003).map(takes).min().unwrap();
    assert!(quickest <= Duration::from_secs(2), "{quickest:?}");
}

/// Upstream closes the connection that is one too many. Here a request waits while as many are in work as there may be; who
/// finds a hundred waiting is told so, and no other user notices.
#[test]
fn identity_13_decided_requests_above_the_limit_wait() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    cloud.fault("dps.register", &json!({ "delay_ms": 3000 }), None);
    let config = dps(&cloud, "");
    let site = Site::start(cloud, key, &format!("max_requests = 1\n{config}"));
    let client = site.client();
    let send = |bytes: Vec<u8>| {
        let mut connection = client.connect();
        connection.send(bytes);
        connection
    };
    let device = client.bytes("POST", "/identities/device", Some(&json!({ "type": "aziot" })));
    let mut held = send(device);
    thread::sleep(Duration::from_millis(300)); // so that it is in work
    let mut asked: Vec<_> = (0..120).map(|_| send(client.bytes("GET", "/trust-bundle", None))).collect();
    site.as_uid(1001).get("/trust-bundle").expect(200);
    held.reply().expect(200);
    let replies: Vec<_> = asked.iter_mut().map(Connection::reply).collect();
    let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((served.len(), refused.len()), (100, 20));
    for reply in refused {
        assert!(reply.clone().expect(429).header("retry-after").is_some());
    }
    client.get("/trust-bundle").expect(200);
}

#[test]
fn identity_67_68_the_payload_is_read_each_time() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    let payload = cloud.ca().with_file_name("payload.json");
    fs::write(&payload, r#"{ "b": 2.50, "a": [null, "x"] }"#).unwrap();
    let config = dps(&cloud, &format!("payload = {{ uri = 'file://{}' }}\n", payload.display()));
    let site = Site::start(cloud, key, &config);
    site.own().expect(200);
    let sent = site.cloud.seen().into_iter().find(|seen| seen.operation() == "dps.register").unwrap();
    assert_eq!(sent.0["body"]["payload"], json!({ "a": [null, "x"], "b": 2.5 }));
    site.identityd
        .wait_for_log(WAIT, |line| line.starts_with("<6>") && line.contains("says initialAssignment"));
    site.identityd.wait_for_log(WAIT, |line| line.contains("a payload of 24 bytes"));
    let info = site.client().get("/identities/provisioning").expect(200);
    assert!(
        String::from_utf8_lossy(&info.body).ends_with(r#""payload":{"a":[null,"x"],"b":2.5}}"#),
        "{info:?}"
    );
    fs::write(&payload, "no JSON").unwrap();
    site.client().get("/identities/provisioning").expect(400);
    fs::remove_file(&payload).unwrap();
    site.client().get("/identities/provisioning").expect(400);
    pipe(&payload);
    site.client().get("/identities/provisioning").expect(400);
    site.client().request("POST", "/identities/device/reprovision", None).expect(400);
    site.own().expect(200);
}

#[test]
fn identity_75_the_configuration_can_be_elsewhere() {
    // The harness puts the files into a directory of its own and says so in the two variables.
    let identityd = Setup::new(&IDENTITYD).config(NONE).start();
    let message = "from the directory";
    identityd.write_drop_in("x.toml", "unknown_by_anybody = 1");
    identityd.wait_for_log(WAIT, |line| line.contains("x.toml:1: unknown_by_anybody"));
    assert!(!identityd.log().contains(message));
}

#[test]
fn identity_55_decided_changed_settings_are_acted_upon() {
    let site = Site::provisioned(&principal(1001, "m", "['module']"));
    // The same device under another scope: DPS refuses, so the old identity stays and the loop goes on.
    let config = dps(&site.cloud, &principal(1001, "m", "['module']"));
    let other =
        config.replace(&format!("scope_id = '{}'", site.cloud.text("scope")), "scope_id = '0ne00OTHER'");
    site.cloud.forget_requests();
    fs::write(site.identityd.setup().main_file(), &other).unwrap();
    site.identityd.wait_for_log(WAIT, |line| line.contains("settings have changed"));
    wait_for("the registration", WAIT, || (site.cloud.count("dps.register") > 0).then_some(()));
    site.own().expect(200);
    site.module("m").expect(200);
    // Another device in the same hub.
    site.cloud.add_device();
    let manual = manual(&site.cloud, "").replace("device_id = 'press-17'", "device_id = 'other'");
    fs::write(site.identityd.setup().main_file(), manual).unwrap();
    wait_for("the other device", WAIT, || {
        (site.own().expect(200).json()["spec"]["deviceId"] == "other").then_some(())
    });
}

#[test]
fn common_02_decided_a_daemon_is_itself_under_any_name() {
    let setup = Setup::new(&IDENTITYD).config(NONE);
    let daemon = setup.wrapper(["bash", "-c", "exec -a aziot-keyd \"$0\""]).start();
    let command = fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    assert!(command.starts_with(b"aziot-keyd"));
    let info = daemon.client().version("2022-08-01").get("/identities/provisioning").expect(200).json();
    assert_eq!(info["source"], "none");
}

#[test]
fn common_16_decided_a_socket_is_where_the_configuration_says() {
    let setup = Setup::new(&IDENTITYD).config(NONE);
    let (default, elsewhere) = (setup.socket_path().to_owned(), setup.directory().join("else.where"));
    let daemon = setup.reach(&IDENTITYD, &elsewhere).socket(&elsewhere).start();
    daemon.client().version("2022-08-01").get("/identities/provisioning").expect(200);
    assert!(!default.exists());
}

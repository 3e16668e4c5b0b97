//! The device with a TPM: checklist 17 and 19, and 45 and 46 of the TPM service.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use suite_tests::{
    harness::{CERTD, Daemon, IDENTITYD, KEYD, Setup, TPMD},
    http::{Client, Reply, base64, wait_for},
    swtpm::Swtpm,
};

use crate::cloud::{Cloud, DEVICE, WAIT, identityd, keyd, manual, principal};

/// The daemons end before their TPM.
struct Site {
    identityd: Daemon,
    tpmd: Daemon,
    _keyd: Daemon,
    cloud: Cloud,
    tpm: Swtpm,
}

impl Site {
    fn start() -> Site {
        let tpm = Swtpm::start();
        let tpmd = Setup::new(&TPMD).drop_in("02-tcti.toml", &format!("tcti = '{}'\n", tpm.tcti())).start();
        let endorsement_key = tpmd.client().get("/get_tpm_keys").expect(200).bytes("endorsement_key");
        let cloud = Cloud::start(&[]);
        let attestation = json!({ "type": "tpm", "tpm": { "endorsementKey": base64(endorsement_key) } });
        cloud.admin("PUT", &format!("/enrollments/{DEVICE}"), &json!({ "attestation": attestation }));
        let keyd = Setup::new(&KEYD).start();
        let (endpoint, scope) = (cloud.text("dps"), cloud.text("scope"));
        let config = format!(
            "hostname = 'device'\n[provisioning]\nsource = 'dps'\nglobal_endpoint = '{endpoint}'\nscope_id = '{scope}'\n\
             attestation = {{ method = 'tpm', registration_id = '{DEVICE}' }}\n"
        );
        let setup = identityd(&cloud, &keyd, &config).reach(&TPMD, tpmd.setup().socket_path());
        Site { identityd: setup.start(), tpmd, _keyd: keyd, cloud, tpm }
    }

    fn client(&self) -> Client {
        self.identityd.client().version("2022-08-01")
    }

    fn own(&self) -> Reply {
        self.client().post("/identities/device", &json!({ "type": "aziot" }))
    }

    fn create(&self, id: &str) -> Reply {
        self.client().post("/identities/modules", &json!({ "type": "aziot", "moduleId": id }))
    }

    #[track_caller]
    fn wait_until_settled(&self) {
        wait_for("prev_state", WAIT, || self.identityd.home().join("prev_state").exists().then_some(()));
    }

    /// Nobody does anything but wait until modules can be made.
    #[track_caller]
    fn heals(&self, id: &str) {
        wait_for("a new auth key", WAIT, || (self.create(id).status == 200).then_some(()));
        assert_eq!(
            self.cloud.count("dps.register"),
            2,
            "a challenge, a registration: {}",
            self.cloud.operations()
        );
    }

    /// How often tpmd has taken an auth key, since it started.
    fn imports(&self) -> usize {
        self.tpmd.log().matches("has imported an auth key").count()
    }
}

fn auth(reply: Reply) -> Value {
    reply.expect(200).json()["spec"]["auth"].clone()
}

#[test]
fn tpm_45_46_a_restart_asks_neither_dps_nor_for_an_import() {
    let mut site = Site::start();
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }));
    site.wait_until_settled();
    assert_eq!(site.imports(), 1);
    site.cloud.forget_requests();
    site.identityd.restart();
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }));
    site.create("telemetry").expect(200);
    assert_eq!(site.cloud.count("dps"), 0, "{}", site.cloud.operations());
    assert_eq!(site.imports(), 1);
    site.tpmd.terminate();
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }), "who the device is needs no TPM");
    site.create("other").expect(404);
    site.client().request("POST", "/identities/device/reprovision", None).expect(404);
    site.tpmd.restart();
    wait_for("the module", WAIT, || (site.create("other").status == 200).then_some(()));
}

#[test]
fn a_tpm_that_was_cleared_is_provisioned_again_by_itself() {
    let mut site = Site::start();
    site.own().expect(200);
    site.wait_until_settled();
    site.tpmd.terminate();
    site.tpm.tpm2("tpm2_clear", &["-c", "p"]);
    site.tpmd.restart();
    site.cloud.forget_requests();
    site.create("early").expect(404);
    site.identityd.restart();
    site.heals("telemetry");
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }));
}

#[test]
fn an_auth_key_at_another_index_is_obtained_while_identityd_runs() {
    let mut site = Site::start();
    site.own().expect(200);
    site.wait_until_settled();
    site.tpmd.write_drop_in("03-index.toml", "auth_key_index = 77\n");
    site.tpmd.restart();
    site.cloud.forget_requests();
    site.identityd.write_drop_in("50-agent.toml", &principal(41001, "agent", "['module']"));
    site.heals("telemetry");
    assert!(site.cloud.module("agent").is_object());
}

#[test]
fn identity_17_19_a_device_with_a_tpm() {
    let site = Site::start();
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }), "and nothing else");
    let info = site.client().get("/identities/provisioning").expect(200).json();
    assert_eq!((&info["auth"], &info["registration_id"]), (&json!("tpm"), &json!(DEVICE)));
    assert_eq!(auth(site.create("telemetry"))["type"], "sas", "modules have keys in keyd");
    let seen = site.cloud.seen();
    assert_eq!(seen[0].header("authorization"), None, "the TPM introduces itself and is challenged");
    assert!(seen[1..].iter().all(|seen| seen.header("authorization").is_some()));
    site.client().request("POST", "/identities/device/reprovision", None).expect(204);
    assert_eq!(auth(site.own()), json!({ "type": "tpm" }));
    site.create("other").expect(200);
}

#[test]
fn nobody_asks_a_service_that_is_not_needed() {
    let cloud = Cloud::start(&[]);
    let keyd = keyd(&cloud.add_device());
    let setup = Setup::new(&IDENTITYD);
    let listen = |name: &str| UnixListener::bind(setup.directory().join(name)).unwrap();
    let services = [(&TPMD, listen("tpmd.sock")), (&CERTD, listen("certd.sock"))];
    let mut daemon = identityd(&cloud, &keyd, &manual(&cloud, ""));
    for (service, _) in &services {
        daemon = daemon.reach(service, &setup.directory().join(service.socket));
    }
    let daemon = daemon.start();
    let client = daemon.client().version("2022-08-01");
    client.post("/identities/device", &json!({ "type": "aziot" })).expect(200);
    client.post("/identities/modules", &json!({ "type": "aziot", "moduleId": "a" })).expect(200);
    client.request("POST", "/identities/device/reprovision", None).expect(204);
    for (service, listener) in services {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "{} was asked", service.program);
    }
}

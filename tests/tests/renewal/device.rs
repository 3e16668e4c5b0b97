//! Renewal of the device identity, with power lost at each of its steps: after the restart key and certificate belong
//! together, and DPS and the hub let the device in.

use std::path::PathBuf;

use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::PKey,
    x509::X509,
};
use serde_json::{Value, json};
use suite_tests::{
    harness::{CERTD, Daemon, IDENTITYD, KEYD, Setup},
    http::wait_for,
    keys::Keys as _,
};

use cloud_sim::{Options, Sim};

use crate::gate::{Gate, Side};
use crate::site::{LIFE, PATIENCE, PRINCIPAL, Way, admin, preloaded, principal, protected};

/// A cloud, and a device whose certificate is always due.
pub(crate) struct Device {
    pub(crate) sim: Sim,
    pub(crate) keyd: Daemon,
    pub(crate) certd: Daemon,
    pub(crate) identityd: Daemon,
    gates: [Gate; 2],
}

/// Which gate, by the daemon behind it.
#[derive(Debug, Clone, Copy)]
enum Door {
    Keyd,
    Certd,
}

impl Device {
    pub(crate) fn new(rotate_key: bool) -> Device {
        Device::with(rotate_key, LIFE, "50%")
    }

    /// Certificates have a life of `life` seconds.
    pub(crate) fn with(rotate_key: bool, life: i64, retry: &str) -> Device {
        let renew = format!("{{ rotate_key = {rotate_key}, threshold = '80%', retry = '{retry}' }}");
        Device::by([Setup::new(&KEYD), Setup::new(&CERTD)], life, |sim| dps(sim, &renew), None)
    }

    /// Its key is a file of the administrator's.
    pub(crate) fn preloaded() -> Device {
        let keyd = Setup::new(&KEYD);
        let file = keyd.directory().join("preloaded.pem");
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        std::fs::write(&file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let keyd = keyd.config(&format!("[preloaded_keys]\ndevice-id = 'file://{}'\n", file.display()));
        Device::by([keyd, Setup::new(&CERTD)], LIFE, |sim| dps(sim, RENEW), None)
    }

    /// identityd is the user `uid`, which keyd lets use the `keys`. There are no gates. Needs root.
    pub(crate) fn as_user(uid: u32, keys: &[&str]) -> Device {
        let keys = [keys, &["aziot_identityd_master_id"]].concat();
        let keyd = Setup::new(&KEYD).drop_in(PRINCIPAL, &principal(uid, &keys));
        Device::by([keyd, Setup::new(&CERTD)], LIFE, |sim| dps(sim, RENEW), Some(uid))
    }

    /// certd is the user `uid`. Needs root.
    pub(crate) fn with_certd_as(uid: u32) -> Device {
        let certd = Setup::new(&CERTD).config("").as_user(uid);
        Device::by([Setup::new(&KEYD), certd], LIFE, |sim| dps(sim, RENEW), None)
    }

    /// Ends identityd; the next one finds the certificate in a file that only the administrator may write.
    pub(crate) fn preload(&mut self) -> PathBuf {
        self.identityd.kill();
        let pem = self.certd.client().get("/certificates/device-id").expect(200).string("pem");
        let file = protected(&self.sim, &pem);
        self.certd.kill();
        self.certd.write_drop_in("50.toml", &preloaded("device-id", &file));
        self.certd.restart();
        file
    }

    /// A device that knows its hub, which knows it by the certificate's issuer.
    fn manual() -> Device {
        let provisioning = |sim: &Sim| {
            let root = admin(sim, "GET", "/est", &Value::Null)["root"].clone();
            let anchor = json!({ "certificate": root, "isVerified": true });
            admin(sim, "PUT", "/certificates/plant", &anchor);
            let by_issuer = json!({ "authentication": { "type": "certificateAuthority" } });
            admin(sim, "PUT", "/devices/0/press-17", &by_issuer);
            format!(
                "source = 'manual'\niothub_hostname = '{}'\ndevice_id = 'press-17'\n[provisioning.authentication]\n\
                 method = 'x509'\nidentity_cert = 'device-id'\nidentity_pk = 'device-id'\n\
                 identity_auto_renew = {{ rotate_key = true, threshold = '80%', retry = '50%' }}\n",
                sim.ready().hubs[0]
            )
        };
        Device::by([Setup::new(&KEYD), Setup::new(&CERTD)], LIFE, provisioning, None)
    }

    /// A device with this table `[provisioning]`.
    fn by(
        [keyd, certd]: [Setup; 2],
        life: i64,
        provisioning: impl FnOnce(&Sim) -> String,
        user: Option<u32>,
    ) -> Device {
        let sim = Sim::start(Options { est: Some(0), ..Options::default() }).unwrap();
        admin(&sim, "POST", "/settings", &json!({ "retry_after": 0, "assigning_polls": 0 }));
        admin(&sim, "PUT", "/est/labels/default", &label(life, 0));
        let root = admin(&sim, "GET", "/est", &Value::Null)["root"].clone();
        let anchors = json!({ "primary": { "certificate": root } });
        let attestation = json!({ "type": "x509", "x509": { "signingCertificates": anchors } });
        admin(&sim, "PUT", "/enrollmentGroups/plant", &json!({ "attestation": attestation }));
        let keyd = keyd.start();
        let ca = sim.ready().ca.clone();
        let config = format!(
            "[cert_issuance]\ndevice-id = {{ method = 'est' }}\n\
             [cert_issuance.est]\ntrusted_certs = ['cloud-ca']\nusername = 'device'\npassword = 'secret'\n\
             [cert_issuance.est.urls]\ndefault = '{}'\n[preloaded_certs]\ncloud-ca = 'file://{}'\n",
            sim.ready().est.as_ref().unwrap(),
            ca.display()
        );
        let certd = certd.config(&config).reach(&KEYD, keyd.setup().socket_path());
        let gates = [Gate::new(keyd.setup().socket_path()), Gate::new(certd.socket_path())];
        Way { sim: &sim, keyd: &keyd, gate: &gates[0] }.open_directory();
        let certd = certd.start();
        let config = format!("hostname = 'device'\n[provisioning]\n{}", provisioning(&sim));
        let identityd = Setup::new(&IDENTITYD).env("SSL_CERT_FILE", &ca).config(&config);
        let identityd = match user {
            None => identityd.reach(&KEYD, &gates[0].socket()).reach(&CERTD, &gates[1].socket()),
            Some(uid) => {
                certd.write_drop_in(
                    "50.toml",
                    &format!("[[principal]]\nuid = {uid}\ncerts = ['device-id']\n"),
                );
                wait_for("certd to know its user", PATIENCE, || {
                    let client = certd.as_uid(uid);
                    (client.delete("/certificates/device-id", None).status == 204).then_some(())
                });
                drop(keyd.as_uid(uid));
                let sockets = [keyd.setup().socket_path(), certd.setup().socket_path()];
                identityd.reach(&KEYD, sockets[0]).reach(&CERTD, sockets[1]).as_user(uid)
            }
        }
        .start();
        let device = Device { sim, keyd, certd, identityd, gates };
        device.wait_for_the_end();
        device
    }

    fn has_ended(&self) -> bool {
        let log = self.identityd.log();
        ["was renewed", "was not renewed"].iter().any(|end| log.contains(end))
    }

    pub(crate) fn wait_for_the_end(&self) {
        wait_for("the end of a renewal", PATIENCE, || self.has_ended().then_some(()));
    }

    /// Kill identityd at a request; which one, or none if the renewal ended before.
    fn crash_at(&mut self, door: Door, number: usize, side: Side) -> Option<String> {
        self.identityd.kill();
        self.gate(door).stop_at(Some((number, side)));
        self.identityd.restart();
        let reached = wait_for("a step or the end of a renewal", PATIENCE, || {
            let reached = self.gate(door).stopped();
            (reached.is_some() || self.has_ended()).then_some(reached)
        });
        self.identityd.kill();
        self.gate(door).stop_at(None);
        reached
    }

    pub(crate) fn recover(&mut self) {
        self.identityd.restart();
        self.wait_for_the_end();
    }

    fn gate(&self, door: Door) -> &Gate {
        &self.gates[door as usize]
    }

    pub(crate) fn identity(&self) -> X509 {
        let pem = self.certd.client().get("/certificates/device-id").expect(200).string("pem");
        X509::from_pem(pem.as_bytes()).unwrap()
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        let client = self.keyd.client();
        client.public_key(&client.load_pair("device-id"))
    }

    /// The certificates that EST has issued.
    pub(crate) fn issued(&self) -> usize {
        admin(&self.sim, "GET", "/est", &Value::Null)["issued"].as_array().unwrap().len()
    }

    /// The pair fits, and opens DPS and the hub.
    #[track_caller]
    pub(crate) fn check_pair(&self, story: &str) {
        let key = PKey::public_key_from_pem(&self.key()).unwrap();
        let identity = self.identity();
        assert!(identity.public_key().unwrap().public_eq(&key), "{story}: key and certificate differ");
        let reply = self.identityd.client().request("POST", "/identities/device/reprovision", None);
        assert_eq!(reply.status, 204, "{story}: the device is locked out: {}", self.identityd.log());
    }

    #[track_caller]
    pub(crate) fn check_rest(&self, story: &str) {
        let left = std::fs::read_dir(self.identityd.home().join("renewal")).unwrap().count();
        assert_eq!(left, 0, "{story}: a journal is left");
        let temporary = self.keyd.client().get("/keypair/device-id-temp").status;
        assert_eq!(temporary, 400, "{story}: the temporary key is left");
    }
}

/// How EST issues certificates with a life of `life` seconds, after so many answers that it is not decided.
fn label(life: i64, pending: u32) -> Value {
    let over = life * 9 / 10;
    json!({ "authentication": "basic", "validity_secs": life - over, "backdate_secs": over, "pending": pending,
        "retry_after": null })
}

/// A device that DPS knows by a certificate's issuer.
fn dps(sim: &Sim, renew: &str) -> String {
    format!(
        "source = 'dps'\nglobal_endpoint = '{}'\nscope_id = '{}'\n[provisioning.attestation]\nmethod = 'x509'\n\
         registration_id = 'press-17'\nidentity_cert = 'device-id'\nidentity_pk = 'device-id'\n\
         key_algorithm = 'ec-p256'\nidentity_auto_renew = {renew}\n",
        sim.ready().dps,
        sim.ready().scope
    )
}

const RENEW: &str = "{ rotate_key = true, threshold = '80%', retry = '50%' }";

/// Kills identityd at every `step`th request through `door`, from `first` on.
fn kill_at_requests(rotate_key: bool, door: Door, side: Side, first: usize, step: usize) {
    let mut device = Device::new(rotate_key);
    device.check_pair("new");
    let mut runs = 0;
    for number in (first..).step_by(step) {
        let (old, old_key) = (device.identity(), device.key());
        let reached = device.crash_at(door, number, side);
        device.recover();
        let story = format!("killed {side:?} {door:?} {number}, {reached:?}");
        assert!(device.identityd.log().contains("was renewed"), "{story}: {}", device.identityd.log());
        device.check_rest(&story);
        device.check_pair(&story);
        assert!(device.identity() != old, "{story}");
        assert_eq!(device.key() != old_key, rotate_key, "{story}");
        runs += 1;
        if reached.is_none() {
            break;
        }
    }
    println!("{runs} runs, {door:?}, {side:?}, from {first}, rotation: {rotate_key}");
    assert!(runs > 2);
}

#[test]
fn power_loss_before_requests_to_keyd_with_a_new_key() {
    kill_at_requests(true, Door::Keyd, Side::Before, 0, 3);
}

#[test]
fn power_loss_after_requests_to_keyd_with_a_new_key() {
    kill_at_requests(true, Door::Keyd, Side::After, 1, 3);
}

#[test]
fn power_loss_before_requests_to_certd_with_a_new_key() {
    kill_at_requests(true, Door::Certd, Side::Before, 0, 1);
}

#[test]
fn power_loss_after_requests_to_certd_with_a_new_key() {
    kill_at_requests(true, Door::Certd, Side::After, 0, 1);
}

#[test]
fn power_loss_before_requests_to_certd_with_the_same_key() {
    kill_at_requests(false, Door::Certd, Side::Before, 0, 1);
}

#[test]
fn power_loss_at_requests_to_keyd_with_the_same_key() {
    kill_at_requests(false, Door::Keyd, Side::Before, 0, 8);
    kill_at_requests(false, Door::Keyd, Side::After, 4, 8);
}

/// Kills identityd at every `step`th request to keyd, on either side in turn, while `who` gives nobody a place who shows a
/// new certificate.
fn kill_while_refused(who: Judge, rotate_key: bool, step: usize) {
    let mut device = Device::new(rotate_key);
    let (old, old_key) = (device.identity(), device.key());
    let (operation, status) = match who {
        Judge::Dps => ("dps.register", 401),
        // With 401 it would be asked again for most of a minute, and 404 means that it does not know the device.
        Judge::Hub => ("hub.list", 400),
    };
    let refuse = json!({ "match": { "operation": operation }, "action": { "status": status } });
    for (number, side) in
        (0..).step_by(step).flat_map(|at| [(at, Side::Before), (at + step / 2, Side::After)])
    {
        admin(&device.sim, "POST", "/faults", &refuse);
        let reached = device.crash_at(Door::Keyd, number, side);
        device.recover();
        admin(&device.sim, "DELETE", "/faults", &Value::Null);
        let story = format!("{who:?} refuses, killed {side:?} {number}, {reached:?}");
        let log = device.identityd.log();
        assert!(log.contains("is refused, the old one stays"), "{story}: {log}");
        assert!(device.identity() == old && device.key() == old_key, "{story}: the old pair stays");
        device.check_rest(&story);
        device.check_pair(&story);
        if reached.is_none() {
            break;
        }
    }
}

/// Who must accept a new certificate.
#[derive(Debug, Clone, Copy)]
enum Judge {
    Dps,
    Hub,
}

#[test]
fn power_loss_while_dps_refuses() {
    for rotate_key in [true, false] {
        kill_while_refused(Judge::Dps, rotate_key, 6);
    }
}

#[test]
fn power_loss_while_the_hub_refuses() {
    kill_while_refused(Judge::Hub, true, 12);
}

#[test]
#[ignore = "takes half an hour: `make test-weather`"]
fn power_loss_at_every_request() {
    for (rotate_key, door) in
        [(true, Door::Keyd), (false, Door::Keyd), (true, Door::Certd), (false, Door::Certd)]
    {
        for side in [Side::Before, Side::After] {
            kill_at_requests(rotate_key, door, side, 0, 1);
        }
    }
    for (judge, rotate_key) in
        [(Judge::Dps, true), (Judge::Dps, false), (Judge::Hub, true), (Judge::Hub, false)]
    {
        kill_while_refused(judge, rotate_key, 1);
    }
}

#[test]
fn identity_69_70_one_renewal_from_outside() {
    let mut device = Device::new(true);
    let keys = |device: &Device| device.gate(Door::Keyd).seen();
    device.identityd.kill();
    device.gates.iter().for_each(|gate| gate.stop_at(None));
    admin(&device.sim, "DELETE", "/log", &Value::Null);
    device.recover();
    let certificates: Vec<_> =
        device.gate(Door::Certd).seen().into_iter().filter(|request| !request.starts_with("GET")).collect();
    let expected =
        ["POST /certificates", "DELETE /certificates/device-id-temp", "PUT /certificates/device-id"];
    assert_eq!(certificates, expected);
    assert_eq!(keys(&device).iter().filter(|request| *request == "POST /keypair/device-id").count(), 1);
    let new = device.identity().digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let new: String = new.iter().map(|byte| format!("{byte:02x}")).collect();
    let log = admin(&device.sim, "GET", "/log", &Value::Null);
    for operation in ["dps.register", "hub.list"] {
        let shown = |entry: &&Value| {
            let shown = entry["client_certificate"].to_string().to_lowercase().replace(':', "");
            entry["operation"] == operation && shown.contains(&new)
        };
        assert!(log["entries"].as_array().unwrap().iter().any(|entry| shown(&entry)), "{operation}: {new}");
    }
    let identity = device.identityd.client().post("/identities/device", &json!({ "type": "aziot" }));
    assert_eq!(identity.expect(200).json()["spec"]["auth"]["certId"], "device-id");
}

#[test]
fn identity_71_72_a_failure_is_repeated_and_disturbs_nobody() {
    let mut device = Device::with(true, 400, "1%");
    device.identityd.kill();
    let away =
        json!({ "match": { "operation": "dps.register" }, "action": { "status": 503, "retry_after": 1 } });
    admin(&device.sim, "POST", "/faults", &away);
    device.identityd.restart();
    let own = |device: &Device| {
        let reply = device.identityd.client().post("/identities/device", &json!({ "type": "aziot" }));
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    own(&device);
    device.wait_for_the_end();
    let old = device.identity();
    own(&device);
    let reply = device.identityd.client().request("POST", "/identities/device/reprovision", None);
    assert_eq!(reply.status, 404, "it is refused, but it does not hang: {reply:?}");
    assert!(device.identity() == old);
    own(&device);
    admin(&device.sim, "DELETE", "/faults", &Value::Null);
    wait_for("the next attempt", PATIENCE, || device.identityd.log().contains("was renewed").then_some(()));
    device.check_pair("renewed");
}

#[test]
fn a_device_without_dps_renews_its_certificate_too() {
    let mut device = Device::manual();
    let (old, old_key) = (device.identity(), device.key());
    assert!(device.identityd.log().contains("was renewed"), "{}", device.identityd.log());
    device.check_pair("renewed");
    // A hub that does not take it.
    let refuse = json!({ "match": { "operation": "hub.list" }, "action": { "status": 401 } });
    device.identityd.kill();
    admin(&device.sim, "POST", "/faults", &refuse);
    device.recover();
    assert!(device.identityd.log().contains("is refused, the old one stays"), "{}", device.identityd.log());
    assert!(device.identity() == old && device.key() == old_key);
    admin(&device.sim, "DELETE", "/faults", &Value::Null);
    device.check_rest("refused");
    device.identityd.kill();
    device.recover();
    assert!(device.identity() != old && device.key() != old_key);
    device.check_pair("renewed again");
}

#[test]
fn modules_have_nothing_to_do_with_it() {
    let mut device = Device::new(true);
    let module = |device: &Device| {
        let client = device.identityd.client();
        let reply = client.get("/identities/modules/telemetry?type=aziot");
        reply.expect(200).json()["spec"]["genId"].clone()
    };
    let body = json!({ "type": "aziot", "moduleId": "telemetry" });
    device.identityd.client().post("/identities/modules", &body).expect(200);
    let generation = module(&device);
    let old = device.identity();
    device.identityd.kill();
    device.recover();
    assert!(device.identity() != old && device.identityd.log().contains("was renewed"));
    assert_eq!(module(&device), generation);
}

/// Somebody decides on each request by hand: identityd asks for one certificate, with one key, however often.
#[test]
fn a_device_whose_first_certificate_takes_time_asks_for_one_only() {
    let mut device = Device::new(true);
    device.identityd.kill();
    assert_eq!(device.certd.client().delete("/certificates/device-id", None).status, 204);
    let client = device.keyd.client();
    let handle = json!({ "keyHandle": client.load_pair("device-id") });
    assert_eq!(client.delete("/keypair", Some(&handle)).status, 204);
    admin(&device.sim, "PUT", "/est/labels/default", &label(LIFE, 3));
    let before = device.issued();
    for _ in 0..3 {
        device.identityd.restart();
        wait_for("the answer that it is not decided", PATIENCE, || {
            device.identityd.log().contains("has not decided").then_some(())
        });
        assert_eq!(device.issued(), before);
        device.identityd.kill();
        device.certd.restart();
    }
    device.identityd.restart();
    wait_for("the certificate", PATIENCE, || (device.issued() > before).then_some(()));
    wait_for("the device to be let in", PATIENCE, || {
        let reply = device.identityd.client().post("/identities/device", &json!({ "type": "aziot" }));
        (reply.status == 200).then_some(())
    });
    assert_eq!(device.issued(), before + 1);
    admin(&device.sim, "PUT", "/est/labels/default", &label(LIFE, 0));
    device.wait_for_the_end();
    device.check_pair("with its first certificate");
}

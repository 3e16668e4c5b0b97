//! A site whose certd has an EST identity that is due, and always will be: EST's certificates are made to be so. Knows the
//! simulator by its admin interface.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cloud_sim::{Options, Sim};
use openssl::{pkey::PKey, x509::X509};
use serde_json::{Value, json};
use suite_tests::{
    harness::{CERTD, Daemon, KEYD, Setup},
    http::wait_for,
    keys::{Keys as _, key_file},
};

use crate::gate::{Gate, Side};

/// EST server, keyd, certd, and the gate between the two.
pub(crate) struct Site {
    pub(crate) sim: Sim,
    pub(crate) keyd: Daemon,
    pub(crate) certd: Daemon,
    pub(crate) gate: Gate,
}

/// What certd has around it.
pub(crate) struct Way<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) keyd: &'a Daemon,
    pub(crate) gate: &'a Gate,
}

impl Way<'_> {
    /// Lets everybody read the simulator's certificates.
    pub(crate) fn open_directory(&self) {
        let ca = &self.sim.ready().ca;
        for (path, mode) in [(ca.parent().unwrap(), 0o755), (ca.as_path(), 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

pub(crate) fn principal(uid: u32, keys: &[&str]) -> String {
    format!("[[principal]]\nuid = {uid}\nkeys = {}\n", json!(keys))
}

pub(crate) const PRINCIPAL: &str = "40-principal.toml";
/// How long one renewal may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Nine tenths of their life are over when they are made.
pub(crate) const LIFE: i64 = 40_000;
pub(crate) const OVER: i64 = 36_000;

impl Site {
    /// Its identity has the common name `device` and a key on P-256.
    pub(crate) fn new(settings: &str) -> Site {
        let site = Site::without_identity(settings);
        site.give("est-id", LIFE, OVER);
        site
    }

    /// The same before it has one.
    pub(crate) fn without_identity(settings: &str) -> Site {
        Site::start(settings, Setup::new(&KEYD), |keyd, certd| certd.reach(&KEYD, &keyd.gate.socket()))
    }

    /// The same with certd as the user `uid`, which keyd lets use the `keys`. There is no gate. Needs root.
    pub(crate) fn as_user(settings: &str, uid: u32, keys: &[&str]) -> Site {
        let keyd = Setup::new(&KEYD).drop_in(PRINCIPAL, &principal(uid, keys));
        Site::start(settings, keyd, |way, certd| {
            drop(way.keyd.as_uid(uid));
            way.open_directory();
            certd.reach(&KEYD, way.keyd.setup().socket_path()).as_user(uid)
        })
    }

    /// The same with an identity whose key is a file of the administrator's.
    pub(crate) fn with_preloaded_key(settings: &str) -> Site {
        let keyd = Setup::new(&KEYD);
        let file = keyd.directory().join("preloaded.pem");
        let keyd = keyd.config(&format!("[preloaded_keys]\nest-id = 'file://{}'\n", file.display()));
        let site = Site::start(settings, keyd, |way, certd| certd.reach(&KEYD, &way.gate.socket()));
        site.give_in(&file, "est-id", LIFE, OVER);
        site
    }

    /// From now on the identity is in a file that only the administrator may write.
    pub(crate) fn preload(&mut self, life: i64, over: i64) -> PathBuf {
        let made = self.make(&key_file(&self.keyd.home(), "est-id"), life, over);
        let file = protected(&self.sim, &made);
        self.certd.kill();
        self.certd.write_drop_in("50.toml", &preloaded("est-id", &file));
        self.certd.restart();
        file
    }

    fn start(settings: &str, keyd: Setup, reach: impl FnOnce(&Way<'_>, Setup) -> Setup) -> Site {
        let sim = Sim::start(Options { est: Some(0), ..Options::default() }).unwrap();
        admin(&sim, "PUT", "/est/labels/default", &label(0, &Value::Null));
        let keyd = keyd.start();
        let gate = Gate::new(keyd.setup().socket_path());
        let config = format!(
            "[preloaded_certs]\nroot = 'file://{}'\n[cert_issuance.press]\nmethod = 'est'\n[cert_issuance.est]\n\
             trusted_certs = ['root']\nidentity_cert = 'est-id'\nidentity_pk = 'est-id'\n{settings}\n\
             [cert_issuance.est.urls]\ndefault = '{}'\n",
            sim.ready().ca.display(),
            sim.ready().est.as_ref().unwrap()
        );
        let way = Way { sim: &sim, keyd: &keyd, gate: &gate };
        let certd = reach(&way, Setup::new(&CERTD).config(&config)).start();
        Site { sim, keyd, certd, gate }
    }

    /// From now on keyd lets the user `uid` use the `keys`.
    pub(crate) fn allow(&self, uid: u32, keys: &[&str]) {
        self.keyd.write_drop_in(PRINCIPAL, &principal(uid, keys));
    }

    /// A certificate that began `over` seconds ago, for `life` seconds, and its key.
    pub(crate) fn give(&self, id: &str, life: i64, over: i64) {
        self.give_in(&key_file(&self.keyd.home(), id), id, life, over);
    }

    fn give_in(&self, file: &Path, id: &str, life: i64, over: i64) {
        self.import(id, &self.make(file, life, over));
    }

    /// The same with the key in a file; the certificate is in nobody's hands.
    fn make(&self, file: &Path, life: i64, over: i64) -> String {
        let order = json!({ "common_name": "device", "validity_secs": life, "from_secs": -over });
        let made = admin(&self.sim, "POST", "/issue", &order);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text("private_key")).unwrap();
        text("chain")
    }

    pub(crate) fn import(&self, id: &str, pem: &str) {
        self.certd.client().put(&format!("/certificates/{id}"), &json!({ "pem": pem })).expect(201);
    }

    /// Wait until the log says so.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        self.certd.wait_for_log(PATIENCE, |line| line.contains(text));
    }

    /// Start certd, which renews, until `is_reached`; kill it then. What was reached; none if the renewal ended before.
    pub(crate) fn crash<T>(&mut self, is_reached: impl Fn(&Site) -> Option<T>) -> Option<T> {
        self.certd.kill();
        self.certd.restart();
        let reached = wait_for("a step or the end of a renewal", PATIENCE, || {
            let reached = is_reached(self);
            (reached.is_some() || self.has_ended()).then_some(reached)
        });
        self.certd.kill();
        reached
    }

    /// The same at a request to keyd.
    pub(crate) fn crash_at(&mut self, number: usize, side: Side) -> Option<String> {
        self.certd.kill();
        self.gate.stop_at(Some((number, side)));
        let reached = self.crash(|site| site.gate.stopped());
        self.gate.stop_at(None);
        reached
    }

    /// Start certd again, and let it come to an end.
    pub(crate) fn recover(&mut self) {
        self.certd.restart();
        wait_for("the end of a renewal", PATIENCE, || self.has_ended().then_some(()));
    }

    fn has_ended(&self) -> bool {
        let log = self.certd.log();
        ["was renewed", "was not renewed"].iter().any(|end| log.contains(end))
    }

    /// The identity in place.
    pub(crate) fn identity(&self) -> X509 {
        let pem = self.certd.client().get("/certificates/est-id").expect(200).string("pem");
        X509::from_pem(pem.as_bytes()).unwrap()
    }

    /// The key in place, in PEM.
    pub(crate) fn key(&self) -> Vec<u8> {
        let client = self.keyd.client();
        client.public_key(&client.load_pair("est-id"))
    }

    /// The file with the key in place, unless it is preloaded.
    pub(crate) fn key_file(&self) -> PathBuf {
        key_file(&self.keyd.home(), "est-id")
    }

    /// Certificate and key belong together, and EST lets the device in with them: there is no other way in.
    #[track_caller]
    pub(crate) fn check_pair(&self, story: &str) {
        let key = PKey::public_key_from_pem(&self.key()).unwrap();
        let identity = self.identity();
        assert!(identity.public_key().unwrap().public_eq(&key), "{story}: key and certificate differ");
        self.check_use(story);
    }

    /// EST lets the device in, and certificate and key of the identity belong together then.
    #[track_caller]
    pub(crate) fn check_pair_after_use(&self, story: &str) {
        self.check_use(story);
        self.check_pair(story);
    }

    #[track_caller]
    fn check_use(&self, story: &str) {
        let request = super::csr();
        let body = json!({ "certId": "press", "csr": request });
        let reply = self.certd.client().post("/certificates", &body);
        assert_eq!(reply.status, 201, "{story}: the device is locked out: {}", self.certd.log());
    }

    /// Nothing is left of the renewal.
    #[track_caller]
    pub(crate) fn check_rest(&self, story: &str) {
        assert!(self.journals().is_empty(), "{story}: {:?}", self.journals());
        assert!(!self.has_temporary_key(), "{story}: the temporary key is left");
    }

    #[track_caller]
    pub(crate) fn check_journal(&self) {
        assert_eq!(self.journals().len(), 1, "{:?}", self.journals());
    }

    pub(crate) fn has_temporary_key(&self) -> bool {
        self.keyd.client().get("/keypair/est-id-temp").status == 200
    }

    pub(crate) fn journals(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.certd.home().join("renewal")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// From now on the server decides on a request when it has answered it 202 so many `times`, with this `Retry-After`.
    pub(crate) fn decide_after(&self, times: u32, retry_after: &Value) {
        admin(&self.sim, "PUT", "/est/labels/default", &label(times, retry_after));
    }

    /// The certificates that the server has issued.
    pub(crate) fn issued(&self) -> usize {
        let est = admin(&self.sim, "GET", "/est", &Value::Null);
        est["issued"].as_array().unwrap().len()
    }

    /// Strike requests of `operation` with `action`, after `skip` of them.
    pub(crate) fn fault(&self, operation: &str, skip: u64, action: &Value) {
        let rule = json!({ "match": { "operation": operation }, "skip": skip, "action": action });
        admin(&self.sim, "POST", "/faults", &rule);
    }

    pub(crate) fn heal(&self) {
        admin(&self.sim, "DELETE", "/faults", &Value::Null);
    }

    /// How many requests of `operation` there were so far.
    pub(crate) fn count(&self, operation: &str) -> usize {
        let log = admin(&self.sim, "GET", "/log", &Value::Null);
        log["entries"].as_array().unwrap().iter().filter(|entry| entry["operation"] == operation).count()
    }

    pub(crate) fn forget_requests(&self) {
        admin(&self.sim, "DELETE", "/log", &Value::Null);
    }
}

/// A file with `pem` that everybody may read, and only we may write.
pub(crate) fn protected(sim: &Sim, pem: &str) -> PathBuf {
    let file = sim.ready().ca.with_file_name("preloaded.pem");
    fs::write(&file, pem).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    file
}

/// certd's table that says so.
pub(crate) fn preloaded(id: &str, file: &Path) -> String {
    format!("[preloaded_certs]\n{id} = 'file://{}'\n", file.display())
}

fn label(pending: u32, retry_after: &Value) -> Value {
    json!({ "authentication": "certificate", "protect_cacerts": true, "validity_secs": LIFE - OVER,
        "backdate_secs": OVER, "pending": pending, "retry_after": retry_after })
}

pub(crate) fn admin(sim: &Sim, method: &str, path: &str, body: &Value) -> Value {
    let (status, reply) = sim.admin(method, path, body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {reply}");
    reply
}

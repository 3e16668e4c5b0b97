//! The simulated cloud and a whole site: cloud, keyd, identityd. Knows the simulator by its command line and admin
//! interface, the daemons by their configuration.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use suite_tests::{
    harness::{Daemon, IDENTITYD, KEYD, Setup},
    http::{Client, base64, unbase64, wait_for},
    subject,
};
use tempfile::TempDir;

/// The device of all journeys.
pub(crate) const DEVICE: &str = "press-17";

/// A simulated cloud; it ends when dropped.
pub(crate) struct Cloud {
    child: Child,
    directory: TempDir,
    ready: Value,
}

/// One request as the cloud saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen(pub(crate) Value);

impl Cloud {
    pub(crate) fn start(args: &[&str]) -> Cloud {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(subject::program("aziot-cloud-sim"));
        command.arg("--dir").arg(directory.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let cloud = Cloud { child, directory, ready: serde_json::from_str(&line).unwrap() };
        cloud.settings(&json!({ "retry_after": 2, "assigning_polls": 0 }));
        cloud
    }

    /// Path of the certificate that vouches for the cloud.
    pub(crate) fn ca(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A member of the line that the simulator prints when it is ready.
    pub(crate) fn text(&self, name: &str) -> String {
        self.ready[name].as_str().unwrap().to_owned()
    }

    /// The name of a hub.
    pub(crate) fn hub(&self, number: usize) -> String {
        self.ready["hubs"][number].as_str().unwrap().to_owned()
    }

    /// The name of the gateway.
    pub(crate) fn gateway(&self) -> String {
        let gateway = &self.ready["gateways"][0];
        gateway.as_str().or_else(|| gateway["name"].as_str()).unwrap().to_owned()
    }

    /// A device at the first hub, with a key that the simulator makes; the key's bytes.
    pub(crate) fn add_device(&self) -> Vec<u8> {
        let device = self.admin("PUT", &format!("/devices/0/{DEVICE}"), &json!({}));
        unbase64(device["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap())
    }

    /// An individual enrolment for the first hub; the key's bytes.
    pub(crate) fn enroll(&self) -> Vec<u8> {
        let body = json!({ "attestation": { "type": "symmetricKey" }, "iotHubs": [self.hub(0)] });
        let enrolled = self.admin("PUT", &format!("/enrollments/{DEVICE}"), &body);
        unbase64(enrolled["attestation"]["symmetricKey"]["primaryKey"].as_str().unwrap())
    }

    pub(crate) fn settings(&self, changes: &Value) {
        self.admin("POST", "/settings", changes);
    }

    /// Strike requests of `operation` (`dps.register`, `hub.list`, or a service) with `action`.
    pub(crate) fn fault(&self, operation: &str, action: &Value, times: Option<u64>) {
        self.admin(
            "POST",
            "/faults",
            &json!({ "match": { "operation": operation }, "action": action, "times": times }),
        );
    }

    pub(crate) fn heal(&self) {
        self.admin("DELETE", "/faults", &Value::Null);
        self.admin("POST", "/accept", &json!({}));
    }

    /// Refuse connections, all of them.
    pub(crate) fn unplug(&self) {
        self.admin("POST", "/accept", &json!({ "refuse": true }));
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let log = self.admin("GET", "/log", &Value::Null);
        log["entries"].as_array().unwrap().iter().cloned().map(Seen).collect()
    }

    pub(crate) fn forget_requests(&self) {
        self.admin("DELETE", "/log", &Value::Null);
    }

    /// The operations so far, such as `dps.register hub.list`.
    pub(crate) fn operations(&self) -> String {
        self.seen().iter().map(Seen::operation).collect::<Vec<_>>().join(" ")
    }

    /// How many requests there were of `operation` so far.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.seen().iter().filter(|seen| seen.operation().starts_with(operation)).count()
    }

    /// The device's module `id` at the first hub, or null.
    pub(crate) fn module(&self, id: &str) -> Value {
        self.try_admin("GET", &module_path(id), &Value::Null).unwrap_or(Value::Null)
    }

    /// A module that somebody else makes.
    pub(crate) fn add_module(&self, id: &str) -> Value {
        self.admin("POST", &module_path(id), &json!({}))
    }

    /// Somebody else deletes a module.
    pub(crate) fn remove_module(&self, id: &str) {
        self.admin("DELETE", &module_path(id), &Value::Null);
    }

    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_admin(method, path, body).unwrap_or_else(|reply| panic!("{method} {path}: {reply}"))
    }

    fn try_admin(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let host = self.text("admin").replace("http://", "");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(&host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        match head.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(serde_json::from_str(body).unwrap_or(Value::Null)),
            _ => Err(reply),
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl Seen {
    pub(crate) fn operation(&self) -> &str {
        self.0["operation"].as_str().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.0["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).and_then(|header| header[1].as_str())
    }

    /// Method and target.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.0["method"].as_str().unwrap(), self.0["target"].as_str().unwrap())
    }

    /// Of HTTP.
    pub(crate) fn version(&self) -> &str {
        self.0["version"].as_str().unwrap()
    }

    pub(crate) fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap()
    }

    pub(crate) fn time_ms(&self) -> i64 {
        self.0["time_ms"].as_i64().unwrap()
    }
}

/// A cloud, a keyd with the device's key, and an identityd.
pub(crate) struct Site {
    pub(crate) identityd: Daemon,
    pub(crate) keyd: Daemon,
    pub(crate) cloud: Cloud,
    pub(crate) key: Vec<u8>,
}

impl Site {
    /// A device that knows its hub. `more` is further configuration.
    pub(crate) fn manual(more: &str) -> Site {
        let cloud = Cloud::start(&[]);
        let key = cloud.add_device();
        let config = manual(&cloud, more);
        Site::start(cloud, key, &config)
    }

    /// A device that asks DPS, and has not yet.
    pub(crate) fn dps(more: &str) -> Site {
        let cloud = Cloud::start(&["--hubs", "2"]);
        let key = cloud.enroll();
        let config = dps(&cloud, more);
        Site::start(cloud, key, &config)
    }

    /// The same, when it has.
    pub(crate) fn provisioned(more: &str) -> Site {
        let site = Site::dps(more);
        site.own().expect(200);
        site.wait_until_settled();
        site
    }

    pub(crate) fn start(cloud: Cloud, key: Vec<u8>, config: &str) -> Site {
        let keyd = keyd(&key);
        let identityd = identityd(&cloud, &keyd, config).start();
        Site { identityd, keyd, cloud, key }
    }

    /// Root's client of identityd.
    pub(crate) fn client(&self) -> Client {
        self.identityd.client().version("2022-08-01")
    }

    pub(crate) fn as_uid(&self, uid: u32) -> Client {
        self.identityd.as_uid(uid).version("2022-08-01")
    }

    /// The reply to `POST /identities/device`, which waits for provisioning.
    pub(crate) fn own(&self) -> suite_tests::http::Reply {
        self.client().post("/identities/device", &json!({ "type": "aziot" }))
    }

    pub(crate) fn module(&self, id: &str) -> suite_tests::http::Reply {
        self.client().get(&format!("/identities/modules/{id}?type=aziot"))
    }

    pub(crate) fn create(&self, id: &str) -> suite_tests::http::Reply {
        self.client().post("/identities/modules", &json!({ "type": "aziot", "moduleId": id }))
    }

    /// The names in the list.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.client().get("/identities/modules?type=aziot").expect(200).json();
        let names = list["identities"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            names.map(|identity| identity["spec"]["moduleId"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// Wait until the modules are in line, which `prev_state` says.
    #[track_caller]
    pub(crate) fn wait_until_settled(&self) {
        wait_for("prev_state", WAIT, || self.identityd.home().join("prev_state").exists().then_some(()));
    }

    /// The bytes of a file in the state directory.
    pub(crate) fn state(&self, name: &str) -> String {
        fs::read_to_string(self.identityd.home().join(name)).unwrap()
    }
}

/// A keyd that has the device's key as `device-id`.
pub(crate) fn keyd(key: &[u8]) -> Daemon {
    let setup = Setup::new(&KEYD);
    let file = setup.directory().join("device-key");
    fs::write(&file, key).unwrap();
    setup
        .drop_in("10-key.toml", &format!("[preloaded_keys]\ndevice-id = 'file://{}'\n", file.display()))
        .start()
}

/// An identityd that can reach both.
pub(crate) fn identityd(cloud: &Cloud, keyd: &Daemon, config: &str) -> Setup {
    let setup = Setup::new(&IDENTITYD).env("SSL_CERT_FILE", cloud.ca());
    setup.reach(&KEYD, keyd.setup().socket_path()).config(config)
}

/// The configuration of a device that knows its hub. `more` may begin with settings of `[provisioning]`.
pub(crate) fn manual(cloud: &Cloud, more: &str) -> String {
    let hub = cloud.hub(0);
    format!(
        "hostname = 'device'\n[provisioning]\nsource = 'manual'\niothub_hostname = '{hub}'\ndevice_id = '{DEVICE}'\n\
         authentication = {{ method = 'sas', device_id_pk = 'device-id' }}\n{more}"
    )
}

/// The configuration of a device that asks DPS. `more` may begin with settings of `[provisioning]`.
pub(crate) fn dps(cloud: &Cloud, more: &str) -> String {
    let (endpoint, scope) = (cloud.text("dps"), cloud.text("scope"));
    format!(
        "hostname = 'device'\n[provisioning]\nsource = 'dps'\nglobal_endpoint = '{endpoint}'\nscope_id = '{scope}'\n\
         attestation = {{ method = 'symmetric_key', registration_id = '{DEVICE}', symmetric_key = 'device-id' }}\n{more}"
    )
}

/// A principal in TOML.
pub(crate) fn principal(uid: u32, name: &str, idtype: &str) -> String {
    let idtype = if idtype.is_empty() { String::new() } else { format!("idtype = {idtype}\n") };
    format!("[[principal]]\nuid = {uid}\nname = '{name}'\n{idtype}")
}

/// A file of the module records, as upstream names it.
pub(crate) fn record_path(home: &Path, hub: &str, id: &str) -> std::path::PathBuf {
    use suite_tests::openssl::{hex, sha256};
    let hash = |text: &str| hex(&sha256(text.as_bytes()));
    let readable: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    home.join("modules")
        .join(format!("{}-{}", hash(hub), hash(DEVICE)))
        .join(format!("{readable}-{}", hash(id)))
}

/// A pipe that nobody writes into.
pub(crate) fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// HMAC-SHA256 in base64.
pub(crate) fn hmac64(key: &[u8], data: &str) -> String {
    base64(suite_tests::openssl::hmac(key, data.as_bytes()))
}

fn module_path(id: &str) -> String {
    format!("/devices/0/{DEVICE}/modules/{}", suite_tests::keys::segment(id))
}

/// How long something in the background may take: a generous bound, not a measure.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

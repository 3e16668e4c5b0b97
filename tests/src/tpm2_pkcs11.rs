//! A PKCS #11 token in a TPM: tpm2-pkcs11 over tpm2-abrmd, the resource manager, on a software TPM. Does not know who
//! uses it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{harness::Setup, http::wait_for, swtpm::Swtpm};

/// The token with all that it needs; everything ends with it.
#[derive(Debug)]
pub struct TpmToken {
    directory: TempDir,
    /// In the order in which they must end.
    processes: Vec<Child>,
    _swtpm: Swtpm,
}

impl TpmToken {
    /// A new token.
    #[track_caller]
    pub fn new() -> TpmToken {
        let directory =
            tempfile::Builder::new().prefix("tpm-").tempdir().expect("there is room in the temp directory");
        let mut token = TpmToken { directory, processes: Vec::new(), _swtpm: Swtpm::start() };
        token.start_bus();
        token.start_resource_manager();
        fs::create_dir(token.store()).expect("the directory is ours");
        let store = token.store();
        let path = store.to_str().expect("our paths are UTF-8");
        token.ptool(&["init", "--path", path]);
        let pins = ["--sopin", "987654", "--userpin", "4711"];
        token.ptool(
            &[["addtoken", "--pid", "1", "--label", "tpm", "--path", path].as_slice(), &pins].concat(),
        );
        token
    }

    /// `setup` with this token for new keys.
    pub fn base_slot(&self, setup: Setup) -> Setup {
        let toml = format!(
            "[aziot_keys]\npkcs11_lib_path = '{}'\npkcs11_base_slot = 'pkcs11:token=tpm?pin-value=4711'\n",
            library().display()
        );
        let setup = setup.drop_in("20-tpm2-pkcs11.toml", &toml).env("TPM2_PKCS11_STORE", self.store());
        setup.env("TPM2_PKCS11_TCTI", TCTI).env("DBUS_SESSION_BUS_ADDRESS", self.bus_address())
    }

    /// `setup` with the TPM itself for new keys, behind the resource manager.
    pub fn without_token(&self, setup: Setup) -> Setup {
        let setup = setup.drop_in("20-tpm.toml", &format!("[tpm]\ntcti = '{TCTI}'\nnew_keys = true\n"));
        setup.env("DBUS_SESSION_BUS_ADDRESS", self.bus_address())
    }

    fn start_bus(&mut self) {
        let config = self.directory.path().join("bus.conf");
        fs::write(&config, BUS.replace("ADDRESS", &self.bus_address())).expect("the directory is ours");
        let mut command = Command::new("dbus-daemon");
        self.start(command.arg("--config-file").arg(config).arg("--nofork"));
        let socket = self.bus_socket();
        wait_for("the bus", Duration::from_secs(30), || socket.exists().then_some(()));
    }

    fn start_resource_manager(&mut self) {
        let tcti = format!("--tcti={}", self._swtpm.tcti());
        let mut command = Command::new("tpm2-abrmd");
        command.args(["--session", "--allow-root", &tcti]);
        let command = command.env("DBUS_SESSION_BUS_ADDRESS", self.bus_address());
        self.start(command);
        wait_for("the resource manager", Duration::from_secs(30), || {
            self.tool("tpm2_getcap", &["properties-fixed"]).ok()
        });
    }

    fn start(&mut self, command: &mut Command) {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}, see `make setup`"));
        self.processes.insert(0, child);
    }

    #[track_caller]
    fn ptool(&self, args: &[&str]) {
        self.tool("tpm2_ptool", args).unwrap_or_else(|error| panic!("tpm2_ptool {args:?}: {error}"));
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(args).env("TPM2TOOLS_TCTI", TCTI).env("DBUS_SESSION_BUS_ADDRESS", self.bus_address());
        let output = command.output().expect("tpm2-tools and tpm2_ptool are installed, see `make setup`");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    fn bus_socket(&self) -> PathBuf {
        self.path().join("bus.sock")
    }

    fn bus_address(&self) -> String {
        format!("unix:path={}", self.bus_socket().display())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Default for TpmToken {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TpmToken {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill(); // it may have ended
            let _ = process.wait();
        }
    }
}

/// The library, which lies below the name of the architecture.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("there are libraries").filter_map(Result::ok);
    let mut places = places.map(|entry| entry.path().join("pkcs11/libtpm2_pkcs11.so"));
    places.find(|path| path.exists()).expect("tpm2-pkcs11 is installed, see `make setup`")
}

const TCTI: &str = "tabrmd:bus_type=session";

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>ADDRESS</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"#;

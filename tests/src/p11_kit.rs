//! A PKCS #11 token behind a process of its own (`p11-kit server`), which can be killed, stopped and started again. Does
//! not know who uses it.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    harness::Setup,
    http::wait_for,
    softhsm::{LABEL, SoftHsm},
};

/// A token of SoftHSM2 that is reached through a server.
#[derive(Debug)]
pub struct RemoteToken {
    softhsm: SoftHsm,
    server: Option<Child>,
}

impl RemoteToken {
    /// A token that can be reached.
    #[track_caller]
    pub fn new() -> RemoteToken {
        let mut token = RemoteToken { softhsm: SoftHsm::new(), server: None };
        token.plug_in();
        token
    }

    /// `setup` with the token for new keys.
    pub fn base_slot(&self, setup: Setup) -> Setup {
        let toml = format!(
            "[aziot_keys]\npkcs11_lib_path = '{}'\npkcs11_base_slot = '{}'\n",
            library().display(),
            SoftHsm::uri(LABEL)
        );
        let address = format!("unix:path={}", self.socket().display());
        setup.drop_in("20-remote-token.toml", &toml).env("P11_KIT_SERVER_ADDRESS", address)
    }

    /// Start the server.
    #[track_caller]
    pub fn plug_in(&mut self) {
        let mut command = Command::new("p11-kit");
        command.args(["server", "-f", "--provider", SoftHsm::library(), "--name"]).arg(self.socket());
        command.arg(format!("pkcs11:token={LABEL}")).env("SOFTHSM2_CONF", self.softhsm.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Each connection has a process of its own.
        self.server = Some(command.process_group(0).spawn().expect("p11-kit is installed, see `make setup`"));
        wait_for("the server of the token", Duration::from_secs(30), || self.socket().exists().then_some(()));
    }

    /// Kill the server (SIGKILL), as if the token was pulled out.
    pub fn pull_out(&mut self) {
        if self.server.is_some() {
            self.signal(Signal::KILL);
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Let the token hang, or go on.
    pub fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("it runs");
        let group = Pid::from_raw(server.id().cast_signed()).expect("a child has a pid");
        kill_process_group(group, signal).expect("it runs");
    }

    fn socket(&self) -> PathBuf {
        self.softhsm.config().with_file_name("token.sock")
    }
}

impl Default for RemoteToken {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for RemoteToken {
    fn drop(&mut self) {
        self.pull_out();
    }
}

/// The library that talks to the server; it lies below the name of the architecture.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("there are libraries").filter_map(Result::ok);
    let mut places = places.map(|entry| entry.path().join("pkcs11/p11-kit-client.so"));
    places.find(|path| path.exists()).expect("p11-kit is installed, see `make setup`")
}

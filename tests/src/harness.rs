//! A daemon in a directory of its own: configure, start, watch, stop. Does not know what the daemon serves.
//!
//! [`Setup`] describes a daemon that could run, [`Daemon`] is one that runs. The directory holds `config.toml`,
//! `config.d/`, the socket and `home/`; it is deleted with its last owner.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use crate::{
    http::{Client, wait_for},
    process::Process,
    subject,
};

/// What distinguishes one daemon from another for the harness.
#[derive(Debug)]
pub struct Service {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the variable with the path of its main file; with `_DIR`, that of the drop-in directory.
    pub variable: &'static str,
    /// Its name in `[endpoints]`.
    pub endpoint: &'static str,
    /// The file name of its default socket in `/run/aziot`.
    pub socket: &'static str,
    /// The setting, as TOML, that makes the given directory its state directory.
    pub home: fn(&str) -> String,
}

/// The keys service.
pub const KEYD: Service = Service {
    program: "aziot-keyd",
    variable: "AZIOT_KEYD_CONFIG",
    endpoint: "aziot_keyd",
    socket: "keyd.sock",
    home: |directory| format!("[aziot_keys]\nhomedir_path = '{directory}'\n"),
};

/// The certificates service.
pub const CERTD: Service = Service {
    program: "aziot-certd",
    variable: "AZIOT_CERTD_CONFIG",
    endpoint: "aziot_certd",
    socket: "certd.sock",
    home: |directory| format!("homedir_path = '{directory}'\n"),
};

/// The identity service.
pub const IDENTITYD: Service = Service {
    program: "aziot-identityd",
    variable: "AZIOT_IDENTITYD_CONFIG",
    endpoint: "aziot_identityd",
    socket: "identityd.sock",
    home: |directory| format!("homedir = '{directory}'\n"),
};

/// The TPM service, which has no state directory.
pub const TPMD: Service = Service {
    program: "aziot-tpmd",
    variable: "AZIOT_TPMD_CONFIG",
    endpoint: "aziot_tpmd",
    socket: "tpmd.sock",
    home: |_| String::new(),
};

/// The longest time a daemon may need to start or stop: a generous bound, not a measure.
pub const BOUND: Duration = Duration::from_secs(30);

/// A daemon that could run.
#[derive(Debug)]
pub struct Setup {
    service: &'static Service,
    directory: TempDir,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    inherited: Vec<OwnedFd>,
    socket: PathBuf,
}

/// A daemon that runs; it is killed when dropped, and its log shown if the journey failed.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    process: Process,
}

/// How a process ended that was not expected to serve.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it wrote to standard error.
    pub log: String,
}

/// Let this process, and the daemons it starts from now on, have as many descriptors as the system lets them.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    raised.expect("up to the hard limit anybody may");
}

impl Setup {
    /// The daemon `service` with its own socket and state directory, set in `config.d/00-harness.toml`, and no other
    /// configuration.
    pub fn new(service: &'static Service) -> Setup {
        let setup = Setup::bare(service);
        let (home, socket) = (setup.home(), setup.socket.clone());
        fs::create_dir(&home).expect("the directory is ours");
        fs::create_dir(setup.drop_in_directory()).expect("the directory is ours");
        let settings = (service.home)(home.to_str().expect("our paths are UTF-8"));
        setup.drop_in("00-harness.toml", &settings).reach(service, &socket)
    }

    /// The daemon `service` without any configuration file; the socket it would make by itself is the default one.
    pub fn bare(service: &'static Service) -> Setup {
        let directory =
            tempfile::Builder::new().prefix("aziot-").tempdir().expect("there is room in the temp directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");
        let socket = directory.path().join(service.socket);
        Setup { service, directory, environment: vec![], wrapper: vec![], inherited: vec![], socket }
    }

    /// Set the main file.
    pub fn config(self, toml: &str) -> Setup {
        fs::write(self.main_file(), toml).expect("the directory is ours");
        self
    }

    /// Add a file to the drop-in directory.
    pub fn drop_in(self, name: &str, toml: &str) -> Setup {
        fs::write(self.drop_in_directory().join(name), toml).expect("the directory is ours");
        self
    }

    /// Tell the daemon where `service` is (itself or another one), in a drop-in file of its own.
    pub fn reach(self, service: &Service, socket: &Path) -> Setup {
        let toml = format!("[endpoints]\n{} = 'unix://{}'\n", service.endpoint, socket.display());
        self.drop_in(&format!("01-{}.toml", service.endpoint), &toml)
    }

    /// Set an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Start through a command that ends in an exec of its last arguments, such as `["prlimit", "--nofile=64"]`.
    pub fn wrapper<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Setup {
        self.wrapper = words.into_iter().map(Into::into).collect();
        self
    }

    /// Start as the user `uid`, whom the directory is given. Needs root, and no other wrapper.
    pub fn as_user(self, uid: u32) -> Setup {
        let (main, drop_ins) = (self.main_file(), self.drop_in_directory());
        for path in [self.directory().to_owned(), self.home(), main, drop_ins] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("we are root");
        }
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        self.wrapper(["setpriv".to_owned()].into_iter().chain(ids).chain(["--clear-groups".to_owned()]))
    }

    /// Let the daemon inherit `listeners` (at most two) as systemd would pass them. `LISTEN_PID` is set to `pid` (a
    /// shell word, `$$` is the daemon's own) and `LISTEN_FDS` to `count`.
    pub fn inherit(mut self, listeners: Vec<OwnedFd>, pid: &str, count: &str) -> Setup {
        assert!(listeners.len() <= 2, "the harness hands over two descriptors at most");
        let script = match listeners.len() {
            0 => "",
            1 => "exec 3<&0 0</dev/null;",
            _ => "exec 3<&0 4<&1 0</dev/null 1>&2;",
        };
        let script = format!(
            "{script} LISTEN_PID={pid} LISTEN_FDS={count}; export LISTEN_PID LISTEN_FDS; exec \"$0\""
        );
        self.inherited = listeners;
        self.wrapper(["sh", "-c", &script])
    }

    /// Expect the socket there instead of in the directory.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Setup {
        self.socket = path.into();
        self
    }

    /// Start, and wait until connections are accepted.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut process = Process::start(self.command());
        process.wait_until_serving(&self.socket);
        Daemon { setup: self, process }
    }

    /// Start, and wait until the process has ended by itself.
    #[track_caller]
    pub fn start_and_end(self) -> Ended {
        let mut process = Process::start(self.command());
        let status = process.wait_for_end(BOUND);
        Ended { status, log: process.all_log() }
    }

    /// Start, and wait for nothing: the journey knows better when it is ready. The daemon may also not come up.
    pub fn start_unwatched(self) -> Daemon {
        let process = Process::start(self.command());
        Daemon { setup: self, process }
    }

    /// The directory with everything.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The state directory.
    pub fn home(&self) -> PathBuf {
        self.directory().join("home")
    }

    /// The main configuration file.
    pub fn main_file(&self) -> PathBuf {
        self.directory().join("config.toml")
    }

    /// The drop-in directory.
    pub fn drop_in_directory(&self) -> PathBuf {
        self.directory().join("config.d")
    }

    /// The path of the socket.
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    fn command(&self) -> Command {
        let program = subject::program(self.service.program);
        let words = self.wrapper.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let words: Vec<&OsStr> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "AZIOT_LOG"] {
            command.env_remove(variable);
        }
        command.env(self.service.variable, self.main_file());
        command.env(format!("{}_DIR", self.service.variable), self.drop_in_directory());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut inherited = self.inherited.iter().map(|fd| fd.try_clone().expect("descriptors are left"));
        command.stdin(inherited.next().map_or(Stdio::null(), Stdio::from));
        command.stdout(inherited.next().map_or(Stdio::null(), Stdio::from));
        command.stderr(Stdio::piped());
        command
    }
}

impl Daemon {
    /// A client as the user that runs the test.
    pub fn client(&self) -> Client {
        Client::new(&self.setup.socket)
    }

    /// A client as the user `uid`, to whom the socket is opened first. Needs root.
    pub fn as_uid(&self, uid: u32) -> Client {
        fs::set_permissions(&self.setup.socket, fs::Permissions::from_mode(0o666))
            .expect("the socket is ours");
        self.client().as_uid(uid)
    }

    /// The description it was started from, with all paths.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The state directory.
    pub fn home(&self) -> PathBuf {
        self.setup.home()
    }

    /// Write a file into the drop-in directory, at once: it appears by a rename.
    pub fn write_drop_in(&self, name: &str, toml: &str) {
        let new = self.setup.directory().join("new-drop-in");
        fs::write(&new, toml).expect("the directory is ours");
        fs::rename(new, self.setup.drop_in_directory().join(name)).expect("the directory is ours");
    }

    /// Remove a file from the drop-in directory.
    pub fn remove_drop_in(&self, name: &str) {
        fs::remove_file(self.setup.drop_in_directory().join(name)).expect("the file was written before");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// How many file descriptors it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has one");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// What it has written to standard error since it was (re)started.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Wait until a line of the log satisfies `wanted`, and give that line.
    #[track_caller]
    pub fn wait_for_log(&self, bound: Duration, wanted: impl Fn(&str) -> bool) -> String {
        wait_for("a line in the log", bound, || {
            self.log().lines().find(|line| wanted(line)).map(str::to_owned)
        })
    }

    /// Wait until it has logged a line with `text`: what stands in its log may come later than its replies.
    #[track_caller]
    pub fn wait_until_logged(&self, text: &str) {
        self.wait_for_log(BOUND, |line| line.contains(text));
    }

    /// Send it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a child has a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// Ask it to end (SIGTERM), wait until it has, and give its status.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.wait_for_end(BOUND)
    }

    /// Wait until it has ended by itself.
    #[track_caller]
    pub fn wait_for_end(&mut self, bound: Duration) -> ExitStatus {
        self.process.wait_for_end(bound)
    }

    /// End it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Start it again with the same directory, after ending it if it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.is_running() {
            self.terminate();
        }
        self.process = Process::start(self.setup.command());
        self.process.wait_until_serving(&self.setup.socket);
    }

    /// Wait until connections are accepted.
    #[track_caller]
    pub fn wait_until_serving(&mut self) {
        self.process.wait_until_serving(&self.setup.socket);
    }

    /// Stop it and give the description back, to change it and start anew.
    #[track_caller]
    pub fn stop(mut self) -> Setup {
        self.terminate();
        let Daemon { setup, process } = self;
        drop(process);
        setup
    }
}

//! A keyd and the surroundings of a program that uses its keys: configuration, modules, certificates, servers.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use suite_tests::harness::{BOUND, Daemon, KEYD, Setup};
use suite_tests::http::wait_for;
use suite_tests::keys::Keys;
use tempfile::TempDir;

/// The kinds of keys that every journey is made with.
pub(crate) const KINDS: [&str; 2] = ["ec-p256", "rsa-2048"];
/// Whom keyd runs as when the journey is root's.
pub(crate) const KEYD_USER: u32 = 65534;

/// A running keyd with a key of each kind, under the kind's name, and files for programs.
pub(crate) struct World {
    pub(crate) keyd: Daemon,
    files: TempDir,
}

/// A program that is ended with its owner.
pub(crate) struct Running(pub(crate) Child);

impl World {
    /// The keys are in files.
    pub(crate) fn new() -> Self {
        Self::of(Setup::new(&KEYD))
    }

    /// The keys are where `setup` says.
    pub(crate) fn of(setup: Setup) -> Self {
        let setup = if is_root() { as_other_user(setup) } else { setup };
        let world = Self::with(setup.start());
        KINDS.iter().for_each(|kind| drop(world.keyd.client().create_pair(kind, kind)));
        world
    }

    /// The surroundings for this keyd.
    pub(crate) fn with(keyd: Daemon) -> Self {
        let files = TempDir::new().unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self { keyd, files };
        fs::create_dir(world.file("modules")).unwrap();
        fs::copy(provider_module(), world.file("modules/aziot.so")).unwrap();
        fs::write(world.file("openssl.cnf"), world.configuration("socket", &world.socket_uri())).unwrap();
        world
    }

    /// An openssl.cnf that activates the provider, with one setting in its section.
    pub(crate) fn configuration(&self, key: &str, value: &str) -> String {
        format!(
            "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = others\naziot = own\n\
             [others]\nactivate = 1\n[own]\nmodule = {}\nactivate = 1\n{key} = {value}\n\
             [req]\ndistinguished_name = name\n[name]\n",
            self.path("modules/aziot.so")
        )
    }

    pub(crate) fn socket_uri(&self) -> String {
        format!("unix://{}", self.keyd.setup().socket_path().display())
    }

    /// A place for a file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The same as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// A file with this content.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.file(name), content).unwrap();
        self.path(name)
    }

    /// A command that finds provider and engine.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("OPENSSL_CONF", self.file("openssl.cnf")).current_dir(self.files.path());
        command.env("OPENSSL_MODULES", self.file("modules"));
        command.env_remove("AZIOT_KEYD_SOCKET").stdin(Stdio::null());
        command
    }

    /// The openssl command with these words, separated by blanks; `{}` stands for `key`.
    pub(crate) fn openssl_command(&self, words: &str, key: &str) -> Command {
        let mut command = self.command(openssl_program());
        command.args(words.split_whitespace().map(|word| word.replace("{}", key)));
        command
    }

    /// What it writes; it must succeed.
    #[track_caller]
    pub(crate) fn openssl(&self, words: &str, key: &str) -> String {
        succeed(&mut self.openssl_command(words, key))
    }

    /// What it writes to standard error; it must fail.
    #[track_caller]
    pub(crate) fn openssl_fails(&self, words: &str, key: &str) -> String {
        let output = run(&mut self.openssl_command(words, key));
        assert!(!output.status.success(), "openssl {words} has succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A self-signed certificate for `localhost` of the key.
    pub(crate) fn certificate(&self, name: &str, key: &str) -> String {
        let file = self.path(name);
        self.openssl(
            &format!(
                "req -new -x509 -key {{}} -subj /CN=localhost -addext basicConstraints=critical,CA:TRUE \
                 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out {file}"
            ),
            key,
        );
        file
    }

    /// A file that refers to the key `id`, written by our tool.
    pub(crate) fn reference(&self, id: &str) -> String {
        let file = self.path(&format!("{id}.key"));
        succeed(key_ref(&self.socket_uri()).args(["--out", &file, id]));
        file
    }

    /// Runs `probe.c` with the openssl.cnf of this world.
    #[track_caller]
    pub(crate) fn probe(&self, words: &[&str]) -> String {
        succeed(self.command(probe()).args(words))
    }

    /// The same for commands that load the provider themselves, without any openssl.cnf.
    pub(crate) fn bare_probe(&self) -> Command {
        let mut command = self.command(probe());
        command.env("OPENSSL_CONF", "/dev/null").env("AZIOT_KEYD_SOCKET", self.socket_uri());
        command
    }
}

impl Running {
    /// Starts `command`, and waits until `port` accepts.
    #[track_caller]
    pub(crate) fn server(command: &mut Command, port: u16) -> Self {
        let mut running = Self(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        wait_for("the server to accept", BOUND, || {
            assert!(running.0.try_wait().unwrap().is_none(), "the server has ended: {}", running.errors());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        running
    }

    fn errors(&mut self) -> String {
        self.0.stderr.take().map(|stream| std::io::read_to_string(stream).unwrap()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// keyd as another user, in a directory of that user.
pub(crate) fn as_other_user(setup: Setup) -> Setup {
    for path in [setup.directory(), &setup.home()] {
        chown(path, Some(KEYD_USER), Some(KEYD_USER)).unwrap();
    }
    let user = format!("--reuid={KEYD_USER}");
    setup.wrapper(["setpriv", &user, &format!("--regid={KEYD_USER}"), "--clear-groups"])
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Our tool that writes key references.
pub(crate) fn key_ref(socket: &str) -> Command {
    let mut command = Command::new(built("aziot-key-ref"));
    command.args(["--socket", socket]);
    command
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What `command` writes to standard output; it must succeed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command`, which may not take longer than anything should.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let mut whole = Command::new("timeout");
    whole
        .args(["--kill-after=5", &longest().as_secs().to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        whole.current_dir(directory);
    }
    let output = whole.stdin(Stdio::null()).output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
    output
}

/// The openssl command under test.
pub(crate) fn openssl_program() -> String {
    env::var("AZIOT_OPENSSL").unwrap_or_else(|_| "openssl".into())
}

/// Whether there is an engine to test: the built module is empty where OpenSSL has no ENGINE, and a foreign OpenSSL has
/// no use for it.
pub(crate) fn has_engine() -> bool {
    static HAS_ENGINE: OnceLock<bool> = OnceLock::new();
    *HAS_ENGINE.get_or_init(|| {
        let symbols = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(engine_module()));
        env::var_os("AZIOT_OPENSSL").is_none() && symbols.contains(" bind_engine\n")
    })
}

/// `probe.c`, built.
pub(crate) fn probe() -> &'static Path {
    static PROBE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = PROBE.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = directory.path().join("probe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/probe.c");
        let flags = env::var("AZIOT_OPENSSL_FLAGS").unwrap_or_else(|_| "-lssl -lcrypto".into());
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-g", "-Wno-deprecated-declarations", source, "-o"]).arg(&program);
        succeed(compiler.args(flags.split_whitespace()).args(["-lpthread", "-ldl"]));
        (directory, program)
    });
    program
}

/// The provider under test.
pub(crate) fn provider_module() -> PathBuf {
    env::var_os("AZIOT_PROVIDER").map_or_else(|| built("libaziot.so"), PathBuf::from)
}

/// The engine.
pub(crate) fn engine_module() -> PathBuf {
    built("libaziot_keys.so")
}

/// A file of this workspace's target directory.
fn built(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let test = env::current_exe().unwrap();
        let directory = test.parent().and_then(Path::parent).unwrap().to_owned();
        if env::var_os("AZIOT_BUILT").is_none() {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--quiet", "--lib", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            cargo.args(["-p", "key-engine", "-p", "aziot-openssl-provider", "-p", "aziot-openssl-engine"]);
            if directory.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "the engine cannot be built");
        }
        directory
    });
    let file = directory.join(name);
    assert!(file.is_file(), "there is no {}", file.display());
    file
}

/// The longest time that any program may take here: more if it was asked for many rounds.
fn longest() -> Duration {
    let rounds = env::var("AZIOT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(0);
    Duration::from_secs(300) + Duration::from_millis(500) * rounds
}

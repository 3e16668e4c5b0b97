//! README's first command works, as an ordinary user too. Knows what the demonstration promises, not how it is made.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use rustix::process::{Pid, Signal, kill_process_group};
use suite_tests::subject;
use tempfile::TempDir;

#[test]
fn the_demonstration_succeeds_and_cleans_up() {
    let stage = Stage::new();
    let output = stage.root().output().expect("bash is installed");
    both_acts(&stage.succeeded(&output));
}

#[test]
fn the_demonstration_needs_no_root() {
    let stage = Stage::new();
    let output = stage.somebody().output().expect("setpriv is installed");
    both_acts(&stage.succeeded(&output));
}

#[test]
fn the_demonstration_with_a_tpm_succeeds_and_cleans_up() {
    let stage = Stage::new();
    let output = stage.root().env("TPM", "1").output().expect("bash is installed");
    act_with_tpm(&stage.succeeded(&output));
}

#[test]
fn the_demonstration_with_a_tpm_needs_no_root() {
    let stage = Stage::new();
    let output = stage.somebody().env("TPM", "1").output().expect("setpriv is installed");
    act_with_tpm(&stage.succeeded(&output));
}

#[test]
fn the_demonstration_cleans_up_when_it_is_interrupted() {
    let stage = Stage::new();
    // A group of its own, as a terminal gives it.
    let mut child = stage.root().process_group(0).stdout(Stdio::piped()).spawn().expect("bash is installed");
    let told = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut lines = told.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("registers with DPS in the background")), "it has ended early");
    assert!(!stage.processes().is_empty(), "its daemons run");
    let group = Pid::from_raw(child.id().cast_signed()).expect("a child has a pid");
    kill_process_group(group, Signal::INT).expect("it runs");
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it is our child").code(), Some(130));
    stage.is_empty();
}

#[track_caller]
fn both_acts(told: &str) {
    says(told, "The hub answers 204: it has checked the signature");
    says(told, r#""auth":{"type":"x509","#);
    says(told, "The hub answers 204. curl has done the TLS handshake with a key that is in keyd.");
    says(told, "The sensor has verified gateway.demo.plant.example");
    says(told, "The gateway has verified sensor.demo.plant.example: Subject: CN");
    says(told, "Without a certificate the gateway refuses");
    for id in ["est-id", "device-cert"] {
        let words =
            |when: &str| told.split(&format!("{when} {id} ")).nth(1).and_then(|rest| rest.lines().next());
        let (before, after) = (words("before:"), words("after: "));
        let (before, after) = (before.expect("it was there"), after.expect("it was renewed"));
        let member = |line: &str, name: &str| line.split(&format!("{name}=")).nth(1).map(str::to_owned);
        for name in ["serial", "notAfter", "key"] {
            assert!(member(before, name).is_some(), "{name} of {id}: {before}");
            assert_ne!(member(before, name), member(after, name), "{name} of {id}");
        }
    }
    says(told, "The hub answers 204 to the new certificate");
}

#[track_caller]
fn act_with_tpm(told: &str) {
    says(told, "endorsement key: AToA");
    says(told, r#""auth":{"type":"tpm"}"#);
    says(told, "The hub answers 204: the TPM has signed");
}

#[track_caller]
fn says(told: &str, what: &str) {
    assert!(told.contains(what), "it does not say {what:?}:\n{told}");
}

/// A directory with copies of scripts and programs, because another user may not be able to enter the work tree.
struct Stage(TempDir);

impl Stage {
    fn new() -> Stage {
        assert!(rustix::process::geteuid().is_root(), "to become another user these journeys need root");
        let directory = tempfile::tempdir().expect("there is room in the temp directory");
        allow(directory.path(), 0o777);
        let stage = Stage(directory);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the work tree");
        for folder in ["bin", "scripts", "scripts/demo"] {
            fs::create_dir(stage.path(folder)).expect("the directory is ours");
            allow(&stage.path(folder), 0o755);
        }
        programs().iter().for_each(|program| copy(program, &stage.path("bin")));
        copy(&root.join("scripts/demo.sh"), &stage.path("scripts"));
        let acts = fs::read_dir(root.join("scripts/demo")).expect("the acts are in a folder");
        acts.for_each(|act| copy(&act.expect("it can be read").path(), &stage.path("scripts/demo")));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The demonstration, to be run by this test's user.
    fn root(&self) -> Command {
        self.demo(Command::new("bash"))
    }

    /// The same, by an ordinary user.
    fn somebody(&self) -> Command {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "bash"]);
        self.demo(setpriv)
    }

    fn demo(&self, mut shell: Command) -> Command {
        shell.arg(self.path("scripts/demo.sh")).env("DEMO_ONCE", "1").env("AZIOT_BIN_DIR", self.path("bin"));
        shell.env("TMPDIR", self.0.path()).env("HOME", self.0.path()).env_remove("TPM");
        shell.current_dir(self.0.path()).stdin(Stdio::null());
        shell
    }

    /// What it told; it must have succeeded, without a complaint, and be gone.
    #[track_caller]
    fn succeeded(&self, output: &Output) -> String {
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{told}\n{complaints}", output.status);
        assert_eq!(complaints, "");
        self.is_empty();
        told
    }

    #[track_caller]
    fn is_empty(&self) {
        let entries = fs::read_dir(self.0.path()).expect("the directory is ours").flatten();
        let left = entries.map(|entry| entry.file_name()).filter(|name| name != "bin" && name != "scripts");
        assert_eq!(left.collect::<Vec<_>>(), [""; 0], "files are left behind");
        assert_eq!(self.processes(), [""; 0], "processes are left behind");
    }

    /// Command lines of processes that the demonstration has started: they have its directory in their environment.
    fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}\0", self.0.path().display());
        let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
        let read =
            |process: &fs::DirEntry, name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let is_ours = |process: &fs::DirEntry| {
            let environment = read(process, "environ");
            environment.windows(mark.len()).any(|window| window == mark.as_bytes())
        };
        let line =
            |process: fs::DirEntry| String::from_utf8_lossy(&read(&process, "cmdline")).replace('\0', " ");
        processes.filter(is_ours).map(line).collect()
    }
}

/// What the demonstration runs: programs, and the provider beside them.
fn programs() -> &'static [PathBuf] {
    static PROGRAMS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let names = ["aziot-keyd", "aziot-certd", "aziot-identityd", "aziot-tpmd", "aziot-cloud-sim"];
        let mut programs: Vec<_> = names.map(subject::program).into();
        let directory = programs[0].parent().expect("a program lies in a directory").to_owned();
        if !subject::is_foreign() && env::var_os("AZIOT_BUILT").is_none() {
            build_for_openssl(&directory);
        }
        programs.extend(["aziot-key-ref", "libaziot.so"].map(|name| directory.join(name)));
        programs
    })
}

fn build_for_openssl(directory: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--lib", "--bins", "-p", "key-engine", "-p", "aziot-openssl-provider"]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo can be started");
    assert!(status.success(), "the provider cannot be built");
}

#[track_caller]
fn copy(file: &Path, folder: &Path) {
    let copy = folder.join(file.file_name().expect("a file has a name"));
    fs::copy(file, &copy).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    allow(&copy, 0o755);
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

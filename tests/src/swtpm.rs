//! A TPM in software (`swtpm`), and the tools of tpm2-tools to look into it. Does not know who uses it.
//!
//! It has no resource manager: whatever a user leaves in it stays there, so that leaks are seen.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{door::Door, http::wait_for};

/// A software TPM with a state of its own; it is killed when dropped.
#[derive(Debug)]
pub struct Swtpm {
    directory: TempDir,
    child: Option<Child>,
}

impl Swtpm {
    /// A new TPM that runs.
    #[track_caller]
    pub fn start() -> Swtpm {
        let mut swtpm = Swtpm::absent();
        swtpm.plug_in();
        swtpm
    }

    /// A TPM that is not there yet.
    pub fn absent() -> Swtpm {
        let directory =
            tempfile::Builder::new().prefix("swtpm-").tempdir().expect("there is room in the temp directory");
        Swtpm { directory, child: None }
    }

    /// The string for the TCTI loader of tpm2-tss.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket().display())
    }

    /// A way to the TPM that can be shut. Only one at a time.
    #[track_caller]
    pub fn door(&self) -> Door {
        let near = self.directory.path().join("door.sock");
        symlink(control(&self.socket()), control(&near)).expect("the directory is ours");
        Door::new(near, &self.socket())
    }

    /// The string for the TCTI loader of tpm2-tss that takes this way.
    pub fn tcti_through(door: &Door) -> String {
        format!("swtpm:path={}", door.socket().display())
    }

    /// The directory where its files and those of tools are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Start it, with the state that it had.
    #[track_caller]
    pub fn plug_in(&mut self) {
        self.run("not-need-init,startup-clear");
        wait_for("the software TPM to answer", Duration::from_secs(30), || {
            self.tool("tpm2_getcap", &["properties-fixed"]).ok()
        });
    }

    /// Start it without TPM2_Startup, as firmware leaves a TPM it does not know.
    #[track_caller]
    pub fn plug_in_unstarted(&mut self) {
        self.run("not-need-init");
    }

    #[track_caller]
    fn run(&mut self, flags: &str) {
        let directory = self.directory.path().display();
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", flags]);
        command.arg("--tpmstate").arg(format!("dir={directory}"));
        command.arg("--server").arg(format!("type=unixio,path={}", self.socket().display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", control(&self.socket()).display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("swtpm is installed, see `make setup`"));
        wait_for("the software TPM", Duration::from_secs(30), || self.socket().exists().then_some(()));
    }

    /// Kill it (SIGKILL), as if the chip lost its power.
    pub fn pull_out(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
        for socket in [self.socket(), control(&self.socket())] {
            let _ = std::fs::remove_file(socket); // its clients see at once that it is gone
        }
    }

    /// Kill it and start it at once: a TPM reset.
    #[track_caller]
    pub fn reset(&mut self) {
        self.pull_out();
        self.plug_in();
    }

    /// Let it hang, or go on.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a child has a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// Run a program of tpm2-tools on it, which must succeed, and give what it prints. Files are in a directory of the TPM's
    /// own. Nobody else may be connected meanwhile.
    #[track_caller]
    pub fn tpm2(&self, program: &str, args: &[&str]) -> String {
        self.tool(program, args).unwrap_or_else(|error| panic!("{program} {args:?}: {error}"))
    }

    /// Leave objects in it until it takes no more, and tell how many.
    pub fn fill(&self) -> usize {
        let create = || self.tool("tpm2_createprimary", &["-C", "o", "-c", "stray.ctx"]);
        (0..10).take_while(|_| create().is_ok()).count()
    }

    /// Put a file where the tools find it.
    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.directory.path().join(name), content).expect("the directory is ours");
    }

    /// Read a file that a tool has written.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(name)).expect("the tool wrote it")
    }

    /// The handles of one kind that are in use, such as `transient`, `loaded-session` or `persistent`.
    #[track_caller]
    pub fn handles(&self, kind: &str) -> Vec<u32> {
        let listed = self.tpm2("tpm2_getcap", &[&format!("handles-{kind}")]);
        let handle = |line: &str| u32::from_str_radix(line.strip_prefix("- 0x")?, 16).ok();
        listed.lines().filter_map(handle).collect()
    }

    /// Nothing but persistent objects may be in it.
    #[track_caller]
    pub fn holds_nothing_transient(&self) {
        for kind in ["transient", "loaded-session", "saved-session"] {
            assert_eq!(self.handles(kind), [0_u32; 0], "{kind}");
        }
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.directory.path()).env("TPM2TOOLS_TCTI", self.tcti());
        let output = command.output().expect("tpm2-tools are installed, see `make setup`");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("tpm.sock")
    }
}

/// The socket beside that of the commands where tpm2-tss looks for another one.
fn control(socket: &Path) -> PathBuf {
    socket.with_extension("sock.ctrl")
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.pull_out();
    }
}

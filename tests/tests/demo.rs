//! README's first command works, as an ordinary user too. Knows what the demonstration promises, not how it is made.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use suite_tests::subject;

#[test]
fn the_demonstration_succeeds_and_cleans_up() {
    let directory = tempfile::tempdir().expect("there is room in the temp directory");
    let output = demo(Command::new("bash"), directory.path());
    succeeded(&output, directory.path());
}

#[test]
fn the_demonstration_needs_no_root() {
    assert!(rustix::process::geteuid().is_root(), "to become another user this journey needs root");
    let directory = tempfile::tempdir().expect("there is room in the temp directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("the directory is ours");
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "bash"]);
    let output = demo(setpriv, directory.path());
    succeeded(&output, directory.path());
}

/// Runs the script with `shell`, its temporary files in `directory`.
fn demo(mut shell: Command, directory: &Path) -> Output {
    // Copies, because another user may not be able to enter the work tree.
    let bin = directory.join("bin");
    fs::create_dir(&bin).expect("the directory is ours");
    let programs = ["aziot-keyd", "aziot-identityd", "aziot-cloud-sim"].map(subject::program);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the work tree");
    for file in programs.into_iter().chain([root.join("scripts/demo.sh")]) {
        let copy = bin.join(file.file_name().expect("a file has a name"));
        fs::copy(&file, &copy).expect("the directory is ours");
        fs::set_permissions(copy, fs::Permissions::from_mode(0o755)).expect("the copy is ours");
    }
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    shell.arg(bin.join("demo.sh")).env("DEMO_ONCE", "1").env("AZIOT_BIN_DIR", &bin).env("TMPDIR", directory);
    shell.env("HOME", directory).current_dir(directory).stdin(Stdio::null());
    shell.output().expect("bash is installed")
}

#[track_caller]
fn succeeded(output: &Output, directory: &Path) {
    let told = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{complaints}", output.status);
    assert!(told.contains("The hub answers 204"), "{told}");
    assert_eq!(complaints, "");
    let left: Vec<_> = fs::read_dir(directory).expect("the directory is ours").flatten().collect();
    assert!(left.iter().all(|entry| entry.file_name() == "bin"), "something was left behind: {left:?}");
}

//! Which binaries are under test. Does not know what they do.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// The path of the program `name`: in the directory `AZIOT_BIN_DIR` when that is set, else in this workspace's target
/// directory, where it is built once per run from the package of the same name. `AZIOT_BUILT` says that this has been done.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = env::var_os("AZIOT_BIN_DIR") {
        return existing(Path::new(&directory).join(name));
    }
    let directory = target_directory();
    if env::var_os("AZIOT_BUILT").is_none() {
        build(name, &directory);
    }
    existing(directory.join(name))
}

/// Whether the binaries are another build than this workspace's own.
pub fn is_foreign() -> bool {
    env::var_os("AZIOT_BIN_DIR").is_some()
}

fn existing(program: PathBuf) -> PathBuf {
    assert!(program.is_file(), "there is no program {} to test", program.display());
    program
}

/// `target/<profile>`, in which this program runs, or in whose `deps` this test does.
fn target_directory() -> PathBuf {
    let program = env::current_exe().expect("a running program has a path");
    let directory = program.parent().expect("a program lies in a directory");
    match directory.ends_with("deps") {
        true => directory.parent().expect("`deps` lies in target/<profile>").to_owned(),
        false => directory.to_owned(),
    }
}

/// Build the package `name` once per test process; what is up to date costs nothing.
fn build(name: &str, directory: &Path) {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.contains(name) {
        return;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bins", "-p", name]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo can be started");
    assert!(output.status.success(), "cannot build {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    built.insert(name.to_owned());
}

//! keyd with keys in a TPM: what the journeys on every store (`keys_pkcs11/journeys.rs`) do not see. Files are judged by
//! openssl with tpm2-openssl, the TPM by tpm2-tools.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod authorization;
mod damage;
mod endurance;
mod files;
mod hardship;
mod outages;
mod places;
mod threads;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::Client,
    openssl::{hex, sha256},
    swtpm::Swtpm,
};

/// A keyd on a TPM of its own. The daemon ends first: the TPM must outlive it.
struct Site {
    keyd: Daemon,
    tpm: Swtpm,
}

impl Site {
    /// A TPM in which new keys are made.
    #[track_caller]
    fn start() -> Site {
        Site::on(Swtpm::start(), "new_keys = true\n")
    }

    /// keyd on this TPM with further configuration, which begins in the table `[tpm]`.
    #[track_caller]
    fn on(tpm: Swtpm, config: &str) -> Site {
        Site::with(tpm, "", config)
    }

    /// The same with configuration that comes before all tables.
    #[track_caller]
    fn with(tpm: Swtpm, first: &str, config: &str) -> Site {
        let config = format!("{first}[tpm]\ntcti = '{}'\n{config}", tpm.tcti());
        let keyd = Setup::new(&KEYD).config(&config).start();
        Site { keyd, tpm }
    }

    fn client(&self) -> Client {
        self.keyd.client()
    }

    /// The file of the key `id`, which has ASCII letters and digits only.
    fn file(&self, id: &str) -> PathBuf {
        file(&self.keyd.home(), id)
    }

    /// Lets keyd end and gives its state directory and the TPM, which only one program can use at a time.
    fn end(mut self) -> (Vec<(String, Vec<u8>)>, Swtpm) {
        let read =
            |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let files = fs::read_dir(self.keyd.home().join("keys")).unwrap().map(Result::unwrap).map(read);
        let files = files.collect();
        self.keyd.kill();
        (files, self.tpm)
    }
}

fn file(home: &Path, id: &str) -> PathBuf {
    home.join("keys").join(name(id))
}

fn name(id: &str) -> String {
    format!("{id}-{}.key", hex(&sha256(id.as_bytes())))
}

/// Runs openssl with tpm2-openssl on the TPM; keys come from files of the TPM's directory.
#[track_caller]
fn openssl(tpm: &Swtpm, args: &[&str]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.arg(args[0]).args(["-provider", "tpm2", "-provider", "default"]).args(&args[1..]);
    let output = command.current_dir(tpm.path()).env("TPM2OPENSSL_TCTI", tpm.tcti()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn is_wrapped(file: &Path) -> bool {
    fs::read(file).unwrap().starts_with(b"-----BEGIN TSS2 PRIVATE KEY-----\n")
}

//! `aziot-tpmd --show-ek`: what an operator enrols.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use openssl::sha::sha256;
use suite_tests::{harness::Setup, http::unbase64, subject, swtpm::Swtpm};

use super::{ENDORSEMENT_KEY, STORAGE_ROOT_KEY, Site, setup};

fn show(setup: &Setup) -> Output {
    command(setup).output().unwrap()
}

fn command(setup: &Setup) -> Command {
    let mut command = Command::new(subject::program("aziot-tpmd"));
    command.arg("--show-ek");
    command.env("AZIOT_TPMD_CONFIG", setup.main_file());
    command.env("AZIOT_TPMD_CONFIG_DIR", setup.drop_in_directory());
    command
}

/// The two values of what is printed.
#[track_caller]
fn shown(output: &Output) -> (Vec<u8>, String) {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    (unbase64(&value("endorsement key: ")), value("registration id: "))
}

#[test]
fn decided_the_key_is_shown_by_the_running_daemon() {
    let site = Site::start();
    let (key, registration_id) = shown(&show(site.tpmd.setup()));
    assert_eq!(key, site.keys().0);
    assert_eq!(registration_id.len(), 52);
    let value = |digit: u8| if digit >= b'a' { digit - b'a' } else { digit - b'2' + 26 };
    let digits = registration_id.bytes().map(value);
    let bits: String = digits.map(|value| format!("{value:05b}")).collect();
    let hash: String = sha256(&key).iter().map(|byte| format!("{byte:08b}")).collect();
    assert_eq!(bits[..256], hash);
}

#[test]
fn decided_the_key_is_shown_without_a_daemon() {
    let tpm = Swtpm::start();
    let setup = setup(&tpm);
    let before = shown(&show(&setup));
    assert_eq!(shown(&show(&setup)), before);
    tpm.holds_nothing_transient();
    assert_eq!(tpm.handles("persistent"), [STORAGE_ROOT_KEY, ENDORSEMENT_KEY]);
    let site = Site { tpmd: setup.start(), tpm };
    assert_eq!(site.keys().0, before.0);
}

#[test]
fn decided_the_reason_is_shown_when_there_is_no_key() {
    let output = show(&setup(&Swtpm::absent()));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is there a TPM"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn decided_who_may_not_ask_is_told_so() {
    let site = Site::start();
    let socket = site.tpmd.setup().socket_path();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).unwrap();
    let output = command(site.tpmd.setup()).uid(64_321).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("may not ask the running daemon"), "{text}");
}

#[test]
fn decided_the_help_names_it() {
    let output = Command::new(subject::program("aziot-tpmd")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("  --show-ek "), "{text}");
}

//! The commands of docs/cloud-sim.md work, in the order in which they stand there.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

#[test]
fn the_manual_s_commands_work() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cloud-sim.md")).unwrap();
    let blocks: Vec<&str> =
        manual.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 8);
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("set -eu -o pipefail\ntrap 'kill $(jobs -p)' EXIT\n{}echo THE END\n", blocks.concat());
    let program = Path::new(env!("CARGO_BIN_EXE_aziot-cloud-sim")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let bash = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).env("PATH", path).output();
    let Output { stdout, stderr, .. } = bash.unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(out.ends_with("THE END\n"), "{out}\n{err}");
    for shown in [
        "\"status\":\"assigned\"",
        "\"moduleId\":\"telemetry\"",
        "module's primary key",
        "group robots, primary signing certificate",
        "admitted: certificate of pump-7, trusted by",
        "connectionString",
    ] {
        assert!(out.contains(shown), "{shown} is not in {out}");
    }
    assert!(!out.contains("\"decision\":\"refused\""), "{out}");
}

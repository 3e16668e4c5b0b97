//! The simulator as a program: starts, tells where it is, remembers, repeats itself, ends.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use cloud_sim::{Options, Ready, Sim};
use common::*;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_aziot-cloud-sim");

struct Program(Child);

impl Program {
    fn start(args: &[&str]) -> (Program, Ready) {
        let mut child = Command::new(PROGRAM).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Program(child), serde_json::from_str(&line).unwrap())
    }

    fn end(mut self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success(), "a signal ends it cleanly");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn run(args: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM).args(args).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

#[test]
fn it_says_where_it_is_and_ends_on_signals() {
    for signal in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        let (program, ready) = Program::start(&["--dir", text, "--host", "sim.test", "--hubs", "2"]);
        let file = std::fs::read_to_string(dir.path().join("ready.json")).unwrap();
        assert_eq!(serde_json::from_str::<Ready>(&file).unwrap(), ready);
        assert_eq!(ready.ca, dir.path().join("ca.pem"));
        assert!(ready.dps.starts_with("https://sim.test:") && ready.hubs.len() == 2);
        assert_eq!(ready.dps, format!("https://{}", ready.hubs[0]));
        for name in ["sim.test", "localhost"] {
            let port = ready.hubs[1].rsplit_once(':').unwrap().1;
            Client::connect(&ready, &format!("{name}:{port}")).unwrap();
        }
        program.end(signal);
    }
}

#[test]
fn devices_are_enrolled_from_the_command_line() {
    let (program, ready) = Program::start(&[]);
    let (ok, key) =
        run(&["enroll", "--admin", &ready.admin, "--registration-id", "press-17", "--device-id", "p17"]);
    assert!(ok && key.len() == 88, "{key}");
    let (ok, again) = run(&["enroll", "--admin", &ready.admin, "--registration-id", "press-17"]);
    assert!(ok && again == key, "keys stay");
    let group = ["enroll", "--admin", &ready.admin, "--group", "line", "--registration-id"];
    let derived = |id: &str| run(&[&group[..], &[id]].concat());
    assert!(derived("a").0 && derived("a") == derived("a") && derived("a").1 != derived("b").1);
    let (ok, _) = run(&["enroll", "--admin", &ready.admin, "--registration-id", "x", "--hub", "nowhere"]);
    assert!(!ok);
    program.end("-TERM");
    let bytes = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";
    let derived = run(&["derive-key", "--key", bytes, "--registration-id", "line-4-robot-2"]);
    assert_eq!(derived, (true, "vYR2LyFC4hdqR+zMelJHggbzbOktExGnNFaEGjcA4ZU=".to_owned()));
}

fn with_state(state: &Path) -> Sim {
    sim_with(Options {
        state: Some(state.to_owned()),
        dir: state.parent().map(Path::to_owned),
        ..Options::default()
    })
}

#[test]
fn state_and_ca_survive_a_restart_on_other_ports() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    let sim = with_state(&file);
    let device = Device::enrolled(&sim, "pump", &json!({"iotHubs": [sim.ready().hubs[0]]}));
    device.register();
    let module = device.create_module("m");
    sim.admin("POST", "/settings", &json!({"put_status": 201}));
    let (key, old_hub) = (device.key.clone(), sim.ready().hubs[0].clone());
    let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let (_, dump) = sim.admin("GET", "/state", &Value::Null);
    drop(sim);

    let sim = with_state(&file);
    assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), ca);
    assert_ne!(sim.ready().hubs[0], old_hub, "another port, hence another name");
    let device = Device { sim: &sim, id: "pump".into(), key };
    assert_eq!(device.hub("GET", "pump/modules/m", None, &Value::Null).json(), module);
    let (_, registration) = sim.admin("GET", "/registrations/pump", &Value::Null);
    assert_eq!(registration["assignedHub"], json!(sim.ready().hubs[0]));
    let second = device.register();
    assert_eq!(second["registrationState"]["substatus"], "reprovisionedToInitialAssignment");
    assert_eq!(
        device.hub("PUT", "pump/modules/n", None, &json!({"moduleId": "n", "deviceId": "pump"})).status,
        201
    );

    let other = sim_with(Options::default());
    assert_eq!(other.admin("PUT", "/state", &dump).0, 204);
    let device = Device { sim: &other, ..device };
    assert_eq!(device.hub("GET", "pump/modules/m", None, &Value::Null).json(), module);
}

#[test]
fn a_broken_state_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    std::fs::write(&file, "{").unwrap();
    let (ok, out) = run(&["--state", file.to_str().unwrap()]);
    assert!(!ok && out.is_empty());
    assert_eq!(std::fs::read(&file).unwrap(), b"{", "and left as it is");
}

/// The log of one fixed story, without times and ports.
fn story() -> String {
    let sim = sim_with(Options { hub_names: vec!["contoso.test".into()], ..Options::default() });
    sim.admin("POST", "/clock", &json!({"frozen_at": 1_893_456_000}));
    let device = Device::enrolled(&sim, "pump", &json!({"iotHubs": ["contoso.test"]}));
    sim.admin(
        "POST",
        "/faults",
        &json!({"match": {"operation": "hub"}, "probability": 0.5, "action": {"status": 500}}),
    );
    let scope = sim.ready().scope.to_lowercase();
    let token =
        token_over(&format!("{scope}/registrations/pump"), &device.key, 1_893_456_030, "&skn=registration");
    let operation = device.register_with(&token, &json!({"registrationId": "pump"})).json();
    for _ in 0..3 {
        device.poll_with(&token, operation["operationId"].as_str().unwrap());
    }
    let token = token_over("contoso.test/devices/pump", &device.key, 1_893_456_030, "");
    for module in 0..5 {
        let target =
            format!("https://contoso.test/devices/pump/modules/m{module}?api-version=2017-11-08-preview");
        let body = json!({"moduleId": format!("m{module}"), "deviceId": "pump"});
        call(sim.ready(), &device.dps(), "PUT", &target, &[("authorization", token.as_str())], &body)
            .unwrap();
    }
    let (_, mut log) = sim.admin("GET", "/log", &Value::Null);
    for entry in log["entries"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("time_ms");
    }
    let port = device.dps().rsplit_once(':').unwrap().1.to_owned();
    serde_json::to_string_pretty(&log).unwrap().replace(&port, "PORT")
}

#[test]
fn one_seed_tells_one_story() {
    let first = story();
    assert!(first.contains("generationId") && first.contains("injected fault"));
    assert_eq!(story(), first);
}

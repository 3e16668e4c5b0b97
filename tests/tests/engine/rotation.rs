//! A renewal puts a new key under the id of the old one, while programs run with the old one's certificate: they are told
//! why they fail, and what to do.

use std::process::{Command, Stdio};

use suite_tests::keys::Keys;

use super::engine::{equipped, with_engine};
use super::world::{KINDS, Running, World, free_port, has_engine, run};

#[test]
fn a_server_whose_key_was_renewed_says_so() {
    let world = World::new();
    let log = world.path("debug.log");
    for kind in KINDS {
        let key = format!("aziot:id={kind}");
        world.certificate("own.crt", &key);
        let mut server = world.openssl_command("s_server -cert own.crt -www", "");
        let errors = errors_after_renewal(&world, kind, server.env("AZIOT_PROVIDER_DEBUG", &log), &key);
        let noted = std::fs::read_to_string(&log).unwrap();
        assert!(errors.contains(EXPLAINED) && noted.contains(EXPLAINED), "{errors}\n{noted}");
    }
    if !has_engine() {
        return;
    }
    let world = equipped(world);
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        let ours = "-engine aziot_keys -keyform engine -key {}";
        let request =
            world.openssl_command(&format!("req -x509 -new {ours} -subj /CN=x -out own.crt"), &handle);
        assert!(run(&mut with_engine(&world, request)).status.success());
        let server =
            world.openssl_command("s_server -cert own.crt -www -engine aziot_keys -keyform engine", "");
        let errors = errors_after_renewal(&world, kind, &mut with_engine(&world, server), &handle);
        assert!(errors.contains(EXPLAINED), "{errors}");
    }
}

/// What this `openssl s_server` says, by TLS 1.3 and 1.2, when the key `id` is renewed after its start.
#[track_caller]
fn errors_after_renewal(world: &World, id: &str, server: &mut Command, key: &str) -> String {
    let port = free_port();
    let mut server = Running::server(server.args(["-key", key, "-accept", &port.to_string()]), port);
    world.keyd.client().renew_pair(id, id);
    for version in ["-tls1_2", "-tls1_3"] {
        let connect = format!("s_client -connect 127.0.0.1:{port} {version}");
        let output = run(world.openssl_command(&connect, "").stdin(Stdio::null()));
        assert!(!output.status.success(), "{version}: {output:?}");
    }
    server.0.kill().unwrap();
    std::io::read_to_string(server.0.stderr.take().unwrap()).unwrap()
}

const EXPLAINED: &str = "keyd has another key under this id by now";

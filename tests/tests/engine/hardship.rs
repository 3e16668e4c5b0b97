//! Bad input and a bad keyd: a clear error in time, never a hang, a spin or a crash. Checklist 8, 22, 23, 35, 51.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use suite_tests::http::{wait_for, with_body};
use suite_tests::keys::{Keys, VALIDATION_KEY, forge, key_file, take_apart};

use super::engine::{with_engine, world as engine_world};
use super::world::{World, is_root, openssl_program, probe, run, succeed};

#[test]
fn engine_35_refusals_are_explained() {
    let mut world = World::new();
    let load = "pkey -in {} -pubout -noout";
    let handle = world.keyd.client().load_pair("ec-p256");
    let (text, _) = take_apart(&handle);
    let forged = forge(&[7; 32], &text);
    for (name, reason) in [
        ("aziot:id=absent", "there is no key"),
        ("aziot:handle=sr=x&sig=y", "keyd refuses"),
        (&format!("aziot:handle={forged}"), "keyd refuses"),
        ("aziot:nonsense", "aziot:id=KEY-ID"),
        ("aziot:id=", "empty"),
    ] {
        let errors = world.openssl_fails(load, name);
        assert!(errors.contains(reason), "{name}: {errors}");
        // OpenSSL itself may repeat the URI where it looks for a file of that name.
        let ours: Vec<_> = errors.lines().filter(|line| line.contains(":aziot:")).collect();
        assert!(!ours.is_empty() && !ours.iter().any(|line| line.contains(&forged)), "{errors}");
        world.probe(&["refused", name, reason, "2"]);
    }
    let pem = fs::read_to_string(world.reference("ec-p256")).unwrap();
    for (damaged, reason) in [
        (pem.replace("-----\nM", "-----\nN"), ""),
        (pem.replace("-----END", "!\n-----END"), "not base64"),
        (pem[..pem.len() / 2].to_owned(), ""),
    ] {
        let file = world.write("damaged.key", damaged);
        let errors = world.openssl_fails(load, &file);
        assert!(errors.contains(reason), "{errors}");
    }
    let reference = world.reference("ec-p256");
    world.keyd.kill();
    let errors = world.openssl_fails(load, "aziot:id=ec-p256");
    assert!(errors.contains("keyd cannot be reached"), "{errors}");
    // The openssl command reads files through a store, which drops the reasons of decoders. Other programs do not.
    world.openssl_fails(load, &reference);
    world.probe(&["refused", &reference, "keyd cannot be reached", "2"]);
}

#[test]
fn engine_35_strangers_are_refused() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let socket = world.keyd.setup().socket_path().to_owned();
    let as_stranger = |world: &World| {
        let mut command = world.command("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups", &openssl_program()]);
        command.args(["pkey", "-in", "aziot:id=ec-p256", "-pubout", "-noout"]);
        let output = run(&mut command);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let errors = as_stranger(&world);
    assert!(errors.contains("may this user open its socket"), "{errors}");
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    let errors = as_stranger(&world);
    assert!(errors.contains("12345"), "keyd names the user: {errors}");
}

#[test]
fn engine_35_a_keyd_that_hangs_is_given_up() {
    let world = World::new();
    world
        .write("openssl.cnf", world.configuration("timeout", &format!("1\nsocket = {}", world.socket_uri())));
    world.keyd.signal(rustix::process::Signal::STOP);
    world.probe(&["refused", "aziot:id=ec-p256", "did not answer", "4"]);
    world.keyd.signal(rustix::process::Signal::CONT);
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
}

#[test]
fn a_configuration_that_cannot_be_is_explained() {
    let world = World::new();
    for (key, value) in [("socket", "http://localhost"), ("timeout", "0"), ("timeout", "soon")] {
        world.write("openssl.cnf", world.configuration(key, value));
        let errors = world.openssl_fails("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
        assert!(errors.contains(key), "{errors}");
    }
}

#[test]
fn failures_are_noted_where_the_configuration_says() {
    let world = World::new();
    let log = world.path("debug.log");
    let configuration = world.configuration("debug", &format!("{log}\nsocket = {}", world.socket_uri()));
    world.write("openssl.cnf", configuration);
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
    world.openssl_fails("pkey -in {} -pubout -noout", "aziot:id=absent");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("loaded the key \"ec-p256\"") && log.contains("there is no key"), "{log}");
}

/// What a bad keyd does with a connection.
type Manners = fn(&mut UnixStream);

/// A keyd with these manners at `socket`, for the rest of the test.
fn bad_keyd(socket: &Path, manners: Manners) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || manners(&mut stream));
        }
    });
}

const REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"value\":\"RSX\"}";

fn read_request(stream: &mut UnixStream) -> bool {
    stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0)
}

const BAD_MANNERS: &[(&str, Manners, &str)] = &[
    ("closes", |_| (), "cannot be reached"),
    (
        "closes after the request",
        |stream| {
            read_request(stream);
        },
        "cannot be reached",
    ),
    (
        "stops in the middle",
        |stream| {
            read_request(stream);
            stream.write_all(&REPLY[..40]).unwrap();
        },
        "unreadable",
    ),
    (
        "splits the header",
        |stream| {
            while read_request(stream) {
                for part in REPLY.chunks(7) {
                    stream.write_all(part).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        },
        "RSX",
    ),
    (
        "sends forty headers",
        |stream| {
            while read_request(stream) {
                let headers = "x-header: value\r\n".repeat(40);
                let reply =
                    String::from_utf8(REPLY.to_vec()).unwrap().replacen("\r\n", &format!("\r\n{headers}"), 1);
                stream.write_all(reply.as_bytes()).unwrap();
            }
        },
        "RSX",
    ),
    (
        "speaks something else",
        |stream| {
            read_request(stream);
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        },
        "unreadable",
    ),
];

#[test]
fn engine_23_no_manners_of_keyd_hang_or_kill_a_program() {
    let world = World::new();
    for (index, (what, manners, reason)) in BAD_MANNERS.iter().enumerate() {
        let socket = world.file(&format!("{index}.sock"));
        bad_keyd(&socket, *manners);
        let uri = format!("unix://{}", socket.display());
        world.write("openssl.cnf", world.configuration("socket", &uri));
        // The probe has not been told to ignore SIGPIPE.
        let seen = run(world.command(probe()).args(["refused", "aziot:handle=sr=&sig=", reason, "5"]));
        assert!(seen.status.success(), "a keyd that {what}: {seen:?}");
        if let Some(engine) = engine_world() {
            let mut command = with_engine(&engine, engine.command(probe()));
            succeed(command.env("AZIOT_KEYD_SOCKET", &uri).args(["engine-refused", "sr=&sig=", "5"]));
        }
    }
}

#[test]
fn engine_22_all_slots_taken() {
    let world = World::new();
    world.write(
        "openssl.cnf",
        world.configuration("timeout", &format!("20\nsocket = {}", world.socket_uri())),
    );
    let client = world.keyd.client();
    let idle: Vec<_> = (0..12).map(|_| client.connect()).collect();
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
    // Twelve requests that lack their last byte: keyd gives them up after five seconds, and we wait for that.
    let body = serde_json::json!({ "keyId": "held", "usage": "sign" }).to_string();
    let request = with_body("POST /key?api-version=2020-09-01 HTTP/1.1\r\n", &[], body);
    let held: Vec<_> = (0..12).map(|_| client.connect()).collect();
    let held = held.into_iter().map(|mut connection| {
        connection.send(&request[..request.len() - 1]);
        connection
    });
    let held: Vec<_> = held.collect();
    world.probe(&["threads", "aziot:id=ec-p256"]);
    drop((idle, held));
}

#[test]
fn engine_51_a_set_uid_program_does_not_look_at_the_environment() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let socket = world.keyd.setup().socket_path();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    let program = world.file("set-uid");
    fs::copy(probe(), &program).unwrap();
    // openssl.cnf of the environment is not read either, so the program gets its provider from the built-in place.
    let load = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = world.command("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(&program);
        command.env("AZIOT_KEYD_SOCKET", "unix:///nonexistent/keyd.sock");
        command.args(["refused-in", &world.path("modules"), "aziot:id=ec-p256"]);
        String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
    };
    assert!(load(0o755).contains("/nonexistent/keyd.sock"), "an ordinary program looks at the environment");
    let seen = load(0o4755);
    assert!(!seen.contains("/nonexistent/keyd.sock") && seen.contains("/run/aziot/keyd.sock"), "{seen}");
}

#[test]
fn engine_52_handles_of_another_validation_key() {
    let mut world = World::new();
    let handle = world.keyd.client().load_pair("ec-p256");
    let certificate = world.certificate("own.crt", "aziot:id=ec-p256");
    let by_id = OnDemand::start(&world, &certificate, "aziot:id=ec-p256");
    let by_handle = OnDemand::start(&world, &certificate, &format!("aziot:handle={handle}"));
    let mut both = [by_id, by_handle];
    assert_eq!(both.each_mut().map(OnDemand::shake), ["shaken", "shaken"]);
    world.keyd.kill();
    assert_eq!(both.each_mut().map(OnDemand::shake), ["failed", "failed"]);
    world.keyd.restart();
    assert_eq!(
        both.each_mut().map(OnDemand::shake),
        ["shaken", "shaken"],
        "after a restart the next one works"
    );
    world.keyd.kill();
    fs::write(key_file(&world.keyd.home(), VALIDATION_KEY), [7; 32]).unwrap();
    world.keyd.restart();
    assert_eq!(both.each_mut().map(OnDemand::shake), ["shaken", "failed"]);
}

/// A program that makes a handshake whenever it is told to.
struct OnDemand(std::process::Child, std::io::BufReader<std::process::ChildStdout>);

impl OnDemand {
    fn start(world: &World, certificate: &str, key: &str) -> Self {
        let mut command = world.command(probe());
        let command = command.args(["on-demand", certificate, key]);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn shake(&mut self) -> String {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.1, &mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn engine_08_keyd_comes_back_for_the_engine_too() {
    let Some(mut world) = engine_world() else { return };
    let handle = world.keyd.client().load_pair("ec-p256");
    world.keyd.kill();
    let gone = |world: &World, seconds: &str| {
        run(with_engine(world, world.command(probe())).args(["engine-refused", &handle, seconds]))
            .status
            .success()
    };
    assert!(gone(&world, "2"));
    world.keyd.restart();
    wait_for("keyd", Duration::from_secs(10), || (!gone(&world, "2")).then_some(()));
}

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
use super::world::{KINDS, World, is_root, openssl_program, probe, run, succeed};

#[test]
fn engine_35_refusals_are_explained() {
    let mut world = World::new();
    let load = "pkey -in {} -pubout -noout";
    let handle = world.keyd.client().load_pair("ec-p256");
    let (text, _) = take_apart(&handle);
    let forged = forge(&[7; 32], &text);
    for (name, reason) in [
        ("aziot:id=absent", "(status 400): keyd refuses: there is no key"),
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

/// Whether this journey can act as other users; it says so if not.
fn may_be_another(journey: &str) -> bool {
    if !is_root() {
        eprintln!("{journey}: left out, it acts as several users and needs root");
    }
    is_root()
}

#[test]
fn engine_35_strangers_are_refused() {
    if !may_be_another("engine_35_strangers_are_refused") {
        return;
    }
    let world = World::new();
    let socket = world.keyd.setup().socket_path().to_owned();
    let stranger = |world: &World, program: &Path, words: &[&str]| {
        let mut command = world.command("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(program).args(words);
        command
    };
    let openssl = openssl_program();
    let load = ["pkey", "-in", "aziot:id=ec-p256", "-pubout", "-noout"];
    let as_stranger = |world: &World| {
        let output = run(&mut stranger(world, openssl.as_ref(), &load));
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let errors = as_stranger(&world);
    assert!(errors.contains("may this user open its socket") && errors.contains("ermission"), "{errors}");
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    let errors = as_stranger(&world);
    assert!(errors.contains("12345") && errors.contains("(status 401)"), "keyd names the user: {errors}");
    if let Some(world) = engine_world() {
        let handle = world.keyd.client().load_pair("ec-p256");
        let words = ["engine-refused", &handle, "2", "may this user open its socket"];
        succeed(&mut with_engine(&world, stranger(&world, probe(), &words)));
    }
}

#[test]
fn engine_22_35_a_keyd_that_hangs_is_given_up() {
    let world = World::new();
    world
        .write("openssl.cnf", world.configuration("timeout", &format!("1\nsocket = {}", world.socket_uri())));
    world.keyd.signal(rustix::process::Signal::STOP);
    world.probe(&["refused", "aziot:id=ec-p256", "did not answer within 1 s", "4"]);
    world.keyd.signal(rustix::process::Signal::CONT);
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
    let Some(world) = engine_world() else { return };
    let handle = world.keyd.client().load_pair("ec-p256");
    world.keyd.signal(rustix::process::Signal::STOP);
    let words = ["engine-refused", &handle, "4", "did not answer within 1 s", "1"];
    succeed(with_engine(&world, world.command(probe())).args(words));
    world.keyd.signal(rustix::process::Signal::CONT);
}

#[test]
fn engine_23_signals_end_no_waiting() {
    let world = World::new();
    let path = world.path("full.sock");
    world.write("openssl.cnf", world.configuration("timeout", &format!("1\nsocket = unix://{path}")));
    world.probe(&["interrupted", &path, "aziot:id=ec-p256", "did not answer within 1 s", "20"]);
}

#[test]
fn a_configuration_that_cannot_be_is_explained() {
    let world = World::new();
    for (key, value) in [("socket", "http://localhost"), ("timeout", "0"), ("timeout", "soon")] {
        world.write("openssl.cnf", world.configuration(key, value));
        let errors = world.openssl_fails("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
        assert!(errors.contains(key), "{errors}");
    }
    world.write("openssl.cnf", world.configuration("socket", "http://localhost"));
    let mut command = world.openssl_command("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
    succeed(command.env("AZIOT_KEYD_SOCKET", world.socket_uri()));
}

#[test]
fn a_key_reference_asks_keyd_once_for_the_key() {
    let world = World::new();
    for kind in KINDS {
        let log = world.path(&format!("{kind}.log"));
        let configuration = world.configuration("debug", &format!("{log}\nsocket = {}", world.socket_uri()));
        let file = world.reference(kind);
        world.write("openssl.cnf", configuration);
        world.probe(&["export", &file]);
        assert_eq!(fs::read_to_string(&log).unwrap().matches("loaded").count(), 1, "{kind}");
        world.openssl("pkey -in {} -pubout -noout", &file);
        assert_eq!(fs::read_to_string(&log).unwrap().matches("loaded").count(), 2, "{kind}");
    }
}

/// What a bad keyd does with a connection.
type Manners = fn(&mut UnixStream);

/// A keyd with these manners at `socket`, for the rest of the test.
fn bad_keyd(socket: &Path, manners: impl Fn(&mut UnixStream) + Copy + Send + 'static) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || manners(&mut stream));
        }
    });
}

/// A load is several calls, and all of them together have the time that was set.
#[test]
fn engine_35_a_keyd_that_answers_each_call_just_in_time_is_given_up() {
    let world = World::new();
    let socket = world.file("slow.sock");
    let real: &'static Path = Box::leak(world.keyd.setup().socket_path().to_owned().into_boxed_path());
    bad_keyd(&socket, move |near| {
        let mut far = UnixStream::connect(real).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = near.read(&mut buffer) {
            std::thread::sleep(Duration::from_millis(1200));
            far.write_all(&buffer[..length]).unwrap();
            let length = far.read(&mut buffer).unwrap();
            if near.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    let uri = format!("unix://{}", socket.display());
    let patient = |seconds: u32| world.configuration("timeout", &format!("{seconds}\nsocket = {uri}"));
    world.write("openssl.cnf", patient(2));
    KINDS.iter().for_each(|kind| {
        drop(world.probe(&["refused", &format!("aziot:id={kind}"), "did not answer within 2 s", "3"]));
    });
    if let Some(engine) = engine_world() {
        let handle = world.keyd.client().load_pair("rsa-2048");
        let mut command = with_engine(&engine, engine.command(probe()));
        command.env("AZIOT_KEYD_SOCKET", &uri);
        succeed(command.args(["engine-refused", &handle, "3", "did not answer within 2 s", "2"]));
    }
    world.write("openssl.cnf", patient(20));
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=rsa-2048");
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
        let manners = *manners;
        bad_keyd(&socket, manners);
        let uri = format!("unix://{}", socket.display());
        world.write("openssl.cnf", world.configuration("socket", &uri));
        // The probe has not been told to ignore SIGPIPE.
        let seen = run(world.command(probe()).args(["refused", "aziot:handle=sr=&sig=", reason, "5"]));
        assert!(seen.status.success(), "a keyd that {what}: {seen:?}");
        if let Some(engine) = engine_world() {
            let mut command = with_engine(&engine, engine.command(probe()));
            succeed(command.env("AZIOT_KEYD_SOCKET", &uri).args(["engine-refused", "sr=&sig=", "5", reason]));
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
    if !may_be_another("engine_35_strangers_are_refused") {
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

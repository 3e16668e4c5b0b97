//! Programs from Debian with a key in keyd: curl, nginx, mosquitto, Python. Those that cannot name a provider's key by
//! URI use a key-reference file; those that know ENGINE are tried with that too. Checklist 13, 17, 50.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use suite_tests::harness::BOUND;
use suite_tests::http::wait_for;
use suite_tests::keys::Keys;

use super::engine::{with_engine, world as engine_world};
use super::world::{KEYD_USER, KINDS, Running, World, free_port, is_root, run, succeed};

/// nginx with this key for its certificate `own.crt`; clients need one too. The master runs as root, the workers as
/// Debian's user for web servers, with the group that keyd's socket is for.
fn nginx(world: &World, key: &str, port: u16) -> Command {
    let directory = world.path("");
    let workers = if is_root() { "user www-data nogroup;" } else { "" };
    let configuration = format!(
        "{workers} worker_processes 2; daemon off; pid {directory}nginx.pid; error_log {directory}error.log notice;
         env OPENSSL_CONF; env OPENSSL_ENGINES; env AZIOT_KEYD_SOCKET; events {{}}
         http {{ access_log off;
           client_body_temp_path {directory}a; proxy_temp_path {directory}b; fastcgi_temp_path {directory}c;
           uwsgi_temp_path {directory}d; scgi_temp_path {directory}e;
           server {{ listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {directory}own.crt; ssl_certificate_key \"{key}\";
             ssl_client_certificate {directory}own.crt; ssl_verify_client on; ssl_session_cache off;
             location / {{ return 200 \"hello $ssl_client_s_dn over $ssl_protocol\"; }} }} }}"
    );
    let file = world.write("nginx.conf", configuration);
    let program =
        ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| fs::exists(path).unwrap());
    let mut command = world.command(program.expect("nginx is installed (make setup)"));
    command.args(["-e", &world.path("error.log"), "-c", &file]);
    command
}

fn curl(world: &World, port: u16, key: &str) -> Command {
    let mut command = world.command("curl");
    command.args(["--silent", "--show-error", "--cacert", "own.crt", "--cert", "own.crt", "--key", key]);
    command.arg(format!("https://127.0.0.1:{port}/"));
    command
}

fn error_log(world: &World) -> String {
    fs::read_to_string(world.file("error.log")).unwrap_or_default()
}

fn pid(server: &Running) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(server.0.id().cast_signed()).unwrap()
}

/// Tells nginx to reload, and waits until it does.
#[track_caller]
fn reload(world: &World, server: &Running) {
    let reloads = || error_log(world).matches("reconfiguring").count();
    let before = reloads();
    rustix::process::kill_process(pid(server), rustix::process::Signal::HUP).unwrap();
    wait_for("nginx to reload", BOUND, || (reloads() > before).then_some(()));
}

/// The log has nothing bad.
#[track_caller]
fn nothing_is_wrong(world: &World) {
    let log = error_log(world);
    let bad = ["[emerg]", "[alert]", "[crit]", "[error]", "stale global SSL error", "exited on signal"];
    assert!(!bad.iter().any(|word| log.contains(word)), "{log}");
}

/// Waits until the workers are neither root nor keyd's user, so that they have only what the socket's group may.
#[track_caller]
fn workers_are_strangers(server: &Running) {
    let pid = pid(server).as_raw_nonzero();
    let ids = |worker: &str| {
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        let effective = |name| {
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1)?.parse().ok())
        };
        (effective("Uid:").unwrap_or(0), effective("Gid:").unwrap_or(0))
    };
    let is_stranger = |worker: &str| matches!(ids(worker), (1..KEYD_USER, KEYD_USER));
    wait_for("the workers to be another user", BOUND, || {
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut workers = workers.split_whitespace().peekable();
        (!is_root() || workers.peek().is_some() && workers.all(is_stranger)).then_some(())
    });
}

#[test]
fn engine_50_nginx_serves_curl_and_reloads_twenty_times() {
    KINDS.iter().for_each(|kind| serve_and_reload(&World::new(), kind, 20));
}

/// nginx serves curl over TLS 1.2 and 1.3, both with this key, and is told so often to reload.
#[track_caller]
pub(crate) fn serve_and_reload(world: &World, kind: &str, rounds: usize) {
    let name = format!("aziot:id={kind}");
    world.certificate("own.crt", &name);
    let (key, port) = (world.reference(kind), free_port());
    let server = Running::server(&mut nginx(world, &key, port), port);
    workers_are_strangers(&server);
    for round in 0..rounds {
        for version in ["--tls-max=1.2", "--tlsv1.3"] {
            let reply = succeed(curl(world, port, &key).args(version.split('=')));
            assert!(reply.starts_with("hello CN=localhost over TLSv1."), "{round}: {reply}");
        }
        reload(world, &server);
    }
    nothing_is_wrong(world);
}

#[test]
fn engine_13_17_nginx_and_curl_with_the_engine_reload_twenty_times() {
    for kind in KINDS {
        let Some(world) = engine_world() else { return };
        let handle = world.keyd.client().load_pair(kind);
        let request = "req -x509 -new -engine aziot_keys -keyform engine -key {} -subj /CN=localhost \
                       -addext subjectAltName=IP:127.0.0.1 -out own.crt";
        succeed(&mut with_engine(&world, world.openssl_command(request, &handle)));
        // nginx never initialises an engine, the configuration does.
        let engines = "openssl_conf = init\n[init]\nengines = engines\n[engines]\naziot_keys = own\n\
                       [own]\nengine_id = aziot_keys\ninit = 1\n";
        world.write("openssl.cnf", engines);
        let port = free_port();
        let mut server = nginx(&world, &format!("engine:aziot_keys:{handle}"), port);
        server.env("OPENSSL_ENGINES", world.file("engines")).env("AZIOT_KEYD_SOCKET", world.socket_uri());
        let server = Running::server(&mut server, port);
        workers_are_strangers(&server);
        for round in 0..20 {
            let mut client = with_engine(&world, curl(&world, port, &handle));
            let reply = succeed(client.args(["--engine", "aziot_keys", "--key-type", "ENG"]));
            assert!(reply.starts_with("hello CN=localhost"), "{round}: {reply}");
            reload(&world, &server);
        }
        nothing_is_wrong(&world);
    }
}

/// A broker that asks its clients for certificates.
fn broker(world: &World, port: u16, key: &str) -> Running {
    let certificate = world.path("own.crt");
    let configuration = format!(
        "listener {port} 127.0.0.1\ncafile {certificate}\ncertfile {certificate}\nkeyfile {key}\n\
         require_certificate true\nuse_identity_as_username true\nallow_anonymous true\nuser root\n"
    );
    let file = world.write("mosquitto.conf", configuration);
    Running::server(world.command("/usr/sbin/mosquitto").args(["-c", &file]), port)
}

fn subscriber(world: &World, command: &mut Command, port: u16, key: &str) -> Child {
    let child =
        client(world, command, port, key).args(["-C", "1", "-W", "30"]).stdout(Stdio::piped()).spawn();
    child.unwrap()
}

fn client<'a>(world: &World, command: &'a mut Command, port: u16, key: &str) -> &'a mut Command {
    let certificate = world.path("own.crt");
    command.args(["-h", "localhost", "-p", &port.to_string(), "-t", "topic", "--cafile", &certificate]);
    command.args(["--cert", &certificate, "--key", key])
}

#[test]
fn engine_50_mosquitto_and_its_clients() {
    for kind in KINDS {
        let world = World::new();
        world.certificate("own.crt", &format!("aziot:id={kind}"));
        let (key, port) = (world.reference(kind), free_port());
        let _broker = broker(&world, port, &key);
        let reader = subscriber(&world, &mut world.command("mosquitto_sub"), port, &key);
        let reply = publish_until_read(reader, || {
            succeed(client(&world, &mut world.command("mosquitto_pub"), port, &key).args(["-m", "text"]));
        });
        assert_eq!(reply, "text\n");
    }
}

/// The clients of mosquitto 2.0.11 want to open the key as a file, whatever `--keyform` says, and do not look into it: one of
/// the key's name has to be where they start.
#[test]
fn mosquitto_with_the_engine() {
    for kind in KINDS {
        let Some(world) = engine_world() else { return };
        let handle = world.keyd.client().load_pair(kind);
        let name = "-subj /CN=localhost -addext subjectAltName=DNS:localhost";
        let request =
            format!("req -x509 -new -engine aziot_keys -keyform engine -key {{}} {name} -out own.crt");
        succeed(&mut with_engine(&world, world.openssl_command(&request, &handle)));
        let (port, path) = (free_port(), |name| world.path(name));
        let configuration = format!(
            "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {handle}\ntls_engine aziot_keys\n\
             tls_keyform engine\nrequire_certificate true\nallow_anonymous true\nuser root\n",
            path("own.crt"),
            path("own.crt"),
        );
        let file = world.write("mosquitto.conf", configuration);
        let mut broker = with_engine(&world, world.command("/usr/sbin/mosquitto"));
        let _broker = Running::server(broker.args(["-c", &file]), port);
        let key = format!("aziot:id={kind}");
        world.write(&key, "");
        let mut publisher = with_engine(&world, world.command("mosquitto_pub"));
        publisher.args(["-m", "text", "--tls-engine", "aziot_keys", "--keyform", "engine"]);
        succeed(client(&world, &mut publisher, port, &key));
    }
}

/// The Azure IoT C SDK is not here; this is what it does with a private key in PEM.
#[test]
fn engine_50_a_reference_in_the_c_sdk() {
    let world = World::new();
    for (kind, expected) in [("ec-p256", "shaken\n"), ("rsa-2048", "not taken\n")] {
        let certificate = world.certificate(&format!("{kind}.crt"), &format!("aziot:id={kind}"));
        assert_eq!(world.probe(&["c-sdk", &certificate, &world.reference(kind)]), expected);
    }
}

/// Publishes again until the reader, who may be late, has got it and ended.
fn publish_until_read(mut reader: Child, publish: impl Fn()) -> String {
    wait_for("the message", BOUND, || {
        publish();
        std::thread::sleep(Duration::from_millis(100));
        reader.try_wait().unwrap()
    });
    String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn engine_50_python_serves_and_connects() {
    let world = World::new();
    for kind in KINDS {
        world.certificate("own.crt", &format!("aziot:id={kind}"));
        let script = world.write("tls.py", PYTHON);
        let seen = succeed(world.command("python3").args([&script, &world.reference(kind)]));
        assert_eq!(seen, "TLSv1.3 localhost\n");
    }
}

const PYTHON: &str = r#"
import socket, ssl, sys, threading
def context(purpose):
    c = ssl.SSLContext(purpose)
    c.load_cert_chain("own.crt", sys.argv[1])
    c.load_verify_locations("own.crt")
    c.verify_mode = ssl.CERT_REQUIRED
    return c
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    with context(ssl.PROTOCOL_TLS_SERVER).wrap_socket(listener.accept()[0], server_side=True) as s:
        s.sendall(dict(x[0] for x in s.getpeercert()["subject"])["commonName"].encode())
server = threading.Thread(target=serve)
server.start()
with socket.create_connection(listener.getsockname()) as raw:
    with context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(raw, server_hostname="localhost") as s:
        print(s.version(), s.recv(100).decode())
server.join()
"#;

#[test]
fn references_are_for_their_owner_and_name_no_key_that_is_not_there() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let file = world.reference("ec-p256");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let absent = run(super::world::key_ref(&world.socket_uri()).args(["-o", &file, "absent"]));
    assert!(!absent.status.success());
    assert!(String::from_utf8_lossy(&absent.stderr).contains("there is no key"), "{absent:?}");
    assert!(fs::read_to_string(&file).unwrap().contains("AZIOT KEY URI"), "the old file is still there");
    let handle = world.keyd.client().load_pair("rsa-2048");
    let by_handle = world.path("by-handle.key");
    let mut tool = super::world::key_ref(&world.socket_uri());
    let mut tool =
        tool.args(["-o", &by_handle, "--handle-from-stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    tool.stdin.take().unwrap().write_all(handle.as_bytes()).unwrap();
    assert!(tool.wait().unwrap().success());
    world.openssl("pkey -in {} -pubout -noout", &by_handle);
    if is_root() {
        chown(&by_handle, Some(KEYD_USER), None).unwrap();
    }
}

#[test]
fn references_go_where_links_lead_and_leave_the_links() {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    let world = World::new();
    let write_to = |file: &str, output: Stdio| {
        let mut tool = super::world::key_ref(&world.socket_uri());
        assert!(tool.args(["-o", file, "ec-p256"]).stdout(output).status().unwrap().success());
    };
    symlink("/proc/self/fd/1", world.file("output")).unwrap();
    symlink("own.key", world.file("link")).unwrap();
    let expected = fs::read_to_string(world.reference("ec-p256")).unwrap();
    let output = fs::File::create(world.file("output.key")).unwrap();
    write_to(&world.path("output"), output.into());
    assert_eq!(fs::read_to_string(world.file("output.key")).unwrap(), expected);
    world.write("own.key", "old");
    if is_root() {
        chown(world.file("own.key"), Some(KEYD_USER), Some(KEYD_USER)).unwrap();
    }
    let owner = || fs::metadata(world.file("own.key")).map(|file| (file.uid(), file.gid())).unwrap();
    let before = owner();
    write_to(&world.path("link"), Stdio::null());
    assert_eq!((fs::read_to_string(world.file("own.key")).unwrap(), owner()), (expected, before));
    assert!(["output", "link"].iter().all(|link| world.file(link).is_symlink()));
}

#[test]
fn what_key_ref_cannot_read_or_write_is_no_panic() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut tool = super::world::key_ref("unix:///nonexistent/keyd.sock");
    let odd = run(tool.arg(std::ffi::OsStr::from_bytes(b"x\xff")));
    assert_eq!(odd.status.code(), Some(1), "{odd:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut tool = super::world::key_ref("unix:///nonexistent/keyd.sock");
    assert_eq!(tool.arg("--help").stdout(writer).status().unwrap().code(), Some(1));
    let version = succeed(super::world::key_ref("unix:///nonexistent/keyd.sock").arg("--version"));
    assert!(version.starts_with("aziot-key-ref "), "{version}");
}

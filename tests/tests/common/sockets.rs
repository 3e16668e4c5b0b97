//! The socket, made by the daemon or inherited: checklist 4, 24-30.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::{Client, End, wait_for},
    keys::Keys,
};

use super::create;

#[test]
fn common_04_24_without_any_configuration_the_default_socket_is_served() {
    let script = "mount -t tmpfs none /run && mkdir /run/aziot && exec \"$0\"";
    let keyd = Setup::bare(&KEYD).wrapper(["unshare", "--mount", "sh", "-c", script]).start_unwatched();
    let socket = format!("/proc/{}/root/run/aziot/keyd.sock", keyd.pid());
    let client = Client::new(&socket);
    wait_for("the default socket (needs root and the right to mount)", BOUND, || client.try_connect().ok());
    client.post("/key", &create("a")).expect(400); // there is no place for keys
    private_socket(Path::new(&socket));
}

#[test]
fn common_24_the_socket_has_mode_0660_and_belongs_to_the_user_of_the_service() {
    let keyd = Setup::new(&KEYD).wrapper(["sh", "-c", "umask 0; exec \"$0\""]).start();
    private_socket(keyd.setup().socket_path());
}

#[test]
fn common_24_decided_systemd_is_told_when_the_socket_is_served() {
    let setup = Setup::new(&KEYD);
    let notified = setup.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&notified).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let keyd = setup.env("NOTIFY_SOCKET", &notified).start_unwatched();
    let mut state = [0; 4096];
    let length = socket.recv(&mut state).expect("READY=1 within a bounded time");
    let state = String::from_utf8_lossy(&state[..length]);
    assert!(state.lines().any(|line| line == "READY=1"), "{state}");
    keyd.client().create_key("at once", "sign");
}

#[test]
fn common_25_a_stale_socket_is_replaced() {
    let mut keyd = Setup::new(&KEYD).start();
    keyd.kill();
    assert!(keyd.setup().socket_path().exists());
    keyd.restart();
    keyd.client().create_key("a", "sign");
}

#[test]
fn common_25_decided_the_socket_of_a_daemon_that_runs_is_left_to_it() {
    let keyd = Setup::new(&KEYD).start();
    let socket = keyd.setup().socket_path();
    let second = Setup::new(&KEYD).reach(&KEYD, socket).start_and_end();
    assert_eq!(second.status.code(), Some(1), "{}", second.log);
    assert!(
        second.log.contains(&format!("{} is served by another process", socket.display())),
        "{}",
        second.log
    );
    keyd.client().create_key("a", "sign");
}

#[test]
fn common_25_a_stale_socket_of_another_user_is_replaced() {
    for is_served in [false, true] {
        let setup = Setup::new(&KEYD).config("");
        let listener = UnixListener::bind(setup.socket_path()).unwrap();
        fs::set_permissions(setup.socket_path(), Permissions::from_mode(0o660)).unwrap();
        let setup = setup.as_user(1000);
        if is_served {
            let ended = setup.start_and_end();
            assert!(ended.log.contains("cannot be tried"), "{}", ended.log);
        } else {
            drop(listener);
            setup.start().client().get("/key/missing").expect(400);
        }
    }
}

#[test]
fn common_25_decided_a_directory_with_content_is_not_deleted() {
    let setup = Setup::new(&KEYD);
    let precious = setup.socket_path().join("precious");
    fs::create_dir(setup.socket_path()).unwrap();
    fs::write(&precious, "data").unwrap();
    let mut keyd = setup.start_unwatched();
    assert!(!keyd.wait_for_end(BOUND).success());
    assert_eq!(fs::read_to_string(precious).unwrap(), "data");
}

#[test]
fn common_26_an_inherited_socket_is_served_and_no_other_made() {
    let (setup, path, listener) = with_listener(Setup::new(&KEYD));
    let own = setup.socket_path().to_owned();
    let mut keyd = setup.inherit(vec![listener], "$$", "1").socket(&path).start();
    keyd.client().create_key("a", "sign");
    assert!(!own.exists());
    keyd.wait_for_log(BOUND, |line| line.ends_with(&format!(" serves {}", path.display())));
    keyd.restart();
    keyd.client().load_key("a");
}

#[test]
fn common_26_with_inherited_socket_no_configuration_is_needed() {
    let (setup, path, listener) = with_listener(Setup::bare(&KEYD));
    let keyd = setup.inherit(vec![listener], "$$", "1").socket(path).start();
    keyd.client().post("/key", &create("a")).expect(400); // there is no place for keys
}

#[test]
fn common_27_a_socket_for_another_process_is_not_served() {
    let (setup, path, listener) = with_listener(Setup::new(&KEYD));
    let keyd = setup.inherit(vec![listener], "1", "1").start();
    keyd.client().create_key("a", "sign");
    let other = Client::new(path);
    let mut connection = other.connect(); // the kernel's queue takes it
    connection.send(other.bytes("GET", "/key/a", None));
    assert_eq!(connection.end(Duration::from_millis(500)), End::Open);
}

#[test]
fn common_28_with_two_inherited_sockets_the_configured_path_is_bound() {
    let (setup, _, first) = with_listener(Setup::new(&KEYD));
    let second = UnixListener::bind(setup.directory().join("second.sock")).unwrap();
    let keyd = setup.inherit(vec![first, second.into()], "$$", "2").start();
    keyd.client().create_key("a", "sign");
}

#[test]
fn common_29_a_number_of_sockets_that_is_none_ends_the_start() {
    for (pid, count) in [("$$", "x"), ("x", "1")] {
        let (setup, _, listener) = with_listener(Setup::new(&KEYD));
        let ended = setup.inherit(vec![listener], pid, count).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "LISTEN_PID={pid} LISTEN_FDS={count}: {}", ended.log);
    }
}

#[test]
fn common_29_no_inherited_socket_means_the_configured_path() {
    Setup::new(&KEYD).inherit(vec![], "$$", "0").start().client().create_key("a", "sign");
}

#[test]
fn common_30_an_inherited_tcp_listener_ends_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = Setup::new(&KEYD).inherit(vec![listener.into()], "$$", "1").start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
}

#[test]
fn common_30_decided_an_inherited_socket_that_does_not_listen_ends_the_start() {
    let setup = Setup::new(&KEYD);
    let (one, _other) = UnixStream::pair().unwrap();
    let ended = setup.inherit(vec![one.into()], "$$", "1").start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("does not listen"), "{}", ended.log);
}

#[test]
fn common_30_decided_a_tcp_endpoint_ends_the_start_in_every_build() {
    let setup = Setup::new(&KEYD).drop_in("50-tcp.toml", "[endpoints]\naziot_keyd = 'http://127.0.0.1:0'\n");
    let ended = setup.start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
}

/// A listening socket as systemd would make it, with its path.
fn with_listener(setup: Setup) -> (Setup, std::path::PathBuf, OwnedFd) {
    let path = setup.directory().join("inherited.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (setup, path, listener.into())
}

fn private_socket(path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o7777, 0o660);
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
}

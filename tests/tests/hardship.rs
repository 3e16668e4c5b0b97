//! What keyd must bear: nonsense, giants, dawdlers, crowds, a full disk, sudden death. It may refuse, it may not fall, and
//! who behaves must not notice.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, Daemon, KEYD, Setup, raise_file_limit},
    http::{Client, Connection, End, base64, wait_for, with_body},
    keys::{Keys, VALIDATION_KEY, ecdsa_request, forge, hmac_request, key_file},
};

const POST_KEY: &str = "POST /key?api-version=2020-09-01 HTTP/1.1\r\n";
const MIB: usize = 1024 * 1024;

fn keyd() -> (Daemon, Client) {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    client.create_key("x", "sign");
    (keyd, client)
}

/// `POST /key` with a body of exactly `length` bytes.
fn padded(length: usize) -> Vec<u8> {
    let body = json!({ "keyId": "padded", "usage": "sign" }).to_string();
    with_body(POST_KEY, &[], format!("{body}{}", " ".repeat(length - body.len())))
}

/// The daemon must still be there, and must have given back what it took for the journey.
#[track_caller]
fn recovers(keyd: &mut Daemon, files_before: usize) {
    assert!(keyd.is_running());
    keyd.client().load_key("x");
    wait_for("the daemon to close what it has no use for", BOUND, || {
        (keyd.open_files() <= files_before + 2).then_some(())
    });
}

#[test]
fn nonsense_instead_of_json_is_422() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let deep = "[".repeat(200_000);
    let deeper = format!("{{\"keyId\":{}", r#"{"a":"#.repeat(100_000));
    let long = format!(r#"{{"keyId":"{}"#, "a".repeat(900_000));
    let number = format!(r#"{{"keyId":"a","usage":"sign","n":1{}}}"#, "0".repeat(100_000));
    for body in [
        deep.as_str(),
        &deeper,
        &long,
        "\0\0\0",
        "\u{202e}",
        r#"{"keyId":"\ud800","usage":"sign"}"#,
        "1e999999",
        "-",
    ] {
        let reply = client.send(with_body(POST_KEY, &[], body));
        assert_eq!(reply.status, 422, "{}", &body[..body.len().min(40)]);
        reply.expect(422);
    }
    let huge_number = client.send(with_body(POST_KEY, &[], number)).status;
    assert!([200, 422].contains(&huge_number), "{huge_number}");
    recovers(&mut keyd, files);
}

#[test]
fn a_body_above_one_mebibyte_is_413() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    client.send(padded(MIB)).expect(200);
    client.send(padded(MIB + 1)).expect(413);
    client.send(padded(3 * MIB)).expect(413);
    let huge = u64::MAX / 2;
    client.send(format!("{POST_KEY}expect: 100-continue\r\ncontent-length: {huge}\r\n\r\n")).expect(413);
    let unsent = client.send(format!("{POST_KEY}content-length: {huge}\r\n\r\n"));
    assert!([408, 413].contains(&unsent.status), "{unsent:?}");
    recovers(&mut keyd, files);
}

#[test]
fn a_chunked_body_above_one_mebibyte_is_413() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let chunk = format!("{:x}\r\n{}\r\n", MIB / 4, " ".repeat(MIB / 4));
    client
        .send(format!("{POST_KEY}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(5)))
        .expect(413);
    recovers(&mut keyd, files);
}

#[test]
fn a_giant_body_disturbs_nobody() {
    let (mut keyd, client) = keyd();
    let (files, memory) = (keyd.open_files(), keyd.resident_kib());
    let mut giant = client.connect();
    let sender = thread::spawn(move || {
        giant.send(format!("{POST_KEY}content-length: {}\r\n\r\n", 400 * MIB));
        let piece = vec![b' '; MIB];
        (0..400).take_while(|_| giant.try_send(&piece).is_ok()).count()
    });
    let handle = client.load_key("x");
    while !sender.is_finished() {
        timely(|| client.hmac(&handle, b"m"));
    }
    sender.join().unwrap();
    assert!(keyd.resident_kib() < memory + 32 * 1024, "{} KiB, was {memory}", keyd.resident_kib());
    recovers(&mut keyd, files);
}

#[test]
fn half_sent_requests_leave_nothing_behind() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let whole = client.bytes("POST", "/key", Some(&json!({ "keyId": "half", "usage": "sign" })));
    for length in 0..whole.len() {
        client.connect().send(&whole[..length]);
    }
    assert!(!key_file(&keyd.home(), "half").exists());
    recovers(&mut keyd, files);
}

#[test]
fn callers_that_hang_up_before_the_reply_do_no_harm() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let handle = client.load_key("x");
    for at in 0..200 {
        let mut connection = client.connect();
        connection.send(client.bytes("POST", "/sign", Some(&hmac_request(&handle, b"m"))));
        if at % 2 == 0 {
            connection.finish();
        }
    }
    recovers(&mut keyd, files);
}

#[test]
fn a_slow_sender_is_served_and_does_not_slow_others() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let slow = client.clone();
    let sender = thread::spawn(move || {
        let mut connection = slow.connect();
        for byte in slow.bytes("GET", "/key/x", None) {
            connection.send([byte]);
            thread::sleep(Duration::from_millis(30));
        }
        connection.reply().expect(200);
    });
    while !sender.is_finished() {
        timely(|| client.load_key("x"));
    }
    sender.join().unwrap();
    recovers(&mut keyd, files);
}

#[test]
fn a_thousand_half_open_connections_leave_room_for_others() {
    raise_file_limit();
    let (mut keyd, client) = keyd();
    let (files, memory) = (keyd.open_files(), keyd.resident_kib());
    let half_open = |at: usize| {
        let mut connection = client.connect();
        match at % 3 {
            0 => {}
            1 => connection.send("POST /key?api-ver"),
            _ => connection.send(format!("{POST_KEY}x-header: {}", "a".repeat(500))),
        }
        connection
    };
    let crowd: Vec<Connection> = (0..1000).map(half_open).collect();
    for _ in 0..20 {
        timely(|| client.load_key("x"));
    }
    assert!(keyd.resident_kib() < memory + 64 * 1024, "{} KiB, was {memory}", keyd.resident_kib());
    drop(crowd);
    recovers(&mut keyd, files);
}

#[test]
fn connections_that_do_nothing_are_closed_after_a_minute() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let mut kept = client.connect();
    kept.send(client.bytes("GET", "/key/x", None));
    kept.reply().expect(200);
    let (silent, mut half) = (client.connect(), client.connect());
    half.send("GET /key/x?api-version=2020-09-01 HTTP/1.1\r\nhost:");
    let start = Instant::now();
    for mut connection in [half, kept, silent] {
        assert_ne!(connection.end(Duration::from_secs(80)), End::Open);
    }
    assert!(
        start.elapsed() > Duration::from_secs(50),
        "an idle client has a minute, not {:?}",
        start.elapsed()
    );
    recovers(&mut keyd, files);
}

#[test]
fn the_limit_of_descriptors_ends_nothing() {
    let setup = Setup::new(&KEYD).wrapper(["prlimit", "--nofile=48:48", "--"]);
    let mut keyd = setup.start();
    let client = keyd.client();
    client.create_key("x", "sign");
    let files = keyd.open_files();
    for _ in 0..3 {
        let crowd: Vec<Connection> = (0..100).map_while(|_| client.try_connect().ok()).collect();
        assert!(crowd.len() > 48, "the kernel's queue takes more than the daemon can");
        thread::sleep(Duration::from_millis(500));
        assert!(keyd.is_running());
        drop(crowd);
        wait_for("room", BOUND, || client.try_connect().ok());
        timely(|| client.load_key("x"));
    }
    recovers(&mut keyd, files);
}

#[test]
fn ten_thousand_requests_of_fifty_users_are_answered() {
    let (mut keyd, _) = keyd();
    let users = 2000..2050;
    let principals: String =
        users.clone().map(|uid| format!("[[principal]]\nuid = {uid}\nkeys = ['x']\n")).collect();
    keyd = keyd.stop().drop_in("50-users.toml", &principals).start();
    keyd.as_uid(2000).load_key("x");
    let (files, memory) = (keyd.open_files(), keyd.resident_kib());
    let work = |uid: u32| {
        let client = keyd.as_uid(uid);
        move || {
            let mut statuses = BTreeMap::new();
            for _ in 0..4 {
                let mut connection = client.connect();
                for _ in 0..50 {
                    connection.send(client.bytes("GET", "/key/x", None));
                    *statuses.entry(connection.reply().status).or_insert(0) += 1;
                }
            }
            statuses
        }
    };
    let threads: Vec<_> = users.map(|uid| thread::spawn(work(uid))).collect();
    let mut all = BTreeMap::new();
    for statuses in threads.into_iter().map(|thread| thread.join().unwrap()) {
        for (status, count) in statuses {
            *all.entry(status).or_insert(0) += count;
        }
    }
    assert_eq!(all.values().sum::<i32>(), 10_000);
    assert!(all.keys().all(|status| [200, 429].contains(status)), "{all:?}");
    assert!(keyd.resident_kib() < memory + 64 * 1024, "{} KiB, was {memory}", keyd.resident_kib());
    recovers(&mut keyd, files);
}

#[test]
fn pipelined_requests_whose_replies_nobody_reads_are_bounded() {
    let (mut keyd, client) = keyd();
    let (files, memory) = (keyd.open_files(), keyd.resident_kib());
    let mut connection = client.connect();
    let requests = client.bytes("GET", "/key/x", None).repeat(1000);
    connection.set_send_patience(Duration::from_secs(2));
    let taken = (0..200).take_while(|_| connection.try_send(&requests).is_ok()).count();
    assert!(taken < 200, "the daemon stops reading when nobody reads its replies");
    assert!(keyd.resident_kib() < memory + 32 * 1024, "{} KiB, was {memory}", keyd.resident_kib());
    timely(|| client.load_key("x"));
    drop(connection);
    recovers(&mut keyd, files);
}

#[test]
fn users_nobody_knows_are_refused() {
    let (keyd, _) = keyd();
    for uid in [1, 65_534, 4_000_000_000, u32::MAX - 1] {
        keyd.as_uid(uid).get("/key/x").expect(401);
    }
}

#[test]
fn absurd_handles_are_400() {
    let (mut keyd, client) = keyd();
    let files = keyd.open_files();
    let key = fs::read(key_file(&keyd.home(), VALIDATION_KEY)).unwrap();
    let mut nested = forge(&key, r#"{"key_id":{"Key":"x"},"nonce":""}"#);
    for _ in 0..20 {
        nested = forge(&key, &json!({ "key_id": { "Derived": [nested, [1]] }, "nonce": "" }).to_string());
    }
    let bomb = forge(&key, &format!(r#"{{"key_id":{},"nonce":""}}"#, "[".repeat(100_000)));
    let many = "sr=AAAA&sig=AAAA&".repeat(40_000);
    let long = format!("sr={}&sig={}", base64(vec![b'x'; 600_000]), base64([0; 32]));
    for handle in [nested, bomb, many, long, "&".repeat(900_000), "sr=&sig=\u{1F511}".to_owned()] {
        client.post("/sign", &hmac_request(&handle, b"m")).expect(400);
    }
    recovers(&mut keyd, files);
}

#[test]
fn truncated_state_is_reported_or_replaced_but_never_used() {
    let (mut keyd, client) = keyd();
    client.create_pair("pair", "ec-p256");
    let handle = client.load_key("x");
    keyd.kill();
    for id in ["x", "pair", VALIDATION_KEY] {
        fs::write(key_file(&keyd.home(), id), "").unwrap();
    }
    keyd.restart();
    let old = client.post("/sign", &hmac_request(&handle, b"m")).status;
    assert!([400, 500].contains(&old), "{old}");
    client.create_key("x", "sign");
    client.create_pair("pair", "ec-p256");
    for id in ["x", VALIDATION_KEY] {
        assert_eq!(fs::read(key_file(&keyd.home(), id)).unwrap().len(), 32);
    }
    client.hmac(&client.load_key("x"), b"m");
}

#[test]
fn death_while_keys_are_made_leaves_the_old_or_the_new() {
    let (mut keyd, client) = keyd();
    let (old, new) = (vec![b'o'; 5000], vec![b'n'; 5000]);
    for round in 0..10 {
        client.import_key("imported", "sign", &old);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..3 {
                let (client, stop, new) = (&client, &stop, &new);
                scope.spawn(move || make_keys(client, worker, round, new, stop));
            }
            thread::sleep(Duration::from_millis(3 + 7 * round));
            keyd.kill();
            stop.store(true, Ordering::Relaxed);
        });
        let imported = fs::read(key_file(&keyd.home(), "imported")).unwrap();
        assert!(imported == old || imported == new, "neither old nor new but {} bytes", imported.len());
        keyd.restart();
        for entry in fs::read_dir(keyd.home().join("keys")).unwrap() {
            let path = entry.unwrap().path();
            let is_key = path.extension().is_some_and(|extension| extension == "key");
            assert!(!is_key || path.metadata().unwrap().len() >= 32, "{}", path.display());
        }
        for worker in 0..3 {
            let status = client.get(&format!("/keypair/pair-{round}-{worker}")).status;
            assert!([200, 400].contains(&status), "there or not there, never broken: {status}");
        }
    }
}

/// Make and import keys until told to stop or the daemon is gone.
fn make_keys(client: &Client, worker: u32, round: u64, new: &[u8], stop: &AtomicBool) {
    let requests = [
        ("/keypair", json!({ "keyId": format!("pair-{round}-{worker}"), "preferredAlgorithms": "ec-p256" })),
        ("/key", json!({ "keyId": "imported", "usage": "sign", "keyBytes": base64(new) })),
        ("/key", json!({ "keyId": format!("key-{round}-{worker}"), "usage": "sign" })),
    ];
    for (path, body) in requests.iter().cycle() {
        let Ok(mut connection) = client.try_connect() else { return };
        let answered =
            connection.try_send(client.bytes("POST", path, Some(body))).and_then(|()| connection.try_reply());
        if answered.is_err() || stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn large_rsa_pairs_in_the_making_do_not_hold_up_others() {
    let keyd = Setup::new(&KEYD).config("[[principal]]\nuid = 1000\nkeys = ['*']\n").start();
    let client = keyd.client();
    let handle = client.create_pair("x", "ec-p256");
    let busy = keyd.as_uid(1000);
    let workers: Vec<_> = (0..2)
        .map(|at| {
            let busy = busy.clone();
            thread::spawn(move || busy.create_pair(&format!("large-{at}"), "rsa-4096"))
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while !workers.iter().all(thread::JoinHandle::is_finished) {
        let start = Instant::now();
        client.post("/sign", &ecdsa_request(&handle, &[1; 32])).expect(200);
        slowest = slowest.max(start.elapsed());
        thread::sleep(Duration::from_millis(10)); // the processors are for the large pairs
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(slowest < Duration::from_secs(2), "a signature took {slowest:?}");
}

#[test]
fn a_full_disk_is_reported_and_old_keys_stay_usable() {
    let setup = Setup::new(&KEYD);
    let home = setup.home().display().to_string();
    let script = format!("mount -t tmpfs -o size=64k none '{home}' && exec \"$0\"");
    let keyd = setup.wrapper(["unshare", "--mount", "sh", "-c", &script]).start();
    let client = keyd.client();
    let first = client.import_key("first", "sign", b"precious");
    let import =
        |at: usize| json!({ "keyId": format!("k{at}"), "usage": "sign", "keyBytes": base64([7; 6000]) });
    let full =
        (0..40).position(|at| client.post("/key", &import(at)).status == 500).expect("64 KiB are soon full");
    let overwrite = json!({ "keyId": "first", "usage": "sign", "keyBytes": base64(vec![8; 100_000]) });
    client.post("/key", &overwrite).expect(500);
    client.post("/keypair", &json!({ "keyId": "pair", "preferredAlgorithms": "rsa-4096" }));
    assert_eq!(client.hmac(&first, b"m"), suite_tests::openssl::hmac(b"precious", b"m"));
    client.get(&format!("/key/k{full}")).expect(400); // what could not be written is not there
    for at in 0..full {
        client.load_key(&format!("k{at}"));
    }
}

/// `work` must be done in a time that nobody would call a hold-up.
#[track_caller]
fn timely<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = work();
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    value
}

//! Tokens that fail, hang, come back, refuse the PIN, or are there twice: keyd goes on and says what is wrong.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{
    harness::{BOUND, Daemon, KEYD, Setup},
    http::{Client, Reply, wait_for},
    keys::{Keys, ecdsa_request, hmac_request},
    openssl::{sha256, verifies},
    p11_kit::RemoteToken,
    softhsm::{LABEL, PIN, SoftHsm},
};

/// A keyd with a token that can be pulled out, and a file key beside it.
pub(crate) fn keyd_with_remote_token() -> (RemoteToken, Daemon, Client) {
    let token = RemoteToken::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let file = setup.directory().join("file-key");
    fs::write(&file, "a key in a file").unwrap();
    let toml = format!("[preloaded_keys]\nfile-key = 'file://{}'\n", file.display());
    let keyd = setup.drop_in("50-preloaded.toml", &toml).start();
    let client = keyd.client();
    (token, keyd, client)
}

/// The reply says that the token is not there, and no more.
#[track_caller]
fn unavailable(reply: Reply) {
    let message = reply.expect(500).string("message");
    assert!(message.contains("token") && message.contains("not available"), "{message}");
    assert!(!message.contains('/') && !message.contains("CKR"), "{message}");
}

#[test]
fn keys_need_20_a_token_that_is_pulled_out_and_comes_back_is_used_again() {
    let (mut token, mut keyd, client) = keyd_with_remote_token();
    let (pair, key) = (client.create_pair("pair", "ec-p256"), client.create_key("key", "sign"));
    let (public, mac) = (client.public_key(&pair), client.hmac(&key, b"m"));
    let file_key = client.load_key("file-key");
    let file_mac = client.hmac(&file_key, b"m");
    for _ in 0..2 {
        token.pull_out();
        for _ in 0..3 {
            unavailable(client.post("/sign", &ecdsa_request(&pair, &[1; 32])));
            unavailable(client.get("/key/never-seen"));
            assert_eq!(client.hmac(&file_key, b"m"), file_mac, "a key in a file needs no token");
        }
        token.plug_in();
        let back = Instant::now();
        let digest = sha256(b"m");
        let signature = wait_for("the token to be used again", Duration::from_secs(10), || {
            let reply = client.post("/sign", &ecdsa_request(&pair, &digest));
            (reply.status == 200).then(|| reply.bytes("signature"))
        });
        assert!(verifies(&public, &digest, &signature, &[]));
        assert!(back.elapsed() < Duration::from_secs(10));
        assert_eq!(client.hmac(&key, b"m"), mac);
        client.create_pair("new", "ec-p256");
    }
    assert!(keyd.is_running());
    keyd.wait_for_log(BOUND, |line| line.starts_with("<6>") && line.contains("works again"));
}

#[test]
fn keys_need_20_only_requests_in_flight_fail_while_a_token_is_exchanged() {
    let (mut token, _keyd, client) = keyd_with_remote_token();
    let pair = client.create_pair("pair", "ec-p256");
    let until = Instant::now() + Duration::from_secs(6);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (client, pair) = (client.clone(), pair.clone());
            thread::spawn(move || {
                let mut statuses = Vec::new();
                while Instant::now() < until {
                    let reply = client.post("/sign", &ecdsa_request(&pair, &[1; 32]));
                    statuses.push(reply.status);
                    if reply.status != 200 {
                        unavailable(reply);
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                statuses
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    token.pull_out();
    token.plug_in();
    for caller in callers {
        let statuses = caller.join().unwrap();
        assert!(statuses.iter().all(|status| [200, 500].contains(status)), "{statuses:?}");
        let (served, last) = (statuses.iter().filter(|status| **status == 200).count(), statuses.last());
        assert_eq!(last, Some(&200), "the token is back");
        assert!(served > statuses.len() / 2, "{served} of {}", statuses.len());
    }
}

#[test]
fn keys_need_20_a_token_that_hangs_delays_no_file_key() {
    let (token, _keyd, client) = keyd_with_remote_token();
    let pair = client.create_pair("pair", "ec-p256");
    client.ecdsa(&pair, &[1; 32]);
    let file_key = client.load_key("file-key");
    let file_mac = client.hmac(&file_key, b"m");
    token.signal(Signal::STOP);
    let begun = Instant::now();
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let (client, request) = (client.clone(), ecdsa_request(&pair, &[1; 32]));
            thread::spawn(move || unavailable(client.post("/sign", &request)))
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while !callers.iter().all(thread::JoinHandle::is_finished) {
        let begun = Instant::now();
        assert_eq!(client.hmac(&file_key, b"m"), file_mac);
        slowest = slowest.max(begun.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let answered = begun.elapsed();
    assert!(answered > Duration::from_secs(5) && answered < Duration::from_secs(25), "{answered:?}");
    assert!(slowest < Duration::from_secs(2), "a file key took {slowest:?}");
    let begun = Instant::now();
    unavailable(client.post("/sign", &ecdsa_request(&pair, &[1; 32])));
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody joins those who wait in vain");
    token.signal(Signal::CONT);
    wait_for("the token to be used again", Duration::from_secs(20), || {
        (client.post("/sign", &ecdsa_request(&pair, &[1; 32])).status == 200).then_some(())
    });
}

#[test]
fn keys_need_11_a_wrong_pin_is_tried_once_and_a_new_one_is_taken_up() {
    let token = SoftHsm::new();
    let setup = Setup::new(&KEYD);
    let (calls, pin) = (setup.directory().join("calls"), setup.directory().join("pin"));
    fs::write(&pin, "0000").unwrap();
    let uri = format!("pkcs11:token={LABEL}?pin-source={}", pin.display());
    let setup = token.base_slot_at(setup, &uri).drop_in("60-spy.toml", &SoftHsm::spy_settings());
    let setup = setup.env("PKCS11SPY", SoftHsm::library()).env("PKCS11SPY_OUTPUT", &calls);
    let logins = || fs::read_to_string(&calls).unwrap().matches("C_Login").count();
    let mut keyd = setup.start();
    let client = keyd.client();
    keyd.wait_for_log(BOUND, |line| {
        line.starts_with("<3>") && line.contains("refused the PIN (it is wrong)")
    });
    for _ in 0..5 {
        unavailable(client.get("/key/a"));
        unavailable(client.post("/key", &json!({ "keyId": "a", "usage": "sign" })));
        unavailable(client.post("/keypair", &json!({ "keyId": "a" })));
    }
    assert_eq!(logins(), 1, "a wrong PIN locks a token after a few attempts");
    assert!(!keyd.log().contains("0000"));
    fs::write(&pin, PIN).unwrap();
    let key = client.create_key("a", "sign");
    client.hmac(&key, b"m");
    assert_eq!(logins(), 2);
    fs::remove_file(&pin).unwrap();
    keyd.restart();
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("cannot be read from"));
    unavailable(client.post("/sign", &hmac_request(&key, b"m")));
    assert!(keyd.terminate().success());
    assert!(fs::read_to_string(&calls).unwrap().contains("C_Finalize"), "the library is left in order");
}

#[test]
fn keys_a_token_that_does_not_exist_spoils_its_own_keys_only() {
    let token = SoftHsm::new();
    let preloaded = "[preloaded_keys]\nlost = 'pkcs11:token=absent;object=x?pin-value=1'\n";
    let keyd = token.base_slot(Setup::new(&KEYD)).drop_in("50-preloaded.toml", preloaded).start();
    let client = keyd.client();
    let key = client.create_key("key", "sign");
    let mac = client.hmac(&key, b"m");
    for _ in 0..3 {
        unavailable(client.get("/key/lost"));
        unavailable(client.post("/keypair", &json!({ "keyId": "lost" })));
        assert_eq!(client.hmac(&key, b"m"), mac);
    }
    keyd.wait_for_log(BOUND, |line| {
        line.starts_with("<3>") && line.contains("no token token=absent; there are sample")
    });
    assert!(!keyd.log().contains("made ready anew"), "other tokens are not disturbed");
}

#[test]
fn keys_two_tokens_of_one_label_are_not_guessed_between() {
    let token = SoftHsm::new();
    token.base_slot(Setup::new(&KEYD)).start().client().create_key("key", "sign");
    let objects = token.objects();
    token.add(LABEL);
    let ended = token.base_slot(Setup::new(&KEYD)).start_and_end();
    assert_eq!(ended.status.code(), Some(1));
    let (_, serials) = ended.log.split_once("serial numbers ").expect("the log has a way out");
    let serials: Vec<_> = serials.split(';').next().unwrap().split(", ").collect();
    assert_eq!(serials.len(), 2, "{}", ended.log);
    let mut found = 0;
    for serial in serials {
        let uri = format!("pkcs11:token={LABEL};serial={serial}?pin-value={PIN}");
        let keyd = token.base_slot_at(Setup::new(&KEYD), &uri).start();
        found += u32::from(keyd.client().get("/key/key").status == 200);
    }
    assert_eq!((found, objects.len()), (1, 2), "the key is where it was");
}

#[test]
fn keys_what_others_remove_from_a_token_is_missing_and_made_anew() {
    let token = SoftHsm::new();
    let keyd = token.base_slot(Setup::new(&KEYD)).start();
    let client = keyd.client();
    let (pair, key) = (client.create_pair("pair", "ec-p256"), client.create_key("key", "sign"));
    let (public, mac) = (client.public_key(&pair), client.hmac(&key, b"m"));
    client.ecdsa(&pair, &[1; 32]);
    for (kind, label) in [("privkey", "pair"), ("pubkey", "pair"), ("secrkey", "key")] {
        token.tool(&["--delete-object", "--type", kind, "--label", label]);
    }
    client.get("/keypair/pair").expect(400);
    client.get("/key/key").expect(400);
    client.post("/sign", &ecdsa_request(&pair, &[1; 32])).expect(400);
    client.post("/sign", &hmac_request(&key, b"m")).expect(400);
    assert_ne!(client.public_key(&client.create_pair("pair", "ec-p256")), public);
    assert_ne!(client.hmac(&client.create_key("key", "sign"), b"m"), mac);
    token.tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--label", "made elsewhere"]);
    let elsewhere = client.load_pair("made elsewhere");
    let digest = sha256(b"m");
    assert!(verifies(&client.public_key(&elsewhere), &digest, &client.ecdsa(&elsewhere, &digest), &[]));
}

/// What a power loss amid a move leaves behind.
#[test]
fn keys_60_decided_an_interrupted_move_is_undone_and_half_a_pair_is_kept() {
    let token = SoftHsm::new();
    let make = |label| {
        token.tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--label", label]);
    };
    let remove = |kind, label| {
        token.tool(&["--delete-object", "--type", kind, "--label", label]);
    };
    let keyd = token.base_slot(Setup::new(&KEYD)).start();
    let client = keyd.client();

    make("aziot-replaced:both parked");
    client.load_pair("both parked");
    make("aziot-replaced:new half there");
    make("new half there");
    remove("privkey", "new half there");
    let pair = client.load_pair("new half there");
    let digest = sha256(b"m");
    assert!(verifies(&client.public_key(&pair), &digest, &client.ecdsa(&pair, &digest), &[]));

    make("aziot-replaced:done");
    make("done");
    let source = client.public_key(&client.create_pair("source", "ec-p256"));
    client.post("/keypair/done", &json!({ "from": "source" })).expect(204);
    assert_eq!(client.public_key(&client.load_pair("done")), source);

    make("private half");
    remove("pubkey", "private half");
    client.get("/keypair/private half".replace(' ', "%20").as_str()).expect(400);
    client.create_pair("private half", "ec-p256");
    let objects = token.objects();
    let has = |object: &str| objects.iter().any(|one| one == object);
    assert!(has("new half there.corrupt: Public Key Object; EC  EC_POINT 256 bits"), "{objects:?}");
    assert!(has("private half.corrupt: Private Key Object; EC"), "{objects:?}");
    assert!(!objects.iter().any(|object| object.contains("aziot-replaced")), "{objects:?}");
}

//! Key pairs that change on a token while others use them, that the token makes only at the second try, and that are there
//! twice.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, Daemon, KEYD, Setup},
    keys::{Keys, by_handle, ecdsa_request},
    openssl::{sha256, verifies},
    softhsm::SoftHsm,
};

/// keyd with a token that is slow to relabel objects, fails to make pairs as often as the file has bytes, and fails the search
/// that is so many searches ahead as [`searches`] has bytes.
fn keyd() -> (SoftHsm, Daemon, PathBuf) {
    let token = SoftHsm::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let (library, failures) = (setup.directory().join("slow.so"), setup.directory().join("failures"));
    SoftHsm::wrap(SLOW, &library);
    let toml = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
    let searches = searches(&failures);
    let setup = setup.drop_in("60-slow.toml", &toml);
    let keyd = setup.env("FAILURES", &failures).env("SEARCHES", searches).start();
    (token, keyd, failures)
}

fn searches(failures: &Path) -> PathBuf {
    failures.with_file_name("searches")
}

/// What the renewal of a certificate does, while programs use the key: whoever asks is late at worst.
#[test]
fn keys_60_a_pair_is_moved_while_it_is_used() {
    let (token, keyd, _) = keyd();
    let client = keyd.client();
    let handle = client.create_pair("id", "ec-p256");
    let (is_over, digest) = (AtomicBool::new(false), sha256(b"m"));
    thread::scope(|scope| {
        let repeat = |ask: &(dyn Fn() -> u16 + Sync)| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(ask(), 200);
            }
        };
        let client = &client;
        let (look, sign) = (|| client.get("/keypair/id").status, ecdsa_request(&handle, &digest));
        let sign = move || client.post("/sign", &sign).status;
        let readers = [scope.spawn(move || repeat(&look)), scope.spawn(move || repeat(&sign))];
        // Also if something fails here.
        let ending = End(&is_over);
        for _ in 0..5 {
            let new = client.public_key(&client.create_pair("temp", "ec-p256"));
            client.post("/keypair/id", &json!({ "from": "temp" })).expect(204);
            let pair = client.load_pair("id");
            assert!(client.public_key(&pair) == new && client.public_key(&handle) == new);
            assert!(verifies(&new, &digest, &client.ecdsa(&pair, &digest), &[]));
        }
        drop(ending);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let mut objects = token.objects();
    objects.retain(|object| !object.starts_with("handle-validation-key"));
    assert_eq!(objects, ["id: Private Key Object; EC", "id: Public Key Object; EC  EC_POINT 256 bits"]);
}

/// Tells the readers to stop when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn keys_58_decided_a_bad_moment_of_the_token_does_not_decide_on_the_algorithm() {
    let (_token, keyd, failures) = keyd();
    let client = keyd.client();
    let make = |id: &str, times: usize| {
        fs::write(&failures, vec![b'x'; times]).unwrap();
        client.post("/keypair", &json!({ "keyId": id }))
    };
    make("bad moment", 2).expect(200);
    assert_eq!(client.parameter(&client.load_pair("bad moment"), "algorithm"), "ECDSA");
    assert!(!keyd.log().contains("first choice"), "{}", keyd.log());
    make("lasting", 3).expect(200);
    assert_eq!(client.parameter(&client.load_pair("lasting"), "algorithm"), "RSA");
    keyd.wait_for_log(BOUND, |line| line.starts_with("<4>") && line.contains("not the first choice"));
    make("for ever", 100).expect(500);
    make("at last", 0);
    // Nor does a bad moment in the search for what is there already.
    let failing = (1..=12).filter(|ahead| {
        let id = format!("search {ahead}");
        fs::write(searches(&failures), vec![b'x'; *ahead]).unwrap();
        let reply = client.post("/keypair", &json!({ "keyId": id }));
        fs::write(searches(&failures), "").unwrap();
        if reply.status != 200 {
            reply.expect(500);
            return true;
        }
        assert_eq!(client.parameter(&client.load_pair(&id), "algorithm"), "ECDSA", "{id}");
        false
    });
    assert!(failing.count() > 2, "searches that are needed");
}

/// Others can make several pairs of one label. Then the halves must be those of one pair.
#[test]
fn keys_56_decided_of_two_pairs_with_one_label_one_is_used() {
    let (token, keyd, _) = keyd();
    let client = keyd.client();
    let make = |label: &str, id: &[&str]| {
        let make = ["--keypairgen", "--key-type", "EC:prime256v1", "--label", label];
        token.tool(&[&make, id].concat());
    };
    let digest = sha256(b"m");
    let verifies = |label| {
        let pair = client.load_pair(label);
        assert!(verifies(&client.public_key(&pair), &digest, &client.ecdsa(&pair, &digest), &[]), "{label}");
        pair
    };
    for label in ["named 1", "named 2", "named 3"] {
        make(label, &["--id", "02"]);
        make(label, &["--id", "01"]);
        verifies(label);
    }
    for label in ["alike 1", "alike 2", "alike 3"] {
        make(label, &["--id", "01"]);
        make(label, &["--id", "01"]);
        verifies(label);
    }
    let new = client.public_key(&client.create_pair("temp", "ec-p256"));
    client.post("/keypair/named%201", &json!({ "from": "temp" })).expect(204);
    assert_eq!(client.public_key(&verifies("named 1")), new);
    client.delete("/keypair", Some(&by_handle(&client.load_pair("alike 1")))).expect(204);
    client.get("/keypair/alike%201").expect(400);

    make("three halves", &[]);
    make("three halves", &[]);
    token.tool(&["--delete-object", "--type", "pubkey", "--label", "three halves"]);
    verifies("three halves");
    // Which one of two is deleted is up to the token, and which one it finds first.
    for label in ["two publics 1", "two publics 2", "two publics 3", "two publics 4"] {
        make(label, &["--id", "01"]);
        make(label, &["--id", "01"]);
        token.tool(&["--delete-object", "--type", "privkey", "--label", label]);
        verifies(label);
    }
}

/// SoftHSM2 that takes its time to change attributes, and says `CKR_GENERAL_ERROR` (5) instead of making a pair as long as
/// the file `FAILURES` has a byte to take away.
const SLOW: &str = r#"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct list list;
static ul (*set_attributes)(ul, ul, void *, ul);
static ul (*make_pair)(ul, void *, void *, ul, void *, ul, ul *, ul *);
static ul (*begin_search)(ul, void *, ul);

static ul set_slowly(ul session, ul object, void *attributes, ul count) {
    ul answer = set_attributes(session, object, attributes, count);
    usleep(20000);
    return answer;
}

static ul make_perhaps(ul session, void *mechanism, void *a, ul as, void *b, ul bs, ul *public, ul *private) {
    struct stat left;
    const char *failures = getenv("FAILURES");
    if (stat(failures, &left) == 0 && left.st_size > 0 && truncate(failures, left.st_size - 1) == 0) return 5;
    return make_pair(session, mechanism, a, as, b, bs, public, private);
}

static ul search_perhaps(ul session, void *template, ul count) {
    struct stat left;
    const char *searches = getenv("SEARCHES");
    if (stat(searches, &left) == 0 && left.st_size > 0 && truncate(searches, left.st_size - 1) == 0 && left.st_size == 1) return 5;
    return begin_search(session, template, count);
}

ul C_GetFunctionList(struct list **out) {
    list = *softhsm();
    begin_search = list.function[26];
    list.function[26] = search_perhaps;
    set_attributes = list.function[25];
    make_pair = list.function[59];
    list.function[25] = set_slowly;
    list.function[59] = make_perhaps;
    *out = &list;
    return 0;
}
"#;

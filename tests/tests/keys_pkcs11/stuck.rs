//! Libraries whose calls do not return, so that they can never be made ready anew: a copy takes their place.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use suite_tests::{
    harness::{BOUND, Daemon, KEYD, Setup},
    http::wait_for,
    keys::{Keys, ecdsa_request},
    softhsm::SoftHsm,
};

/// keyd with a library that gets stuck on demand.
struct Site {
    keyd: Daemon,
    orders: PathBuf,
    _token: SoftHsm,
}

impl Site {
    #[track_caller]
    fn new() -> Self {
        let token = SoftHsm::new();
        let setup = token.base_slot(Setup::new(&KEYD));
        let orders = setup.directory().to_owned();
        let library = orders.join("stuck.so");
        SoftHsm::wrap(SOURCE, &library);
        let toml = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
        let keyd = setup.drop_in("60-stuck.toml", &toml).env("ORDERS", &orders).start();
        Self { keyd, orders, _token: token }
    }

    /// The file by which the library is told to do `what`, or tells that it has.
    fn order(&self, what: &str) -> PathBuf {
        self.orders.join(what)
    }
}

/// One call gets stuck, and to all others the token is gone.
#[test]
fn keys_need_20_a_library_that_keeps_a_call_and_loses_its_token_is_replaced_within_seconds() {
    let site = Site::new();
    let client = site.keyd.client();
    let request = ecdsa_request(&client.create_pair("pair", "ec-p256"), &[1; 32]);
    let get_stuck = || {
        fs::write(site.order("gone"), "").unwrap();
        let begun = Instant::now();
        let stuck = thread::spawn({
            let (client, request) = (client.clone(), request.clone());
            move || client.post("/sign", &request)
        });
        wait_for("a call to be stuck", BOUND, || (!site.order("gone").exists()).then_some(()));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..5).for_each(|_| drop(client.post("/sign", &request).expect(200))));
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        assert!(!stuck.is_finished());
        stuck
    };
    // Each copy has variables of its own; those that have come to their end are used again.
    for (times, ended) in [(2, 2), (1, 3)] {
        let stuck: Vec<_> = (0..times).map(|_| get_stuck()).collect();
        fs::write(site.order("release"), "").unwrap();
        for stuck in stuck {
            // Late answers count, unless they are too late.
            let status = stuck.join().unwrap().status;
            assert!([200, 500].contains(&status), "{status}");
        }
        wait_for("the libraries that were left behind to be ended", BOUND, || {
            let has_ended = fs::read_to_string(site.order("ended")).unwrap_or_default().len() == ended;
            has_ended.then_some(())
        });
        fs::remove_file(site.order("release")).unwrap();
    }
    site.keyd.wait_for_log(BOUND, |line| line.starts_with("<4>") && line.contains("a copy of the library"));
}

/// No call returns any more.
#[test]
fn keys_need_20_a_library_that_keeps_all_calls_is_replaced_when_they_are_overdue() {
    let site = Site::new();
    let client = site.keyd.client();
    let request = ecdsa_request(&client.create_pair("pair", "ec-p256"), &[1; 32]);
    fs::write(site.order("mute"), "").unwrap();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| client.post("/sign", &request).expect(500));
        }
    });
    let begun = Instant::now();
    wait_for("the token to be used again", Duration::from_secs(30), || {
        let asked = Instant::now();
        let reply = client.post("/sign", &request);
        assert!(reply.status == 200 || asked.elapsed() < Duration::from_secs(2), "it is refused at once");
        (reply.status == 200).then_some(())
    });
    println!("used again after {:?}", begun.elapsed());
    (0..20).for_each(|_| drop(client.post("/sign", &request).expect(200)));
}

/// Takes orders from files in the directory `ORDERS`: after `gone`, one call to sign is stuck and all others are told that
/// the device was removed (0x32); after `mute`, none returns. What is stuck goes on after `release`.
const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct list list;
static ul (*sign)(ul, void *, ul, void *, ul *);
static ul (*open_session)(ul, ul, void *, void *, ul *);
static volatile int is_gone, is_mute;

static char *order(char *path, const char *what) {
    sprintf(path, "%s/%s", getenv("ORDERS"), what);
    return path;
}

static void stay(void) {
    char path[4096];
    while (access(order(path, "release"), F_OK)) usleep(20000);
}

static ul stuck_sign(ul session, void *data, ul length, void *signature, ul *size) {
    char path[4096];
    if (!is_gone && !is_mute) {
        if (unlink(order(path, "gone")) == 0) {
            is_gone = 1;
            stay();
        } else if (unlink(order(path, "mute")) == 0) {
            is_mute = 1;
        }
    } else if (is_gone) {
        return 0x32;
    }
    if (is_mute) stay();
    return sign(session, data, length, signature, size);
}

static ul stuck_open(ul slot, ul flags, void *application, void *notify, ul *session) {
    if (is_mute) stay();
    return is_gone ? 0x32 : open_session(slot, flags, application, notify, session);
}

static ul end(void *reserved) {
    char path[4096];
    int file = open(order(path, "ended"), O_CREAT | O_WRONLY | O_APPEND, 0600);
    if (write(file, "x", 1) != 1) abort();
    close(file);
    is_gone = is_mute = 0;
    /* SoftHSM2 itself is not loaded twice. */
    return 0;
}

ul C_GetFunctionList(struct list **out) {
    list = *softhsm();
    open_session = list.function[12];
    sign = list.function[43];
    list.function[1] = end;
    list.function[12] = stuck_open;
    list.function[43] = stuck_sign;
    *out = &list;
    return 0;
}
"#;

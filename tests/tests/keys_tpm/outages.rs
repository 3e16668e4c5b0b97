//! A TPM that goes and comes back: who comes meanwhile is late, but served.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::PATIENCE,
    keys::{Keys, hmac_request},
    swtpm::Swtpm,
};

use super::Site;

#[test]
fn a_tpm_that_is_reset_loses_nothing_but_requests_in_flight() {
    let mut site = Site::start();
    let client = site.client();
    let key = client.create_key("key", "sign");
    let (mac, request) = (client.hmac(&key, b"m"), hmac_request(&key, b"m"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (client, request, mac, over) = (client.clone(), &request, &mac, &over);
                scope.spawn(move || {
                    let (mut good, mut bad) = (0, 0);
                    while !over.load(Ordering::Relaxed) {
                        let id = format!("key{caller}-{good}");
                        let reply = match caller {
                            0 => client.post("/key", &json!({ "keyId": id, "usage": "sign" })),
                            _ => client.post("/sign", request),
                        };
                        match reply.status {
                            200 if caller > 0 => assert_eq!(reply.bytes("signature"), *mac),
                            _ => {}
                        }
                        good += u32::from(reply.status == 200);
                        bad += u32::from(reply.status != 200);
                    }
                    (good, bad)
                })
            })
            .collect();
        for _ in 0..RESETS {
            thread::sleep(Duration::from_millis(300));
            site.tpm.pull_out();
            thread::sleep(Duration::from_millis(1500));
            site.tpm.plug_in();
        }
        thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            let (good, bad) = caller.join().unwrap();
            assert!(good > 10, "{good} requests");
            assert!(bad <= RESETS, "at most the one in flight fails at each reset: {bad}");
        }
    });
    site.end().1.holds_nothing_transient();
}

/// Who comes when it has lasted is told at once.
#[test]
fn a_long_outage_is_told_at_once() {
    let mut site = Site::on(Swtpm::start(), "new_keys = true\n");
    let client = site.client();
    let key = client.create_key("key", "sign");
    let request = hmac_request(&key, b"m");
    site.tpm.pull_out();
    let start = Instant::now();
    client.post("/sign", &request).expect(500);
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(15), "{waited:?}");
    site.keyd.wait_for_log(PATIENCE, |line| line.contains("cannot be reached through the TCTI"));
    let start = Instant::now();
    (0..10).for_each(|_| drop(client.post("/sign", &request).expect(500)));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn only_keyd_writes_its_log() {
    let config = "[tpm]\ntcti = 'swtpm:path=/nowhere'\nnew_keys = true\n";
    let keyd = Setup::new(&KEYD).config(config).start();
    keyd.client().post("/keypair", &json!({ "keyId": "pair" })).expect(500);
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("/keypair"));
    let log = keyd.log();
    assert!(log.lines().all(|line| line.starts_with('<')), "tpm2-tss writes, too: {log}");
}

const RESETS: u32 = 4;
const CALLERS: usize = 4;

//! TPMs that come late, hang, are reset or cleared.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{
    harness::{KEYD, Setup},
    http::{PATIENCE, Reply, wait_for},
    keys::{Keys, ecdsa_request, hmac_request},
    openssl::{sha256, verifies},
    swtpm::Swtpm,
};

use super::Site;

/// A TPM that does not answer delays nobody who does not need it.
#[test]
fn a_stalled_tpm_delays_no_other_key() {
    let site = Site::on(Swtpm::start(), "[preloaded_keys]\nwrapped = 'tpm:'\n");
    let client = site.client();
    let (wrapped, plain) = (client.create_key("wrapped", "sign"), client.create_key("plain", "sign"));
    let mac = client.hmac(&wrapped, b"m");
    site.tpm.signal(Signal::STOP);
    let (late, request) = (site.client(), hmac_request(&wrapped, b"m"));
    let waiting = thread::spawn(move || late.post("/sign", &request));
    thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    for _ in 0..20 {
        client.hmac(&plain, b"m");
        client.load_key("wrapped");
    }
    client.create_pair("new", "ec-p256");
    assert!(start.elapsed() < Duration::from_secs(5) && !waiting.is_finished());
    site.tpm.signal(Signal::CONT);
    assert_eq!(waiting.join().unwrap().expect(200).bytes("signature"), mac);
}

/// Of many who come while the TPM does not answer, those for whom there is no room are told at once, and so is everybody
/// once it has lasted. Afterwards all is as before.
#[test]
fn a_stalled_tpm_refuses_at_once_what_cannot_be_done() {
    let tpm = Swtpm::start();
    let door = tpm.door();
    let tcti = Swtpm::tcti_through(&door);
    let config = format!("max_requests = 64\n[tpm]\ntcti = '{tcti}'\nnew_keys = true\n");
    let site = Site { keyd: Setup::new(&KEYD).config(&config).start(), tpm };
    let client = site.client();
    let key = client.create_key("key", "sign");
    let (mac, request) = (client.hmac(&key, b"m"), hmac_request(&key, b"m"));
    door.shut();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, request) = (site.client(), request.clone());
            thread::spawn(move || {
                let start = Instant::now();
                unavailable(&client.post("/sign", &request));
                start.elapsed()
            })
        })
        .collect();
    let times: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    assert!(times.iter().all(|time| *time < Duration::from_secs(30)), "before clients give up: {times:?}");
    let at_once = times.iter().filter(|time| **time < Duration::from_secs(10)).count();
    assert_eq!(at_once, CALLERS - QUEUE - 1, "one is under way, others wait: {times:?}");
    let start = Instant::now();
    (0..10).for_each(|_| unavailable(&client.post("/sign", &request)));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    for reason in
        ["too many requests wait for the TPM", "did not answer within", "the TPM has not answered for"]
    {
        site.keyd.wait_for_log(PATIENCE, |line| line.contains(reason));
    }
    door.open();
    wait_for("the TPM", Duration::from_secs(5), || {
        (client.post("/sign", &request).status == 200).then_some(())
    });
    assert_eq!(client.hmac(&key, b"m"), mac);
    site.end().1.holds_nothing_transient();
}

#[test]
fn a_tpm_that_comes_late_is_used() {
    let mut site = Site::on(Swtpm::absent(), "new_keys = true\n");
    let client = site.client();
    let create = || client.post("/keypair", &json!({ "keyId": "pair" }));
    let reply = create();
    unavailable(&reply);
    site.keyd.wait_for_log(PATIENCE, |line| line.contains("the TPM cannot be reached through the TCTI"));
    site.tpm.plug_in();
    wait_for("the TPM", PATIENCE, || (create().status == 200).then_some(()));
}

/// Keys outlive a reset of the TPM, but not its end.
#[test]
fn a_reset_changes_nothing_and_another_tpm_everything() {
    let mut site = Site::start();
    let (client, digest) = (site.client(), sha256(b"m"));
    let pair = client.create_pair("pair", "ec-p256");
    let public = client.public_key(&pair);
    site.tpm.pull_out();
    site.tpm.plug_in_unstarted();
    wait_for("the TPM", PATIENCE, || {
        let reply = client.post("/sign", &ecdsa_request(&pair, &digest));
        (reply.status == 200).then(|| assert!(verifies(&public, &digest, &reply.bytes("signature"), &[])))
    });
    site.keyd.kill();
    site.tpm.tpm2("tpm2_clear", &["-c", "p"]);
    site.keyd.restart();
    client.post("/sign", &ecdsa_request(&pair, &digest)).expect(500);
    site.keyd
        .wait_for_log(PATIENCE, |line| line.contains("made by another TPM, or the TPM has been cleared"));
    assert_eq!(client.public_key(&client.create_pair("pair", "ec-p256")), public, "nothing is overwritten");
}

/// The reply says that the TPM is not there, and no more.
#[track_caller]
pub(crate) fn unavailable(reply: &Reply) {
    assert_eq!(reply.status, 500);
    let message = reply.string("message");
    assert!(message.contains("TPM with the key is not available"), "{message}");
}

/// How many may wait for the TPM.
const QUEUE: usize = 32;
const CALLERS: usize = QUEUE + 8;

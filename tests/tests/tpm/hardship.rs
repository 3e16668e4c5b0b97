//! TPMs that come late, go away, or hang: checklist 37, 38.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use suite_tests::{
    harness::{Setup, TPMD},
    http::{PATIENCE, wait_for},
    swtpm::Swtpm,
};

use super::{Site, hmac, refused, setup, signing};

#[test]
fn tpm_37_38_no_tpm_is_a_normal_state() {
    let mut site = Site::on(Swtpm::absent());
    refused(site.client().get("/get_tpm_keys"), "cannot be used at present");
    refused(site.try_sign(b"x"), "cannot be used at present");
    refused(site.try_import(&[]), "cannot be used at present");
    let reason = site.tpmd.wait_for_log(PATIENCE, |line| line.contains("cannot be reached"));
    assert!(reason.contains("0xA00"), "the log has the code: {reason}");
    assert!(site.tpmd.is_running());
    // It is looked for without anybody asking, and found.
    site.tpm.plug_in();
    site.tpmd.wait_for_log(PATIENCE, |line| line.contains("the TPM is ready"));
    site.import(&[1; 32]);
    site.signs_with(&[1; 32]);
}

#[test]
fn decided_an_absent_tpm_does_not_fill_the_log() {
    let site = Site::on(Swtpm::absent());
    for _ in 0..20 {
        refused(site.try_sign(b"x"), "cannot be used at present");
    }
    thread::sleep(Duration::from_secs(2));
    let log = site.tpmd.log();
    let told = log.lines().filter(|line| line.contains("requests are refused until that changes")).count();
    assert_eq!(told, 1, "{log}");
}

/// The TPM is killed under load and comes back: requests that arrive meanwhile wait for it, those under way may fail, with
/// a clear error; nobody restarts tpmd.
#[test]
fn decided_a_tpm_that_is_reset_loses_nothing_but_requests_in_flight() {
    let mut site = Site::start();
    site.import(&[2; 32]);
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4_u8)
        .map(|caller| {
            let (client, over) = (site.client(), Arc::clone(&over));
            thread::spawn(move || {
                let (mut good, mut bad) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let reply = client.post("/sign_with_auth_key", &signing(&[caller; 40]));
                    match reply.status {
                        200 => {
                            assert_eq!(reply.bytes("digest"), hmac(&[2; 32], &[caller; 40]));
                            good += 1;
                        }
                        _ => {
                            refused(reply, "cannot be used at present");
                            bad += 1;
                        }
                    }
                }
                (good, bad)
            })
        })
        .collect();
    let resets = 5;
    for _ in 0..resets {
        thread::sleep(Duration::from_millis(300));
        site.tpm.pull_out();
        thread::sleep(Duration::from_millis(700));
        site.tpm.plug_in();
        let start = Instant::now();
        wait_for("a signature", PATIENCE, || (site.try_sign(b"x").status == 200).then_some(()));
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        let (good, bad) = caller.join().unwrap();
        assert!(good > 20, "{good} signatures");
        assert!(bad <= resets, "at most the one in flight fails at each reset: {bad}");
    }
    site.stop_and_check();
}

#[test]
fn decided_a_long_outage_is_told_at_once() {
    let mut site = Site::start();
    site.keys();
    site.tpm.pull_out();
    // The first one waits a little, in case it comes back.
    refused(site.client().get("/get_tpm_keys"), "cannot be used at present");
    let start = Instant::now();
    for _ in 0..10 {
        refused(site.client().get("/get_tpm_keys"), "cannot be used at present");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn decided_a_tpm_that_hangs_does_not_hang_its_callers() {
    let site = Site::start();
    site.import(&[3; 32]);
    site.tpm.signal(Signal::STOP);
    let start = Instant::now();
    refused(site.try_sign(b"x"), "has not answered within");
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
    site.client().get("/nothing").expect(404);
    site.tpm.signal(Signal::CONT);
    site.signs_again();
    site.signs_with(&[3; 32]);
    site.stop_and_check();
}

/// Of many who come while the TPM does not answer, those for whom there is no room are told at once, and so is everybody
/// once it has lasted. Afterwards all is as before.
#[test]
fn decided_a_stalled_tpm_refuses_at_once_what_cannot_be_done() {
    let tpm = Swtpm::start();
    let door = tpm.door();
    let config = format!("max_requests = 64\ntcti = '{}'\n", Swtpm::tcti_through(&door));
    let site = Site { tpmd: Setup::new(&TPMD).config(&config).start(), tpm };
    site.import(&[6; 32]);
    door.shut();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let client = site.client();
            thread::spawn(move || {
                let start = Instant::now();
                (client.post("/sign_with_auth_key", &signing(b"x")), start.elapsed())
            })
        })
        .collect();
    let mut at_once = 0;
    for caller in callers {
        let (reply, time) = caller.join().unwrap();
        assert!(time < Duration::from_secs(35), "{time:?}");
        let is_at_once = time < Duration::from_secs(10);
        refused(reply, if is_at_once { "too many requests wait" } else { "has not answered within" });
        at_once += usize::from(is_at_once);
    }
    assert_eq!(at_once, CALLERS - QUEUE - 1, "one is under way, others wait");
    let start = Instant::now();
    for _ in 0..10 {
        refused(site.try_sign(b"x"), "the TPM has not answered for");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    door.open();
    site.signs_again();
    site.signs_with(&[6; 32]);
    let Site { tpmd, tpm } = site;
    tpmd.stop();
    tpm.holds_nothing_transient();
}

/// A TPM that asks for TPM2_Startup, as after a reset that nobody followed up.
#[test]
fn decided_a_tpm_that_was_not_started_is_started() {
    let mut tpm = Swtpm::absent();
    tpm.plug_in_unstarted();
    let site = Site::on(tpm);
    site.import(&[4; 32]);
    site.signs_with(&[4; 32]);
}

/// Killed in the middle of its work, tpmd leaves objects in a TPM without resource manager; its successor clears them away
/// when the TPM is full.
#[test]
fn decided_the_strays_of_a_killed_daemon_are_removed() {
    let site = Site::start();
    site.keys();
    let (tpm, setup) = site.stop_and_check();
    assert!(tpm.fill() > 0);
    let site = Site { tpmd: setup.start(), tpm };
    site.import(&[5; 32]);
    site.signs_with(&[5; 32]);
    site.tpmd.wait_until_logged("the TPM is full");
    site.stop_and_check();
}

/// Ended while it makes its keys, tpmd finishes what it has begun.
#[test]
fn decided_an_early_end_leaves_nothing_behind() {
    for millis in [0, 20, 50, 100, 200] {
        let site = Site::start();
        thread::sleep(Duration::from_millis(millis));
        site.stop_and_check();
    }
}

#[test]
fn decided_tpmd_starts_without_a_tpm_faster_than_systemd_asks() {
    let tpm = Swtpm::absent();
    let start = Instant::now();
    let tpmd = setup(&tpm).start();
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(tpmd);
}

/// How many may wait for the TPM.
const QUEUE: usize = 32;
const CALLERS: usize = QUEUE + 8;

//! Whose threads a TPM may keep waiting that does not answer.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{keys::Keys, swtpm::Swtpm};

use super::Site;

/// Many wait for keys that a TPM should make and does not: keys in files that need a thread have one, and so has a changed
/// configuration.
#[test]
fn a_stalled_tpm_keeps_no_thread_from_files() {
    let tpm = Swtpm::start();
    let cold = tpm.path().join("cold");
    fs::write(&cold, "a key in a file").unwrap();
    let places: String = (0..CALLERS).map(|caller| format!("wrapped{caller} = 'tpm:'\n")).collect();
    let config = format!("[preloaded_keys]\ncold = 'file://{}'\n{places}", cold.display());
    let site = Site::with(tpm, "max_requests = 64\n", &config);
    let client = site.client();
    let fast = client.create_pair("fast", "rsa-2048");
    site.tpm.signal(Signal::STOP);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = site.client();
            thread::spawn(move || client.post("/keypair", &json!({ "keyId": format!("wrapped{caller}") })))
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    client.rsa(&fast, "RSA-PKCS1", b"m");
    client.load_key("cold");
    site.keyd.write_drop_in("90-reload.toml", "log_level = 'info'\n");
    site.keyd.wait_for_log(Duration::from_secs(10), |line| line.contains("configuration is in force"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(!callers.iter().any(thread::JoinHandle::is_finished));
    site.tpm.signal(Signal::CONT);
    for caller in callers {
        caller.join().unwrap().expect(200);
    }
    site.end().1.holds_nothing_transient();
}

const CALLERS: usize = 16;

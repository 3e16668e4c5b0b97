//! What a TPM or a token that answers nothing does to keys in files: p99 of signing before, and while callers
//! wait for it. Knows the wire, no code of keyd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use suite_tests::harness::{Daemon, KEYD, Setup};
use suite_tests::http::{Client, wait_for};
use suite_tests::keys::{Keys, ecdsa_request};
use suite_tests::p11_kit::RemoteToken;
use suite_tests::swtpm::Swtpm;

use crate::Plan;
use crate::load::{Samples, Style, Summary, Target};
use crate::report::{Report, Stall};

/// The names of the comparisons.
const TPM: &str = "stalled TPM";
const TOKEN: &str = "stalled token";

/// Whether `only` is a part of these names alone.
pub(crate) fn is_meant(only: &str) -> bool {
    only.starts_with("stalled")
}

/// Measures those whose names have the part `only`, and adds them to `report`.
pub(crate) fn compare(plan: &Plan, only: &str, report: &mut Report) -> Result<()> {
    if TPM.contains(only) {
        stalled_tpm(plan, report)?;
    }
    if TOKEN.contains(only) {
        stalled_token(plan, report)?;
    }
    Ok(())
}

fn stalled_tpm(plan: &Plan, report: &mut Report) -> Result<()> {
    let tpm = Swtpm::start();
    let door = tpm.door();
    let tcti = Swtpm::tcti_through(&door);
    let config = format!("max_requests = 64\n[tpm]\ntcti = '{tcti}'\n[preloaded_keys]\nslow = 'tpm:'\n");
    let keyd = Setup::new(&KEYD).config(&config).start();
    measure(plan, TPM, &keyd, report, |stalled| if stalled { door.shut() } else { door.open() })
}

fn stalled_token(plan: &Plan, report: &mut Report) -> Result<()> {
    let token = RemoteToken::new();
    let setup = token.base_slot(Setup::new(&KEYD)).config("max_requests = 64\n");
    let file =
        format!("[preloaded_keys]\nfast = 'file://{}'\n", setup.directory().join("fast.pem").display());
    let keyd = setup.drop_in("30-file.toml", &file).start();
    measure(plan, TOKEN, &keyd, report, |stalled| {
        token.signal(if stalled { Signal::STOP } else { Signal::CONT });
    })
}

/// `fast` is signed with before `stall` makes the place of `slow` hang, and while it hangs and others wait for it; in turns
/// with a keyd of which nothing hangs, because the machine has other work, too.
fn measure(
    plan: &Plan,
    name: &'static str,
    keyd: &Daemon,
    report: &mut Report,
    stall: impl Fn(bool),
) -> Result<()> {
    let other = Setup::new(&KEYD).start();
    let keys = keyd.client();
    let slow = ecdsa_request(&keys.create_pair("slow", "ec-p256"), &INPUT);
    let requests = [keyd, &other].map(|keyd| {
        let pair = keyd.client().create_pair("fast", "ec-p256");
        keyd.client().bytes("POST", "/sign", Some(&ecdsa_request(&pair, &INPUT)))
    });
    let sockets = [keyd, &other].map(|keyd| keyd.setup().socket_path());
    let targets = [0, 1].map(|side| Target { socket: sockets[side], request: &requests[side] });
    let before = in_turns(&targets, plan.stall)?;
    stall(true);
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, slow, over) = (keyd.client(), slow.clone(), Arc::clone(&over));
            thread::spawn(move || ask(&client, &slow, &over))
        })
        .collect();
    thread::sleep(SETTLE);
    let during = in_turns(&targets, plan.stall)?;
    over.store(true, Ordering::Relaxed);
    stall(false);
    let served: usize = callers.into_iter().map(|caller| caller.join().unwrap_or(CALLERS)).sum();
    ensure!(served == 0, "{name}: it has answered");
    report.add_stall(Stall { what: name, seconds: plan.stall.as_secs_f64(), before, during });
    wait_for("the place of the key to be used again", Duration::from_secs(30), || {
        (keys.post("/sign", &slow).status == 200).then_some(())
    });
    Ok(())
}

/// Both targets for half of `time` each.
fn in_turns(targets: &[Target<'_>; 2], time: Duration) -> Result<[Summary; 2]> {
    let mut samples = [Samples::default(), Samples::default()];
    let end = Instant::now() + time;
    while Instant::now() < end {
        for (samples, target) in samples.iter_mut().zip(targets) {
            samples.run(target, Style::Kept, 1, TURN)?;
        }
    }
    Ok(samples.map(Samples::summary))
}

/// Asks for a signature again and again until it is `over`; how often it was given until then.
fn ask(client: &Client, request: &serde_json::Value, over: &AtomicBool) -> usize {
    let mut served = 0;
    while !over.load(Ordering::Relaxed) {
        let status = client.post("/sign", request).status;
        served += usize::from(status == 200 && !over.load(Ordering::Relaxed));
        thread::sleep(Duration::from_millis(100));
    }
    served
}

/// How many wait.
const CALLERS: usize = 8;
/// Until they do.
const SETTLE: Duration = Duration::from_millis(200);
/// Until it is the other's turn.
const TURN: Duration = Duration::from_millis(100);
const INPUT: [u8; 32] = [5; 32];

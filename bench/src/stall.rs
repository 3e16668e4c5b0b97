//! What something that answers nothing does to requests that do not need it: a TPM or a token to keys in files, an EST server
//! to certificates that are there. p99 before, and while callers wait for it. Knows the wire, no code of the daemons.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cloud_sim::{Options, Sim};
use rustix::process::Signal;
use serde_json::{Value, json};
use suite_tests::harness::{CERTD, Daemon, KEYD, Setup};
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
const SERVER: &str = "stalled EST server";

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
    if SERVER.contains(only) {
        stalled_server(plan, report)?;
    }
    Ok(())
}

fn stalled_tpm(plan: &Plan, report: &mut Report) -> Result<()> {
    let tpm = Swtpm::start();
    let door = tpm.door();
    let tcti = Swtpm::tcti_through(&door);
    let config = format!("max_requests = 64\n[tpm]\ntcti = '{tcti}'\n[preloaded_keys]\nslow = 'tpm:'\n");
    let keyd = Setup::new(&KEYD).config(&config).start();
    measure_keys(plan, TPM, &keyd, report, |stalled| if stalled { door.shut() } else { door.open() })
}

fn stalled_token(plan: &Plan, report: &mut Report) -> Result<()> {
    let token = RemoteToken::new();
    let setup = token.base_slot(Setup::new(&KEYD)).config("max_requests = 64\n");
    let file =
        format!("[preloaded_keys]\nfast = 'file://{}'\n", setup.directory().join("fast.pem").display());
    let keyd = setup.drop_in("30-file.toml", &file).start();
    measure_keys(plan, TOKEN, &keyd, report, |stalled| {
        token.signal(if stalled { Signal::STOP } else { Signal::CONT });
    })
}

/// `fast` is signed with before `stall` makes the place of `slow` hang, and while it hangs and others wait for it.
fn measure_keys(
    plan: &Plan,
    name: &'static str,
    keyd: &Daemon,
    report: &mut Report,
    stall: impl Fn(bool),
) -> Result<()> {
    let twin = Setup::new(&KEYD).start();
    let keys = keyd.client();
    let slow = ecdsa_request(&keys.create_pair("slow", "ec-p256"), &INPUT);
    let quick = [keyd, &twin].map(|keyd| {
        let pair = keyd.client().create_pair("fast", "ec-p256");
        keyd.client().bytes("POST", "/sign", Some(&ecdsa_request(&pair, &INPUT)))
    });
    let rivals = Rivals { daemons: [keyd, &twin], quick, path: "/sign", slow: vec![slow.clone(); 8] };
    let (before, during) = measure(plan, name, &rivals, stall)?;
    report.add_stall(Stall {
        what: name,
        quick: "sign, file key",
        seconds: plan.stall.as_secs_f64(),
        before,
        during,
    });
    wait_for("the place of the key to be used again", Duration::from_secs(30), || {
        (keys.post("/sign", &slow).status == 200).then_some(())
    });
    Ok(())
}

/// A certificate is read before an EST server hangs, and while it hangs and enrolments wait for it.
fn stalled_server(plan: &Plan, report: &mut Report) -> Result<()> {
    let cloud = Sim::start(Options { est: Some(0), ..Options::default() })?;
    let keyd = Setup::new(&KEYD).start();
    let config = format!(
        "max_requests = 64\n[cert_issuance.slow]\nmethod = 'est'\n[cert_issuance.own]\nmethod = 'self_signed'\n\
         [cert_issuance.est]\ntrusted_certs = ['cloud-ca']\nusername = 'device'\npassword = 'secret'\n\
         [cert_issuance.est.urls]\ndefault = '{}'\n[preloaded_certs]\ncloud-ca = 'file://{}'\n",
        cloud.ready().est.as_deref().unwrap_or_default(),
        cloud.ready().ca.display()
    );
    let certd = || Setup::new(&CERTD).config(&config).reach(&KEYD, keyd.setup().socket_path()).start();
    let daemons = [certd(), certd()];
    let label = json!({ "authentication": "basic" });
    cloud.admin("PUT", "/est/labels/default", &label);
    // Who asks for the same shares an answer.
    let slow = (0..20).map(|_| Ok(json!({ "certId": "slow", "csr": csr()? }))).collect::<Result<Vec<_>>>()?;
    daemons[0].client().post("/certificates", &slow[0]).expect(201);
    let quick = daemons.each_ref().map(|certd| certd.client().bytes("GET", "/certificates/cloud-ca", None));
    let rivals = Rivals { daemons: daemons.each_ref(), quick, path: "/certificates", slow };
    let (before, during) = measure(plan, SERVER, &rivals, |stalled| {
        let hang = json!({ "match": { "operation": "est.cacerts" }, "action": { "stall": true } });
        let _ = match stalled {
            true => cloud.admin("POST", "/faults", &hang),
            false => cloud.admin("DELETE", "/faults", &json!(null)),
        };
    })?;
    report.add_stall(Stall {
        what: SERVER,
        quick: "GET certificate",
        seconds: plan.stall.as_secs_f64(),
        before,
        during,
    });
    Ok(())
}

/// Two daemons of a kind, of which the first is about to wait for something that hangs.
struct Rivals<'d> {
    daemons: [&'d Daemon; 2],
    /// What must stay quick, for each.
    quick: [Vec<u8>; 2],
    /// Where to ask for what hangs.
    path: &'static str,
    /// The body of each caller who does, all at a time.
    slow: Vec<Value>,
}

/// Before `stall(true)` and after it, with callers that wait. In turns with the other daemon, of which nothing hangs, because
/// the machine has other work, too.
fn measure(
    plan: &Plan,
    name: &'static str,
    rivals: &Rivals<'_>,
    stall: impl Fn(bool),
) -> Result<([Summary; 2], [Summary; 2])> {
    let Rivals { daemons, quick, path, slow } = rivals;
    let targets =
        [0, 1].map(|side| Target { socket: daemons[side].setup().socket_path(), request: &quick[side] });
    let before = in_turns(&targets, plan.stall)?;
    stall(true);
    let over = Arc::new(AtomicBool::new(false));
    let waiting: Vec<_> = slow
        .iter()
        .map(|slow| {
            let (client, slow, over, path) = (daemons[0].client(), slow.clone(), Arc::clone(&over), *path);
            thread::spawn(move || ask(&client, path, &slow, &over))
        })
        .collect();
    thread::sleep(SETTLE);
    let during = in_turns(&targets, plan.stall)?;
    over.store(true, Ordering::Relaxed);
    stall(false);
    let served: usize = waiting.into_iter().map(|caller| caller.join().unwrap_or(usize::MAX)).sum();
    ensure!(served == 0, "{name}: it has answered");
    Ok((before, during))
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

/// A request for a certificate, for a key that nobody keeps.
fn csr() -> Result<String> {
    let made = Command::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-keyout", "/dev/null", "-subj", "/CN=bench"])
        .output()?;
    ensure!(made.status.success(), "openssl req: {}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?)
}

/// Asks again and again until it is `over`; how often there was a success until then.
fn ask(client: &Client, path: &str, request: &Value, over: &AtomicBool) -> usize {
    let mut served = 0;
    while !over.load(Ordering::Relaxed) {
        let status = client.post(path, request).status;
        served += usize::from((200..300).contains(&status) && !over.load(Ordering::Relaxed));
        thread::sleep(Duration::from_millis(100));
    }
    served
}

/// Until they do.
const SETTLE: Duration = Duration::from_millis(200);
/// Until it is the other's turn.
const TURN: Duration = Duration::from_millis(100);
const INPUT: [u8; 32] = [5; 32];

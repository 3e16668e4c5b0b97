//! Signing with a key on a token: keyd beside the same call in process, with a session and an object handle that are kept.
//! The process is this program again, because SoftHSM2 takes its configuration from the environment. Knows the wire, no
//! code of keyd.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use suite_tests::harness::{KEYD, Setup};
use suite_tests::keys::{Keys, ecdsa_request, rsa_request};
use suite_tests::softhsm::{LABEL, PIN, SoftHsm};

use crate::Plan;
use crate::load::{Samples, Style, Target};
use crate::report::Report;

/// What is compared.
struct Operation {
    name: &'static str,
    key: &'static str,
    algorithms: &'static str,
}

/// The operations; the label of a key tells [`in_process`] which one is meant.
const OPERATIONS: [Operation; 2] = [
    Operation { name: "token: ECDSA P-256", key: "ec", algorithms: "ec-p256" },
    Operation { name: "token: RSA-2048 PKCS #1", key: "rsa", algorithms: "rsa-2048" },
];

/// Whether `only` is a part of these names alone.
pub(crate) fn is_meant(only: &str) -> bool {
    only.starts_with("token")
}

/// Measures keyd and the floor in turns, and adds them to `report`, as far as their names have the part `only`.
pub(crate) fn compare(plan: &Plan, only: &str, report: &mut Report) -> Result<()> {
    let wanted: Vec<_> = OPERATIONS.iter().filter(|operation| operation.name.contains(only)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let token = SoftHsm::new();
    let keyd = token.base_slot(Setup::new(&KEYD)).start();
    let keys = keyd.client();
    for operation in wanted {
        let pair = keys.create_pair(operation.key, operation.algorithms);
        let (path, body) = match operation.key {
            "ec" => ("/sign", ecdsa_request(&pair, &INPUT)),
            _ => ("/encrypt", rsa_request(&pair, "RSA-PKCS1", &INPUT)),
        };
        let request = keys.bytes("POST", path, Some(&body));
        let target = Target { socket: keyd.setup().socket_path(), request: &request };
        let (mut of_ours, mut of_floor) = (Samples::default(), Samples::default());
        of_ours.warm_up(&target, Style::Kept, 1)?;
        for _ in 0..plan.rounds {
            of_floor.add(&floor(&token, operation.key, plan.run)?, plan.run);
            of_ours.run(&target, Style::Kept, 1, plan.run)?;
        }
        report.add_token(operation.name, of_ours.summary(), of_floor.summary());
    }
    Ok(())
}

/// Runs the floor in a process of its own; nanoseconds of each call.
fn floor(token: &SoftHsm, key: &str, time: Duration) -> Result<Vec<u64>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["in-process", key, &time.as_millis().to_string()]);
    let output = command.env("SOFTHSM2_CONF", token.config()).output()?;
    ensure!(output.status.success(), "the floor failed: {}", String::from_utf8_lossy(&output.stderr));
    let nanos = String::from_utf8(output.stdout)?;
    nanos.lines().map(|line| line.parse().context("a number of nanoseconds")).collect()
}

/// The floor: signs with the key `label` for `milliseconds` and prints how long each call took.
pub(crate) fn in_process(label: &str, milliseconds: &str) -> Result<()> {
    let library = Pkcs11::new(SoftHsm::library())?;
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slots = library.get_slots_with_initialized_token()?;
    let slot = slots.first().with_context(|| format!("no token {LABEL}"))?;
    let session = library.open_rw_session(*slot)?;
    session.login(UserType::User, Some(&AuthPin::new(PIN.into())))?;
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.into())];
    let key = *session.find_objects(&template)?.first().context("no such key")?;
    let mechanism = if label == "ec" { Mechanism::Ecdsa } else { Mechanism::RsaPkcs };
    let end = Instant::now() + Duration::from_millis(milliseconds.parse()?);
    let mut nanos = Vec::with_capacity(1 << 16);
    while Instant::now() < end {
        let begun = Instant::now();
        session.sign(&mechanism, key, &INPUT)?;
        nanos.push(begun.elapsed().as_nanos());
    }
    let lines: Vec<String> = nanos.iter().map(u128::to_string).collect();
    println!("{}", lines.join("\n"));
    Ok(())
}

const INPUT: [u8; 32] = [5; 32];

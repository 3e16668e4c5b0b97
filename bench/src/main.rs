//! `make bench`: rates and latencies of the daemons beside floors measured in the same run, and what they cost when
//! idle. Prints a table and writes JSON. Knows the wire, no code of the daemons.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use cloud_sim::{Options, Sim};
use serde_json::json;
use suite_tests::harness::{CERTD, Daemon, IDENTITYD, KEYD, Setup};
use suite_tests::http::{unbase64, wait_for};
use suite_tests::keys::{Keys, ecdsa_request, hmac_request, seal_request};

mod floor;
mod idle;
mod load;
mod process;
mod report;
mod stall;
mod token;

use floor::Floor;
use load::{Samples, Style, Target};
use report::{Measured, Report};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["floor", name, socket] => {
            Floor::of_name(name).and_then(|floor| floor::serve(floor, Path::new(socket)))
        }
        ["in-process", key, milliseconds] => token::in_process(key, milliseconds),
        [] => run(&Plan::full(), ""),
        ["--quick"] => run(&Plan::quick(), ""),
        ["--quick", only] => run(&Plan::quick(), only),
        [only] if !only.starts_with('-') => run(&Plan::full(), only),
        _ => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The one request that identityd answers here.
const IDENTITY: &str = "GET /identities/identity";

const USAGE: &str = "\
usage: suite-bench [--quick] [PART-OF-A-NAME]

Measures the requests whose name has the part in it; without one, all of them and what the daemons cost, and writes
bench-results/bench.json. Measure release builds.";

/// How long things are measured.
struct Plan {
    /// Time of one run; a point is the sum of [`rounds`](Self::rounds) runs.
    run: Duration,
    rounds: usize,
    idle: Duration,
    /// How long a TPM or a token answers nothing.
    stall: Duration,
}

impl Plan {
    fn full() -> Self {
        Self {
            run: Duration::from_millis(700),
            rounds: 4,
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(10),
        }
    }

    fn quick() -> Self {
        Self {
            run: Duration::from_millis(200),
            rounds: 2,
            idle: Duration::from_secs(5),
            stall: Duration::from_secs(2),
        }
    }
}

/// One request and the floors it is compared with.
struct Case {
    name: &'static str,
    socket: PathBuf,
    request: Vec<u8>,
    floor: Floor,
}

fn run(plan: &Plan, only: &str) -> Result<()> {
    let mut report = Report::default();
    token::compare(plan, only, &mut report)?;
    stall::compare(plan, only, &mut report)?;
    if token::is_meant(only) || stall::is_meant(only) {
        return Ok(());
    }
    let keyd = Setup::new(&KEYD).config("max_requests = 64\n").start();
    let certd = start_certd(&keyd);
    let mut cases = cases_of_keyd(&keyd);
    let cloud = Sim::start(Options::default())?;
    let identityd = IDENTITY.contains(only).then(|| start_identityd(&keyd, &cloud)).transpose()?;
    cases.extend(identityd.as_ref().map(case_of_identityd));
    let directory = tempfile::tempdir()?;
    let floors: Vec<FloorServer> = Floor::ALL
        .into_iter()
        .map(|floor| FloorServer::start(floor, directory.path()))
        .collect::<Result<_>>()?;
    for case in cases.iter().filter(|case| case.name.contains(only)) {
        let floor = floors.iter().find(|server| server.floor == case.floor).context("a floor is missing")?;
        let echo = floors.iter().find(|server| server.floor == Floor::Echo).context("no echo floor")?;
        for style in [Style::Kept, Style::New] {
            for connections in [1, 8] {
                report.add(measure(plan, case, floor, echo, style, connections)?);
            }
        }
    }
    drop(floors);
    let (Some(identityd), true) = (&identityd, only.is_empty()) else { return Ok(()) };
    let daemons = [("aziot-keyd", &keyd), ("aziot-certd", &certd), ("aziot-identityd", identityd)];
    report.costs = idle::costs(&daemons, plan.idle)?;
    report.neighbours = neighbours(plan, &keyd)?;
    report.print();
    report.write(Path::new("bench-results/bench.json"))
}

/// identityd, provisioned by DPS, with a module.
fn start_identityd(keyd: &Daemon, cloud: &Sim) -> Result<Daemon> {
    let ready = cloud.ready();
    let attestation = json!({ "attestation": { "type": "symmetricKey" } });
    let (status, enrolled) = cloud.admin("PUT", "/enrollments/bench", &attestation);
    let key = enrolled["attestation"]["symmetricKey"]["primaryKey"].as_str();
    let key = unbase64(key.with_context(|| format!("the simulator answered {status}: {enrolled}"))?);
    keyd.client().import_key("device-id", "sign", &key);
    let config = format!(
        "hostname = 'bench'\nmax_requests = 64\n[provisioning]\nsource = 'dps'\nglobal_endpoint = '{}'\n\
         scope_id = '{}'\n[provisioning.attestation]\nmethod = 'symmetric_key'\nregistration_id = 'bench'\n\
         symmetric_key = 'device-id'\n[[principal]]\nuid = 64000\nname = 'bench-module'\nidtype = ['module']\n",
        ready.dps, ready.scope
    );
    let identityd = Setup::new(&IDENTITYD)
        .config(&config)
        .reach(&KEYD, keyd.setup().socket_path())
        .env("SSL_CERT_FILE", ready.ca.as_os_str())
        .start();
    // Held until the device is provisioned.
    identityd.client().get("/identities/identity").expect(200);
    wait_for("the module", Duration::from_secs(30), || {
        (identityd.client().get("/identities/modules/bench-module?type=aziot").status == 200).then_some(())
    });
    Ok(identityd)
}

/// certd with an authority of its own.
fn start_certd(keyd: &Daemon) -> Daemon {
    let config = "[cert_issuance.bench]\nmethod = 'self_signed'\n";
    let certd = Setup::new(&CERTD).config(config).reach(&KEYD, keyd.setup().socket_path()).start();
    certd.client().get("/certificates/none").expect(400);
    certd
}

fn cases_of_keyd(keyd: &Daemon) -> Vec<Case> {
    let keys = keyd.client();
    let pair = keys.create_pair("bench-pair", "ec-p256");
    let key = keys.create_key("bench-key", "sign");
    let keyd_socket = keyd.setup().socket_path();
    let of_keyd = |name, method: &str, path: &str, body: Option<&serde_json::Value>, floor| Case {
        name,
        socket: keyd_socket.to_owned(),
        request: keys.bytes(method, path, body),
        floor,
    };
    vec![
        of_keyd("sign ECDSA P-256", "POST", "/sign", Some(&ecdsa_request(&pair, &[5; 32])), Floor::Ecdsa),
        of_keyd("sign HMAC-SHA256", "POST", "/sign", Some(&hmac_request(&key, &[5; 64])), Floor::Hmac),
        of_keyd(
            "encrypt AEAD",
            "POST",
            "/encrypt",
            Some(&seal_request(&key, &[1; 12], b"aad", &[5; 64])),
            Floor::Aead,
        ),
        of_keyd("GET key", "GET", "/key/bench-key", None, Floor::Echo),
    ]
}

fn case_of_identityd(identityd: &Daemon) -> Case {
    Case {
        name: IDENTITY,
        socket: identityd.setup().socket_path().to_owned(),
        request: identityd.client().bytes("GET", "/identities/identity", None),
        floor: Floor::Echo,
    }
}

/// Measures a case and its floors in turns, so that whatever disturbs the machine disturbs all of them.
fn measure(
    plan: &Plan,
    case: &Case,
    floor: &FloorServer,
    echo: &FloorServer,
    style: Style,
    connections: usize,
) -> Result<Measured> {
    let ours = Target { socket: &case.socket, request: &case.request };
    let bare = json_request(br#"{"padding":"0123456789012345678901234567890123456789"}"#);
    let request = if case.floor == Floor::Echo { &bare } else { &case.request };
    let floor_target = Target { socket: &floor.socket, request };
    let echo_target = Target { socket: &echo.socket, request: &bare };
    let (mut of_ours, mut of_floor, mut of_echo) =
        (Samples::default(), Samples::default(), Samples::default());
    of_ours.warm_up(&ours, style, connections)?;
    for _ in 0..plan.rounds {
        of_echo.run(&echo_target, style, connections, plan.run)?;
        of_floor.run(&floor_target, style, connections, plan.run)?;
        of_ours.run(&ours, style, connections, plan.run)?;
    }
    Ok(Measured {
        case: case.name,
        connections,
        kept: style == Style::Kept,
        floor: case.floor.name(),
        of_ours: of_ours.summary(),
        of_floor: of_floor.summary(),
        of_echo: of_echo.summary(),
    })
}

/// What a caller who makes RSA-4096 keys in a loop does to the others: p99 of signing without and with it.
fn neighbours(plan: &Plan, keyd: &Daemon) -> Result<serde_json::Value> {
    let keys = keyd.client();
    let pair = keys.create_pair("bench-pair", "ec-p256");
    let request = keys.bytes("POST", "/sign", Some(&ecdsa_request(&pair, &[5; 32])));
    let target = Target { socket: keyd.setup().socket_path(), request: &request };
    let time = plan.run * u32::try_from(plan.rounds)?;
    let mut alone = Samples::default();
    alone.run(&target, Style::Kept, 1, time)?;
    let mut beside = Samples::default();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                keyd.client().create_pair(&format!("bench-rsa-{number}"), "rsa-4096");
            }
        });
        let ran = beside.run(&target, Style::Kept, 1, time);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        ran
    })?;
    let (alone, beside) = (alone.summary(), beside.summary());
    Ok(
        json!({ "sign alone": alone, "sign beside an RSA-4096 loop": beside, "p99 ratio": beside.p99 / alone.p99 }),
    )
}

fn json_request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A floor in a process of its own; killed when dropped.
struct FloorServer {
    floor: Floor,
    socket: PathBuf,
    process: Child,
}

impl FloorServer {
    fn start(floor: Floor, directory: &Path) -> Result<Self> {
        let socket = directory.join(format!("{}.sock", floor.name()));
        let process = Command::new(std::env::current_exe()?)
            .args(["floor", floor.name()])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()?;
        let server = Self { floor, socket, process };
        process::wait_for_socket(&server.socket)?;
        Ok(server)
    }
}

impl Drop for FloorServer {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

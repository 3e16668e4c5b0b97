//! What daemons cost without work: memory, CPU, wake-ups, size, time to start. Knows no endpoint.

use std::time::{Duration, Instant};

use anyhow::Result;
use suite_tests::harness::{Daemon, KEYD, Setup};
use suite_tests::subject;

use crate::process::{cpu_time, pss_kib, wake_ups};

/// The cost of one daemon.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Cost {
    /// Name of the executable.
    pub(crate) name: String,
    /// Proportional set size after the idle time.
    pub(crate) pss_kib: u64,
    /// CPU time used in the idle time.
    pub(crate) cpu_us: u128,
    /// Times its threads were woken in the idle time.
    pub(crate) wake_ups: u64,
    /// Size of the executable.
    pub(crate) binary_kib: u64,
    /// From exec to the first reply, median; only keyd starts without others.
    pub(crate) start_ms: Option<f64>,
}

/// Lets the daemons rest, first until their idle connections are closed, then for `time`, and tells what they cost.
pub(crate) fn costs(daemons: &[(&str, &Daemon)], time: Duration) -> Result<Vec<Cost>> {
    std::thread::sleep(time.min(IDLE_CONNECTIONS));
    let mut before = Vec::new();
    for (_, daemon) in daemons {
        before.push((cpu_time(daemon.pid())?, wake_ups(daemon.pid())?));
    }
    std::thread::sleep(time);
    let mut costs = Vec::new();
    for ((name, daemon), (cpu, woken)) in daemons.iter().zip(before) {
        costs.push(Cost {
            name: (*name).to_owned(),
            pss_kib: pss_kib(daemon.pid())?,
            cpu_us: (cpu_time(daemon.pid())? - cpu).as_micros(),
            wake_ups: wake_ups(daemon.pid())? - woken,
            binary_kib: std::fs::metadata(subject::program(name))?.len() / 1024,
            start_ms: (*name == KEYD.program).then(start_time),
        });
    }
    Ok(costs)
}

/// Milliseconds from exec to the first reply, the median of some starts.
fn start_time() -> f64 {
    let mut times: Vec<f64> = (0..STARTS)
        .map(|_| {
            let setup = Setup::new(&KEYD);
            let begun = Instant::now();
            let mut daemon = setup.start_unwatched();
            let connected = loop {
                match daemon.client().try_connect() {
                    Ok(connection) => break connection,
                    Err(_) => std::thread::sleep(Duration::from_micros(100)),
                }
            };
            let mut connected = connected;
            connected.send("GET /key/none HTTP/1.1\r\n\r\n");
            connected.reply();
            let time = begun.elapsed();
            daemon.kill();
            time.as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[STARTS / 2]
}

/// After so long no connection between the daemons is left.
const IDLE_CONNECTIONS: Duration = Duration::from_secs(65);
const STARTS: usize = 11;

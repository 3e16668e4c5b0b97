//! The figures as a table and as JSON. Measures nothing.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::idle::Cost;
use crate::load::Summary;

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    points: Vec<Measured>,
    tokens: Vec<OnToken>,
    stalls: Vec<Stall>,
    /// What the daemons cost when idle.
    pub(crate) costs: Vec<Cost>,
    /// What one heavy caller does to the others.
    pub(crate) neighbours: serde_json::Value,
}

/// A case beside its floors.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// The request.
    pub(crate) case: &'static str,
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Whether they were kept.
    pub(crate) kept: bool,
    /// Which floor it is compared with.
    pub(crate) floor: &'static str,
    /// The daemon.
    pub(crate) of_ours: Summary,
    /// The floor.
    pub(crate) of_floor: Summary,
    /// The bare echo.
    pub(crate) of_echo: Summary,
}

/// An operation with a key on a token, beside the same in process.
#[derive(Debug, Serialize)]
struct OnToken {
    operation: &'static str,
    of_ours: Summary,
    in_process: Summary,
}

/// A request that does not need what stops answering, before and while it does not: of the daemon whose other callers wait,
/// and of one without, at the same time.
#[derive(Debug, Serialize)]
pub(crate) struct Stall {
    /// What does not answer.
    pub(crate) what: &'static str,
    /// The request.
    pub(crate) quick: &'static str,
    /// For how long.
    pub(crate) seconds: f64,
    /// This daemon and the other one.
    pub(crate) before: [Summary; 2],
    /// This daemon and the other one.
    pub(crate) during: [Summary; 2],
}

impl Report {
    /// Adds and prints what was measured with a key on a token.
    pub(crate) fn add_token(&mut self, operation: &'static str, of_ours: Summary, in_process: Summary) {
        println!(
            "{operation:<25} {:>8.1} us p50 | in process {:>8.1} us p50 | p50 x {:>5.2}",
            of_ours.p50,
            in_process.p50,
            of_ours.p50 / in_process.p50
        );
        self.tokens.push(OnToken { operation, of_ours, in_process });
    }

    /// Adds and prints what a stall did to a key in a file.
    pub(crate) fn add_stall(&mut self, stall: Stall) {
        let Stall { what, quick, seconds, before: [before, _], during: [during, other] } = &stall;
        println!(
            "{what:<18} {quick:<15}: {:>7.1} us p99 before | {:>7.1} us p99 in {seconds} s of it | x {:>5.2} | {:>7.1} us p99 in \
             another daemon meanwhile | x {:>5.2}",
            before.p99,
            during.p99,
            during.p99 / before.p99,
            other.p99,
            during.p99 / other.p99,
        );
        self.stalls.push(stall);
    }

    /// Adds a point and prints it, so that a long run shows that it lives.
    pub(crate) fn add(&mut self, point: Measured) {
        if self.points.is_empty() {
            println!("latencies in microseconds, rates in requests a second; x = this daemon / its floor\n");
            println!(
                "{:<25} {:>5} {:>5} | {:>8} {:>8} {:>8} {:>8} | {:>10} {:>8} {:>8} | {:>8} | {:>6} {:>6}",
                "request",
                "conns",
                "style",
                "rate",
                "p50",
                "p90",
                "p99",
                "floor",
                "rate",
                "p50",
                "echo p50",
                "p50 x",
                "rate x"
            );
        }
        let (ours, floor) = (point.of_ours, point.of_floor);
        println!(
            "{:<25} {:>5} {:>5} | {:>8.0} {:>8.1} {:>8.1} {:>8.1} | {:>10} {:>8.0} {:>8.1} | {:>8.1} | {:>6.2} {:>6.2}",
            point.case,
            point.connections,
            if point.kept { "kept" } else { "new" },
            ours.rate,
            ours.p50,
            ours.p90,
            ours.p99,
            point.floor,
            floor.rate,
            floor.p50,
            point.of_echo.p50,
            ours.p50 / floor.p50,
            ours.rate / floor.rate,
        );
        self.points.push(point);
    }

    /// Prints what is not printed yet.
    pub(crate) fn print(&self) {
        println!(
            "\n{:<18} {:>8} {:>12} {:>9} {:>11} {:>9}",
            "idle", "PSS KiB", "CPU us", "wake-ups", "binary KiB", "start ms"
        );
        for cost in &self.costs {
            let start = cost.start_ms.map_or("-".to_owned(), |start| format!("{start:.1}"));
            println!(
                "{:<18} {:>8} {:>12} {:>9} {:>11} {:>9}",
                cost.name, cost.pss_kib, cost.cpu_us, cost.wake_ups, cost.binary_kib, start
            );
        }
        println!("\nneighbours: {:#}", self.neighbours);
    }

    /// Writes all of it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        println!("\nwritten: {}", path.display());
        Ok(())
    }
}

//! What a running process costs, read from /proc. Knows no service.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Proportional set size in KiB: its own memory and its share of what it shares.
pub(crate) fn pss_kib(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no Pss line")?;
    Ok(line.split_whitespace().nth(1).context("no Pss value")?.parse()?)
}

/// CPU time used so far by all its threads.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    sum_of_threads(pid, "schedstat", |text| text.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
}

/// How often its threads went to sleep by themselves, which is how often they were woken.
pub(crate) fn wake_ups(pid: u32) -> Result<u64> {
    sum_of_threads(pid, "status", |text| {
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    })
}

fn sum_of_threads(pid: u32, file: &str, value: impl Fn(&str) -> Option<u64>) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join(file))?;
        sum += value(&text).context("an unreadable file in /proc")?;
    }
    Ok(sum)
}

/// Waits until something accepts connections at `socket`.
pub(crate) fn wait_for_socket(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        anyhow::ensure!(Instant::now() < deadline, "nothing listens at {}", socket.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

//! Loads a socket with one request again and again and notes how long each reply takes. Knows no service.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How the connections of a run are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One connection for all requests.
    Kept,
    /// A new connection for each request.
    New,
}

/// What is sent, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Target<'t> {
    /// The socket.
    pub(crate) socket: &'t Path,
    /// Head and body of the request.
    pub(crate) request: &'t [u8],
}

/// Latencies of some runs.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    nanos: Vec<u64>,
    busy: Duration,
}

/// A summary of [`Samples`]; latencies in microseconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Summary {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Half of the replies came faster.
    pub(crate) p50: f64,
    /// One of ten was slower.
    pub(crate) p90: f64,
    /// One of a hundred was slower.
    pub(crate) p99: f64,
}

impl Samples {
    /// Adds a run of `time` over `connections` at once.
    pub(crate) fn run(
        &mut self,
        target: &Target<'_>,
        style: Style,
        connections: usize,
        time: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        let end = begun + time;
        let runs: Vec<Result<Vec<u64>>> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..connections).map(|_| scope.spawn(move || one_connection(target, style, end))).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
        });
        self.busy += begun.elapsed();
        for run in runs {
            self.nanos.extend(run?);
        }
        Ok(())
    }

    /// Adds what was measured elsewhere in a run of `time`.
    pub(crate) fn add(&mut self, nanos: &[u64], time: Duration) {
        self.busy += time;
        self.nanos.extend(nanos);
    }

    /// Runs for a moment without noting anything.
    pub(crate) fn warm_up(&self, target: &Target<'_>, style: Style, connections: usize) -> Result<()> {
        Self::default().run(target, style, connections, WARM_UP)
    }

    /// The summary of all runs.
    pub(crate) fn summary(mut self) -> Summary {
        self.nanos.sort_unstable();
        let count = self.nanos.len();
        let at = |part: f64| {
            let index = (part * count as f64) as usize;
            self.nanos.get(index.min(count.saturating_sub(1))).map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
        };
        Summary { rate: count as f64 / self.busy.as_secs_f64(), p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

fn one_connection(target: &Target<'_>, style: Style, end: Instant) -> Result<Vec<u64>> {
    let mut nanos = Vec::with_capacity(1 << 16);
    let mut buffer = vec![0; 1 << 16];
    let mut kept = UnixStream::connect(target.socket)?;
    while Instant::now() < end {
        let begun = Instant::now();
        if style == Style::New {
            kept = UnixStream::connect(target.socket)?;
        }
        exchange(&mut kept, target.request, &mut buffer)?;
        nanos.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(nanos)
}

/// Sends a request and reads its reply, which has to be a success.
fn exchange(stream: &mut UnixStream, request: &[u8], buffer: &mut [u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            bail!("the connection ended in the middle of a reply");
        }
        filled += count;
        if is_complete(&buffer[..filled])? {
            return Ok(());
        }
    }
}

fn is_complete(reply: &[u8]) -> Result<bool> {
    let text = std::str::from_utf8(reply)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("not a success: {text}");
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.context("a reply without content-length")?.parse()?;
    Ok(body.len() >= length)
}

/// Long enough to fill caches.
const WARM_UP: Duration = Duration::from_millis(100);

//! How many steps are taken at a time, and when none is begun because the hub throttles. Pure; knows no steps.

use std::time::Duration;

/// The pace of one run over many modules.
#[derive(Debug)]
pub(super) struct Pace {
    at_once: usize,
    refusals: u32,
    wave: Wave,
}

/// Steps that were begun between two refusals. What they meet is one trouble, not many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wave(u32);

impl Pace {
    /// As fast as may be.
    pub(super) fn new() -> Self {
        Self { at_once: AT_ONCE, refusals: 0, wave: Wave(0) }
    }

    /// How many steps may be under way.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// What a step that is begun now belongs to.
    pub(super) fn wave(&self) -> Wave {
        self.wave
    }

    /// A step was done: the hub takes changes.
    pub(super) fn done(&mut self) {
        self.refusals = 0;
    }

    /// A step of `wave` was throttled, and `asked` to wait. How long no step is begun before it may be tried again; then half
    /// as many are taken at a time. `None` if the hub wants so long, or so often, that this is another run's matter.
    pub(super) fn throttled(&mut self, wave: Wave, asked: Option<Duration>, random: f64) -> Option<Duration> {
        if wave < self.wave {
            return Some(Duration::ZERO);
        }
        let asked = asked.unwrap_or(UNASKED).max(SHORTEST);
        if asked > LONGEST || self.refusals >= REFUSALS {
            return None;
        }
        self.refusals += 1;
        self.wave.0 += 1;
        self.at_once = (self.at_once / 2).max(1);
        Some(asked + SHORTEST.mul_f64(random))
    }
}

/// As many connections are kept open while they are in use (`http_common::https`).
const AT_ONCE: usize = 8;
/// In a row, without a step that was done.
const REFUSALS: u32 = 4;
const SHORTEST: Duration = Duration::from_secs(1);
/// The pause after 429 without `Retry-After`.
const UNASKED: Duration = Duration::from_secs(60);
/// What is waited for within one run, which others may be waiting for.
const LONGEST: Duration = Duration::from_secs(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_throttles_gets_time_and_half_as_many() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        let mut pace = Pace::new();
        let first = pace.wave();
        assert_eq!(pace.throttled(first, secs(7), 0.0), secs(7));
        assert_eq!(pace.at_once(), 4);
        assert_eq!(pace.throttled(first, secs(7), 0.0), secs(0), "the same trouble");
        assert_eq!(pace.at_once(), 4);
        assert_eq!(pace.throttled(pace.wave(), None, 0.0), secs(60));
        assert_eq!(pace.throttled(pace.wave(), secs(0), 0.0), secs(1));
        assert_eq!(pace.throttled(pace.wave(), secs(1), 1.0), secs(2));
        assert_eq!(pace.at_once(), 1);
        assert_eq!(pace.throttled(pace.wave(), secs(1), 0.0), None, "often enough");
        pace.done();
        assert_eq!(pace.throttled(pace.wave(), secs(1), 0.0), secs(1), "something was done meanwhile");
        assert_eq!(pace.throttled(pace.wave(), secs(151), 0.0), None, "another run's matter");
    }
}

//! How long to wait between attempts that may be in vain. Does not know what is attempted, and reads no clock.

use std::time::{Duration, Instant};

use super::fault::Fault;

/// Attempts since the last success.
#[derive(Default)]
pub(super) struct BackOff {
    attempts: u32,
    not_before: Option<Instant>,
}

impl BackOff {
    /// Notes an attempt at `now`, or says how long to wait. After a success a new value takes the place of this one.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), Fault> {
        if let Some(wait) = self.not_before.and_then(|time| time.checked_duration_since(now)) {
            return Err(Fault::BackingOff(wait));
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_WAIT);
        self.attempts += 1;
        self.not_before = Some(now + wait);
        Ok(())
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let mut back_off = BackOff::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..10 {
            back_off.begin(now).unwrap();
            let Err(Fault::BackingOff(wait)) = back_off.begin(now) else { panic!("no wait") };
            waits.push(wait.as_millis());
            now += wait + Duration::from_millis(1);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 4000, 4000, 4000, 4000]);
    }
}

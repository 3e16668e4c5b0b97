//! How long to wait between attempts that may be in vain. Does not know what is attempted, and reads no clock.

use std::time::{Duration, Instant};

use super::fault::Fault;

/// Attempts since the last success.
#[derive(Default)]
pub(super) struct BackOff {
    since: Option<Instant>,
    not_before: Option<Instant>,
}

impl BackOff {
    /// Notes an attempt at `now`, or says how long to wait. After a success a new value takes the place of this one.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), Fault> {
        if let Some(wait) = self.not_before.and_then(|time| time.checked_duration_since(now)) {
            return Err(Fault::BackingOff(wait));
        }
        let since = *self.since.get_or_insert(now);
        let wait = (now.saturating_duration_since(since) / 4).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        self.not_before = Some(now + wait);
        Ok(())
    }
}

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let mut back_off = BackOff::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..30 {
            back_off.begin(now).unwrap();
            let Err(Fault::BackingOff(wait)) = back_off.begin(now) else { panic!("no wait") };
            waits.push(wait.as_millis());
            now += wait + Duration::from_millis(1);
        }
        assert_eq!(waits[..4], [100; 4], "what is over soon is noticed soon");
        assert!(waits.is_sorted() && waits[28..] == [4000; 2], "{waits:?}");
    }
}

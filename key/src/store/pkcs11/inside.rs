//! Who is in a library at a time, and whether they still come out of it. Knows no library, and reads no clock.

use std::time::{Duration, Instant};

/// The calls that are in a library.
#[derive(Default)]
pub(super) struct Inside {
    visits: Vec<Visit>,
    number: u64,
    last_return: Option<Instant>,
}

struct Visit {
    number: u64,
    since: Instant,
    limit: Duration,
}

impl Inside {
    /// A call comes in at `now`, and should be out after `limit`. Tells its number.
    pub(super) fn enter(&mut self, now: Instant, limit: Duration) -> u64 {
        self.number += 1;
        self.visits.push(Visit { number: self.number, since: now, limit });
        self.number
    }

    /// The call `number` is out.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        self.visits.retain(|visit| visit.number != number);
        self.last_return = Some(now);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.visits.is_empty()
    }

    /// How long the oldest call has been in there.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        self.visits.iter().map(|visit| now.saturating_duration_since(visit.since)).max()
    }

    /// For how long nobody has come out, if a call should have.
    pub(super) fn stuck(&self, now: Instant) -> Option<Duration> {
        // Those before whom others have come out may just be slow.
        let is_stuck = |visit: &&Visit| {
            now > visit.since + visit.limit && self.last_return.is_none_or(|last| last < visit.since)
        };
        let since = self.visits.iter().filter(is_stuck).map(|visit| visit.since).min()?;
        Some(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stuck_when_a_call_is_overdue_and_none_has_come_out_since() {
        let second = Duration::from_secs(1);
        let (mut inside, now) = (Inside::default(), Instant::now());
        assert!(inside.is_empty() && inside.stuck(now).is_none() && inside.oldest(now).is_none());
        let long = inside.enter(now, 20 * second);
        assert_eq!(inside.stuck(now + 20 * second), None);
        assert_eq!(inside.stuck(now + 21 * second), Some(21 * second));
        let short = inside.enter(now + 5 * second, second);
        assert_eq!(inside.stuck(now + 7 * second), Some(2 * second));
        assert_eq!(inside.oldest(now + 7 * second), Some(7 * second));
        inside.leave(short, now + 8 * second);
        assert_eq!(inside.stuck(now + 30 * second), None, "others come out");
        inside.enter(now + 31 * second, second);
        assert_eq!(inside.stuck(now + 40 * second), Some(9 * second), "nobody comes out any more");
        inside.leave(3, now + 41 * second);
        inside.leave(long, now + 41 * second);
        assert!(inside.is_empty() && inside.stuck(now + 60 * second).is_none());
    }
}
